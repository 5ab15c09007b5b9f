"""Diagrams of what frameworks do with gradients and weights: reducer, negotiation, cycles, prefetch, operators."""

from __future__ import annotations

from collections.abc import Sequence

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen
from distlab.predict.fusion import Message


def reducer() -> Figure:
    """DDP: a hook at every parameter, a counter at every bucket, one all-reduce for each."""
    pen = Pen(440, 268)
    pen.text(62, 18, "parameters", bold=True)
    pen.text(218, 18, "buckets", bold=True)
    pen.text(384, 18, "wire", bold=True)
    names = ["head.weight", "block2.bias", "block2.weight", "block1.bias", "block1.weight", "embed.weight"]
    for i, name in enumerate(names):
        y = 30 + 36 * i
        pen.rect(8, y, 108, 26, BLUE)
        pen.text(62, y + 17, name, size=12)
        pen.arrow(118, y + 13, 160, 43 + 76 * (i // 2))
    for k, counter in enumerate(("0 left", "1 left", "2 left")):
        y = 34 + 76 * k
        pen.rect(162, y - 8, 112, 50, PURPLE, bold=k == 0)
        pen.text(218, y + 12, f"bucket {k}")
        pen.text(218, y + 31, counter, size=12)
    pen.arrow(276, 50, 322, 50)
    pen.rect(324, 34, 108, 34, RED)
    pen.text(378, 55, "all-reduce 0")
    for k in (1, 2):
        pen.rect(324, 34 + 76 * k, 108, 34, dash=True)
        pen.text(378, 55 + 76 * k, f"waits for {k - 1}" if k == 2 else "waits", size=12)
    pen.text(220, 262, "gradients appear from top to bottom during the backward pass", size=12)
    return pen.figure(
        "Three columns. Left, six parameters from the head to the embedding, in the order in which their "
        "gradients appear. "
        "Each points to a bucket in the middle; three buckets hold two parameters each, with counters 0, 1 "
        "and 2 left. "
        "Right, the all-reduce of bucket 0 runs; those of buckets 1 and 2 wait.",
        "DDP's reducer in the middle of a backward pass. A hook at each parameter copies its gradient to its "
        "place in a "
        "bucket and counts down; at 0 the bucket is sent, always in the order 0, 1, 2.",
    )


def negotiation() -> Figure:
    """Horovod: a cycle of the background threads, without the cache and with it."""
    pen = Pen(440, 330)
    columns = {"rank 0": 110, "rank 1": 240, "rank 2": 370}
    for name, x in columns.items():
        pen.text(x, 18, name, bold=True)
        for top, bottom in ((60, 112 if x == 110 else 192), (146, 192), (222, 236)):
            pen.line(x, top, x, bottom, dash=True)
    for x, words in ((110, "a b c"), (240, "a b"), (370, "a b c")):
        pen.rect(x - 34, 34, 68, 26, BLUE)
        pen.text(x, 52, words)
    pen.text(6, 51, "ready", anchor="start", size=12)
    pen.text(6, 92, "names", anchor="start", size=12)
    pen.arrow(240, 80, 114, 92)
    pen.arrow(370, 80, 114, 100)
    pen.rect(60, 112, 100, 34, PURPLE)
    pen.text(110, 126, "a 3/3, b 3/3", size=12)
    pen.text(110, 141, "c 2/3", size=12)
    pen.text(6, 172, "answer", anchor="start", size=12)
    pen.arrow(110, 162, 236, 174)
    pen.arrow(110, 162, 366, 182)
    pen.rect(64, 194, 352, 28, RED)
    pen.text(240, 212, "one all-reduce of a and b, fused")
    pen.text(110, 248, "c: next cycle", size=12)
    pen.text(370, 248, "c: next cycle", size=12)
    pen.rect(64, 262, 352, 28, GREEN)
    pen.text(240, 280, "from then on: and over bits, no names")
    pen.text(220, 320, "time goes down · rank 0 coordinates", size=12)
    return pen.figure(
        "Three ranks as columns, time downwards. Ranks 0 and 2 have gradients a, b and c, rank 1 has a and b. "
        "Ranks 1 and 2 "
        "send names to rank 0, which counts a and b three of three and c two of three, and answers: "
        "all-reduce a and b as "
        "one. c waits for the next cycle. Once a name is known, ranks compare bits in place of names.",
        "A cycle of Horovod's background threads. Nothing is sent before all ranks have it, in whatever order "
        "each made it.",
    )


def pairing() -> Figure:
    """Two ranks that reduce two gradients in another order, paired by number and by name."""
    pen = Pen(440, 208)
    for side, (title, straight) in enumerate((("by number (torch)", True), ("by name (Horovod)", False))):
        x = 10 + 224 * side
        pen.text(x + 98, 18, title, bold=True)
        for rank, order in enumerate((("weight", "bias"), ("bias", "weight"))):
            pen.text(x + 36 + 124 * rank, 40, f"rank {rank}", size=12)
            for turn, name in enumerate(order):
                pen.rect(
                    x + 124 * rank,
                    50 + 56 * turn,
                    72,
                    32,
                    BLUE if name == "weight" else PURPLE,
                    bold=name == "bias",
                )
                pen.text(x + 36 + 124 * rank, 71 + 56 * turn, name, size=12)
        for turn in range(2):
            other = turn if straight else 1 - turn
            pen.line(x + 74, 66 + 56 * turn, x + 122, 66 + 56 * other, width=2.4)
        pen.text(x + 98, 168, "weight + bias" if straight else "weight + weight")
        pen.text(x + 98, 186, "bias + weight" if straight else "bias + bias")
    pen.text(220, 204, "first call above, second below", size=12)
    return pen.figure(
        "Two pictures of ranks 0 and 1. Rank 0 reduces weight and then bias, rank 1 bias and then weight. "
        "Left, by number: "
        "lines join first with first and second with second, so that weight is added to bias. Right, by name: "
        "lines cross, "
        "weight is added to weight and bias to bias.",
        "The same two calls in another order, paired in two ways.",
    )


def holders() -> Figure:
    """TensorFlow's three strategies by who holds the variables."""
    pen = Pen(440, 214)
    for side, (title, below) in enumerate(
        (
            ("Mirrored", "one process"),
            ("MultiWorkerMirrored", "two processes"),
            ("ParameterServer", "asynchronous"),
        )
    ):
        x = 4 + 148 * side
        pen.text(x + 68, 16, title, size=12, bold=True)
        pen.text(x + 68, 206, below, size=12)
        if side == 0:
            pen.rect(x, 26, 136, 164, dash=True)
        for worker in range(2):
            left = x + 8 + 64 * worker
            if side == 1:
                pen.rect(left - 4, 128, 64, 60, dash=True)
            pen.rect(left, 134, 56, 48, BLUE)
            pen.text(left + 28, 152, "worker" if side == 2 else "replica", size=11)
            if side < 2:
                pen.text(left + 28, 168, "w", size=12, bold=True)
            if side == 2:
                pen.arrow(left + 22, 132, x + 56, 76)
                pen.arrow(x + 80, 76, left + 34, 132)
        if side < 2:
            pen.rect(x + 22, 98, 92, 24, RED)
            pen.text(x + 68, 114, "all-reduce", size=12)
        else:
            pen.rect(x + 30, 36, 76, 38, GREEN)
            pen.text(x + 68, 52, "server", size=12)
            pen.text(x + 68, 67, "w", size=12, bold=True)
    return pen.figure(
        "Three pictures. Mirrored: two replicas with weights w in one process, joined by an all-reduce. "
        "MultiWorkerMirrored: "
        "the same in two processes. ParameterServer: w lies on a server, two workers pull weights and push "
        "gradients, each in "
        "its own time.",
        "Who holds the weights w in TensorFlow's three strategies.",
    )


def sending(made_s: float, ways: dict[str, Sequence[Message]]) -> Figure:
    """Backward pass above, one row of messages for each way; the number is how many gradients a message holds."""
    end = max([made_s] + [messages[-1].end_s for messages in ways.values()])
    pen = Pen(440, 78 + 46 * len(ways))
    left, scale = 112, 318 / end
    pen.text(106, 32, "backward", anchor="end", size=12)
    pen.rect(left, 14, made_s * scale, 28, BLUE, rounded=0)
    pen.line(left + made_s * scale, 10, left + made_s * scale, 60 + 46 * len(ways), dash=True)
    for i, (name, messages) in enumerate(ways.items()):
        y = 56 + 46 * i
        pen.text(106, y + 18, name, anchor="end", size=12)
        for message in messages:
            width = (message.end_s - message.start_s) * scale
            pen.rect(left + message.start_s * scale, y, width, 28, RED, rounded=0)
            if width > 7 * len(str(message.tensors)) + 2:
                pen.text(left + message.start_s * scale + width / 2, y + 18, str(message.tensors), size=11)
    pen.text(left, 72 + 46 * len(ways), "0", anchor="start", size=12)
    pen.text(430, 72 + 46 * len(ways), f"{end * 1e3:.0f} ms", anchor="end", size=12)
    ends = ", ".join(f"{name} {messages[-1].end_s * 1e3:.0f} ms" for name, messages in ways.items())
    return pen.figure(
        f"Timelines of messages under a backward pass that ends at {made_s * 1e3:.0f} ms. The last message "
        f"ends: {ends}.",
        "When gradients travel. Boxes are all-reduces, the number in one is how many gradients it holds; the "
        "dashed line "
        "is the end of the backward pass, what lies right of it is exposed. Computed.",
    )


def prefetch() -> Figure:
    """FSDP2's two streams in a forward and a backward pass of three blocks."""
    pen = Pen(440, 236)
    for y, name in ((28, "compute"), (72, "gather"), (146, "compute"), (186, "gather"), (212, "scatter")):
        pen.text(66, y + 14, name, anchor="end", size=12)
    pen.text(8, 16, "forward", anchor="start", bold=True)
    pen.text(8, 134, "backward", anchor="start", bold=True)
    for i in range(3):
        gathered = 74 if i == 0 else 130 + 78 * (i - 1)  # while the block before computes
        _slot(pen, 130 + 78 * i, 28, 76, f"block {i + 1}", BLUE)
        _slot(pen, gathered, 72, 54, f"w {i + 1}", RED)
        _slot(pen, 130 + 78 * i, 146, 76, f"block {3 - i}", BLUE)
        _slot(pen, gathered, 184, 54, f"w {3 - i}", RED)
        _slot(pen, 208 + 78 * i, 210, 68, f"grad {3 - i}", GREEN)
    pen.text(230, 116, "each block's weights are freed when it is done", size=12)
    return pen.figure(
        "Forward: weights of block 1 are gathered, then block 1 computes while the weights of block 2 are "
        "gathered, and so on. "
        "Backward: the weights of block 3 are gathered again, block 3 computes while those of block 2 are "
        "gathered; the gradients of block 3 are scattered while "
        "block 2 computes.",
        "FSDP2 on a GPU: gathers run one block ahead of the computation, on a stream of their own; the "
        "scatter of a block's "
        "gradients runs under the next block. The order, not to scale.",
    )


def _slot(pen: Pen, x: float, y: float, width: float, words: str, colour: str) -> None:
    pen.rect(x, y, width, 21, colour, rounded=0)
    pen.text(x + width / 2, y + 15, words, size=11)


def operator() -> Figure:
    """From a TrainJob to ranks: who makes what."""
    pen = Pen(440, 262)
    pen.rect(8, 10, 128, 44, BLUE, bold=True)
    pen.text(72, 29, "TrainJob")
    pen.text(72, 46, "you", size=12)
    pen.rect(156, 10, 276, 44, PURPLE)
    pen.text(294, 29, "ClusterTrainingRuntime")
    pen.text(294, 46, "the platform team", size=12)
    pen.rect(120, 84, 200, 30, GREEN)
    pen.text(220, 104, "JobSet: 2 nodes")
    pen.arrow(72, 56, 160, 82)
    pen.arrow(294, 56, 270, 82)
    for node in range(2):
        x = 24 + 216 * node
        pen.arrow(180 + 80 * node, 116, x + 88, 138)
        pen.rect(x, 140, 176, 96, dash=True)
        pen.text(x + 88, 158, f"pod ddp-node-0-{node}", size=12)
        pen.rect(x + 28, 166, 120, 24, GREEN)
        pen.text(x + 88, 183, "torchrun", size=12)
        for local in range(2):
            words = (f"rank {8 * node}", f"... {8 * node + 7}")[local]
            pen.rect(x + 12 + 78 * local, 202, 72, 24, BLUE)
            pen.text(x + 48 + 78 * local, 219, words, size=12)
    pen.text(220, 256, "quota and gang: Kueue · nodes: the scheduler", size=12)
    return pen.figure(
        "A TrainJob, written by you, and a ClusterTrainingRuntime, kept by the platform team, become a JobSet "
        "of two nodes. "
        "Each is a pod in which torchrun starts eight ranks: 0 to 7 in the first, 8 to 15 in the second.",
        "Who makes whom under Kubeflow Trainer.",
    )


def bars(rows: dict[str, tuple[float, float]], unit: str, alt: str, caption: str) -> Figure:
    """A bar for each row: (all of it, the dashed part of it at its end), with the number behind it."""
    longest = max(total for total, _ in rows.values())
    pen = Pen(440, 10 + 30 * len(rows))
    left, scale = 140, 234 / longest
    for i, (name, (total, part)) in enumerate(rows.items()):
        y = 6 + 30 * i
        pen.text(134, y + 16, name, anchor="end", size=12)
        pen.rect(left, y, (total - part) * scale, 22, BLUE, rounded=0)
        if part > 0:
            pen.rect(left + (total - part) * scale, y, part * scale, 22, RED, rounded=0, dash=True)
        pen.text(left + total * scale + 5, y + 16, f"{total:.3g} {unit}", anchor="start", size=12)
    return pen.figure(alt, caption)
