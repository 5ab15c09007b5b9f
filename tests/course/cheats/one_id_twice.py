"""
attack: two cells with one id: a good answer and a bad one, a test that is the course's and one that is not
after: the points of a test that ran before the other answer
"""

import copy
import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    doubled = []
    for cell in notebook["cells"]:
        copied = copy.deepcopy(cell)
        copied["id"] = f"{cell['id']}-2"
        copied["source"] = "pass"
        doubled += [copied, cell] if cell["metadata"].get("nbgrader", {}).get("grade") else [cell, copied]
    notebook["cells"] = doubled + doubled[:4]
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
