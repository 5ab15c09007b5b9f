"""What ranks of real training hold, by torch's own trackers of tensors: the file own_memory.csv (see own_cases.py).

DDP is tracked by `MemTracker`, FSDP by `FSDPMemTracker`, over the second step that the tracker sees: the optimizer's
state is there. One `distlab.train` strategy after the other trains small GPTs on the CPU; byte for byte the same
whatever else the machine does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

RANKS = (1, 2, 4)

HELD = {
    "parameter_bytes": ("Parameter", "Sharded Param"),
    "gradient_bytes": ("Gradient", "Sharded Grad"),
    "optimizer_bytes": ("Optstate", "OptState"),
}
"""Column of the file: what MemTracker and FSDPMemTracker call it."""

WHOLE_WEIGHTS = "Unsharded Param"
"""FSDPMemTracker's name for what the root module keeps gathered while activations are counted."""


@dataclass(frozen=True)
class Case:
    """A small GPT and how it is trained; `micro_batch` samples in each of `micro_batches` passes on each rank."""

    strategy: str = "ddp"
    layers: int = 3
    hidden: int = 64
    heads: int = 4
    sequence: int = 32
    tied: bool = True
    micro_batch: int = 16
    micro_batches: int = 1
    optimizer: str = "adamw"
    momentum: float = 0.0
    implementation: str = "fused"
    precision: str = "fp32"
    recompute: str = "none"


SETTINGS = (
    Case(),
    Case(precision="bf16"),
    Case(implementation="foreach", recompute="full"),
    Case(micro_batches=3),
    Case(precision="bf16", recompute="full", micro_batches=2),
    Case(optimizer="sgd", momentum=0.9, implementation="foreach"),
)
"""Of all strategies; the first `OF_ALL_SHAPES` with all shapes, the others with the first."""
OF_ALL_SHAPES = 2

SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"layers": 2, "hidden": 96, "heads": 6, "sequence": 64, "micro_batch": 8, "tied": False},
    {"layers": 6, "hidden": 128, "heads": 4, "sequence": 128, "micro_batch": 2},
)

DDP_ALONE = (
    Case(optimizer="adafactor", implementation="foreach"),
    Case(optimizer="sgd", implementation="foreach"),
)
"""adafactor's row and column means need whole matrices."""


def cases() -> list[Case]:
    found = []
    for strategy in ("ddp", "fsdp"):
        for number, shape in enumerate(SHAPES):
            settings = SETTINGS if number == 0 else SETTINGS[:OF_ALL_SHAPES]
            found += [replace(case, strategy=strategy, **shape) for case in settings]
    return [*found, *DDP_ALONE]


def rows(ranks: int, chosen: list[Case]) -> list[dict[str, Any]]:
    """Each case on so many processes: the most that a rank held, in bytes. (All hold the same, by divisible sizes.)"""
    from distlab.train.launch import launch
    from distlab.train.models import VOCABULARY

    by_rank = launch(_measure, ranks, chosen, backend="gloo", threads_per_rank=1, timeout_s=120)
    found = []
    for case, held in zip(chosen, zip(*by_rank, strict=True), strict=True):
        most = {name: max(rank[name] for rank in held) for name in held[0]}
        found.append({"ranks": ranks, "vocabulary": VOCABULARY, **asdict(case), **most})
    return found


def _measure(chosen: list[Case]) -> list[dict[str, int]]:
    return [_track(case) for case in chosen]


def _track(case: Case) -> dict[str, int]:
    """On one rank: bytes of states, of what the forward pass leaves for the backward pass, and at the peak."""
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed._tools.mem_tracker import MemTracker

    from distlab.train.config import DataConfig, MemoryConfig, ModelConfig, OptimizerConfig, TrainConfig
    from distlab.train.launch import device
    from distlab.train.models import build_model
    from distlab.train.strategies import build_strategy

    config = TrainConfig(
        strategy=case.strategy,  # type: ignore[arg-type]
        model=ModelConfig("gpt", case.hidden, case.layers, case.heads, tied=case.tied),
        data=DataConfig("synthetic"),
        optimizer=OptimizerConfig(case.optimizer, case.implementation, momentum=case.momentum),  # type: ignore[arg-type]
        memory=MemoryConfig(case.precision, case.recompute),  # type: ignore[arg-type]
    )
    strategy = build_strategy(config, device())

    def ready() -> None:
        strategy.prepare(build_model(config.model, config.seed))

    if case.strategy == "fsdp":
        ready()
        tracker: Any = FSDPMemTracker(strategy.model, strategy.optimizer)
        with tracker:
            _step(strategy, tracker, case)
    else:
        tracker = MemTracker()
        with tracker:  # DDP's buckets are seen only where they are made in sight of it
            ready()
            _step(strategy, tracker, case)
            _step(strategy, tracker, case)  # after the first backward pass DDP makes its buckets anew
    with tracker:  # its peak begins again
        return _step(strategy, tracker, case)


def _step(strategy: Any, tracker: Any, case: Case) -> dict[str, int]:
    """One optimizer step, and what the tracker saw of it."""
    import torch
    import torch.distributed as dist

    from distlab.train.strategies.base import Batch

    def tokens() -> torch.Tensor:
        return torch.zeros(case.micro_batch, case.sequence, dtype=torch.long)

    micro_batches = [(tokens(), tokens()) for _ in range(case.micro_batches)]
    count = dist.get_world_size() * case.micro_batches * case.micro_batch * case.sequence
    if hasattr(tracker, "track_inputs"):
        tracker.track_inputs(micro_batches)
    forward, backward = strategy.forward, strategy.backward
    before: list[dict[str, int]] = []
    after: list[dict[str, int]] = []

    def forward_watched(inputs: torch.Tensor) -> Any:
        tracker.reset_mod_stats()  # it refuses a second pass over the same modules
        before.append(_now(tracker))
        return forward(inputs)

    def backward_watched(loss: torch.Tensor) -> None:
        after.append(_now(tracker))
        backward(loss)

    strategy.forward, strategy.backward = forward_watched, backward_watched
    try:
        strategy.gradients(Batch(micro_batches, count, 0.0))
    finally:
        strategy.forward, strategy.backward = forward, backward
    full = _now(tracker)
    strategy.update(0.0)
    held = {column: _of(full, names) for column, names in HELD.items()}
    kept = after[-1]["Total"] - _of(after[-1], (WHOLE_WEIGHTS,)) - before[-1]["Total"]
    kept += _of(before[-1], (WHOLE_WEIGHTS,))
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return held | {"activation_bytes": kept, "peak_bytes": int(peak["Total"])}


def _now(tracker: Any) -> dict[str, int]:
    (held,) = tracker.get_tracker_snapshot().values()
    return {str(getattr(kind, "value", kind)): size for kind, size in held.items()}


def _of(held: dict[str, int], names: tuple[str, ...]) -> int:
    return sum(held.get(name, 0) for name in names)
