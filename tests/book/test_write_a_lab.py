"""The lab on the page "Write a lab" is a lab as it stands there: its checks find nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distlab.course.bank import LEAST
from distlab.course.check_lab import checks
from distlab.course.grade.children import Children
from distlab.course.release import write_labs
from distlab.course.sandbox import availability

PAGE = Path(__file__).parents[2] / "book" / "instructor" / "write-a-lab.md"
LAB = "mod-107-lab-9"
FILE = re.compile(r"^(`{4,})\{code-block\} markdown\n:caption: (\S+)\n\n(.*?\n)\1$", re.MULTILINE | re.DOTALL)


def write_page(root: Path) -> dict[str, str]:
    """Write the files that the page shows below `root`; their text by path."""
    files = {path: text for _, path, text in FILE.findall(PAGE.read_text())}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return files


def test_the_page_shows_every_file_of_its_lab(tmp_path: Path) -> None:
    files = write_page(tmp_path)
    assert all(path.startswith(f"solutions/{LAB}/") for path in files)
    assert len(files) == 1 + LEAST
    write_labs(tmp_path)
    released = (tmp_path / "labs" / LAB / f"{LAB}.ipynb").read_text()
    assert "one_s / many_s" not in released
    assert "random.uniform" not in released


@pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
def test_the_lab_of_the_page_is_without_a_problem(tmp_path: Path) -> None:
    write_page(tmp_path)
    with Children() as children:
        findings = [check() for _, check in checks(tmp_path, LAB, 1, children)]
    assert [finding for finding in findings if finding.problem] == []
    assert sum(finding.what.startswith("wrong/") for finding in findings) == LEAST
