"""All layouts of a number of GPUs: how they are cut into meshes, and what is chosen on each.

A mesh is a way to write the number of GPUs as tensor x pipeline x context x data, with the expert-parallel ranks among
the data-parallel ones. On it a cell is a micro-batch, a ZeRO stage, and sequence parallelism or not; in a cell the
schedules, with their chunks, and the ways to recompute are tried.

The space is every divisor, with these limits: sequence parallelism only with tensor parallelism (without, it is none),
ZeRO only where two ranks or more hold the same weights, chunks above 1 only in the interleaved schedule, and the
schedules only with a pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, get_args

from distlab.errors import SettingError
from distlab.predict.search.query import Query
from distlab.predict.states import local_key_value_heads
from distlab.predict.transformer import Layout, Recompute, Schedule, Transformer, ZeroStage

Value = TypeVar("Value")

RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)

STAGES_DIVIDE = "interleaved: pipeline must divide the micro-batches (Megatron-LM's rule; R)"
SEQUENCE_SPLITS = "sequence_parallel: tensor must divide sequence"


class Mesh(NamedTuple):
    """How the GPUs are cut."""

    tensor: int
    pipeline: int
    context: int
    data: int
    expert: int

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.context * self.data


class Choice(NamedTuple):
    """A schedule with its chunks per stage."""

    schedule: Schedule
    interleave: int


class Cell(NamedTuple):
    """Layouts that differ in schedule and recomputation alone."""

    mesh: Mesh
    micro_batch: int
    sequence_parallel: bool
    zero_stage: ZeroStage
    choices: tuple[Choice, ...]
    recomputes: tuple[Recompute, ...]

    @property
    def size(self) -> int:
        return len(self.choices) * len(self.recomputes)


@lru_cache(maxsize=4096)
def divisors(n: int) -> tuple[int, ...]:
    """In order."""
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return (*small, *(n // k for k in reversed(small) if k * k != n))


def meshes(query: Query, gpus: int) -> Iterator[Mesh]:
    """Each way to cut them, whether the model can be cut so or not. A dense model has one expert."""
    experts = divisors(query.model.experts)
    for tensor in _wanted(query, "tensor", divisors(gpus)):
        for pipeline in _wanted(query, "pipeline", divisors(gpus // tensor)):
            for context in _wanted(query, "context", divisors(gpus // (tensor * pipeline))):
                data = gpus // (tensor * pipeline * context)
                if query.fixed.get("data", data) == data:
                    for expert in _wanted(query, "expert", experts):
                        yield Mesh(tensor, pipeline, context, data, expert)


def obstacle(model: Transformer, mesh: Mesh, global_batch: int) -> str | None:
    """The first rule that the mesh breaks; None where it breaks none."""
    heads = model.key_value_heads
    for parts, whole, rule in (
        (mesh.tensor, model.heads, "tensor must divide heads"),
        (mesh.tensor, model.mlp_width, "tensor must divide the MLP's width"),
        (mesh.context, model.sequence, "context must divide sequence"),
        (mesh.pipeline, model.layers, "pipeline must divide layers"),
        (mesh.expert, model.experts, "expert must divide experts"),
        (mesh.expert, mesh.data, "expert must divide data"),
        (mesh.data, global_batch, "data must divide global_batch"),
    ):
        if whole % parts:
            return rule
    if heads % mesh.tensor and mesh.tensor % heads:
        return "tensor must divide kv_heads, or kv_heads tensor"
    return None


def cells(query: Query, mesh: Mesh) -> Iterator[tuple[Cell, dict[str, int]]]:
    """Of a mesh without an obstacle; and how many layouts beside each of them a rule forbids, by rule."""
    layers, each = query.model.layers // mesh.pipeline, query.global_batch // mesh.data
    parallel = _wanted(query, "sequence_parallel", [False, True] if mesh.tensor > 1 else [False])
    every: list[ZeroStage] = [0, 1, 2, 3] if mesh.data * mesh.context > 1 else [0]
    stages = _wanted(query, "zero_stage", every)
    recomputes = tuple(_wanted(query, "recompute", RECOMPUTE))
    for micro_batch in _wanted(query, "micro_batch", divisors(each)):
        allowed, forbidden = _choices(query, mesh.pipeline, layers, each // micro_batch)
        broken = {STAGES_DIVIDE: forbidden * len(recomputes)} if forbidden else {}
        for shared in parallel:
            for stage in stages:
                cell = Cell(mesh, micro_batch, shared, stage, allowed, recomputes)
                if shared and query.model.sequence % mesh.tensor:
                    yield cell._replace(choices=()), {**broken, SEQUENCE_SPLITS: cell.size}
                else:
                    yield cell, broken


def _choices(query: Query, pipeline: int, layers: int, micro_batches: int) -> tuple[tuple[Choice, ...], int]:
    """Schedules with their chunks, and how many more the interleaved schedule's rule forbids."""
    if pipeline == 1:
        every = [Choice("1f1b", 1)]
    else:
        every = [Choice("1f1b", 1), Choice("gpipe", 1), Choice("zero_bubble", 1)]
        every += [Choice("interleaved", chunks) for chunks in divisors(layers)[1:]]
    for index, name in enumerate(("schedule", "interleave")):
        if name in query.fixed:
            every = [choice for choice in every if choice[index] == query.fixed[name]]
    allowed = tuple(c for c in every if c.interleave == 1 or micro_batches % pipeline == 0)
    return allowed, len(every) - len(allowed)


def check(query: Query, layout: Layout) -> None:
    """SettingError, by the first rule that it breaks, where the layout is not in the space."""
    if layout.gpus not in query.gpu_counts:
        counts = " or ".join(str(count) for count in query.gpu_counts)
        raise SettingError(f"the layout has {layout.gpus} GPUs; the search is for {counts}.")
    if layout.global_batch != query.global_batch:
        raise SettingError(
            f"global_batch is {layout.global_batch}; the search is for {query.global_batch} samples."
        )
    for name, value in query.fixed.items():
        if getattr(layout, name) != value:
            raise SettingError(f"{name} is {getattr(layout, name)}; the search is for {name} {value} alone.")
    layout.check(query.model)
    local_key_value_heads(query.model, layout)
    query.settings.check(layout)
    if layout.sequence_parallel and layout.tensor == 1:
        raise SettingError("sequence_parallel is true with tensor 1, where it shares out nothing.")
    if layout.zero_stage and layout.data * layout.context == 1:
        raise SettingError(f"zero_stage is {layout.zero_stage}, with no ranks that hold the same weights.")
    if layout.pipeline == 1 and layout.schedule != "1f1b":
        raise SettingError(f"schedule is {layout.schedule!r} without a pipeline.")
    if (layout.schedule == "interleaved") != (layout.interleave > 1):
        raise SettingError(
            f"interleave is {layout.interleave} with schedule {layout.schedule!r}; chunks above 1 are interleaved's."
        )


def narrowed(cell: Cell, fields: Mapping[str, Any]) -> Cell | None:
    """The layouts of the cell that have these fields; None where there are none."""
    for name, value in fields.items():
        part = cell.mesh if name in Mesh._fields else cell
        if name in part._fields and getattr(part, name) != value:
            return None
    schedule, chunks = fields.get("schedule"), fields.get("interleave")
    choices = tuple(
        choice
        for choice in cell.choices
        if schedule in (None, choice.schedule) and chunks in (None, choice.interleave)
    )
    recomputes = tuple(how for how in cell.recomputes if fields.get("recompute") in (None, how))
    return cell._replace(choices=choices, recomputes=recomputes) if choices and recomputes else None


def mesh_of(layout: Layout) -> Mesh:
    """How it cuts the GPUs."""
    return Mesh(layout.tensor, layout.pipeline, layout.context, layout.data, layout.expert)


def layout_of(query: Query, cell: Cell, choice: Choice, recompute: Recompute) -> Layout:
    """One layout of a cell."""
    mesh = cell.mesh
    return Layout(
        mesh.data,
        mesh.tensor,
        mesh.pipeline,
        mesh.context,
        mesh.expert,
        cell.sequence_parallel,
        choice.interleave,
        choice.schedule,
        cell.micro_batch,
        query.global_batch,
        recompute,
        cell.zero_stage,
    )


def _wanted(query: Query, name: str, values: Sequence[Value]) -> Sequence[Value]:
    """All of them, or the fixed one where it is among them."""
    if name not in query.fixed:
        return values
    return [value for value in values if value == query.fixed[name]]
