"""The repository as learners may have it.

distlab course export-learner DIR

Git's tracked files, less what holds answers: `solutions/`, the tests of the labs (`tests/labs/`), and of
`assessments/` the question banks and everything in a folder `keys/` or named `*.key.*`. What is left is
searched for the text of the hidden tests: a copy that would hold a line of it is not made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from tyro.conf import Positional

from distlab.course.labsource import LabError, hidden_lines, is_hidden, read_lab
from distlab.course.release import lab_ids, source_path

KEPT_BACK = (
    "solutions/*",
    "tests/labs/*",
    "assessments/keys/*",
    "assessments/*/keys/*",
    "assessments/*.key.*",
    "assessments/*.yaml",
)
"""Patterns of paths that learners do not get; `*` crosses folders."""

TELLING = 40
"""A line of a hidden test from this length on is nobody else's line by chance; imports are."""


class ExportError(Exception):
    """The copy cannot be made; the target is as it was."""


def export_learner(root: Path, target: Path) -> int:
    """Copy to `target` (missing or empty) what learners may have of `root`; returns the number of files.

    Raises `ExportError`; the target then holds nothing of the copy.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} is not empty; name a folder that is empty or does not exist")
    names = [name for name in _tracked(root) if not any(fnmatch(name, pattern) for pattern in KEPT_BACK)]
    secrets = _hidden_text(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in names:
            _copy(root, name, stage, secrets)
        stage.chmod(0o755)
        os.rename(stage, target)
    except OSError as error:
        raise ExportError(f"the copy could not be written: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return len(names)


def export_learner_copy(target: Positional[Path], root: Path = Path(".")) -> int:
    """Write the repository as learners may have it, without solutions, hidden tests and answer keys.

    Args:
        target: a folder that is empty or does not exist.
        root: the repository.
    """
    try:
        count = export_learner(root.resolve(), target.resolve())
    except ExportError as error:
        print(f"distlab course export-learner: {error}", file=sys.stderr)
        return 2
    print(f"{count} files in {target}")
    return 0


def _tracked(root: Path) -> list[str]:
    # The repository may belong to someone else than who runs this; no hook or filter of it is run.
    command = ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise ExportError("the program git is not installed") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().split("\n")[0]
        raise ExportError(f"{root} is not a git repository whose files can be listed: {reason}") from error
    # A file that is tracked but deleted in the working tree is not copied.
    return [name for name in listed.split("\0") if name and os.path.lexists(root / name)]


def _hidden_text(root: Path) -> set[bytes]:
    """The telling lines of all hidden tests, less those that a lab's open part has too."""
    telling: set[str] = set()
    for lab_id in lab_ids(root):
        try:
            notebook = read_lab(source_path(root, lab_id))
        except LabError as error:
            raise ExportError(f"it is not clear what must not leave: {error}") from error
        hidden = [line for cell in notebook.cells for line in hidden_lines(cell.source)]
        open_text = "\n".join(cell.source for cell in notebook.cells if not is_hidden(cell.source))
        telling |= {
            line
            for line in hidden
            if len(line) >= TELLING and line not in open_text and not line.startswith(("import ", "from "))
        }
    return {line.encode() for line in telling}


def _copy(root: Path, name: str, stage: Path, secrets: set[bytes]) -> None:
    source, copy = root / name, stage / name
    if source.is_symlink():
        raise ExportError(f"{name} is a link; what it leads to cannot be checked")
    content = source.read_bytes()
    # In a notebook's JSON a quote is escaped.
    plain = content.replace(b'\\"', b'"')
    if any(secret in plain for secret in secrets):
        raise ExportError(f"{name} holds a line of a hidden test")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(content)
    copy.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
