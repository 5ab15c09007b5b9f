"""
attack: the notebook's order is turned around, so that tests stand before what they test, and answers come last
after: tests that are run before the notebook could fail them
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    notebook["cells"].reverse()
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
