"""Ray Train: the same training loop and strategies, on workers that Ray places, starts, watches and restarts.

    from distlab.train.ray_train import train_with_ray
    results = train_with_ray(TrainConfig(strategy="fsdp"), num_workers=2)

Ray sets up the process group (gloo, or NCCL where each worker gets a GPU) and calls `train(config)` on every
worker, as torchrun would. What it adds is a cluster: workers may be on many machines, and after a failure it
finds other places for them.

A worker is no child of this process, and no Ctrl-C reaches it. Left alone, Ray would end all workers at once. The
first Ctrl-C of a run with checkpoints leaves a word in Ray's key-value store instead, where the workers look for it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, TextIO, cast

from distlab.errors import LaunchError, SettingError
from distlab.train.config import COLLECTIVE_TIMEOUT_S, TrainConfig
from distlab.train.interrupt import Interrupt
from distlab.train.ray_local import local_ray, require_ray
from distlab.train.result import TrainResult

LISTEN_S = 0.2
"""How often a worker looks whether Ctrl-C was pressed."""


def train_with_ray(
    config: TrainConfig,
    num_workers: int | tuple[int, int] = 2,
    use_gpu: bool | None = None,
    callbacks: Sequence[Any] = (),
) -> list[TrainResult]:
    """Train with Ray's TorchTrainer; returns the results by rank.

    num_workers: of one rank each; a pair (least, most) lets Ray go on with fewer after a failure and grow again
        (from the last checkpoint each time; needs `checkpoint.every_steps`).
    use_gpu: does each worker ask for a GPU? By default where this machine has one for each.
    callbacks: objects of `ray.train.UserCallback`, which Ray calls in its controller's process.

    The Ray that this process is connected to is used; without one, a local Ray is started and stopped again.
    After a failure Ray starts the workers again `config.max_restarts` times, and they resume from the last
    checkpoint.

    On Ctrl-C the workers end their step, save and return; a second one, or one without checkpoints, ends them and
    raises KeyboardInterrupt.

    Raises SettingError where Ray is missing or the configuration cannot run, LaunchError with the rank's own
    traceback where a worker failed.
    """
    require_ray()
    import ray.train
    import torch
    from ray.train.torch import TorchConfig, TorchTrainer

    from distlab.train.strategies.options import check_options

    check_options(config)
    if config.strategy in ("horovod", "tensorflow"):
        raise SettingError(
            f"strategy {config.strategy!r} starts its own processes; with Ray use a torch one, such as 'ddp'."
        )
    if config.folder is not None:  # a worker's working folder is another one, below Ray's storage
        config = replace(config, folder=os.path.abspath(config.folder))
    most = num_workers if isinstance(num_workers, int) else max(num_workers)
    stop = f"distlab-stop-{uuid.uuid4().hex}"

    class Interruptible(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """In place of Ray's own, which ends the process."""
            saves = config.checkpoint.every_steps > 0
            signal.signal(signal.SIGINT, partial(_interrupt, controller, stop if saves else None))

    with local_ray(most), tempfile.TemporaryDirectory(prefix="distlab-ray-") as storage, _own_sigint():
        # mypy sees the types of Ray Train's first version.
        trainer: Any = cast(Any, Interruptible)(
            _worker,
            train_loop_config={"config": config, "stop": stop},
            torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cast(Any, num_workers),
                use_gpu=torch.cuda.device_count() >= most if use_gpu is None else use_gpu,
            ),
            run_config=ray.train.RunConfig(
                name=config.name,
                storage_path=storage,
                failure_config=ray.train.FailureConfig(max_failures=config.max_restarts),
                callbacks=cast(Any, list(callbacks)),
            ),
        )
        try:
            results: list[TrainResult] = trainer.fit().return_value
        except ray.train.WorkerGroupError as error:
            raise first_failure(error.worker_failures, most) from None
    return results


def _interrupt(controller: Any, stop: str | None, number: int, frame: FrameType | None) -> None:
    """Ctrl-C: ask the workers to end in order, but those that cannot be asked, or were, end at once."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put

    if stop is not None and not _internal_kv_exists(stop):
        _internal_kv_put(stop, b"")
        return
    with suppress(ray.exceptions.RayActorError):  # it leaves no answer
        ray.get(controller.abort.remote())
    raise KeyboardInterrupt


@contextmanager
def _listening(stop: str, interrupt: Interrupt) -> Iterator[None]:
    """Meanwhile, take the word for a Ctrl-C that this process has got."""
    from ray.experimental.internal_kv import _internal_kv_exists

    ended = threading.Event()

    def listen() -> None:
        while not ended.wait(LISTEN_S) and not interrupt.asked:
            interrupt.asked = _internal_kv_exists(stop)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _worker(settings: dict[str, Any]) -> list[TrainResult]:
    """What every worker runs; Ray hands back what rank 0 returns."""
    import ray.train
    import torch.distributed as dist

    from distlab.train.loop import Trainer

    config: TrainConfig = replace(settings["config"], world_size=dist.get_world_size())
    if ray.train.get_checkpoint() is not None:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"  # as torch's agent tells a rank that it starts again
    elif config.max_restarts:
        # Ray hands the last checkpoint that was reported to a worker that it starts again. Ours lie in the
        # run's folder; this one is empty, and only tells a second start from the first.
        with tempfile.TemporaryDirectory() as folder:
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
    try:
        with redirect_stdout(RankPrefix(sys.stdout, dist.get_rank())), Trainer(config) as trainer:
            listening = _listening(settings["stop"], trainer.interrupt)
            with listening if trainer.saving.enabled else nullcontext():
                for _ in trainer.steps():
                    pass
            result = trainer.result()
    except Exception as error:
        raise WorkerError.from_exception(error) from None
    results: list[Any] = [None] * result.world_size
    dist.all_gather_object(results, result)
    return results


class RankPrefix(io.TextIOBase):
    """Writes whole lines to `stream`, each behind `[rank N]`."""

    def __init__(self, stream: TextIO, rank: int) -> None:
        self.stream = stream
        self.prefix = f"[rank {rank}] "
        self.line = ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            self.stream.write(f"{self.prefix}{line}\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


class WorkerError(RuntimeError):
    """An exception of a worker, as it travels to the process that called Ray."""

    def __init__(self, raised_at: float, summary: str, frames: str, setting: str | None) -> None:
        super().__init__(raised_at, summary, frames, setting)  # what it is pickled by
        self.raised_at = raised_at
        self.summary = summary
        self.frames = frames
        self.setting = setting

    def __str__(self) -> str:
        return self.summary

    @classmethod
    def from_exception(cls, error: Exception) -> WorkerError:
        setting = str(error) if isinstance(error, SettingError) else None
        return cls(time.time(), f"{type(error).__name__}: {error}", traceback.format_exc(), setting)


def first_failure(failures: dict[int, Exception], world_size: int) -> LaunchError | SettingError:
    """Say which worker failed first, and how.

    One that dies without a word makes the others raise: it is the cause. Else it is the one that raised first.
    """
    errors = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    raised = {rank: error for rank, error in errors.items() if isinstance(error, WorkerError)}
    silent = [rank for rank in errors if rank not in raised]
    if silent:
        return LaunchError(f"Rank {silent[0]} of {world_size} died: {errors[silent[0]]}", silent[0])
    rank = min(raised, key=lambda rank: raised[rank].raised_at)
    first = raised[rank]
    if first.setting is not None:
        return SettingError(first.setting)
    return LaunchError(f"Rank {rank} of {world_size} failed: {first.summary}\n\n{first.frames}", rank)


@contextmanager
def _own_sigint() -> Iterator[None]:
    """Put the handler of Ctrl-C back that Ray replaces and leaves replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
