"""The models held against measured cases: one `Scored` for each measured cell.

    scored = score_shipped()                            # in `validation.shipped`: the cases inside the package
    scored, problems = score_folder(Path("cases"))      # in `validation.files`: any CSV files
    scored[0].predicted, scored[0].measured, scored[0].signed_error

Formats of files: `validation.columns`, `validation.formats`. Targets, and what is known of each family:
`validation.families`. Other people's estimators on the same cases: `validation.peers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distlab.errors import SettingError, printable
from distlab.predict.megatron import Case
from distlab.predict.states import MemorySettings
from distlab.predict.transformer import Layout, Transformer

Kind = Literal[
    "collective", "step", "activations", "states", "peak", "scaling", "failures", "goodput", "product"
]
"""What a cell measures. states: what a rank holds between steps; peak: the most it holds in a step; scaling: a step on
several ranks; product: a matrix product."""

Row = Mapping[str, str]

COUNT_MOST = 10**9
NUMBER_MOST = 1e30


@dataclass(frozen=True)
class MemoryRun:
    """A training run whose memory was measured: what any estimator of memory is asked about."""

    model: Transformer
    layout: Layout
    settings: MemorySettings


@dataclass(frozen=True)
class Scored:
    """One measured cell, in the unit of its column."""

    family: str
    case: str
    predicted: float
    measured: float
    kind: Kind
    fitted: bool
    run: tuple[str, int, int] = ("", 0, 0)
    """Of a collective: system, GPUs, GPUs per node."""
    payload_bytes: float = 0.0
    unit: str = ""
    interval: tuple[float, float] | None = None
    """Of a count: where the prediction has it in 95 of 100 cases."""
    inputs: Case | MemoryRun | None = field(default=None, compare=False, repr=False)
    """What was predicted, so that others can predict it too."""

    @property
    def signed_error(self) -> float:
        """(predicted - measured) / measured."""
        return (self.predicted - self.measured) / self.measured

    def as_row(self) -> dict[str, str | float]:
        return {
            "family": self.family,
            "case": self.case,
            "predicted": self.predicted,
            "measured": self.measured,
            "signed_error": self.signed_error,
        }


def count(row: Row, field: str) -> int:
    text = row.get(field)
    try:
        number = int(text or "")
    except ValueError:
        number = 0
    if not 1 <= number <= COUNT_MOST:
        raise SettingError(f"{field} is {shown(text)}; it must be a whole number of 1 to {COUNT_MOST:,}.")
    return number


def positive(row: Row, field: str) -> float:
    text = row.get(field)
    try:
        number = float(text or "")
    except ValueError:
        number = 0.0
    if not 1 / NUMBER_MOST <= number <= NUMBER_MOST:
        raise SettingError(f"{field} is {shown(text)}; it must be a number above 0, up to {NUMBER_MOST:g}.")
    return number


def size_bytes(row: Row, field: str) -> float:
    """`67108864`, or `64MiB`."""
    text = row.get(field) or ""
    if not re.search(r"[0-9. ][kmgt]?i?b$", text, re.IGNORECASE):
        return positive(row, field)
    from distlab.predict.commands.values import size  # the same as of options

    return positive({field: repr(size(field, text))}, field)


def shown(text: str | None) -> str:
    """A value of a file, short."""
    return "missing" if text is None else repr(printable(text if len(text) <= 60 else f"{text[:60]}..."))
