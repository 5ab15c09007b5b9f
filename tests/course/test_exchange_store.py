"""The exchange's store: whenever its process is killed, each thing is there whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distlab.course.exchange.bundle import Receiver, UploadLimits, content_sha256
from distlab.course.exchange.store import TIME_FORMAT, Stage, Store, read_receipt
from tests.course.exchange_rig import LAB
from tests.course.test_exchange_bundle import message

NOTEBOOK = f"{LAB}.ipynb"
STEPS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.scandir"}
"""What Python says through its audit hooks when it touches a disk."""


def arrive(store: Store, *files: tuple[str, bytes]) -> tuple[Stage, Receiver]:
    stage = store.stage()
    receiver = Receiver(stage.content, UploadLimits())
    receiver.feed(message(*files))
    return stage, receiver


def release(store: Store, text: bytes, replace: bool = True) -> None:
    stage, receiver = arrive(store, (NOTEBOOK, b"{}"), ("data/text", text))
    with stage:
        store.release(stage, LAB, receiver.finish(), replace=replace)


def submit(store: Store, text: bytes) -> None:
    stage, receiver = arrive(store, (NOTEBOOK, b"{}"), ("answers/text", text))
    with stage:
        store.submit(stage, "alice", LAB, receiver.finish())


def give_feedback(store: Store, text: bytes) -> None:
    (submission,) = store.submissions()
    stage, receiver = arrive(store, ("feedback.html", text))
    with stage:
        receiver.finish()
        store.put_feedback(stage, "feedback.html", submission, LAB)


def killed_at(event: int, work: Callable[[], None]) -> bool:
    """Do the work in a process that is killed at its `event`-th audited step (open, mkdir, rename...).

    Returns False once the work has fewer steps than that, and so was done.
    """
    child = os.fork()
    if child == 0:
        steps = 0

        def count(name: str, _args: object) -> None:
            nonlocal steps
            if name in STEPS:
                steps += 1
                if steps > event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def fresh(folder: Path) -> Iterator[tuple[int, Store]]:
    """A store with one release and one submission, again and again."""
    event = 0
    while True:
        store = Store(folder / str(event))
        release(store, b"old")
        submit(store, b"first")
        yield event, store
        event += 1


def whole(store: Store) -> list[bytes]:
    """The texts of all submissions, each checked against its receipt."""
    texts = []
    for folder, receipt in store.submissions().items():
        with store.content(folder) as bundle:
            assert content_sha256(bundle.entries) == receipt.sha256
        texts.append((folder / "answers/text").read_bytes())
    assert len(os.listdir(store.inbound)) == len(texts)
    return texts


def restart(store: Store) -> Store:
    again = Store(store.root)
    again.clear_stale()
    assert os.listdir(again.staging) == ["lock"]
    return again


def test_a_submission_is_whole_or_absent_wherever_the_service_is_killed(tmp_path: Path) -> None:
    seen = set()
    for event, store in fresh(tmp_path):
        killed = killed_at(event, lambda store=store: submit(store, b"second"))  # type: ignore[misc]
        texts = whole(restart(store))
        assert texts in ([b"first"], [b"first", b"second"])
        seen.add(len(texts))
        if not killed:
            break
    assert event > 10
    assert seen == {1, 2}


def test_a_release_is_the_old_one_or_the_new_one_wherever_the_service_is_killed(tmp_path: Path) -> None:
    seen = set()
    for event, store in fresh(tmp_path):
        killed = killed_at(event, lambda store=store: release(store, b"new"))  # type: ignore[misc]
        folder = restart(store).assignment(LAB)
        seen.add((folder / "data/text").read_bytes())
        assert sorted(os.listdir(folder)) == ["data", NOTEBOOK]
        if not killed:
            break
    assert event > 10
    assert seen == {b"old", b"new"}


def test_feedback_is_the_old_one_or_the_new_one_wherever_the_service_is_killed(tmp_path: Path) -> None:
    seen = set()
    for event, store in fresh(tmp_path):
        give_feedback(store, b"old")
        killed = killed_at(event, lambda store=store: give_feedback(store, b"new"))  # type: ignore[misc]
        (name,) = os.listdir(restart(store).feedback)
        seen.add((store.feedback / name).read_bytes())
        if not killed:
            break
    assert event > 5
    assert seen == {b"old", b"new"}


def test_a_stage_in_use_is_not_cleared_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stage, receiver = arrive(store, (NOTEBOOK, b"{}"))
    with stage:
        assert Store(tmp_path).clear_stale() == 0
        store.release(stage, LAB, receiver.finish(), replace=False)
    assert store.released() == [LAB]


def test_a_clock_set_back_does_not_reorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    release(store, b"")
    submit(store, b"first")
    (first,) = store.submissions().values()
    monkeypatch.setattr("distlab.course.exchange.store.datetime", SetBack)
    submit(store, b"second")
    submit(store, b"third")
    assert whole(store) == [b"first", b"second", b"third"]
    times = [receipt.timestamp for receipt in store.submissions().values()]
    assert times == sorted({*times, first.timestamp})


class SetBack:
    """`datetime` whose clock stands still in the past."""

    from datetime import datetime as real

    @classmethod
    def now(cls, zone: object) -> object:
        return cls.real.strptime("2001-01-01 00:00:00.000000 UTC", TIME_FORMAT)

    strptime = real.strptime


def test_a_damaged_receipt_hides_only_its_submission(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    release(store, b"")
    submit(store, b"first")
    submit(store, b"second")
    first, _ = store.submissions()
    (first / "receipt.json").write_text(json.dumps({"user": "alice"}))
    read_receipt.cache_clear()
    assert [(folder / "answers/text").read_bytes() for folder in store.submissions()] == [b"second"]
    assert "has no readable receipt" in caplog.text
