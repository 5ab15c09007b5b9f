"""What operators watch: samples of GPUs, metrics for Prometheus, cost, alerts, dashboards, profiles."""

from __future__ import annotations

from typing import Any


def show_page(prometheus_url: str | None = None, height: int = 900) -> Any:
    """The live page of telemetry in a notebook, as the last line of a cell.

    prometheus_url: without it, that of the stack that runs in ./telemetry, else port 9090. height: in pixels.
    """
    from distlab.observe.page.notebook import show

    return show(prometheus_url, height)
