"""Seeds and draws: whose numbers they are, that they stay the same, and the secret that they come from."""

from __future__ import annotations

import hmac
import re
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distlab.course.quiz.bank import BankError, read_bank
from distlab.course.quiz.draw import Draws, course_secret, draw_all, filled, make_secret, seed_of
from tests.course.small_quiz import BANK, QUIZ_ID, write_bank

SECRET = bytes(range(32))


def test_the_seed_is_an_hmac_of_user_and_assignment() -> None:
    assert seed_of(SECRET, "alice", QUIZ_ID) == hmac.digest(SECRET, b"alice\0" + QUIZ_ID.encode(), "sha256")
    seeds = {
        seed_of(secret, user, quiz)
        for secret in (SECRET, bytes(32))
        for user in ("alice", "bob", "a")
        for quiz in (QUIZ_ID, "mod-2-quiz", "lice\0mod-1-quiz")
    }
    assert len(seeds) == 2 * 3 * 3
    # The generic variant is nobody's, and no secret is in it.
    assert seed_of(SECRET, "", QUIZ_ID) == seed_of(bytes(32), "", QUIZ_ID)


def test_the_secret_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "course-secret"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: make_secret(path), range(32)))
    secret = course_secret(path)
    make_secret(path)
    assert course_secret(path) == secret
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with pytest.raises(ValueError, match="is not there; the exchange makes it"):
        course_secret(tmp_path / "another")
    make_secret(tmp_path / "another")
    assert course_secret(tmp_path / "another") != secret


def test_a_damaged_secret_is_no_secret(tmp_path: Path) -> None:
    for text in ("", "short", "z" * 64, "00" * 33):
        path = tmp_path / "course-secret"
        path.write_text(text)
        with pytest.raises(ValueError, match="holds no course secret; restore it from a backup"):
            course_secret(path)
        assert path.read_text() == text


def test_draws_stay_the_same() -> None:
    """Written down: a change of them changes the questions of everyone who has fetched theirs."""
    draws = Draws(SECRET, "q01")
    assert [draws.below(1000) for _ in range(5)] == [414, 395, 594, 949, 105]
    key = hmac.digest(SECRET, b"q01", "sha256")
    assert int.from_bytes(hmac.digest(key, (1).to_bytes(8, "big"), "sha256"), "big") % 1000 == 414
    assert Draws(SECRET, "q02").shuffled("ABCDE") == ["D", "C", "E", "A", "B"]


def test_draws_are_even() -> None:
    draws = Draws(SECRET, "even")
    counts = Counter(draws.one_of("ABCDE") for _ in range(5000))
    assert max(counts.values()) - min(counts.values()) < 200  # five standard deviations of 28 either way
    orders = Counter("".join(draws.shuffled("ABC")) for _ in range(3000))
    assert len(orders) == 6
    assert max(orders.values()) - min(orders.values()) < 200


def test_a_new_question_leaves_the_others_alone(tmp_path: Path) -> None:
    bank = read_bank(write_bank(tmp_path))
    before = {variant.question.id: variant for variant in draw_all(bank, SECRET)}
    write_bank(tmp_path, BANK.replace("- id: q03", "- id: q13").replace("- id: q01", "- id: q99"))
    after = {variant.question.id: variant for variant in draw_all(read_bank(write_bank(tmp_path)), SECRET)}
    assert {name: after[name].text for name in ("q02", "q04", "q05")} == {
        name: before[name].text for name in ("q02", "q04", "q05")
    }


def test_what_a_question_says_of_its_kind(tmp_path: Path) -> None:
    numeric, choice, ordering, code, sentences = draw_all(read_bank(write_bank(tmp_path)), SECRET)
    low, high = numeric.interval
    assert isinstance(numeric.key, float)
    assert low < numeric.key < high
    assert high - low == pytest.approx(0.04 * numeric.key)
    assert isinstance(choice.key, str)
    assert choice.choices["ABC".index(choice.key)] == f"{choice.wrong[0][0]:.1f} GB"
    assert isinstance(ordering.key, str)
    names = [ordering.choices["ABC".index(letter)] for letter in ordering.key]
    assert names == ["InfiniBand HDR", "PCIe 5.0 x16", "NVLink 4"]
    assert len(code.cases) == 6
    for case in code.cases:
        stages, efficiency = case.arguments
        assert case.key / (case.key + stages - 1) == pytest.approx(efficiency)
    assert isinstance(sentences.key, str)
    right = sentences.choices["ABC".index(sentences.key)]
    assert (
        right == {"79": "Drain the node and restart it.", "94": "Restart the program."}[sentences.text[24:26]]
    )


def test_texts_are_filled() -> None:
    names = {"n": 1200, "x": 0.5, "name": "NVLink", "f": abs}
    assert filled("{n:,} of {name} at {x}, {n}, $\\frac{1}{2}$", names) == (
        "1,200 of NVLink at 0.5, 1200, $\\frac{1}{2}$"
    )
    for text in ("{m}", "{f}", "{name:.1f}", "{n!r}{m:d}"):
        with pytest.raises(BankError):
            filled(text, names)


def test_answers_to_choose_from_are_in_one_notation(tmp_path: Path) -> None:
    text = BANK.replace("shown: .1f", "shown: .2g")
    assert text != BANK
    bank = read_bank(write_bank(tmp_path, text))
    choices = {
        choice
        for number in range(20)
        for variant in draw_all(bank, seed_of(SECRET, f"learner-{number}", QUIZ_ID))
        if variant.question.id == "q02"
        for choice in variant.choices
    }
    assert all(re.fullmatch(r"[0-9.]+ GB", choice) for choice in choices), choices
    assert "480 GB" in choices  # 4.8e+02 to Python
