"""Diagrams of how training is cut over ranks: what each keeps, what travels, who sits where, who works how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen

TINTS = (BLUE, RED, GREEN, PURPLE)


class Part(NamedTuple):
    """A part of a unit square, from its upper left corner."""

    x: float
    y: float
    w: float
    h: float


class Cut(NamedTuple):
    """A way to cut training over four ranks: what rank 0 holds of activations and of weights, and what travels."""

    name: str
    activations: Part
    weights: tuple[Part, ...]
    travels: str
    when: str


ALL = Part(0, 0, 1, 1)

CUTS = (
    Cut("data", Part(0, 0, 1, 0.25), (ALL,), "gradients", "all-reduce, once a step"),
    Cut(
        "ZeRO-3",
        Part(0, 0, 1, 0.25),
        (Part(0, 0, 0.25, 1),),
        "weights and gradients",
        "for every micro-batch",
    ),
    Cut("tensor", ALL, (Part(0, 0, 0.25, 1),), "activations", "4 all-reduces a layer"),
    Cut("context", Part(0, 0, 0.25, 1), (ALL,), "keys and values", "around a ring, every layer"),
    Cut("pipeline", ALL, (Part(0, 0, 1, 0.25),), "one activation at each cut", "send and receive"),
    Cut(
        "expert",
        Part(0, 0, 1, 0.25),
        (Part(0, 0, 0.4, 1), Part(0.4, 0, 0.15, 1)),
        "tokens, to experts and back",
        "4 all-to-alls a layer",
    ),
)


def cuts() -> Figure:
    """Six ways to cut a training step over four ranks, as what rank 0 keeps."""
    pen = Pen(440, 26 + 58 * len(CUTS) + 6)
    pen.text(126, 12, "activations", size=12)
    pen.text(212, 12, "weights", size=12)
    pen.text(346, 12, "what travels", size=12)
    for row, cut in enumerate(CUTS):
        y = 20 + 58 * row
        pen.text(4, y + 28, cut.name, anchor="start", bold=True)
        for left, parts in ((92, (cut.activations,)), (178, cut.weights)):
            pen.rect(left, y, 68, 46, rounded=0)
            for part in parts:
                pen.rect(
                    left + 68 * part.x,
                    y + 46 * part.y,
                    68 * part.w,
                    46 * part.h,
                    BLUE,
                    opacity=0.4,
                    rounded=0,
                )
        pen.text(346, y + 20, cut.travels, size=12, bold=True)
        pen.text(346, y + 37, cut.when, size=11)
    held = "; ".join(
        f"{cut.name}: {_held(cut.activations)} of the activations, {sum(_held(p) for p in cut.weights):.2g} of the "
        f"weights, {cut.travels} travel ({cut.when})"
        for cut in CUTS
    )
    return pen.figure(
        f"Two squares for each of six ways to cut training over four ranks, with rank 0's part filled. {held}.",
        "What rank 0 of four keeps (filled). Activations: samples downwards, tokens across. Weights: layers "
        "downwards, columns of their matrices across; experts are the right 60%.",
    )


def _held(part: Part) -> float:
    return round(part.w * part.h, 2)


def sequence_parallel() -> Figure:
    """A transformer block with tensor and sequence parallelism on two ranks: what is split how, and the collectives."""
    pen = Pen(440, 188)
    columns = (
        ("norm", 8, 56, True),
        ("attention", 108, 84, False),
        ("norm", 236, 56, True),
        ("MLP", 336, 56, False),
    )
    for rank in range(2):
        y = 44 + 52 * rank
        for name, x, width, by_tokens in columns:
            pen.rect(x, y, width, 36, GREEN if by_tokens else BLUE, dash=by_tokens)
            pen.text(x + width / 2, y + 22, name, size=12)
    for x, word in ((68, "AG"), (196, "RS"), (296, "AG"), (396, "RS")):
        pen.rect(x, 38, 36, 100, RED, opacity=0.3)
        pen.text(x + 18, 92, word, bold=True)
    pen.text(220, 14, "rank 0 above, rank 1 below", size=12)
    pen.text(8, 32, "half of the tokens each", anchor="start", size=11)
    pen.text(432, 32, "half of heads and columns each", anchor="end", size=11)
    pen.text(220, 158, "AG all-gather of tokens, RS reduce-scatter of sums", size=12)
    pen.text(220, 178, "together they carry the bytes of one all-reduce", size=12)
    return pen.figure(
        "A block on two ranks, from left to right: norm, all-gather, attention, reduce-scatter, norm, all-gather, MLP, "
        "reduce-scatter. Norms (dashed boxes) work on half of the tokens, attention and MLP on all tokens with half of "
        "the heads or columns.",
        "Sequence parallelism inside tensor parallelism: each all-reduce is pulled apart, and between its halves the "
        "tokens stay split. Dashed: split by tokens; solid: split by heads or columns.",
    )


def owners(ranks: int, zigzag: bool) -> list[int]:
    """Which rank holds each of 2 x `ranks` chunks of a sample: neighbours, or one from each end (zigzag)."""
    chunks = 2 * ranks
    return [min(chunk, chunks - 1 - chunk) if zigzag else chunk // 2 for chunk in range(chunks)]


def causal_work(owner: Sequence[int]) -> list[float]:
    """Blocks of attention scores that each rank computes under a causal mask; one on the diagonal is half a block."""
    work = [0.0] * (max(owner) + 1)
    for query, rank in enumerate(owner):
        work[rank] += query + 0.5
    return work


def causal_balance(ranks: int = 4) -> Figure:
    """Scores under a causal mask, by the rank that computes them, for two ways to deal out a sample's tokens."""
    cell = 192 / (2 * ranks)
    pen = Pen(440, 262)
    said = []
    for panel, zigzag in enumerate((False, True)):
        owner = owners(ranks, zigzag)
        left = 8 + 226 * panel
        name = "from both ends" if zigzag else "neighbours"
        pen.text(left + 96, 14, name, bold=True)
        for query, rank in enumerate(owner):
            for key in range(query + 1):
                pen.rect(left + key * cell, 22 + query * cell, cell - 2, cell - 2, TINTS[rank % 4], rounded=1)
                pen.text(
                    left + (key + 0.5) * cell - 1,
                    22 + (query + 0.5) * cell + 3,
                    str(rank),
                    size=min(12, cell - 6),
                )
        work = causal_work(owner)
        share = [f"{each / sum(work):.0%}" for each in work]
        pen.text(left + 96, 232, f"work: {' '.join(share)}", size=12)
        pen.text(left + 96, 250, f"busy {sum(work) / (ranks * max(work)):.0%}", size=12, bold=True)
        said.append(f"{name}: ranks 0 to {ranks - 1} do {', '.join(share)} of the work")
    return pen.figure(
        "Two triangles of attention blocks, rows queries and columns keys, each block with the number of the rank "
        f"that computes it. {'; '.join(said)}.",
        f"Causal attention of one sample over {ranks} context-parallel ranks, in {2 * ranks} chunks. Row: queries; "
        "column: keys; number: the rank that holds the queries. All wait for the rank with most work.",
    )


def mesh(tensor: int, nodes: int = 2, gpus_per_node: int = 8) -> Figure:
    """Tensor-parallel groups in nodes, and the group that shares one slice of the weights."""
    pen = Pen(440, 34 + 62 * nodes)
    cell = 366 / gpus_per_node
    for node in range(nodes):
        y = 8 + 62 * node
        pen.text(62, y + 28, f"node {node}", anchor="end", size=12)
        for gpu in range(gpus_per_node):
            number = node * gpus_per_node + gpu
            group, place = divmod(number, tensor)
            x = 70 + gpu * cell
            pen.rect(x, y, cell - 4, 46, TINTS[group % 4], bold=place == 0)
            pen.text(x + cell / 2 - 2, y + 19, f"d{group}", size=12)
            pen.text(x + cell / 2 - 2, y + 37, f"t{place}", size=12, bold=place == 0)
    here = max(1, gpus_per_node // tensor)
    replicas = nodes * gpus_per_node // tensor
    pen.text(220, 26 + 62 * nodes, f"the {replicas} GPUs t0 share one slice: {here} in each node", size=12)
    return pen.figure(
        f"{nodes} nodes of {gpus_per_node} GPUs, each GPU with its data-parallel number d and its tensor-parallel "
        f"number t. With tensor {tensor}, {here} replicas fit into a node, and the GPUs t0, drawn bold, are {here} in "
        "each node.",
        f"Ranks on {nodes} nodes with tensor {tensor}: neighbours share a replica (d); the GPUs with equal t in all "
        "nodes hold the same slice of the weights, and share out its states.",
    )
