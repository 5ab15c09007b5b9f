"""What a training run's log shows: where the time of a step went, and how the loss fell.

run_log(read_log("runs/fsdp_2gpu"))
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from distlab.figures.figure import BLUE, GREEN, RED, Figure
from distlab.figures.plots import drawing, finished

if TYPE_CHECKING:
    from distlab.train.records import LogLine

MOST_POINTS = 150
"""A longer log is drawn as means of neighbouring steps."""

PARTS = {"compute": BLUE, "data": GREEN, "communication": RED}
"""From the bottom up, with their colours; the caption says the order in words."""


def run_log(lines: Sequence[LogLine], rank: int = 0) -> Figure:
    """Step time of one rank, stacked from its parts, above the loss of the same steps.

    lines: of `distlab.train.records.read_log`. The first step, which also sets things up, is not drawn.
    ValueError where the rank has no further step.
    """
    own = [line for line in lines if line.rank == rank][1:]
    if not own:
        raise ValueError(f"The log has fewer than two steps of rank {rank}; there is nothing to draw.")
    width = -(-len(own) // MOST_POINTS)
    groups = [own[start : start + width] for start in range(0, len(own), width)]
    steps = [fmean(line.step for line in group) for group in groups]
    parts_ms = {
        name: [1e3 * fmean(getattr(line, f"{name}_s") for line in group) for group in groups]
        for name in PARTS
    }
    mean_ms = {name: 1e3 * fmean(getattr(line, f"{name}_s") for line in own) for name in PARTS}
    step_ms = 1e3 * fmean(line.step_s for line in own)
    split = ", ".join(f"{name} {mean_ms[name]:.2g}" for name in PARTS)
    alt = (
        f"Two plots over steps {own[0].step} to {own[-1].step}. Above, the time of a step: on average "
        f"{step_ms:.3g} ms ({split}). Below, the loss: {own[0].loss:.3g} at first, {own[-1].loss:.3g} at last."
    )
    with drawing(alt, height=4.2) as canvas:
        above, below = canvas.subplots(2, sharex=True)
        above.stackplot(steps, *parts_ms.values(), labels=PARTS, colors=PARTS.values(), alpha=0.45)
        above.set(ylabel="step (ms)", ylim=(0, None))
        above.legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        below.plot(steps, [fmean(line.loss for line in group) for group in groups], color=BLUE, lw=1.8)
        below.set(ylabel="loss", xlabel="step")
        for axes in (above, below):
            axes.grid(True)
            axes.spines[["top", "right"]].set_visible(False)
        caption = (
            f"Rank {rank} of {own[-1].world_size} ({own[-1].tier} tier), as logged. Time from the bottom up: "
            "computing, fetching data, waiting for other ranks."
        )
        return finished(canvas, alt, caption + (f" Means of {width} steps." if width > 1 else ""))
