"""
attack: a notebook that is nested a hundred thousand deep
after: a coordinator that dies of recursion
"""

from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    (folder / "mod-1-lab-1.ipynb").write_text('{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}")
