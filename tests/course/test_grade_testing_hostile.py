"""The test process against sessions that lie: whatever they answer, and whatever is reported."""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distlab.course.grade import plain
from distlab.course.grade.testing import Stop, complete, reports
from distlab.course.grade.wire import PREFIX, Channel, Malformed, WireError
from distlab.course.grade.work import Cell, Graded, Limits, Verdict, Work
from tests.course.testing_rig import BRIEF, LIMITS, F, P, driving, graded, hidden, work


def test_messages_forged_on_the_sessions_own_descriptor(tmp_path: Path) -> None:
    """What learner code writes there is an answer of its own process, believed as little as any other."""
    forge = """
import json, os, struct
def forge(message):
    text = json.dumps(message).encode()
    for fd in os.listdir("/proc/self/fd"):
        try: os.write(int(fd), struct.pack("!II", len(text), 0) + text)
        except OSError: pass
def ahead():
    for number in range(100):
        forge({"id": number, "value": 3, "ok": True, "interrupted": False})
def report():
    forge({"graded": {"grade_id": "b", "verdict": "passed", "points": 4, "max_points": 4, "message": ""}})
    forge({"done": True})
"""
    for call in ("ahead", "report"):
        tests = [hidden("assert value == 4, 'no'", "a"), hidden(f"{call}()\n4", "b"), hidden("4", "c")]
        given = Work("lab", (Cell(forge), *tests, hidden("value", "d")), ("value", call), limits=LIMITS)
        found, stop = graded(tmp_path, given)
        assert stop is not None
        assert stop.verdict == Verdict.VIOLATION
        assert [report.points for report in complete(given, found, stop)][:2] == [0, 0]
        assert complete(given, found, stop)[3].points == 0


@contextlib.contextmanager
def hostile(make: Callable[[dict[str, Any]], Any]) -> Iterator[socket.socket]:
    """A session that answers as `make` says: a message, perhaps with blobs, or raw bytes. Honest to files and cells."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with Channel(theirs) as channel, contextlib.suppress(WireError):
            while True:
                request, _ = channel.receive(time.monotonic() + 600)
                honest = {"ok": True, "interrupted": False, "outputs": [], "execution_count": 1}
                made = honest if request["op"] in ("files", "run") else make(request)
                if isinstance(made, tuple):
                    channel.send({"id": request["id"], **made[0]}, made[1])
                elif isinstance(made, bytes):
                    channel._socket.sendall(made)
                else:
                    channel.send({"id": request["id"], **made})

    thread = threading.Thread(target=answer)
    thread.start()
    yield ours
    thread.join()


def against(
    make: Callable[[dict[str, Any]], Any], tests: Sequence[str], limits: Limits = LIMITS
) -> tuple[list[Graded], Stop | None]:
    cells = [hidden(source, f"t{number}") for number, source in enumerate(tests)]
    given = work(Cell("1"), *cells, limits=limits)
    with hostile(make) as learner, driving(learner) as control:
        found = list(reports(control, given, None, time.monotonic() + 600))
    ended = found.pop() if found and isinstance(found[-1], Stop) else None
    return [report for report in found if isinstance(report, Graded)], ended


@pytest.mark.parametrize(
    "answer",
    [
        {"value": {"pickle": "x"}},
        {"value": 1, "id": 0},
        {"graded": {"grade_id": "t0", "verdict": "passed", "points": 4, "max_points": 4, "message": ""}},
        {"done": True},
        {"value": {"range": [0, 2**40, 1]}},
        {"value": {"array": ["float32", [2**31, 2**31], 0]}},
        b"\xff" * 8,
        PREFIX.pack(60_000, 0) + b'{"value":' + b"[" * 29_995 + b"]" * 29_995 + b"}",
        PREFIX.pack(14, 0) + b'{"value": NaN}',
        PREFIX.pack(2, 1) + b"\xff" * 8 + b"{}",
    ],
    ids=lambda answer: str(answer)[:40],
)
def test_answers_that_are_none_stop_the_run(answer: Any) -> None:
    found, stop = against(lambda _: answer, ["4", "assert value == 3, 'no'", "4"])
    assert [report.grade_id for report in found] == ["t0"]
    assert stop == Stop(2, Verdict.VIOLATION, "Your code's process gave an answer that is none.")


def test_a_violation_cannot_be_swallowed_by_a_test() -> None:
    source = "try:\n    double(1)\nexcept BaseException:\n    pass"
    bad = {"value": {"pickle": 0}}
    found, stop = against(
        lambda request: {"value": {"handle": 1}} if request["op"] == "get" else bad, [source, "4"]
    )
    assert found == []
    assert stop is not None
    assert (stop.step, stop.verdict) == (1, Verdict.VIOLATION)


def test_values_are_fetched_once_per_test_before_it_begins() -> None:
    asked: list[str] = []

    def changing(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["name"])
        return {"value": len(asked)}

    found, _ = against(
        changing, ["assert value == value == 1, 'once'", "def f(): return text\nassert f() == 2, 'x'"]
    )
    assert [report.verdict for report in found] == [P, P]
    assert asked == ["value", "text"]


@pytest.mark.parametrize(
    "value",
    [
        {"int": "0x" + "f" * 3500},
        {"float": "nan"},
        [[[[1]]]],
        {"dict": [1, 2]},
        {"handle": 7},
        "x" * 1000,
        {"complex": [1.0, 2.0]},
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_of_any_type_make_no_honest_test_pass(value: Any) -> None:
    tests = [
        "assert value == 3, f'value is {value}'",
        "assert abs(value - 3) < 1e-6, f'value is {value:.3f}'",
        "assert sorted(value) == [1, 2], 'sorted'",
        "assert value.shape == (3,), 'shape'",
        "assert 2.9 < value < 3.1, 'between'",
    ]
    found, stop = against(lambda _: {"value": value}, tests, BRIEF)
    assert stop is None
    # An object that gives one more item whenever it is asked takes all the time there is.
    endless = value == {"handle": 7}
    assert [report.verdict for report in found] == [F, F, Verdict.TIMEOUT if endless else F, F, F]
    assert all("1000" not in report.message and "fff" not in report.message for report in found)


@pytest.mark.parametrize("test", ["value == 10**6", "value == 1e6", "10**6 == value", "[value] == [10**6]"])
@pytest.mark.parametrize(
    ("dtype", "number"),
    [("float16", math.inf), ("float8_e4m3fn", math.nan), ("float8_e5m2", math.inf), ("uint8", 10**6 % 256)],
)
def test_a_narrow_tensor_is_not_every_large_number(dtype: str, number: float, test: str) -> None:
    value = torch.tensor(number).to(getattr(torch, dtype))
    alike = torch.tensor(3).to(getattr(torch, dtype))
    made = iter([value, alike, alike])

    def answer(_: object) -> tuple[dict[str, Any], list[bytes]]:
        tree, blobs = plain.encode(next(made), lambda _: 0)
        return {"value": tree}, blobs

    found, _ = against(
        answer, [f"assert {test}, 'no'", "assert value == 3, 'no'", "assert value < 3.5, 'no'"]
    )
    assert [report.verdict for report in found] == [F, P, P]


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"graded": {}},
        {"graded": 3},
        {"graded": {"grade_id": "other", "verdict": "passed", "points": 4, "max_points": 4, "message": ""}},
        {"graded": {"grade_id": "t", "verdict": "great", "points": 4, "max_points": 4, "message": ""}},
        {"graded": {"grade_id": "t", "verdict": "passed", "points": 5, "max_points": 4, "message": ""}},
        {"graded": {"grade_id": "t", "verdict": "passed", "points": 4, "max_points": 5, "message": ""}},
        {"graded": {"grade_id": "t", "verdict": "passed", "points": "4", "max_points": 4, "message": ""}},
        {"graded": {"grade_id": "t", "verdict": "passed", "points": 4, "max_points": 4, "message": 3}},
        {"graded": {"grade_id": "t", "verdict": "passed", "points": 4, "max_points": 4, "more": 3}},
        {"stop": {}},
        {"stop": {"step": 1, "verdict": "great", "message": ""}},
        {"stop": {"step": "1", "verdict": "timeout", "message": ""}},
        {"done": False},
        {"done": True},
    ],
    ids=str,
)
def test_reports_that_make_no_sense_are_refused(report: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as control, Channel(theirs) as other:
        other.send(report)
        with pytest.raises(Malformed):
            list(reports(control, work(hidden("4")), None, time.monotonic() + 60))


def test_no_report_more_than_there_are_tests() -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as control, Channel(theirs) as other:
        for _ in range(2):
            other.send(
                {
                    "graded": {
                        "grade_id": "t",
                        "verdict": "passed",
                        "points": 4,
                        "max_points": 4,
                        "message": "",
                    }
                }
            )
        found = reports(control, work(hidden("4")), None, time.monotonic() + 60)
        assert isinstance(next(found), Graded)
        with pytest.raises(Malformed):
            next(found)
