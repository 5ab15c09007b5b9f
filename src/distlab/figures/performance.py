"""Diagrams of performance work: the loop of it, launches, padding, and masks of packed samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen


def loop() -> Figure:
    """Measure, attribute, bound, fix, verify: what goes in and out of each, and who is asked."""
    rows = (
        ("measure", "useful tokens per second, with its noise", BLUE),
        ("attribute", "each second of a step to one clock", BLUE),
        ("bound", "what the step would take without it", GREEN),
        ("fix", "one change: most seconds per day of work", PURPLE),
        ("verify", "predicted against measured; loss unchanged", RED),
    )
    pen = Pen(440, 56 * len(rows) + 30)
    for row, (name, words, colour) in enumerate(rows):
        y = 10 + 56 * row
        pen.rect(44, y, 92, 34, colour)
        pen.text(90, y + 22, name, bold=True)
        pen.text(148, y + 22, words, size=12, anchor="start")
        if row + 1 < len(rows):
            pen.arrow(90, y + 35, 90, y + 54)
    bottom = 10 + 56 * (len(rows) - 1) + 17
    pen.line(44, bottom, 18, bottom)
    pen.line(18, bottom, 18, 27)
    pen.arrow(18, 27, 42, 27)
    pen.text(
        24,
        bottom + 36,
        "again, from a new profile: the second bottleneck is another",
        size=12,
        anchor="start",
    )
    return pen.figure(
        "Five boxes in a column, joined by arrows: measure, attribute, bound, fix, verify. An arrow leads from verify "
        "back to measure.",
        "The loop of this chapter. Its third box is the one that most teams leave out.",
    )


def launches(host_us: float, kernel_us: float, count: int = 6) -> Figure:
    """A host that launches kernels one by one, and one launch of a graph: where the device waits.

    host_us: of a launch; kernel_us: of a kernel.
    """
    end_us = max(count * host_us + kernel_us, host_us + count * kernel_us)
    scale = 420 / end_us
    pen = Pen(440, 208)

    def row(y: float, words: str, spans: Sequence[tuple[float, float]], colour: str) -> None:
        pen.text(8, y - 4, words, size=12, anchor="start")
        for start, length in spans:
            pen.rect(8 + start * scale, y, length * scale, 20, colour, rounded=0)

    row(20, "host: one launch after the other", [(i * host_us, host_us) for i in range(count)], BLUE)
    device, free = [], 0.0
    for i in range(count):
        start = max(free, (i + 1) * host_us)
        device.append((start, kernel_us))
        free = start + kernel_us
    row(62, "device", device, GREEN)
    row(122, "host: one launch of a graph", [(0, host_us)], BLUE)
    row(164, "device", [(host_us + i * kernel_us, kernel_us) for i in range(count)], GREEN)
    pen.text(8, 204, f"a launch {host_us:.1f} us, a kernel {kernel_us:.1f} us", size=12, anchor="start")
    return pen.figure(
        f"Two pairs of time lines. Above, the host launches {count} kernels of {kernel_us:.1f} microseconds one by "
        f"one, each launch taking {host_us:.1f}: the device has gaps between them. Below, one launch of a graph: they "
        "follow each other without gaps.",
        "Small kernels, launched one by one and as a graph. Recorded times, drawn to scale.",
    )


def padding(batches: Mapping[str, Sequence[Sequence[int]]]) -> Figure:
    """Rows of samples' lengths in rectangles as long as the longest: what is filled, and what is padding.

    batches: by title, one rectangle's samples; a sample is the lengths packed into one row, one number where
    nothing is packed.
    """
    longest = max(sum(row) for rows in batches.values() for row in rows)
    height = sum(30 + 10 * len(rows) + 12 for rows in batches.values())
    pen = Pen(440, height + 22)
    y, told = 6.0, []
    for title, rows in batches.items():
        width = max(sum(row) for row in rows)
        filled = sum(sum(row) for row in rows)
        share = 1 - filled / (width * len(rows))
        told.append(f"{title}: {share:.0%} padding")
        pen.text(8, y + 12, f"{title}: {share:.0%} padding", size=12, anchor="start")
        y += 20
        pen.rect(8, y, width / longest * 420, 10 * len(rows), RED, opacity=0.15, dash=True, rounded=0)
        for row in rows:
            x = 8.0
            for number, tokens in enumerate(row):
                pen.rect(x, y, tokens / longest * 420, 10, (BLUE, GREEN)[number % 2], opacity=0.5, rounded=0)
                x += tokens / longest * 420
            y += 10
        y += 22
    pen.text(
        8,
        y + 4,
        "solid: tokens of samples; dashed: padding, computed like them",
        size=12,
        anchor="start",
    )
    return pen.figure(
        "Rectangles of samples, each as long as its longest row. " + "; ".join(told) + ".",
        "Real lengths, in the order in which each way of batching takes them.",
    )


def packed_mask(lengths: Sequence[int]) -> Figure:
    """What may attend to what in one row of packed samples: causal, and causal inside each sample."""
    total = sum(lengths)
    owner = [number for number, length in enumerate(lengths) for _ in range(length)]
    cell = 176 / total
    pen = Pen(440, 236)
    for left, title, inside in (
        (8, "causal alone: samples leak", False),
        (228, "causal inside each sample", True),
    ):
        pen.text(left, 16, title, size=12, anchor="start")
        for query in range(total):
            for key in range(query + 1):
                foreign = owner[query] != owner[key]
                if foreign and inside:
                    continue
                x, y = left + key * cell, 24 + query * cell
                pen.rect(
                    x,
                    y,
                    cell,
                    cell,
                    RED if foreign else BLUE,
                    opacity=0.6 if not foreign else 0.2,
                    dash=foreign,
                    rounded=0,
                )
    pen.text(
        8, 220, "rows: queries; columns: keys; dashed: tokens of another sample", size=12, anchor="start"
    )
    return pen.figure(
        f"Two square masks of {total} positions that hold {len(lengths)} samples. Left, a causal triangle: many of its "
        "cells join tokens of different samples. Right, one small triangle for each sample along the diagonal.",
        "Attention in a packed row: without boundaries, and with them.",
    )
