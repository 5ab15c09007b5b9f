"""The lint of question banks: what it proves of the real ones, and that it finds each fault."""

# ruff: noqa: E501 - a fault a line
from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from distlab.cli import main
from distlab.course.quiz.bank import BankError, bank_paths, read_bank
from distlab.course.quiz.expression import Expression, ExpressionError, functions
from distlab.course.quiz.lint import SEEDS, check_quizzes, problems_of
from tests.course.small_quiz import BANK, QUIZ_ID, write_bank

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", bank_paths(ROOT), ids=lambda path: path.stem)
def test_the_courses_banks_are_right(path: Path) -> None:
    assert problems_of(path, SEEDS) == []
    bank = read_bank(path)
    assert bank.pass_mark == 0.8
    assert all(question.check is not None for question in bank.questions if question.key is not None)


@pytest.mark.parametrize("path", bank_paths(ROOT), ids=lambda path: path.stem)
def test_a_bank_has_25_questions_of_all_kinds(path: Path) -> None:
    questions = read_bank(path).questions
    assert len(questions) == 25
    assert {question.points for question in questions} == {4}
    assert {question.kind for question in questions} == {"numeric", "choice", "ordering", "code"}


def test_mod_202_asks_of_every_chapter() -> None:
    (path,) = (path for path in bank_paths(ROOT) if path.stem == "mod-202-quiz")
    first = Counter(question.see.split(",")[0] for question in read_bank(path).questions)
    assert set(first) == {f"chapter {number}" for number in range(1, 8)}
    assert min(first.values()) >= 3


def test_mod_202_sends_to_sections_that_are_there() -> None:
    """What begins with a capital or a digit is a heading, or how one begins; the rest are topics."""
    (path,) = (path for path in bank_paths(ROOT) if path.stem == "mod-202-quiz")
    pages = {
        str(int(page.name[:2])): page.read_text(encoding="utf-8")
        for page in (ROOT / "book" / "mod-202").glob("0*.md")
    }
    checked = set()
    for question in read_bank(path).questions:
        for place in question.see.split("; "):
            chapter, title = place.removeprefix("chapter ").split(", ", 1)
            if chapter in pages and not title[0].islower():
                assert re.search(rf"^###? {re.escape(title)}", pages[chapter], re.MULTILINE), place
                checked.add(chapter)
    assert checked >= {"1", "4", "5", "6"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bank(tmp_path)
    assert check_quizzes(tmp_path, seeds=20) == 0
    assert capsys.readouterr().out == f"{path}: 5 questions, 100 points, right for 20 learners\n"
    write_bank(tmp_path, BANK.replace("bounds: [3, 40]", "bounds: [3, 4]"))
    with pytest.raises(SystemExit, match="1"):
        main(["course", "check-quizzes", "--root", str(tmp_path), "--seeds", "20"])
    assert "question q01: the key" in capsys.readouterr().err
    path.rename(path.with_name("quiz.yaml"))
    assert check_quizzes(tmp_path) == 2
    assert "named like mod-107-quiz.yaml" in capsys.readouterr().err


def test_the_instructors_page_says_what_is_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "book" / "instructor" / "quizzes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert problems_of(write_bank(tmp_path, example)) == []
    check_quizzes(ROOT)
    for line in capsys.readouterr().out.replace(f"{ROOT}/", "").splitlines():
        assert line in page


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        # of the bank
        ("- id: q02", "- id: q01", "2 questions have the id q01"),
        ("points: 30\n    given", "points: 31\n    given", "the points add up to 101; a quiz has 100"),
        ("  - distlab.predict.registry.value", "  - distlab.predict.registry.value\n  - distlab.predict.units.GB", "no formula uses GB"),
        # of a key
        ("key: ring_all_reduce_s(payload_MB * 1e6, gpus, link) * 1e3", "key: payload_MB / gpus", "the key 'payload_MB / gpus' is typed"),
        ("key: microbatches_for(stages, efficiency)", 'key: value("ib_hdr_Bps") / 1e9', "is typed: it calls no function"),
        ("check: 2 * (gpus - 1) * 5e-3", "check: 2 * gpus * 5e-3", "the check"),
        ("check: 2 * (gpus - 1) * 5e-3", "check: ring_all_reduce_s(1, 2, link) + 2 * (gpus - 1) * 5e-3", "check is no second way: it calls"),
        ("bounds: [0.5, 400]", "bounds: [0.5, 40]", "is outside its bounds 0.5 to 40"),
        ("link: Link(alpha_us * 1e-6, 50e9)", "link: Link(alpha_us * 1e-6, 0)", "cannot be computed: SettingError("),
        ("gpus: [4, 8, 16, 32, 64]\n      payload_MB: {from: 100, to: 900, step: 50}", "gpus: [4, 8]\n      payload_MB: [100, 100]", "have 2 different keys; give it more to draw from"),
        # of wrong answers
        ("value: payload_MB / 50\n", "value: 2 * payload_MB / 50\n", "too near the key"),
        ("value: billions * 16", "value: zero_memory(billions * 1e9, 8, 1).total_bytes / 1e9", "two of the answers look the same"),
        ("value: billions * 16", "value: 1.01 * billions * 2 / 8", "are too near each other to choose between"),
        ("value: stages / (1 - efficiency)", "value: 1.001 * microbatches_for(stages, efficiency)", "no case tells"),
        ("right: code == 94", "right: code == 79", "2 options are right with code = 79; it must be one"),
        ("right: code == 94", "right: code == 95", "0 options are right with code = 94; it must be one"),
        ("right: false", "right: code == 13", "'Nothing.' is never right"),
        ("text: Restart the program.", "text: Nothing.", "two of the answers look the same"),
        ('value: value("pcie5_x16_Bps")', 'value: value("nvlink4_Bps")', "two items have the same value"),
        # of texts and names
        ("{gpus} GPUs all-reduce", "{gpu} GPUs all-reduce", "the text has {gpu}, and nothing of that name is given"),
        ("value: payload_MB / 50\n", "value: payload / 50\n", "'payload / 50' uses payload: not given"),
        ("code: [79, 94]", "value: [79, 94]", "value is given and a function"),
    ],
)  # fmt: skip
def test_a_fault_is_found(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in BANK
    problems = problems_of(write_bank(tmp_path, BANK.replace(old, new, 1)), seeds=40)
    assert any(problem in each for each in problems), problems


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("kind: numeric", "kind: number", "question q01: kind is 'number'; known: numeric, choice, ordering, code"),
        ("    unit: ms\n", "", "question q01: the question has no unit"),
        ("unit: ms", "unit: ''", "question q01: unit must be a text"),
        ("    explanation: Twice the bytes, nearly.\n", "", "question q01: the question has no explanation"),
        ("tolerance: 2%", "tolerances: 2%", "unknown 'tolerances'; the nearest is 'tolerance'"),
        ("tolerance: 2%", "tolerance: 0", "tolerance is 0; it is a share such as 2%"),
        ("tolerance: 2%", "tolerance: 60%", "tolerance is '60%'"),
        ("id: q01", "id: one", "id is 'one'; it is q and two digits"),
        ("points: 30", "points: 0", "points is 0; it is a number above 0"),
        ("pass_mark: 0.8", "pass_mark: 80", "pass_mark is 80; it is a share of the points"),
        ("bounds: [3, 40]", "bounds: [40, 3]", "bounds is [40, 3]"),
        ("{from: 100, to: 900, step: 50}", "{from: 900, to: 100, step: 50}", "a range has numbers, from below to"),
        ("code: [79, 94]", "code: [79]", "code: give a list of two or more values"),
        ("        why: each byte crosses one link once\n", "", "each of wrong has no why"),
        ("cases: 6", "cases: 1", "is tried on 2 to 20 cases"),
        ("kind: numeric\n", "kind: numeric\n    kind: numeric\n", "'kind' is there twice"),
        ("- distlab.predict.registry.value", "- os.system", "a bank uses functions of distlab.predict."),
        ("- distlab.predict.registry.value", "- distlab.predict.registry.values", "there is no 'distlab.predict.registry.values'"),
        ("key: microbatches_for(stages, efficiency)", "key: '[].__class__'", "__class__ is private"),
        ("questions:", "question:", "the bank has an unknown 'question'; the nearest is 'questions'"),
        ("title: A small quiz", "title: [", "is not YAML: "),
    ],
)  # fmt: skip
def test_a_bank_of_another_form_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in BANK
    path = write_bank(tmp_path, BANK.replace(old, new, 1))
    with pytest.raises(BankError) as refused:
        read_bank(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert problem in str(refused.value)


def test_a_bank_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = write_bank(tmp_path)
    assert read_bank(path) is read_bank(path)
    write_bank(tmp_path, BANK.replace("A small quiz", "Another title"))
    assert read_bank(path).title == "Another title"
    assert read_bank(path).id == QUIZ_ID
    with pytest.raises(BankError, match=r"mod-9-quiz.yaml: cannot be read"):
        read_bank(path.with_name("mod-9-quiz.yaml"))


@pytest.mark.parametrize(
    "source",
    [
        "__import__('os')",
        "(1).real.__class__",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "a[0]",
        "f'{a}'",
        "(lambda: 1)()",
        "a.b()",
        "open('/etc/passwd')",
        "x := 1",
        "1; 2",
        "",
    ],
)
def test_a_formula_has_no_more_than_arithmetic(source: str) -> None:
    with pytest.raises(ExpressionError):
        Expression.parse(source).value({"a": (1, 2)})


def test_a_formula_gives_a_finite_number() -> None:
    names = {**functions(["distlab.predict.units.GB"]), "n": 8}
    assert Expression.parse("max(2, sqrt(n * 2)) * GB").number(names) == 4e9
    assert Expression.parse("n if n > 2 and not n == 9 else 0").number(names) == 8
    for source in ("1e308 * 10", "n > 2", "'a' + 'b'", "n / 0", "m"):
        with pytest.raises(ExpressionError, match=r"finite number|cannot be computed"):
            Expression.parse(source).number(names)
