"""Diagrams over time: ring steps, gradient buckets, pipeline schedules, a hang. Simulated, then drawn."""

from __future__ import annotations

from collections.abc import Sequence

from distlab.figures.figure import BLUE, GREEN, RED, Figure, Pen
from distlab.predict.scaling import bucket_timeline, pipeline_efficiency


def ring_states(world_size: int) -> list[list[list[int]]]:
    """Ring all-reduce, step by step: `states[step][rank][chunk]` ranks are summed in that chunk.

    In step s of the first n - 1, rank r sends chunk (r - s) mod n to rank r + 1, which adds it to its own
    (reduce-scatter); in the next n - 1 the finished chunks go round and are copied (all-gather).
    """
    n = world_size
    states = [[[1] * n for _ in range(n)]]
    for step in range(2 * (n - 1)):
        now = [row[:] for row in states[-1]]
        for rank in range(n):
            reducing = step < n - 1
            chunk = (rank - step) % n if reducing else (rank + 1 - (step - (n - 1))) % n
            sent = states[-1][rank][chunk]
            after = (rank + 1) % n
            now[after][chunk] = now[after][chunk] + sent if reducing else sent
        states.append(now)
    return states


def ring_all_reduce(world_size: int = 4) -> Figure:
    """Each panel is the state after a step; a column is a rank, a row one of its chunks."""
    states = ring_states(world_size)
    n, cell, across = world_size, 21, 4
    panel = n * cell + 18
    rows = -(-len(states) // across)
    pen = Pen(across * panel + 8, rows * (panel + 28) + 4)
    for step, state in enumerate(states):
        x0, y0 = 8 + step % across * panel, 24 + step // across * (panel + 28)
        name = "start" if step == 0 else f"{step} {'add' if step < n else 'copy'}"
        pen.text(x0 + n * cell / 2, y0 - 7, name, size=12)
        for rank in range(n):
            for chunk in range(n):
                count = state[rank][chunk]
                changed = step > 0 and states[step - 1][rank][chunk] != count
                x, y = x0 + rank * cell, y0 + chunk * cell
                pen.rect(
                    x, y, cell - 2, cell - 2, GREEN if count == n else BLUE, opacity=0.12 + 0.4 * count / n,
                    bold=changed, rounded=2,
                )  # fmt: skip
                pen.text(x + cell / 2 - 1, y + cell / 2 + 4, str(count), size=12, bold=changed)
            pen.text(x0 + rank * cell + cell / 2 - 1, y0 + n * cell + 12, f"r{rank}", size=10)
    return pen.figure(
        f"{len(states)} panels of a ring all-reduce on {n} ranks. Columns are ranks, rows are chunks; each "
        f"number counts the ranks summed in that chunk. After {n - 1} adding steps every rank owns one chunk "
        f"with all {n}; after {n - 1} copying steps all chunks of all ranks show {n}.",
        f"Ring all-reduce on {n} ranks, simulated: a number counts the ranks summed into a chunk; bold "
        "ones arrived in that step. Every rank sends one chunk and receives one chunk in every step.",
    )


def buckets(backward_s: float, bucket_bytes: Sequence[float], all_reduce_s: Sequence[float]) -> Figure:
    """Backward pass above, all-reduces of the buckets below, the exposed rest marked.

    Buckets too thin for a number are drawn as one block.
    """
    spans = bucket_timeline(backward_s, bucket_bytes, all_reduce_s)
    end = max(backward_s, spans[-1].end_s)
    pen = Pen(440, 172)
    left, scale = 70, 362 / end
    pen.text(62, 43, "backward", anchor="end")
    pen.text(62, 89, "wire", anchor="end")
    total, made = sum(bucket_bytes), 0.0
    thin = min(min(all_reduce_s), backward_s * min(bucket_bytes) / total) * scale < 9
    if thin:
        start, split = left + spans[0].start_s * scale, left + backward_s * scale
        pen.rect(left, 24, backward_s * scale, 30, BLUE, rounded=0)
        pen.rect(start, 70, split - start, 30, RED, rounded=0)
        pen.rect(split, 70, (spans[-1].end_s - backward_s) * scale, 30, RED, rounded=0, dash=True)
        note = f"{len(spans)} buckets, too thin to be told apart"
    else:
        for i, (size, span) in enumerate(zip(bucket_bytes, spans, strict=True)):
            x = left + backward_s * made / total * scale
            made += size
            width = backward_s * size / total * scale
            pen.rect(x, 24, width, 30, BLUE, rounded=0)
            pen.text(x + width / 2, 44, str(i), size=min(13, width))
            x, width = left + span.start_s * scale, (span.end_s - span.start_s) * scale
            pen.rect(x, 70, width, 30, RED, rounded=0, dash=span.start_s >= backward_s * 0.999)
            pen.text(x + width / 2, 90, str(i), size=min(13, width))
        note = "number: bucket, in the order in which gradients appear"
    x = left + backward_s * scale
    pen.line(x, 14, x, 122, dash=True)
    pen.text(x, 12, f"{backward_s * 1e3:.0f} ms", size=12)
    exposed = spans[-1].end_s - backward_s
    pen.line(x, 116, left + end * scale, 116, width=3, colour=RED)
    pen.text(min(436, left + end * scale), 136, f"exposed {exposed * 1e3:.0f} ms", anchor="end", bold=True)
    pen.text(220, 164, note, size=12)
    return pen.figure(
        f"Timeline: the backward pass takes {backward_s * 1e3:.0f} ms and makes {len(spans)} buckets. "
        f"Each bucket's all-reduce starts once it is full and the wire is free. The last ends "
        f"{exposed * 1e3:.0f} ms after the backward pass.",
        "Overlap of backward pass and gradient all-reduce, as the bucket model computes it. Dashed: after "
        "the backward pass, so every millisecond of it is exposed.",
    )


def pipeline_slots(stages: int, microbatches: int) -> list[list[str]]:
    """GPipe's schedule: `slots[stage][t]` is `F3`, `B3` or empty. A backward takes two slots.

    All forwards, then all backwards in reverse order (Huang et al., NeurIPS 2019).
    """
    forward = microbatches + stages - 1
    slots = [[""] * (3 * forward) for _ in range(stages)]
    for stage in range(stages):
        for m in range(microbatches):
            slots[stage][stage + m] = f"F{m}"
            start = forward + 2 * ((stages - 1 - stage) + (microbatches - 1 - m))
            slots[stage][start] = slots[stage][start + 1] = f"B{m}"
    return slots


def pipeline(stages: int, microbatches: int) -> Figure:
    """Stages down, time across; empty slots are the bubble."""
    slots = pipeline_slots(stages, microbatches)
    width = 376 / len(slots[0])
    pen = Pen(440, 26 * stages + 44)
    for stage, row in enumerate(slots):
        y = 8 + stage * 26
        pen.text(52, y + 16, f"stage {stage}", anchor="end", size=12)
        t = 0
        while t < len(row):
            label = row[t]
            span = 2 if label.startswith("B") else 1
            x = 58 + t * width
            if label:
                colour = GREEN if label.startswith("B") else BLUE
                pen.rect(x, y, span * width - 1, 22, colour, rounded=1, opacity=0.3)
                pen.text(x + span * width / 2, y + 15, label[1:], size=11)
            t += span if label else 1
    busy = sum(bool(s) for row in slots for s in row) / (stages * len(slots[0]))
    y = 8 + stages * 26 + 20
    pen.rect(58, y - 11, 14, 12, BLUE, opacity=0.3)
    pen.text(78, y, "forward", anchor="start", size=12)
    pen.rect(138, y - 11, 14, 12, GREEN, opacity=0.3)
    pen.text(158, y, "backward", anchor="start", size=12)
    pen.text(434, y, f"busy {busy:.0%}, bubble {1 - busy:.0%}", anchor="end", size=12, bold=True)
    assert abs(busy - pipeline_efficiency(stages, microbatches)) < 1e-9
    return pen.figure(
        f"Schedule of {stages} pipeline stages and {microbatches} microbatches: forwards run down the stages "
        f"like a staircase, backwards up. The stages are busy for {busy:.0%} of the time; the triangles of "
        "empty slots at both ends are the bubble.",
        f"GPipe schedule, {stages} stages, {microbatches} microbatches (the numbers); a backward takes two "
        "slots. Simulated; blank is idle.",
    )


def hang(world_size: int, culprit: int, collectives: Sequence[str]) -> Figure:
    """A row for each rank: all finished every collective but the last, which the culprit never entered."""
    last = len(collectives) - 1
    cell = 360 / len(collectives)
    pen = Pen(440, 30 * world_size + 62)
    for i, name in enumerate(collectives):
        pen.text(74 + (i + 0.5) * cell, 18, name, size=11)
    for rank in range(world_size):
        y = 26 + rank * 30
        pen.text(66, y + 17, f"rank {rank}", anchor="end", bold=rank == culprit)
        for i in range(len(collectives)):
            x = 74 + i * cell
            word = "done" if i < last else "not entered" if rank == culprit else "waits"
            lost = word == "not entered"
            pen.rect(x, y, cell - 4, 24, {"done": GREEN, "waits": RED}.get(word, ""), dash=lost, bold=lost)
            pen.text(x + cell / 2 - 2, y + 17, word, size=11)
    pen.text(220, 50 + 30 * world_size, f"Every rank but rank {culprit} will report a timeout.", size=12)
    return pen.figure(
        f"{world_size} ranks, {len(collectives)} collectives. All finished all but the last. There, every "
        f"rank waits except rank {culprit}, which never entered it.",
        "A hang. The ranks that report a timeout are the healthy ones; the culprit is the rank whose last "
        "sequence number is one lower.",
    )
