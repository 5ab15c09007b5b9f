"""How fast passwords may be guessed, by a clock that the test moves."""

from __future__ import annotations

import pytest

from distlab.course.accounts.throttle import PER_ACCOUNT, PER_SOURCE, Throttle, source_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_waits_double_after_the_free_slips_up_to_the_cap(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert [throttle.attempt("ada", "10.0.0.1") for _ in range(PER_ACCOUNT.free)] == [0] * PER_ACCOUNT.free
    waits = []
    for _ in range(14):
        assert throttle.attempt("ada", "10.0.0.1") == 0
        wait_s = throttle.attempt("ada", "10.0.0.1")
        waits.append(wait_s)
        clock.now += wait_s
    # Failures fade as the waits grow, so that the tail settles instead of growing for ever.
    assert waits[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert max(waits) <= PER_ACCOUNT.cap_s


def test_guesses_a_day_against_one_account_from_one_source(clock: Clock) -> None:
    throttle, guesses, end = Throttle(clock), 0, clock.now + 24 * 3600
    while clock.now < end:
        wait_s = throttle.attempt("instructor", "10.0.0.1")
        guesses += wait_s == 0
        clock.now += wait_s
    assert guesses < 150


def test_guesses_an_hour_over_all_accounts_from_one_source(clock: Clock) -> None:
    throttle, guesses, end = Throttle(clock), 0, clock.now + 3600
    while clock.now < end:
        wait_s = throttle.attempt(f"name{guesses}", "10.0.0.1")
        guesses += wait_s == 0
        clock.now += wait_s
    assert PER_SOURCE.free < guesses < 400


def test_one_source_does_not_slow_down_another(clock: Clock) -> None:
    throttle = Throttle(clock)
    for _ in range(200):
        clock.now += throttle.attempt("instructor", "10.0.0.1")
    throttle.attempt("instructor", "10.0.0.1")
    assert throttle.attempt("instructor", "10.0.0.1") > 0
    assert throttle.attempt("instructor", "10.0.0.2") == 0


def test_many_attempts_at_once_do_not_all_pass(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert sum(throttle.attempt("ada", "10.0.0.1") == 0 for _ in range(100)) == PER_ACCOUNT.free + 1


def test_a_right_password_clears_the_account_but_not_the_source(clock: Clock) -> None:
    throttle = Throttle(clock)
    for n in range(PER_SOURCE.free):
        throttle.attempt(f"name{n}", "10.0.0.1")
    assert throttle.attempt("own", "10.0.0.1") == 0
    throttle.succeeded("own", "10.0.0.1")
    assert throttle.attempt("victim", "10.0.0.1") == 0
    assert throttle.attempt("victim", "10.0.0.1") == 1

    for _ in range(PER_ACCOUNT.free):
        throttle.attempt("ada", "10.0.0.2")
    throttle.succeeded("ada", "10.0.0.2")
    assert [throttle.attempt("ada", "10.0.0.2") for _ in range(PER_ACCOUNT.free)] == [0] * PER_ACCOUNT.free


def test_failures_fade(clock: Clock) -> None:
    throttle = Throttle(clock)
    for _ in range(PER_ACCOUNT.free + 1):
        throttle.attempt("ada", "10.0.0.1")
    assert throttle.attempt("ada", "10.0.0.1") > 0
    clock.now += PER_ACCOUNT.fade_s * (PER_ACCOUNT.free + 1)
    assert [throttle.attempt("ada", "10.0.0.1") for _ in range(PER_ACCOUNT.free)] == [0] * PER_ACCOUNT.free


def test_memory_is_bounded(clock: Clock) -> None:
    throttle = Throttle(clock, entries=100)
    for n in range(1000):
        throttle.attempt(f"name{n}", f"10.0.{n // 250}.{n % 250}")
    assert len(throttle) <= 100


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("127.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["203.0.113.9,198.51.100.7"], "198.51.100.7"),  # the client wrote the first
        ("127.0.0.1", ["203.0.113.9", " 198.51.100.7 "], "198.51.100.7"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),  # not the proxy
        ("127.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["2001:db8:1:2:aaaa::1"], "2001:db8:1:2::/64"),
        ("127.0.0.1", ["<script>"], "unknown"),
        ("", [], "unknown"),
    ],
)
def test_only_the_proxy_is_believed_about_the_source(peer: str, forwarded: list[str], source: str) -> None:
    assert source_of(peer, forwarded) == source
