"""`distlab train`: one run from a YAML file, from settings on the command line, or both.

    distlab train --config configs/fsdp_2gpu.yaml --resume_from_checkpoint latest
    torchrun --nproc_per_node 2 -m distlab.train --config configs/fsdp_2gpu.yaml --steps 20

Faults on purpose stand in the file alone, as a list: faults: [{kind: slow, step: 2, rank: 1, seconds: 0.2}] makes rank
1 slow after step 2. Other kinds: kill, raise, hang, out_of_memory, fill_disk, stall_storage, damage_checkpoint,
truncate_checkpoint, slow_network, drop_network.

The first form starts `world_size` processes itself. Under a launcher (torchrun, deepspeed, horovodrun) the
process is one rank of many and takes the launcher's word for how many.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro

from distlab.errors import SettingError
from distlab.train.config import COLLECTIVE_TIMEOUT_S, TrainConfig, from_yaml
from distlab.train.launchers import is_rank, join_horovod, refuse_lone_process
from distlab.train.result import TrainResult, finite

STOP_S = 120
"""Seconds for which Ctrl-C waits for the ranks to end their step and save."""


def main(args: list[str]) -> int:
    """Run `distlab train` with these arguments; returns the exit code."""
    config, as_json = parse(args)
    try:
        result = run(config, announce=not as_json)
    except KeyboardInterrupt:
        kept = (
            "what was saved before stands"
            if config.checkpoint.every_steps
            else ("nothing is saved, as checkpoint.every_steps is 0")
        )
        print(f"{config.name} was interrupted before a step was saved; {kept}.", file=sys.stderr)
        return 130
    if result is not None:
        print(json.dumps(summary(result)) if as_json else _sentence(result))
    return 0


@dataclass(frozen=True)
class _Asked(TrainConfig):
    """What a command line asks for, before anybody checks it: tyro would frame the error and add to it."""

    config: Path | None = None
    """YAML file that gives the defaults of all other options."""
    json: bool = False
    """Print the outcome as JSON."""

    def __post_init__(self) -> None:
        pass


def parse(args: list[str]) -> tuple[TrainConfig, bool]:
    """The configuration that command line arguments describe, and whether JSON is wanted.

    `--config FILE` gives the defaults of all other options.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?")
    chosen, _ = first.parse_known_args(args)
    base = from_yaml(Path(chosen.config)) if chosen.config else TrainConfig()
    launched = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launched.add_argument("--local_rank", "--local-rank")  # the deepspeed launcher adds it
    _, rest = launched.parse_known_args(args)
    # A list of faults is for a file; the command line shows everything else.
    options = Annotated[_Asked, tyro.conf.arg(prefix_name=False)]
    asked = tyro.cli(
        options, prog="distlab train", args=rest, default=_Asked(**vars(base)), description=__doc__
    )
    assert isinstance(asked, _Asked)
    return TrainConfig(
        **{field.name: getattr(asked, field.name) for field in fields(TrainConfig)}
    ), asked.json


def run(config: TrainConfig, announce: bool = False) -> TrainResult | None:
    """Train as configured; rank 0's result, None on other ranks.

    announce: give the first sign of life, as importing torch in every rank takes seconds.

    Raises SettingError for what cannot run, LaunchError where a rank failed.
    """
    from distlab.train.strategies.options import check_options

    check_options(config)
    refuse_lone_process()
    if config.strategy == "tensorflow":
        from distlab.train.tensorflow import train_tensorflow

        return train_tensorflow(config)
    if config.launcher == "ray" and is_rank():
        raise SettingError(
            "launcher is 'ray' inside a rank that another launcher started; run `distlab train` itself, or set "
            "launcher to 'torch'."
        )
    if config.launcher == "ray":
        from distlab.train.ray_train import train_with_ray

        if announce:
            _say_start(config, "in a Ray of their own")
        return train_with_ray(config, config.world_size)[0]
    if is_rank():
        return _run_as_rank(config)
    if announce:
        _say_start(config, "as processes")
    from distlab.train import warm
    from distlab.train.launch import launch
    from distlab.train.loop import train

    warm.prefork_if_alone()  # before anything here asks for a GPU
    try:
        results = launch(
            train,
            config.world_size,
            config,
            timeout_s=COLLECTIVE_TIMEOUT_S,
            stop_s=STOP_S,
            max_restarts=config.max_restarts,
        )
    finally:
        warm.end()
    return results[0]


def _say_start(config: TrainConfig, how: str) -> None:
    print(f"{config.name}: starting {_ranks(config.world_size)} {how} ...", flush=True)


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count > 1 else ''}"


def _run_as_rank(config: TrainConfig) -> TrainResult | None:
    """Join the group that the launcher made, and train."""
    import torch
    import torch.distributed as dist

    from distlab.observe.profile.flight import flight_recorder
    from distlab.train.launch import backend_for
    from distlab.train.loop import train
    from distlab.train.rank import use_loopback

    store = None if "RANK" in os.environ else join_horovod(config)
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name not in os.environ]
    if missing:
        raise SettingError(
            f"RANK is set, as by a launcher, but {' and '.join(missing)} not; use torchrun, or unset RANK."
        )
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ["LOCAL_RANK"])
    # torchrun says the one, deepspeed and horovodrun the other.
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size)
    backend = backend_for(local_size)
    if local_size == world_size:
        use_loopback()
    gpu = torch.device("cuda", local_rank) if backend == "nccl" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    with flight_recorder():
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=world_size,
            device_id=gpu,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
        )
        try:
            result = train(replace(config, world_size=world_size))
        finally:
            dist.destroy_process_group()
    return result if result.rank == 0 else None


def summary(result: TrainResult) -> dict[str, object]:
    """What a run came to, as plain data."""
    steps = result.steps
    return {
        "name": result.config.name,
        "strategy": result.config.strategy,
        "world_size": result.world_size,
        "steps": (result.resumed_from or 0) + len(steps),
        "resumed_from": result.resumed_from,
        "interrupted": result.interrupted,
        "loss": finite(steps[-1].loss) if steps else None,
        "held_out_loss": finite(result.held_out_loss),
        "accuracy": result.accuracy,
        "weights_sum": finite(result.weights_sum),
        "tier": result.stamp.tier,
        "folder": result.config.run_folder,
    }


def _sentence(result: TrainResult) -> str:
    config = result.config
    if (result.resumed_from or 0) >= config.steps:
        return (
            f"{config.name} is finished: {result.resumed_from} of {config.steps} steps are in "
            f"{config.run_folder}. Nothing to do."
        )
    done = (result.resumed_from or 0) + len(result.steps)
    left = "Log and checkpoints" if config.checkpoint.every_steps else "Log"
    where = f" {left}: {config.run_folder}." if config.run_folder else ""
    since = f" (from step {result.resumed_from} on)" if result.resumed_from else ""
    if result.interrupted:
        return (
            f"{config.name} was interrupted after step {done}: the last step is saved; go on with "
            "--resume_from_checkpoint latest."
        )
    return (
        f"{config.name}: {done} steps{since} with {config.strategy} on {_ranks(result.world_size)} "
        f"({result.stamp.tier}), loss {result.steps[-1].loss:.4f}, held out {result.held_out_loss:.4f}, "
        f"{100 * result.accuracy:.1f}% right.{where}"
    )
