"""Scaling curves of training: the same layout with more and more data-parallel ranks, weak and strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distlab.predict.plots.chart import Chart, in_short, predicted
from distlab.predict.scaling import strong_scaling_efficiency, weak_scaling_efficiency
from distlab.predict.search.space import divisors
from distlab.predict.step_time import predict_step

if TYPE_CHECKING:
    from distlab.predict.cluster import Cluster
    from distlab.predict.step_time import Software
    from distlab.predict.transformer import Layout, Transformer

BEYOND = 16
"""How far over the asked number of ranks the curves go, at least to 64 replicas."""
MOST_GPUS = 2**17


@dataclass(frozen=True)
class Size:
    """One number of GPUs."""

    gpus: int
    step_s: float
    efficiency: float
    """Against the smallest: 1.0 is a speed-up by the factor of GPUs (strong), or a step as long (weak)."""


@dataclass(frozen=True)
class Growth(Chart):
    """weak: every replica keeps its samples. strong: all of them share the asked batch."""

    weak: tuple[Size, ...]
    strong: tuple[Size, ...]
    asked_gpus: int

    def in_words(self) -> str:
        words = [self.heading + "."]
        for name, sizes in (("Weak", self.weak), ("Strong", self.strong)):
            first, last = sizes[0], sizes[-1]
            words.append(
                f"{name} scaling: a step takes {first.step_s:.3g} s on {first.gpus} GPUs and {last.step_s:.3g} s on "
                f"{last.gpus}, an efficiency of {last.efficiency:.0%}."
            )
        return " ".join(words)


def growth(
    model: Transformer,
    layout: Layout,
    cluster: Cluster,
    software: Software | None = None,
    title: str = "More data-parallel ranks",
) -> Growth:
    """From the fewest replicas that hold all experts, doubling. SettingError where model and layout do not fit."""
    least = layout.expert
    most = max(64 * least, BEYOND * layout.data)
    replica = layout.gpus // layout.data
    counts = {layout.data}
    data = least
    while data <= most and data * replica <= max(MOST_GPUS, layout.gpus):
        counts.add(data)
        data *= 2
    each = layout.global_batch // layout.data
    weak = [replace(layout, data=n, global_batch=n * each) for n in sorted(counts)]
    strong = [
        replace(layout, data=n)
        for n in sorted(counts | set(_divisors(layout.global_batch // layout.micro_batch)))
        if least <= n <= most and n % least == 0 and layout.global_batch % (n * layout.micro_batch) == 0
    ]
    size = f" of {replica} GPUs" if replica > 1 else ", one GPU"
    caption = (
        f"Weak: {each} samples on each replica{size}. Strong: {layout.global_batch:,} samples over all. "
        "Efficiency against the fewest GPUs; circle: the layout that was asked for."
    )

    def sizes(layouts: Sequence[Layout], *, strongly: bool) -> tuple[Size, ...]:
        steps = [predict_step(model, one, cluster, software).step_s for one in layouts]
        made = []
        for one, step_s in zip(layouts, steps, strict=True):
            if strongly:
                share = strong_scaling_efficiency(steps[0], step_s, 1) * layouts[0].gpus / one.gpus
            else:
                share = weak_scaling_efficiency(steps[0], step_s)
            made.append(Size(one.gpus, step_s, share))
        return tuple(made)

    curves = sizes(weak, strongly=False), sizes(strong, strongly=True)
    about = predicted(in_short(layout), cluster.name)
    return Growth(title, caption, *curves, layout.gpus, about=about)


def _divisors(number: int) -> list[int]:
    """All of a number up to a million; of a larger one the powers of two among them."""
    if number > 10**6:
        return [2**i for i in range(number.bit_length()) if number % 2**i == 0]
    return list(divisors(number))
