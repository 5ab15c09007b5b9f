"""Grade one notebook file as a submission is graded: same sandboxes, same tests. No mark is kept.

distlab course grade-file mod-107-lab-3 my.ipynb
distlab course grade-file mod-107-lab-3 my.ipynb --json
"""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import lab_work
from distlab.course.grade.submission import MAX_NOTEBOOK_BYTES, NotANotebookError, read_notebook
from distlab.course.grade.work import Result, Verdict
from distlab.course.labsource import LabError
from distlab.course.release import check_lab_exists
from distlab.errors import SettingError, printable


def grade_file(
    lab: Positional[str], notebook: Positional[Path], root: Path = Path("."), json: bool = False
) -> int:
    """What would this notebook be worth? Exits 1 where the machine could not grade it.

    Args:
        lab: the lab's id, such as mod-107-lab-3.
        notebook: an .ipynb file; files beside it are not taken along.
        root: the repository.
        json: print one JSON object: lab, verdict, points, max_points, cells.
    """
    check_lab_exists(root, lab)
    try:
        with notebook.open("rb") as file:
            content = file.read(MAX_NOTEBOOK_BYTES + 1)
        work = lab_work(root, lab, read_notebook(content))
    except NotANotebookError as error:
        raise SettingError(f"{notebook} is not a notebook that can be graded: it {error}.") from error
    except OSError as error:
        raise SettingError(f"{notebook} cannot be read: {error.strerror}; name a notebook file.") from error
    except LabError as error:
        raise SettingError(str(error)) from error
    with Children() as children:
        result = grade(work, children)
    if json:
        print(json_format.dumps(summary(result)))
    else:
        for cell in result.cells:
            points = f"{cell.points:g} of {cell.max_points:g}"
            print(f"{cell.grade_id:28} {cell.verdict:18} {points:>12}  {printable(cell.message)}")
        print(f"{lab}: {result.verdict}, {result.points:g} of {result.max_points:g} points")
    if result.verdict == Verdict.NOT_GRADABLE:
        print(f"distlab course grade-file: {printable(result.message)}", file=sys.stderr)
        return 1
    return 0


def summary(result: Result) -> dict[str, Any]:
    """A result without outputs and provenance: what learners get to know of it."""
    names = ("grade_id", "verdict", "points", "max_points", "message")
    return {
        "lab": result.lab,
        "verdict": result.verdict,
        "points": result.points,
        "max_points": result.max_points,
        "cells": [{name: getattr(cell, name) for name in names} for cell in result.cells],
    }
