"""Diagrams over time of several workers: pipeline schedules, and three ways to synchronise. Simulated, then drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen
from distlab.predict.plots.timeline import Durations, schedule
from distlab.predict.transformer import Schedule

KINDS: tuple[tuple[str, Schedule, int], ...] = (
    ("1F1B", "1f1b", 1),
    ("interleaved, 2 chunks", "interleaved", 2),
    ("zero-bubble (ZB-H1)", "zero_bubble", 1),
)

TINTS = {"forward": BLUE, "backward": GREEN, "weights": PURPLE}


def pipeline_schedules(stages: int = 4, micro_batches: int = 8) -> Figure:
    """Three schedules of one step on one scale of time: a forward takes 1, a backward 2, half of it for weights."""
    times = Durations(forward_s=1.0, backward_s=2.0, weights_s=1.0)
    plans = [schedule(stages, micro_batches, times, kind, chunks) for _, kind, chunks in KINDS]
    end = max(slot.end_s for plan in plans for slot in plan)
    row, scale = 17, 376 / end
    panel = stages * row + 30
    pen = Pen(440, panel * len(plans) + 24)
    said = []
    for number, ((name, _, _), plan) in enumerate(zip(KINDS, plans, strict=True)):
        y0 = 20 + number * panel
        whole = max(slot.end_s for slot in plan)
        busy = sum(slot.end_s - slot.start_s for slot in plan) / (stages * whole)
        pen.text(4, y0 - 5, name, anchor="start", size=12, bold=True)
        pen.text(436, y0 - 5, f"idle {1 - busy:.0%}", anchor="end", size=12, bold=True)
        said.append(f"{name} {1 - busy:.0%}")
        for stage in range(stages):
            pen.text(50, y0 + stage * row + 12, f"stage {stage}", anchor="end", size=11)
        for slot in plan:
            x, width = 58 + slot.start_s * scale, (slot.end_s - slot.start_s) * scale
            y = y0 + slot.stage * row
            pen.rect(
                x,
                y,
                width - 0.6,
                row - 3,
                TINTS[slot.work],
                opacity=0.3,
                rounded=0,
                dash=slot.work == "weights",
            )
            if width >= 9:
                pen.text(x + width / 2, y + 11, str(slot.micro_batch), size=10)
    y = panel * len(plans) + 16
    for x, word, work in (
        (58, "forward", "forward"),
        (138, "backward", "backward"),
        (228, "weights alone", "weights"),
    ):
        pen.rect(x, y - 10, 13, 11, TINTS[work], opacity=0.3, rounded=0, dash=work == "weights")
        pen.text(x + 18, y, word, anchor="start", size=12)
    return pen.figure(
        f"Three time lines of {stages} stages and {micro_batches} micro-batches. Idle: {', '.join(said)}. Interleaving "
        "makes the staircases at both ends thinner; zero-bubble fills the one at the end with gradients of weights.",
        f"Pipeline schedules, {stages} stages, {micro_batches} micro-batches (numbers), one scale of time. Simulated: "
        "a forward takes 1, a backward 2; zero-bubble puts off its half for the weights (dashed). Sends take no time.",
    )


class Bar(NamedTuple):
    """A worker's step, or what it waits for, in units of time."""

    worker: int
    start: float
    end: float
    waits: bool


def synchronous(step_times: Sequence[float], exchange: float, until: float, every: int = 1) -> list[Bar]:
    """Workers that meet after every so many of their steps; an exchange follows each meeting."""
    bars, start = [], 0.0
    while start < until:
        meeting = start + every * max(step_times)
        for worker, step in enumerate(step_times):
            bars += [Bar(worker, start + i * step, start + (i + 1) * step, False) for i in range(every)]
            if every * step < every * max(step_times):
                bars.append(Bar(worker, start + every * step, meeting, True))
        start = meeting + exchange
    return [bar for bar in bars if bar.end <= until]


def asynchronous(step_times: Sequence[float], until: float) -> list[Bar]:
    """Workers that never wait."""
    return [
        Bar(worker, i * step, (i + 1) * step, False)
        for worker, step in enumerate(step_times)
        for i in range(int(until / step))
    ]


def synchrony(step_times: Sequence[float] = (1.0, 1.0, 1.5), until: float = 12.8) -> Figure:
    """The same workers, one slower, under three rules of when to meet."""
    panels = (
        ("synchronous: meet every step", synchronous(step_times, 0.2, until)),
        ("local SGD: meet every 4 steps", synchronous(step_times, 0.2, until, every=4)),
        ("asynchronous: never meet", asynchronous(step_times, until)),
    )
    scale, row = 366 / until, 20
    panel = len(step_times) * row + 32
    pen = Pen(440, panel * len(panels) + 22)
    said = []
    for number, (name, bars) in enumerate(panels):
        y0 = 22 + number * panel
        steps = sum(not bar.waits for bar in bars)
        said.append(f"{name}, {steps} steps")
        pen.text(4, y0 - 6, name, anchor="start", size=12, bold=True)
        pen.text(436, y0 - 6, f"{steps} steps done", anchor="end", size=12)
        for worker in range(len(step_times)):
            pen.text(58, y0 + worker * row + 13, f"worker {worker}", anchor="end", size=11)
        for bar in bars:
            x, width = 66 + bar.start * scale, (bar.end - bar.start) * scale
            colour = RED if bar.waits else BLUE
            pen.rect(
                x, y0 + bar.worker * row, width - 1, row - 4, colour, opacity=0.12 if bar.waits else 0.35,
                rounded=0, dash=bar.waits,
            )  # fmt: skip
    y = panel * len(panels) + 14
    pen.rect(66, y - 10, 14, 11, BLUE, opacity=0.35, rounded=0)
    pen.text(86, y, "a step", anchor="start", size=12)
    pen.rect(150, y - 10, 14, 11, RED, opacity=0.12, rounded=0, dash=True)
    pen.text(170, y, "waits for the slowest; gaps: exchange", anchor="start", size=12)
    return pen.figure(
        f"Three time lines of {len(step_times)} workers, the last one slower. {'; '.join(said)}. In the first the fast "
        "workers wait in every step, in the second once every four, in the third never.",
        f"{len(step_times)} workers whose steps take {', '.join(f'{step:g}' for step in step_times)}, and an exchange "
        "of 0.2, over the same time. Simulated. Steps done are not progress made: asynchronous ones use old weights.",
    )
