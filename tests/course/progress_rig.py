"""An exchange with a small module's assignments, and learners who hand in, for the tests of progress."""

from __future__ import annotations

import json
from pathlib import Path

from distlab.course.exchange.bundle import Bundle, find_files
from distlab.course.exchange.store import Receipt, Store, publish
from distlab.course.progress.record import standings
from distlab.course.progress.standing import Work
from distlab.course.progress.table import Module, Part
from distlab.course.site import Site

ROOT = Path(__file__).parents[2]

LAB = Part("mod-9-lab-1", "Lab 1", "mod-9/lab-1", 80, "passed", "Add")
QUIZ = Part("mod-9-quiz", "Quiz", "mod-9/quiz", 80, "passed", "Ask")
DESIGN = Part("mod-9-lab-8", "Design", "mod-9/design", 80, "nothing", "Draw")
PROJECT = Part("mod-9-lab-9", "Project", "mod-9/project", 80, "submitted", "Build")
MODULE = Module("mod-9", "Nine", "mod-9/index", (LAB, QUIZ, DESIGN, PROJECT))

HEAD = '<!DOCTYPE html>\n<html>\n<head>\n<meta content="{} of {}" name="distlab-mark"/>\n'


class Exchange:
    """A store with the parts of MODULE, and learners who hand in."""

    def __init__(self, site: Site, folder: Path) -> None:
        """`folder` is for what is handed in."""
        self.site, self.folder = site, folder
        table = [
            {"module": "mod-9", "title": "Nine", "page": "mod-9/index", "parts": [vars(p) for p in MODULE.parts]}
        ]  # fmt: skip
        (self.site.var / "completion.yml").write_text(json.dumps(table))
        self.store = Store(self.site.exchange)
        for part in (LAB, QUIZ, PROJECT):
            publish(self.site, part.id, self.notebook(part.id))

    def notebook(self, *names: str) -> Path:
        folder = self.folder / "-".join(names)
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / f"{name}.ipynb").write_text("{}")
        return folder

    def submit(self, user: str, lab: str, *notebooks: str) -> Receipt:
        files, _ = find_files(self.notebook(*(notebooks or (lab,))))
        with self.store.stage() as stage, Bundle(files, self.store.limits) as bundle:
            for path, source in files:
                (stage.content / path).write_bytes(source.read_bytes())
            return self.store.submit(stage, user, lab, bundle.entries)

    def release(self, receipt: Receipt, page: str, notebook: str = "") -> None:
        submission = self.store.submission(receipt.user, receipt.assignment, receipt.timestamp)
        with self.store.stage() as stage:
            (stage.content / "feedback.html").write_text(page)
            self.store.put_feedback(stage, "feedback.html", submission, notebook or receipt.assignment)

    def work(self, user: str, part: Part) -> Work:
        (found,) = standings(self.site, [user])[user]
        (work,) = [item.work for item in found.items if item.part == part]
        return work
