"""Diagrams of failures: where a failure's seconds go, ways to save, timeouts inside timeouts, who restarts whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen

_COLOURS = (BLUE, RED, GREEN, PURPLE, "")


def stacked(
    rows: Mapping[str, Mapping[str, float]],
    caption: str,
    alt: str,
    *,
    unit: str = "s",
    limit: float | None = None,
    limit_words: str = "",
) -> Figure:
    """One bar a row, cut into named parts; every part carries its number where it has room, and the row its sum.

    limit: a dashed mark across each bar at that value, with its words below.
    """
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    most = max([sum(parts.values()) for parts in rows.values()] + ([limit] if limit else []))
    left, width = 8, 366
    pen = Pen(440, 48 * len(rows) + 18 * (-(-len(names) // 2)) + (40 if limit else 18))
    for row, (title, parts) in enumerate(rows.items()):
        y, x = 20 + 48 * row, float(left)
        pen.text(left, y - 4, title, size=12, anchor="start")
        for name, value in parts.items():
            w = value / most * width
            index = names.index(name)
            pen.rect(x, y, w, 20, _COLOURS[index % 5], rounded=0)
            if w > 13:
                pen.text(x + w / 2, y + 14, str(1 + index), size=11)
            x += w
        if limit is not None:  # across the bar alone: words stay readable
            at = left + limit / most * width
            pen.line(at, y - 2, at, y + 24, dash=True, width=2)
            x = at if x <= at < x + 50 else x
        pen.text(x + 5, y + 14, _amount(sum(parts.values()), unit), size=12, anchor="start")
    below = 48 * len(rows) + 6
    if limit is not None:
        pen.text(min(left + limit / most * width, 330), below + 6, limit_words, size=12)
        below += 20
    for index, name in enumerate(names):
        x, y = left + 216 * (index % 2), below + 16 + 18 * (index // 2)
        pen.rect(x, y - 11, 14, 13, _COLOURS[index % 5], rounded=0)
        pen.text(x + 20, y, f"{1 + index}  {name}", size=12, anchor="start")
    return pen.figure(alt, caption)


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def saves() -> Figure:
    """Three ways to save, along time: synchronous, asynchronous, into a partner's memory."""
    pen = Pen(440, 292)
    rows = (
        (
            "synchronous: stop, write, go on",
            [("steps", 8, 100), ("write", 100, 230), ("steps", 230, 432)],
            None,
            230,
        ),
        (
            "asynchronous: stop, copy, go on; the write follows",
            [("steps", 8, 100), ("copy", 100, 122), ("steps", 122, 432)],
            ("to the file system", 122, 252),
            252,
        ),
        (
            "in memory: to this host's and a partner's",
            [("steps", 8, 100), ("copy", 100, 122), ("steps", 122, 432)],
            ("to the partner", 122, 166),
            166,
        ),
    )
    for row, (title, parts, behind, safe) in enumerate(rows):
        y = 18 + 88 * row
        pen.text(8, y - 4, title, size=12, anchor="start")
        for words, start, end in parts:
            pen.rect(start, y, end - start, 24, BLUE if words == "steps" else RED, rounded=0)
            if end - start > 40:
                pen.text((start + end) / 2, y + 16, words, size=11)
        if behind:
            words, start, end = behind
            pen.rect(start, y + 28, end - start, 18, GREEN, rounded=0, dash=True)
            if end - start > 90:
                pen.text((start + end) / 2, y + 41, words, size=11)
            else:
                pen.text(end + 6, y + 41, words, size=11, anchor="start")
        pen.line(safe, y - 2, safe, y + 52, width=2)
        pen.text(safe + 5, y + 62, "safe from here", size=11, anchor="start")
    pen.text(
        8, 284, "blue: training · red: training stands still · dashed: behind it", size=12, anchor="start"
    )
    return pen.figure(
        "Three saves along time. Synchronous: training stands still for the whole write and the copy is safe at its "
        "end. Asynchronous: it stands still for a short copy only, but the checkpoint is safe only once the write "
        "behind it ends, later. In memory: the same short copy, safe soon after, when the partner has it.",
        "What each save costs the run (red) and when it protects it. Drawn to show the order, not to scale.",
    )


def placement(nodes: int = 6) -> Figure:
    """Copies in partners' memory: in pairs, and around a ring; which losses of two nodes destroy a copy."""
    pen = Pen(440, 196)
    for ring, x0, title in ((False, 8, "in pairs"), (True, 228, "around a ring")):
        pen.text(x0 + 100, 16, title, bold=True)
        for node in range(nodes):
            x, y = x0 + 10 + 66 * (node % 3), 34 + 74 * (node // 3)
            pen.rect(x, y, 54, 34, BLUE)
            holds = (node ^ 1) if not ring else (node - 1) % nodes
            pen.text(x + 27, y + 15, f"node {node}", size=11)
            pen.text(x + 27, y + 28, f"{node} and {holds}", size=11)
    fatal_pairs, all_pairs = nodes // 2, nodes * (nodes - 1) // 2
    pen.text(108, 166, f"{fatal_pairs} of {all_pairs} pairs of losses", size=12)
    pen.text(108, 182, "lose a shard", size=12)
    pen.text(328, 166, f"{nodes} of {all_pairs} pairs of losses", size=12)
    pen.text(328, 182, "lose a shard", size=12)
    return pen.figure(
        f"{nodes} nodes hold their own shard and one more. In pairs, nodes 0 and 1 hold each other's: only the loss of "
        f"both of a pair destroys a shard, {fatal_pairs} of {all_pairs} pairs. Around a ring each holds its "
        f"predecessor's: any two neighbours destroy one, {nodes} of {all_pairs}.",
        "Whose shards each node holds. Both use the same memory and traffic; the ring loses a shard twice as often.",
    )


def timeouts(layers: Sequence[tuple[str, float]], acts: str, recovery_s: float, caption: str) -> Figure:
    """Timeouts from the innermost to the outermost, in seconds from the fault, and the recovery that `acts` begins.

    acts: the name of the layer that recovers. A layer that fires before that recovery ends is marked: it kills it.
    """
    begins = dict(layers)[acts]
    ends = begins + recovery_s
    most = max(ends, *(seconds for _, seconds in layers)) * 1.02
    scale = 420 / most
    pen = Pen(440, 42 * len(layers) + 46)
    fatal = []
    for row, (name, seconds) in enumerate(layers):
        y = 20 + 42 * row
        pen.text(8, y - 4, f"{name}: {seconds:g} s", size=12, anchor="start")
        early = name != acts and seconds < ends
        pen.rect(8, y, seconds * scale, 12, RED if early else BLUE, rounded=0)
        if name == acts:
            pen.rect(8 + begins * scale, y, recovery_s * scale, 12, GREEN, rounded=0, dash=True)
        if early:
            fatal.append(name)
            pen.text(12 + seconds * scale, y + 11, "x kills it", size=12, anchor="start", bold=True)
    bottom = 42 * len(layers) + 8
    pen.line(8 + ends * scale, 8, 8 + ends * scale, bottom, dash=True, width=2)
    pen.text(
        min(8 + ends * scale, 436), bottom + 16, f"recovered at {ends:g} s, if alive", size=12, anchor="end"
    )
    pen.text(8, bottom + 32, "solid: waiting · dashed: recovering", size=12, anchor="start")
    list_of = ", ".join(f"{name} {seconds:g} s" for name, seconds in layers)
    verdict = f"{' and '.join(fatal)} would kill it first" if fatal else "every other layer waits longer"
    return pen.figure(
        f"Timeouts after a fault: {list_of}. The layer {acts} recovers from {begins:g} to {ends:g} s; {verdict}.",
        caption,
    )


def restarters(rings: Sequence[tuple[str, str]]) -> Figure:
    """Who restarts whom: nested boxes from the inside out, each with what it heals and in what time."""
    height = 58 * len(rings) + 8
    pen = Pen(440, height)
    colours = (BLUE, GREEN, PURPLE, RED, "")
    for index in reversed(range(len(rings))):
        inset = 10 * (len(rings) - 1 - index)
        top = 4 + 42 * (len(rings) - 1 - index)
        pen.rect(
            4 + inset,
            top,
            432 - 2 * inset,
            height - 8 - (top - 4) - 12 * (len(rings) - 1 - index),
            colours[index % 5],
            opacity=0.08,
        )
        name, heals = rings[index]
        pen.text(14 + inset, top + 17, name, size=13, anchor="start", bold=True)
        pen.text(14 + inset, top + 33, heals, size=12, anchor="start")
    words = "; ".join(f"{name}: {heals}" for name, heals in rings)
    return pen.figure(
        f"Nested boxes, from the inside out. {words}.",
        "Each ring restarts what lies within it. A failure should be healed by the innermost ring that can.",
    )
