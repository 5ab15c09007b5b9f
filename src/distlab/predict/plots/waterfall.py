"""Terms that add up: what a training step's memory consists of, and where its time goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlab.predict.plots.chart import Chart, Mark, in_short, predicted, time_unit
from distlab.predict.units import GIB

if TYPE_CHECKING:
    from distlab.predict.hardware import Accelerator
    from distlab.predict.step_time import StepTime
    from distlab.predict.training_memory import TrainingMemory
    from distlab.predict.transformer import Layout

LEAST_SHARE = 0.004
"""Of the total: smaller terms of a kind are drawn as one."""

MEMORY_KINDS = ("states", "activations", "loss", "buffers", "fragmentation")
"""From the top down."""

COMPUTING, COMMUNICATION, WAITING = STEP_KINDS = ("computing", "communication", "waiting")
_OF_STEP = {
    "matrix products": COMPUTING,
    "element-wise": COMPUTING,
    "recomputation": COMPUTING,
    "output layer": COMPUTING,
    "optimizer": COMPUTING,
    "pipeline bubble": WAITING,
    "data loading": WAITING,
}


def kind_of(term: str) -> str:
    """Of a step's term, by its name."""
    return _OF_STEP.get(term, COMMUNICATION)


@dataclass(frozen=True)
class Bar:
    """A term: from `start` to `start` + `length`, in the unit of its chart."""

    name: str
    kind: str
    start: float
    length: float


@dataclass(frozen=True)
class Waterfall(Chart):
    """Each bar begins where the one before it ends; the last ends at `total`."""

    unit: str
    bars: tuple[Bar, ...]
    kinds: tuple[str, ...]
    limit: Mark | None = None
    """What the total must not pass."""

    @property
    def total(self) -> float:
        return sum(bar.length for bar in self.bars)

    def in_words(self) -> str:
        terms = ", ".join(f"{bar.name} {bar.length:.3g}" for bar in self.bars)
        limit = ""
        if self.limit is not None:
            verb = "within" if self.total <= self.limit.x else "beyond"
            limit = f" That is {verb} what is {self.limit.label}."
        return f"{self.heading}. Bars that add up to {self.total:.4g} {self.unit}: {terms}.{limit}"


def memory_waterfall(
    found: TrainingMemory,
    gpu: Accelerator | None = None,
    title: str = "Memory of a training step",
    layout: Layout | None = None,
) -> Waterfall:
    """The terms at the peak, by kind, in GiB; with `gpu` also the line that they must stay below.

    layout: the one that `found` is of, to be named.
    """
    rows = [(str(row["term"]), str(row["kind"]), float(row["bytes"]) / GIB) for row in found.as_rows()]
    limit = None
    if gpu is not None:
        size = gpu.usable.value
        limit = Mark(f"usable: {size.in_gibibytes:.4g} GiB", size.in_gibibytes)
    caption = (
        f"Fullest at: {found.peak.name}, on pipeline rank {found.rank}. The context of CUDA, workspaces of "
        "libraries and NCCL's buffers come on top."
    )
    about = predicted("" if layout is None else in_short(layout), "" if gpu is None else gpu.title)
    bars = _stacked(rows, MEMORY_KINDS)
    return Waterfall(title, caption, "GiB", bars, MEMORY_KINDS, limit, about=about)


def step_waterfall(found: StepTime, title: str = "Where the time of a step goes") -> Waterfall:
    """The terms of a step in the order of the model, in a unit that fits."""
    unit, per_s = time_unit(found.step_s)
    rows = [(term.name, kind_of(term.name), term.seconds * per_s) for term in found.terms if term.seconds]
    caption = f"MFU {found.mfu:.1%}. Communication is what computing does not hide."
    return Waterfall(
        title, caption, unit, _stacked(rows, STEP_KINDS), STEP_KINDS, about=predicted(in_short(found.layout))
    )


def _stacked(rows: list[tuple[str, str, float]], kinds: tuple[str, ...]) -> tuple[Bar, ...]:
    """One bar after the other, kind by kind, in the order given within a kind; small ones of a kind together."""
    least = LEAST_SHARE * sum(length for _, _, length in rows)
    bars: list[Bar] = []
    at = 0.0
    for kind in kinds:
        own = [(name, length) for name, of, length in rows if of == kind and length > 0]
        small = [(name, length) for name, length in own if length < least]
        shown = [pair for pair in own if pair[1] >= least]
        if len(small) == 1:
            shown.append(small[0])
        elif small:
            shown.append((f"{len(small)} small ones, {kind}", sum(length for _, length in small)))
        for name, length in shown:
            bars.append(Bar(name, kind, at, length))
            at += length
    return tuple(bars)
