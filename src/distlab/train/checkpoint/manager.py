"""`Checkpoints`: save, find and load the checkpoints of one run, on one process or many."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from distlab.errors import SettingError
from distlab.files import is_text
from distlab.train.checkpoint.folder import Damage, Folder
from distlab.train.checkpoint.record import Checkpoint, Kind, marked_steps, read_mark, read_marks
from distlab.train.checkpoint.retention import prune
from distlab.train.checkpoint.state import (
    State,
    describe_model,
    difference,
    gather_state,
    refuse_unsafe,
)
from distlab.train.checkpoint.storage import (
    THREADS,
    FileReader,
    FileWriter,
    FullReader,
    StrictLoadPlanner,
)

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints"]

T = TypeVar("T")
NAME = re.compile(r"step_([0-9]{1,18})(?:\.ckpt|\.json)?")
log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the rank and its error."""


class Checkpoints:
    """The checkpoints of one run. Every rank makes one, and calls each method at the same point.

    A state is a dictionary with string keys, as torch.distributed.checkpoint.state_dict makes it; tensors may
    be DTensors. `state["model"]` is what tells one model from another. All ranks must see the same folder, and
    one run at a time may write to it. Ranks are those of torch.distributed; without it there is one.

    folder: a path or a URL that fsspec knows; it is made where it is missing.
    kind: "sharded", each rank writes its part; "full", the first rank writes all in one file.
    asynchronous: `save` returns when the state is copied to host memory; a thread writes it.
    incremental: shards that have not changed since an earlier checkpoint are not written again.
    keep: so many checkpoints are kept, the last saved ones.
    timeout_s: how long ranks wait for each other in a save, and anybody for one in the background.

    Raises SettingError for a folder that cannot be written and for options that do not go together.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        kind: Kind = "sharded",
        asynchronous: bool = False,
        incremental: bool = False,
        keep: int = 3,
        timeout_s: float = 1800.0,
    ) -> None:
        if keep < 1:
            raise SettingError(f"keep is {keep}; it must be 1 or more.")
        if kind == "full" and incremental:
            raise SettingError("incremental saving goes by shard; use kind 'sharded' with it, not 'full'.")
        self.kind: Kind = kind
        self.incremental = incremental
        self.keep = keep
        # gloo on CPU, of its own: a save in the background must not mix with the training's collectives.
        patience = timedelta(seconds=timeout_s)
        self._group = dist.new_group(backend="gloo", timeout=patience) if dist.is_initialized() else None
        self._timeout_s, self._began = timeout_s, 0.0
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._world_size = dist.get_world_size() if dist.is_initialized() else 1
        if self._group is None:  # torch would say at every save and load that it is alone
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        self._folder = _open(str(folder))
        self._on_first_rank(partial(_probe, self._folder))
        self._stager = _stager() if asynchronous else None
        self._saving: Future[Any] | None = None
        self._model: dict[str, str] | None = None
        self._damaged: set[str] = set()

    def save(self, step: int, state: State, info: dict[str, Any] | None = None) -> None:
        """Save a checkpoint as `step_<step>`, and remove those that are more than `keep`.

        info: what goes into `step_<step>.json` (numbers, strings, lists, dictionaries).

        A previous asynchronous save is waited for. Raises SettingError, with nothing written, where the folder
        holds checkpoints of another model; CheckpointError where writing failed, now or in that previous save;
        TypeError for values that cannot be stored. Earlier checkpoints are whole in any case.
        """
        self.wait()
        refuse_unsafe(state)
        plain_info = json.loads(json.dumps(info or {}))
        if self._model is None:
            model = describe_model(state, self._group)
            self._on_first_rank(partial(_refuse_another_model, self._folder, model))
            self._model = model
        below = f"step_{step}.ckpt"
        commit = partial(self._commit, step, plain_info)
        if self.kind == "full":
            # One value that the planner does not look into: torch.save writes it as it is.
            planner = DefaultSavePlanner(flatten_state_dict=False)
            whole = gather_state(state, self._group)
            state = {"state": whole} if self._rank == 0 else {}
            writer = FileWriter(self._folder, below, ".pt", below, commit)
        else:
            planner = DefaultSavePlanner()
            objects = "objects" if self.incremental else below
            writer = FileWriter(self._folder, objects, "", below, commit)
        with _plain_errors(f"{below} was not saved"):
            if self._stager is None:
                save(state, storage_writer=writer, planner=planner, process_group=self._group)
                return
            self._began = time.monotonic()
            saving = async_save(
                state,
                storage_writer=writer,
                planner=planner,
                process_group=self._group,
                async_stager=self._stager,
            )
            assert isinstance(saving, Future)
            self._saving = saving

    def wait(self) -> None:
        """Return when no save is in progress. Raises CheckpointError where it failed, or took over `timeout_s`."""
        if self._saving is None:
            return
        try:
            with _plain_errors("The last checkpoint was not saved"):
                self._saving.result(max(0.0, self._began + self._timeout_s - time.monotonic()))
        except TimeoutError:
            if self._saving.done():  # it ended by itself, with an error of that name
                raise
            raise CheckpointError(
                f"The last checkpoint was not saved: {self._folder.url} has not taken it within {self._timeout_s:g} s "
                "(checkpoint.timeout_s)"
            ) from None
        finally:
            if self._saving.done():  # not where Ctrl-C ended the wait
                self._saving = None

    def steps(self) -> list[int]:
        """Steps that have a commit mark, in order; whether they are whole, `find` tells."""
        self.wait()
        return marked_steps(self._on_first_rank(self._folder.names))

    def find(self, name: str = "latest") -> Checkpoint | None:
        """Find a checkpoint, every byte of which has been read and found right.

        name: "latest", `step_20` or `20`; or the path or URL of a checkpoint, or of another run's folder.

        "latest" is the last one saved that is whole; those that are not are named in a warning and passed
        over. None where there is none. For a certain checkpoint that is missing or damaged: SettingError.
        """
        self.wait()
        url, step = self._resolve(name)
        folder = self._folder_at(url)
        candidates = self._on_first_rank(partial(_candidates, folder, step))
        for checkpoint in candidates:
            damage = self._verify(folder, checkpoint)
            if not damage:
                return checkpoint
            if step is not None:
                raise SettingError(
                    f"{checkpoint.url} is damaged: {damage[0]}. Pass 'latest' for the last one that is whole."
                )
            self._damaged.add(checkpoint.url)
            if self._rank == 0:
                log.warning("Skipped damaged checkpoint %s: %s.", checkpoint.url, "; ".join(damage))
        return None

    def make_latest(self, checkpoint: Checkpoint) -> list[str]:
        """Let "latest" be this checkpoint again; returns the names of those that were saved after it.

        For a run that goes on from an older checkpoint of its folder: the later ones belong to a history that it
        has left. They stay, to be found by name, until newer ones take their place. One file is replaced,
        atomically. Nothing is done for a checkpoint of another folder, or for the last one saved.
        """
        self.wait()
        return self._on_first_rank(partial(_make_latest, self._folder, checkpoint))

    def load(self, checkpoint: Checkpoint, state: State) -> None:
        """Load into `state`, in place, whatever the world size and the sharding it was saved with.

        Entries of the checkpoint that `state` has no place for are not read, but the model must be the same.
        Raises SettingError, with nothing changed, where the checkpoint is of another model or lacks an entry;
        CheckpointError where a file cannot be read (`state` may then be half loaded).
        """
        self.wait()
        if "model" in state:
            differs = difference(checkpoint.model, describe_model(state, self._group))
            if differs:
                raise SettingError(
                    f"{checkpoint.url} is of another model: {differs}; resume with the configuration of that run."
                )
        folder = self._folder_at(checkpoint.folder_url)
        reader = (
            FullReader(folder, checkpoint.full_file)
            if checkpoint.full_file
            else FileReader(folder, checkpoint.metadata_file, checkpoint.files)
        )
        with _plain_errors(f"{checkpoint.url} was not loaded"):
            load(state, storage_reader=reader, planner=StrictLoadPlanner(), process_group=self._group)

    def _commit(self, step: int, info: dict[str, Any], files: dict[str, int]) -> None:
        """Write the mark; on the first rank alone, when every rank's files are safe."""
        checkpoints, _ = read_marks(self._folder, self._folder.names())
        assert self._model is not None
        checkpoint = Checkpoint(
            folder_url=self._folder.url,
            step=step,
            info=info,
            serial=1 + max((c.serial for c in checkpoints), default=0),
            kind=self.kind,
            world_size=self._world_size,
            torch=torch.__version__,
            model=self._model,
            files=files,
        )
        self._folder.write(f"step_{step}.json", checkpoint.to_json())
        self._folder.sync()
        self._damaged.discard(checkpoint.url)
        try:
            prune(self._folder, self.keep, self._damaged)
        except Exception as error:  # each storage has its own; the checkpoint is saved all the same
            log.warning("Old checkpoints in %s could not be removed: %s.", self._folder.url, error)

    def _verify(self, folder: Folder, checkpoint: Checkpoint) -> list[str]:
        """What is wrong with a checkpoint's files; the ranks share the reading and agree on the answer."""

        def check(file: str) -> str | None:
            try:
                folder.check(file, checkpoint.files[file])
            except Damage as damage:
                return str(damage)
            return None

        mine = list(checkpoint.files)[self._rank :: self._world_size]
        with ThreadPoolExecutor(THREADS) as pool:
            damage = [found for found in pool.map(check, mine) if found]
        if self._group is not None:
            by_rank: list[Any] = [None] * self._world_size
            dist.all_gather_object(by_rank, damage, self._group)
            damage = [found for of_rank in by_rank for found in of_rank]
        if not damage:
            folder.trust(checkpoint.files)
        return damage

    def _folder_at(self, url: str) -> Folder:
        return self._folder if url == self._folder.url else _open(url)

    def _resolve(self, name: str) -> tuple[str, int | None]:
        """The folder that a name given to `find` lies in, and the step (None: the latest)."""
        if name == "latest":
            return self._folder.url, None
        parent, _, last = name.rstrip("/").rpartition("/")
        match = NAME.fullmatch(last if parent or last.startswith("step_") else f"step_{last}")
        number = last.startswith("step_") or (name.isdigit() and match is None)
        if "\0" in name or not is_text(name) or (number and match is None):
            raise SettingError(
                f"{name[:80]!r} names no checkpoint; expected 'latest', 'step_20', '20', or the path of one."
            )
        if match is None:
            return name, None
        return parent or self._folder.url, int(match[1])

    def _on_first_rank(self, call: Callable[[], T]) -> T:
        """What `call` returns, or raises, on the first rank: on every rank."""
        if self._group is None:
            return call()
        outcome: list[Any] = [None, None]
        if self._rank == 0:
            try:
                outcome[0] = call()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result


def _stager() -> DefaultStager:
    """Copies a state to host memory that is kept from save to save; pinned where there is a GPU."""
    gpu = torch.cuda.is_available()
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=gpu,
            use_shared_memory=False,  # a thread writes, not a process
            use_async_staging=False,  # the next optimizer step must not change what is being copied
            use_non_blocking_copy=gpu,
        )
    )


def _open(url: str) -> Folder:
    try:
        return Folder(url)
    except (ImportError, ValueError) as error:  # fsspec knows no such protocol, or lacks the package for it
        raise SettingError(f"Checkpoints cannot be kept in {url!r}: {error}") from error


def _probe(folder: Folder) -> None:
    try:
        folder.write(".probe.part", b"")
        folder.remove([".probe.part"])
    except Exception as error:  # each kind of storage has its own
        raise SettingError(
            f"Checkpoints cannot be written to {folder.url!r} ({type(error).__name__}: {error}); "
            "choose a folder that can."
        ) from error


def _refuse_another_model(folder: Folder, model: dict[str, str]) -> None:
    checkpoints, _ = read_marks(folder, folder.names())
    for checkpoint in checkpoints:
        differs = difference(checkpoint.model, model)
        if differs:
            raise SettingError(
                f"{folder.url} holds {checkpoint.name} of another model: {differs}; "
                "choose another folder for this run."
            )


def _make_latest(folder: Folder, checkpoint: Checkpoint) -> list[str]:
    if not folder.is_at(checkpoint.folder_url):
        return []
    checkpoints, _ = read_marks(folder, folder.names())
    later = sorted((c for c in checkpoints if c.serial > checkpoint.serial), key=lambda c: c.step)
    if later:
        serial = 1 + max(c.serial for c in later)
        folder.write(f"{checkpoint.name}.json", replace(checkpoint, serial=serial).to_json())
        folder.sync()
    return [c.name for c in later]


def _candidates(folder: Folder, step: int | None) -> list[Checkpoint]:
    """Checkpoints worth a look: the one of `step`, or all, last saved first."""
    names = folder.names()
    checkpoints, unreadable = read_marks(folder, names)
    if step is None:
        for damage in unreadable.values():
            log.warning("Skipped damaged checkpoint in %s: %s.", folder.url, damage)
        marked = {c.step for c in checkpoints} | set(unreadable)
        parts = {int(match[1]) for name in names if (match := re.match(r"step_([0-9]{1,18})\.ckpt/", name))}
        for unfinished in sorted(parts - marked):
            log.warning("Skipped %s/step_%d.ckpt: its save did not finish.", folder.url, unfinished)
        return checkpoints
    try:
        return [read_mark(folder, step)]
    except Damage as damage:
        others = ", ".join(c.name for c in checkpoints) or "none"
        raise SettingError(
            f"There is no checkpoint step_{step} in {folder.url}: {damage}. There are: {others}."
        ) from None


@contextlib.contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Turn what torch gathered from the ranks into one error: that of the first rank that failed."""
    try:
        yield
    except CheckpointException as failure:
        rank, (error, _) = min(failure.failures.items())
        if isinstance(error, SettingError | KeyboardInterrupt):
            raise error from None
        raise CheckpointError(f"{what}: on rank {rank}, {type(error).__name__}: {error}") from error
