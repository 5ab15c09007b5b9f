"""The best layouts of a search, each with the terms of its step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlab.predict.plots.chart import Chart, choices, mesh, predicted, time_unit
from distlab.predict.plots.waterfall import STEP_KINDS, kind_of

if TYPE_CHECKING:
    from distlab.predict.search import Found
    from distlab.predict.transformer import Layout

MOST_ROWS = 8


@dataclass(frozen=True)
class Row:
    """One layout: what its step takes, by kind of term, in the unit of the chart."""

    name: str
    lengths: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.lengths)


@dataclass(frozen=True)
class Ranking(Chart):
    """The best layout first. `kinds` name the parts of each row."""

    unit: str
    kinds: tuple[str, ...]
    rows: tuple[Row, ...]

    def in_words(self) -> str:
        rows = "; ".join(
            f"{i}. {row.name}: {row.total:.4g} {self.unit}" for i, row in enumerate(self.rows, 1)
        )
        return f"{self.heading}. Bars of a step's time, stacked by {', '.join(self.kinds)}: {rows}."


def ranking(found: Found) -> Ranking:
    """Of a search that found something: at most 8 layouts, as it ranks them."""
    best, query = found.best[:MOST_ROWS], found.query
    unit, per_s = time_unit(max(ranked.step.step_s for ranked in best))
    rows = []
    for ranked in best:
        of = dict.fromkeys(STEP_KINDS, 0.0)
        for term in ranked.step.terms:
            of[kind_of(term.name)] += term.seconds * per_s
        rows.append(Row(_name(ranked.layout, query.gpus), tuple(of.values())))
    title = f"Best layouts by {query.objective}: {query.model.name}"
    caption = f"Time of a step, by what it goes into: the best of {found.layouts:,} layouts."
    about = predicted(f"{query.gpus:,} GPUs, batch {query.global_batch:,}", query.cluster.name)
    return Ranking(title, caption, unit, STEP_KINDS, tuple(rows), about=about)


def _name(layout: Layout, gpus: int) -> str:
    """Without what all have."""
    fewer = f"{layout.gpus:,} of them = " if 1 < layout.gpus < gpus else ""
    return ", ".join([fewer + mesh(layout) if layout.gpus > 1 else "1 GPU", *choices(layout)])
