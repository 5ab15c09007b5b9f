"""What a panel's query shows of given series, by promtool: who is in it, and who is not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distlab.observe.panels import DASHBOARDS
from distlab.observe.panels.panel import filled


def holds(
    folder: Path, panel_id: str, series: dict[str, str], samples: dict[str, float], at: str = "10m"
) -> str:
    """Empty where the panel's first query gives just `samples` for `series` of a sample a minute."""
    expr = next(p.queries[0].expr for board in DASHBOARDS for p in board.panels if p.id == panel_id)
    chosen = {"run": ".*", "job_name": ".*", "__rate_interval": "5m"}
    wanted: list[dict[str, Any]] = [{"labels": labels, "value": value} for labels, value in samples.items()]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [{"expr": filled(expr, chosen), "eval_time": at, "exp_samples": wanted}],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps({"tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_tokens_are_shown_of_language_models_alone(tmp_path: Path) -> None:
    series = {
        'distlab_train_tokens_total{run="gpt",rank="0"}': "0+6000x20",
        'distlab_train_samples_total{run="gpt",rank="0"}': "0+60x20",
        'distlab_train_tokens_total{run="mlp",rank="0"}': "0+60x20",
        'distlab_train_samples_total{run="mlp",rank="0"}': "0+60x20",
    }
    assert holds(tmp_path, "tokens", series, {'{run="gpt"}': 100}) == ""


@pytest.mark.parametrize(("budget", "running", "hours"), [(100, 1, 0.5), (50, 1, 0.0), (100, 0, None)])
def test_a_budget_lasts_no_negative_time_and_ends_with_its_run(
    tmp_path: Path, budget: int, running: int, hours: float | None
) -> None:
    series = {
        'distlab_cost_budget{run="r"}': f"{budget}x90",
        'distlab_cost_spend_total{run="r"}': "0+1x90",
        'distlab_train_running{run="r"}': f"{running}x90",
    }
    wanted = {} if hours is None else {'{run="r"}': hours}
    assert holds(tmp_path, "budget-left", series, wanted, "70m") == ""
