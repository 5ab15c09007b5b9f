"""Diagrams of a Ray cluster: its processes, where a placement group's bundles go, who waits for whom, a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen


def anatomy() -> Figure:
    """Processes of a Ray cluster, and the way of one task through them."""
    pen = Pen(440, 330)
    pen.rect(4, 18, 204, 256, dash=True)
    pen.text(106, 13, "head node", bold=True)
    pen.rect(232, 18, 204, 256, dash=True)
    pen.text(334, 13, "worker node", bold=True)
    pen.rect(16, 30, 180, 40, RED)
    pen.text(106, 47, "GCS: nodes, actors,", size=12)
    pen.text(106, 62, "groups, jobs; no objects", size=12)
    pen.rect(16, 84, 180, 40, PURPLE, bold=True)
    pen.text(106, 101, "driver: owns task and", size=12)
    pen.text(106, 116, "result, keeps lineage", size=12)
    for x in (16, 244):
        pen.rect(x, 154, 180 if x == 16 else 152, 34, BLUE)
        pen.text(x + (90 if x == 16 else 76), 176, "raylet: grants leases", size=12)
        pen.rect(x, 206, 180, 30, GREEN)
        pen.text(x + 90, 226, "objects in shared memory", size=12)
    pen.rect(244, 84, 180, 40)
    pen.text(334, 101, "worker process:", size=12)
    pen.text(334, 116, "one task at a time", size=12)
    pen.text(106, 260, "monitor: autoscaler", size=12)
    pen.text(334, 260, "agents: metrics, runtime", size=12)
    pen.arrow(70, 124, 70, 154, width=2, colour=BLUE)
    pen.text(62, 144, "1", bold=True, anchor="end")
    pen.arrow(196, 165, 244, 165, width=2, colour=BLUE)
    pen.text(220, 158, "2", bold=True)
    pen.arrow(196, 98, 244, 98, width=2.4, colour=PURPLE)
    pen.text(220, 91, "3", bold=True)
    pen.arrow(410, 124, 410, 206, width=2, colour=GREEN)
    pen.text(416, 176, "4", bold=True, anchor="start")
    pen.arrow(244, 221, 196, 221, width=2, colour=GREEN)
    pen.text(220, 214, "5", bold=True)
    pen.text(220, 294, "1: ask the own raylet for a lease; 2: it may point elsewhere;", size=12)
    pen.text(220, 310, "3: the task goes straight to the worker; 4: a large result", size=12)
    pen.text(220, 326, "stays there; 5: it is copied when somebody needs it", size=12)
    return pen.figure(
        "Two nodes of a Ray cluster. The head holds the GCS, a driver, a raylet, an object store and the autoscaler's "
        "monitor; the other node a raylet, an object store and a worker process. Numbered arrows: the driver asks its "
        "raylet for a lease, is pointed to the other raylet, sends the task straight to the worker, the worker leaves "
        "a large result in its node's store, and it is copied when needed. No arrow passes the GCS.",
        "A Ray cluster, and the way of one task. The GCS is not on it.",
    )


def placements(found: Mapping[str, Sequence[int] | None], others: Sequence[int]) -> Figure:
    """Where the bundles of a group went: how many each node got, per strategy; None: the group waits.

    others: places of the four of each node that others hold.
    """
    places, panel = 4, 62
    pen = Pen(440, panel * len(found) + 22)
    for i, (name, own) in enumerate(found.items()):
        y = 8 + i * panel
        pen.text(4, y + 20, name, anchor="start", size=12, bold=True)
        if own is None:
            pen.text(4, y + 37, "waits", anchor="start", size=12)
        for node, (mine, taken) in enumerate(zip(own or [0] * len(others), others, strict=True)):
            x = 126 + node * 106
            pen.rect(x, y, 98, 46, dash=True)
            for place in range(places):
                held = place < taken
                new = not held and place < taken + mine
                pen.rect(x + 6 + place * 22, y + 12, 19, 22, GREEN if held else BLUE if new else "", bold=new)
                if held or new:
                    pen.text(x + 15.5 + place * 22, y + 28, "x" if held else "b", size=12, bold=new)
    pen.text(
        220, panel * len(found) + 16, "b: a bundle of the group; x: held by others; empty: free", size=12
    )
    words = "; ".join(
        f"{name}: {'the group waits' if own is None else ' and '.join(map(str, own))}"
        for name, own in found.items()
    )
    return pen.figure(
        f"Nodes of four places for each strategy; others hold {' and '.join(map(str, others))}. Bundles placed on the "
        f"nodes, in order: {words}.",
        f"Where a group's bundles go on {len(others)} nodes, by strategy. Computed with the rules of the text.",
    )


def two_autoscalers() -> Figure:
    """From a group that waits to pods that run, on Kubernetes: who does what."""
    steps = (
        ("placement group waits", "GCS", "knows the demand", BLUE),
        ("replicas: 4, then 6", "Ray's autoscaler", "edits the RayCluster", BLUE),
        ("two pods, pending", "KubeRay's operator", "creates pods", PURPLE),
        ("two machines", "the nodes' autoscaler", "buys machines", RED),
        ("nodes join, group placed", "kubelet, raylet", "pull the image, start", GREEN),
    )
    pen = Pen(440, 208)
    for i, (what, who, does, colour) in enumerate(steps):
        y = 6 + i * 41
        pen.rect(6, y, 220, 28, colour, bold=i == len(steps) - 1)
        pen.text(116, y + 19, what, size=13)
        pen.text(240, y + 12, who, anchor="start", size=13, bold=True)
        pen.text(240, y + 28, does, anchor="start", size=13)
        if i + 1 < len(steps):
            pen.arrow(116, y + 28, 116, y + 41)
    return pen.figure(
        "Five steps from a waiting placement group to running pods: the GCS knows the demand, Ray's autoscaler raises "
        "replicas, KubeRay's operator creates pods, the nodes' autoscaler buys machines, kubelet and raylet bring them "
        "up.",
        "Two autoscalers in a row. Each has a loop, a log and an opinion of its own.",
    )


def waits(spans: Sequence[tuple[str, float, float, str]], unit: str, alt: str, caption: str) -> Figure:
    """A bar for each span (words, begin, end, whose): whose is `Ray`, `cloud`, `image` or `yours`."""
    colours = {"Ray": BLUE, "cloud": RED, "image": PURPLE, "yours": GREEN}
    end = max(stop for _, _, stop, _ in spans)
    pen = Pen(440, 34 * len(spans) + 40)
    left, scale = 8, 424 / end
    for i, (words, start, stop, whose) in enumerate(spans):
        y = 4 + i * 34
        pen.text(8, y + 11, f"{words}: {stop - start:.1f} {unit}, {whose}", anchor="start", size=12)
        pen.rect(
            left + start * scale,
            y + 15,
            max(2.0, (stop - start) * scale),
            13,
            colours[whose],
            opacity=0.5,
            rounded=1,
        )
    y = 34 * len(spans) + 12
    pen.line(left, y, left + 424, y)
    for i in range(5):
        x = left + i * 106
        pen.line(x, y - 3, x, y + 3)
        anchor = "start" if i == 0 else "end" if i == 4 else "middle"
        pen.text(x, y + 18, f"{end * i / 4:.0f}{' ' + unit if i == 4 else ''}", anchor=anchor, size=12)
    return pen.figure(alt, caption)


def halving(steps: Sequence[float], alt: str, caption: str) -> Figure:
    """How far each trial was trained, longest first."""
    most = max(steps)
    row = 200 / len(steps)
    pen = Pen(440, 236)
    for i, done in enumerate(sorted(steps, reverse=True)):
        full = done == most
        pen.rect(
            8,
            4 + i * row,
            424 * done / most,
            max(1.2, row - 1.4),
            GREEN if full else BLUE,
            opacity=0.5,
            bold=full,
            rounded=0,
        )
    pen.text(8, 222, "0", anchor="start", size=12)
    pen.text(432, 222, f"{most:g} steps", anchor="end", size=12)
    pen.text(220, 222, "one bar: one trial", size=12)
    return pen.figure(alt, caption)
