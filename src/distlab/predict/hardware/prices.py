"""What an hour of a GPU costs: a table with the source, the date and the confidence of each price.

price = read_prices().of("lambda").find("NVIDIA H100 80GB HBM3")       # by the driver's name
price = read_prices().of_accelerator(accelerator("h100"))              # by that of the registry
price.per_hour, price.source, price.date
"""

from __future__ import annotations

import datetime
import math
import reprlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from distlab.errors import SettingError, printable
from distlab.predict.hardware.accelerators import Accelerator
from distlab.predict.hardware.figures import Confidence

PRICES = Path(__file__).with_name("prices.yml")
MOST_BYTES = 2**20
MOST_PER_HOUR = 1e6


@dataclass(frozen=True)
class Price:
    """One row."""

    accelerator: str
    matches: tuple[str, ...]
    """Words of the name that the driver gives: `A10` is in "NVIDIA A10", and not in "NVIDIA A100"."""
    provider: str
    per_hour: float
    """Of one GPU, on demand, in the table's currency."""
    unit: str
    """What is rented."""
    source: str
    date: str
    """ISO 8601: when the price was read."""
    confidence: Confidence

    def fits(self, name: str) -> bool:
        """Is this the price of the GPU of this name?"""
        return any(_stands_in(words, name) for words in (*self.matches, self.accelerator))


@dataclass(frozen=True)
class PriceTable:
    """All rows, in order of preference."""

    currency: str
    """ISO 4217."""
    prices: tuple[Price, ...]

    def find(self, name: str) -> Price | None:
        """The first row for a GPU of this name; None where there is none."""
        return next((price for price in self.prices if price.fits(name)), None)

    def named(self, text: str) -> Price | None:
        """The first row for what somebody calls a GPU: the driver's name, or words of the table's (`A100 80GB`)."""
        words = set(text.upper().split())
        return self.find(text) or next(
            (price for price in self.prices if words and words <= set(price.accelerator.upper().split())),
            None,
        )

    def of_accelerator(self, chip: Accelerator) -> Price | None:
        """The first row for a chip of the registry; None where there is none."""
        return next((price for price in self.prices if price.accelerator == chip.sold_as), None)

    def of(self, provider: str | None) -> PriceTable:
        """The rows of one provider; all without one. SettingError for one that has none."""
        if provider is None:
            return self
        own = tuple(price for price in self.prices if price.provider == provider)
        if not own:
            known = ", ".join(sorted({price.provider for price in self.prices}))
            raise SettingError(f"There is no price of the provider {provider!r}; there are {known}.")
        return replace(self, prices=own)


def read_prices(path: Path | None = None) -> PriceTable:
    """The table in a file; that of distlab without one. SettingError, naming the row, where it is not one."""
    import yaml

    path = path or PRICES
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES} bytes")
        # In a browser, yaml comes without its loader in C.
        values = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(values, dict) or set(values) != {"currency", "prices"}:
            raise ValueError("it has other entries than `currency` and `prices`")
        currency, rows = values["currency"], values["prices"]
        if not (
            isinstance(currency, str) and len(currency) == 3 and currency.isupper() and currency.isascii()
        ):
            raise ValueError(f"currency is {reprlib.repr(currency)}, not a code such as USD")
        if not isinstance(rows, list) or not rows:
            raise ValueError("prices is not a list of rows")
        return PriceTable(currency, tuple(_price(row, number) for number, row in enumerate(rows, 1)))
    except OSError as error:
        raise SettingError(f"Cannot read the prices in {path}: {error.strerror}.") from None
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise SettingError(
            f"{path} is not a table of prices: {printable(str(error))}; see {PRICES.name} of distlab for one."
        ) from None


_NAMES = {field.name for field in fields(Price)}


def _price(row: Any, number: int) -> Price:
    if not isinstance(row, dict) or set(row) != _NAMES:
        raise ValueError(f"row {number} has not exactly {', '.join(sorted(_NAMES))}")
    if not isinstance(row["date"], str | datetime.date):
        raise ValueError(f"row {number} has the date {reprlib.repr(row['date'])}, not such as 2026-11-29")
    values = row | {"date": str(row["date"])}
    texts = [values[name] for name in ("accelerator", "provider", "unit", "source")]
    matches = values["matches"]
    if not isinstance(matches, list) or not all(
        isinstance(text, str) and text for text in (*texts, *matches)
    ):
        raise ValueError(f"row {number} has a text that is empty or none")
    cost = values["per_hour"]
    if type(cost) not in (int, float) or not 0 < cost < MOST_PER_HOUR or not math.isfinite(cost):
        raise ValueError(f"row {number} has the price {reprlib.repr(cost)}, not a number above 0")
    try:
        datetime.date.fromisoformat(values["date"])
    except ValueError:
        raise ValueError(
            f"row {number} has the date {reprlib.repr(row['date'])}, not such as 2026-11-29"
        ) from None
    if values["confidence"] not in get_args(Confidence):
        raise ValueError(
            f"row {number} has the confidence {reprlib.repr(values['confidence'])}, not V, S, C or R"
        )
    return Price(**values | {"matches": tuple(matches), "per_hour": float(cost)})


def _stands_in(words: str, name: str) -> bool:
    """As whole words."""
    at = name.find(words)
    while at >= 0:
        before, after = name[at - 1 : at] if at else "", name[at + len(words) : at + len(words) + 1]
        if not before.isalnum() and not after.isalnum():
            return True
        at = name.find(words, at + 1)
    return False
