"""
attack: names of files that are paths, options, commands, controls, right-to-left text and pages
after: files outside the submission's folder, and scripts in a listing
honest: true
points: 13
"""

import json
from pathlib import Path

NAMES = (
    "..%2f..%2fgradebook.db", "..\\..\\gradebook.db", "-rf", "$(touch left)", "`id`", "a\nb",
    "\x1b[31mred", "\u202egnp.exe",
    "<script>alert(1)<", "con", "~", "*", "{}", "...", ".hidden", "index.html", "nbgrader_config.py", "x" * 200,
)  # fmt: skip


def submit(folder: Path, notebook: dict) -> None:
    for name in NAMES:
        (folder / name).write_text("<script>alert('XSS')</script>")
    (folder / "..." / "...").parent.with_name("deep").mkdir()
    (folder / "deep" / ".." / "deep" / "autograded.txt").write_text("x")
    (folder / "nbgrader_config.py").write_text("open('/tmp/config-was-run', 'w').write('x')\n1/0")
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
