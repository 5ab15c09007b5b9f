"""
attack: a notebook whose parts are of other types than the format has, everywhere at once
after: a coordinator that dies of one submission, and takes the batch with it
"""

import json
from pathlib import Path

ODD = [None, 7, "text", [], {}, [[[]]], {"a": {"b": []}}, True, 1e308, -0.0, "\ud800"]


def submit(folder: Path, notebook: dict) -> None:
    cells = list(ODD)
    for odd in ODD:
        cells += [
            {
                "cell_type": odd,
                "source": odd,
                "metadata": odd,
                "outputs": odd,
                "execution_count": odd,
                "id": odd,
            },
            {
                "cell_type": "code",
                "source": [odd, "x = 1\n"],
                "metadata": {"nbgrader": odd, "tags": odd},
                "outputs": [odd],
            },
            {
                "cell_type": "code",
                "source": "1",
                "metadata": {"nbgrader": {"grade_id": odd, "points": odd}},
                "id": ["x"],
            },
            {
                "cell_type": "markdown",
                "source": "x",
                "metadata": {},
                "attachments": {"x": odd, "y": {"image/png": odd}},
            },
            {
                "cell_type": "code",
                "source": "1",
                "outputs": [{"output_type": "stream", "text": odd, "name": odd}],
            },
            {
                "cell_type": "code",
                "source": "1",
                "outputs": [{"output_type": "error", "traceback": odd, "ename": odd}],
            },
            {"cell_type": "code", "source": "1", "outputs": [{"output_type": "display_data", "data": odd}]},
        ]
    raw = {
        "cells": cells + notebook["cells"],
        "metadata": ODD,
        "nbformat": "99",
        "nbformat_minor": {},
        "worksheets": [1],
    }
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(raw))
