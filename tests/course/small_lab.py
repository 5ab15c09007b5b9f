"""A small lab with everything that a lab has, for the tests of release, grading and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAB_ID = "mod-1-lab-1"
SOLUTION_CANARY = "kestrel_solution_canary"
HIDDEN_CANARY = "heron_hidden_canary"
CANARIES = (SOLUTION_CANARY, HIDDEN_CANARY)

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

"""

LAB = (
    HEADER.replace("kernelspec:", "distlab: {names: [double, triple]}\nkernelspec:")
    + f"""# A small lab

```{{code-cell}} ipython3
import math
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "double", "solution": true}}

def double(x):
    \"\"\"Twice `x`.\"\"\"
    ### BEGIN SOLUTION
    {SOLUTION_CANARY} = 2 * x
    return {SOLUTION_CANARY}
    ### END SOLUTION
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "test_double", "grade": true, "points": 2}}

assert double(2) == 4, "double(2) is 4"
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "hidden_double", "grade": true, "points": 3}}

# Hidden test: other numbers.
### BEGIN HIDDEN TESTS
{HIDDEN_CANARY} = 17041
assert double({HIDDEN_CANARY}) == 34082, "double is wrong for large numbers"
### END HIDDEN TESTS
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "triple", "solution": true}}

def triple(x):
    ### BEGIN SOLUTION
    return x + double(x)
    ### END SOLUTION
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "hidden_triple", "grade": true, "points": 5}}

### BEGIN HIDDEN TESTS
assert triple(7) == 21, "triple is wrong"
### END HIDDEN TESTS
```

+++ {{"nbgrader": {{"grade_id": "explain", "grade": true, "solution": true, "points": 4}}}}

Why?

### BEGIN SOLUTION
Because of {SOLUTION_CANARY}.
### END SOLUTION
"""
)


def write_lab(root: Path, text: str = LAB, lab_id: str = LAB_ID) -> Path:
    """Put a lab's source into a repository; returns its path."""
    path = root / "solutions" / lab_id / "lab.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class Submission:
    """A learner's notebook, to be filled in."""

    def __init__(self, released: Path) -> None:
        self.notebook = json.loads(released.read_text())

    def cell(self, grade_id: str) -> dict[str, Any]:
        found: dict[str, Any] = next(
            cell
            for cell in self.notebook["cells"]
            if cell["metadata"].get("nbgrader", {}).get("grade_id") == grade_id
        )
        return found

    def answer(self, grade_id: str, source: str) -> Submission:
        self.cell(grade_id)["source"] = source
        return self

    def honest(self) -> Submission:
        self.answer("double", "def double(x):\n    return 2 * x")
        self.answer("triple", "def triple(x):\n    return 3 * x")
        return self.answer("explain", "Because $2x$ is `x + x`, and $a < b$.")

    def add(self, source: str, at: int = 1, cell_type: str = "code", **metadata: object) -> Submission:
        cell: dict[str, Any] = {
            "cell_type": cell_type,
            "metadata": metadata,
            "source": source,
            "id": f"added-{at}",
        }
        if cell_type == "code":
            cell |= {"outputs": [], "execution_count": None}
        self.notebook["cells"].insert(at, cell)
        return self

    def delete(self, grade_id: str) -> Submission:
        self.notebook["cells"].remove(self.cell(grade_id))
        return self

    def submit(self, course: Path, student: str, **files: str) -> None:
        folder = course / "submitted" / student / LAB_ID
        folder.mkdir(parents=True)
        (folder / f"{LAB_ID}.ipynb").write_text(json.dumps(self.notebook))
        (folder / "timestamp.txt").write_text("2026-11-20 12:00:00 UTC")
        for name, content in files.items():
            (folder / name.replace("_dot_", ".")).write_text(content)
