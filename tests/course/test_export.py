"""What learners may have: the exported repository and what the site gives out, searched for canaries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from distlab.course.export import ExportError, export_learner, export_learner_copy
from distlab.course.release import lab_ids, release_all, source_path, write_labs
from distlab.course.site import Site
from tests.course.small_lab import CANARIES, LAB, LAB_ID, write_lab

ROOT = Path(__file__).parents[2]


def git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(root), *arguments],
        check=True,
        capture_output=True,
    )


def track(root: Path) -> None:
    git(root, "init", "-q")
    git(root, "add", "-A")


def files_with(folder: Path, *texts: str) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(text.encode() in path.read_bytes() for text in texts)
    ]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    write_lab(root)
    write_labs(root)
    for name, text in {
        "README.md": "read me",
        "scripts/run": "#!/bin/sh",
        "tests/labs/test_small.py": "answer = 42",
        "tests/test_other.py": "pass",
        "assessments/bank.yml": "question",
        "assessments/keys/bank.yml": "answer",
        "assessments/mod-1/rubric.key.yml": "full marks for",
        "var/course/gradebook.db": "marks",
        ".gitignore": "var/",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "scripts/run").chmod(0o755)
    track(root)
    return root


def test_the_copy_has_what_is_tracked_less_what_holds_answers(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    count = export_learner(repository, target)
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert copied == [
        ".gitignore",
        "README.md",
        "assessments/bank.yml",
        f"labs/{LAB_ID}/{LAB_ID}.ipynb",
        "scripts/run",
        "tests/test_other.py",
    ]
    assert count == len(copied)
    assert (target / "scripts/run").stat().st_mode & 0o777 == 0o755
    assert files_with(target, *CANARIES) == []


def test_an_empty_target_is_used_and_any_other_refused(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    export_learner(repository, target)
    (target / "README.md").write_text("mine")
    assert export_learner_copy(target, repository) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (target / "README.md").read_text() == "mine"


def test_a_file_with_a_line_of_a_hidden_test_stops_the_export(repository: Path, tmp_path: Path) -> None:
    line = next(line for line in LAB.split("\n") if "double is wrong" in line)
    (repository / "README.md").write_text(f"see\n    {line}\n")
    with pytest.raises(ExportError, match=r"README\.md holds a line of a hidden test"):
        export_learner(repository, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_a_link_stops_the_export(repository: Path, tmp_path: Path) -> None:
    (repository / "shortcut").symlink_to("solutions")
    git(repository, "add", "shortcut")
    with pytest.raises(ExportError, match="shortcut is a link"):
        export_learner(repository, tmp_path / "copy")


def test_a_folder_outside_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not a git repository"):
        export_learner(tmp_path, tmp_path / "copy")


@pytest.mark.skipif(not (ROOT / "solutions").is_dir(), reason="a learner's copy has no solutions")
def test_a_canary_in_this_repositorys_hidden_tests_reaches_no_learner(tmp_path: Path) -> None:
    """In a copy of this repository, every lab's hidden tests get a canary; then everything is made anew."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    root = tmp_path / "repository"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    canary = "osprey_" + "canary_of_this_test"
    labs = lab_ids(root)
    assert labs
    for lab_id in labs:
        path = source_path(root, lab_id)
        text = path.read_text()
        marker = "### BEGIN HIDDEN TESTS\n"
        assert marker in text
        path.write_text(
            text.replace(marker, f'{marker}{canary} = "{canary} in a line that is long enough"\n')
        )
    track(root)
    write_labs(root)
    site = Site(root, state=tmp_path / "state")
    release_all(site)
    export_learner(root, tmp_path / "copy")
    assert files_with(site.course / "source", canary)  # the canary was alive
    for folder in (root / "labs", tmp_path / "copy", site.course / "release", site.exchange):
        assert list(folder.rglob("*.ipynb"))
        assert files_with(folder, canary) == []
