"""Diagrams of number formats: their bits, their ranges, an update that is lost, scales, who learns of an overflow."""

from __future__ import annotations

from collections.abc import Mapping

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure, Pen

LAYOUTS = {
    "fp32": (8, 23),
    "tf32": (8, 10),
    "bf16": (8, 7),
    "fp16": (5, 10),
    "E5M2": (5, 2),
    "E4M3": (4, 3),
    "E2M1": (2, 1),
}
"""Bits of exponent and of fraction; one more is the sign."""

RANGES = {
    "fp32": (-149, -126, 128),
    "bf16": (-133, -126, 128),
    "fp16": (-24, -14, 16),
    "E5M2": (-16, -14, 15.8),
    "E4M3": (-9, -6, 8.8),
}
"""Powers of two: the least value above 0, the least with all its digits, and the largest."""


def formats() -> Figure:
    """A row of bits for each format: sign, exponent, fraction."""
    pen = Pen(440, 34 + 32 * len(LAYOUTS))
    for x, colour, name in ((70, RED, "sign"), (140, BLUE, "exponent"), (250, GREEN, "fraction")):
        pen.rect(x, 4, 14, 14, colour, opacity=0.5, rounded=1)
        pen.text(x + 20, 16, name, size=12, anchor="start")
    for row, (name, (exponent, fraction)) in enumerate(LAYOUTS.items()):
        y = 30 + 32 * row
        pen.text(54, y + 16, name, anchor="end", bold=True)
        for bit in range(1 + exponent + fraction):
            colour, letter = (RED, "s") if bit == 0 else (BLUE, "e") if bit <= exponent else (GREEN, "f")
            pen.rect(62 + 11.6 * bit, y, 10.6, 22, colour, opacity=0.4, rounded=1)
            pen.text(67.3 + 11.6 * bit, y + 15, letter, size=11)
    return pen.figure(
        "Rows of bits. fp32: 1 sign, 8 exponent, 23 fraction. tf32: 1, 8, 10. bf16: 1, 8, 7. fp16: 1, 5, 10. E5M2: "
        "1, 5, 2. E4M3: 1, 4, 3. E2M1: 1, 2, 1.",
        "Bits of the formats. The exponent's width sets the range, the fraction's the digits: bf16 is the upper half "
        "of fp32.",
    )


def ranges(bands: Mapping[str, tuple[float, float]]) -> Figure:
    """Formats over powers of two; below them `bands`, named intervals of measured values (as powers of two)."""
    left, right, low, high = 58.0, 420.0, -60, 24
    pen = Pen(440, 48 + 30 * (len(RANGES) + len(bands)))

    def at(power: float) -> float:
        return left + (min(max(power, low), high) - low) / (high - low) * (right - left)

    for power in range(low, high + 1, 12):
        pen.line(at(power), 18, at(power), 24 + 30 * (len(RANGES) + len(bands)), width=0.5)
        pen.text(at(power), 13, f"2^{power}", size=11)
    for row, (name, (least, normal, largest)) in enumerate(RANGES.items()):
        y = 26 + 30 * row
        pen.text(52, y + 15, name, anchor="end", bold=True)
        pen.rect(at(normal), y + 2, at(largest) - at(normal), 16, BLUE, opacity=0.4, rounded=1)
        if at(least) < at(normal):
            pen.rect(at(least), y + 6, at(normal) - at(least), 8, BLUE, opacity=0.15, dash=True, rounded=1)
        for end, words, anchor, shift in ((least, "<", "start", 3), (largest, ">", "end", -3)):
            if not low <= end <= high:
                pen.text(at(end) + shift, y + 15, words, size=12, anchor=anchor, bold=True)
    for row, (name, (first, last)) in enumerate(bands.items()):
        y = 26 + 30 * (len(RANGES) + row)
        pen.rect(at(first), y + 4, at(last) - at(first), 12, RED, opacity=0.35, bold=True, rounded=1)
        side = "end" if at(first) > 190 else "start"
        pen.text(at(first) - 5 if side == "end" else at(last) + 5, y + 14, name, size=11, anchor=side)
    pen.text(
        245, 44 + 30 * (len(RANGES) + len(bands)), "full: all digits; dashed: fewer (subnormal)", size=11
    )
    words = "; ".join(f"{name} from 2^{first:.0f} to 2^{last:.0f}" for name, (first, last) in bands.items())
    return pen.figure(
        "Bars over powers of two. fp32 and bf16 reach beyond both ends of the picture. fp16 goes from 2^-24, with all "
        f"digits from 2^-14, to 2^16. E5M2 from 2^-16 to almost 2^16, E4M3 from 2^-9 to almost 2^9. Measured: {words}.",
        "What each format reaches, and where measured values lie. An arrow: the bar goes on beyond the picture.",
    )


def lost_update(weight: float, update: float, unit: float) -> Figure:
    """A weight, its neighbours at `unit` distance, and an update of less than half of that."""
    pen = Pen(440, 150)
    pen.line(20, 70, 420, 70)
    for x, k in ((50.0, -1), (220.0, 0), (390.0, 1)):
        pen.line(x, 60, x, 80, width=2.4)
        pen.text(x, 100, f"{weight + k * unit:.6f}", size=12, bold=k == 0)
    for x in (135.0, 305.0):
        pen.line(x, 50, x, 88, dash=True)
    pen.text(305, 44, "half a unit", size=12)
    to = 220 + 170 * update / unit
    pen.arrow(220, 62, to, 62, width=2.6, colour=RED)
    pen.text(220, 22, f"update {update:.0e}: {update / unit:.2f} of a unit", size=12)
    pen.text(220, 124, "nearest: back to the weight, every time", size=12)
    pen.text(220, 142, f"stochastic: one unit up, with probability {update / unit:.2f}", size=12)
    return pen.figure(
        f"A number line with the weight {weight:.6f} and its two bf16 neighbours, {unit:.1e} away. An arrow of "
        f"{update:.0e} from the weight ends before the half-way mark.",
        "An update below half a unit in the last place. Rounding to nearest loses it; rounding at random keeps its "
        "mean.",
    )


def recipe() -> Figure:
    """What is in which format during a step."""
    pen = Pen(440, 268)
    boxes = [
        (10, 10, 130, 44, BLUE, "weights", "fp32"),
        (170, 10, 120, 44, GREEN, "copy", "16 bits"),
        (310, 10, 120, 44, GREEN, "products", "16 bits in, fp32 sums"),
        (310, 92, 120, 44, GREEN, "activations", "16 bits, norms fp32"),
        (310, 174, 120, 44, BLUE, "loss", "fp32, times the scale"),
        (170, 174, 120, 44, GREEN, "gradients", "16 bits"),
        (10, 174, 130, 44, BLUE, "sum over ranks", "fp32"),
        (10, 92, 130, 44, BLUE, "clip, Adam", "unscaled, fp32"),
    ]
    for x, y, w, h, colour, name, kind in boxes:
        pen.rect(x, y, w, h, colour, dash=colour == GREEN)
        pen.text(x + w / 2, y + 18, name, size=12, bold=True)
        pen.text(x + w / 2, y + 35, kind, size=11)
    for x1, y1, x2, y2 in (
        (140, 32, 170, 32),
        (290, 32, 310, 32),
        (370, 54, 370, 92),
        (370, 136, 370, 174),
        (310, 196, 290, 196),
        (170, 196, 140, 196),
        (75, 174, 75, 136),
        (75, 92, 75, 54),
    ):
        pen.arrow(x1, y1, x2, y2)
    pen.text(220, 246, "solid: 4 bytes and few of them, or short-lived", size=12)
    pen.text(220, 262, "dashed: 2 bytes, where the FLOP and the traffic are", size=12)
    return pen.figure(
        "A loop of eight boxes: fp32 weights, a 16-bit copy, products with 16-bit operands and fp32 sums, 16-bit "
        "activations, the fp32 loss times the scale, 16-bit gradients, the sum over ranks in fp32, and unscaling, "
        "clipping and Adam in fp32, back to the weights.",
        "A step in mixed precision. Only what is multiplied is narrow; everything that is added up over many terms, "
        "ranks or steps is fp32.",
    )


def granularity() -> Figure:
    """Which values of an operand share a scale: the tensor, a block of 128 x 128 or 1 x 128, 32 in a row."""
    pen = Pen(440, 190)
    panels = (
        ("tensor", "1 scale", 1, 1),
        ("128 x 128", "weights", 3, 3),
        ("1 x 128", "activations", 12, 3),
        ("1 x 32 (MX)", "power of two", 12, 12),
    )
    for i, (title, about, rows, columns) in enumerate(panels):
        x0, y0, side = 6 + i * 109.0, 26.0, 100.0
        pen.text(x0 + side / 2, 16, title, size=12, bold=True)
        for r in range(rows):
            for c in range(columns):
                filled = PURPLE if (r, c) == (0, 0) else ""
                pen.rect(
                    x0 + c * side / columns, y0 + r * side / rows, side / columns, side / rows, filled,
                    opacity=0.55, rounded=0,
                )  # fmt: skip
        pen.text(x0 + side / 2, 146, about, size=12)
    pen.text(220, 176, "filled: the values that share one scale with the first", size=12)
    return pen.figure(
        "Four squares, each an operand. In the first all values share a scale. The second is cut into square blocks, "
        "the third into pieces of rows, the fourth into pieces a fourth as long.",
        "Granularity of scales: one for a tensor; DeepSeek-V3's blocks and tiles; MX's 32 in a row. Not to scale.",
    )


def overflow() -> Figure:
    """Two ranks, an infinity on the first: summed whole, and scattered in shards."""
    pen = Pen(440, 236)
    for panel, (title, whole) in enumerate((("all-reduce (DDP)", True), ("reduce-scatter (shards)", False))):
        x0 = 4 + 220 * panel
        pen.text(x0 + 104, 15, title, size=12, bold=True)
        for rank in range(2):
            y = 26 + 96 * rank
            pen.rect(x0, y, 208, 84, dash=True)
            pen.text(x0 + 8, y + 16, f"rank {rank}", size=12, anchor="start")
            for k in range(4):
                held = whole or k // 2 == rank
                bad = held and k == 1
                if held:
                    pen.rect(x0 + 14 + 46 * k, y + 24, 42, 24, RED if bad else GREEN, bold=bad)
                    pen.text(x0 + 35 + 46 * k, y + 41, "inf" if bad else "ok", size=12, bold=bad)
            sees = whole or rank == 0
            pen.text(
                x0 + 104, y + 72, "skips, halves the scale" if sees else "steps: parted for good", size=12
            )
    pen.text(220, 230, "shards need one more all-reduce: of 'did anybody see inf?'", size=12)
    return pen.figure(
        "Two ranks twice. After an all-reduce both hold the infinite value and both skip. After a reduce-scatter only "
        "rank 0 holds it: it skips, and rank 1 steps.",
        "Who learns of an overflow. A sum carries an infinity to all who hold the sum, and to nobody else.",
    )
