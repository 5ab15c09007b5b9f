"""
attack: more files beside the notebook than a submission may have
after: the disk and the time of whoever copies them
verdict: sandbox violation
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    for number in range(300):
        (folder / f"{number}.txt").write_text("x")
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
