"""What is left of the datasheet's FLOP/s after each loss between it and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distlab.figures.figure import BLUE, RED, Figure, Pen


def chain(stages: Sequence[str], left: Mapping[str, Sequence[float]], caption: str) -> Figure:
    """Bars of two jobs, one pair for each stage.

    left: by the job's name, the share of the datasheet that is left after each of the stages, 0 to 1; two jobs.
    ValueError for another number of jobs, or of shares.
    """
    if len(left) != 2 or any(len(shares) != len(stages) for shares in left.values()):
        raise ValueError(f"left has {list(left)}; it must be two jobs with {len(stages)} shares each.")
    start, long, row = 150, 246, 44
    pen = Pen(440, row * len(stages) + 34)
    for place, (name, colour) in enumerate(zip(left, (BLUE, RED), strict=True)):
        x = start + 120 * place
        pen.rect(x, 6, 14, 11, colour, opacity=0.4, rounded=0, dash=place == 1)
        pen.text(x + 20, 16, name, anchor="start", size=12)
    for index, stage in enumerate(stages):
        y = 28 + index * row
        pen.text(start - 8, y + 21, stage, anchor="end", size=12)
        for place, (shares, colour) in enumerate(zip(left.values(), (BLUE, RED), strict=True)):
            width = long * shares[index]
            pen.rect(start, y + 16 * place, width, 14, colour, opacity=0.4, rounded=0, dash=place == 1)
            pen.text(start + width + 5, y + 16 * place + 11, f"{shares[index]:.0%}", anchor="start", size=11)
    said = "; ".join(
        f"{stage}: " + ", ".join(f"{name} {shares[index]:.0%}" for name, shares in left.items())
        for index, stage in enumerate(stages)
    )
    return pen.figure(f"Bars that get shorter from stage to stage. {said}.", caption)
