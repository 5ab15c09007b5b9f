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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TextIO

from distlab.errors import SettingError, WorkError
from distlab.predict.commands.clusters import CLUSTERS_HELP, ClusterOptions, priced, the_cluster
from distlab.predict.commands.layout_tables import Beside, show_found
from distlab.predict.commands.options import Given, Parser
from distlab.predict.commands.presets import unknown
from distlab.predict.commands.show import draw, gib, gpus, number, show_json
from distlab.predict.commands.transformers import (
    MODELS_HELP,
    RunOptions,
    SoftwareOptions,
    the_model,
    the_settings,
    the_software,
)
from distlab.predict.commands.values import converted, types_of
from distlab.predict.transformer import Recompute, Schedule, Transformer

if TYPE_CHECKING:
    from distlab.predict.plots.chart import Chart
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
    figures = {"plot": "the best layouts, with the terms of their steps"}
    given = Parser("distlab predict layout", str(layout.__doc__), sections, helps, figures).parse(args)
    model, source = the_model(given)
    asked = given.make("search", SearchOptions)
    query = _query(given, model, asked, the_settings(given))
    fields = None if asked.why is None else _fields(asked.why)
    with_progress = Progress(sys.stderr, time.monotonic)
    found = search(query, with_progress)
    with_progress.clear()
    if not found.best:
        raise WorkError(_nothing(found))

    def best() -> Chart:
        from distlab.predict.plots.ranking import ranking

        return ranking(found)

    drawn = draw(given.figures, {"plot": best})
    beside = nearest(found)
    explained = None if fields is None else why_with(found, fields)
    price, said = (None, "") if query.tokens is None else priced(given)
    if given.json:
        show_json({**_as_json(found, source, beside, explained), "price": price})
        return 0
    if price is not None:
        currency = price["currency"] or ""
        said = f"Cost at {price['per_gpu_hour']:g} {currency} a GPU-hour: {said}.".replace("  ", " ")
    show_found(found, beside, asked.why, explained, [*([said] if said else []), *drawn])
    return 0


def _query(given: Given, model: Transformer, asked: SearchOptions, settings: Any) -> Query:
    from distlab.predict.memory import RESERVE_BYTES
    from distlab.predict.search import Query

    wanted = dataclasses.asdict(given.make("layout", LayoutOptions))
    for name, value in wanted.items():
        if type(value) is int and value < 1 and name != "zero_stage":
            raise SettingError(f"{name} is {value}; it must be 1 or more.")
    fixed = {name: value for name, value in wanted.items() if value is not None and name != "global_batch"}
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
                f"No layout is done in {query.days:g} days; the fastest on {gpus(query.gpus)} takes "
                f"{number(quick.best[0].days or 0.0)}: give more days or GPUs."
            )
    endless = replace(query.cluster, device=replace(query.cluster.device, memory_bytes=float("inf")))
    lean = search(replace(query, cluster=endless, objective="memory", days=None, keep=1))
    if lean.best:
        need = lean.best[0].memory.reserved_bytes
        return (
            f"No layout fits: the leanest on {gpus(query.gpus)} takes {gib(need)} GiB of each, of which "
            f"{gib(query.usable_bytes)} are usable; take more GPUs, or larger ones."
        )
    rules = ", ".join(sorted({row.reason for row in found.rejected if row.kind == "rule"}))
    return f"No layout of {gpus(query.gpus)} is possible ({rules}); choose another number of GPUs or batch."


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
        "gpu_counts": list(query.gpu_counts),
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
        "behind": why.behind,
        "slower_s": why.slower_s,
        "differences": [gap._asdict() for gap in why.differences],
    }
