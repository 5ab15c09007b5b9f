"""A training step over time: the pipeline's schedule, in the seconds of the step model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distlab.predict.kernels import layer_time, output_time
from distlab.predict.plots.chart import Chart
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

    @property
    def idle_share(self) -> float:
        """Of the first stage's time in the schedule that is shown."""
        return idle_s(self.plan) / max(slot.end_s for slot in self.plan)

    def in_words(self) -> str:
        count = f"{self.of_stages} pipeline stages and {self.micro_batches} micro-batches"
        idle = f"the first stage is idle for {self.idle_share:.0%} of it"
        return f"{self.title}. Above, a schedule of {count}: {idle}. Below: {self.terms.in_words()}"


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
    cut = "" if shown == m else f" The first {shown} of {m} micro-batches: of the whole step less is idle."
    left_out = "" if rows == p else f" {rows} of {p} stages."
    caption = (
        f"Predicted, schedule {layout.schedule}; F forward, B backward, W gradients of weights that are put off; blank "
        f"is idle.{cut}{left_out} Below, what the whole step adds up to."
    )
    terms = step_waterfall(found)
    return StepChart(title, caption, stages, p, shown, m, plan, replace(terms, title="The whole step"))


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
