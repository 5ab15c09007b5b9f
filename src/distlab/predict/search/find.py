"""The search: cells in the order of what they can reach at the best, until none can reach the ranked ones any more.

Nothing is skipped silently. Each layout of the space is ranked, or counted under the reason why it is not: a rule of
divisibility, memory, the days, or others before it; and whether that was predicted in full or follows from a bound.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from distlab.errors import SettingError
from distlab.predict.search.bounds import Bounds
from distlab.predict.search.query import Query
from distlab.predict.search.space import Cell, cells, divisors, layout_of, mesh_of, meshes, narrowed, obstacle
from distlab.predict.step_time import StepModel, StepTime
from distlab.predict.training_memory import TrainingMemory, training_memory
from distlab.predict.transformer import Layout, ZeroStage

Kind = Literal["rule", "memory", "days", "behind"]
Reason = tuple[Kind, str]

STATES = "states and the optimizer's step alone are too much"
ACTIVATIONS = "too much with the activations that are kept"
BUFFERS = "too much with all buffers"
BY_BOUND = "by a bound: even at its best it is behind those ranked"
TOO_LONG = "by a bound: even its shortest step is too long"
IN_FULL = "predicted in full"

SETTINGS = "settings: this optimizer or offloading does not go with the ZeRO stage"

CLOSE = 1 - 1e-9
"""Bounds are sums in another order than predictions: what is this close counts as equal."""


@dataclass(frozen=True)
class Rejected:
    """How many were rejected for a reason."""

    kind: Kind
    reason: str
    count: int
    of: Literal["meshes", "layouts"]


@dataclass(frozen=True)
class Ranked:
    """A layout that fits."""

    layout: Layout
    step: StepTime
    memory: TrainingMemory
    headroom_bytes: float
    """Of the usable memory, what the allocator leaves free."""
    days: float | None
    cost: float | None


@dataclass(frozen=True)
class Found:
    """What a search found. The best comes first; none where nothing fits."""

    query: Query
    best: tuple[Ranked, ...]
    meshes: int
    """Ways to cut the GPUs, of which `rejected` says how many the model cannot be cut into."""
    layouts: int
    """On the other meshes."""
    predicted: int
    """Layouts whose time was predicted; the rest follows from bounds."""
    rejected: tuple[Rejected, ...]
    pool: tuple[tuple[float, Cell], ...] = field(repr=False, compare=False)
    """Cells that no bound on memory or time ruled out, with that on the objective, in its order."""
    steps: StepModel = field(repr=False, compare=False)
    bounds: Bounds = field(repr=False, compare=False)

    def count(self, kind: Kind) -> int:
        """Layouts rejected so; of the kind `rule` meshes, too."""
        return sum(row.count for row in self.rejected if row.kind == kind)


class _Row(NamedTuple):
    value: float
    """By the objective."""
    second: float
    """Of equals the lower one comes first."""
    layout: Layout
    memory: TrainingMemory


class _Ranking:
    """The best so far, one for each mesh: others there differ in what is quickly changed."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.rows: list[_Row] = []
        self.worst = float("inf")
        """A higher value has no place any more."""

    def behind(self, value: float, layout: Layout) -> bool:
        """Whether such a value has no place."""
        return value > self.worst or any(
            row.value < value and mesh_of(row.layout) == mesh_of(layout) for row in self.rows
        )

    def add(self, row: _Row) -> int:
        """How many layouts have no place, of this one and those that had one."""
        rows = [kept for kept in self.rows if mesh_of(kept.layout) != mesh_of(row.layout)]
        twin = [kept for kept in self.rows if mesh_of(kept.layout) == mesh_of(row.layout)]
        better = min([*twin, row], key=lambda row: row[:2])  # of equals the first
        bisect.insort(rows, better, key=lambda row: row[:2])
        self.rows = rows[: self.keep]
        if len(self.rows) == self.keep:
            self.worst = self.rows[-1].value
        return len(twin) + len(rows) - len(self.rows)


def search(query: Query, progress: Callable[[float], None] | None = None) -> Found:
    """The best layouts of the space (`space`), and why the others are not among them.

    `progress` is called with the share of the cells that are done. SettingError where the fixed fields leave no space.
    """
    steps = StepModel(query.model, query.cluster, query.program)
    run = _Run(query, steps, Bounds(query, steps))
    pool = sorted(run.pool(), key=lambda entry: entry[0])
    if not run.layouts and query.fixed:
        raise SettingError(_no_space(query, run))
    for index, (value, cell) in enumerate(pool):
        if value > run.ranking.worst:
            run.rejected["behind", BY_BOUND] += sum([cell.size for _, cell in pool[index:]])
            break
        run.expand(cell)
        if progress is not None and index % 32 == 0:
            progress(index / len(pool))
    best = tuple([_ranked(query, steps, layout, memory) for _, _, layout, memory in run.ranking.rows])
    rejected = [Rejected(kind, reason, n, "layouts") for (kind, reason), n in run.rejected.items()]
    rejected += [Rejected("rule", reason, n, "meshes") for reason, n in run.forbidden.items()]
    rejected.sort(key=lambda row: (row.kind, row.of, -row.count))
    return Found(
        query, best, run.meshes, run.layouts, run.predicted, tuple(rejected), tuple(pool), steps, run.bounds
    )


def _no_space(query: Query, run: _Run) -> str:
    fixed = ", ".join(f"{name} {value}" for name, value in query.fixed.items())
    broken = sorted(_broken(query)) or sorted(run.forbidden)
    rules = f" ({', '.join(broken)})" if broken else ""
    return (
        f"gpus is {query.gpus} and global_batch {query.global_batch}, of which no layout has {fixed}{rules}; choose "
        "others."
    )


def _broken(query: Query) -> Iterator[str]:
    """Rules that fixed fields break on every mesh."""
    gpus, layers = query.gpus, query.model.layers
    wholes = {**dict.fromkeys(("data", "tensor", "pipeline", "context"), ("gpus", gpus))}
    wholes |= {
        "micro_batch": ("global_batch", query.global_batch),
        "expert": ("experts", query.model.experts),
    }
    for name, (what, whole) in wholes.items():
        if whole % query.fixed.get(name, 1):
            yield f"{name} must divide {what}, {whole}"
    chunks, stages = query.fixed.get("interleave", 1), query.fixed.get("pipeline")
    if chunks > 1 and all(layers % (chunks * p) for p in ([stages] if stages else divisors(gpus)[1:])):
        yield f"pipeline times interleave must divide layers, {layers}"


def best_with(found: Found, fields: Mapping[str, Any]) -> Ranked | None:
    """The best of the layouts that have these fields; None where none of them fits."""
    run = _Run(replace(found.query, keep=1), found.steps, found.bounds)
    for value, cell in found.pool:
        if value > run.ranking.worst:
            break
        part = narrowed(cell, fields)
        if part is not None:
            run.expand(part)
    for _, _, layout, memory in run.ranking.rows:
        return _ranked(found.query, found.steps, layout, memory)
    return None


class _Run:
    """A search as it goes."""

    def __init__(self, query: Query, steps: StepModel, bounds: Bounds) -> None:
        self.query, self.steps, self.bounds = query, steps, bounds
        self.ranking = _Ranking(query.keep)
        self.meshes = self.layouts = self.predicted = 0
        self.forbidden: Counter[str] = Counter()
        self.rejected: Counter[Reason] = Counter()

    def pool(self) -> Iterator[tuple[float, Cell]]:
        """Cells that may hold something, with a bound of the objective's value."""
        query = self.query
        for gpus in query.gpu_counts:
            for mesh in meshes(query, gpus):
                self.meshes += 1
                rule = obstacle(query.model, mesh, query.global_batch)
                if rule is not None:
                    self.forbidden[rule] += 1
                    continue
                hopeless: dict[ZeroStage, Reason | None] = {}
                for cell, broken in cells(query, mesh):
                    self.layouts += cell.size + sum(broken.values())
                    for rule, count in broken.items():
                        self.rejected["rule", rule] += count
                    if not cell.size:
                        continue
                    stage, first = cell.zero_stage, self._first(cell)
                    if stage not in hopeless:
                        hopeless[stage] = self._hopeless(first)
                    reason, value = hopeless[stage], 0.0
                    if reason is None:
                        value, reason = self._least(cell, first)
                    if reason is None:
                        yield value, cell
                    else:
                        self.rejected[reason] += cell.size

    def _first(self, cell: Cell) -> Layout:
        return layout_of(self.query, cell, cell.choices[0], "none")

    def _hopeless(self, layout: Layout) -> Reason | None:
        """Why nothing on the layout's mesh with its ZeRO stage can be."""
        try:
            self.query.settings.check(layout)
        except SettingError:
            return "rule", SETTINGS
        too_much = self.bounds.states(layout).update * CLOSE > self.query.peak_bytes
        return ("memory", STATES) if too_much else None

    def _least(self, cell: Cell, first: Layout) -> tuple[float, Reason | None]:
        """A bound of the objective's value, and why no layout of the cell can be."""
        query = self.query
        least_bytes = self.bounds.cell_bytes(cell, first) * CLOSE
        if least_bytes > query.peak_bytes:
            return 0.0, ("memory", ACTIVATIONS)
        if query.objective == "memory":
            return least_bytes, None
        step_s = self.bounds.time_s(cell, first) * CLOSE
        reason: Reason | None = ("days", TOO_LONG) if step_s > query.slowest_s else None
        return step_s if query.objective == "time" else query.cost(step_s, cell.mesh.gpus), reason

    def expand(self, cell: Cell) -> None:
        """Every layout of the cell: first by a bound for each way to recompute, then one by one."""
        first = self._first(cell)
        for recompute in cell.recomputes:
            part = cell._replace(recomputes=(recompute,))
            value, reason = self._least(part, first)
            if reason is None and self.ranking.behind(value, first):
                reason = "behind", BY_BOUND
            if reason is not None:
                self.rejected[reason] += part.size
                continue
            for choice in cell.choices:
                self._try(layout_of(self.query, cell, choice, recompute))

    def _try(self, layout: Layout) -> None:
        reason = self._by_memory(layout) if self.query.objective == "memory" else self._by_time(layout)
        if reason is not None:
            self.rejected[reason] += 1

    def _by_time(self, layout: Layout) -> Reason | None:
        """Ranks the layout, or says why not. What takes long to find out comes last."""
        value = self._step_s(layout)
        if value > self.query.slowest_s:
            return "days", IN_FULL
        if self.query.objective == "cost":
            value = self.query.cost(value, layout.gpus)
        if self.ranking.behind(value, layout):
            return "behind", IN_FULL
        if self.bounds.memory_bytes(layout) * CLOSE > self.query.peak_bytes:
            return "memory", ACTIVATIONS
        memory = training_memory(self.query.model, layout, self.query.settings)
        if memory.reserved_bytes > self.query.usable_bytes:
            return "memory", BUFFERS
        self._rank(_Row(value, memory.peak_bytes, layout, memory))
        return None

    def _by_memory(self, layout: Layout) -> Reason | None:
        least = self.bounds.memory_bytes(layout) * CLOSE
        if least > self.query.peak_bytes:
            return "memory", ACTIVATIONS
        if self.ranking.behind(least, layout):
            return "behind", BY_BOUND
        memory = training_memory(self.query.model, layout, self.query.settings)
        if memory.reserved_bytes > self.query.usable_bytes:
            return "memory", BUFFERS
        step_s = self._step_s(layout)
        if step_s > self.query.slowest_s:
            return "days", IN_FULL
        self._rank(_Row(memory.peak_bytes, step_s, layout, memory))
        return None

    def _step_s(self, layout: Layout) -> float:
        self.predicted += 1
        return sum(self.steps.seconds(layout))

    def _rank(self, row: _Row) -> None:
        self.rejected["behind", IN_FULL] += self.ranking.add(row)


def _ranked(query: Query, steps: StepModel, layout: Layout, memory: TrainingMemory) -> Ranked:
    step = steps.step(layout)
    priced = query.tokens is not None and query.cluster.price_per_gpu_hour is not None
    return Ranked(
        layout,
        step,
        memory,
        query.usable_bytes - memory.reserved_bytes,
        None if query.tokens is None else step.days(query.tokens),
        query.cost(step.step_s, layout.gpus) if priced else None,
    )
