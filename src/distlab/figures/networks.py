"""Diagrams of networks: what moves a chunk, a path with and without GPUDirect, wirings, rates between pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen

SLOW = 0.8
"""Of the usual rate: below it a cell of a matrix is drawn filled."""


def channel(slots: int = 8) -> Figure:
    """One channel of NCCL across the network: two kernels, two buffers of slots, two proxies, two cards."""
    pen = Pen(440, 250)
    for side, (x, name) in enumerate(((4, "sender"), (238, "receiver"))):
        card, proxy = (x + 104, x + 10) if side == 0 else (x + 10, x + 104)
        pen.rect(x, 22, 198, 166, dash=True)
        pen.text(x + 99, 15, name, bold=True)
        pen.rect(x + 10, 32, 178, 30, BLUE)
        pen.text(x + 99, 52, "kernel: 1 block of the GPU", size=12)
        pen.text(x + 10, 87, "buffer", size=12, anchor="start")
        for i in range(slots):
            filled = i in (1, 2, 3) if side == 0 else i in (0, 1)
            pen.rect(x + 52 + i * 17, 74, 14, 16, GREEN if filled else "", rounded=1)
        pen.rect(proxy, 106, 84, 30)
        pen.text(proxy + 42, 126, "proxy (CPU)", size=12)
        pen.text(proxy + 42, 156, "posts work,", size=11)
        pen.text(proxy + 42, 170, "moves no data", size=11)
        pen.rect(card, 106, 84, 72, RED)
        pen.text(card + 42, 136, "card", size=13)
    pen.arrow(62, 62, 62, 74)
    pen.arrow(150, 92, 150, 106, width=2.2, colour=RED)
    pen.arrow(94, 121, 108, 121)
    pen.arrow(192, 160, 248, 160, width=2.6, colour=RED)
    pen.text(220, 152, "RDMA", size=11)
    pen.arrow(318, 106, 318, 92, width=2.2, colour=RED)
    pen.arrow(296, 74, 296, 62)
    pen.arrow(342, 121, 332, 121)
    pen.text(220, 208, "1: the kernel fills a slot; 2: the proxy posts it to the card;", size=12)
    pen.text(220, 225, "3: the card reads it and writes it into a slot over there;", size=12)
    pen.text(220, 242, "4: the other kernel adds it, and gives the slot back", size=12)
    return pen.figure(
        f"One channel between two nodes. A kernel on the sending GPU fills slots of a buffer of {slots}; a proxy "
        "thread on the CPU posts them to the network card, which reads GPU memory and writes into the receiver's "
        "buffer, where the other kernel adds them up and gives the slot back.",
        "A channel of NCCL across the network. The CPU posts descriptors; the bytes go from GPU memory to the card "
        "and from the card to GPU memory.",
    )


def gpudirect() -> Figure:
    """The way of a byte from GPU to card: below one PCIe switch, and through host memory."""
    pen = Pen(440, 236)
    for direct, x, name in ((True, 4, "GPUDirect RDMA"), (False, 226, "through the host")):
        pen.text(x + 105, 14, name, bold=True)
        pen.rect(x + 15, 24, 180, 30)
        pen.text(x + 105, 44, "host memory", size=12)
        pen.rect(x + 15, 74, 180, 28)
        pen.text(x + 105, 93, "root complex", size=12)
        pen.rect(x + 15, 124, 180, 28)
        pen.text(x + 105, 143, "PCIe switch", size=12)
        pen.rect(x + 15, 178, 76, 30, BLUE, bold=True)
        pen.text(x + 53, 198, "GPU", size=13)
        pen.rect(x + 119, 178, 76, 30, RED, bold=True)
        pen.text(x + 157, 198, "card", size=13)
        left, right = x + 47, x + 163
        for a, b in ((178, 152), (124, 102), (74, 54)):
            pen.line(x + 30, a, x + 30, b)
            pen.line(x + 180, a, x + 180, b)
        if direct:
            pen.line(left, 178, left, 158, width=3, colour=GREEN)
            pen.line(left, 158, right, 158, width=3, colour=GREEN)
            pen.arrow(right, 158, right, 178, width=3, colour=GREEN)
        else:
            pen.arrow(left, 178, left, 48, width=3, colour=PURPLE)
            pen.arrow(right, 48, right, 178, width=3, colour=PURPLE)
    pen.text(109, 228, "one crossing of the switch", size=12)
    pen.text(331, 228, "two copies, four crossings", size=12)
    return pen.figure(
        "Two drawings of a server's PCIe tree: host memory, CPU, PCIe switch, and below it GPU and network card. With "
        "GPUDirect the path turns at the PCIe switch. Without, it climbs to host memory and comes down again.",
        "From GPU to card. Left: the switch turns the bytes round. Right: access control (ACS), a missing kernel "
        "module, or a card below another CPU sends them through host memory.",
    )


def wirings(nodes: int = 4, cards: int = 4) -> Figure:
    """The same switches, wired by rack and by rail; the ring's crossing from node 1 to node 2 drawn thick."""
    pen = Pen(440, 380)
    for panel, (rails, title) in enumerate(
        ((False, "by rack: a node on one leaf"), (True, "by rail: card r on leaf r"))
    ):
        y = 6 + panel * 190
        pen.text(220, y + 12, title, bold=True)
        leaves = cards if rails else 2
        spine_x = [140.0, 300.0]
        leaf_x = [220 + (i - (leaves - 1) / 2) * 100 for i in range(leaves)]
        for i, x in enumerate(spine_x):
            pen.rect(x - 34, y + 22, 68, 22, RED)
            pen.text(x, y + 38, f"spine {i}", size=12)
            for lx in leaf_x:
                pen.line(x, y + 44, lx, y + 74)
        for i, x in enumerate(leaf_x):
            pen.rect(x - 34, y + 74, 68, 22, RED)
            pen.text(x, y + 90, f"leaf {i}", size=12)
        for node in range(nodes):
            left = 14 + node * 106
            pen.rect(left - 8, y + 134, 102, 46, dash=True)
            pen.text(left + 43, y + 174, f"node {node}", size=12)
            for card in range(cards):
                x = left + 8 + card * 23
                leaf = card if rails else node * leaves // nodes
                crosses = node in (1, 2) and card == 0
                pen.line(
                    x, y + 140, leaf_x[leaf] + (node - 1.5) * 9, y + 96, colour=GREEN if crosses else "currentColor",
                    width=3.2 if crosses else 0.8,
                )  # fmt: skip
                pen.rect(x - 9, y + 140, 18, 18, BLUE, bold=crosses)
                pen.text(x, y + 154, str(card), size=11)
        if not rails:
            pen.line(leaf_x[0], y + 74, spine_x[0], y + 44, width=3.2, colour=GREEN)
            pen.line(leaf_x[1], y + 74, spine_x[0], y + 44, width=3.2, colour=GREEN)
    return pen.figure(
        "The same nodes and switches wired twice. By rack, the four cards of nodes 0 and 1 hang on leaf 0, those of "
        "nodes 2 and 3 on leaf 1; the way from card 0 of node 1 to card 0 of node 2 goes over a spine. By rail, card r "
        "of every node hangs on leaf r, and the same way crosses one leaf.",
        "Two wirings of the same switches. Thick: from card 0 of node 1 to card 0 of node 2, as a ring sends. By rack "
        "it needs a spine, chosen by a hash; by rail it does not leave its leaf.",
    )


def dragonfly_groups(groups: int = 4) -> Figure:
    """Groups of switches, all joined inside, and one cable between every two groups."""
    pen = Pen(440, 216)
    places = [(12, 8), (250, 8), (12, 120), (250, 120)][:groups]
    corners = [(34, 30), (144, 30), (34, 66), (144, 66)]
    ports = {(0, 1): (1, 0), (0, 2): (2, 0), (0, 3): (3, 0), (1, 3): (3, 1), (1, 2): (2, 1), (2, 3): (3, 2)}
    for (a, b), (mine, theirs) in ports.items():
        (xa, ya), (xb, yb) = places[a], places[b]
        pen.line(
            xa + corners[mine][0], ya + corners[mine][1], xb + corners[theirs][0], yb + corners[theirs][1],
            width=2.4, colour=RED, dash=True,
        )  # fmt: skip
    for g, (x, y) in enumerate(places):
        pen.rect(x, y, 178, 88, dash=True)
        pen.text(x + 89, y + 14, f"group {g}", size=12)
        for i, (cx, cy) in enumerate(corners):
            for dx, dy in corners[i + 1 :]:
                pen.line(x + cx, y + cy, x + dx, y + dy, width=1)
        for cx, cy in corners:
            pen.rect(x + cx - 12, y + cy - 9, 24, 18, GREEN, opacity=0.6)
    return pen.figure(
        f"{groups} groups of four switches. Inside a group every switch is joined to every other; between every two "
        "groups runs one long cable, from a different switch of the group each.",
        "A dragonfly, small: thin, inside a group, copper; dashed, between groups, optics. Cards (not drawn) hang on "
        "every switch.",
    )


def patterns() -> Figure:
    """Four patterns of a training job over two nodes of four GPUs: who sends to whom."""
    pen = Pen(440, 330)
    panels = [
        ("tensor: inside the node", [((n, a), (n, a + 1)) for n in (0, 1) for a in range(3)]),
        ("pipeline: same rail, one way", [((0, g), (1, g)) for g in range(4)]),
        ("data: same rails, both ways", [((0, g), (1, g)) for g in range(4)]),
        ("experts: all to all", [((0, a), (1, b)) for a in range(4) for b in range(4)]),
    ]
    for i, (title, flows) in enumerate(panels):
        x0, y0 = 6 + i % 2 * 220, 22 + i // 2 * 162
        pen.text(x0 + 104, y0 - 6, title, size=12, bold=True)
        for node, y in ((0, y0 + 4), (1, y0 + 94)):
            pen.rect(x0, y, 208, 42, dash=True)
            for g in range(4):
                pen.rect(x0 + 14 + g * 48, y + 8, 36, 26, BLUE if node == 0 else GREEN)
                pen.text(x0 + 32 + g * 48, y + 26, f"G{node * 4 + g}", size=12)
        for (n, a), (m, b) in flows:
            xa, xb = x0 + 32 + a * 48, x0 + 32 + b * 48
            if n == m:
                y = y0 + (25 if n == 0 else 115)
                pen.line(xa + 18, y, xb - 18, y, width=4, colour=GREEN)
            elif "one way" in title:
                pen.arrow(xa, y0 + 38, xb, y0 + 101, width=1.8, colour=RED)
            else:
                thick = 2.6 if a == b and "data" in title else 1.1
                pen.line(xa, y0 + 38, xb, y0 + 102, width=thick, colour=RED)
    return pen.figure(
        "Two nodes of four GPUs, four times. Tensor parallelism joins neighbours inside each node. Pipeline "
        "parallelism sends from each GPU to the one of the same place in the next node. Data parallelism joins the "
        "same pairs both ways. Experts join every GPU of one node to every GPU of the other.",
        "Who sends to whom. Only the experts' exchange crosses rails.",
    )


def matrix(rates: Sequence[Sequence[float]], unit: str, alt: str, caption: str) -> Figure:
    """Rates between pairs, a row for each sender; below `SLOW` of the median a cell is filled. For up to 12."""
    n = len(rates)
    cell = 380 / n
    values = sorted(rate for a, row in enumerate(rates) for b, rate in enumerate(row) if a != b)
    usual = values[len(values) // 2]
    pen = Pen(440, 46 + n * 26)
    pen.text(
        220, 14, f"{unit}; a row sends, a column receives; filled: under {SLOW:.0%} of the median", size=11
    )
    for b in range(n):
        pen.text(50 + (b + 0.5) * cell, 32, str(b), size=12, bold=True)
    for a, row in enumerate(rates):
        y = 38 + a * 26
        pen.text(40, y + 17, str(a), anchor="end", size=12, bold=True)
        for b, rate in enumerate(row):
            x = 50 + b * cell
            if a == b:
                continue
            slow = rate < SLOW * usual
            pen.rect(x, y, cell - 3, 23, RED if slow else "", opacity=0.35, bold=slow, rounded=1)
            pen.text(x + cell / 2 - 1.5, y + 16, f"{rate:.1f}", size=12, bold=slow)
    return pen.figure(alt, caption)


def signatures(matrices: Mapping[str, Sequence[Sequence[float]]], alt: str, caption: str) -> Figure:
    """Small matrices, two in a row; of rates per the usual one. Filled: slow, the darker the slower."""
    side, gap = 196.0, 216.0
    rows = -(-len(matrices) // 2)
    pen = Pen(440, rows * (side + 34))
    for i, (name, rates) in enumerate(matrices.items()):
        x0, y0 = 6 + i % 2 * gap, 24 + i // 2 * (side + 34)
        cell = side / len(rates)
        pen.text(x0 + side / 2, y0 - 8, name, size=12, bold=True)
        pen.rect(x0, y0, side, side, rounded=0)
        for a, row in enumerate(rates):
            for b, rate in enumerate(row):
                if a != b and rate < SLOW:
                    shade = 0.45 if rate > 0.4 else 0.7 if rate > 0.3 else 1.0
                    pen.marks.append(
                        f'<rect x="{x0 + b * cell:.2f}" y="{y0 + a * cell:.2f}" width="{cell:.2f}" '
                        f'height="{cell:.2f}" fill="{RED}" fill-opacity="{shade:g}"/>'
                    )
    return pen.figure(alt, caption)
