"""What is written past Python, by programs and C code, where outputs are shown."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.remote import Learner
from distlab.course.grade.session import MAX_TEXT
from distlab.course.grade.work import Cell, Kind, Limits, Verdict, Work
from distlab.course.sandbox import availability
from tests.course import forks_rig

LIMIT_S = 120.0

Stream = tuple[str, str]


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    with forks_rig.session(tmp_path_factory.mktemp("work"), "display") as channel:
        yield Learner(channel, time.monotonic() + 1000)


def shown(learner: Learner, source: str) -> list[Stream | str]:
    """Streams as (name, text), of other outputs the kind."""
    outputs: Any = learner.run(source, True, LIMIT_S).outputs
    return [(o["name"], o["text"]) if o["output_type"] == "stream" else o["output_type"] for o in outputs]


IMPORTS = "import ctypes, os, subprocess, sys\n"


@pytest.mark.parametrize(
    ("source", "outputs"),
    [
        ("subprocess.run(['echo', 'program'])", [("stdout", "program\n"), "execute_result"]),
        ("os.write(1, b'C\\n');", [("stdout", "C\n")]),
        ("os.write(2, b'C\\n');", [("stderr", "C\n")]),
        ("ctypes.CDLL(None).puts(b'C');", [("stdout", "C\n")]),
        ("os.system('echo out; echo error >&2');", [("stdout", "out\n"), ("stderr", "error\n")]),
        (
            "print('a'); os.system('echo b'); print('c'); os.write(2, b'd\\n'); display(0); os.system('echo e');",
            [("stdout", "a\nb\nc\n"), ("stderr", "d\n"), "display_data", ("stdout", "e\n")],
        ),
        ("os.system('echo before'); 1 / 0", [("stdout", "before\n"), "error"]),
        (
            "from IPython.display import clear_output\nos.system('echo gone'); clear_output(); print('stays')",
            [("stdout", "stays\n")],
        ),
        ("os.write(1, 'ä'.encode()[:1]); os.write(1, 'ä'.encode()[1:]);", [("stdout", "ä")]),
        ("os.write(1, b'\\xff\\n');", [("stdout", "\ufffd\n")]),
        (
            "pid = os.fork()\nif not pid:\n    print('child'); os._exit(0)\nos.wait();",
            [("stdout", "child\n")],
        ),
        (
            "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(1) as pool:\n"
            "    pool.map(print, ['from a pool'])",
            [("stdout", "from a pool\n")],
        ),
        (
            "subprocess.run('head -c 150000 /dev/zero | tr \"\\\\0\" x', shell=True);",
            [("stdout", "x" * 150_000)],
        ),
    ],
)
def test_it_is_the_output_of_its_cell_in_order(
    learner: Learner, source: str, outputs: list[Stream | str]
) -> None:
    assert shown(learner, IMPORTS + source) == outputs


def test_it_belongs_to_the_cell_in_which_it_was_written(learner: Learner) -> None:
    starts = "program = subprocess.Popen(['sh', '-c', 'read x; echo late'], stdin=subprocess.PIPE)"
    assert shown(learner, IMPORTS + starts) == []
    assert learner.run("os.write(1, b'unseen\\n')", False, LIMIT_S).outputs == []
    assert shown(learner, "program.communicate(b'go\\n');") == [("stdout", "late\n")]


def test_a_descriptor_that_a_cell_closes_costs_nothing(tmp_path: Path) -> None:
    with forks_rig.session(tmp_path, "display") as channel:
        learner = Learner(channel, time.monotonic() + 1000)
        assert shown(learner, f"{IMPORTS}os.write(1, b'last\\n'); os.close(1)") == [("stdout", "last\n")]
        assert shown(learner, "print('by Python'); os.write(2, b'C\\n');") == [
            ("stdout", "by Python\n"),
            ("stderr", "C\n"),
        ]
        still_read = "len(get_ipython().outputs.caught._names)"
        assert learner.run(still_read, True, LIMIT_S).outputs[0]["data"] == {"text/plain": "1"}


def test_what_is_over_goes_on_to_who_counts_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with forks_rig.session(tmp_path, "display") as channel:
        learner = Learner(channel, time.monotonic() + 1000)
        path = f"/proc/{os.getpid()}/fd/{writing}"
        # Where its output went before is the test run's own: this pipe takes its place.
        goes = f"os.dup2(os.open({path!r}, os.O_WRONLY), get_ipython().outputs.caught.past['stdout'])"
        shown(learner, IMPORTS + goes)
        assert shown(learner, f"import os\nos.write(1, b'x' * {MAX_TEXT} + b'over');") == [
            ("stdout", "x" * MAX_TEXT)
        ]
        assert os.read(reading, 100) == b"over"
        learner.run("os.write(1, b'unseen')", False, LIMIT_S)
        assert os.read(reading, 100) == b"unseen"
    os.close(reading)
    os.close(writing)


@pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
def test_graded_output_has_it_and_the_test_pass_adds_nothing() -> None:
    cells = (
        Cell("import os\ndef double(x):\n    os.system(f'echo doubled {x}')\n    return 2 * x\nos.system('echo cell')"),
        Cell("assert double(1) == 2", "visible", Kind.VISIBLE, 1.0),
        Cell("assert double(77) == 154", "hidden", Kind.HIDDEN, 1.0),
    )  # fmt: skip
    with Children() as children:
        result = grade(Work("lab", cells, ("double",)), children)
        flood = Cell("import subprocess\nsubprocess.run(['yes'])")
        flooded = grade(Work("lab", (flood, cells[2]), limits=Limits(output_bytes=2**20)), children)
    texts = ["".join(output.get("text", "") for output in shown.outputs) for shown in result.shown]
    assert texts == ["cell\n", "doubled 1\n", ""]
    assert result.verdict == Verdict.PASSED
    assert flooded.verdict == Verdict.OUTPUT
