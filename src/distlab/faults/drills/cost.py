"""A run that costs more than its budget: real rules in a real Prometheus say so, and stopping the run ends the alerts.

    distlab drill cost                       # needs Debian's prometheus and prometheus-alertmanager
    distlab drill cost --budget 20           # of a currency unit for each second of the run's one rank

Prometheus' windows and waits are shortened 120 times, so that the ten minutes for which a projection has to hold are
five seconds. The price is made up; the time is the run's own.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table

from distlab.errors import SettingError
from distlab.faults.drills.launcher import Launcher
from distlab.faults.drills.report import Report, present, table
from distlab.faults.storage import newest_checkpoint
from distlab.observe.cost import account_of
from distlab.observe.scrape import fetch_json
from distlab.observe.stack import Stack
from distlab.train.records import read_info

RUN = "drill"
PRICE_PER_HOUR = 3600.0
"""So that a second costs one."""
TIME_SCALE, INTERVAL_S = 1 / 120, 0.5
EXPORT = ("--source", "simulated", "--gpus", "1", "--every", "0.2")
TRAIN = (
    "--strategy", "single", "--world_size", "1", "--steps", "1000000", "--data.global_batch", "64",
    "--checkpoint.every_steps", "200", "--log.price_per_hour", f"{PRICE_PER_HOUR:g}", "--name", RUN,
)  # fmt: skip
NEEDED = frozenset({"BudgetProjectedOver", "BudgetSpent"})
"""The drill acts once both fire. BudgetBurnFast comes before the second, or, where money goes at once, not at all."""


@dataclass(frozen=True)
class Overrun(Report):
    """What the rules said of a run that cost too much."""

    budget: float
    alerts: dict[str, float]
    """Seconds from the beginning of the watch until each alert fired."""
    spent_at_alert: float
    """When the last of them was seen, by the exporter."""
    spent: float
    """In the end, by the run's log."""
    saved_step: int
    """Of the checkpoint that stopping the run left."""
    quiet_s: float
    """From the signal to the run until no alert fired any more."""
    tier: str

    def show(self) -> Table:
        """A table for a terminal or a notebook."""
        rows = [
            ("budget", f"{self.budget:g}"),
            *((f"{name} fired", f"after {after_s:.1f} s") for name, after_s in self.alerts.items()),
            ("spent by then", f"{self.spent_at_alert:.1f}"),
            ("spent in the end", f"{self.spent:.1f}"),
            ("saved when it was stopped", f"step {self.saved_step}"),
            ("no alert any more", f"{self.quiet_s:.1f} s after the signal"),
            ("tier", f"{self.tier}; the price is made up"),
        ]
        return table("A run over its budget", rows)


def cost(budget: float = 8.0, json: bool = False) -> int:
    """Let a run cost more than its budget, wait for the alerts, and stop it as its runbook says (on CPU).

    Args:
        budget: what the run may cost; a second of it costs 1.
        json: print the report as JSON.
    """
    return present(drill_cost(budget), json)


def drill_cost(budget: float = 8.0) -> Overrun:
    """The drill behind `distlab drill cost`. Call it in the main thread: what it starts ends with that.

    budget: above 0 and up to 600, or SettingError. WorkError without Prometheus and Alertmanager, DrillError where no
    alert fires.
    """
    if not 0 < budget <= 600:
        raise SettingError(f"budget is {budget:g}; give an amount above 0 and up to 600.")
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        runs = Path(folder) / "runs"
        options = [*EXPORT, "--runs", str(runs), "--budget", f"{RUN}={budget:g}"]
        telemetry = Path(folder) / "telemetry"
        with Stack(telemetry, options, interval_s=INTERVAL_S, time_scale=TIME_SCALE) as stack:
            alerts, spent_at_alert, quiet_s = _train_until_alerted(runs, stack)
        run_folder = str(runs / RUN)
        newest = newest_checkpoint(run_folder)
        return Overrun(
            budget=budget,
            alerts=alerts,
            spent_at_alert=spent_at_alert,
            spent=account_of(run_folder).paid_s * PRICE_PER_HOUR / 3600,
            saved_step=int(Path(newest).stem.removeprefix("step_")),
            quiet_s=quiet_s,
            tier=str(read_info(run_folder).stamp["tier"]),
        )


def _train_until_alerted(runs: Path, stack: Stack) -> tuple[dict[str, float], float, float]:
    """Train until the alerts of NEEDED fire, stop the run, and wait until none fires any more.

    `alerts`, `spent_at_alert` and `quiet_s` of `Overrun`.
    """
    command = [sys.executable, "-m", "distlab.cli", "train", *TRAIN, "--folder", str(runs)]
    started_at = time.monotonic()
    launcher = Launcher(command, os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        alerts: dict[str, float] = {}

        def enough() -> bool | None:
            for name in _firing(stack) - set(alerts):
                alerts[name] = time.monotonic() - started_at
            return True if set(alerts) >= NEEDED else None

        launcher.wait_for(enough, " and ".join(sorted(NEEDED)))
        spend = _series(stack, f'sum(distlab_cost_spend_total{{run="{RUN}"}})')
        spent_at_alert = float(spend[0]["value"][1]) if spend else 0.0
        stopped_at = time.monotonic()
        launcher.process.send_signal(signal.SIGINT)
        launcher.finish()
        launcher.wait_until(lambda: None if _firing(stack) else True, "the end of the alerts")
        return alerts, spent_at_alert, time.monotonic() - stopped_at
    finally:
        launcher.kill()


def _firing(stack: Stack) -> set[str]:
    """Names of the alerts on the run's cost that fire now."""
    return {
        one["metric"]["alertname"]
        for one in _series(stack, f'ALERTS{{run="{RUN}",component="cost",alertstate="firing"}}')
    }


def _series(stack: Stack, expr: str) -> list[dict[str, Any]]:
    """The series of an instant query. NoAnswerError where Prometheus is gone."""
    answer = fetch_json(f"{stack.addresses.prometheus}/api/v1/query?query={quote(expr)}")
    return list(answer["data"]["result"])
