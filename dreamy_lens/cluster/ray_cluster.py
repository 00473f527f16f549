"""Ray: found, started or joined in one place. Nothing else here imports it by itself."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dreamy_lens.errors import ClusterError, SettingsError

# For a cluster that is started here; what the user has set stays. The second is what newer versions of Ray do anyway,
# said to keep them from announcing it.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Cluster:
    """A cluster this process is connected to.

    Attributes:
        ray: the module.
        workers: how many to start.
        cpus: cores of each, as Ray counts them.
        gpus: GPUs of each; a fraction shares one.
        started: whether it was started here, so that it ends here.
    """

    ray: Any
    workers: int
    cpus: float
    gpus: float
    started: bool

    @property
    def room(self) -> str:
        """What the cluster has in all, for messages."""
        has = self.ray.cluster_resources()
        return f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"

    @property
    def need(self) -> str:
        """What one worker asks for, for messages."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


def import_ray() -> Any:
    """The module `ray`, or a ClusterError that says how to install it."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(
            'Ray is not installed here, and ray= needs it: pip install "dreamy-lens[ray]". Without ray= everything is '
            f"done in this process. ({error})"
        ) from None


def wanted(ray: bool | str | None, address: str | None) -> tuple[bool, str | None]:
    """Whether a call's `ray=` and `address=` ask for Ray, and for which cluster.

    >>> wanted(None, None), wanted(True, None), wanted("auto", None), wanted(None, "ray://head:10001")
    ((False, None), (True, None), (True, 'auto'), (True, 'ray://head:10001'))
    """
    if isinstance(ray, str) and address is not None and ray != address:
        raise SettingsError(f"ray={ray!r} and address={address!r} are two clusters; keep one of them.")
    for name, value, kinds in (("ray", ray, (bool, str)), ("address", address, (str,))):
        if value is not None and (not isinstance(value, kinds) or value == ""):
            raise SettingsError(
                f"{name} is {value!r}; use ray=True for a cluster that starts by itself, or address='auto', "
                "'host:port' or 'ray://host:10001' to join one."
            )
    if ray is False and address is not None:
        raise SettingsError(f"ray=False and address={address!r} contradict each other; keep one of them.")
    if isinstance(ray, str):
        return True, ray
    return bool(ray) or address is not None, address


def checked_share(workers: Any, cpus: Any, gpus: Any) -> None:
    """Raise SettingsError if they are not a number of workers, and the cores and GPUs of each."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise SettingsError(f"workers is {workers!r}; it must be a whole number, at least 1, or None to fill the room.")
    for name, value, least in (("cpus_per_worker", cpus, "more than 0"), ("gpus_per_worker", gpus, "at least 0")):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and name.startswith("cpus")):
            raise SettingsError(f"{name} is {value!r}; it must be a number, {least}.")
        if value > 1 and value != int(value):
            raise SettingsError(f"{name} is {value!r}; above 1 it must be whole: Ray shares out parts of one only.")


@contextlib.contextmanager
def cluster(
    address: str | None = None,
    *,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    tasks: int | None = None,
) -> Iterator[Cluster]:
    """Be connected to a Ray cluster.

    One that this process is connected to already is used. Otherwise `address` is joined, or the one that the variable
    `RAY_ADDRESS` names (as it does in jobs submitted to a cluster); with neither one starts on this machine, and ends
    with the block.

    Args:
        address: "auto", "host:port" or "ray://host:port"; None as above.
        workers: how many are wanted; None is as many as there is room for.
        cpus_per_worker: cores of each.
        gpus_per_worker: GPUs of each; a fraction such as 0.25 shares one.
        tasks: how much there is to do: no more workers than that.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or has no room for one worker.
        SettingsError: a number is outside its range.
    """
    checked_share(workers, cpus_per_worker, gpus_per_worker)
    ray = import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or None
    started = joined = False
    if ray.is_initialized():
        if address not in (None, "auto", "local") and not _is_at(ray, address):
            raise ClusterError(
                f"This process is connected to another Ray cluster than {address!r}; call ray.shutdown() first."
            )
    elif address is None or address == "local":
        _start(ray, workers, cpus_per_worker)
        started = True
    else:
        _join(ray, address)
        joined = True
    try:
        has = ray.cluster_resources()
        room = [has.get("CPU", 0.0) / cpus_per_worker]
        if gpus_per_worker:
            room.append(has.get("GPU", 0.0) / gpus_per_worker)
        if workers is None and min(room) < 1:
            raise ClusterError(
                f"A worker needs {cpus_per_worker:g} CPUs and {gpus_per_worker:g} GPUs, and the Ray cluster has "
                f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs. Ask for less with cpus_per_worker= and "
                "gpus_per_worker=; where the cluster grows by itself, say how many workers= it should grow to."
            )
        number = max(1, min(int(min(room)) if workers is None else workers, tasks or 1_000_000))
        yield Cluster(ray, number, cpus_per_worker, gpus_per_worker, started)
    finally:
        if started or joined:
            ray.shutdown()


def _start(ray: Any, workers: int | None, cpus: float) -> None:
    """A cluster on this machine, which says nothing and tells nobody."""
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
    _knock(address)
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
        raise ClusterError(_nobody(address, why)) from error


def _knock(address: str) -> None:
    """Raise ClusterError if nobody answers at a host and port, which Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^\s:/]+):(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_nobody(address, str(error))) from None


def _nobody(address: str, why: str) -> str:
    return (
        f"There is no Ray cluster to join at {address!r}: {why.rstrip('.')}. `ray start --head` on one of its machines "
        "starts one and says its address; ray=True without an address needs none."
    )


def _is_at(ray: Any, address: str) -> bool:
    """Whether the cluster this process is connected to is the one of an address, as far as that can be told."""
    if address.startswith("ray://"):
        return True  # a client knows no address but its own
    return ray.get_runtime_context().gcs_address == address
