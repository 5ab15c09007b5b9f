"""
attack: the notebook is a link to the course's own notebook with the hidden tests
after: the hidden tests' text, as the cells of its own feedback
"""

from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    course = folder.parents[2]
    (folder / "mod-1-lab-1.ipynb").symlink_to(course / "source" / "mod-1-lab-1" / "mod-1-lab-1.ipynb")
