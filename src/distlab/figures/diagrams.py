"""Diagrams of machines and memory: who is wired to whom, what a rank holds, how a matrix is cut."""

from __future__ import annotations

from collections.abc import Sequence

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen
from distlab.predict.memory import zero_memory
from distlab.predict.registry import value
from distlab.predict.units import GB


def topology() -> Figure:
    """Two nodes of four GPUs: NVSwitch inside, PCIe to the CPU and NICs, InfiniBand between."""
    pen = Pen(440, 318)
    nvlink, pcie, ib = (value(name) / GB for name in ("nvlink4_Bps", "pcie5_x16_Bps", "ib_ndr_Bps"))
    pen.rect(60, 8, 320, 26, RED)
    pen.text(220, 25, "InfiniBand switches (leaf, spine)")
    for node in range(2):
        x = 4 + node * 222
        pen.rect(x, 58, 210, 220, dash=True)
        pen.text(x + 105, 294, f"node {node}")
        pen.rect(x + 12, 128, 186, 26)
        pen.text(x + 105, 145, "PCIe switches + CPU")
        pen.rect(x + 12, 240, 186, 26, GREEN)
        pen.text(x + 105, 257, "NVSwitch")
        for i in range(4):
            gx = x + 12 + i * 48
            pen.line(gx + 21, 70, 110 + node * 160 + i * 20, 34, width=1.6, colour=RED, dash=True)
            pen.rect(gx, 70, 42, 26, RED)
            pen.text(gx + 21, 87, "NIC")
            pen.line(gx + 21, 96, gx + 21, 128, width=1.6)
            pen.line(gx + 21, 154, gx + 21, 180, width=1.6)
            pen.rect(gx, 180, 42, 26, BLUE, bold=True)
            pen.text(gx + 21, 197, f"G{node * 4 + i}")
            pen.line(gx + 21, 206, gx + 21, 240, width=6, colour=GREEN)
    rates = f"NVLink {nvlink:.0f}, PCIe {pcie:.0f}, InfiniBand {ib:.0f} GB/s"
    pen.text(220, 314, f"one way, per GPU: {rates}", size=12)
    return pen.figure(
        "Two nodes of four GPUs. In each node the GPUs hang on one NVSwitch by thick links, and on PCIe "
        "switches, which also carry the CPU and one NIC for each GPU. The NICs of both nodes meet in the "
        f"InfiniBand switches. One way and per GPU: {rates}.",
        "The paths between GPUs, drawn for four GPUs a node (a real one has eight). Thick: NVLink; thin: "
        "PCIe; dashed: InfiniBand. Datasheet rates of NVLink 4, PCIe 5 and InfiniBand NDR (registry).",
    )


def memory_map(parameters: float, world_size: int, capacity_bytes: float) -> Figure:
    """What one rank holds at ZeRO stages 0 to 3, against the memory of a GPU."""
    pen = Pen(440, 236)
    left, right = 74, 400
    stages = [zero_memory(parameters, world_size, stage) for stage in range(4)]
    scale = (right - left) / max(stages[0].total_bytes, capacity_bytes)
    for stage, memory in enumerate(stages):
        y = 30 + stage * 42
        pen.text(66, y + 19, ["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"][stage], anchor="end")
        x: float = left
        parts = [
            ("P", memory.parameter_bytes, BLUE),
            ("G", memory.gradient_bytes, GREEN),
            ("O", memory.optimizer_bytes, PURPLE),
        ]
        for letter, size, colour in parts:
            width = size * scale
            pen.rect(x, y, width, 28, colour, rounded=0)
            if width > 14:
                pen.text(x + width / 2, y + 19, letter)
            x += width
        total = f"{memory.total_bytes / GB:.1f} GB"
        if x + 62 > 436:
            pen.text(x - 6, y + 19, total, anchor="end", bold=True)
        else:
            pen.text(x + 6, y + 19, total, anchor="start", bold=True)
    limit = left + capacity_bytes * scale
    pen.line(limit, 20, limit, 196, dash=True, width=2)
    pen.text(limit, 14, f"GPU: {capacity_bytes / GB:.0f} GB")
    pen.text(220, 222, "P parameters · G gradients · O optimizer states", size=12)
    totals = ", ".join(f"{m.total_bytes / GB:.1f}" for m in stages)
    return pen.figure(
        f"Bars: the bytes that one of {world_size} ranks holds for {parameters / 1e9:g} billion parameters, "
        f"{totals} GB at ZeRO stages 0 to 3, beside the {capacity_bytes / GB:.0f} GB of a GPU. The optimizer "
        "states are three quarters of the first bar.",
        f"Model states on each of {world_size} ranks: {parameters / 1e9:g} billion parameters, "
        "mixed-precision Adam. Computed; activations and buffers come on top.",
    )


def tensor_parallel() -> Figure:
    """A two-layer perceptron on two ranks: first matrix by columns, second by rows, one all-reduce."""
    pen = Pen(440, 210)
    for rank in range(2):
        y = 30 + rank * 84
        colour = (BLUE, GREEN)[rank]
        pen.text(6, y + 30, f"rank {rank}", anchor="start", bold=True)
        pen.rect(62, y + 4, 32, 44)
        pen.text(78, y + 31, "X")
        pen.arrow(96, y + 26, 116, y + 26)
        pen.rect(118, y - 4, 62, 60, dash=True)
        pen.rect(118 + rank * 31, y - 4, 31, 60, colour)
        pen.text(118 + rank * 31 + 15.5, y + 31, f"A{'₀₁'[rank]}")
        pen.arrow(182, y + 26, 222, y + 26)
        pen.text(202, y + 18, "GeLU", size=11)
        pen.rect(224, y - 4, 62, 60, dash=True)
        pen.rect(224, y - 4 + rank * 30, 62, 30, colour)
        pen.text(255, y + 16 + rank * 30, f"B{'₀₁'[rank]}")
        pen.arrow(288, y + 26, 308, y + 26)
        pen.rect(310, y + 4, 32, 44, colour)
        pen.text(326, y + 31, f"Z{'₀₁'[rank]}")
    pen.arrow(344, 56, 368, 94)
    pen.arrow(344, 140, 368, 104)
    pen.rect(370, 74, 66, 52, RED)
    pen.text(403, 96, "all-", size=12)
    pen.text(403, 112, "reduce", size=12)
    pen.text(149, 18, "by columns", size=12)
    pen.text(255, 18, "by rows", size=12)
    pen.text(220, 202, "Z₀ + Z₁ = GeLU(X A) B: one all-reduce of an activation", size=12)
    return pen.figure(
        "Two ranks. Both hold the input X. Rank 0 holds the left half of A's columns and the upper half of "
        "B's rows, rank 1 the other halves. Each computes a partial result Z; one all-reduce adds the two.",
        "Tensor parallelism of a two-layer perceptron over two ranks. Dashed: what the other rank holds.",
    )


def placement(nodes: Sequence[Sequence[str]], caption: str, alt: str) -> Figure:
    """A row of GPUs for each node, each GPU labelled with its job; an empty label is a free GPU."""
    width = max(len(node) for node in nodes)
    cell = min(42, 360 // width)
    pen = Pen(440, 20 + len(nodes) * (cell + 10))
    labels = sorted({label for node in nodes for label in node if label})
    tints = {label: (BLUE, GREEN, PURPLE, RED)[i % 4] for i, label in enumerate(labels)}
    for row, node in enumerate(nodes):
        y = 10 + row * (cell + 10)
        pen.text(58, y + cell / 2 + 5, f"node {row}", anchor="end")
        for column, label in enumerate(node):
            x = 68 + column * cell
            if label:
                pen.rect(x, y, cell - 4, cell - 4, tints[label])
                pen.text(x + cell / 2 - 2, y + cell / 2 + 3, label)
            else:
                pen.rect(x, y, cell - 4, cell - 4, dash=True)
    return pen.figure(alt, caption)
