"""Grade a folder of works, as a Job on Kubernetes does for a batch (`helm/grading/job.yaml`).

python -m distlab.course.grade.job FOLDER [WORKERS [WAIT_S]]

For each `NAME.work.json` in the folder (a `Work`) without a `NAME.result.json` it writes that (its `Result`), whole
or not at all: a Job that was killed is started again on the same folder. It ends when no other work has come for
WAIT_S seconds (default 0). It has no gradebook and needs no network; who made the works reads the results and keeps
the marks (`graders.grade_by_folder`). Where a pod may not make namespaces, each sandbox is started cold, and where it
may make no sandbox at all, nothing is graded.

Exit status: 0 when every work has a result, 1 where this machine could not grade one, 2 for a folder that is none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from distlab.course.atomic import write_atomic
from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.work import RESULT, WORK, Work

POLL_S = 0.5
"""How often the folder is looked at while nothing is there to do."""


def grade_folder(folder: Path, workers: int, wait_s: float = 0.0) -> int:
    """Grade what has no result yet, `workers` at a time, and go on while something comes within `wait_s` seconds.

    Returns the number of works that could not be graded: one that is none, and one that the machine failed. Each is
    named on standard error, and tried once.
    """
    failed: set[Path] = set()
    with Children() as children, ThreadPoolExecutor(workers) as pool:
        while waiting := _waiting(folder, failed, wait_s):
            done = pool.map(partial(_grade, children), waiting)
            failed.update(path for path, graded in zip(waiting, done, strict=True) if not graded)
    return len(failed)


def _waiting(folder: Path, failed: set[Path], wait_s: float) -> list[Path]:
    """The works to be graded, in order; empty where none came for `wait_s` seconds."""
    until = time.monotonic() + wait_s
    while True:
        works = set(folder.glob(f"*{WORK}")) - failed
        found = sorted(path for path in works if not _result_path(path).exists())
        if found or time.monotonic() >= until:
            return found
        time.sleep(POLL_S)


def _result_path(work: Path) -> Path:
    return work.with_name(work.name.removesuffix(WORK) + RESULT)


def _grade(children: Children, path: Path) -> bool:
    try:
        work = Work.from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        print(f"{path.name} is no work: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    try:
        result = grade(work, children)
    except Exception as error:  # of this work alone: others are graded
        print(f"{path.name} was not graded: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    # Characters as they are: escaped, what is shown could be larger than who waits for it reads.
    content = json.dumps(result.to_json(), ensure_ascii=False).encode("utf-8", "replace")
    write_atomic(_result_path(path), content, 0o600)
    return True


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 3 or not Path(arguments[0]).is_dir():
        print("usage: python -m distlab.course.grade.job FOLDER [WORKERS [WAIT_S]]", file=sys.stderr)
        return 2
    workers = int(arguments[1]) if len(arguments) > 1 else len(os.sched_getaffinity(0))
    wait_s = float(arguments[2]) if len(arguments) > 2 else 0.0
    return 1 if grade_folder(Path(arguments[0]), workers, wait_s) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
