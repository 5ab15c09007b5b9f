"""The scorecard's figures: every cell is drawn where its numbers say, and apart by what it is."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from distlab.figures import Figure
from distlab.figures.scorecard import against, peers, strip
from distlab.predict.peers import Answer
from distlab.predict.validation import Scored


def cell(family: str, predicted: float, *, fitted: bool = False, payload: float = 0.0) -> Scored:
    kind = "collective" if payload else "step"
    return Scored(family, "c", predicted, 10.0, kind, fitted, payload_bytes=payload)  # type: ignore[arg-type]


CELLS = [
    cell("links", 9.0, payload=2**22),
    cell("links", 11.0, payload=2**22, fitted=True),
    cell("links", 40.0, payload=2**10),
    cell("steps", 12.5),
]


def words(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(figure.svg)
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")]


def marks(figure: Figure) -> int:
    """Uses of a marker's path: the cells, one in the legend for each kind, and the ticks."""
    return len(re.findall(r"<use ", figure.svg))


def test_a_row_for_each_family_and_what_is_beyond_is_said() -> None:
    figure = strip(CELLS)
    assert {"links", "steps", "held out", "in a fit", "up to 1 MiB"} <= set(words(figure))
    assert "links: -10% to +300%. steps: +25% to +25%." in figure.alt
    assert figure.caption.endswith("Beyond 50%, drawn at the edge: 1.")
    assert "Beyond" not in strip(CELLS[:2]).caption
    assert marks(strip([*CELLS, cell("steps", 8.0)])) == marks(figure) + 1


def test_failure_counts_are_left_to_their_intervals() -> None:
    failures = Scored("failures", "c", 1.0, 9.0, "failures", False, interval=(0, 20))
    assert "failures" not in words(strip([*CELLS, failures]))
    with pytest.raises(ValueError, match="no cells"):
        strip([failures])


def test_predicted_over_measured_has_the_band_and_counts() -> None:
    figure = against(CELLS, x="measured (ms)", y="predicted (ms)", what="times")
    assert {"measured (ms)", "predicted (ms)", "held out (2)", "in a fit (1)", "up to 1 MiB (1)"} <= set(
        words(figure)
    )
    assert "4 cells" in figure.alt
    assert "2 lie within 10%" in figure.alt
    assert "+300% off" in figure.alt
    with pytest.raises(ValueError, match="no times"):
        against([], x="x", y="y", what="times")


def test_each_peer_has_its_mean_on_its_cells_and_ours_on_all() -> None:
    near, far = cell("steps", 9.0), replace(cell("steps", 13.0), case="far")
    small = cell("links", 40.0, payload=2**10)
    given = [Answer("A", near, 12.0), Answer("A", far, 10.0), Answer("B", near, 5.0), Answer("A", small, 1.0)]
    figure = peers(given)
    assert {"distlab", "A", "B", "steps: step time"} <= set(words(figure))
    assert figure.alt.endswith("1 rows. steps: step time: distlab 20.0%, A 10.0%, B 50.0%.")
    with pytest.raises(ValueError, match="no peer answered"):
        peers(given[3:])


def test_colours_are_the_pages() -> None:
    for figure in (strip(CELLS), against(CELLS, x="x", y="y", what="times")):
        assert "currentColor" in figure.svg
        assert "#010203" not in figure.svg
        assert "style=" not in figure.svg.partition(">")[2]
