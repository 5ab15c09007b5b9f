"""What each rank of a drill runs: the training loop, with a note of when it joined and when it first stepped.

torchrun --nproc_per_node 2 -m distlab.faults.drills.rank CONFIG.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from distlab.faults.drills.report import Event, note, struck_at
from distlab.faults.inject import hang
from distlab.train.config import TrainConfig, from_dict
from distlab.train.launch import backend_for
from distlab.train.loop import Trainer


def drill_config(folder: Path, strategy: str, fault: str, step: int, steps: int) -> TrainConfig:
    """A small run on the digits with a checkpoint after every fifth step; rank 1 is struck after `step`."""
    return from_dict(
        {
            "name": "drill",
            "folder": str(folder),
            "strategy": strategy,
            "steps": steps,
            "data": {"global_batch": 64},
            "checkpoint": {"every_steps": 5},
            "log": {"samples": True},
            "resume_from_checkpoint": "latest",
            "faults": [{"kind": fault, "step": step, "rank": 1}],
        }
    )


def train_noting(config: TrainConfig) -> None:
    """Train on this rank of a process group, from the last checkpoint on if there is one."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    note(config, Event("joined", rank, world_size, time.time()))
    with Trainer(config) as trainer:
        for step in trainer.steps():
            if step == trainer.first:
                note(config, Event("stepped", rank, world_size, time.time(), resumed_from=step))
        trainer.result()


def main(path: Path) -> None:
    """Join the group that the launcher has prepared, and train as the file says."""
    config = from_dict(json.loads(path.read_text()))
    if int(os.environ["WORLD_SIZE"]) < config.world_size and struck_at(config) is None:
        hang()  # until the other node is there: its agent's coming makes ours start this rank again
    backend = backend_for(int(os.environ["LOCAL_WORLD_SIZE"]))
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend)
    try:
        train_noting(config)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
