"""The queue's leases: free when their process dies, never while it lives, and a late answer counts for nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from distlab.course.grade import batch as batches
from distlab.course.grade import queue as queues
from distlab.course.grade.owner import Owner
from distlab.course.grade.queue import MAX_FAULTS, Asked, Queue, State
from distlab.course.grade.work import Result, Work
from distlab.errors import WorkError
from tests.course.batch_rig import grade_all, submit, word_grader

LAB = "mod-1-lab-1"

HOLDER = """
import sys
from pathlib import Path
from distlab.course.grade.queue import Queue

queue = Queue(Path(sys.argv[1]))
owner = queue.owner()
print(queue.lease(owner).student, flush=True)
sys.stdin.read()
"""


def ask(queue: Queue, *students: str, **options: object) -> list[str]:
    asked = [Asked(student, f"submission of {student}", "tests") for student in students]
    return queue.ask(LAB, asked, **{"by": "teacher", "reason": "", **options})  # type: ignore[arg-type]


def states(queue: Queue) -> list[State]:
    return [job.state for job in queue.jobs()]


def test_a_lease_is_free_as_soon_as_its_process_is_killed_and_not_before(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        [key] = ask(queue, "ann")
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with holder:
            assert holder.stdout
            assert holder.stdout.readline() == "ann\n"
            owner = queue.owner()
            assert queue.lease(owner) is None
            assert states(queue) == [State.LEASED]
            os.kill(holder.pid, signal.SIGKILL)
        job = queue.lease(owner)
        assert job is not None
        assert (job.key, job.attempts) == (key, 2)
        owner.close()


def test_an_expired_lease_is_free_and_its_late_answer_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Queue(tmp_path) as queue:
        ask(queue, "ann")
        slow, quick = queue.owner(), queue.owner()
        first = queue.lease(slow)
        assert first is not None
        assert queue.lease(quick) is None
        later = queues.clock() + queues.LEASE_S + 1
        monkeypatch.setattr(queues, "clock", lambda: later)
        second = queue.lease(quick)
        assert second is not None
        assert not queue.finish(first, slow, "{}")
        assert queue.finish(second, quick, '{"right": 1}')
        assert not queue.finish(second, quick, "{}")
        [job] = queue.jobs()
        assert (job.state, job.record) == (State.DONE, '{"right": 1}')


def test_a_lease_from_before_the_machine_started_again_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Queue(tmp_path) as queue:
        ask(queue, "ann")
        owner, other = queue.owner(), queue.owner()
        assert queue.lease(owner)
        # The clock began anew: the deadline says nothing, whether the owner lives says all.
        monkeypatch.setattr(queues, "boot_id", lambda: "another start")
        monkeypatch.setattr(queues, "clock", lambda: 1e12)
        assert queue.lease(other) is None
        owner.close()
        assert queue.lease(other) is not None


def test_faults_are_bounded_and_lost_leases_are_no_faults(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        ask(queue, "ann")
        for _ in range(2 * MAX_FAULTS):
            lost = queue.owner()
            assert queue.lease(lost)
            lost.close()
        owner = queue.owner()
        for number in range(1, MAX_FAULTS + 1):
            job = queue.lease(owner)
            assert job is not None
            assert queue.finish(job, owner, "{}", fault="no sandbox")
            [job] = queue.jobs()
            assert job.faults == number
        assert job.state == State.FAILED
        assert [failed.student for failed in queue.not_gradable()] == ["ann"]


def test_what_is_taken_most_often_comes_last(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        ask(queue, "ann", "ben")
        lost, owner = queue.owner(), queue.owner()
        first = queue.lease(lost)
        assert first is not None
        assert first.student == "ann"
        lost.close()
        order = [job.student for job in (queue.lease(owner), queue.lease(owner)) if job]
        assert order == ["ben", "ann"]


def test_a_timed_job_waits_for_others_and_others_for_it(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        queue.ask(LAB, [Asked("timed", "s", "t", timed=True), Asked("ann", "s", "t")], by="", reason="")
        owner = queue.owner()
        ann = queue.lease(owner)
        assert ann is not None
        assert ann.student == "ann"
        assert queue.lease(owner) is None
        queue.finish(ann, owner, "{}")
        timed = queue.lease(owner)
        assert timed is not None
        assert timed.student == "timed"
        ask(queue, "ben")
        assert queue.lease(owner) is None
        queue.finish(timed, owner, "{}")
        assert queue.lease(owner) is not None


def test_a_lease_that_is_renewed_does_not_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it when its own coordinator looks for more to do, after a sleep of the machine, say."""
    with Queue(tmp_path) as queue:
        ask(queue, "ann")
        owner, other = queue.owner(), queue.owner()
        assert queue.lease(owner)
        start = queues.clock()
        monkeypatch.setattr(queues, "clock", lambda: start + 2 * queues.LEASE_S)
        assert queue.lease(owner) is None
        monkeypatch.setattr(queues, "clock", lambda: start + 2.9 * queues.LEASE_S)
        assert queue.lease(other) is None
        monkeypatch.setattr(queues, "clock", lambda: start + 3.1 * queues.LEASE_S)
        assert queue.lease(other)


def test_a_result_may_take_longer_than_a_lease(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Job on another machine does, and the coordinator renews its leases meanwhile."""
    submit(course, "ann")
    start, passed = queues.clock(), [0.0]
    renewed, renew = threading.Event(), Queue.renew

    def renew_and_say(queue: Queue, owner: Owner) -> None:
        renew(queue, owner)
        renewed.set()

    def grader(work: Work) -> Result:
        for _ in range(3):
            renewed.clear()
            passed[0] += 0.75 * queues.LEASE_S
            assert renewed.wait(60)
        with Queue(course) as another:
            assert another.lease(another.owner()) is None
        return word_grader(work)

    monkeypatch.setattr(queues, "clock", lambda: start + passed[0])
    monkeypatch.setattr(batches, "clock", queues.clock)
    monkeypatch.setattr(Queue, "renew", renew_and_say)
    grade_all(course, grader=grader, workers=1)
    with Queue(course) as queue:
        assert [(job.state, job.attempts) for job in queue.jobs()] == [(State.DONE, 1)]


def test_a_student_named_twice_is_asked_for_once(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        assert len(ask(queue, "ann", "ben", "ann")) == 2
        assert [job.student for job in queue.jobs()] == ["ann", "ben"]


def test_a_question_of_a_submission_without_marks_is_all_of_its_questions(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        ask(queue, "ann")
        owner = queue.owner()
        job = queue.lease(owner)
        assert job is not None
        queue.finish(job, owner, "{}")
        ask(queue, "ann", "ben", again=True, question="hidden")
        assert [(job.student, job.question) for job in queue.jobs()][1:] == [("ann", "hidden"), ("ben", "")]


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        asked = [Asked("ann", "s", "t"), Asked("ben", None, "t")]  # type: ignore[arg-type]
        with pytest.raises(sqlite3.IntegrityError):
            queue.ask(LAB, asked, by="", reason="")
        assert queue.jobs() == []
        assert ask(queue, "ann")


def test_a_damaged_queue_is_named(tmp_path: Path) -> None:
    (tmp_path / "grading.db").write_bytes(b"no database " * 1000)
    with pytest.raises(WorkError, match=r"grading\.db cannot be used as the grading queue"):
        Queue(tmp_path)


def test_files_of_dead_owners_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    with Queue(tmp_path) as queue:
        (tmp_path / "grading" / "owners" / "dead").touch()
        one = queue.owner()
        two = queue.owner()
        assert {path.name for path in (tmp_path / "grading" / "owners").iterdir()} == {one.id, two.id}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files that are another's")
def test_what_root_makes_belongs_to_whom_the_course_belongs(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with Queue(tmp_path) as queue:
        ask(queue, "ann")
        owner = queue.owner()
        with queue.writer():
            made = [tmp_path, *tmp_path.rglob("*")]
            assert len(made) >= 8
            assert {path.stat().st_uid for path in made} == {12345}
        owner.close()
    with closing(sqlite3.connect(tmp_path / "grading.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
