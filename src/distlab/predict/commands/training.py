"""`distlab predict memory` and `distlab predict step`: a transformer's training under a layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distlab.errors import SettingError
from distlab.predict.commands.clusters import CLUSTERS_HELP, ClusterOptions, priced, the_cluster
from distlab.predict.commands.options import Parser
from distlab.predict.commands.presets import named
from distlab.predict.commands.show import Row, draw, gib, gpus, number, seconds, show, show_json, time_rows
from distlab.predict.commands.transformers import (
    MODELS_HELP,
    RunOptions,
    SoftwareOptions,
    size_of,
    the_layout,
    the_model,
    the_settings,
    the_software,
)
from distlab.predict.transformer import Layout, Transformer

if TYPE_CHECKING:
    from distlab.predict.cluster import Cluster
    from distlab.predict.commands.room import Room, WayOut
    from distlab.predict.hardware import Accelerator
    from distlab.predict.plots.chart import Chart
    from distlab.predict.step_time import Software, StepTime
    from distlab.predict.training_memory import TrainingMemory


@dataclass(frozen=True)
class MemoryOptions:
    """Beside `MemorySettings`."""

    gpu: str | None = None
    """In the hardware registry: does the step fit into it?"""
    rank: int | None = None
    """Of the pipeline; None: the fullest."""
    reserve_bytes: float | None = None
    """Of the GPU's, for what is no tensor; None: RESERVE_BYTES."""


def memory(args: list[str]) -> int:
    """The memory of a training step on the fullest GPU."""
    from distlab.predict.commands.room import Room, ways_out
    from distlab.predict.memory import RESERVE_BYTES
    from distlab.predict.states import MemorySettings
    from distlab.predict.training_memory import training_memory

    sections = {"model": Transformer, "layout": Layout, "settings": MemorySettings, "memory": MemoryOptions}
    figures = {"plot": "the terms as a waterfall, against the GPU's memory"}
    parser = Parser(
        "distlab predict memory", _doc(memory), sections, {"model": MODELS_HELP}, figures, why=True
    )
    given = parser.parse(args)
    model, source = the_model(given)
    layout = the_layout(given)
    settings, asked = given.make("settings", MemorySettings), given.make("memory", MemoryOptions)
    chip = None if asked.gpu is None else _gpu(asked.gpu)
    reserve_bytes = RESERVE_BYTES if asked.reserve_bytes is None else asked.reserve_bytes
    if reserve_bytes < 0:
        raise SettingError(f"reserve_bytes is {reserve_bytes:g}; it must be 0 or more.")
    room = None if chip is None else Room(chip.title, chip.usable.value.bytes, reserve_bytes)
    found = training_memory(model, layout, settings, asked.rank)
    over = room is not None and not room.fits(found.reserved_bytes)
    ways = ways_out(model, layout, settings, room) if room and over else []

    def waterfall() -> Chart:
        from distlab.predict.plots.waterfall import memory_waterfall

        return memory_waterfall(found, chip, f"Memory of a training step: {model.name}", layout)

    drawn = draw(given.figures, {"plot": waterfall})
    why = None
    if given.why:
        from distlab.predict.commands.derived import of_memory, symbols_of_memory
        from distlab.predict.commands.why import Why

        names = [str(row["term"]) for row in found.as_rows()]
        values = symbols_of_memory(model, layout, settings)
        why = Why("memory", names, of_memory(found, room), values)
    if given.json:
        show_json(
            {
                **_inputs(model, source, layout),
                "settings": dataclasses.asdict(settings),
                "rank": found.rank,
                "phase": found.phase,
                "moment": found.peak.name,
                "peak_bytes": found.peak_bytes,
                "reserved_bytes": found.reserved_bytes,
                "host_bytes": found.host_bytes,
                "gpu_bytes": None,
                "reserve_bytes": reserve_bytes,
                "fits": None,
                **(room.as_json(found.reserved_bytes, ways) if room else {}),
                "gpu": asked.gpu,
                "terms": found.as_rows(),
                "moments": {moment.name: moment.bytes for moment in found.moments},
                **(why.as_json() if why else {}),
            }
        )
        return 0
    kept = f"{gib(reserve_bytes)} GiB ({'given' if asked.reserve_bytes is not None else '--reserve-bytes'})"
    verdict = [
        f"Kept beside tensors, for the CUDA context, libraries' workspaces and NCCL's buffers: {kept}."
    ]
    verdict += _verdict(room, found.reserved_bytes, ways, layout)
    _show_memory(model, layout, found, [*verdict, *(why.lines() if why else []), *drawn])
    return 0


def step(args: list[str]) -> int:
    """The time of a training step, with MFU, tokens per day and cost."""
    from distlab.predict.commands.room import Room, ways_out
    from distlab.predict.states import MemorySettings
    from distlab.predict.step_time import predict_step
    from distlab.predict.training_memory import training_memory

    sections = {
        "model": Transformer,
        "layout": Layout,
        "settings": MemorySettings,
        "cluster": ClusterOptions,
        "software": SoftwareOptions,
        "run": RunOptions,
    }
    helps = {"model": MODELS_HELP, "cluster": CLUSTERS_HELP}
    figures = {
        "plot": "the pipeline's schedule over time, and where the time goes",
        "plot_scaling": "step time and efficiency over GPUs, weak and strong",
        "plot_roofline": "where a layer's kernels stand under the roofline",
    }
    given = Parser("distlab predict step", _doc(step), sections, helps, figures, why=True).parse(args)
    model, source = the_model(given)
    layout, cluster = the_layout(given), the_cluster(given)
    tokens = given.make("run", RunOptions).tokens
    if tokens is not None and tokens <= 0:
        raise SettingError(f"tokens is {tokens}; it must be above 0.")
    settings = the_settings(given)
    software = the_software(given)
    found = predict_step(model, layout, cluster, software)
    taken_bytes = training_memory(model, layout, settings).reserved_bytes
    room = Room(cluster.device.name, cluster.device.memory_bytes)

    def step_s(other: Layout) -> float:
        return predict_step(model, other, cluster, software).step_s

    ways = [] if room.fits(taken_bytes) else ways_out(model, layout, settings, room, step_s)
    drawn = draw(given.figures, _step_charts(model, layout, cluster, software, found))
    why = None
    if given.why:
        from distlab.predict.commands.derived import of_step, symbols_of_step
        from distlab.predict.commands.why import Why

        names = [term.name for term in found.terms if term.seconds]
        values = symbols_of_step(model, layout, cluster)
        why = Why("step", names, of_step(found, cluster, tokens), values)
    days = None if tokens is None else found.days(tokens)
    cost = None if tokens is None or cluster.price_per_gpu_hour is None else found.cost(tokens)
    price, price_said = (None, "") if tokens is None else priced(given)
    if given.json:
        show_json(
            {
                **_inputs(model, source, layout),
                "cluster": dataclasses.asdict(cluster),
                "software": dataclasses.asdict(given.make("software", SoftwareOptions)),
                "step_s": found.step_s,
                "mfu": found.mfu,
                "hfu": found.hfu,
                "tokens": found.tokens,
                "tokens_per_day": found.tokens_per_day,
                "flops_per_gpu": found.flops_per_gpu,
                "days": days,
                "cost": cost,
                "price": price,
                "settings": dataclasses.asdict(settings),
                "memory": room.as_json(taken_bytes, ways),
                "terms": [dataclasses.asdict(term) for term in found.terms],
                **(why.as_json() if why else {}),
            }
        )
        return 0
    verdict = _verdict(room, taken_bytes, ways, layout)
    if tokens is not None:
        run = f"{number(tokens / 1e9)} billion tokens take {number(found.days(tokens))} days"
        if price is None:
            verdict += [f"{run}.", price_said]
        else:
            currency = "" if price["currency"] is None else f" {price['currency']}"
            hourly = f"{price['per_gpu_hour']:g}{currency} a GPU-hour ({price_said})"
            verdict.append(f"{run}, for {found.cost(tokens):,.2f}{currency} at {hourly}.")
    _show_step(model, layout, cluster, found, [*verdict, *(why.lines() if why else []), *drawn])
    return 0


def _step_charts(
    model: Transformer, layout: Layout, cluster: Cluster, software: Software, found: StepTime
) -> dict[str, Callable[[], Chart]]:
    """By the options that draw them."""

    def over_time() -> Chart:
        from distlab.predict.plots.step import step_chart

        title = f"A training step over time: {model.name}"
        return step_chart(model, layout, cluster, software, found, title)

    def scaling() -> Chart:
        from distlab.predict.plots.growth import growth

        return growth(model, layout, cluster, software, f"More data-parallel ranks: {model.name}")

    def roofline() -> Chart:
        from distlab.predict.plots.placement import placement

        return placement(model, layout, cluster.device, software.kernels)

    return {"plot": over_time, "plot_scaling": scaling, "plot_roofline": roofline}


def _show_memory(
    model: Transformer,
    layout: Layout,
    found: TrainingMemory,
    more: Sequence[str],
) -> None:
    rows = [
        Row(str(r["term"]), gib(float(r["bytes"])), float(r["bytes"]) / found.reserved_bytes, str(r["why"]))
        for r in found.as_rows()
    ]
    lines = [
        f"Fullest at: {found.peak.name}, on pipeline rank {found.rank} of {layout.pipeline}. In tensors "
        f"{gib(found.peak_bytes)} GiB, reserved with fragmentation {gib(found.reserved_bytes)} GiB.",
        _layout_line(layout),
    ]
    if found.host:
        lines.append(f"In the host's memory, for this GPU: {gib(found.host_bytes)} GiB.")
    title = f"Memory of a training step: {_title(model)}"
    show(title, "GiB", rows, gib(found.reserved_bytes), [*lines, *more])


def _verdict(room: Room | None, taken_bytes: float, ways: Sequence[WayOut], layout: Layout) -> list[str]:
    """Whether it fits and, where it does not, what would."""
    if room is None:
        return []
    from distlab.predict.commands.room import ways_line

    told = [room.line(taken_bytes)]
    return told if room.fits(taken_bytes) else [*told, ways_line(ways, layout)]


def _show_step(
    model: Transformer,
    layout: Layout,
    cluster: Cluster,
    found: StepTime,
    more: Sequence[str],
) -> None:
    rows = time_rows(found.terms, found.step_s)
    lines = [
        f"MFU {found.mfu:.1%}, HFU {found.hfu:.1%}, {found.flops_per_gpu / 1e12:.1f} TFLOP/s a GPU, "
        f"{number(found.tokens_per_day / 1e9)} billion tokens a day without failures.",
        _layout_line(layout),
        *_long_samples(model),
        f"Cluster: {cluster.name}; {gpus(cluster.gpus_per_node)} a node.",
        *(f"Extrapolated: {what}." for what in cluster.extrapolated),
    ]
    title = f"Time of a training step: {_title(model)}"
    show(title, "time", rows, seconds(found.step_s), [*lines, *more])


LONG_SHARE = 0.2
"""Of the model's FLOP in scores, from which on it is said what MFU counts."""


def _long_samples(model: Transformer) -> Iterator[str]:
    from distlab.predict.flops import forward_flops

    once = forward_flops(model, model.sequence)
    share = model.layers * once.scores / (model.layers * once.layer + once.logits)
    if share >= LONG_SHARE:
        yield (
            f"Scores are {share:.0%} of these FLOP: counted, as papers do, for all pairs of tokens, of which "
            "FlashAttention leaves out the half above the diagonal. Long samples can come above 100% so."
        )


def _doc(function: Any) -> str:
    return str(function.__doc__)


def _inputs(model: Transformer, source: str, layout: Layout) -> dict[str, Any]:
    return {
        "model": {**dataclasses.asdict(model), "parameters": model.parameters, "source": source},
        "layout": {**dataclasses.asdict(layout), "gpus": layout.gpus, "micro_batches": layout.micro_batches},
    }


def _title(model: Transformer) -> str:
    return f"{model.name}, {size_of(model)}, {model.sequence:,} tokens a sample"


def _layout_line(layout: Layout) -> str:
    names = ("data", "tensor", "pipeline", "context", "expert", "interleave")
    cut = ", ".join(f"{name} {getattr(layout, name)}" for name in names if getattr(layout, name) > 1)
    return (
        f"Layout: {gpus(layout.gpus)}{f' ({cut})' if cut else ''}, {_some(layout.micro_batches, 'micro-batch')} of "
        f"{layout.micro_batch} in a batch of {layout.global_batch}, recompute {layout.recompute}, "
        f"ZeRO {layout.zero_stage}."
    )


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 'es'}"


def _gpu(name: str) -> Accelerator:
    from distlab.predict.hardware.accelerators import accelerator

    return named("gpu", name, accelerator)
