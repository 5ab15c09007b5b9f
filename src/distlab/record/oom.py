"""An out-of-memory error with its post-mortem: training with ever larger batches until an allocation really fails.

    python -m distlab.record.oom FOLDER --limit-gib 16

Leaves `oom.json` (the error, the batches tried, the allocator's numbers and the largest live blocks with the lines
that made them) and on a GPU `oom.snapshot.pickle`, the allocator's snapshot, which torch's memory viewer shows. The
process, not the device, is limited: a GPU of that size would fail in the same way, and nobody else's memory is taken.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from distlab.bench.device import choose_device, is_out_of_memory
from distlab.record.runs import config_of
from distlab.record.store import scrubbed_text
from distlab.train.config import TrainConfig
from distlab.train.data import load_data
from distlab.train.models import build_model, loss_sum
from distlab.train.precision import autocast

HISTORY = 20_000
"""Allocations and frees that the snapshot remembers, the last ones."""
LARGEST = 20
FRAMES = 8
BATCH_MOST = 2**20


@dataclass(frozen=True)
class Attempt:
    """One training step at one batch size."""

    batch: int
    fits: bool
    peak_bytes: int
    """Most memory of tensors (GPU), or resident memory after the step (CPU)."""


@contextmanager
def limited(device: torch.device, limit_bytes: int) -> Iterator[int]:
    """Let this process have so much memory; gives the limit as it is. On a CPU it counts address space."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        limit_bytes = min(limit_bytes, int(0.9 * total))
        torch.cuda.set_per_process_memory_fraction(limit_bytes / total, device)
        yield limit_bytes
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + limit_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield limit_bytes
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Watcher:
    """On a GPU: the allocator's history, and its snapshot at the moment at which an allocation failed."""

    def __init__(self, device: torch.device) -> None:
        self.snapshot: dict[str, Any] | None = None
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=HISTORY)
            torch._C._cuda_attach_out_of_memory_observer(self._failed)  # type: ignore[attr-defined]

    def _failed(self, device: int, wanted: int, total: int, free: int) -> None:
        with suppress(Exception):  # it is called inside the allocator: an error here would hide the one there
            self.snapshot = torch.cuda.memory._snapshot()

    def finish(self) -> dict[str, Any] | None:
        """The snapshot; of now, where there is none of the failure."""
        if not self.on_gpu:
            return None
        found = self.snapshot or torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)
        return dict(without_paths(found))


def train_until_it_fails(
    config: TrainConfig, device: torch.device
) -> tuple[list[Attempt], str, dict[str, Any]]:
    """Steps with a batch that doubles each time: the attempts, the error, the allocator's numbers at the failure."""
    model = build_model(config.model, config.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.learning_rate)
    data, _ = load_data(config)
    attempts: list[Attempt] = []
    batch = 1
    while batch <= BATCH_MOST:
        try:
            numbers = [i % len(data) for i in range(batch)]
            inputs, targets = (part.to(device) for part in data.batch(numbers))
            with autocast(device, config.memory.precision):
                outputs = model(inputs)
            loss = loss_sum(outputs, targets) / targets.numel()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            attempts.append(Attempt(batch, False, _peak(device)))
            return attempts, scrubbed_text(str(error)), _numbers(device)
        attempts.append(Attempt(batch, True, _peak(device)))
        batch *= 2
    raise RuntimeError(f"a batch of {BATCH_MOST} still fits: the limit does not hold")


def _peak(device: torch.device) -> int:
    if device.type != "cuda":
        return int(psutil.Process().memory_info().rss)
    return torch.cuda.max_memory_allocated(device)


def _numbers(device: torch.device) -> dict[str, Any]:
    """The allocator's own account."""
    if device.type != "cuda":
        return {"resident_bytes": psutil.Process().memory_info().rss}
    return {"statistics": torch.cuda.memory_stats(device), "summary": torch.cuda.memory_summary(device)}


def without_paths(snapshot: Any) -> Any:
    """The same, with the file names of its stack frames scrubbed; equal frames become one object, pickled once."""
    if isinstance(snapshot, Mapping):
        if snapshot.keys() == {"filename", "line", "name"}:
            return _frame(snapshot["filename"], snapshot["line"], snapshot["name"])
        return {
            key: scrubbed_text(value) if key == "filename" else without_paths(value)
            for key, value in snapshot.items()
        }
    if isinstance(snapshot, list):
        return [without_paths(item) for item in snapshot]
    return snapshot


@cache
def _frame(filename: str, line: int, name: str) -> dict[str, Any]:
    return {"filename": scrubbed_text(filename), "line": line, "name": name}


def largest_blocks(snapshot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Live memory by the lines that allocated it, the most first."""
    sizes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for segment in snapshot.get("segments", []):
        for block in segment.get("blocks", []):
            if block.get("state") == "active_allocated":
                frames = [
                    f"{frame['filename']}:{frame['line']} {frame['name']}"
                    for frame in block.get("frames", [])
                ]
                sizes[tuple(frames[:FRAMES])].append(int(block["size"]))
    order = sorted(sizes.items(), key=lambda item: -sum(item[1]))
    return [{"bytes": sum(s), "blocks": len(s), "frames": list(frames)} for frames, s in order[:LARGEST]]


def post_mortem(folder: Path, device: torch.device, limit_bytes: int) -> dict[str, Any]:
    """Fail, and write down how: `oom.json`, and the snapshot on a GPU; returns what `oom.json` holds."""
    on_gpu = device.type == "cuda"
    config = config_of("good", None, on_gpu)
    if not on_gpu:
        # Activations, not weights, are to fill the memory, and in few steps.
        config = replace(config, data=replace(config.data, sequence_length=256))
    watcher = Watcher(device)
    with limited(device, limit_bytes) as limit:
        attempts, error, numbers = train_until_it_fails(config, device)
    snapshot = watcher.finish()
    found = {
        "tier": "gpu" if on_gpu else "cpu",
        "limit_bytes": limit,
        "error": error,
        "attempts": [vars(attempt) for attempt in attempts],
        "config": config.as_dict(),
        "allocator": numbers,
        "largest": largest_blocks(snapshot) if snapshot else [],
    }
    (folder / "oom.json").write_text(json.dumps(found, indent=1, default=str))
    if snapshot is not None:
        (folder / "oom.snapshot.pickle").write_bytes(pickle.dumps(snapshot))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit-gib", type=float, default=16.0)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    asked: Any = parser.parse_args(arguments)
    found = post_mortem(asked.folder, choose_device(asked.device), int(asked.limit_gib * 2**30))
    print(
        f"out of memory at a batch of {found['attempts'][-1]['batch']}: {found['error'].splitlines()[0][:200]}"
    )


if __name__ == "__main__":
    main()
