"""torch's trackers of tensors (torch.distributed._tools, private), run ahead in one process: the other ranks are a
process group that sends nothing.

`FSDPMemTracker` follows ZeRO 3, `MemTracker` the rest. It is the same program, and the same tracker, that measured the
runs; what is new here is that no other rank is needed. DistributedDataParallel works on no such group (nor on fake
tensors): plain data parallelism is tracked as one process, without the buckets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from distlab.predict.peers import Estimator, apart
from distlab.predict.validation import MemoryRun, Scored

OPTIMIZERS = {"adamw": ("adamw", 0.0), "sgd": ("sgd", 0.0), "sgd_momentum": ("sgd", 0.9)}
"""distlab.train's name and momentum."""

PRECISIONS = {"fp32": "fp32", "autocast": "bf16", "mixed": "bf16"}

STATES = ("Parameter", "Gradient", "Optstate", "Sharded Param", "Sharded Grad", "OptState")
"""Kinds of tensors that are kept between steps, as MemTracker and FSDPMemTracker call them."""

WHOLE_WEIGHTS = "Unsharded Param"
"""What FSDP's root keeps gathered while activations are counted."""


def estimator(cells: Sequence[Scored]) -> Estimator:
    """ImportError where torch is not installed."""
    for name in ("mem_tracker", "fsdp2_mem_tracker"):
        apart.module(f"torch.distributed._tools.{name}")

    def predict(cell: Scored) -> float | None:
        run = cell.inputs
        if cell.kind not in ("states", "activations", "peak") or not isinstance(run, MemoryRun):
            return None
        return _tracked(_one(run))[cell.kind] if _runs(run) else None

    return predict


WORK_MOST = 1e10
"""Parameters times tokens of a rank's step: what is more would take minutes on a CPU, for it is really computed."""


def _runs(run: MemoryRun) -> bool:
    """Whether distlab.train has such a run: its own GPT, small, in data parallel or sharded."""
    model, layout, settings = run.model, run.layout, run.settings
    if model.parameters * layout.micro_batch * layout.micro_batches * model.sequence > WORK_MOST:
        return False
    plain = model.biases or model.learned_positions or model.gated or model.experts > 1
    return not plain and (
        layout.gpus == layout.data
        and layout.zero_stage in (0, 3)
        and settings.offload == "none"
        and settings.optimizer in OPTIMIZERS
        and settings.precision in PRECISIONS
    )


def _one(run: MemoryRun) -> MemoryRun:
    """Plain data parallelism as one process: the same whatever the ranks."""
    layout = run.layout
    if layout.zero_stage == 3:
        return run
    return replace(run, layout=replace(layout, data=1, global_batch=layout.global_batch // layout.data))


@cache
def _tracked(run: MemoryRun) -> Mapping[str, float]:
    """Bytes of states, of what a forward pass leaves, and at the peak, over a step with the optimizer's state there."""
    sharded = run.layout.zero_stage == 3
    with _ranks(run.layout.data) if sharded else contextlib.nullcontext():
        strategy = _strategy(run)
        if sharded:
            from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

            tracker: Any = FSDPMemTracker(strategy.model, strategy.optimizer)
        else:
            from torch.distributed._tools.mem_tracker import MemTracker

            tracker = MemTracker()
            tracker.track_external(strategy.model, strategy.optimizer)
        with tracker:
            _step(strategy, tracker, run)
        with tracker:  # its peak begins again
            return _step(strategy, tracker, run)


@contextlib.contextmanager
def _ranks(count: int) -> Iterator[None]:
    """Rank 0 of so many, of which the others do not exist."""
    from torch import distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _strategy(run: MemoryRun) -> Any:
    """distlab.train's, prepared: its model and its optimizer are made."""
    import torch

    from distlab.train.config import DataConfig, MemoryConfig, ModelConfig, OptimizerConfig, TrainConfig
    from distlab.train.models import build_model
    from distlab.train.strategies import build_strategy

    model, settings = run.model, run.settings
    name, momentum = OPTIMIZERS[settings.optimizer]
    config = TrainConfig(
        strategy="fsdp" if run.layout.zero_stage == 3 else "single",
        model=ModelConfig("gpt", model.hidden, model.layers, model.heads, tied=model.tied_embedding),
        data=DataConfig("synthetic"),
        optimizer=OptimizerConfig(
            name,  # type: ignore[arg-type]
            "fused" if settings.fused_optimizer else "foreach",
            momentum=momentum,
        ),
        memory=MemoryConfig(PRECISIONS[settings.precision], run.layout.recompute),  # type: ignore[arg-type]
    )
    strategy = build_strategy(config, torch.device("cpu"))
    strategy.prepare(build_model(config.model, config.seed))
    return strategy


def _step(strategy: Any, tracker: Any, run: MemoryRun) -> Mapping[str, float]:
    import torch

    from distlab.train.strategies.base import Batch

    shape = run.layout.micro_batch, run.model.sequence
    count = run.layout.micro_batches
    micro_batches = [
        (torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)) for _ in range(count)
    ]
    if hasattr(tracker, "track_inputs"):
        tracker.track_inputs(micro_batches)
    forward, backward = strategy.forward, strategy.backward
    kept: list[float] = []

    def activations() -> float:
        held = _held(tracker)
        return held["Total"] - held.get(WHOLE_WEIGHTS, 0)

    def forward_watched(inputs: torch.Tensor) -> Any:
        tracker.reset_mod_stats()  # it refuses a second pass over the same modules
        kept.append(-activations())
        return forward(inputs)

    def backward_watched(loss: torch.Tensor) -> None:
        kept[-1] += activations()
        backward(loss)

    strategy.forward, strategy.backward = forward_watched, backward_watched
    try:
        strategy.gradients(Batch(micro_batches, run.layout.global_batch * run.model.sequence, 0.0))
    finally:
        strategy.forward, strategy.backward = forward, backward
    full = _held(tracker)
    strategy.update(0.0)
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    states = sum(full.get(kind, 0) for kind in STATES)
    return {"states": float(states), "activations": kept[-1], "peak": float(peak["Total"])}


def _held(tracker: Any) -> Mapping[str, float]:
    (held,) = tracker.get_tracker_snapshot().values()
    return {str(getattr(kind, "value", kind)): size for kind, size in held.items()}
