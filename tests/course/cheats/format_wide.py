"""
attack: a notebook of millions of empty objects
after: the coordinator's memory: a small file, and twenty times as much once it is read
"""

from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    (folder / "mod-1-lab-1.ipynb").write_text(
        '{"metadata": [' + "{}," * 1_500_000 + '0], "cells": [' + "{}," * 100_000 + "0]}"
    )
