"""Simulated runs of `distlab predict goodput`: spares, elastic worlds and stragglers, which no closed form has."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distlab.errors import SettingError
from distlab.predict.commands.options import Given
from distlab.predict.commands.show import Row, number, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distlab.predict.failures import Component
    from distlab.predict.goodput import Checkpoint, Recovery
    from distlab.predict.simulate import Run, Summary

MOST_EVENTS = 1_000_000
"""Failures and stragglers of all runs together: some ten seconds of them."""
WHYS = {
    "useful": "training that was kept",
    "checkpoint": "saves, and what they slow down",
    "lost": "work since the last checkpoint, done again",
    "detection": "until failures are noticed",
    "restart": "until it trains again",
    "waiting": "for a node in repair, none being spare",
    "straggler": "for the slowest node",
    "missing": "the part of an elastic world that is in repair",
}


@dataclass(frozen=True)
class SimulationOptions:
    """What has no closed form. With any of these given, whole runs are simulated event by event."""

    elastic: bool = False
    """It goes on with fewer nodes, slower in proportion."""
    least_nodes: int = 1
    """An elastic world waits below this."""
    spares: int = 0
    """Nodes that stand by."""
    repair_h: float = 24.0
    """Mean, until a node that failed is a spare again: a day, assumed."""
    straggler_mtbf_h: float | None = None
    """Hours until a node turns slow, on average, for each node; None: none does."""
    straggler_slowdown: float = 0.0
    straggler_s: float = 0.0
    runs: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Simulated:
    """The run that was simulated, and what came of it."""

    run: Run
    seed: int
    summary: Summary

    def as_json(self) -> dict[str, Any]:
        """Goodput, failures, saves and the longest wait are each a mean, the 95% interval over runs, and its error."""
        run, found = self.run, self.summary
        asked = {
            name: getattr(run, name)
            for name in (
                "nodes",
                "world",
                "least_nodes",
                "spares",
                "repair_h",
                "straggler_slowdown",
                "straggler_s",
            )
        }
        mtbf_h = None if math.isinf(run.straggler_mtbf_h) else run.straggler_mtbf_h
        return {**asked, "straggler_mtbf_h": mtbf_h, "seed": self.seed, **dataclasses.asdict(found)}

    def rows(self) -> list[Row]:
        shares, days = self.summary.shares, self.run.days
        return [Row(name, f"{share * days:,.3f}", share, WHYS[name]) for name, share in shares.items()]

    def lines(self) -> list[str]:
        run, found = self.run, self.summary
        good, fails, wait = found.goodput, found.failures, found.longest_wait_s
        slow = ""
        if not math.isinf(run.straggler_mtbf_h):
            each = f"each turning slow by {run.straggler_slowdown:.0%} every {run.straggler_mtbf_h:,.4g} h"
            slow = f", {each} for {seconds(run.straggler_s)}"
        world = (
            f"an elastic world of at least {run.least_nodes}" if run.world == "elastic" else "a fixed world"
        )
        return [
            f"Simulated: {found.replicas} runs (seed {self.seed}) of {run.nodes} nodes, {world}, "
            f"{run.spares} spares, repairs of {run.repair_h:g} h{slow}.",
            f"95% of the runs have a goodput from {good.low:.2%} to {good.high:.2%}, and {number(fails.low)} to "
            f"{number(fails.high)} failures; the longest wait is {seconds(wait.mean)} on average.",
        ]


def simulated(
    given: Given,
    nodes: int,
    components: Sequence[Component],
    job: Recovery,
    saving: Checkpoint,
    days: float,
) -> Simulated | None:
    """None where no option of the simulation was given. SettingError names a field that is wrong."""
    from distlab.predict.simulate import Run, simulate

    if not given.values["simulation"]:
        return None
    asked = given.make("simulation", SimulationOptions)
    slow_h = asked.straggler_mtbf_h
    three = (slow_h is not None, asked.straggler_slowdown != 0, asked.straggler_s != 0)
    if any(three) and not all(three):
        raise SettingError(
            f"straggler_mtbf_h is {slow_h}, straggler_slowdown {asked.straggler_slowdown:g} and straggler_s "
            f"{asked.straggler_s:g}; stragglers need all three: how often, how much and how long."
        )
    run = Run(
        nodes,
        tuple(components),
        saving,
        job.detection_s,
        job.restart_s,
        days,
        "elastic" if asked.elastic else "fixed",
        asked.least_nodes,
        asked.spares,
        asked.repair_h,
        math.inf if slow_h is None else slow_h,
        asked.straggler_slowdown,
        asked.straggler_s,
    )
    events = asked.runs * days * 24 * (run.failures_per_h + nodes / run.straggler_mtbf_h)
    if events > MOST_EVENTS:
        raise SettingError(
            f"runs is {asked.runs}, with about {events:.3g} failures and stragglers in all, above {MOST_EVENTS:,}; "
            "give fewer runs or days."
        )
    if asked.runs < 2:
        raise SettingError(f"runs is {asked.runs}; an interval over runs needs 2 or more.")
    return Simulated(run, asked.seed, simulate(run, asked.runs, asked.seed))
