"""A Ray of this process's own on this machine, which is gone afterwards: Ray Train and Ray Tune run in it.

with local_ray(workers=2):
    train_with_ray(config)      # and whatever else takes the Ray that there is
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from distlab.errors import LaunchError, SettingError
from distlab.machine import cores
from distlab.train.sweep import swept, wait_or_kill, with_all_below

OBJECT_STORE_BYTES = 128 * 2**20
"""Little travels through Ray itself; gradients go by gloo or NCCL."""
START_ATTEMPTS = 3
TIMED_OUT = "timed out during startup"
"""What Ray says after 30 s, which a machine with much else to do may take longer than."""

log = logging.getLogger(__name__)

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_LOGGER_LEVEL": "error",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""What a local Ray starts with: nothing is sent home, only what training prints is shown, and a worker that
died is noticed within half a second."""


@contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """A Ray of this process's own with room for so many workers; the one it is connected to, if there is.

    Ports are free ones. Nothing of it is left afterwards, neither processes nor files, also where this process is
    killed meanwhile. LaunchError where it does not start.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket in it has to be short
    with swept(folder), environment(QUIET):
        try:
            _start(max(workers, cores()), folder)
            yield
        finally:
            _stop(folder)


def _start(cpus: int, folder: str) -> None:
    """Start Ray, again where it took too long."""
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
            return
        except Exception as error:
            if TIMED_OUT not in str(error) or attempt == START_ATTEMPTS:
                raise not_started(str(error)) from None
            log.warning("Ray did not start within its 30 s (attempt %d of %d).", attempt, START_ATTEMPTS)
            _stop(folder)


def not_started(said: str) -> LaunchError:
    """What to tell of a Ray that said this in place of starting."""
    if TIMED_OUT in said:
        return LaunchError(
            f"Ray did not start within its 30 s, {START_ATTEMPTS} times; end what else this machine does, and start "
            "again.",
            0,
        )
    return LaunchError(f"Ray did not start; mend what it says, and start again: {said.strip()[-500:]}", 0)


def _stop(folder: str) -> None:
    """Stop the Ray whose files are in `folder`, and see to it that its processes end."""
    import ray

    processes = with_all_below(folder)
    ray.shutdown()
    wait_or_kill(processes)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while, but none that is set already."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


def require_ray() -> None:
    """SettingError where Ray is not installed."""
    try:
        import ray.train
        import ray.tune  # noqa: F401
    except ImportError:
        raise SettingError("Ray is not installed; get it with `pip install 'distlab[frameworks]'`.") from None
