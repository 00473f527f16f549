"""Connections to Ray clusters. Only this module imports Ray, and starts or joins a cluster."""

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

from dreamy_lens import _waiting
from dreamy_lens._host import working
from dreamy_lens.errors import ClusterError, SettingsError, quoted

ANSWER_SECONDS = 10.0
"""Most seconds that a cluster may take to answer at its address, without `DREAMY_LENS_TIMEOUT`."""

STARTS = 3
"""Number of times that Ray is started on a machine too busy for it to be ready in time."""

# The beginning of HTTP/2, on which gRPC is built, and an empty frame of settings.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

# Environment of a cluster that this process starts; values that the user has set are kept. The second variable chooses
# the behaviour of newer versions of Ray, because Ray prints a warning where it is not set.
_QUIET_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        ray: Module `ray`.
        workers: Number of workers to start.
        cpus: CPU cores of each worker, as Ray counts them.
        gpus: GPUs of each worker; with a fraction, several workers share a GPU.
        started: Whether this process started the cluster, and so ends it.
    """

    ray: Any
    workers: int
    cpus: float
    gpus: float
    started: bool

    @property
    def room(self) -> str:
        """CPUs and GPUs of the entire cluster, as text for messages."""
        resources = self.ray.cluster_resources()
        return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"

    @property
    def need(self) -> str:
        """CPUs and GPUs that one worker needs, as text for messages."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class RayConfig:
    """The Ray cluster that runs a sweep or a scan, and the resources of each of its workers.

    Attributes:
        address: Cluster to join: "auto", "host:port" or "ray://host:port". None is the cluster to which this process is
            already connected, or the one that the environment variable `RAY_ADDRESS` names; with neither, a cluster
            starts on this machine, and ends with the call.
        workers: Number of workers, each of which loads the model; None is as many as the cluster has room for.
        cpus_per_worker: CPU cores of each worker, and threads of torch in it.
        gpus_per_worker: GPUs of each worker; with 0.25, four workers share a GPU. With 0, workers use only CPU cores.

    Raises:
        SettingsError: A field is outside its range.

    >>> RayConfig(workers=2)
    RayConfig(address=None, workers=2, cpus_per_worker=1, gpus_per_worker=0)
    """

    address: str | None = field(default=None, metadata={"help": "address of the cluster to join", "type": str})
    workers: int | None = field(
        default=None,
        metadata={"help": "number of workers, which each load the model; default: as many as fit", "type": int},
    )
    cpus_per_worker: float = field(default=1, metadata={"help": "CPU cores of each worker", "type": float})
    gpus_per_worker: float = field(
        default=0, metadata={"help": "GPUs of each worker; may be a fraction", "type": float}
    )

    def __post_init__(self) -> None:
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            raise SettingsError(f"address is {quoted(self.address)}; use 'auto', 'host:port' or 'ray://host:10001'.")
        workers = self.workers
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise SettingsError(
                f"workers is {quoted(workers)}; it must be a whole number, at least 1, or None to fill the cluster."
            )
        for name, least in (("cpus_per_worker", "more than 0"), ("gpus_per_worker", "at least 0")):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or value < 0 or (value == 0 and name == "cpus_per_worker"):
                raise SettingsError(f"{name} is {quoted(value)}; it must be a number, {least}.")
            if value > 1 and value != int(value):
                raise SettingsError(
                    f"{name} is {quoted(value)}; above 1 it must be a whole number, because Ray allows fractions "
                    "only below 1."
                )

    @classmethod
    def from_argument(cls, ray: bool | str | RayConfig | None) -> RayConfig | None:
        """Return the configuration that the argument `ray=` of a call stands for; None if no cluster is wanted.

        Args:
            ray: True, an address, or a configuration for a cluster; False or None for no cluster.

        Raises:
            SettingsError: The argument has another type.

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
            f"ray is {quoted(ray)}; use ray=True for a cluster that starts by itself, an address to join a cluster "
            "('auto', 'host:port' or 'ray://host:10001'), or ray=RayConfig(workers=2) for more options."
        )

    @classmethod
    def check_not_settings(cls, settings: Iterable[str]) -> None:
        """Raise SettingsError if a field of this class was given among the settings of a call."""
        for name in settings:
            if name in {field.name for field in fields(cls)}:
                raise SettingsError(
                    f"{name}= is an option of RayConfig: give ray=RayConfig({name}=...), with RayConfig "
                    "from dreamy_lens.cluster."
                )


def import_ray() -> Any:
    """Import and return the module `ray`; if it is missing, raise a ClusterError that says how to install it."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(
            'Ray is not installed here, and ray= needs it: pip install "dreamy-lens[ray]". Without ray= everything '
            f"runs in this process. ({error})"
        ) from None


@contextlib.contextmanager
def connected(config: RayConfig, tasks: int | None = None) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine that ends with the `with` block.

    Args:
        config: Cluster to connect to, and the resources of its workers.
        tasks: Number of tasks, which limits the number of workers; None sets no limit.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached or has no room for a worker.
    """
    workers, cpus, gpus = config.workers, config.cpus_per_worker, config.gpus_per_worker
    ray = import_ray()
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    started = joined = False
    if ray.is_initialized():
        if address not in (None, "auto", "local") and not _is_at(ray, address):
            raise ClusterError(
                f"This process is connected to another Ray cluster than {quoted(address)}; call ray.shutdown() to "
                "leave it."
            )
    elif address is None or address == "local":
        _start(ray, workers, cpus)
        started = True
    else:
        _join(ray, address)
        joined = True
    try:
        resources = ray.cluster_resources()
        capacities = [resources.get("CPU", 0.0) / cpus]
        if gpus:
            capacities.append(resources.get("GPU", 0.0) / gpus)
        if workers is None and min(capacities) < 1:
            raise ClusterError(
                f"A worker needs {cpus:g} CPUs and {gpus:g} GPUs, and the Ray cluster has "
                f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs. Ask for less with "
                "cpus_per_worker= and gpus_per_worker=; for a cluster that grows by itself, give the number of workers="
                " to grow to."
            )
        number = max(1, min(int(min(capacities)) if workers is None else workers, tasks or 1_000_000))
        yield Cluster(ray, number, cpus, gpus, started)
    finally:
        if started or joined:
            ray.shutdown()


def _start(ray: Any, workers: int | None, cpus: float) -> None:
    """Start a cluster on this machine that writes nothing to the terminal and reports no usage."""
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # If there are more workers than cores, they take turns on the cores, which is slow but works.
    cores = max(os.cpu_count() or 1, math.ceil((workers or 1) * cpus))
    with working("Starting a Ray cluster on this machine"):
        for left in reversed(range(STARTS)):
            try:
                _init_local(ray, cores)
                return
            except Exception as error:
                # Ray waits half a minute for its own processes, which is too short on a busy machine.
                if "timed out during startup" in str(error) and left:
                    ray.shutdown()
                    continue
                raise ClusterError(
                    f"Ray does not start on this machine: {str(error).rstrip('.')}. Without ray= everything runs in "
                    "this process."
                ) from error


def _init_local(ray: Any, cores: int) -> None:
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="dreamy_lens",
    )


def _join(ray: Any, address: str) -> None:
    _check_reachable(address)
    try:
        with working(f"Joining the Ray cluster at {address}"):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="dreamy_lens")
    except Exception as error:
        if "ray[client]" in str(error):
            raise ClusterError(
                f"To join {quoted(address)} from outside the cluster, install Ray's client: pip install 'ray[client]'."
            ) from None
        why = str(error).splitlines()[0] if str(error) else repr(error)
        if os.environ.get("RAY_AUTH_MODE") != "token":
            why += ". If it asks for a token (Ray's default), set RAY_AUTH_MODE=token before Python starts"
        raise ClusterError(_unreachable(address, why)) from error


def _check_reachable(address: str) -> None:
    """Raise ClusterError unless a server of gRPC answers at the host and port of an address.

    Ray would try for minutes. Such a server, as Ray's are, sends its settings as soon as a client has sent its own.
    """
    match = re.fullmatch(r"(?:ray://)?([^\s:/]+):(\d+)", address)
    if match is None:
        return
    seconds = _waiting.limit(ANSWER_SECONDS)
    try:
        with _waiting.announced(f"Waiting for the Ray cluster at {address}", seconds):
            with socket.create_connection((match[1], int(match[2])), timeout=seconds) as connection:
                if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true", "True"):  # it would wait for a certificate
                    connection.settimeout(seconds)
                    connection.sendall(_HTTP2_GREETING)
                    if not connection.recv(1):
                        raise OSError("what listens there ends the connection, so it is no Ray cluster")
    except TimeoutError:
        raise ClusterError(
            _unreachable(address, f"it has not answered in {seconds:g} s ({_waiting.VARIABLE} sets the limit)")
        ) from None
    except (OSError, OverflowError) as error:
        raise ClusterError(_unreachable(address, str(error))) from None


def _unreachable(address: str, why: str) -> str:
    return (
        f"There is no Ray cluster to join at {quoted(address)}: {why.rstrip('.')}. `ray start --head` on one machine "
        "starts a cluster and prints its address; ray=True needs no address."
    )


def _is_at(ray: Any, address: str) -> bool:
    """Return whether this process is connected to the cluster at an address, as far as Ray reports it."""
    if address.startswith("ray://"):
        return True  # a Ray client cannot compare addresses
    return ray.get_runtime_context().gcs_address == address
