"""
attack: all tests and answers are deleted, and only their ids, on cells of other types, are left
after: a total of the points that are left
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    notebook["cells"] = [
        {"cell_type": kind, "id": f"c-{number}", "source": "2.0", "metadata": cell["metadata"]}
        for number, (cell, kind) in enumerate(
            zip(notebook["cells"], ["raw", "markdown", "heading", "", None] * 9, strict=False)
        )
    ][2:5]
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
