"""What GPUs' telemetry shows over time, and side by side. Every figure says whose numbers it holds: which tier.

telemetry(simulate("overheating", seconds=300), ["temperature_C", "sm_clock_MHz"], gpus=[0, 1])
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure
from distlab.figures.plots import drawing, finished

if TYPE_CHECKING:
    from distlab.observe.sample import GpuSample, Reading

AXES = {
    "utilization_percent": ("busy (%)", 1.0),
    "memory_used_bytes": ("memory (GB)", 1e-9),
    "tensor_active": ("tensor (%)", 100.0),
    "dram_active": ("DRAM (%)", 100.0),
    "power_W": ("power (W)", 1.0),
    "temperature_C": ("die (°C)", 1.0),
    "sm_clock_MHz": ("clock (MHz)", 1.0),
    "ecc_single_bit_total": ("ECC errors", 1.0),
}
"""What can be drawn: the axis' name, and the factor from the sample's unit to its."""

HELD = {"sw_thermal_slowdown", "hw_thermal_slowdown", "sw_power_cap", "hw_power_brake_slowdown"}
"""Reasons for a low clock that are shaded."""
GAP_INTERVALS = 2.5
"""A silence of more than so many periods breaks a line."""
_COLOURS, _DASHES = (BLUE, RED, GREEN, PURPLE), ("-", "--", "-.", ":")


def telemetry(
    readings: Sequence[Reading], values: Sequence[str], gpus: Sequence[int], *, about: str = ""
) -> Figure:
    """One plot for each value of AXES, one above the other, over the same seconds.

    A GPU that a reading does not have leaves a gap in its line. Shaded: the clock of the first of `gpus` is held
    down by heat or power. about: what happened, for the caption. ValueError where there is nothing to draw.
    """
    samples = {
        gpu: [sample for reading in readings for sample in reading.samples if sample.gpu == gpu]
        for gpu in gpus
    }
    drawn = [sample for gpu in gpus for sample in samples[gpu]]
    if not drawn:
        raise ValueError(f"No reading has a sample of GPU {gpus}; there is nothing to draw.")
    start = min(sample.time for sample in drawn)
    whose = _whose(drawn)
    ends = [_span(samples[gpu], value) for value in values for gpu in gpus]
    alt = f"{len(values)} plots over {max(s.time for s in drawn) - start:.0f} s, {whose}. {' '.join(ends)}"
    with drawing(alt, height=0.7 + 1.15 * len(values)) as canvas:
        rows = canvas.subplots(len(values), sharex=True, squeeze=False)[:, 0]
        for axes, value in zip(rows, values, strict=True):
            name, factor = AXES[value]
            for i, gpu in enumerate(gpus):
                x, y = _line(samples[gpu], value, start, factor)
                axes.plot(x, y, lw=1.6, color=_COLOURS[i % 4], ls=_DASHES[i % 4], label=f"GPU {gpu}")
            for begin, end in _held(samples[gpus[0]]):
                axes.axvspan(begin - start, end - start, color=RED, alpha=0.12, lw=0)
            axes.set(ylabel=name)
            axes.margins(y=0.12)
            if name.endswith("(%)"):
                axes.set_ylim(-5, 110)
                axes.set_yticks([0, 50, 100])
            axes.grid(True)
            axes.spines[["top", "right"]].set_visible(False)
        rows[-1].set(xlabel="seconds")
        canvas.suptitle(whose, fontsize=10, x=0.02, ha="left")
        if len(gpus) > 1:
            rows[0].legend(frameon=False, fontsize=9, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
        held = sorted(
            {reason for s in samples[gpus[0]] for reason in s.throttle_reasons or () if reason in HELD}
        )
        words = " and ".join(reason.replace("_", " ") for reason in held)
        shaded = f" Shaded: GPU {gpus[0]}'s clock is held down by {words}." if held else ""
        return finished(canvas, alt, f"{about} Telemetry, {whose}.{shaded}".strip())


def side_by_side(runs: Mapping[str, Sequence[Reading]], gpu: int = 0) -> Figure:
    """How busy, how much tensor work and how much power, as means over each run's readings, in percent.

    ValueError where a run has no sample of the GPU.
    """
    found = {
        name: [sample for reading in readings for sample in reading.samples if sample.gpu == gpu]
        for name, readings in runs.items()
    }
    if not all(found.values()):
        raise ValueError(f"A run has no sample of GPU {gpu}; there is nothing to draw.")
    bars = {name: [_mean(samples, *kind) for kind in _KINDS.values()] for name, samples in found.items()}
    whose = _whose([sample for samples in found.values() for sample in samples])
    told = "; ".join(
        f"{name}: " + ", ".join(f"{kind} {bar:.0f}%" for kind, bar in zip(_KINDS, values, strict=True))
        for name, values in bars.items()
    )
    with drawing(f"Bars. {told}.", height=0.9 + 0.75 * len(bars)) as canvas:
        axes = canvas.add_subplot()
        for i, (kind, colour) in enumerate(zip(_KINDS, _COLOURS, strict=False)):
            at = [row + (i - 1) * 0.27 for row in range(len(bars))]
            lengths = [values[i] for values in bars.values()]
            axes.barh(at, lengths, 0.25, label=kind, color=colour, alpha=0.7)
            for y, length in zip(at, lengths, strict=True):
                axes.annotate(
                    f"{length:.0f}", (length, y), (3, 0), textcoords="offset points", va="center", fontsize=9
                )
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set(xlabel="percent", xlim=(0, 112))
        canvas.suptitle(whose, fontsize=10, x=0.02, ha="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        caption = f"Means over the readings of GPU {gpu}, {whose}. From the top: {', '.join(_KINDS)}."
        return finished(canvas, f"Bars. {told}.", caption)


_KINDS = {
    "busy": ("utilization_percent", 1.0),
    "tensor": ("tensor_active", 100.0),
    "power": ("power_W", None),
}


def _mean(samples: Sequence[GpuSample], value: str, factor: float | None) -> float:
    """In percent; power in percent of the limit."""
    known = [s for s in samples if getattr(s, value) is not None and (factor or s.power_limit_W)]
    shares = [getattr(s, value) * (factor or 100 / (s.power_limit_W or 1)) for s in known]
    return fmean(shares) if shares else float("nan")


def _whose(samples: Sequence[GpuSample]) -> str:
    names = " and ".join(dict.fromkeys(sample.name for sample in samples))
    tiers = " and ".join(dict.fromkeys(sample.tier for sample in samples))
    return f"{names}, tier {tiers}"


def _line(
    samples: Sequence[GpuSample], value: str, start: float, factor: float
) -> tuple[list[float], list[float]]:
    """Points, with a not-a-number where something is missing: lines end there."""
    times = [sample.time for sample in samples]
    periods = sorted(after - before for before, after in itertools.pairwise(times))
    period = periods[len(periods) // 2] if periods else 0.0
    x: list[float] = []
    y: list[float] = []
    for i, sample in enumerate(samples):
        if i and sample.time - times[i - 1] > GAP_INTERVALS * period:
            x.append(times[i - 1] - start)
            y.append(float("nan"))
        known = getattr(sample, value)
        x.append(sample.time - start)
        y.append(float("nan") if known is None else known * factor)
    return x, y


def _held(samples: Sequence[GpuSample]) -> list[tuple[float, float]]:
    """The times, from and to, at which heat or power hold the clock down."""
    spans: list[tuple[float, float]] = []
    for before, sample in itertools.pairwise(samples):
        if not HELD & set(sample.throttle_reasons or ()):
            continue
        if spans and spans[-1][1] == before.time:
            spans[-1] = (spans[-1][0], sample.time)
        else:
            spans.append((before.time, sample.time))
    return spans


def _span(samples: Sequence[GpuSample], value: str) -> str:
    name, factor = AXES[value]
    known = [v * factor for s in samples if (v := getattr(s, value)) is not None]
    gpu = f"GPU {samples[0].gpu}" if samples else "One GPU"
    return f"{gpu}, {name}: {min(known):.0f} to {max(known):.0f}." if known else f"{gpu}, {name}: not known."
