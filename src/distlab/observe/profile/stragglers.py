"""Which rank holds the others back, and whether that is more than chance.

A rank's *own* time in a step is what it does not spend waiting for others: the step without exposed communication.
In synchronous training all steps are equally long; own times are not, and the longest one sets the pace.

The rule. For each step, a rank's excess is its own time less the median of the other ranks'. Noise is 1.4826 MAD of
the excesses (the standard deviation, where they are normal). A rank is *behind* in a step in which its own time is the
longest. If all ranks were alike, each would be behind in one of n steps by chance; so

- persistent: the median excess is over 5% of the others' own time, and chance is ruled out, by one of two:
  by counting: the rank is behind in so many steps that chance gives as many with a probability of at most 2%
  (binomial), whatever the steps' noise is like;
  by size: it is behind in all steps, and the median excess is over 20 times the noise. Counting alone cannot tell in
  a few steps. Normal excesses about 0 come to that with a probability of 1.1% in two steps, 0.8% in three, and less
  than 0.05% in four or more (drawn a million times each; the noise of few steps is itself little known);
- noise: the median excess or some single step's is that large, but chance is not ruled out;
- even: neither.

Both take the steps as independent: what slows a rank for just as long as it is profiled looks like a straggler.

Where ranks do not wait for each other (an asynchronous parameter server), none holds another back: no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Literal

from distlab.observe.profile.analysis import RankProfile, StepTimes, Straggler
from distlab.observe.profile.breakdown import NS
from distlab.observe.profile.clocks import Timeline, is_entry, matched
from distlab.observe.profile.traces import Trace

NOTABLE = 0.05
CHANCE = 0.02
CLEAR = 20.0
"""So many times the noise, in all steps, is more than chance."""
OUTLIER = 5.0
"""A single step so many times the noise, and NOTABLE, beyond the others is told."""
LEAST_STEPS = 2
PACE = 1.25
"""Ranks of which one takes so many times another's time for a step do not wait for each other."""

Cause = Literal["compute", "data", "idle", "none"]
CAUSES: tuple[Cause, ...] = ("compute", "data", "idle")


def find_stragglers(ranks: Sequence[RankProfile], arrivals: dict[int, tuple[int, int]]) -> list[Straggler]:
    """A verdict on each rank; none where fewer than two ranks have two steps in common.

    arrivals: from `last_arrivals`.
    """
    steps = {rank.rank: {step.step: step for step in rank.steps} for rank in ranks}
    common = sorted(set.intersection(*(set(own) for own in steps.values()))) if steps else []
    if len(steps) < 2 or len(common) < LEAST_STEPS or not keep_pace(ranks):
        return []
    return [_verdict(rank, steps, common, arrivals.get(rank, (0, 0))) for rank in steps]


def keep_pace(ranks: Sequence[RankProfile]) -> bool:
    """Do the ranks' steps take about equally long, as they do where each step waits for all ranks?"""
    lengths = [median(step.step_s for step in rank.steps) for rank in ranks if rank.steps]
    return not lengths or max(lengths) <= PACE * min(lengths)


def _verdict(
    rank: int, steps: dict[int, dict[int, StepTimes]], common: list[int], arrived: tuple[int, int]
) -> Straggler:
    others = [other for other in steps if other != rank]
    own = [steps[rank][k].own_s for k in common]
    usual = [median(steps[other][k].own_s for other in others) for k in common]
    excesses = [mine - theirs for mine, theirs in zip(own, usual, strict=True)]
    excess = median(excesses)
    noise = 1.4826 * median(abs(value - excess) for value in excesses)
    behind = sum(
        mine > max(steps[other][k].own_s for other in others) for mine, k in zip(own, common, strict=True)
    )
    threshold = NOTABLE * median(usual)
    outliers = sum(value > max(threshold, excess + OUTLIER * noise) for value in excesses)
    # MAD of equal excesses is 0; a thousandth of the step is what the clock and the profiler leave uncertain.
    robust_z = excess / max(noise, 1e-3 * median(own), 1e-9)
    by_size = behind == len(common) and robust_z > CLEAR
    proven = by_size or chance(behind, len(common), len(steps)) <= CHANCE
    verdict: Literal["even", "noise", "persistent"] = "even"
    if excess > threshold and proven:
        verdict = "persistent"
    elif excess > threshold or outliers:
        verdict = "noise"
    cause = _cause(rank, others, steps, common) if verdict != "even" else "none"
    straggler = Straggler(
        rank=rank,
        verdict=verdict,
        own_s=median(own),
        excess_s=excess,
        robust_z=robust_z,
        steps_behind=behind,
        steps_compared=len(common),
        last_arrivals=arrived[0],
        collectives_compared=arrived[1],
        cause=cause,
        sentence="",
    )
    return _with_sentence(straggler, excess > threshold, outliers)


def chance(behind: int, steps: int, ranks: int) -> float:
    """Probability that a rank like all others is behind in at least so many steps."""
    p = 1 / ranks
    return math.fsum(
        math.comb(steps, k) * math.pow(p, k) * math.pow(1 - p, steps - k) for k in range(behind, steps + 1)
    )


def _cause(rank: int, others: list[int], steps: dict[int, dict[int, StepTimes]], common: list[int]) -> Cause:
    def excess(part: Cause) -> float:
        name = f"{part}_s"
        excesses: list[float] = [
            getattr(steps[rank][k], name) - median(getattr(steps[other][k], name) for other in others)
            for k in common
        ]
        return median(excesses)

    return max(CAUSES, key=excess)


_DOES = {
    "compute": "it computes longer",
    "data": "it waits for its data",
    "idle": "it does nothing that the trace names (sleep, Python, another program on its cores)",
    "none": "",
}


def _with_sentence(found: Straggler, behind: bool, outliers: int) -> Straggler:
    of = f"{found.steps_behind} of {found.steps_compared} steps"
    if found.verdict == "persistent":
        text = (
            f"Rank {found.rank} holds the others back in {of}, by {found.excess_s * 1e3:.1f} ms a step: "
            f"{_DOES[found.cause]}."
        )
    elif found.verdict == "noise" and behind:
        text = (
            f"Rank {found.rank} is behind in {of}, by {found.excess_s * 1e3:.1f} ms in the median: that may be "
            "chance; profile more steps."
        )
    elif found.verdict == "noise":
        text = f"Rank {found.rank} is far behind in {outliers} of {found.steps_compared} steps, and even in the others."
    else:
        text = f"Rank {found.rank} is even with the others."
    return replace(found, sentence=text)


def last_arrivals(traces: Sequence[Trace], timeline: Timeline) -> dict[int, tuple[int, int]]:
    """For each rank, how many of the collectives that all ranks share it entered last, and how many those are.

    Only who comes NOTABLE of a step, and more than the uncertainty of the clocks, behind the last but one counts.
    """
    if len(traces) < 2:
        return {}
    first, *rest = traces
    table: dict[int, dict[int, int]] = {}
    for other in rest:
        for one, its in matched(first, other, is_entry):
            row = table.setdefault(id(one), {first.rank: one.start - timeline.offset_of(first.rank)})
            row[other.rank] = its.start - timeline.offset_of(other.rank)
    rows = [row for row in table.values() if len(row) == len(traces)]
    step_ns = median(end - start for trace in traces for _, start, end in trace.steps) if rows else 0
    doubt_ns = max([clock.uncertainty_s or 0 for clock in timeline.clocks]) / NS
    last = {trace.rank: 0 for trace in traces}
    for row in rows:
        order = sorted(row, key=lambda rank: row[rank])
        if row[order[-1]] - row[order[-2]] > max(doubt_ns, NOTABLE * step_ns):
            last[order[-1]] += 1
    return {rank: (count, len(rows)) for rank, count in last.items()}
