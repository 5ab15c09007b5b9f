"""Commit a prediction before the run, and set it against the measurement afterwards.

card = Scorecard("predictions.json")
card.commit({"efficiency": 0.8})        # the first commit of a name stands
card.compare({"efficiency": 0.61})      # [Outcome("efficiency", predicted=0.8, measured=0.61)]
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distlab.files import write_whole


@dataclass(frozen=True)
class Outcome:
    """One committed number beside the measured one."""

    name: str
    predicted: float
    measured: float


class Scorecard:
    """Predictions in a JSON file: names and numbers."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def committed(self) -> dict[str, float]:
        """What was predicted so far. ValueError where the file is not a scorecard."""
        if not self.path.exists():
            return {}
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): float(value) for name, value in stored.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not a scorecard; delete it and commit your predictions again."
            ) from error

    def commit(self, predictions: Mapping[str, float]) -> dict[str, float]:
        """Keep each prediction that is not committed yet; return all that stand.

        A prediction that is changed after the fact is no prediction: the first one stays. ValueError for a
        value that is no finite number; then nothing is kept.
        """
        for name, value in predictions.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"the prediction {name!r} is {value!r}; it must be a number.")
        standing = {**predictions, **self.committed()}
        write_whole(self.path, json.dumps(standing, indent=1).encode())
        return {name: float(value) for name, value in standing.items()}

    def compare(self, measured: Mapping[str, float]) -> list[Outcome]:
        """Predicted beside measured, for every name that has both."""
        predicted = self.committed()
        return [
            Outcome(name, predicted[name], value) for name, value in measured.items() if name in predicted
        ]
