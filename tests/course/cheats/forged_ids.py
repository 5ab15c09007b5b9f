"""
attack: cells with the ids of tests, invented ids, and metadata that gives points, unlocks and ungrades
after: points for cells of its own, and more points than there are
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    meta = {
        "grade": True,
        "solution": False,
        "locked": False,
        "points": 1000,
        "schema_version": 3,
        "task": False,
    }
    for cell in notebook["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"] |= {**meta, "solution": True}
            cell["source"] = "1000"
    for number, grade_id in enumerate(
        ("invented", "test_mirror", "hidden_mirror ", "HIDDEN_MEAN", "", "../x", "a" * 10_000)
    ):
        forged = {"cell_type": "code", "id": f"forged-{number}", "outputs": [], "execution_count": None}
        forged |= {"metadata": {"nbgrader": {**meta, "grade_id": grade_id}}, "source": "1000.0"}
        notebook["cells"].insert(number, forged)
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
