"""Which labs' model answers pass their tests: run before a release, and once only.

A lab whose deep check lies in `benchmarks/deep/`, or whose model answer passed on this site before, costs nothing.
What it was then is kept as a digest: another lab than today's is found out.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from distlab.course import mutants, survivors
from distlab.course.atomic import write_atomic
from distlab.course.grade.labwork import lab_work
from distlab.course.labsource import LabError
from distlab.course.release import ReleaseError
from distlab.course.site import Site


def prove(site: Site, lab: str, console: Console) -> None:
    """Raises `ReleaseError`, naming cell and line, where the lab's model answer does not pass one of its tests.

    Where this machine cannot run it, `console` says so, and nothing is refused: that says nothing about the lab.
    """
    try:
        if is_proved(site, lab):
            return
        digest = inputs_digest(site.root, lab)
    except LabError as error:
        raise ReleaseError(str(error)) from error
    from distlab.course.check_lab import refuse_failing_model  # imports torch
    from distlab.course.grade.children import SandboxFailed

    console.print(f"{lab} is new or changed: its model answer runs against its tests, a minute or two.")
    try:
        with console.status(f"Running the model answer of {lab}"):
            refuse_failing_model(site.root, lab)
    except SandboxFailed as error:
        console.print(
            f"[yellow]The model answer of {lab} was not run:[/] {escape(str(error))}", soft_wrap=True
        )
        return
    remember(site, lab, digest)


def is_proved(site: Site, lab: str) -> bool:
    """Did the model answer of today's lab pass, in a deep check or on this site?"""
    digest = inputs_digest(site.root, lab)
    return digest in (_read(report_path(site.root, lab)).get("inputs"), _read(_kept(site)).get(lab))


def remember(site: Site, lab: str, digest: str) -> None:
    """That the model answer of the lab with this `inputs_digest` passed."""
    listed = json.dumps({**_read(_kept(site)), lab: digest}, indent=1, sort_keys=True)
    write_atomic(_kept(site), listed.encode())


def report_path(root: Path, lab: str) -> Path:
    """Where a deep check of a lab leaves its report."""
    return root / "benchmarks" / "deep" / f"{lab}.json"


def inputs_digest(root: Path, lab: str) -> str:
    """Of what a deep check runs: the lab's code and tests, its wrong answers, and how mutants are made.

    Not of why survivors may live: that is no reason to run anything again.

    Raises `LabError` where the source is not as it should be.
    """
    folder = root / "solutions" / lab
    digest = hashlib.sha256(json.dumps(lab_work(root, lab).to_json(), sort_keys=True).encode())
    files = sorted((folder / "wrong").glob("*.md"))
    files += [Path(module.__file__ or "") for module in (mutants, survivors)]
    for path in files:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _kept(site: Site) -> Path:
    return site.var / "proved.json"


def _read(path: Path) -> dict[str, Any]:
    """Empty where it is missing or none."""
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
