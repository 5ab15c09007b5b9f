"""What a run writes down about each step, on every rank: `<run folder>/log/rank_0.jsonl` and so on.

A line is with the operating system before the next step is logged: it survives the process, however that ends.
A run that resumes cuts what lies beyond its checkpoint and goes on appending, so that a file read in order has
each step once. A new run of the same name sets the log that it finds aside, as `log.1` and so on. The fields, and
how to read them: records.py.

Object stores cannot append. The log of a run in one (`s3://...`) is kept in `runs/<name>/log` of the current
directory and copied when the run ends or fails; a SIGKILL leaves the copy as it was.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from distlab.errors import SettingError, printable
from distlab.files import open_regular
from distlab.train.checkpoint.folder import Damage, Folder
from distlab.train.config import TrainConfig
from distlab.train.dashboards import build_dashboards, check_dashboards
from distlab.train.meters import model_flops, peak_flops, ram_bytes, vram_bytes
from distlab.train.progress import Progress
from distlab.train.records import LOG, RUN, LogLine, Place, rank_of
from distlab.train.result import StepRecord, finite
from distlab.train.strategies.base import Strategy

LOCAL = "runs"
"""Where the log of a run in an object store is kept until it is copied."""


class RunLog:
    """The log of one rank. A run without a folder only shows how far it is."""

    def __init__(self, config: TrainConfig, strategy: Strategy, first_step: int) -> None:
        """first_step: the first one to come.

        SettingError where the folder cannot be written or a dashboard is not installed.
        """
        check_dashboards(config)
        self.config = config
        self.strategy = strategy
        self.started = time.perf_counter()
        self.share = strategy.data_size / strategy.world_size
        """Of a sample's work: with tensor or pipeline parallelism several ranks compute one sample."""
        self.peak = peak_flops(strategy.device, config.memory.precision)
        self.flops = model_flops(config.model) if self.peak else None
        leads = strategy.rank == 0
        self.folder = local_folder(config)
        self.file: JsonLines | None = None
        try:
            if self.folder is not None:
                if self.folder.is_symlink():
                    raise ValueError("it is a link, and what it leads to may be someone else's")
                if leads and not first_step and not is_resumed(config):
                    set_aside(self.folder)
                    if _remote(config):
                        _set_aside_remote(self._log_url())
                if dist.is_initialized():
                    dist.barrier()  # the first rank has cleared the way
                places = _places(strategy)
                self.folder.mkdir(parents=True, exist_ok=True)
                if config.log.jsonl:
                    self.file = self._open(self.folder, first_step)
                if leads:
                    info = {
                        "config": config.as_dict(),
                        "stamp": asdict(strategy.stamp()),
                        "shards": sorted(strategy.shards),
                        "job": printable(os.environ.get("DISTLAB_JOB") or config.name),
                        "ranks": [asdict(place) for place in places],
                    }
                    Folder(self.folder).write(RUN, json.dumps(info, indent=2).encode())
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise SettingError(
                f"Cannot write a log into {self.folder}: {error}; set folder to one that can be written."
            ) from None
        self.dashboards = build_dashboards(config, self.folder, first_step) if leads and self.folder else []
        self.progress = Progress(config, first_step) if leads else None

    def __enter__(self) -> RunLog:
        return self

    def step(self, record: StepRecord, ids: list[list[int]]) -> None:
        """Write down a step; ids: its samples on this rank, by micro-batch."""
        if self.file is None and self.progress is None:
            return
        line = self._line(record, ids)
        if self.file is not None:
            self.file.write(line)
        for dashboard in self.dashboards:
            dashboard.write(line)
        if self.progress is not None:
            self.progress.step(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.close()
        for dashboard in self.dashboards:
            dashboard.close(failed=kind is not None)
        if self.file is not None:
            self.file.close()
        if self.folder is not None and _remote(self.config):
            self._copy(self.folder)

    def _open(self, folder: Path, first_step: int) -> JsonLines:
        path = folder / f"rank_{self.strategy.rank}.jsonl"
        if _remote(self.config) and not os.path.lexists(path) and first_step:  # begun on another machine
            with suppress(Damage, OSError):  # a run that was killed left no copy
                path.write_bytes(Folder(self._log_url()).read(path.name))
        if self.strategy.rank == 0:  # for ranks that there are no more
            for other in folder.glob("rank_*.jsonl"):
                rank = rank_of(other.name)
                if rank is not None and rank >= self.strategy.world_size:
                    cut(other, first_step)
        return JsonLines(path, first_step, bool(first_step) or is_resumed(self.config))

    def _line(self, record: StepRecord, ids: list[list[int]]) -> LogLine:
        run_s = time.perf_counter() - self.started + (self.file.before_s if self.file else 0.0)
        mfu = None
        if self.flops is not None and self.peak is not None:
            flops = self.flops.step(record.samples, record.tokens) * self.share
            mfu = flops / record.step_s / self.peak
        return LogLine(
            **vars(record),
            rank=self.strategy.rank,
            world_size=self.strategy.world_size,
            attempt=self.file.attempt if self.file else 0,
            tier="gpu" if self.strategy.device.type == "cuda" else "cpu",
            time=time.time(),
            run_s=run_s,
            samples_per_s=record.samples * self.share / record.step_s,
            tokens_per_s=record.tokens * self.share / record.step_s,
            ram_bytes=ram_bytes(),
            vram_bytes=vram_bytes(self.strategy.device),
            mfu=mfu,
            cost=self.config.log.price_per_hour * run_s / 3600,
            sample_ids=ids if self.config.log.samples else None,
        )

    def _log_url(self) -> str:
        return f"{self.config.run_folder}/{LOG}"

    def _copy(self, folder: Path) -> None:
        """Copy this rank's part of the log to where the run lies."""
        own = [folder / f"rank_{self.strategy.rank}.jsonl"]
        if self.strategy.rank == 0:
            own += [path for path in folder.rglob("*") if not path.name.startswith("rank_")]
        try:
            remote = Folder(self._log_url())
            for path in own:
                if path.is_file():
                    remote.write(path.relative_to(folder).as_posix(), path.read_bytes())
        except Exception as error:  # what was trained is worth more than its log
            print(f"The log stays in {folder}; copying it to {self._log_url()} failed: {error}", flush=True)


class JsonLines:
    """A file of one JSON object a line, to which a run appends, attempt after attempt."""

    def __init__(self, path: Path, first_step: int, resumed: bool) -> None:
        """Keep the lines before `first_step`; not `resumed`: this is the first attempt, whatever they say."""
        self.attempt, self.before_s = 0, 0.0
        """Which attempt at the run this is, and the seconds that those before it took."""
        last = cut(path, first_step)
        if resumed and last is not None:
            self.attempt, self.before_s = last["attempt"] + 1, last["run_s"]
        # Line buffering hands each line to the system whole, as it is written.
        self._file = open_regular(path, "a", buffering=1, encoding="utf-8")

    def write(self, line: LogLine) -> None:
        """Append a line. JSON has no nan or infinity: they become null."""
        values = vars(line)
        try:
            text = _encode(values)
        except ValueError:
            text = _encode({k: finite(v) if isinstance(v, float) else v for k, v in values.items()})
        self._file.write(text + "\n")

    def close(self) -> None:
        self._file.close()


def is_resumed(config: TrainConfig) -> bool:
    """Does this process go on with a run that was begun before it, rather than begin one?"""
    return bool(config.resume_from_checkpoint or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))


def set_aside(folder: Path) -> None:
    """Rename the log of an earlier run, if one made a step, to the first of `log.1`, `log.2`... that is free."""
    steps = [path for path in folder.glob("rank_*.jsonl") if rank_of(path.name) is not None]
    if not any(path.is_file() and not path.is_symlink() and path.stat().st_size for path in steps):
        return
    aside = next(name for i in itertools.count(1) if not os.path.lexists(name := f"{folder}.{i}"))
    folder.rename(aside)
    print(f"The log of an earlier run named {folder.parent.name} is now in {aside}.", file=sys.stderr)


def _set_aside_remote(url: str) -> None:
    """The same in an object store, which can only copy and delete."""
    log = Folder(url)
    names = log.names()
    if not any(rank_of(name) is not None for name in names):
        return
    aside = next(other for i in itertools.count(1) if not (other := Folder(f"{url}.{i}")).names())
    for name in names:
        aside.write(name, log.read(name))
    log.remove(names)
    print(f"The log of an earlier run is now in {aside.url}.", file=sys.stderr)


def cut(path: Path, first_step: int) -> dict[str, Any] | None:
    """Cut a torn last line and the lines of `first_step` and later ones off a file; return the last whole one.

    The one returned may be among those that were cut. None where there is none, and no file is made.
    """
    if not os.path.lexists(path):
        return None
    last: dict[str, Any] | None = None
    with open_regular(path, "rb+") as file:
        if not os.fstat(file.fileno()).st_size:  # nothing to map
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
            while end:
                start = content.rfind(b"\n", 0, end - 1) + 1
                values = _parse(content[start:end])
                last = last or values
                if values is not None and values["step"] < first_step:
                    break
                end = start
        file.truncate(end)
    return last


def _parse(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        values = json.loads(line)
        types = {"step": int, "attempt": int, "run_s": int | float}
        if isinstance(values, dict) and all(isinstance(values.get(k), types[k]) for k in types):
            return values
    return None


def _places(strategy: Strategy) -> list[Place]:
    """Where all ranks run, for whoever wants to know whose a GPU is; of this one alone without a process group."""
    gpu = strategy.device.type == "cuda"
    device = f"GPU-{torch.cuda.get_device_properties(strategy.device).uuid}" if gpu else "cpu"
    places = [Place(strategy.rank, platform.node(), os.getpid(), device)]
    if dist.is_initialized():
        places *= dist.get_world_size()
        dist.all_gather_object(places, places[0])
    return places


_encode = json.JSONEncoder(allow_nan=False).encode


def _remote(config: TrainConfig) -> bool:
    return "://" in (config.run_folder or "")


def local_folder(config: TrainConfig) -> Path | None:
    """Where the log is written, if anywhere."""
    if config.run_folder is None:
        return None
    return Path(LOCAL, config.name, LOG) if _remote(config) else Path(config.run_folder, LOG)
