"""What the datasheet of a GPU promises: the registry's constants, found by the name that the driver gives."""

from __future__ import annotations

import re

from distlab.predict.registry import REGISTRY

_CHIPS = {
    r"A100-SXM4-40GB": "a100_40gb",
    r"A100-SXM4-80GB": "a100",
    r"H100 80GB HBM3": "h100",
    r"H200": "h200",
    r"B200": "b200",
}
"""Names behind `NVIDIA `, whole: an H100 PCIe, an H200 NVL or a MIG slice has other figures than the module."""


def chip(name: str) -> str | None:
    """The registry's short name of the GPU that calls itself `name`; None where it has no figures for it."""
    bare = name.removeprefix("NVIDIA ").strip()
    return next((short for pattern, short in _CHIPS.items() if re.fullmatch(pattern, bare)), None)


def peak_flops(name: str, dtype: str) -> float | None:
    """FLOP/s (or OP/s of int8) of dense products; fp16 and bf16 are the same on each of these chips."""
    kind = "bf16" if dtype == "fp16" else dtype
    return _value(name, f"{kind}_flops")


def peak_memory_Bps(name: str) -> float | None:  # noqa: N802 - units keep their case
    """Bytes per second between the GPU and its memory."""
    return _value(name, "memory_Bps")


def peak_pcie_Bps(generation: int, lanes: int) -> float | None:  # noqa: N802
    """Bytes per second of a slot, one way."""
    known = REGISTRY.get(f"pcie{generation}_x{lanes}_Bps")
    return known.value if known else None


def _value(name: str, what: str) -> float | None:
    short = chip(name)
    known = REGISTRY.get(f"{short}_{what}") if short else None
    return known.value if known else None
