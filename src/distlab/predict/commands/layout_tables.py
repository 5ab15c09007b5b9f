"""The tables of `distlab predict layout`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distlab.errors import printable
from distlab.predict.commands.plain import Column, print_lines, print_table
from distlab.predict.commands.show import TIER, gib, gpus, number, seconds, show, time_rows
from distlab.predict.commands.transformers import size_of
from distlab.predict.transformer import Layout

if TYPE_CHECKING:
    from distlab.predict.search import Found, Why

Beside = Sequence[tuple[str, Any, "Why"]]
"""What `search.nearest` returns."""


def show_found(
    found: Found, beside: Beside, asked: str | None, explained: Why | None, more: Sequence[str] = ()
) -> None:
    query, best = found.query, found.best[0]
    _show_ranking(found)
    rows = time_rows(best.step.terms, best.step.step_s)
    show(f"A step of the best: {short(best.layout)}", "time", rows, seconds(best.step.step_s), [])
    _show_beside(found, beside)
    _show_rejected(found)
    print_lines(printable(line) for line in (*_lines(found), *more))
    if explained is not None:
        compared = "" if explained.layout is None else f" (Compared: {short(explained.layout)}.)"
        if explained.differences:
            _show_differences(explained)
        print_lines([printable(f"Why not {asked}: {explained.text}{compared}")])
    print_lines(f"Extrapolated: {what}." for what in query.cluster.extrapolated)


def _lines(found: Found) -> Iterator[str]:
    """What was searched, and in how much memory."""
    query = found.query
    kept = ", ".join(f"{name} {value}" for name, value in query.fixed.items())
    counts = ", ".join(f"{count:,}" for count in query.gpu_counts)
    yield (
        f"Searched: {found.layouts:,} layouts on {found.meshes:,} meshes (tensor x pipeline x context x data) of "
        f"{counts} GPUs"
        f"{f', with {kept}' if kept else ''}; {found.predicted:,} of them predicted in full, the others left out by "
        "exact bounds. One layout of each mesh is ranked."
    )
    yield (
        f"Usable memory: {gib(query.usable_bytes)} GiB, {gib(query.reserve_bytes)} of the GPU's being kept for what is "
        "no tensor."
    )


def _show_rejected(found: Found) -> None:
    columns = [Column("how many", right=True), Column("of"), Column("lost by"), Column("why")]
    rows = [[f"{row.count:,}", row.of, KINDS[row.kind], row.reason] for row in found.rejected if row.count]
    print_table("How many lost, and why", columns, rows)


KINDS = {"rule": "a rule", "memory": "memory", "days": "days", "behind": "behind others"}


def short(cut: Layout) -> str:
    """A layout in a few words."""
    axes = ", ".join(
        f"{name} {getattr(cut, name)}"
        for name in ("tensor", "pipeline", "context", "data", "expert")
        if getattr(cut, name) > 1
    )
    return (
        f"{axes or 'one GPU'}, micro-batch {cut.micro_batch}, {_schedule(cut)}, recompute {cut.recompute}, ZeRO "
        f"{cut.zero_stage}{', sequence parallel' if cut.sequence_parallel else ''}"
    )


def _schedule(cut: Layout) -> str:
    if cut.pipeline == 1:
        return "no pipeline"
    return f"{cut.schedule} x {cut.interleave}" if cut.interleave > 1 else cut.schedule


def _show_ranking(found: Found) -> None:
    query = found.query
    where = f"{gpus(query.gpus)} of {query.cluster.name}"
    title = f"Best layouts of {query.model.name}, {size_of(query.model)}, on {where} ({TIER})"
    axes = [
        name
        for name in ("tensor", "pipeline", "context", "data", "expert")
        if any(getattr(ranked.layout, name) > 1 for ranked in found.best)
    ]
    figures = ["step", "MFU", "GiB", "GiB free"]
    figures += ["days"] if any(ranked.days is not None for ranked in found.best) else []
    figures += ["cost"] if any(ranked.cost is not None for ranked in found.best) else []
    columns = [
        *(Column(name, right=True) for name in ("", *axes, "micro-batch")),
        *(Column(name) for name in ("schedule", "recompute", "ZeRO", "sequence parallel")),
        *(Column(name, right=True) for name in figures),
    ]
    rows = [
        [
            str(place),
            *(str(getattr(ranked.layout, name)) for name in axes),
            str(ranked.layout.micro_batch),
            _schedule(ranked.layout),
            ranked.layout.recompute,
            str(ranked.layout.zero_stage),
            "yes" if ranked.layout.sequence_parallel else "no",
            seconds(ranked.step.step_s),
            f"{ranked.step.mfu:.1%}",
            f"{ranked.memory.reserved_bytes / 2**30:,.1f}",
            f"{ranked.headroom_bytes / 2**30:,.1f}",
            *([number(ranked.days)] if ranked.days is not None else []),
            *([f"{ranked.cost:,.0f}"] if ranked.cost is not None else []),
        ]
        for place, ranked in enumerate(found.best, 1)
    ]
    print_table(printable(title), columns, rows)


def _show_beside(found: Found, beside: Beside) -> None:
    rows = []
    for name, value, why in sorted(beside, key=lambda row: (row[2].kind != "behind", row[2].behind)):
        changed = f"{name} {value}"
        if name == "sequence_parallel":
            changed = "sequence parallel" if value else "not sequence parallel"
        else_ = "" if why.kind != "behind" else _changes(found.best[0].layout, why.layout, name)
        rows.append([changed, KINDS.get(why.kind, why.kind), printable(why.text), else_])
    columns = [Column(name) for name in ("field", "lost by", "why", "what else then differs")]
    print_table("The best with another value of one field, and why it lost", columns, rows)


def _changes(best: Layout, other: Layout | None, but: str) -> str:
    """Fields that differ, one aside, with their values in the other."""
    if other is None:
        return ""
    mine, its = dataclasses.asdict(best), dataclasses.asdict(other)
    return ", ".join(f"{name} {its[name]}" for name in its if its[name] != mine[name] and name != but)


def _show_differences(why: Why) -> None:
    rows = [
        [gap.term, ("-" if gap.seconds < 0 else "") + seconds(abs(gap.seconds))] for gap in why.differences
    ]
    print_table("Of its step, against the best's", [Column("term"), Column("longer by", right=True)], rows)
