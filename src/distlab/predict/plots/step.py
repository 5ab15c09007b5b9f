"""A training step over time: the pipeline's schedule, in the seconds of the step model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distlab.predict.kernels import layer_time, output_time
from distlab.predict.plots.chart import Chart, in_short, predicted, time_text
from distlab.predict.plots.timeline import Durations, Slot, idle_s, schedule
from distlab.predict.plots.waterfall import Waterfall, step_waterfall

if TYPE_CHECKING:
    from distlab.predict.cluster import Cluster
    from distlab.predict.step_time import Software, StepTime
    from distlab.predict.transformer import Layout, Transformer

MOST_STAGES = 16
"""Rows of the figure: of more stages some are left out, evenly."""
MOST_SLOTS = 3000
"""Pieces of work that are drawn; of longer steps the first micro-batches alone."""

PER_MICRO_BATCH = (
    "matrix products", "element-wise", "recomputation", "tensor parallel", "expert parallel", "context parallel",
    "pipeline sends",
)  # fmt: skip
"""Terms of the step model that each micro-batch costs each stage."""
OUTSIDE = ("parameter gathering", "gradient reduction", "optimizer", "data loading")
"""Terms before and after the schedule."""


@dataclass(frozen=True)
class StepChart(Chart):
    """The schedule above, where the time goes below. `plan` is in seconds; `terms` has the whole step."""

    stages: tuple[int, ...]
    """That are shown, of all."""
    of_stages: int
    micro_batches: int
    """That are shown."""
    of_micro_batches: int
    plan: tuple[Slot, ...]
    terms: Waterfall
    step_s: float
    """Of the whole step: what the schedule and `outside` take."""
    outside: tuple[str, ...]
    """Terms before and after the schedule."""

    @property
    def whole(self) -> bool:
        """The schedule is shown to its end, so that both parts have one axis."""
        return self.micro_batches == self.of_micro_batches

    @property
    def idle_share(self) -> float:
        """Of the first stage's time in the schedule that is shown."""
        return idle_s(self.plan) / max(slot.end_s for slot in self.plan)

    def in_words(self) -> str:
        count = f"{self.of_stages} pipeline stages and {self.micro_batches} micro-batches"
        idle = f"the first stage is idle for {self.idle_share:.0%} of it"
        return f"{self.heading}. Above, a schedule of {count}: {idle}. Below: {self.terms.in_words()}"


def step_chart(
    model: Transformer,
    layout: Layout,
    cluster: Cluster,
    software: Software,
    found: StepTime,
    title: str = "A training step over time",
) -> StepChart:
    """`found` is `predict_step` of the rest."""
    m, p = layout.micro_batches, layout.pipeline
    rows = min(p, MOST_STAGES)
    stages = tuple(sorted({round(i * (p - 1) / max(1, rows - 1)) for i in range(rows)}))
    per_micro_batch = rows * (1 if layout.schedule == "zero_bubble" else layout.interleave) * 3
    shown = min(m, max(1, MOST_SLOTS // per_micro_batch))
    if shown < m and layout.interleave > 1:  # whole groups, as the schedule wants them
        shown = max(p, shown // p * p)
    times = durations(model, layout, cluster, software, found)
    plan = schedule(p, shown, times, layout.schedule, layout.interleave)
    split = any(slot.work == "weights" for slot in plan)
    weights = ", W gradients of weights that are put off" if split else ""
    cut = (
        ""
        if shown == m
        else f" Shown are the first {shown} of {m} micro-batches: of the whole step less is idle."
    )
    left_out = "" if rows == p else f" Shown are {rows} of {p} stages."
    outside = tuple(term.name for term in found.terms if term.name in OUTSIDE and term.seconds)
    grey = f"; grey: {', '.join(outside)}" if outside and shown == m else ""
    caption = (
        f"Schedule {layout.schedule}; F forward, B backward{weights}; blank is idle{grey}.{cut}{left_out}"
        f"{_why_idle(plan, found)} Below, what the whole step adds up to; MFU {found.mfu:.1%}."
    )
    terms = replace(step_waterfall(found), title="The whole step", about="")
    about = predicted(in_short(layout), cluster.name)
    return StepChart(title, caption, stages, p, shown, m, plan, terms, found.step_s, outside, about=about)


def _why_idle(plan: Sequence[Slot], found: StepTime) -> str:
    """Why the first stage idles for longer than the bubble of the sum is.

    Every stage idles for the bubble; the sum has the output layer as work, which only the last stage does.
    """
    bubble_s = idle_s(plan, found.layout.pipeline - 1)
    output_s = idle_s(plan) - bubble_s
    if found.layout.pipeline == 1:
        return ""
    share = idle_s(plan) / max(slot.end_s for slot in plan)
    return (
        f" Stage 0 idles for {share:.0%} of the schedule: {time_text(bubble_s)} of bubble, which the last stage has, "
        f"too, and {time_text(output_s)} in which only the last stage has work, the output layer."
    )


def durations(
    model: Transformer, layout: Layout, cluster: Cluster, software: Software, found: StepTime
) -> Durations:
    """What a micro-batch takes each stage: the step's own terms, divided between the passes as their work is.

    Sends and collectives are divided in the same proportion, which they are not quite.
    """
    m = layout.micro_batches
    seconds = {term.name: term.seconds for term in found.terms}
    stage_s = sum(seconds[name] for name in PER_MICRO_BATCH) / m
    layer = layer_time(model, layout, cluster.device, software.kernels)
    again_s = seconds["recomputation"] / (m * (model.layers // layout.pipeline))
    share = layer.forward_s / (layer.forward_s + layer.backward_s + again_s)
    forward_s, backward_s = output_time(model, layout, cluster.device)
    output_s = seconds["output layer"] / m
    output_share = forward_s / (forward_s + backward_s)
    return Durations(
        share * stage_s,
        (1 - share) * stage_s,
        model.layers // layout.pipeline * layer.weight_products_s,
        output_share * output_s,
        (1 - output_share) * output_s,
    )
