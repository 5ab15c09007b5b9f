"""A folder of works becomes a folder of results, each graded once, and a batch can wait for them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from distlab.course.grade import grader, graders, job
from distlab.course.grade.batch import GraderUnavailable
from distlab.course.grade.graders import FOLDER_ENV, grade_by_folder, open_grader
from distlab.course.grade.job import grade_folder
from distlab.course.grade.outputs import LEFT_OUT
from distlab.course.grade.remote import Learner, Ran
from distlab.course.grade.work import RESULT, WORK, Cell, Graded, Kind, Limits, Result, Verdict, Work
from distlab.course.sandbox import availability
from tests.course.batch_rig import FULL, grade_all, released, scores, submit, word_grader

needs_sandboxes = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
MANIFESTS = Path(__file__).parents[2] / "helm" / "grading"


def _work(answer: int) -> Work:
    return Work(
        "mod-1-lab-1",
        (
            Cell(f"def double(x):\n    return {answer} * x"),
            Cell("assert double(3) == 6, 'double doubles'", "hidden", Kind.HIDDEN, 2.0),
        ),
        ("double",),
        display=False,
    )


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distlab.course.grade.job", str(folder), "2"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_sandboxes
def test_works_become_results_and_what_has_one_is_left_alone(tmp_path: Path) -> None:
    for name, answer in (("ann", 2), ("ben", 3), ("cem", 2)):
        (tmp_path / f"{name}.work.json").write_text(json.dumps(_work(answer).to_json()))
    (tmp_path / "cem.result.json").write_text("there already")
    (tmp_path / "dan.work.json").write_text("{}")
    done = _run(tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (1, ["dan.work.json is no work: KeyError: 'cells'"])
    results = {
        name: Result.from_json(json.loads((tmp_path / f"{name}.result.json").read_bytes()))
        for name in ("ann", "ben")
    }
    assert {name: (result.verdict, result.points) for name, result in results.items()} == {
        "ann": (Verdict.PASSED, 2.0),
        "ben": (Verdict.FAILED, 0.0),
    }
    assert results["ben"].cells[0].message == "double doubles"
    assert (tmp_path / "cem.result.json").read_text() == "there already"
    assert not (tmp_path / "dan.result.json").exists()


@pytest.mark.usefixtures("without_sandboxes")
def test_a_work_that_fails_the_grader_costs_that_work_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def grade(work: Work, _children: None) -> Result:
        if work.lab == "ann":
            raise TimeoutError("killing still not done")
        return word_grader(work)

    monkeypatch.setattr(job, "grade", grade)
    for name in ("ann", "ben"):
        (tmp_path / f"{name}{WORK}").write_text(json.dumps(Work(name, ()).to_json()))
    assert grade_folder(tmp_path, 1) == 1
    assert capsys.readouterr().err == f"ann{WORK} was not graded: TimeoutError: killing still not done\n"
    assert [path.name for path in tmp_path.glob(f"*{RESULT}")] == [f"ben{RESULT}"]


@pytest.mark.usefixtures("without_sandboxes")
@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "stream", "text": "\N{GRINNING FACE}" * 60_000},
        {"output_type": "stream", "text": "\1" * 60_000},
        {"output_type": "error", "traceback": [""] * 200_000},
    ],
)
def test_no_result_is_larger_than_what_is_read(
    output: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever cells print: 20 of them, under a limit of a MiB in place of the 16."""

    class Printing(Learner):
        def files(self, *_: object) -> None: ...
        def run(self, *_: object) -> Ran:
            return Ran(True, False, [output], 1)

    def grade(work: Work, _children: None) -> Result:
        shown, stop = grader._display(work, None, Mock())
        assert stop is None
        return Result(work.lab, Verdict.PASSED, "", (), shown)

    monkeypatch.setattr(grader, "Learner", Printing)
    monkeypatch.setattr(job, "grade", grade)
    limits = Limits(output_bytes=2**20)
    (tmp_path / f"ann{WORK}").write_text(json.dumps(Work("lab", (Cell(""),) * 20, limits=limits).to_json()))
    assert grade_folder(tmp_path, 1) == 0
    written = (tmp_path / f"ann{RESULT}").read_bytes()
    assert graders.MAX_RESULT_BYTES / Limits().output_bytes > len(written) / limits.output_bytes > 0.5
    shown = Result.from_json(json.loads(written)).shown
    assert shown[0].outputs[0].items() >= output.items()
    assert shown[-1].outputs[0] == LEFT_OUT


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    assert _run(tmp_path / "none").returncode == 2


@pytest.fixture
def without_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Job's own grader runs nothing, and nobody waits."""
    monkeypatch.setattr(job, "Children", contextlib.nullcontext)
    monkeypatch.setattr(job, "grade", lambda work, _: word_grader(work))
    monkeypatch.setattr(job, "POLL_S", 0.0)
    monkeypatch.setattr(graders, "POLL_S", 0.0)


@contextmanager
def jobs(folder: Path) -> Iterator[None]:
    """Jobs on the folder, one after the other."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            assert grade_folder(folder, 2) == 0

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("without_sandboxes")
def test_a_batch_leaves_works_for_a_job_and_takes_its_results(tmp_path: Path) -> None:
    site = released(tmp_path)
    for student in ("ann", "ben", "cem"):
        submit(site.course, student)
    submit(site.course, "dan", lambda submission: submission.answer("triple", "# nothing"))
    folder = tmp_path / "batch"
    folder.mkdir()
    with jobs(folder):
        grade_all(site.course, grader=partial(grade_by_folder, folder), workers=4)
    assert {student: scores(site.course, student) for student in ("ann", "dan")} == {
        "ann": FULL,
        "dan": {**FULL, "hidden_triple": 0.0},
    }
    assert list(folder.iterdir()) == [], "nothing of a submission is left there"


@pytest.mark.usefixtures("without_sandboxes")
def test_a_job_goes_on_while_works_come_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def leave(name: str) -> None:
        (tmp_path / f"{name}{WORK}").write_text(json.dumps(Work("lab", ()).to_json()))

    def sleep(_: float) -> None:
        nonlocal now
        now += 1.0
        if now in (4.0, 9.0, 15.0):  # four, five and six seconds after the one before
            leave(f"after-{now:g}")

    monkeypatch.setattr(job.time, "monotonic", lambda: now)
    monkeypatch.setattr(job.time, "sleep", sleep)
    leave("first")
    (tmp_path / f"broken{WORK}").write_text("{}")
    assert grade_folder(tmp_path, 2, wait_s=5.0) == 1
    assert sorted(path.name for path in tmp_path.glob(f"*{RESULT}")) == [
        f"after-4{RESULT}",
        f"after-9{RESULT}",
        f"first{RESULT}",
    ]


@pytest.mark.usefixtures("without_sandboxes")
def test_what_a_job_leaves_is_read_with_care(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    result = Result("lab", Verdict.PASSED, "", (Graded("hidden", Verdict.PASSED, 2.0, 2.0),))
    secret.write_text(json.dumps(result.to_json()))
    folder = tmp_path / "batch"
    folder.mkdir()

    def link(_: float) -> None:
        for path in folder.glob(f"*{WORK}"):
            path.with_name(path.name.removesuffix(WORK) + RESULT).symlink_to(secret)

    monkeypatch.setattr(graders.time, "sleep", link)
    with pytest.raises(OSError, match="it is a link"):
        grade_by_folder(folder, _work(2))
    assert list(folder.iterdir()) == []


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_ENV, str(tmp_path / "none"))
    with (
        open_grader() as grader,
        pytest.raises(GraderUnavailable, match=r"none is no folder: DISTLAB_GRADER_F"),
    ):
        grader(_work(2))


def test_the_manifest_gives_the_pod_what_it_needs_and_no_more() -> None:
    spec = yaml.safe_load((MANIFESTS / "job.yaml").read_text())["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert spec["backoffLimit"] > 0, "a pod that was lost is replaced"
    assert spec["activeDeadlineSeconds"] > 0
    assert (spec["completions"], spec["parallelism"]) == (1, 1), (
        "two on one folder would grade everything twice"
    )
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert "serviceAccountName" not in pod
    assert not {"env", "envFrom"} & container.keys()
    volumes = [(volume.pop("name"), *volume) for volume in pod["volumes"]]
    assert volumes == [("batch", "persistentVolumeClaim"), ("tmp", "emptyDir"), ("shm", "emptyDir")]
    assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert pod["hostUsers"] is True, (
        "each sandbox has a uid of its own, above the 65,536 of a pod's namespace"
    )
    rights = container["securityContext"]
    assert "privileged" not in rights
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert {rights["seccompProfile"]["type"], rights["appArmorProfile"]["type"]} == {"Unconfined"}
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}
    *_, workers, wait_s = container["command"][-1].split()
    assert container["command"][-1].endswith(f"-m {job.__name__} /batch {workers} {wait_s}\n")
    assert int(resources["limits"]["cpu"]) > int(workers) * Limits().cpus
    assert (
        int(resources["limits"]["memory"].removesuffix("Gi")) * 2**30 > int(workers) * Limits().memory_bytes
    )


def test_nothing_talks_to_the_pod_nor_it_to_anything() -> None:
    namespace, policy = yaml.safe_load_all((MANIFESTS / "namespace.yaml").read_text())
    assert policy["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy["spec"].keys(), "nothing is let through"
    labels = yaml.safe_load((MANIFESTS / "job.yaml").read_text())["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


@needs_sandboxes
@pytest.mark.skipif(os.geteuid() != 0, reason="a pod's root is made by root")
def test_the_rights_of_the_pod_are_enough(tmp_path: Path) -> None:
    """Root with the manifest's capabilities alone, on a read-only system, without a network."""
    container = yaml.safe_load((MANIFESTS / "job.yaml").read_text())["spec"]["template"]["spec"][
        "containers"
    ][0]
    capabilities = [f"+{name.lower()}" for name in container["securityContext"]["capabilities"]["add"]]
    (tmp_path / f"ann{WORK}").write_text(json.dumps(_work(2).to_json()))
    places = [
        "--ro-bind",
        "/",
        "/",
        "--dev-bind",
        "/dev",
        "/dev",
        "--bind",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup",
    ]
    fresh = [
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/dev/shm",
        "--proc",
        "/proc",
        "--bind",
        str(tmp_path),
        "/tmp/batch",
    ]
    for path in (Path(__file__).parents[2], Path(sys.prefix)):  # perhaps below /tmp
        fresh += ["--ro-bind", str(path), str(path)]
    pod = ["bwrap", *places, *fresh, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent"]
    rights = ["setpriv", f"--bounding-set=-all,{','.join(capabilities)}", "--inh-caps=-all"]
    command = [sys.executable, "-m", job.__name__, "/tmp/batch", "1"]
    done = subprocess.run([*pod, *rights, *command], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    result = Result.from_json(json.loads((tmp_path / f"ann{RESULT}").read_bytes()))
    assert (result.verdict, result.points) == (Verdict.PASSED, 2.0)
