"""A pipeline's schedule as a time line: which stage works on which micro-batch, and where the bubble is.

    plan = schedule(stages=4, micro_batches=8, times=Durations(forward_s=1.0, backward_s=2.0))
    plan[0].stage, plan[0].work, plan[0].start_s
    idle_s(plan, stage=0)

Each stage has an order of work, and takes up the next piece once it is free and the piece's input is there. Orders:
GPipe, Huang et al. (NeurIPS 2019); 1F1B and interleaved, Narayanan et al. (SC'21, sections 2.2.1 and 2.2.2); ZB-H1,
Qi et al. (2023), where gradients of weights fill what would be bubble. Sends are a part of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from distlab.errors import SettingError
from distlab.predict.transformer import Schedule

Work = Literal["forward", "backward", "weights"]
"""weights: their gradients, where a schedule puts them off; else they are a part of the backward pass."""


class Piece(NamedTuple):
    """What a stage does at a time: for one micro-batch in one of its chunks of layers."""

    work: Work
    chunk: int
    micro_batch: int


class Slot(NamedTuple):
    """A piece of work, in seconds after the step began."""

    stage: int
    work: Work
    chunk: int
    micro_batch: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Durations:
    """Seconds of one micro-batch on one stage, with all its chunks."""

    forward_s: float
    backward_s: float
    """Gradients of weights included."""
    weights_s: float = 0.0
    """The part of the backward pass that a zero-bubble schedule puts off."""
    output_forward_s: float = 0.0
    """On the last stage, on top."""
    output_backward_s: float = 0.0

    def of(self, piece: Piece, last: bool, interleave: int, split: bool) -> float:
        """Of one chunk. `last`: the model ends with it."""
        if piece.work == "weights":
            return self.weights_s
        if piece.work == "forward":
            return self.forward_s / interleave + (self.output_forward_s if last else 0.0)
        kept_s = self.backward_s - self.weights_s if split else self.backward_s
        return kept_s / interleave + (self.output_backward_s if last else 0.0)


def schedule(
    stages: int, micro_batches: int, times: Durations, kind: Schedule = "1f1b", interleave: int = 1
) -> tuple[Slot, ...]:
    """All pieces of a step, stage by stage, each in order of time. `interleave` above 1 makes 1f1b interleaved.

    A zero-bubble schedule has no interleaved form here: ZB-H1 keeps a stage's layers together. SettingError for
    counts below 1.
    """
    for name, count in (("stages", stages), ("micro_batches", micro_batches), ("interleave", interleave)):
        if count < 1:
            raise SettingError(f"{name} is {count}; it must be 1 or more.")
    split = kind == "zero_bubble" and stages > 1
    chunks = 1 if split else interleave
    orders = [_order(kind, stage, stages, micro_batches, chunks) for stage in range(stages)]
    ends: dict[tuple[int, Piece], float] = {}
    rows: list[list[Slot]] = [[] for _ in orders]
    free_s = [0.0] * stages
    waiting = list(range(stages))
    while waiting:
        before = len(ends)
        for stage in waiting:
            for piece in orders[stage][len(rows[stage]) :]:
                needs = _needs(piece, stage, stages, chunks)
                if needs is not None and needs not in ends:
                    break
                start_s = max(free_s[stage], ends[needs] if needs else 0.0)
                last = stage == stages - 1 and piece.chunk == chunks - 1
                free_s[stage] = start_s + times.of(piece, last, chunks, split)
                ends[stage, piece] = free_s[stage]
                rows[stage].append(Slot(stage, *piece, start_s, free_s[stage]))
        waiting = [stage for stage in waiting if len(rows[stage]) < len(orders[stage])]
        assert len(ends) > before, "a schedule waits for itself"
    return tuple(chain.from_iterable(rows))


def idle_s(plan: Sequence[Slot], stage: int = 0) -> float:
    """Seconds of the step in which a stage does nothing."""
    whole_s = max(slot.end_s for slot in plan)
    return whole_s - sum(slot.end_s - slot.start_s for slot in plan if slot.stage == stage)


def _needs(piece: Piece, stage: int, p: int, v: int) -> tuple[int, Piece] | None:
    """What must be done before a piece can begin: the same micro-batch in the chunk before it (or after, backwards)."""
    work, chunk, micro = piece
    if work == "weights":
        return stage, Piece("backward", chunk, micro)
    if work == "forward":
        if stage > 0:
            return stage - 1, piece
        return (p - 1, Piece("forward", chunk - 1, micro)) if chunk else None
    if stage < p - 1:
        return stage + 1, piece
    if chunk < v - 1:
        return 0, Piece("backward", chunk + 1, micro)
    return stage, Piece("forward", chunk, micro)


def _order(kind: Schedule, stage: int, p: int, m: int, v: int) -> list[Piece]:
    """Forwards go through a stage's chunks in groups of p micro-batches, backwards through the chunks in reverse."""
    if kind == "zero_bubble" and p > 1:
        return _zero_bubble(stage, p, m)
    groups = [range(first, min(first + p, m)) for first in range(0, m, p)]
    forwards = [Piece("forward", chunk, i) for group in groups for chunk in range(v) for i in group]
    if kind == "gpipe":
        return forwards + [Piece("backward", chunk, i) for _, chunk, i in reversed(forwards)]
    backwards = [
        Piece("backward", chunk, i) for group in groups for chunk in reversed(range(v)) for i in group
    ]
    warm = p - stage - 1 if v == 1 else 2 * (p - stage - 1) + (v - 1) * p
    # Interleaving wants whole groups (Megatron-LM refuses others): without them all forwards go first.
    warm = len(forwards) if v > 1 and m % p else min(len(forwards), warm)
    steady = chain.from_iterable(zip(forwards[warm:], backwards, strict=False))
    return [*forwards[:warm], *steady, *backwards[len(forwards) - warm :]]


def _zero_bubble(stage: int, p: int, m: int) -> list[Piece]:
    """Stage i begins with p - i forwards, and its gradients of weights come i micro-batches late."""
    order = [Piece("forward", 0, i) for i in range(min(m, p - stage))]
    for i in range(m):
        order.append(Piece("backward", 0, i))
        if i >= stage:
            order.append(Piece("weights", 0, i - stage))
        if p - stage + i < m:
            order.append(Piece("forward", 0, p - stage + i))
    return order + [Piece("weights", 0, i) for i in range(max(0, m - stage), m)]
