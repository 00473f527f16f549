"""The one place where Ray is imported, and a cluster started or joined."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from dreamy_lens.errors import ClusterError, SettingsError

# For a cluster that is started here; what the user has set stays. The second is what newer versions of Ray do anyway,
# said to keep them from announcing it.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        ray: Module `ray`.
        workers: Number of workers to start.
        cpus: Cores of each worker, as Ray counts them.
        gpus: GPUs of each worker; a fraction shares one.
        started: Whether the cluster was started here, so that it ends here.
    """

    ray: Any
    workers: int
    cpus: float
    gpus: float
    started: bool

    @property
    def room(self) -> str:
        """CPUs and GPUs of the whole cluster, for messages."""
        has = self.ray.cluster_resources()
        return f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"

    @property
    def need(self) -> str:
        """CPUs and GPUs that one worker asks for, for messages."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class RayConfig:
    """The Ray cluster that runs a sweep or a scan, and what each of its workers gets.

    Attributes:
        address: Cluster to join: "auto", "host:port" or "ray://host:port". None is the cluster that this process is
            connected to, or the one that the variable `RAY_ADDRESS` names; with neither, a cluster starts on this
            machine, and ends with the call.
        workers: Number of workers, each of which loads the model; None is as many as the cluster has room for.
        cpus_per_worker: Cores of each worker, and threads of torch.
        gpus_per_worker: GPUs of each worker; with 0.25 four workers share one. With 0 workers use their cores only.

    Raises:
        SettingsError: A field is outside its range.

    >>> RayConfig(workers=2)
    RayConfig(address=None, workers=2, cpus_per_worker=1, gpus_per_worker=0)
    """

    address: str | None = field(default=None, metadata={"help": "join this cluster", "type": str})
    workers: int | None = field(default=None, metadata={"help": "how many models are loaded", "type": int})
    cpus_per_worker: float = field(default=1, metadata={"help": "cores of each", "type": float})
    gpus_per_worker: float = field(default=0, metadata={"help": "GPUs of each; may be a part of one", "type": float})

    def __post_init__(self) -> None:
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            raise SettingsError(f"address is {self.address!r}; use 'auto', 'host:port' or 'ray://host:10001'.")
        workers = self.workers
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise SettingsError(
                f"workers is {workers!r}; it must be a whole number, at least 1, or None to fill the room."
            )
        for name, least in (("cpus_per_worker", "more than 0"), ("gpus_per_worker", "at least 0")):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or value < 0 or (value == 0 and name == "cpus_per_worker"):
                raise SettingsError(f"{name} is {value!r}; it must be a number, {least}.")
            if value > 1 and value != int(value):
                raise SettingsError(f"{name} is {value!r}; above 1 it must be whole: Ray shares out parts of one only.")

    @classmethod
    def from_argument(cls, ray: bool | str | RayConfig | None) -> RayConfig | None:
        """Return the configuration that the argument `ray=` of a call asks for; None if it asks for no cluster.

        >>> RayConfig.from_argument(None), RayConfig.from_argument("auto").address
        (None, 'auto')
        """
        if isinstance(ray, RayConfig):
            return ray
        if ray is None or isinstance(ray, bool):
            return cls() if ray else None
        if isinstance(ray, str) and ray:
            return cls(address=ray)
        raise SettingsError(
            f"ray is {ray!r}; use ray=True for a cluster that starts by itself, an address to join one ('auto', "
            "'host:port' or 'ray://host:10001'), or ray=RayConfig(workers=2) for more."
        )

    @classmethod
    def check_not_settings(cls, settings: Iterable[str]) -> None:
        """Raise SettingsError if a name among a call's settings is a field of this class."""
        for name in settings:
            if name in {field.name for field in fields(cls)}:
                raise SettingsError(
                    f"{name}= is about the workers of a Ray cluster: give ray=RayConfig({name}=...), with RayConfig "
                    "from dreamy_lens.cluster."
                )


def import_ray() -> Any:
    """Return the module `ray`; raise a ClusterError that says how to install it."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(
            'Ray is not installed here, and ray= needs it: pip install "dreamy-lens[ray]". Without ray= everything is '
            f"done in this process. ({error})"
        ) from None


@contextlib.contextmanager
def connected(config: RayConfig, tasks: int | None = None) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine that ends with the block.

    Args:
        config: Cluster to connect to, and what workers get.
        tasks: Number of tasks, which is the most workers there are; None is any number.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or has no room for one worker.
    """
    workers, cpus, gpus = config.workers, config.cpus_per_worker, config.gpus_per_worker
    ray = import_ray()
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    started = joined = False
    if ray.is_initialized():
        if address not in (None, "auto", "local") and not _is_at(ray, address):
            raise ClusterError(
                f"This process is connected to another Ray cluster than {address!r}; call ray.shutdown() first."
            )
    elif address is None or address == "local":
        _start(ray, workers, cpus)
        started = True
    else:
        _join(ray, address)
        joined = True
    try:
        has = ray.cluster_resources()
        room = [has.get("CPU", 0.0) / cpus]
        if gpus:
            room.append(has.get("GPU", 0.0) / gpus)
        if workers is None and min(room) < 1:
            raise ClusterError(
                f"A worker needs {cpus:g} CPUs and {gpus:g} GPUs, and the Ray cluster has "
                f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs. Ask for less with cpus_per_worker= and "
                "gpus_per_worker=; where the cluster grows by itself, say how many workers= it should grow to."
            )
        number = max(1, min(int(min(room)) if workers is None else workers, tasks or 1_000_000))
        yield Cluster(ray, number, cpus, gpus, started)
    finally:
        if started or joined:
            ray.shutdown()


def _start(ray: Any, workers: int | None, cpus: float) -> None:
    """Start a cluster on this machine that writes nothing to the terminal and reports no usage."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Workers beyond the cores take turns on them, which is slow and otherwise fine.
    cores = max(os.cpu_count() or 1, math.ceil((workers or 1) * cpus))
    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="dreamy_lens",
        )
    except Exception as error:
        raise ClusterError(f"Ray does not start on this machine: {error}") from error


def _join(ray: Any, address: str) -> None:
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="dreamy_lens")
    except Exception as error:
        if "ray[client]" in str(error):
            raise ClusterError(
                f"To join {address!r} from outside, Ray needs more: pip install 'ray[client]'."
            ) from None
        why = str(error).splitlines()[0] if str(error) else repr(error)
        if os.environ.get("RAY_AUTH_MODE") != "token":
            why += ". If it asks for a token (Ray's default), set RAY_AUTH_MODE=token before Python starts"
        raise ClusterError(_unreachable(address, why)) from error


def _check_reachable(address: str) -> None:
    """Raise ClusterError if no process answers at a host and port, which Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^\s:/]+):(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_unreachable(address, str(error))) from None


def _unreachable(address: str, why: str) -> str:
    return (
        f"There is no Ray cluster to join at {address!r}: {why.rstrip('.')}. `ray start --head` on one of its machines "
        "starts one and says its address; ray=True without an address needs none."
    )


def _is_at(ray: Any, address: str) -> bool:
    """Return whether this process is connected to the cluster of an address, as far as Ray tells."""
    if address.startswith("ray://"):
        return True  # a client knows no address but its own
    return ray.get_runtime_context().gcs_address == address
