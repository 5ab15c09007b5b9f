"""
attack: a notebook in UTF-16, with a byte order mark, NaN, a number of a million digits and a key that stands twice
after: a coordinator that dies while it reads
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    text = json.dumps(notebook)[:-1] + ', "x": NaN, "y": ' + "9" * 100_000 + ', "cells": [], "cells": 3}'
    (folder / "mod-1-lab-1.ipynb").write_bytes(text.encode("utf-16"))
