"""How large a value can be in its unit, so that GB/s and TFLOP/s typed into B/s and FLOP/s are refused.

    check("peak_flops", 989)     # SettingError: a GPU has 1e12 or more: 989 TFLOP/s is 9.89e14
    counted("tokens", "15T")     # 1.5e13

Limits lie a factor of 10 or more beyond the hardware registry on both sides (`tests/predict/test_commands.py` holds
the registry against them), and a thousand apart from the next unit.
"""

from __future__ import annotations

from typing import NamedTuple

from distlab.errors import SettingError


class Scale(NamedTuple):
    """Of one field."""

    least: float
    most: float
    unit: str
    whose: str
    """What has so much, with its verb."""
    sold: str
    """The unit in which it is sold."""
    factor: float
    """Of that unit in the field's own."""


SCALES = {
    "peak_flops": Scale(1e12, 1e17, "FLOP/s", "a GPU has", "TFLOP/s", 1e12),
    "memory_bytes": Scale(1e9, 1e13, "bytes", "a GPU has", "GB", 1e9),
    "memory_Bps": Scale(1e10, 1e15, "B/s", "a GPU's memory has", "GB/s", 1e9),
    "inside_bandwidth_Bps": Scale(1e7, 1e14, "B/s", "a link has", "GB/s", 1e9),
    "across_bandwidth_Bps": Scale(1e6, 1e14, "B/s", "a link has", "GB/s", 1e9),
    "storage_Bps": Scale(1e6, 1e15, "B/s", "storage has", "GB/s", 1e9),
    "inside_alpha_s": Scale(0.0, 0.1, "s", "a message takes", "us", 1e-6),
    "across_alpha_s": Scale(0.0, 0.1, "s", "a message takes", "us", 1e-6),
}
"""By field; others have no limits but those of their models."""

COUNTS = {"tokens": "1.5e13 or 15T", "parameters": "7e9 or 7B"}
"""Fields that are counted in thousands, millions, billions and trillions, with an example."""
SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def check(name: str, value: float) -> None:
    """SettingError for a value above 0 that only another unit explains; of 0 and below the models speak."""
    scale = SCALES.get(name)
    if scale is None or value <= 0 or scale.least <= value <= scale.most:
        return
    if value < scale.least:
        bound, edge = f"{plain(scale.least)} or more", scale.least
    else:
        bound, edge = f"{plain(scale.most)} at most", scale.most
    meant = value * scale.factor
    example = meant if scale.least <= meant <= scale.most else edge
    sold = f"{plain(example / scale.factor)} {scale.sold} is {plain(example)}"
    raise SettingError(f"{name} is {plain(value)} {scale.unit}; {scale.whose} {bound}: {sold}.")


def counted(name: str, text: str) -> str | float:
    """The number of `15T` for a field of `COUNTS`; any other text as it is."""
    digits, suffix = text.strip()[:-1].strip(), text.strip()[-1:].upper()
    if name not in COUNTS or suffix not in SUFFIXES:
        return text
    try:
        return float(digits) * SUFFIXES[suffix]
    except ValueError:
        return text


def example(name: str) -> str:
    """What a number of this field looks like; empty where that is clear."""
    if name in COUNTS:
        return f", such as {COUNTS[name]}"
    scale = SCALES.get(name)
    if scale is None or not scale.least:
        return ""
    typical = (scale.least * scale.most) ** 0.5
    return f" of {scale.unit}, such as {plain(typical)} for {plain(typical / scale.factor)} {scale.sold}"


def plain(value: float) -> str:
    """1e12, not 1e+12."""
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
