"""What passed once is skipped for the same inputs, and for those alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.passed import inputs_of

pytest_plugins = ["pytester"]

CONFTEST = """
from pathlib import Path
from tests.labs.passed import SkipPassed

def pytest_configure(config):
    inputs = lambda item: (Path("inputs").read_text() or None) if "alone" not in item.name else None
    config.pluginmanager.register(SkipPassed(Path("passed"), inputs))
"""
TESTS = """
import pytest
from pathlib import Path

@pytest.fixture
def torn():
    yield
    assert "torn" not in Path("mood").read_text()

def test_fails(): assert "fail" not in Path("mood").read_text()
def test_tears(torn): pass
def test_skips():
    if "skip" in Path("mood").read_text(): pytest.skip("not today")
def test_writes():
    if "write" in Path("mood").read_text(): Path("inputs").write_text("changed by hand")
def test_alone(): pass
"""


def test_only_a_whole_pass_with_the_same_inputs_counts(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    Path("passed").mkdir()

    def run(inputs: str, mood: str) -> dict[str, int]:
        Path("inputs").write_text(inputs)
        Path("mood").write_text(mood)
        outcomes = pytester.runpytest_inprocess("-p", "no:cacheprovider").parseoutcomes()
        return {name: outcomes[name] for name in ("passed", "skipped", "failed", "errors") if name in outcomes}

    assert run("a", "fail torn skip write") == {"passed": 3, "skipped": 1, "failed": 1, "errors": 1}
    assert run("a", "") == {"passed": 5}, "nothing was remembered of a part that failed, skipped or changed"
    assert run("a", "fail torn") == {"passed": 1, "skipped": 4}, "what passed is not run again, but for the test alone"
    assert run("b", "fail") == {"passed": 4, "failed": 1}, "other inputs: all of it runs"
    assert run("a", "") == {"passed": 4, "skipped": 1}, "of each test the last pass is remembered"
    for path in Path("passed").iterdir():
        path.write_text("forged")
    assert run("a", "") == {"passed": 5}, "a note that says something else is not believed"


def test_a_lab_depends_on_all_but_prose_other_labs_and_other_tests(tmp_path: Path) -> None:
    files = {
        "solutions/a/lab.md": True,
        "solutions/a/wrong/one.md": True,
        "solutions/b/lab.md": False,
        "labs/b/b.ipynb": False,
        "src/distlab/x.py": True,
        "src/distlab/notes.md": True,
        "tests/labs/test_labs.py": True,
        "tests/programs.py": True,
        "tests/train/test_x.py": False,
        "book/mod/page.md": False,
        "book/mod/_data/x.json": True,
        "benchmarks/deep/b.json": False,
        "benchmarks/deep/a.json": False,
        "benchmarks/results.json": True,
        "requirements/dev.txt": True,
        "new_folder/x": True,
        "var/x": False,
        "README.md": False,
    }
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    for name, read in files.items():
        before = inputs_of(tmp_path, "a")
        (tmp_path / name).write_text("after it")
        assert (inputs_of(tmp_path, "a") != before) == read, name
