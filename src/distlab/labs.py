"""The course's labs (`labs.yml`), and the tier that each runs in on a machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Literal

import yaml

Tier = Literal["gpu", "cpu", "none"]


@dataclass(frozen=True)
class Lab:
    """What a lab needs (`labs.yml`)."""

    id: str
    title: str
    processes: int
    packages: tuple[str, ...]


@dataclass(frozen=True)
class LabTier:
    """In which tier a lab would run, and why."""

    lab: str
    title: str
    tier: Tier
    why: str


def labs() -> tuple[Lab, ...]:
    """The course's labs, in order."""
    text = resources.files("distlab").joinpath("labs.yml").read_text(encoding="utf-8")
    return tuple(
        Lab(row["id"], row["title"], int(row["processes"]), tuple(row["packages"]))
        for row in yaml.safe_load(text)
    )


def lab_tier(lab: Lab, *, gpus: int, cuda: str, installed: dict[str, str]) -> LabTier:
    """In which tier `lab` runs with so many visible GPUs.

    Args:
        lab: what it needs.
        gpus: visible GPUs.
        cuda: the CUDA version of the installed torch, or an empty string.
        installed: installed packages and their versions.
    """

    def verdict(tier: Tier, why: str) -> LabTier:
        return LabTier(lab.id, lab.title, tier, why)

    missing = [name for name in lab.packages if name not in installed]
    if missing:
        return verdict("none", f"not installed: {', '.join(missing)}")
    if gpus >= lab.processes and cuda:
        return verdict("gpu", f"{lab.processes} processes, a GPU each")
    if gpus >= lab.processes:
        return verdict("cpu", "this torch is built without CUDA")
    has = "no GPU is visible" if gpus == 0 else f"{gpus} GPU visible" if gpus == 1 else f"{gpus} GPUs visible"
    return verdict(
        "cpu", f"{lab.processes} processes on CPU cores; {has}, {lab.processes} needed for the GPU tier"
    )


def tiers_by_machine() -> list[dict[str, str]]:
    """Which tier each lab runs in on which kind of machine, as rows for a table."""
    machines = {"Laptop or CPU server": 0, "One GPU": 1, "Two GPUs or more": 2}
    rows = []
    for lab in labs():
        have = dict.fromkeys(lab.packages, "")
        tiers = {
            name: lab_tier(lab, gpus=gpus, cuda="any", installed=have).tier for name, gpus in machines.items()
        }
        rows.append({"Lab": lab.id, "Title": lab.title, **tiers})
    return rows
