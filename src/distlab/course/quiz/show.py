"""What one learner was asked, with keys and explanations: to answer a question about a mark.

distlab course show-quiz mod-107-quiz alice

On the machine that holds the course's secret; prints answer keys.
"""

from __future__ import annotations

import difflib
import sys

from tyro.conf import Positional

from distlab.course.accounts.store import Accounts
from distlab.course.quiz.bank import BankError
from distlab.course.quiz.draw import Variant
from distlab.course.quiz.notebook import question_text
from distlab.course.quiz.own import Quizzes
from distlab.course.site import Site
from distlab.errors import SettingError, printable


def show_quiz(quiz: Positional[str], learner: Positional[str]) -> int:
    """Print a learner's own questions with keys and explanations.

    Args:
        quiz: the quiz's id.
        learner: whose.
    """
    site = Site.from_env()
    try:
        variants = Quizzes.of(site).variants(quiz, learner)
    except (BankError, OSError, ValueError) as error:
        print(f"distlab course show-quiz: {error}", file=sys.stderr)
        return 2
    _check_learner(site, learner)
    for number, variant in enumerate(variants, start=1):
        print(question_text(number, variant), f"Key: {key_in_words(variant)}", "", sep="\n\n")
    return 0


def _check_learner(site: Site, learner: str) -> None:
    """Raises `SettingError` where nobody of that name has an account: any name at all would have questions."""
    accounts = Accounts(site)
    try:
        known = accounts.names()
    finally:
        accounts.close()
    if learner not in known:
        near = difflib.get_close_matches(learner, known, n=1)
        raise SettingError(
            f"{printable(learner)!r} has no account on this site{f'; did you mean {near[0]!r}?' if near else '.'}"
        )


def key_in_words(variant: Variant) -> str:
    """The key, how far an answer may be from it, and how it comes about."""
    question = variant.question
    match question.kind:
        case "numeric":
            low, high = variant.interval
            key = f"{variant.key:g} {question.unit}, right from {low:g} to {high:g}"
        case "code":
            assert question.key is not None
            case = variant.cases[0]
            key = f"{question.key.source}, for example {case.key:g} {question.unit} for {case.arguments}"
        case _:
            key = str(variant.key)
    return f"{key}. {question.explanation}"
