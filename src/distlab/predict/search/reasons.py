"""Why a layout lost: what forbids it, how much memory it is over and by which term, or what makes it slower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

from distlab.errors import SettingError
from distlab.predict.search.find import Found, best_with
from distlab.predict.search.query import Query
from distlab.predict.search.space import check, divisors
from distlab.predict.step_time import StepTime
from distlab.predict.training_memory import TrainingMemory, training_memory
from distlab.predict.transformer import Layout, Recompute, Schedule
from distlab.predict.units import GIB

SAME = 1e-9
"""A relative difference that is none: sums of floats."""


class Difference(NamedTuple):
    """How much longer a term of the step is than the best layout's; negative where it is shorter."""

    term: str
    seconds: float


@dataclass(frozen=True)
class Why:
    """Of one layout."""

    kind: Literal["best", "rule", "memory", "days", "behind"]
    text: str
    """One sentence."""
    layout: Layout | None
    """None where the fields make none."""
    step: StepTime | None = None
    memory: TrainingMemory | None = None
    over_bytes: float = 0.0
    """Beyond the usable memory."""
    behind: float = 0.0
    """The best layout, by the objective: seconds of a step, money, or bytes."""
    slower_s: float = 0.0
    """Than the best layout."""
    differences: tuple[Difference, ...] = ()
    """To the best layout, the largest first."""


def why(found: Found, layout: Layout) -> Why:
    """Why the layout is not the best one, or that it is."""
    query = found.query
    try:
        check(query, layout)
    except SettingError as error:
        return Why("rule", str(error), layout)
    step, memory = found.steps.step(layout), training_memory(query.model, layout, query.settings)
    over_bytes = memory.reserved_bytes - query.usable_bytes
    if over_bytes > 0:
        return Why("memory", _too_much(query, memory), layout, step, memory, over_bytes)
    if step.step_s > query.slowest_s:
        text = f"a step takes {step.step_s:.4g} s; {query.days:g} days leave {query.slowest_s:.4g} s."
        return Why("days", text, layout, step, memory)
    best = found.best[0]
    slower_s = step.step_s - best.step.step_s
    pairs = zip(step.terms, best.step.terms, strict=True)
    gaps = [Difference(mine.name, mine.seconds - its.seconds) for mine, its in pairs]
    gaps = sorted([gap for gap in gaps if gap.seconds], key=lambda gap: -gap.seconds)
    if layout == best.layout:
        return Why("best", f"the best: {step.step_s:.4g} s a step.", layout, step, memory)
    behind = {
        "time": slower_s,
        "cost": query.cost(step.step_s, layout.gpus) - query.cost(best.step.step_s, best.layout.gpus),
        "memory": memory.reserved_bytes - best.memory.reserved_bytes,
    }[query.objective]
    text = _behind(found, layout, step, gaps, behind)
    return Why("behind", text, layout, step, memory, 0.0, behind, slower_s, tuple(gaps))


def why_with(found: Found, fields: Mapping[str, Any]) -> Why:
    """Why the best layout that has these fields is not the best of all.

    Where none of them fits: why the best layout does not, with these fields in place of its own and as many
    data-parallel ranks as that leaves. SettingError where the search found nothing.
    """
    if not found.best:
        raise SettingError("no layout fits, so that there is none to compare with; take more GPUs.")
    with_them = best_with(found, fields)
    if with_them is not None:
        return why(found, with_them.layout)
    try:
        layout = _changed(found, fields)
    except SettingError as error:
        return Why("rule", str(error), None)
    return why(found, layout)


def nearest(found: Found) -> tuple[tuple[str, Any, Why], ...]:
    """Each field of the best layout with the values beside its own: field, value, why the best with it lost.

    Of numbers these are the next lower and the next higher divisor, of other fields all other values.
    """
    return tuple((name, value, why_with(found, {name: value})) for name, value in _beside(found))


def _too_much(query: Query, memory: TrainingMemory) -> str:
    largest = max(memory.peak.terms, key=lambda term: term.bytes)
    over_bytes = memory.reserved_bytes - query.usable_bytes
    return (
        f"it takes {memory.reserved_bytes / GIB:,.1f} GiB, {over_bytes / GIB:,.1f} more than the "
        f"{query.usable_bytes / GIB:,.1f} that are usable; the largest term is {largest.name}, "
        f"{largest.bytes / GIB:,.1f} GiB."
    )


def _behind(found: Found, layout: Layout, step: StepTime, gaps: list[Difference], behind: float) -> str:
    query, best = found.query, found.best[0]
    parts = []
    if query.objective == "cost":
        where = (
            "" if layout.gpus == best.layout.gpus else f" on {layout.gpus:,} GPUs, not {best.layout.gpus:,}"
        )
        parts.append(f"it costs {behind:,.0f} more{where}")
    if query.objective == "memory":
        parts.append(f"it takes {behind / GIB:,.2f} GiB more")
    slower_s = step.step_s - best.step.step_s
    if abs(slower_s) <= SAME * best.step.step_s:
        parts.append("a step takes as long; of equals the one with less memory comes first")
    elif slower_s > 0:
        longest = f", {gaps[0].term} alone {gaps[0].seconds:.3g} s" if gaps else ""
        parts.append(f"a step takes {slower_s:.3g} s ({slower_s / best.step.step_s:.1%}) longer{longest}")
    else:
        parts.append(f"a step takes {-slower_s:.3g} s less")
    return "; ".join(parts) + "."


def _changed(found: Found, fields: Mapping[str, Any]) -> Layout:
    """The best layout with these fields; what must then change, too, does."""
    cut = {name: fields[name] for name in ("tensor", "pipeline", "context", "expert") if name in fields}
    ranks = cut.get("expert", 1)
    # What the model forbids comes before what does not come out even.
    Layout(**cut, data=ranks, global_batch=ranks).check(found.query.model)
    values = {**asdict(found.best[0].layout), **fields}
    gpus = found.best[0].layout.gpus
    if "data" in fields:
        for name in ("context", "pipeline", "tensor"):
            if name not in fields and _parts(values) * values["data"] != gpus:
                values[name] = 1
    elif gpus % _parts(values):
        parts = _parts(values)
        raise SettingError(f"tensor x pipeline x context is {parts}, which does not divide {gpus} GPUs.")
    else:
        values["data"] = gpus // _parts(values)
    if "micro_batch" not in fields and found.query.global_batch % (values["data"] * values["micro_batch"]):
        values["micro_batch"] = 1
    if values["tensor"] == 1 and "sequence_parallel" not in fields:
        values["sequence_parallel"] = False
    if "interleave" in fields and "schedule" not in fields:
        values["schedule"] = "interleaved" if values["interleave"] > 1 else "1f1b"
    plain = values["schedule"] != "interleaved" or values["pipeline"] == 1
    if plain and "interleave" not in fields:
        values["interleave"] = 1
    if values["pipeline"] == 1 and "schedule" not in fields:
        values["schedule"] = "1f1b"
    return Layout(**values)


def _parts(values: Mapping[str, Any]) -> int:
    """Ranks that hold different parts of the model, or of a sample."""
    return int(values["tensor"] * values["pipeline"] * values["context"])


def _beside(found: Found) -> Iterator[tuple[str, Any]]:
    """Fields and values beside those of the best layout."""
    if not found.best:
        return
    query, best = found.query, found.best[0].layout
    numbers = {
        "tensor": divisors(best.gpus),
        "pipeline": divisors(best.gpus),
        "context": divisors(best.gpus),
        "expert": divisors(query.model.experts),
        "micro_batch": divisors(query.global_batch // best.data),
        "interleave": divisors(query.model.layers // best.pipeline) if best.pipeline > 1 else (1,),
    }
    for name, values in numbers.items():
        at = values.index(getattr(best, name))
        for value in values[max(0, at - 1) : at] + values[at + 1 : at + 2]:
            if name not in query.fixed:
                yield name, value
    others: dict[str, tuple[Any, ...]] = {
        "sequence_parallel": (False, True) if best.tensor > 1 else (False,),
        "schedule": get_args(Schedule) if best.pipeline > 1 else (best.schedule,),
        "recompute": get_args(Recompute),
        "zero_stage": (0, 1, 2, 3) if best.data * best.context > 1 else (best.zero_stage,),
    }
    for name, choices in others.items():
        for value in choices:
            if value != getattr(best, name) and name not in query.fixed:
                yield name, value
