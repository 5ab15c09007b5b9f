"""How long the training loop stands still for a checkpoint, written at once or in the background."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from benchmarks.interleaved import ratio_of, take_turns
from benchmarks.results import Result

ROUNDS = 9
WIDTH = 3500
"""Of an MLP with momentum: 3,500^2 weights and as many momenta of 4 bytes are 100 MB."""


def async_stall() -> list[Result]:
    """Seconds until `save` returns: ours in the background over ours at once, and over torch's `async_save`."""
    from distlab.train.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        background, at_once, torch_async = launch(_measure, 2, folder, threads_per_rank=1, timeout_s=300)[0]
    stall_s = statistics.median(background)
    return [
        Result("checkpoint.async_stall", stall_s, "s", peer, ratio_of(background, other).median)
        for peer, other in (("synchronous save", at_once), ("torch async_save", torch_async))
    ]


def _measure(folder: str) -> list[list[float]]:
    """On every rank: seconds that each kind of save held the loop up."""
    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import async_save
    from torch.distributed.fsdp import fully_shard

    from distlab.train.checkpoint import Checkpoints
    from distlab.train.config import ModelConfig
    from distlab.train.models import build_model

    model = build_model(ModelConfig("mlp", width=WIDTH), 0)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    model(torch.zeros(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    stores = [Checkpoints(f"{folder}/{kind}", asynchronous=kind == "a", keep=1) for kind in ("a", "s")]
    group = dist.new_group(backend="gloo")
    step = 0

    def timed(save: Callable[[], Callable[[], object]]) -> float:
        nonlocal step
        step += 1
        dist.barrier()
        started = time.perf_counter()
        finish = save()
        seconds = time.perf_counter() - started
        finish()  # the next turn must not meet this one's writing
        return seconds

    def ours(store: Checkpoints) -> Callable[[], object]:
        store.save(step, state)
        return store.wait

    def torchs() -> Callable[[], object]:
        path = Path(folder, "torch", str(step))
        future = async_save(state, checkpoint_id=path, process_group=group)
        assert isinstance(future, Future)  # another kind of stager would give a pair of them

        def finish() -> None:
            future.result()
            dist.barrier()
            shutil.rmtree(path, ignore_errors=True)

        return finish

    return take_turns(
        [
            lambda: timed(lambda: ours(stores[0])),
            lambda: timed(lambda: ours(stores[1])),
            lambda: timed(torchs),
        ],
        lambda times: len(times[0]) >= ROUNDS,
        least=ROUNDS,
    )
