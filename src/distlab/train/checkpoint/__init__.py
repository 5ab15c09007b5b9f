"""Checkpoints that a crash cannot spoil, on a disk or in an object store.

    checkpoints = Checkpoints("runs/demo", keep=3)    # or "s3://bucket/runs/demo"
    checkpoints.save(step, {"model": ..., "optimizer": ..., "progress": ...}, {"loss": 0.5})
    found = checkpoints.find("latest")                        # None: nothing to resume
    if found: checkpoints.load(found, state)                  # in place, at any world size

What lies in the folder of a run:

    runs/demo/
      step_20.json              the commit mark, written last: what the caller recorded, and every file below
      step_20.ckpt/
        <sha256>.metadata       which part of which tensor lies where (torch.distributed.checkpoint's own)
        <sha256>                the bytes of one tensor shard, or of many small ones
        <sha256>.pt             kind "full" instead: the whole state, for `torch.load(weights_only=True)`
      objects/<sha256>          with `incremental`, the shards of all checkpoints: equal bytes are stored once

Three rules make it safe. A file is named by the sha256 of what it holds, so that it is never changed, only
added or removed, and damage shows. A file appears whole or not at all. A checkpoint exists from the moment
its mark does, and the mark is written once every rank's files are on the disk.

`folder` writes such files, `storage` gives them to torch.distributed.checkpoint, which plans who writes what
and cuts shards anew on loading; `record` is the mark, `retention` removes what is no longer wanted, `state`
looks at what is saved, and `manager` holds the one class to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distlab.train.checkpoint.manager import CheckpointError, Checkpoints
    from distlab.train.checkpoint.record import Checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints"]


def __getattr__(name: str) -> Any:
    """Import the manager, and torch with it, only for those who save: readers of logs use `folder` alone."""
    if name in ("CheckpointError", "Checkpoints"):
        from distlab.train.checkpoint import manager

        return getattr(manager, name)
    if name == "Checkpoint":
        from distlab.train.checkpoint.record import Checkpoint

        return Checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
