"""Prometheus' text format, as dcgm-exporter writes it.

    page = Page()
    page.add("distlab_train_loss", labels(METRICS["distlab_train_loss"], run="demo", job_name="demo", tier="cpu"), 0.5)
    page.render()

prometheus-client does not write it, because it adds `_total` to a counter's name, and DCGM's names end otherwise; and
because it escapes every label of every line anew, which takes most of a scrape of 64 GPUs. Its parser reads the text
back in the tests, and its exposition is the peer in the benchmark. OpenMetrics asks for `_total`, too, and is not
offered.

Source of the format: Prometheus, Exposition formats, text-based format 0.0.4.
"""

from __future__ import annotations

import math

from distlab.observe.metrics import METRICS, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def labels(metric: Metric, **values: str) -> str:
    """`{gpu="0",...}` with the values of the metric's labels in their order. KeyError where one is missing."""
    return label_text({name: values[name] for name in metric.labels})


def label_text(values: dict[str, str]) -> str:
    """The same for labels at hand; nothing without any."""
    if not values:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in values.items()) + "}"


class Page:
    """What one scrape is answered with."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {name: [] for name in METRICS}

    def add(self, name: str, labels: str, value: float | None) -> None:
        """A sample of one of METRICS; None, which is not known, leaves a gap."""
        if value is not None:
            self._lines[name].append(
                f"{name}{labels} {value!r}" if _plain(value) else _special(name, labels, value)
            )

    def render(self) -> bytes:
        """All samples, each metric's together below its help and kind."""
        parts = []
        for name, lines in self._lines.items():
            if lines:
                metric = METRICS[name]
                parts += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}", *lines]
        return ("\n".join(parts) + "\n").encode()


def _plain(value: float) -> bool:
    return type(value) is int or math.isfinite(value)


def _special(name: str, labels: str, value: float) -> str:
    return f"{name}{labels} {'NaN' if math.isnan(value) else '+Inf' if value > 0 else '-Inf'}"
