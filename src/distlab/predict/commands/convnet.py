"""`distlab predict cnn`: data-parallel training of a convolutional network, and how it scales."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from distlab.errors import SettingError
from distlab.predict.commands.options import Given, Parser
from distlab.predict.commands.presets import named
from distlab.predict.commands.show import draw, gpus, number, seconds, show, show_json, time_rows
from distlab.predict.convnets import CONVNETS, Convnet, convnet

if TYPE_CHECKING:
    from distlab.predict.commands.room import Room
    from distlab.predict.commands.why import Derived
    from distlab.predict.convnet_step import ConvnetCluster, ConvnetStep
    from distlab.predict.plots.chart import Chart

CLUSTERS_HELP = (
    "horovod_roce (default), horovod_tcp, big_basin, or a node of the hardware registry such as dgx_a100"
)


@dataclass(frozen=True)
class CnnOptions:
    """What is trained, on how many GPUs, and how gradients go."""

    image: int | None = None
    """Pixels on each side; None: as its paper has it."""
    batch: int = 64
    """Images on each GPU."""
    gpus: int = 16
    gpus_per_node: int | None = None
    """None: as many as a node has."""
    exchange: Literal["horovod", "ddp"] | None = None
    """None: the cluster's."""
    fusion_bytes: float | None = None
    """Gradients that go together at most; None: that of the exchange."""
    gradient_bytes: int | None = None
    """Of one gradient, 4 or 2; None: that of the exchange."""
    spread: float | None = None
    """Standard deviation of a step's compute over ranks, over its mean; None: the cluster's."""
    reserve_bytes: float | None = None
    """Of the GPU's memory, for what is no tensor; None: RESERVE_BYTES."""


def cnn(args: list[str]) -> int:
    """Data-parallel training of a convolutional network: step time, what of the gradients' way shows, scaling."""
    from distlab.predict.commands.room import Room
    from distlab.predict.convnet_memory import convnet_bytes
    from distlab.predict.convnet_step import convnet_step
    from distlab.predict.memory import RESERVE_BYTES

    helps = {"model": f"one of {', '.join(CONVNETS)} (default: resnet50)", "cluster": CLUSTERS_HELP}
    figures = {"plot": "gradients made and sent over time, and efficiency over GPUs"}
    sections = {"cnn": CnnOptions}
    given = Parser("distlab predict cnn", str(cnn.__doc__), sections, helps, figures, why=True).parse(args)
    asked = given.make("cnn", CnnOptions)
    net = convnet(given.names.get("model", "resnet50"), asked.image)
    cluster = _cluster(given, asked)
    found = convnet_step(net, asked.batch, asked.gpus, cluster, asked.gpus_per_node)
    scaling = [convnet_step(net, asked.batch, gpus, cluster) for gpus in _counts(asked.gpus, cluster)]
    reserve_bytes = RESERVE_BYTES if asked.reserve_bytes is None else asked.reserve_bytes
    room = Room(cluster.device.name, cluster.device.memory_bytes, reserve_bytes)
    taken_bytes = convnet_bytes(
        net, asked.batch, cluster.library.value_bytes, cluster.exchange.gradient_bytes
    )
    drawn = draw(given.figures, {"plot": lambda: _chart(given, net, cluster, found, scaling)})
    formulas = None
    if given.why:
        from distlab.predict.commands.why import Why

        formulas = Why("cnn", [term.name for term in found.terms if term.seconds], _derived(found))
    if given.json:
        told = formulas.as_json() if formulas else {}
        show_json(
            {
                **_as_json(net, asked, cluster, found, scaling),
                "memory": room.as_json(taken_bytes),
                "extrapolated": cluster.extrapolated,
                **told,
            }
        )
        return 0
    lines = [
        f"{number(found.images_per_s)} images/s, scaling efficiency {found.efficiency:.1%}: one GPU alone makes "
        f"{number(found.batch / found.one_gpu_s)} images/s.",
        "Efficiency by GPUs: " + ", ".join(f"{step.gpus}: {step.efficiency:.1%}" for step in scaling) + ".",
        *_against(net, found),
        room.line(taken_bytes) + " Counted by layer, without cuDNN's workspaces.",
        *_smaller(net, asked, cluster, room, taken_bytes),
        f"{cluster.name}; {cluster.exchange.name}.",
        *(f"Extrapolated: {what}." for what in cluster.extrapolated),
    ]
    title = (
        f"{net.name}, {number(net.parameters / 1e6)}M parameters, {asked.batch:,} images a GPU, {gpus(asked.gpus)}; "
        f"{cluster.device.name}; {8 * cluster.library.value_bytes}-bit; {_network(cluster, found)}"
    )
    lines += [*(formulas.lines() if formulas else []), *drawn]
    show(title, "time", time_rows(found.terms, found.step_s), seconds(found.step_s), lines)
    return 0


def _network(cluster: ConvnetCluster, found: ConvnetStep) -> str:
    """What gradients go over."""
    topology = cluster.topology(found.gpus, min(found.gpus, cluster.gpus_per_node))
    links = [topology.inside.name] if min(found.gpus, cluster.gpus_per_node) > 1 else []
    if topology.nodes > 1 and topology.fabric:
        links.append(topology.fabric.name)
    return " and ".join(link.removesuffix(", one way") for link in links) or "no network"


def _smaller(
    net: Convnet, asked: CnnOptions, cluster: ConvnetCluster, room: Room, taken_bytes: float
) -> Iterator[str]:
    """The largest batch that fits, where the one asked for does not: memory is linear in it."""
    if room.fits(taken_bytes):
        return
    from distlab.predict.convnet_memory import convnet_bytes

    alone, none = (
        convnet_bytes(net, batch, cluster.library.value_bytes, cluster.exchange.gradient_bytes)
        for batch in (1, 0)
    )
    most = math.floor((room.usable_bytes - none) / (alone - none))
    yield f"What fits: batch {most:,}." if most >= 1 else "No batch fits; take a larger GPU."


def _derived(found: ConvnetStep) -> list[Derived]:
    from distlab.predict.commands.why import Derived

    alone, whole = seconds(found.one_gpu_s), seconds(found.step_s)
    return [
        Derived("step", f"sum of the terms = {whole}", "gradients are reduced beside the backward pass"),
        Derived(
            "images/s",
            f"{gpus(found.gpus)} x {found.batch} / {whole} = {number(found.images_per_s)}",
            "weak scaling: each GPU has its own batch",
        ),
        Derived(
            "scaling efficiency",
            f"{alone} / {whole} = {found.efficiency:.1%}",
            "the step of one GPU alone, without waiting and sending, over this one",
        ),
    ]


def _chart(
    given: Given, net: Convnet, cluster: ConvnetCluster, found: ConvnetStep, scaling: list[ConvnetStep]
) -> Chart:
    from distlab.predict.convnet_cases import published_efficiency
    from distlab.predict.plots.overlap import overlap

    measured = published_efficiency(net, given.names.get("cluster", "horovod_roce"), found.batch)
    hardware = f"{cluster.device.name}; {cluster.name}; {cluster.exchange.name}"
    return overlap(net, found, scaling, measured, cluster.exchange.gradient_bytes, hardware)


def _against(net: Convnet, found: ConvnetStep) -> list[str]:
    """Where the gradients are, against where the time is that could hide them."""
    largest = max(net.layers, key=lambda layer: layer.parameters)
    lines = [
        f"{largest.name} has {largest.parameters / net.parameters:.0%} of the gradients and "
        f"{largest.products / (net.forward_flops / 2):.1%} of the arithmetic."
    ]
    if found.reductions:
        first, last = found.reductions[0].span, found.reductions[-1]
        sent_bytes = sum(reduction.bytes for reduction in found.reductions)
        sent_s = sum(reduction.span.end_s - reduction.span.start_s for reduction in found.reductions)
        window_s = last.span.end_s - found.exposed_s - first.start_s
        bound = "longer than" if sent_s > window_s else "within"
        lines.append(
            f"All-reduces begin {seconds(first.start_s)} into the backward pass and take {seconds(sent_s)}, {bound} "
            f"the {seconds(window_s)} that are left of it; the last has {last.bytes / sent_bytes:.1%} of the bytes."
        )
    return lines


def _cluster(given: Given, asked: CnnOptions) -> ConvnetCluster:
    from distlab.predict.convnet_cases import convnet_cluster
    from distlab.predict.convnet_step import DDP, HOROVOD

    cluster = named("cluster", given.names.get("cluster", "horovod_roce"), convnet_cluster)
    exchange = {"horovod": HOROVOD, "ddp": DDP, None: cluster.exchange}[asked.exchange]
    if asked.fusion_bytes is not None:
        if asked.fusion_bytes < 0:
            raise SettingError(f"fusion_bytes is {asked.fusion_bytes}; it is 0 or more.")
        exchange = replace(exchange, fusion_bytes=asked.fusion_bytes)
    if asked.gradient_bytes is not None:
        if asked.gradient_bytes not in (2, 4):
            raise SettingError(f"gradient_bytes is {asked.gradient_bytes:g}; it is 2 or 4.")
        exchange = replace(exchange, gradient_bytes=int(asked.gradient_bytes))
    spread = cluster.spread if asked.spread is None else asked.spread
    if not 0 <= spread <= 1:
        raise SettingError(f"spread is {spread}; it lies between 0 and 1.")
    return replace(cluster, exchange=exchange, spread=spread)


def _counts(gpus: int, cluster: ConvnetCluster) -> list[int]:
    """1, 2, 4 ... up to a node, then nodes doubled, up to the first that has all GPUs asked for."""
    counts = [1]
    while counts[-1] < gpus:
        counts.append(
            min(2 * counts[-1], cluster.gpus_per_node)
            if counts[-1] < cluster.gpus_per_node
            else 2 * counts[-1]
        )
    return counts


def _as_json(
    net: Convnet, asked: CnnOptions, cluster: ConvnetCluster, found: ConvnetStep, scaling: list[ConvnetStep]
) -> dict[str, Any]:
    return {
        **dataclasses.asdict(asked),
        "model": {
            "name": net.name,
            "image": net.image,
            "parameters": net.parameters,
            "forward_flops": net.forward_flops,
            "step_flops": net.step_flops,
            "layers": [
                {"name": layer.name, "parameters": layer.parameters, "forward_flops": layer.forward_flops}
                for layer in net.layers
            ],
        },
        "cluster": cluster.name,
        "device": dataclasses.asdict(cluster.device),
        "library": dataclasses.asdict(cluster.library),
        "exchange": dataclasses.asdict(cluster.exchange),
        "spread": cluster.spread,
        "step_s": found.step_s,
        "exposed_s": found.exposed_s,
        "images_per_s": found.images_per_s,
        "efficiency": found.efficiency,
        "terms": [dataclasses.asdict(term) for term in found.terms],
        "reductions": [dataclasses.asdict(reduction) for reduction in found.reductions],
        "scaling": [
            {"gpus": step.gpus, "images_per_s": step.images_per_s, "efficiency": step.efficiency}
            for step in scaling
        ],
    }
