"""What a remedy is worth before anybody has applied it: a step's parts, what a remedy changes of them, the best plan.

    step = Step(load_s=0.12, compute_s=0.50, backward_s=0.33, communication_s=0.40, idle_s=0.06)
    keep = Remedy("keep activations", 0.5, {"compute_s": 0.75, "backward_s": 2 / 3})
    step.step_s / keep.applied(step).step_s           # how much faster
    cheapest(step, [keep, ...], speedup=2.0)           # the least work that is fast enough, or None

A part that runs beside another shows only where it is longer. So remedies do not multiply: what a shorter backward pass
no longer hides of the communication shows then, and a remedy that was worth nothing alone may be worth a lot after
another. Amdahl's law (1967) is the case in which nothing overlaps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from distlab.errors import SettingError


@dataclass(frozen=True)
class Step:
    """One step's work in seconds on the rank that is waited for, whether it shows or not."""

    load_s: float = 0.0
    """Fetching and preparing a batch."""
    compute_s: float = 0.0
    """Kernels or operators: forward, backward, optimizer."""
    backward_s: float = 0.0
    """Of `compute_s`: what gradients can travel beside."""
    communication_s: float = 0.0
    """All collectives of the step, as if nothing hid them."""
    idle_s: float = 0.0
    """The device waits for the host: launches, Python, logging."""
    straggler_s: float = 0.0
    """Waiting for the slowest rank."""
    ahead: bool = False
    """Is the next batch fetched while this one is computed?"""
    overlapped: bool = True
    """Do gradients travel while the backward pass goes on?"""

    def __post_init__(self) -> None:
        for name in PARTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be 0 or more seconds.")
        if self.backward_s > self.compute_s:
            raise SettingError(
                f"backward_s is {self.backward_s}; it is a part of compute_s, {self.compute_s}, and no longer."
            )

    @property
    def exposed_s(self) -> float:
        """Communication that nothing hides."""
        return max(0.0, self.communication_s - self.backward_s * self.overlapped)

    @property
    def data_s(self) -> float:
        """Loading that shows: all of it, or what is longer than the rest of the step."""
        return max(0.0, self.load_s - self._busy_s) if self.ahead else self.load_s

    @property
    def step_s(self) -> float:
        return self._busy_s + self.data_s

    @property
    def _busy_s(self) -> float:
        return self.compute_s + self.exposed_s + self.idle_s + self.straggler_s

    def clocks(self) -> dict[str, float]:
        """What a profile shows: parts in seconds that add up to `step_s`."""
        return {
            "compute": self.compute_s,
            "exposed communication": self.exposed_s,
            "data": self.data_s,
            "idle": self.idle_s,
            "straggler": self.straggler_s,
        }


PARTS = tuple(f.name for f in fields(Step) if f.name.endswith("_s"))


@dataclass(frozen=True)
class Remedy:
    """A change, what it costs, and what it does to a step's parts."""

    name: str
    days: float
    """Of one engineer's work."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """By the name of a part: 0.75 leaves three quarters of it. One for `compute_s` holds for `backward_s`, too, unless
    that has its own."""
    ahead: bool | None = None
    """Fetch ahead from now on (None: as before)."""
    overlapped: bool | None = None

    def __post_init__(self) -> None:
        for name, factor in self.factors.items():
            if name not in PARTS:
                raise SettingError(f"There is no part {name!r}; a step has {', '.join(PARTS)}.")
            if not 0 <= factor < math.inf:
                raise SettingError(f"The factor of {name} is {factor}; it must be 0 or more.")
        if not self.days >= 0:
            raise SettingError(f"days is {self.days}; it must be 0 or more.")

    def applied(self, step: Step) -> Step:
        """The step with it."""
        factors = dict(self.factors)
        factors.setdefault("backward_s", factors.get("compute_s", 1.0))
        return replace(
            step,
            **{name: getattr(step, name) * factor for name, factor in factors.items()},
            ahead=step.ahead if self.ahead is None else self.ahead,
            overlapped=step.overlapped if self.overlapped is None else self.overlapped,
        )


@dataclass(frozen=True)
class Plan:
    """Remedies together."""

    remedies: tuple[Remedy, ...]
    days: float
    step: Step
    speedup: float
    """Step time before over step time after."""


def plan(step: Step, remedies: Sequence[Remedy]) -> Plan:
    """All of these remedies; their order does not matter to the result."""
    after = step
    for remedy in remedies:
        after = remedy.applied(after)
    speedup = step.step_s / after.step_s if after.step_s else math.inf
    return Plan(tuple(remedies), sum(remedy.days for remedy in remedies), after, speedup)


def plans(step: Step, remedies: Sequence[Remedy]) -> list[Plan]:
    """Every choice of remedies, none and all included; SettingError for more than 16."""
    if len(remedies) > 16:
        raise SettingError(f"{len(remedies)} remedies have too many choices; give 16 or fewer.")
    return [
        plan(step, chosen)
        for count in range(len(remedies) + 1)
        for chosen in itertools.combinations(remedies, count)
    ]


def cheapest(step: Step, remedies: Sequence[Remedy], speedup: float) -> Plan | None:
    """The plan of the fewest days that reaches `speedup` (of equal ones the faster); None where none does."""
    enough = [one for one in plans(step, remedies) if one.speedup >= speedup]
    return min(enough, key=lambda one: (one.days, -one.speedup), default=None)


def greedy(step: Step, remedies: Sequence[Remedy], speedup: float) -> Plan:
    """What most teams do: next always the remedy that saves most alone, until it is fast enough or none is left."""
    left = sorted(remedies, key=lambda remedy: remedy.applied(step).step_s)
    chosen: list[Remedy] = []
    while left and plan(step, chosen).speedup < speedup:
        chosen.append(left.pop(0))
    return plan(step, chosen)
