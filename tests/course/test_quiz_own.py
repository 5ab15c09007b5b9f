"""Everyone's own questions: what a learner gets, what they are graded by, and that the first never holds the second."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import compute_checksum  # type: ignore[import-untyped]

from distlab.cli import main
from distlab.course.accounts.store import Accounts, Person
from distlab.course.exchange.client import ClientError
from distlab.course.exchange.store import Store
from distlab.course.export import export_learner
from distlab.course.grade.collected import Lab
from distlab.course.grade.labwork import restored, work_of
from distlab.course.grade.submission import parse_notebook
from distlab.course.grade.work import Kind, Work
from distlab.course.labsource import hidden_lines
from distlab.course.quiz.bank import BankError, Question, bank_paths
from distlab.course.quiz.draw import Variant, course_secret, make_secret, seed_of
from distlab.course.quiz.own import GENERIC, QuizUnavailable, Quizzes, publish_bank, quiz_cells
from distlab.course.release import ReleaseError, release_all
from distlab.course.site import Site
from tests.course.exchange_rig import Rig, lab_folder, running, token
from tests.course.small_quiz import BANK, QUIZ_ID, write_bank

ROOT = Path(__file__).parents[2]
REAL_QUIZZES = [path.stem for path in bank_paths(ROOT)]
USERS = [f"learner-{number}" for number in range(50)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site on which the small quiz and the real ones are released."""
    root = tmp_path_factory.mktemp("site")
    small = write_bank(root)
    for path in bank_paths(ROOT):
        shutil.copy(path, small.parent)
    site = Site(root)
    site.secrets.mkdir(parents=True)
    (site.secrets / "course-secret").write_text("5e" * 32)  # the same draws at every run
    assert sorted(release_all(site)) == sorted([QUIZ_ID, *REAL_QUIZZES])
    assert release_all(site) == []
    return site


@pytest.fixture(scope="module")
def quizzes(site: Site) -> Quizzes:
    return Quizzes.of(site)


def learners_copy(site: Site, user: str, quiz_id: str = QUIZ_ID) -> bytes:
    folder = Store(site.exchange).assignment(quiz_id)
    return Quizzes.of(site).own_files(quiz_id, user, folder)[f"{quiz_id}.ipynb"]


def cells_of(notebook: bytes) -> dict[str, Any]:
    cells = json.loads(notebook)["cells"]
    return {
        cell["metadata"]["nbgrader"]["grade_id"]: cell for cell in cells if cell["metadata"].get("nbgrader")
    }


def submission_of(site: Site, user: str, answers: dict[str, str], quiz_id: str = QUIZ_ID) -> NotebookNode:
    """What `user` was given, with these cells as answers."""
    notebook = json.loads(learners_copy(site, user, quiz_id))
    for cell in notebook["cells"]:
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        cell["source"] = answers.get(grade_id, cell["source"])
    return parse_notebook(json.dumps(notebook).encode())


def model_answers(quizzes: Quizzes, user: str, quiz_id: str = QUIZ_ID) -> dict[str, str]:
    cells = quizzes.source(quiz_id, user).cells
    named = {cell.metadata.nbgrader.grade_id: cell for cell in cells if "nbgrader" in cell.metadata}
    return {grade_id: cell.source for grade_id, cell in named.items() if cell.metadata.nbgrader.solution}


def points(work: Work) -> dict[str, float]:
    """What the work earns by its tests, with the learner's code and each test in namespaces of their own."""
    learner: dict[str, Any] = {}
    earned = {}
    for cell in work.cells:
        if cell.kind == Kind.CODE:
            try:
                exec(cell.source, learner)
            except NotImplementedError:
                continue
        else:
            given = {name: learner[name] for name in work.names if name in learner}
            try:
                exec(cell.source, given)
                earned[cell.grade_id] = cell.points
            except (AssertionError, NameError, NotImplementedError):
                earned[cell.grade_id] = 0
    return earned


def graded(quizzes: Quizzes, user: str, submission: NotebookNode, quiz_id: str = QUIZ_ID) -> dict[str, float]:
    """As the coordinator does it: the source of `user`, the answers of the submission."""
    source = quizzes.source(quiz_id, user)
    return points(work_of(quiz_id, source, restored(source, submission)))


def test_the_gradebook_and_the_released_notebook_are_the_generic_variant(
    site: Site, quizzes: Quizzes
) -> None:
    released = (site.course / "release" / QUIZ_ID / f"{QUIZ_ID}.ipynb").read_bytes()
    source = (site.course / "source" / QUIZ_ID / f"{QUIZ_ID}.ipynb").read_bytes()
    generic = quizzes.quiz_cells(QUIZ_ID, GENERIC)
    for grade_id, text in generic.items():
        assert "".join(cells_of(source)[grade_id]["source"]) == text
    assert "HIDDEN TESTS" in source.decode()
    assert "HIDDEN TESTS" not in released.decode()


def test_everyone_has_numbers_of_their_own(site: Site) -> None:
    copies = {user: learners_copy(site, user) for user in USERS}
    assert len(set(copies.values())) == len(USERS)
    assert copies["learner-7"] == learners_copy(site, "learner-7")
    texts = {"".join(cells_of(copy)["q01-text"]["source"]) for copy in copies.values()}
    assert len(texts) > 25
    # Nothing else differs: what tests the form is the same for all.
    rest = [{k: v for k, v in cells_of(copy).items() if not k.endswith("-text")} for copy in copies.values()]
    assert all(each == rest[0] for each in rest)


@pytest.mark.parametrize("quiz_id", [QUIZ_ID, *REAL_QUIZZES])
def test_no_learner_gets_a_key_a_hidden_test_or_the_seed(site: Site, quizzes: Quizzes, quiz_id: str) -> None:
    secret = course_secret(quizzes.secret)
    questions = quizzes.bank(quiz_id).questions
    told = ["Not the expected answer", "HIDDEN TESTS", "BEGIN SOLUTION", "<=", "== '", *secrets_of(questions)]
    for user in USERS:
        plain = learners_copy(site, user, quiz_id).decode().replace('\\"', '"')
        for variant in quizzes.variants(quiz_id, user):
            assert not [form for form in forms_of(variant) if form in plain]
        for user_or_generic in (user, GENERIC):
            for source in quizzes.quiz_cells(quiz_id, user_or_generic).values():
                assert not [line for line in hidden_lines(source) if line in plain]
        for seed in (secret, seed_of(secret, user, quiz_id), seed_of(b"", GENERIC, quiz_id)):
            assert seed.hex() not in plain
            assert str(int.from_bytes(seed, "big")) not in plain
        assert not [text for text in told if text in plain]


def secrets_of(questions: Sequence[Question]) -> Iterator[str]:
    """What a bank says of its questions and learners do not get."""
    for question in questions:
        yield from (question.explanation, question.see)
        yield from (wrong.why for wrong in question.wrong)
        yield from (option.why for option in question.options)
        yield from (each.source for each in (question.key, question.check) if each is not None)


def forms_of(variant: Variant) -> Iterator[str]:
    """How a key would be written where it had leaked."""
    name = variant.question.answer
    if variant.question.kind == "code":
        for case in variant.cases:
            yield from (f"{case.arguments!r}, ", f"{case.key!r}," if len(repr(case.key)) > 6 else "return {")
    elif isinstance(variant.key, int | float):
        low, high = variant.interval
        yield from (f"{name} = {variant.key!r}", f"{name} = {variant.key:.3g}", f"{low!r} <=", f"<= {high!r}")
        if len(repr(variant.key)) > 6:  # as a shorter one another number of the text can be
            yield repr(variant.key)
    else:
        yield from (f"{name} = {variant.key!r}", f'{name} = "{variant.key}"', f"{name} == {variant.key!r}")


def test_the_learners_repository_has_no_bank(tmp_path: Path) -> None:
    write_bank(tmp_path / "repository")
    (tmp_path / "repository" / "README.md").write_text("read me")
    for arguments in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", "-C", str(tmp_path / "repository"), *arguments], check=True)
    assert export_learner(tmp_path / "repository", tmp_path / "copy") == 1
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["README.md"]


def test_a_learners_questions_are_shown_with_keys(
    site: Site, quizzes: Quizzes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTLAB_ROOT", str(site.root))
    accounts = Accounts(site)
    accounts.invite({"alice": Person("alice")})
    accounts.close()
    with pytest.raises(SystemExit, match="2"):
        main(["course", "show-quiz", QUIZ_ID, "alcie"])
    said = capsys.readouterr()
    assert said.out == ""  # no key
    assert "'alcie' has no account on this site; did you mean 'alice'?" in said.err
    with pytest.raises(SystemExit, match="0"):
        main(["course", "show-quiz", QUIZ_ID, "alice"])
    shown = capsys.readouterr().out
    for variant in quizzes.variants(QUIZ_ID, "alice"):
        assert variant.text in shown
        assert variant.question.explanation in shown
    (first, second, *_) = quizzes.variants(QUIZ_ID, "alice")
    assert f"Key: {first.key:g} ms, right from {first.interval[0]:g} to {first.interval[1]:g}. Twice" in shown
    assert f"Key: {second.key}. Stage 1" in shown
    with pytest.raises(SystemExit, match="2"):
        main(["course", "show-quiz", "mod-2-quiz", "alice"])
    assert "cannot be read" in capsys.readouterr().err


def test_a_checksum_is_of_what_the_learner_sees(site: Site) -> None:
    """One of the hidden test's text would let a learner try keys against it."""
    for cell in parse_all(learners_copy(site, "alice")):
        if "checksum" in cell.metadata.get("nbgrader", {}):
            assert compute_checksum(cell) == cell.metadata.nbgrader.checksum


def parse_all(notebook: bytes) -> list[NotebookNode]:
    cells: list[NotebookNode] = nbformat.reads(notebook.decode(), as_version=4).cells
    return cells


@pytest.mark.parametrize("quiz_id", [QUIZ_ID, *REAL_QUIZZES])
def test_the_own_answers_earn_all_and_the_untouched_notebook_nothing(
    site: Site, quizzes: Quizzes, quiz_id: str
) -> None:
    for user in USERS[:5]:
        for answers, earned in ((model_answers(quizzes, user, quiz_id), 100), ({}, 0)):
            submission = submission_of(site, user, answers, quiz_id)
            assert sum(graded(quizzes, user, submission, quiz_id).values()) == earned


def test_another_learners_answers_do_not_fit(site: Site, quizzes: Quizzes) -> None:
    copied = model_answers(quizzes, "alice")
    passed = [graded(quizzes, user, submission_of(site, user, copied))["q01-key"] > 0 for user in USERS]
    assert sum(passed) < 5


def test_wrong_answers_fail_and_only_those(site: Site, quizzes: Quizzes) -> None:
    answers = model_answers(quizzes, "alice")
    (first, *_) = quizzes.variants(QUIZ_ID, "alice")
    low, high = first.interval
    for text, right in {
        **{f"answer_q01 = {number!r}": True for number in (low, high, first.key)},
        f"answer_q01 = {first.wrong[0][0]}": False,
        "answer_q01 = None": False,
        "answer_q01 = float('nan')": False,
        "answer_q01 = 10**400": False,
        "answer_q01 = True": False,
        f"answer_q01 = '{first.key}'": False,
        "answer_q01 = [1]": False,
    }.items():
        earned = graded(quizzes, "alice", submission_of(site, "alice", {**answers, "q01": text}))
        assert (earned["q01-key"] == 30) is right, text
        assert sum(earned.values()) == (100 if right else 70)


def test_a_collected_submission_is_graded_by_its_owners_tests(
    site: Site, quizzes: Quizzes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTLAB_ROOT", str(site.root))
    for owner, author in (("alice", "alice"), ("bob", "alice")):
        folder = site.course / "submitted" / owner / QUIZ_ID
        folder.mkdir(parents=True, exist_ok=True)
        notebook = submission_of(site, author, model_answers(quizzes, author))
        nbformat.write(notebook, folder / f"{QUIZ_ID}.ipynb")
    lab = Lab(site.course, QUIZ_ID)
    assert sum(points(lab.collect("alice").work).values()) == 100
    of_bob = lab.collect("bob")
    assert points(of_bob.work)["q01-key"] == 0
    texts = [cell.source for cell in of_bob.notebook.cells if cell.cell_type == "markdown"]
    assert quizzes.quiz_cells(QUIZ_ID, "bob")["q01-text"] in texts

    monkeypatch.setenv("DISTLAB_ROOT", str(site.root / "elsewhere"))
    with pytest.raises(QuizUnavailable, match="the questions of alice in mod-1-quiz cannot be made"):
        lab.collect("alice")


def test_what_a_submission_says_of_its_questions_is_ignored(site: Site, quizzes: Quizzes) -> None:
    """Another learner's whole notebook, with its answers and with tests that it claims for its own."""
    answers = model_answers(quizzes, "bob")
    forged = {**answers, "q01-key": "assert True", "q01-text": "## Question 1\n\nWhat is 1 + 1?"}
    source = quizzes.source(QUIZ_ID, "alice")
    cells = restored(source, submission_of(site, "bob", forged))
    text = next(
        cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "q01-text"
    )
    assert text == quizzes.quiz_cells(QUIZ_ID, "alice")["q01-text"]
    earned = points(work_of(QUIZ_ID, source, cells))
    assert earned["q01-key"] == 0


def test_released_numbers_stay_and_the_rest_may_be_corrected(tmp_path: Path) -> None:
    site = Site(tmp_path)
    make_secret(Quizzes.of(site).secret)

    def publish(text: str) -> dict[str, str]:
        publish_bank(site, write_bank(tmp_path, text))
        return Quizzes.of(site).quiz_cells(QUIZ_ID, "alice")

    before = publish(BANK)
    with pytest.raises(BankError, match=r"q01 is released, and its numbers have changed.* q01b"):
        publish(BANK.replace("step: 50", "step: 25"))
    for old, new in (
        ("alpha_us: 2 + 3", "alpha_us: 2 + 8"),  # a formula that the text shows
        ("cases: 6", "cases: 7"),
        (
            "      - {text: NVLink 4",
            "      - {text: PCIe 6.0 x16, value: value('pcie6_x16_Bps')}\n      - {text: NVLink 4",
        ),
    ):
        assert old in BANK
        with pytest.raises(BankError, match="its numbers have changed"):
            publish(BANK.replace(old, new))
    assert Quizzes.of(site).quiz_cells(QUIZ_ID, "alice") == before

    # A bank that is being edited changes nothing until it is released.
    corrected = BANK.replace("tolerance: 2%", "tolerance: 5%").replace("How long", "For how long")
    write_bank(tmp_path, corrected)
    assert Quizzes.of(site).quiz_cells(QUIZ_ID, "alice") == before
    after = publish(corrected)
    assert {name for name in before if before[name] != after[name]} == {"q01-text", "q01-key"}
    assert numbers(before["q01-text"]) == numbers(after["q01-text"])

    # A question with an id of its own leaves the others as they are.
    cells = publish(BANK.replace("q01", "q01b").replace("step: 50", "step: 25"))
    assert "q01b-text" in cells
    assert all(cells[name] == before[name] for name in before if not name.startswith("q01"))


def numbers(text: str) -> list[str]:
    return re.findall(r"[0-9]+", text)


def test_a_bank_that_is_wrong_is_not_released(tmp_path: Path) -> None:
    write_bank(tmp_path, BANK.replace("payload_MB / 50\n        why", "payload_MB / 25\n        why"))
    with pytest.raises(
        ReleaseError, match=r"mod-1-quiz.yaml: question q01: the wrong answer .* is .*, too near the key"
    ):
        release_all(Site(tmp_path))
    assert Store(Site(tmp_path).exchange).released() == []


def test_a_quiz_that_is_not_released_has_no_questions(quizzes: Quizzes) -> None:
    with pytest.raises(BankError, match=r"mod-2-quiz.yaml: cannot be read"):
        quizzes.quiz_cells("mod-2-quiz", "alice")
    with pytest.raises(BankError, match="no quiz; a quiz's id looks like mod-107-quiz"):
        quizzes.quiz_cells("../secrets/x", "alice")
    assert quizzes.own_files("mod-107-lab-3", "alice", Path("nowhere")) == {}


@pytest.fixture(scope="module")
def exchange(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The exchange's service, giving out what is released on the site."""
    folder = tmp_path_factory.mktemp("rig")
    (folder / "exchange").symlink_to(site.exchange)
    with running(folder, "--secret", str(site.secrets / "course-secret")) as rig:
        yield rig


def test_the_exchange_gives_everyone_their_own(exchange: Rig, site: Site, tmp_path: Path) -> None:
    for user in ("alice", "bob", "teacher"):
        assert exchange.client(user).fetch_assignment(QUIZ_ID, tmp_path / user)
        fetched = tmp_path / user / QUIZ_ID / f"{QUIZ_ID}.ipynb"
        assert fetched.read_bytes() == learners_copy(site, user)
        fetched.unlink()
        exchange.client(user).fetch_assignment(QUIZ_ID, tmp_path / user, restore={fetched.name})
        assert fetched.read_bytes() == learners_copy(site, user)
    listed = exchange.client("alice").assignments()
    assert {"assignment_id": QUIZ_ID, "notebooks": [QUIZ_ID]} in listed
    receipt = exchange.client("alice").submit(QUIZ_ID, [(fetched.name, fetched)], None)
    assert (receipt["user"], receipt["assignment"]) == ("alice", QUIZ_ID)


def test_hidden_tests_are_for_teachers_alone(
    exchange: Rig, quizzes: Quizzes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exchange.client("teacher").quiz_cells(QUIZ_ID, "alice") == quizzes.quiz_cells(QUIZ_ID, "alice")
    for user in ("alice", "bob", "guest"):
        with pytest.raises(ClientError, match=r"may not do this|may not use"):
            exchange.client(user).quiz_cells(QUIZ_ID, "alice")
    for quiz_id, user, why in (
        ("mod-2-quiz", "alice", "cannot be read"),
        (QUIZ_ID, "../bob", "no user name"),
        ("mod-107-lab-3", "alice", "no quiz"),
    ):
        with pytest.raises(ClientError, match=why) as refused:
            exchange.client("teacher").quiz_cells(quiz_id, user)
        assert refused.value.status == 404

    monkeypatch.setenv("DISTLAB_EXCHANGE_URL", exchange.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", token("teacher"))
    assert quiz_cells(QUIZ_ID, "bob") == quizzes.quiz_cells(QUIZ_ID, "bob")
    with pytest.raises(QuizUnavailable, match="the questions of bob in mod-2-quiz cannot be made: "):
        quiz_cells("mod-2-quiz", "bob")


def test_a_lab_is_given_out_as_it_is(tmp_path: Path) -> None:
    with running(tmp_path, "--secret", str(tmp_path / "secret")) as rig:
        folder = lab_folder(tmp_path, data="1 2 3")
        files = [(path.name, path) for path in folder.iterdir()]
        rig.client("teacher").release(folder.name, files, replace=False)
        rig.client("alice").fetch_assignment(folder.name, tmp_path / "alice")
        fetched = tmp_path / "alice" / folder.name
        assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
    assert not (tmp_path / "secret").exists()  # made at first use
