from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from distlab.predict.scorecard import Outcome, Scorecard


def test_the_first_commit_of_a_name_stands(tmp_path: Path) -> None:
    card = Scorecard(tmp_path / "predictions.json")
    assert card.committed() == {}
    assert card.commit({"efficiency": 0.8}) == {"efficiency": 0.8}
    assert card.commit({"efficiency": 0.6, "share": 0.2}) == {"efficiency": 0.8, "share": 0.2}
    assert Scorecard(card.path).committed() == {"efficiency": 0.8, "share": 0.2}
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


def test_compare_takes_names_that_have_both(tmp_path: Path) -> None:
    card = Scorecard(tmp_path / "predictions.json")
    card.commit({"efficiency": 0.8, "share": 0.2})
    assert card.compare({"efficiency": 0.5, "other": 1.0}) == [Outcome("efficiency", 0.8, 0.5)]


@pytest.mark.parametrize("value", [None, "0.8", True, math.nan, math.inf])
def test_a_prediction_is_a_number(value: float, tmp_path: Path) -> None:
    card = Scorecard(tmp_path / "predictions.json")
    with pytest.raises(ValueError, match="the prediction 'efficiency' is"):
        card.commit({"share": 0.2, "efficiency": value})
    assert card.committed() == {}


@pytest.mark.parametrize("content", ["not json", "[1]", json.dumps({"a": None})])
def test_a_broken_file_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"predictions\.json is not a scorecard"):
        Scorecard(path).commit({"a": 1.0})
    assert path.read_text() == content
