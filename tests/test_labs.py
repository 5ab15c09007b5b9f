"""The list of labs, and the tier that each runs in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distlab.labs import Lab, lab_tier, labs, tiers_by_machine

REPOSITORY = Path(__file__).resolve().parents[1]

LAB = Lab("mod-1-lab-1", "A lab", processes=2, packages=("torch",))
TORCH = {"torch": "2.13.0"}


@pytest.mark.parametrize(
    ("gpus", "cuda", "packages", "tier", "why"),
    [
        (0, "", TORCH, "cpu", "no GPU is visible"),
        (1, "13.0", TORCH, "cpu", "1 GPU visible, 2 needed"),
        (2, "13.0", TORCH, "gpu", "a GPU each"),
        (8, "13.0", TORCH, "gpu", "a GPU each"),
        (2, "", TORCH, "cpu", "without CUDA"),
        (2, "13.0", {}, "none", "not installed: torch"),
    ],
)
def test_the_tier_follows_from_what_is_there(
    gpus: int, cuda: str, packages: dict[str, str], tier: str, why: str
) -> None:
    found = lab_tier(LAB, gpus=gpus, cuda=cuda, installed=packages)
    assert found.tier == tier
    assert why in found.why


def test_the_table_of_the_home_page() -> None:
    (row,) = (row for row in tiers_by_machine() if row["Lab"] == "mod-107-lab-3")
    assert [row[name] for name in ("Laptop or CPU server", "One GPU", "Two GPUs or more")] == [
        "cpu",
        "cpu",
        "gpu",
    ]


def test_every_lab_is_known() -> None:
    known = {lab.id for lab in labs()}
    for folder in ("solutions", "labs"):
        assert {path.name for path in (REPOSITORY / folder).glob("mod-*/")} <= known


def test_every_lab_has_a_page_and_every_lab_page_its_button() -> None:
    """`book/mod-107/lab-3.md` opens mod-107-lab-3, and nothing else; the practical's page has a name of its own."""
    pages = {f"{page.parent.name}-{page.stem}": page for page in REPOSITORY.glob("book/**/lab-*.md")}
    pages["mod-202-lab-7"] = REPOSITORY / "book/mod-202/practical.md"
    assert set(pages) == {lab.id for lab in labs()}
    for lab, page in pages.items():
        assert re.findall(r"^```\{open-lab\} (\S+)\n```$", page.read_text(), re.MULTILINE) == [lab], page
