"""What to change first: the bottlenecks that a profile shows, ranked by the time they cost.

    for bottleneck in find_bottlenecks(read_analysis(Path("profile"))):
        print(bottleneck.title, bottleneck.cost_s, bottleneck.evidence, bottleneck.remedies)

A bottleneck's cost is what a step would be shorter by without it, at best. The costs of two may overlap: mend one, and
profile again.

- straggler: the excess of the rank's own time over the others', who wait for it; a possible one, where chance is not
  ruled out and the excess is a fifth of the step or more.
- communication: what even the rank that waits least is exposed to; the rest of the others' waiting is the straggler's.
- data and idle: the mean over the ranks other than the straggler, whose own are counted with it.
- work: what remains is the computation itself. Its cost is not known; it comes last, with the operators that lead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from distlab.observe.profile.analysis import Analysis, MemoryLine, RankProfile, Straggler

NOTABLE = 0.05
"""Of a step: a smaller part is not named."""
HIGH = 0.2
SMALL_ELEMENTS = 2**16
"""A collective of fewer elements (256 KiB of fp32) costs its latency rather than its bytes: see the ring's model,
`distlab predict`; NCCL reaches half of its bandwidth at some MiB."""
GROWTH = 0.05
"""Of the peak: memory that is so much fuller after the last steps than after the first ones is named."""

Kind = Literal["straggler", "communication", "data", "idle", "memory", "work"]


@dataclass(frozen=True)
class Bottleneck:
    """One thing that a step loses time to."""

    kind: Kind
    title: str
    cost_s: float | None
    """Seconds per step, at best; None where it is not known."""
    share: float | None
    """cost_s over the mean step."""
    evidence: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def severity(self) -> Literal["high", "medium", "note"]:
        """high: a fifth of the step or more."""
        if self.share is None:
            return "note"
        return "high" if self.share >= HIGH else "medium"


def find_bottlenecks(analysis: Analysis) -> list[Bottleneck]:
    """The dearest first; those whose cost is not known come last. Empty where no step was profiled, or took no time."""
    ranks = [rank for rank in analysis.ranks if rank.steps]
    step_s = fmean(rank.mean()["step_s"] for rank in ranks) if ranks else 0.0
    if step_s <= 0:
        return []
    slowest = straggler(analysis)
    usual = [rank for rank in ranks if slowest is None or rank.rank != slowest.rank] or ranks
    found = [
        *([_straggler(slowest, step_s)] if slowest is not None else []),
        _communication(ranks, step_s),
        _data(usual, step_s),
        _idle(usual, step_s, analysis.tier),
    ]
    costly = [_within(one, step_s) for one in found if (one.share or 0.0) >= NOTABLE]
    costly.sort(key=lambda one: -(one.cost_s or 0.0))
    return [*costly, *_memory(ranks), _work(usual, step_s)]


def straggler(analysis: Analysis) -> Straggler | None:
    """The rank that holds the others back, or else the one that may, by a large part of the step."""
    if analysis.slowest is not None:
        return analysis.slowest
    step_s = fmean([rank.mean()["step_s"] for rank in analysis.ranks if rank.steps] or [0.0])
    possible = [
        one for one in analysis.stragglers if one.verdict == "noise" and one.excess_s >= HIGH * step_s
    ]
    return max(possible, key=lambda one: one.excess_s, default=None)


def _within(one: Bottleneck, step_s: float) -> Bottleneck:
    """Costs are medians and means of some ranks or steps: of uneven ones they may come out above the mean step."""
    cost_s = min(one.cost_s or 0.0, step_s)
    return replace(one, cost_s=cost_s, share=cost_s / step_s)


def _straggler(slowest: Straggler, step_s: float) -> Bottleneck:
    remedies: tuple[str, ...] = {
        "compute": (
            "Look at the flame graph and at what else runs on that machine; compare clocks and temperatures "
            "(distlab observe sample): a GPU that throttles computes slowly.",
            "Give ranks equal work: the same number of tokens, not of samples.",
        ),
        "data": (
            "Look at that rank's storage and loader: a cold cache, a slow disk, fewer cores for workers.",
            "Give ranks shards of equal size.",
        ),
        "idle": (
            "Look at that rank's Python: logging, checkpoints, garbage collection, another process's load.",
        ),
        "none": ("Look at its flame graph: no part of its time stands out.",),
    }[slowest.cause]
    title = f"Rank {slowest.rank} holds the others back"
    if slowest.verdict == "noise":
        title = f"Rank {slowest.rank} may hold the others back"
        remedies = (
            f"Profile more steps: {slowest.steps_compared} of them do not rule out chance (--steps).",
            *remedies,
        )
    return Bottleneck(
        kind="straggler",
        title=title,
        cost_s=slowest.excess_s,
        share=slowest.excess_s / step_s,
        evidence=(slowest.sentence,),
        remedies=remedies,
    )


def _communication(ranks: Sequence[RankProfile], step_s: float) -> Bottleneck:
    """Of each step, the rank that waits least came last: what it waits is the transfer itself."""
    common = set.intersection(*({step.step for step in rank.steps} for rank in ranks))
    by_step = [{step.step: step for step in rank.steps} for rank in ranks]
    cost_s = fmean([min(steps[k].exposed_s for steps in by_step) for k in sorted(common)] or [0.0])
    hidden_s = fmean(step.hidden_s for rank in ranks for step in rank.steps)
    calls = ranks[0].collectives
    steps = len(ranks[0].steps)
    count = sum(call.count for call in calls) / steps
    elements = sum(call.elements for call in calls) / max(1, sum(call.count for call in calls))
    evidence = [
        f"{_ms(cost_s)} of a step are exposed even on the rank that came last; {_ms(hidden_s)} are hidden.",
        f"{count:.0f} collectives a step, of {elements:,.0f} elements on average.",
    ]
    if calls:
        longest = max(calls, key=lambda call: call.total_s)
        evidence.append(
            f"Most time in {longest.name}: {longest.count / steps:.0f} a step, median {_ms(longest.median_s)}."
        )
    if elements < SMALL_ELEMENTS:
        remedies: tuple[str, ...] = (
            "Many small collectives pay latency: larger buckets (bucket_cap_mb), fewer and larger tensors.",
            "Accumulate gradients over micro-batches, and synchronise once.",
        )
    else:
        remedies = (
            "Overlap: let buckets go while the backward pass runs (DDP does, if buckets are smaller than the model).",
            "Send less: bf16 or fp16 gradients, PowerSGD, gradient accumulation.",
            "Check the path with `distlab bench collectives`: is its bus bandwidth what the link should give?",
        )
    return Bottleneck(
        "communication", "Communication is not hidden", cost_s, cost_s / step_s, tuple(evidence), remedies
    )


def _data(ranks: Sequence[RankProfile], step_s: float) -> Bottleneck:
    cost_s = fmean(rank.mean()["data_s"] for rank in ranks)
    return Bottleneck(
        "data",
        "The step waits for data",
        cost_s,
        cost_s / step_s,
        (f"{_ms(cost_s)} of each step of {_ms(step_s)} go into fetching samples, with nothing else to do.",),
        (
            "Load ahead in worker processes, and keep two or more batches ready (prefetch).",
            "Do once what each epoch repeats: decode, tokenise and resize ahead, and store what comes of it.",
            "Pin memory and copy without blocking on GPUs; read few large files rather than many small ones.",
        ),
    )


def _idle(ranks: Sequence[RankProfile], step_s: float, tier: str) -> Bottleneck:
    cost_s = fmean(rank.mean()["idle_s"] for rank in ranks)
    calls = fmean(sum(o.count for o in rank.operators) / len(rank.steps) for rank in ranks)
    where = "the GPU has nothing to do" if tier == "gpu" else "no operator runs"
    remedies: tuple[str, ...] = (
        "Fewer, larger operations: torch.compile, fused optimizers (foreach, fused), a larger batch.",
        "Take out what makes the host wait: .item(), .cpu(), printing, logging at each step.",
    )
    if tier == "gpu":
        remedies = ("CUDA graphs, where shapes do not change: one launch in place of hundreds.", *remedies)
    return Bottleneck(
        "idle",
        "The device waits for Python" if tier == "gpu" else "Python between the operators",
        cost_s,
        cost_s / step_s,
        (
            f"{_ms(cost_s)} of each step {where}.",
            f"The leading operators alone are called {calls:,.0f} times a step.",
        ),
        remedies,
    )


def _memory(ranks: Sequence[RankProfile]) -> list[Bottleneck]:
    """Memory that grows from step to step; a note, as it costs the run and not the step."""
    found = []
    for rank in ranks:
        ends = [step.start_s + step.step_s for step in rank.steps]
        for line in rank.memory:
            grown = _growth(line, ends)
            if line.peak_bytes and grown > GROWTH * line.peak_bytes and len(ends) >= 4:
                found.append(
                    Bottleneck(
                        "memory",
                        f"Memory of rank {rank.rank} grows ({line.device})",
                        None,
                        None,
                        (
                            f"{grown / 2**20:,.1f} MiB more are held after the last of {len(ends)} steps than "
                            f"after the second one; the peak is {line.peak_bytes / 2**20:,.1f} MiB.",
                        ),
                        (
                            "Look for what is kept from step to step: losses with their graph (use .item() or "
                            ".detach()), lists of outputs, caches without a bound.",
                        ),
                    )
                )
    return found


def _growth(line: MemoryLine, ends: Sequence[float]) -> int:
    """Bytes that are held after the last step beyond those after the second; the first still sets things up."""
    held = []
    for end in ends:
        before = [held_bytes for at_s, held_bytes in line.points if at_s <= end]
        held.append(before[-1] if before else 0)
    rises = all(later >= before for before, later in itertools.pairwise(held[1:]))
    return held[-1] - held[1] if len(held) > 1 and rises else 0


def _work(ranks: Sequence[RankProfile], step_s: float) -> Bottleneck:
    compute_s = fmean(rank.mean()["compute_s"] for rank in ranks)
    first = ranks[0]
    evidence = [f"{_ms(compute_s)} of each step of {_ms(step_s)} are computation; of rank {first.rank}:"]
    transfers = {call.name for call in first.collectives}
    own = [o for o in first.operators if o.name not in transfers and not o.name.startswith("c10d::")]
    evidence += [
        f"{operator.name}: {_ms(operator.self_s / len(first.steps))} a step in "
        f"{operator.count / len(first.steps):,.0f} calls{_of(operator.shapes)}."
        for operator in own[:3]
    ]
    return Bottleneck(
        "work",
        "What remains is the work itself",
        None,
        None,
        tuple(evidence),
        (
            "Let matrix products run in bf16 or fp16 where the device has units for it.",
            "Compare the leading product with the machine's ceiling: `distlab bench gpu` measures it.",
        ),
    )


def _of(shapes: str) -> str:
    return f", mostly on {shapes}" if shapes else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"
