"""`distlab predict layout`: the best layout for a model, a cluster and an objective, and why the others lost.

    distlab predict layout --model gpt-1t --gpus 16384 --global-batch 3072
    distlab predict layout --model llama3-70b --cluster dgx_a100 --gpus 512 --global-batch 1024 --tensor 8
    distlab predict layout --model gpt-175b --gpus 1024 --global-batch 1536 --why tensor=8,pipeline=8

Fields of the layout that are given are kept, the others searched.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TextIO

from distlab.errors import SettingError, WorkError, printable
from distlab.predict.commands.clusters import CLUSTERS_HELP, ClusterOptions, the_cluster
from distlab.predict.commands.options import Given, Parser, converted, types_of
from distlab.predict.commands.presets import unknown
from distlab.predict.commands.show import TIER, Row, gib, seconds, show, show_json
from distlab.predict.commands.training import (
    MODELS_HELP,
    RunOptions,
    SoftwareOptions,
    the_model,
    the_software,
)
from distlab.predict.transformer import Layout, Recompute, Schedule, Transformer

if TYPE_CHECKING:
    from rich.table import Table

    from distlab.predict.search import Found, Query, Ranked, Why

QUIET_S = 2.0
"""A search that is done by then shows no progress."""


@dataclass(frozen=True)
class LayoutOptions:
    """Fields of `Layout` that are not searched; None: searched. The batch is always given."""

    global_batch: int
    data: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    context: int | None = None
    expert: int | None = None
    sequence_parallel: bool | None = None
    interleave: int | None = None
    schedule: Schedule | None = None
    micro_batch: int | None = None
    recompute: Recompute | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None


@dataclass(frozen=True)
class SearchOptions:
    """What is best, and of what."""

    gpus: int
    objective: Literal["time", "cost", "memory"] = "time"
    days: float | None = None
    keep: int = 5
    reserve_bytes: float | None = None
    why: str | None = None


def layout(args: list[str]) -> int:
    """The best layout of a training over GPUs, and why the others lost."""
    from distlab.predict.search import nearest, search, why_with
    from distlab.predict.states import MemorySettings

    sections = {
        "search": SearchOptions,
        "model": Transformer,
        "layout": LayoutOptions,
        "settings": MemorySettings,
        "cluster": ClusterOptions,
        "software": SoftwareOptions,
        "run": RunOptions,
    }
    helps = {"model": MODELS_HELP, "cluster": CLUSTERS_HELP}
    given = Parser("distlab predict layout", str(layout.__doc__), sections, helps).parse(args)
    model, source = the_model(given)
    asked = given.make("search", SearchOptions)
    query = _query(given, model, asked, given.make("settings", MemorySettings))
    fields = None if asked.why is None else _fields(asked.why)
    with_progress = Progress(sys.stderr, time.monotonic)
    found = search(query, with_progress)
    with_progress.clear()
    if not found.best:
        raise WorkError(_nothing(found))
    beside = nearest(found)
    explained = None if fields is None else why_with(found, fields)
    if given.json:
        show_json(_as_json(found, source, beside, explained))
        return 0
    _show(found, beside, asked.why, explained)
    return 0


def _query(given: Given, model: Transformer, asked: SearchOptions, settings: Any) -> Query:
    from distlab.predict.search import RESERVE_BYTES, Query

    wanted = dataclasses.asdict(given.make("layout", LayoutOptions))
    fixed = {name: value for name, value in wanted.items() if value is not None and name != "global_batch"}
    # Of one program: what runs is what the memory is of.
    given.values["software"].setdefault("fused_attention", settings.attention == "flash")
    given.values["software"].setdefault("gradient_bytes", settings.bytes.gradient)
    return Query(
        model,
        the_cluster(given),
        asked.gpus,
        wanted["global_batch"],
        asked.objective,
        given.make("run", RunOptions).tokens,
        asked.days,
        asked.keep,
        RESERVE_BYTES if asked.reserve_bytes is None else asked.reserve_bytes,
        settings,
        the_software(given),
        fixed,
    )


def _fields(text: str) -> dict[str, Any]:
    """Of `tensor=8,pipeline=4`."""
    hints = {name: hint for name, hint in types_of(LayoutOptions).items() if name != "global_batch"}
    found: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        name, sign, value = part.partition("=")
        name = name.replace("-", "_")
        if not sign:
            raise SettingError(f"why is {text!r}; it is fields with values, such as tensor=8,pipeline=4.")
        if name not in hints:
            raise unknown("field of why", name, hints)
        if name == "sequence_parallel" and value.lower() in ("true", "false"):
            found[name] = value.lower() == "true"
        else:
            found[name] = converted(name, value, hints[name])
    if not found:
        raise SettingError(f"why is {text!r}; it is fields with values, such as tensor=8,pipeline=4.")
    return found


class Progress:
    """The share that is done, on one line of a terminal, once the search has taken a while."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self.stream, self.clock = stream, clock
        self.begun_s = clock()
        self.shown = ""

    def __call__(self, share: float) -> None:
        if self.clock() - self.begun_s < QUIET_S or not self.stream.isatty():
            return
        text = f"\rsearched {share:.0%}"
        if text != self.shown:
            self.stream.write(text)
            self.stream.flush()
            self.shown = text

    def clear(self) -> None:
        """Leave the line as it was."""
        if self.shown:
            self.stream.write("\r" + " " * len(self.shown) + "\r")
            self.stream.flush()


def _nothing(found: Found) -> str:
    """Why there is no layout at all."""
    from distlab.predict.search import search

    query = found.query
    if found.count("days"):
        quick = search(replace(query, objective="time", days=None, keep=1))
        if quick.best:
            return (
                f"No layout is done in {query.days:g} days; the fastest on {query.gpus} GPUs takes "
                f"{quick.best[0].days:.4g}: give more days or GPUs."
            )
    endless = replace(query.cluster, device=replace(query.cluster.device, memory_bytes=float("inf")))
    lean = search(replace(query, cluster=endless, objective="memory", days=None, keep=1))
    if lean.best:
        need = lean.best[0].memory.reserved_bytes
        return (
            f"No layout fits: the leanest on {query.gpus} GPUs takes {gib(need)} GiB of each, of which "
            f"{gib(query.usable_bytes)} are usable; take more GPUs, or larger ones."
        )
    rules = ", ".join(sorted({row.reason for row in found.rejected if row.kind == "rule"}))
    return f"No layout of {query.gpus} GPUs is possible ({rules}); choose another number of GPUs or batch."


Beside = Sequence[tuple[str, Any, "Why"]]


def _as_json(found: Found, source: str, beside: Beside, explained: Why | None) -> dict[str, Any]:
    query = found.query
    return {
        "model": {
            **dataclasses.asdict(query.model),
            "parameters": query.model.parameters,
            "source": source,
        },
        "cluster": dataclasses.asdict(query.cluster),
        "gpus": query.gpus,
        "global_batch": query.global_batch,
        "objective": query.objective,
        "run_tokens": query.tokens,
        "days": query.days,
        "usable_bytes": query.usable_bytes,
        "reserve_bytes": query.reserve_bytes,
        "settings": dataclasses.asdict(query.settings),
        "fixed": dict(query.fixed),
        "meshes": found.meshes,
        "layouts": found.layouts,
        "predicted_in_full": found.predicted,
        "rejected": [dataclasses.asdict(row) for row in found.rejected],
        "best": [_ranked_json(ranked) for ranked in found.best],
        "terms": [dataclasses.asdict(term) for term in found.best[0].step.terms],
        "nearest": [{"field": name, "value": value, **_why_json(why)} for name, value, why in beside],
        "why": None if explained is None else _why_json(explained),
    }


def _ranked_json(ranked: Ranked) -> dict[str, Any]:
    return {
        "layout": {**dataclasses.asdict(ranked.layout), "gpus": ranked.layout.gpus},
        "micro_batches": ranked.layout.micro_batches,
        "step_s": ranked.step.step_s,
        "mfu": ranked.step.mfu,
        "hfu": ranked.step.hfu,
        "tokens_per_day": ranked.step.tokens_per_day,
        "days": ranked.days,
        "cost": ranked.cost,
        "reserved_bytes": ranked.memory.reserved_bytes,
        "headroom_bytes": ranked.headroom_bytes,
    }


def _why_json(why: Why) -> dict[str, Any]:
    return {
        "kind": why.kind,
        "text": why.text,
        "layout": None if why.layout is None else dataclasses.asdict(why.layout),
        "step_s": None if why.step is None else why.step.step_s,
        "reserved_bytes": None if why.memory is None else why.memory.reserved_bytes,
        "over_bytes": why.over_bytes,
        "slower_s": why.slower_s,
        "differences": [gap._asdict() for gap in why.differences],
    }


def _show(found: Found, beside: Beside, asked: str | None, explained: Why | None) -> None:
    from distlab.bench.printing import print_report

    query, best = found.query, found.best[0]
    print_report([_ranking_table(found)], [])
    rows = [
        Row(term.name, seconds(term.seconds), term.seconds / best.step.step_s, term.why)
        for term in best.step.terms
        if term.seconds
    ]
    show(f"A step of the best: {short(best.layout)}", "time", rows, seconds(best.step.step_s), [])
    print_report([_beside_table(found, beside)], [printable(line) for line in _lines(found)])
    if explained is not None:
        have = "nothing" if explained.layout is None else short(explained.layout)
        print_report([_difference_table(explained)] if explained.differences else [], [])
        print_report([], [printable(f"Why not {asked}: {explained.text} (Compared: {have}.)")])
    if query.cluster.extrapolated:
        print_report([], [f"Extrapolated: {what}." for what in query.cluster.extrapolated])


def _lines(found: Found) -> Iterator[str]:
    """What was searched, and how many lost for which reason."""
    query = found.query
    kept = ", ".join(f"{name} {value}" for name, value in query.fixed.items())
    yield (
        f"Searched: {found.layouts:,} layouts on {found.meshes:,} meshes (tensor x pipeline x context x data)"
        f"{f', with {kept}' if kept else ''}; {found.predicted:,} of them predicted in full, the others left out by "
        "exact bounds. One layout of each mesh is ranked."
    )
    for row in found.rejected:
        if row.count:
            yield f"{row.count:,} {row.of} out, {KINDS[row.kind]}: {row.reason}."
    yield (
        f"Usable memory: {gib(query.usable_bytes)} GiB, {gib(query.reserve_bytes)} of the GPU's being kept for what is "
        "no tensor."
    )


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


def _ranking_table(found: Found) -> Table:
    from rich.table import Table
    from rich.text import Text

    query = found.query
    title = f"Best layouts of {query.model.name} on {query.gpus:,} GPUs of {query.cluster.name} ({TIER})"
    table = Table(title=Text(printable(title)), title_justify="left")
    axes = [
        name
        for name in ("tensor", "pipeline", "context", "data", "expert")
        if any(getattr(ranked.layout, name) > 1 for ranked in found.best)
    ]
    priced = any(ranked.cost is not None for ranked in found.best)
    days = any(ranked.days is not None for ranked in found.best)
    for name in ("", *axes, "micro-batch"):
        table.add_column(name, justify="right")
    for name in ("schedule", "recompute", "ZeRO", "sequence parallel"):
        table.add_column(name)
    for name in (
        "step",
        "MFU",
        "GiB",
        "GiB free",
        *(["days"] if days else []),
        *(["cost"] if priced else []),
    ):
        table.add_column(name, justify="right")
    for place, ranked in enumerate(found.best, 1):
        cut = ranked.layout
        table.add_row(
            str(place),
            *(str(getattr(cut, name)) for name in axes),
            str(cut.micro_batch),
            _schedule(cut),
            cut.recompute,
            str(cut.zero_stage),
            "yes" if cut.sequence_parallel else "no",
            seconds(ranked.step.step_s),
            f"{ranked.step.mfu:.1%}",
            f"{ranked.memory.reserved_bytes / 2**30:,.1f}",
            f"{ranked.headroom_bytes / 2**30:,.1f}",
            *([f"{ranked.days:,.4g}"] if ranked.days is not None else []),
            *([f"{ranked.cost:,.0f}"] if ranked.cost is not None else []),
        )
    return table


def _beside_table(found: Found, beside: Beside) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = Text("The best with another value of one field, and why it lost")
    table = Table(title=title, title_justify="left")
    for name in ("field", "lost by", "why", "what else then differs"):
        table.add_column(name)
    for name, value, why in sorted(beside, key=lambda row: (row[2].kind != "behind", row[2].slower_s)):
        changed = f"{name} {value}"
        if name == "sequence_parallel":
            changed = "sequence parallel" if value else "not sequence parallel"
        else_ = "" if why.kind != "behind" else _changes(found.best[0].layout, why.layout, name)
        table.add_row(changed, KINDS.get(why.kind, why.kind), Text(printable(why.text)), else_)
    return table


def _changes(best: Layout, other: Layout | None, but: str) -> str:
    """Fields that differ, one aside, with their values in the other."""
    if other is None:
        return ""
    mine, its = dataclasses.asdict(best), dataclasses.asdict(other)
    return ", ".join(f"{name} {its[name]}" for name in its if its[name] != mine[name] and name != but)


def _difference_table(why: Why) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text("Of its step, against the best's"), title_justify="left")
    table.add_column("term")
    table.add_column("longer by", justify="right")
    for gap in why.differences:
        sign = "-" if gap.seconds < 0 else ""
        table.add_row(gap.term, sign + seconds(abs(gap.seconds)))
    return table
