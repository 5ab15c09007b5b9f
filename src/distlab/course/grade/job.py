"""Grade a folder of works, as a Job on Kubernetes does for a batch.

python -m distlab.course.grade.job FOLDER [WORKERS]

For each `NAME.work.json` in the folder (a `Work`) without a `NAME.result.json` it writes that (its `Result`), whole
or not at all: a Job that was killed is started again on the same folder. It has no gradebook and needs no network;
who made the works reads the results and keeps the marks. Where a pod may not make namespaces, each sandbox is
started cold, and where it may make no sandbox at all, nothing is graded.

Exit status: 0 when every work has a result, 1 where this machine could not grade one, 2 for a folder that is none.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from distlab.course.atomic import write_atomic
from distlab.course.grade.children import Children, SandboxFailed
from distlab.course.grade.grader import grade
from distlab.course.grade.work import Work

WORK, RESULT = ".work.json", ".result.json"


def grade_folder(folder: Path, workers: int) -> int:
    """Grade what has no result yet, `workers` at a time; the number of works that could not be graded.

    A work that is none, and one that the machine failed, count and are named on standard error.
    """
    waiting = [path for path in sorted(folder.glob(f"*{WORK}")) if not _result_path(path).exists()]
    with Children() as children, ThreadPoolExecutor(workers) as pool:
        return sum(not done for done in pool.map(partial(_grade, children), waiting))


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
    except SandboxFailed as error:
        print(f"{path.name} was not graded: {error}", file=sys.stderr)
        return False
    write_atomic(_result_path(path), json.dumps(result.to_json()).encode(), 0o600)
    return True


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2 or not Path(arguments[0]).is_dir():
        print("usage: python -m distlab.course.grade.job FOLDER [WORKERS]", file=sys.stderr)
        return 2
    workers = int(arguments[1]) if len(arguments) == 2 else len(os.sched_getaffinity(0))
    return 1 if grade_folder(Path(arguments[0]), workers) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
