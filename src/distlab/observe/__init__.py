"""What operators watch: samples of GPUs, metrics for Prometheus, cost, alerts, dashboards, profiles."""

from __future__ import annotations

from typing import Any


def show_page(prometheus_url: str = "http://127.0.0.1:9090", height: int = 900) -> Any:
    """The live page of telemetry in a notebook, as the last line of a cell.

    prometheus_url: as `distlab observe up` prints it. height: in pixels.
    """
    from distlab.observe.page.notebook import show

    return show(prometheus_url, height)
