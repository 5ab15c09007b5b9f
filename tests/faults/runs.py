"""Small exact runs that can be broken: a GPT with dropout on a little real text, in processes forked warm.

A run's `fingerprint` covers every bit of the weights and of the optimizer's state; its log says which samples
it saw. Torch is imported once, in a server that forks each process of `start`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the optimizer's state wants it: once here, not in each fork
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from distlab.train import loop
from distlab.train.config import TrainConfig, from_dict
from distlab.train.data import Text, load_text
from distlab.train.loop import Trainer
from distlab.train.rank import use_loopback
from distlab.train.records import read_log
from distlab.train.sampler import BatchPlan

SEQUENCE_LENGTH = 16
SAMPLES = 50
TEXTS = load_text(SEQUENCE_LENGTH)
for text, count in zip(TEXTS, (SAMPLES, 8), strict=True):
    del text.samples[count:]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])
_reaping = threading.Lock()
"""Whoever starts a process also asks whether others have ended. An exit code can be read once: by one thread."""


def a_config(folder: Path, **settings: Any) -> TrainConfig:
    """Ten steps, an epoch of seven (the last one is smaller), a checkpoint after every third."""
    return from_dict(
        {
            "folder": str(folder),
            "strategy": "single",
            "steps": 10,
            "model": {"kind": "gpt", "width": 8, "layers": 1, "heads": 2, "dropout": 0.2},
            "data": {"source": "text", "sequence_length": SEQUENCE_LENGTH, "global_batch": 8},
            "optimizer": {"name": "adamw", "learning_rate": 0.01, "schedule": "cosine", "clip_norm": 1.0},
            "checkpoint": {"every_steps": 3},
            "log": {"samples": True},
            **settings,
        }
    )


def run(config: TrainConfig, after_step: Callable[[int], None] = lambda steps: None) -> str:
    """Train in this process, as a rank of its group if it has one; return the fingerprint."""
    vars(loop)["load_data"] = _little_text
    torch.set_num_threads(1)
    with Trainer(config) as trainer:
        for step in range(trainer.first, config.steps):
            trainer.step(step)
            after_step(step + 1)
            if trainer.stopped:
                break
        trainer.result()
        return _fingerprint(trainer.strategy.state())


def _little_text(config: TrainConfig) -> tuple[Text, Text]:
    return TEXTS


def _fingerprint(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}.{key}", value[key])
        elif isinstance(value, torch.Tensor):
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            digest.update(name.encode() + whole.detach().cpu().contiguous().numpy().tobytes())

    add("", state)
    return digest.hexdigest()


def assert_each_sample_once(config: TrainConfig) -> None:
    """By the logs, the copies of the model together took in every step just the samples planned for it."""
    plan = BatchPlan(TEXTS[0], config.data, config.seed)
    taken: dict[int, list[int]] = {step: [] for step in range(config.steps)}
    assert config.run_folder is not None
    sharing = config.parallel.tensor * config.parallel.pipeline  # these ranks log the same samples
    for line in read_log(config.run_folder):
        assert line.sample_ids is not None
        if line.rank % sharing:
            continue
        taken[line.step] += [index for micro_batch in line.sample_ids for index in micro_batch]
    assert {step: sorted(ids) for step, ids in taken.items()} == {
        step: sorted(plan.global_batch(step)) for step in range(config.steps)
    }
    first_epoch = [index for step in range(plan.steps_per_epoch) for index in taken[step]]
    assert sorted(first_epoch) == list(range(SAMPLES))


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    """Minus the number of the signal that killed it."""
    fingerprint: str | None = None
    error: str | None = None
    """The traceback of an exception."""
    calls: int = 0
    """Calls that changed files of checkpoints."""


class Run:
    """A run in a process of its own, or one rank of a run of two."""

    def __init__(
        self,
        config: TrainConfig,
        cut_at: int | None = None,
        cut_fraction: float = 0.0,
        rank: int | None = None,
        meeting: Path | None = None,
    ) -> None:
        """cut_at: die by SIGKILL in this call that changes a file, `cut_fraction` of its bytes written.

        rank, meeting: of two, which find each other by this new file.
        """
        assert config.run_folder is not None
        self.report = Path(config.run_folder).parent / f"outcome_{rank or 0}.pkl"
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.unlink(missing_ok=True)
        self.process = ForkServerProcess(
            target=_run, args=(config, self.report, cut_at, cut_fraction, rank, meeting)
        )
        with _reaping:
            self.process.start()

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def outcome(self, timeout_s: float = 120) -> Outcome:
        """Wait for the end."""
        wait([self.process.sentinel], timeout_s)
        with _reaping:
            code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError("the run did not end")
        said = pickle.loads(self.report.read_bytes()) if self.report.exists() else {}
        return Outcome(code, **said)


def _run(
    config: TrainConfig,
    report: Path,
    cut_at: int | None,
    cut_fraction: float,
    rank: int | None,
    meeting: Path | None,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server of the forks ignores Ctrl-C
    if rank is not None:
        use_loopback()
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(config.seed)
    calls = _count_calls(cut_at, cut_fraction)
    try:
        said: dict[str, Any] = {"fingerprint": run(config), "calls": len(calls)}
    except Exception:
        said = {"error": traceback.format_exc()}
    report.write_bytes(pickle.dumps(said))
    if "error" in said:
        os._exit(1)


def _count_calls(cut_at: int | None, cut_fraction: float) -> list[str]:
    """From now on, count calls that change files; die in number `cut_at`."""
    calls: list[str] = []

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == cut_at:
                if name == "write":
                    descriptor, content = args
                    real(descriptor, content[: int(len(content) * cut_fraction)])
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("open", "write", "fsync", "replace", "unlink", "remove", "mkdir", "rmdir"):
        setattr(os, name, counting(name, getattr(os, name)))
    return calls
