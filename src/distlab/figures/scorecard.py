"""The scorecard drawn: predicted against measured, signed errors family by family, and other estimators beside.

against(score_shipped(), x="measured (ms)", y="predicted (ms)", what="all-reduces")
strip(score_shipped())
peers(distlab.predict.peers.recorded(score_shipped()))
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure
from distlab.figures.plots import INK, drawing, finished

if TYPE_CHECKING:
    from distlab.predict.peers import Answer
    from distlab.predict.validation import Scored

BAND = 0.10
"""What the shaded band stands for."""

REACH = 0.5
"""Signed errors are drawn up to here; what is beyond sits on the edge, as an arrow."""

FLOOR = 0.001
"""The least error that is drawn on a logarithmic axis."""

KINDS = (("held out", BLUE, "o"), ("in a fit", GREEN, "s"), ("up to 1 MiB", INK, "x"))
"""Label, colour and marker of the cells that no fit used, that one used, and that are mostly noise."""


def _kind(cell: Scored) -> int:
    from distlab.predict.validation.targets import is_small

    return 2 if is_small(cell) else int(cell.fitted)


def against(cells: Sequence[Scored], *, x: str, y: str, what: str, factor: float = 1.0) -> Figure:
    """Predicted over measured, both logarithmic, times `factor`. Right is the diagonal; the band is 10% to either side.

    ValueError where there are no cells.
    """
    if not cells:
        raise ValueError(f"there are no {what} to draw")
    within = sum(abs(cell.signed_error) <= BAND for cell in cells)
    alt = (
        f"Predicted over measured {what}, {len(cells)} cells on logarithmic axes along the diagonal: {within} lie "
        f"within 10% of it, the farthest is {max(cells, key=lambda c: abs(c.signed_error)).signed_error:+.0%} off."
    )
    values = [factor * value for cell in cells for value in (cell.predicted, cell.measured)]
    low, high = 0.7 * min(values), 1.4 * max(values)
    with drawing(alt, height=3.6) as canvas:
        axes = canvas.add_subplot()
        ends = (low, high)
        axes.fill_between(
            ends, [(1 - BAND) * v for v in ends], [(1 + BAND) * v for v in ends], color=INK, alpha=0.12, lw=0
        )
        axes.plot(ends, ends, color=INK, lw=1, ls=":")
        for number, (label, colour, marker) in enumerate(KINDS):
            chosen = [cell for cell in cells if _kind(cell) == number]
            if chosen:
                axes.plot(
                    [factor * cell.measured for cell in chosen],
                    [factor * cell.predicted for cell in chosen],
                    ls="none", marker=marker, ms=4.5, color=colour, alpha=0.8,
                    mfc="none" if number == 1 else colour, label=f"{label} ({len(chosen)})",
                )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, xlim=ends, ylim=ends)
        axes.grid(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
        return finished(canvas, alt, f"{what.capitalize()}. Dotted: right; shaded: within 10%.")


def strip(cells: Sequence[Scored]) -> Figure:
    """A row for each family, a mark for each cell at its signed error; those of a fit lie below the line of the row.

    Failure counts are left to their intervals. ValueError where there are no cells.
    """
    shown = [cell for cell in cells if cell.kind != "failures"]
    families = list(dict.fromkeys(cell.family for cell in shown))
    if not families:
        raise ValueError("there are no cells to draw")
    alt = f"Signed errors of {len(shown)} cells in {len(families)} families, from -50% to +50%. " + " ".join(
        f"{family.replace('_', ' ')}: {_range([c for c in shown if c.family == family])}."
        for family in families
    )
    with drawing(alt, height=0.9 + 0.42 * len(families)) as canvas:
        axes = canvas.add_subplot()
        axes.axvspan(-100 * BAND, 100 * BAND, color=INK, alpha=0.10, lw=0)
        axes.axvline(0, color=INK, lw=1, ls=":")
        beyond = 0
        for number, (label, colour, marker) in enumerate(KINDS):
            rows, errors = [], []
            for row, family in enumerate(families):
                for cell in shown:
                    if cell.family == family and _kind(cell) == number:
                        rows.append(row + (-0.12, 0.12, 0.3)[number])
                        errors.append(cell.signed_error)
            beyond += sum(abs(error) > REACH for error in errors)
            if errors:
                axes.plot(
                    [100 * max(-REACH, min(REACH, error)) for error in errors], rows, ls="none", marker=marker,
                    ms=4, color=colour, alpha=0.7, mfc="none" if number == 1 else colour, label=label,
                )  # fmt: skip
        axes.set_yticks(range(len(families)), [family.replace("_", " ") for family in families], fontsize=8)
        axes.set(xlabel="(predicted - measured) / measured (%)", xlim=(-106 * REACH, 106 * REACH))
        axes.set_ylim(len(families) - 0.3, -0.6)
        axes.grid(True, axis="x")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        canvas.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper right")
        edge = f" Beyond 50%, drawn at the edge: {beyond}." if beyond else ""
        return finished(
            canvas, alt, f"Signed error of each cell, family by family. Shaded: within 10%.{edge}"
        )


def peers(answers: Sequence[Answer]) -> Figure:
    """A row for each family and kind of cell: the mean absolute error of each peer, and of the models on all of them.

    Collectives up to 1 MiB are left out. An error below 0.1% is drawn there. ValueError where nobody answered.
    """
    from distlab.predict.validation.families import KIND_NAMES
    from distlab.predict.validation.peers import OURS
    from distlab.predict.validation.targets import is_small

    rows: dict[str, dict[str, list[float]]] = {}
    ours: dict[str, dict[str, float]] = {}
    for answer in answers:
        cell = answer.cell
        if not is_small(cell):
            name = f"{cell.family.replace('_', ' ')}: {KIND_NAMES.get(cell.kind, 'over 1 MiB')}"
            rows.setdefault(name, {}).setdefault(answer.peer, []).append(abs(answer.signed_error))
            ours.setdefault(name, {})[cell.case] = abs(cell.signed_error)
    if not rows:
        raise ValueError("no peer answered; there is nothing to draw")
    means = {
        name: {OURS: fmean(ours[name].values())} | {peer: fmean(errors) for peer, errors in found.items()}
        for name, found in rows.items()
    }
    told = (
        f"{name}: " + ", ".join(f"{who} {error:.1%}" for who, error in row.items())
        for name, row in means.items()
    )
    alt = f"Mean absolute errors on a logarithmic axis, {len(means)} rows. {'; '.join(told)}."
    order = list(dict.fromkeys(who for row in means.values() for who in row))
    with drawing(alt, height=1.3 + 0.36 * len(means)) as canvas:
        axes = canvas.add_subplot()
        for number, who in enumerate(order):
            found = [(row[who], y) for y, row in enumerate(means.values()) if who in row]
            x, y = zip(*((100 * max(error, FLOOR), y) for error, y in found), strict=True)
            axes.plot(
                x, y, ls="none", marker=("o", "s", "^", "D", "v")[number], ms=6, label=who,
                color=(BLUE, RED, GREEN, PURPLE, INK)[number], mfc="none" if number else BLUE, mew=1.4,
            )  # fmt: skip
        axes.set_yticks(range(len(means)), list(means), fontsize=8)
        axes.set(xscale="log", xlabel="mean absolute error (%)", ylim=(len(means) - 0.4, -0.6))
        axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.grid(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        canvas.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper right")
        return finished(
            canvas,
            alt,
            "Mean absolute error, of distlab on all cells of the row; less is better. Below 0.1%: at 0.1%.",
        )


def _range(cells: Sequence[Scored]) -> str:
    errors = [cell.signed_error for cell in cells]
    return f"{min(errors):+.0%} to {max(errors):+.0%}"
