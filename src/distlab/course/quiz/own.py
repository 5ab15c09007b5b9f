"""What the exchange gives a learner of a quiz, and what the grader tests it with.

Both start from the bank as it was released (a copy beside what the exchange stores), so that a bank that is being
edited changes nobody's questions.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distlab.course.atomic import write_atomic
from distlab.course.quiz.bank import Bank, BankError, Question, read_bank
from distlab.course.quiz.draw import FIELD, Variant, course_secret, draw, draw_all, make_secret, seed_of
from distlab.course.quiz.notebook import lab_text, own_cells, own_texts, starters
from distlab.course.site import QUIZ_ID, Site
from distlab.errors import WorkError

BANKS = "banks"
"""Folder of the released banks, beside what the exchange stores."""

if TYPE_CHECKING:
    from nbformat.notebooknode import NotebookNode

GENERIC = ""
"""The user whose variant nbgrader's source and gradebook hold: nobody."""

COMPARED = 50
"""Of so many learners the numbers are compared before a changed bank takes the place of a released one."""


def is_quiz(assignment: str) -> bool:
    return QUIZ_ID.fullmatch(assignment) is not None


@dataclass(frozen=True)
class Quizzes:
    """Released quizzes, and the secret that makes everyone's questions their own."""

    banks: Path
    """Folder of the released banks: `<quiz-id>.yaml`."""
    secret: Path
    """The file that holds the course's secret; made when the first learner gets a quiz."""

    @classmethod
    def of(cls, site: Site) -> Quizzes:
        return cls(site.exchange / BANKS, site.secrets / "course-secret")

    def bank(self, quiz_id: str) -> Bank:
        """The released bank. Raises BankError where there is none."""
        if not is_quiz(quiz_id):
            raise BankError(f"{ascii(quiz_id)[:80]} is no quiz; a quiz's id looks like mod-107-quiz")
        return read_bank(self.banks / f"{quiz_id}.yaml")

    def variants(self, quiz_id: str, user: str) -> list[Variant]:
        """The questions of `user`, with keys."""
        bank = self.bank(quiz_id)
        secret = course_secret(self.secret) if user != GENERIC else b""
        return draw_all(bank, seed_of(secret, user, quiz_id))

    def quiz_cells(self, quiz_id: str, user: str) -> dict[str, str]:
        """As the function of that name, from the bank and the secret that lie here."""
        return own_cells(self.variants(quiz_id, user))

    def source(self, quiz_id: str, user: str) -> NotebookNode:
        """The quiz of `user` as `labsource.read_lab` reads a lab: model answers, visible and hidden tests.

        What `labwork.restored` and `labwork.work_of` take as the source.
        """
        return source_notebook(self.bank(quiz_id), self.variants(quiz_id, user))

    def learners_notebook(self, quiz_id: str, user: str, released: bytes) -> bytes:
        """The released notebook with the questions of `user`; nothing in it depends on a key."""
        make_secret(self.secret)
        notebook = json.loads(released)
        variants = self.variants(quiz_id, user)
        cells = {cell["metadata"].get("nbgrader", {}).get("grade_id"): cell for cell in notebook["cells"]}
        for grade_id, source in {**own_texts(variants), **starters(variants)}.items():
            cells[grade_id]["source"] = source.splitlines(keepends=True)
            # nbgrader would take the generic text's checksum for a change by the learner.
            cells[grade_id]["metadata"]["nbgrader"].pop("checksum", None)
        return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()

    def own_files(self, assignment: str, user: str, folder: Path) -> dict[str, bytes]:
        """Of a released folder, the files that `user` gets in a form of their own; of a lab none."""
        if not is_quiz(assignment):
            return {}
        name = f"{assignment}.ipynb"
        return {name: self.learners_notebook(assignment, user, (folder / name).read_bytes())}


class QuizUnavailable(WorkError):  # noqa: N818 - a state of the machine
    """A learner's questions cannot be had now: nobody's submission is to blame, and none can be graded."""


def quiz_cells(quiz_id: str, user: str) -> dict[str, str]:
    """By grade id, the texts and the hidden tests of `user`: they take the place of the generic ones.

    For whoever grades. `user` is whose submission it is by the exchange's word, never by the notebook's. In an
    instructor's server, where there is no secret, the exchange makes them; else this machine's site.

    Raises QuizUnavailable.
    """
    from distlab.course.exchange.client import Client, ClientError  # which the exchange itself does not need

    try:
        if "DISTLAB_EXCHANGE_URL" in os.environ:
            return Client.from_env().quiz_cells(quiz_id, user)
        return Quizzes.of(Site.from_env()).quiz_cells(quiz_id, user)
    except (ClientError, BankError, OSError, ValueError) as error:
        raise QuizUnavailable(f"the questions of {user} in {quiz_id} cannot be made: {error}") from error


def own_form(cells: list[NotebookNode], assignment: str, user: str) -> list[NotebookNode]:
    """The assignment's cells as `user` has them: of a quiz with their own questions and tests, of a lab as they are.

    Raises QuizUnavailable.
    """
    if not is_quiz(assignment):
        return cells
    own = quiz_cells(assignment, user)
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell.source = own.get(cell.metadata.nbgrader.grade_id, cell.source)
    return cells


def source_notebook(bank: Bank, variants: list[Variant]) -> NotebookNode:
    """A quiz's notebook with keys, checked as a lab's source is. Raises `labsource.LabError`."""
    from distlab.course.labsource import read_lab  # the exchange gives out quizzes without it

    with tempfile.TemporaryDirectory(prefix="distlab-quiz-") as folder:
        path = Path(folder, "quiz.md")
        path.write_text(lab_text(bank, variants), encoding="utf-8")
        return read_lab(path)


def generic_notebook(path: Path) -> NotebookNode:
    """What is released of the bank in `path`. Raises BankError and LabError."""
    bank = read_bank(path)
    return source_notebook(bank, draw_all(bank, seed_of(b"", GENERIC, bank.id)))


def publish_bank(site: Site, path: Path) -> None:
    """Make the bank in `path` the one that learners' questions are drawn from.

    Raises BankError where a question that is out already would have other numbers: whoever has it would be graded by
    what they never saw. Wording, keys and tolerances may be corrected.
    """
    released = Quizzes.of(site).banks / path.name
    if released.exists():
        old, new = read_bank(released), read_bank(path)
        before = {question.id: question for question in old.questions}
        for question in new.questions:
            if question.id in before and not _looks_the_same(old, before[question.id], new, question):
                raise BankError(
                    f"{path}: question {question.id} is released, and its numbers have changed; "
                    f"give the changed question an id of its own, such as {question.id[:3]}b"
                )
    write_atomic(released, path.read_bytes())


def _looks_the_same(old_bank: Bank, old: Question, new_bank: Bank, new: Question) -> bool:
    """Whether a learner sees the same numbers in both, and as many answers to choose from or to order."""
    texts = [old.text, *(option.text for option in old.options), *(item.text for item in old.items)]
    shown = {name for text in texts for name, _ in FIELD.findall(text)}
    names = sorted(shown & {*old.given, *old.let} | {*old.given})

    def seen(bank: Bank, question: Question) -> list[object]:
        seeds = (hashlib.sha256(f"{question.id} {number}".encode()).digest() for number in range(COMPARED))
        variants = [draw(bank, question, seed) for seed in seeds]
        return [
            [[v.names.get(name) for name in names], len(v.choices), [case.arguments for case in v.cases]]
            for v in variants
        ]

    return old.kind == new.kind and seen(old_bank, old) == seen(new_bank, new)
