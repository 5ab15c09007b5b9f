"""Does a training step fit into a GPU: one rule for every command; and the cheapest changes that make it fit.

room = Room("h100", memory_bytes)              # RESERVE_BYTES of it are kept for what is no tensor
room.line(memory.reserved_bytes)               # "Fits into h100: ..." or "DOES NOT FIT into h100: ..."
ways_out(model, layout, settings, room)        # [] where nothing near fits
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from distlab.errors import SettingError
from distlab.predict.commands.show import gib, gpus
from distlab.predict.memory import RESERVE_BYTES

if TYPE_CHECKING:
    from distlab.predict.states import MemorySettings
    from distlab.predict.transformer import Layout, Transformer

MOST_TENSOR = 8
"""Ranks of tensor parallelism that are tried: those of a node with NVLink."""
MOST_STAGES = 16
"""Times the layout's own pipeline."""
MOST_CHANGES = 3
"""Fields changed together, where fewer do not help."""
SHOWN = 3


@dataclass(frozen=True)
class Room:
    """What a GPU has for the tensors of a step."""

    gpu: str
    memory_bytes: float
    """That programs can have."""
    reserve_bytes: float = RESERVE_BYTES

    def __post_init__(self) -> None:
        if not self.reserve_bytes >= 0:
            raise SettingError(f"reserve_bytes is {self.reserve_bytes:g}; it must be 0 or more.")

    @property
    def usable_bytes(self) -> float:
        return max(0.0, self.memory_bytes - self.reserve_bytes)

    def fits(self, taken_bytes: float) -> bool:
        return taken_bytes <= self.usable_bytes

    def line(self, taken_bytes: float) -> str:
        """The verdict, loud where it is no."""
        usable = (
            f"{gib(taken_bytes)} of {gib(self.usable_bytes)} GiB usable ({gib(self.memory_bytes)} less "
            f"{gib(self.reserve_bytes)} for context and buffers)"
        )
        left = self.usable_bytes - taken_bytes
        if left >= 0:
            return f"Fits into {self.gpu}: {usable}."
        return f"DOES NOT FIT into {self.gpu}: {usable}, {gib(-left)} GiB too much."

    def as_json(self, taken_bytes: float, ways: Sequence[WayOut] = ()) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "gpu_bytes": self.memory_bytes,
            "reserve_bytes": self.reserve_bytes,
            "usable_bytes": self.usable_bytes,
            "reserved_bytes": taken_bytes,
            "fits": self.fits(taken_bytes),
            "ways_out": [way.as_json() for way in ways],
        }


class WayOut(NamedTuple):
    """A layout near the one asked for that fits."""

    changes: Mapping[str, Any]
    """Fields with their new values."""
    layout: Layout
    reserved_bytes: float
    gpu_time: float | None
    """GPU-seconds of a step over those of the layout asked for; None where no cluster is known."""

    def __str__(self) -> str:
        changes = " and ".join(f"{name} {value}" for name, value in self.changes.items())
        slower = "" if self.gpu_time is None else f", GPU time x {self.gpu_time:.3g}"
        return f"{changes} ({self.reserved_bytes / 2**30:,.1f} GiB on {gpus(self.layout.gpus)}{slower})"

    def as_json(self) -> dict[str, Any]:
        return {
            "changes": dict(self.changes),
            "gpus": self.layout.gpus,
            "reserved_bytes": self.reserved_bytes,
            "gpu_time": self.gpu_time,
        }


def ways_out(
    model: Transformer,
    layout: Layout,
    settings: MemorySettings,
    room: Room,
    step_s: Callable[[Layout], float] | None = None,
) -> list[WayOut]:
    """The cheapest changes with which the step fits: of one field, else of two, else of three, until one needs no
    more GPUs.

    Tried are stronger recomputation and ZeRO, smaller micro-batches, and more tensor and pipeline ranks, which take the
    place of data-parallel ones where those divide, and are more GPUs where not. With `step_s` the cheapest takes the
    fewest GPU-seconds for the same batch; without, the fewest GPUs, then the least memory saved beyond the need.
    """
    asked_s = None if step_s is None else step_s(layout) * layout.gpus

    def gpu_time(other: Layout) -> float | None:
        return None if step_s is None or asked_s is None else step_s(other) * other.gpus / asked_s

    fields = _tried(layout, model)
    found: dict[tuple[str, ...], WayOut] = {}
    for together in range(1, MOST_CHANGES + 1):
        for names in combinations(fields, together):
            for values in product(*(fields[name] for name in names)):
                way = _way(model, layout, settings, room, dict(zip(names, values, strict=True)), gpu_time)
                if way is not None and (names not in found or _cost(way) < _cost(found[names])):
                    found[names] = way
        if any(way.layout.gpus <= layout.gpus for way in found.values()):
            break
    return sorted(found.values(), key=_cost)[:SHOWN]


def ways_line(ways: Sequence[WayOut], layout: Layout) -> str:
    """What to do about a step that does not fit."""
    if ways:
        return f"What fits, cheapest first: {'; '.join(map(str, ways))}."
    return (
        f"No change of up to {MOST_CHANGES} of recompute, zero_stage, micro_batch, tensor and pipeline fits: let "
        f"`distlab predict layout --gpus {4 * layout.gpus} --global-batch {layout.global_batch}` search."
    )


def _tried(layout: Layout, model: Transformer) -> dict[str, list[Any]]:
    """Values of each field that take less memory than the layout's own."""
    from distlab.predict.transformer import Recompute

    modes = get_args(Recompute)
    halves = [layout.micro_batch // 2**k for k in range(1, layout.micro_batch.bit_length())]
    return {
        "recompute": list(modes[modes.index(layout.recompute) + 1 :]),
        "zero_stage": list(range(layout.zero_stage + 1, 4)) if layout.data * layout.context > 1 else [],
        "micro_batch": [half for half in halves if layout.micro_batch % half == 0],
        "tensor": [layout.tensor * k for k in (2, 4, 8) if layout.tensor * k <= MOST_TENSOR],
        "pipeline": [
            layout.pipeline * k
            for k in range(2, MOST_STAGES + 1)
            if model.layers % (layout.pipeline * k * layout.interleave) == 0
        ],
    }


def _way(
    model: Transformer,
    layout: Layout,
    settings: MemorySettings,
    room: Room,
    changes: dict[str, Any],
    gpu_time: Callable[[Layout], float | None],
) -> WayOut | None:
    """None where it does not fit, or is no layout."""
    from distlab.predict.training_memory import training_memory

    parts = changes.get("tensor", layout.tensor) // layout.tensor
    parts *= changes.get("pipeline", layout.pipeline) // layout.pipeline
    data = layout.data // math.gcd(layout.data, parts)
    if data < layout.data and data % layout.expert == 0:
        changes["data"] = data
    try:
        other = replace(layout, **changes)
        if other.zero_stage and other.data * other.context == 1:
            return None  # nobody to share with
        taken = training_memory(model, other, settings).reserved_bytes
        if not room.fits(taken):
            return None
        return WayOut(changes, other, taken, gpu_time(other))
    except SettingError:
        return None


def _cost(way: WayOut) -> tuple[float, ...]:
    time = () if way.gpu_time is None else (way.gpu_time,)
    return (*time, way.layout.gpus, -way.reserved_bytes)
