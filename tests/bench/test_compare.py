"""The regression gate: quiet where nothing has changed, loud where a row is slower, polite on bad files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from distlab.bench.compare import compare, compared, print_comparison
from distlab.bench.results import Results, write_results
from distlab.bench.significance import BLOCKS, blocks, difference, holm, noise_between_starts
from distlab.errors import SettingError

STAMP = {"tier": "cpu", "hardware": "A CPU", "cores": 2, "backend": "gloo", "torch": "2.13.0"}
Noise = Callable[[Generator, int], Any]


def independent(rng: Generator, count: int) -> Any:
    return rng.normal(0, 0.05, count)


def outliers(rng: Generator, count: int) -> Any:
    return rng.normal(0, 0.05, count) + (rng.random(count) < 0.05) * rng.exponential(1.5, count)


def lasting(rng: Generator, count: int) -> Any:
    """Each time is much like the one before it."""
    noise = np.zeros(count)
    noise[0] = rng.normal(0, 0.1)
    for i in range(1, count):
        noise[i] = 0.9 * noise[i - 1] + rng.normal(0, 0.1 * math.sqrt(1 - 0.9**2))
    return noise


def by_start(rng: Generator, count: int) -> Any:
    """All times of a start are slower or faster together, row by row."""
    return rng.normal(0, 0.05, count) + rng.normal(0, 0.04)


def results(
    rng: Generator,
    noise: Noise,
    rows: int,
    launches: int,
    slowdown: dict[int, float] | None = None,
    stamp: dict[str, Any] = STAMP,
) -> Results:
    made = []
    for size in range(rows):
        parts = [noise(rng, 200 // launches) for _ in range(launches)]
        factor = 1e-3 * (size + 1) * (slowdown or {}).get(size, 1.0)
        samples = [float(factor * np.exp(sample)) for part in parts for sample in part]
        made.append({"size": size, "samples_s": samples, "launches": [len(part) for part in parts]})
    return Results("test", ("size",), made, stamp)


@pytest.mark.parametrize(
    ("noise", "launches"),
    [
        (independent, 1),
        (outliers, 1),
        (lasting, 1),
        (by_start, 1),
        (independent, 5),
        (by_start, 5),
        (lasting, 5),
    ],
)
def test_false_alarms_are_as_rare_as_asked_for(noise: Noise, launches: int) -> None:
    rng = np.random.default_rng(7)
    alarms = [
        bool(
            compared(results(rng, noise, 12, launches), results(rng, noise, 12, launches), alpha=0.05).slower
        )
        for _ in range(60)
    ]
    # Of 60 draws with probability 0.05 each, over 9 have a probability under 0.001.
    assert sum(alarms) <= 9


def test_the_noise_of_a_start_would_be_an_alarm_if_stretches_were_evidence_alone() -> None:
    """What the test above would look like without the spread over rows."""
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(60):
        old, new = (results(rng, by_start, 12, 1) for _ in range(2))
        found = [difference(blocks(a), blocks(b)) for a, b in zip(old.rows, new.rows, strict=True)]
        alarms += min(holm([d.p_longer() for d in found if d is not None])) <= 0.05
    assert alarms > 40


@pytest.mark.parametrize(
    ("noise", "launches"), [(independent, 1), (outliers, 1), (independent, 5), (outliers, 5)]
)
def test_a_slowdown_is_caught_and_no_other_row(noise: Noise, launches: int) -> None:
    rng = np.random.default_rng(3)
    held: list[bool] = []
    for _ in range(10):
        old = results(rng, noise, 12, launches)
        found = compared(old, results(rng, noise, 12, launches, {4: 1.15, 7: 0.8}))
        verdicts = {dict(row.identity)["size"]: row.verdict for row in found.rows}
        assert verdicts == {size: {4: "slower", 7: "faster"}.get(size, "same") for size in range(12)}
        true = {4: 1.15, 7: 0.8}
        held += [
            row.low <= true.get(size, 1.0) <= row.high
            for size, row in enumerate(found.rows)
            if row.low is not None and row.high is not None
        ]
    assert sum(held) / len(held) > 0.9  # intervals of 95%, 120 of them


def test_everything_slower_is_caught_too() -> None:
    """The spread over the rows is taken around what they share."""
    rng = np.random.default_rng(3)
    found = compared(
        results(rng, by_start, 12, 1), results(rng, by_start, 12, 1, dict.fromkeys(range(12), 1.5))
    )
    assert len(found.slower) >= 10


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and never less than the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_welch_is_scipys() -> None:
    from scipy.stats import ttest_ind  # type: ignore[import-untyped]

    before, after = [1.0, 1.1, 1.3, 0.9], [1.2, 1.5, 1.25, 1.7, 1.35]
    found = difference(before, after)
    assert found is not None
    theirs = ttest_ind(after, before, equal_var=False, alternative="greater")
    assert found.p_longer() == pytest.approx(theirs.pvalue)
    assert found.p_shorter() == pytest.approx(1 - theirs.pvalue)
    interval = ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_blocks_are_launches_or_stretches() -> None:
    row = {"samples_s": [1.0, 1.0, 1.0, 2.0, 4.0, 4.0, 4.0], "launches": [3, 1, 3]}
    assert blocks(row) == pytest.approx([0, math.log(2), math.log(4)])
    assert len(blocks({"samples_s": [1.0] * 200})) == BLOCKS
    assert len(blocks({"samples_s": [1.0] * 200, "launches": [100, 100]})) == BLOCKS
    assert len(blocks({"samples_s": [1.0, 2.0]})) == 2
    assert difference([1.0, 2.0], [1.0, 2.0, 3.0]) is None
    assert noise_between_starts([]) is None


def test_equal_times_and_a_clock_that_never_varies() -> None:
    rows = [{"size": size, "samples_s": [1e-3] * 50} for size in range(3)]
    slower = [row | {"samples_s": [1.1e-3] * 50} for row in rows]
    old, new = Results("test", ("size",), rows, STAMP), Results("test", ("size",), slower, STAMP)
    assert not compared(old, old).slower
    assert len(compared(old, new).slower) == 3
    extremes = [
        Results("test", ("size",), [{"size": 0, "samples_s": [t, t * 2, t]}], STAMP) for t in (1e-9, 1e8)
    ]
    assert compared(extremes[0], extremes[1]).rows[0].verdict == "slower"
    assert not compared(extremes[1], extremes[0]).slower


def write(path: Path, made: Results) -> Path:
    write_results(path, made)
    return path


def test_the_command_has_a_code_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    old = write(tmp_path / "old.json", results(rng, independent, 3, 5))
    same = write(tmp_path / "same.json", results(rng, independent, 3, 5))
    slow = write(
        tmp_path / "slow.json", results(rng, independent, 3, 5, {1: 1.3}, STAMP | {"torch": "2.14\x1b[5m"})
    )
    assert compare(old, same) == 0
    assert "No row of 3 is slower beyond noise." in capsys.readouterr().out
    assert compare(old, slow) == 1
    printed = capsys.readouterr().out
    assert "Slower beyond noise: 1 of 3 rows" in printed
    assert "Changed: torch 2.13.0 before, 2.14?[5m after." in printed
    assert "\x1b" not in printed
    assert compare(slow, old, json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in content["rows"]] == ["same", "faster", "same"]
    assert content["rows"][1]["identity"] == {"size": 1}


def test_what_cannot_be_judged_does_not_pass_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = results(np.random.default_rng(1), independent, 3, 5)
    old = write(tmp_path / "old.json", whole)
    few = [{**row, "samples_s": row["samples_s"][:2], "launches": [2]} for row in whole.rows]
    wrong = [whole.rows[0] | {"wrong": 7}, *whole.rows[1:]]
    for rows, said in (
        (whole.rows[:1], "2 rows of the first file are not in the other"),
        (few, "3 rows had too few times"),
        (wrong, "1 row of the second file delivered wrong elements"),
    ):
        new = write(tmp_path / "new.json", Results("test", ("size",), rows, STAMP))
        assert compare(old, new) == 1, said
        printed = capsys.readouterr().out
        assert said in " ".join(printed.split())
        assert "not judged" in printed
    new = write(tmp_path / "new.json", Results("test", ("size",), whole.rows[:1], STAMP))
    assert compare(old, new, allow_missing=True) == 0


def test_times_are_those_that_the_ratio_is_made_of_and_said_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Medians 1, 1, 8 of three launches against 1, 1, 1: geometric means 2 and 1; the median of all times is 1.
    old = [{"size": 0, "samples_s": [1.0, 1.0, 1.0, 1.0, 8.0, 8.0], "launches": [2, 2, 2]}]
    new = [{"size": 0, "samples_s": [0.9, 1.1, 1.0, 1.0, 0.5, 1.5], "launches": [2, 2, 2]}]
    few = [{"size": 1, "samples_s": [1.0, 4.0]}]
    files = [Results("test", ("size",), [*rows, *few], STAMP) for rows in (old, new)]
    comparison = compared(files[0], files[1])
    known, unknown = comparison.rows
    assert (known.before_s, known.after_s, known.ratio) == pytest.approx((2.0, 1.0, 0.5))
    assert (unknown.before_s, unknown.after_s) == pytest.approx((2.0, 2.0))
    assert unknown.ratio is None
    print_comparison(comparison)
    printed = " ".join(capsys.readouterr().out.split())
    assert "geometric mean of the medians of each launch" in printed
    assert "before (us), after (us)," in printed


def test_hostile_names_stay_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"[red]a": f"[link=http://x]{i}\x1b[31m", "samples_s": [1e-3] * 9} for i in range(2)]
    path = write(tmp_path / "a.json", Results("[bold]k", ("[red]a",), rows, STAMP))
    assert compare(path, path) == 0
    printed = capsys.readouterr().out
    assert "[link=http://x]0?[31m" in printed
    assert "[bold]k" in printed
    assert "\x1b" not in printed


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    old = results(rng, independent, 2, 1)
    with pytest.raises(SettingError, match=r"different machines.*hardware A CPU before, Another after"):
        compared(old, results(rng, independent, 2, 1, stamp=STAMP | {"hardware": "Another"}))
    across = compared(old, results(rng, independent, 2, 1, stamp=STAMP | {"cores": 4}), across_machines=True)
    assert "Different set-ups: cores 2 before, 4 after." in across.notes
    with pytest.raises(SettingError, match="share no row"):
        compared(old, Results("test", ("size",), [{"size": 9, "samples_s": [1.0]}], STAMP))
    with pytest.raises(SettingError, match="'test', the second of 'other'"):
        compared(old, Results("other", ("size",), old.rows, STAMP))
    with pytest.raises(SettingError, match="alpha is 1"):
        compare(tmp_path, tmp_path, alpha=1)
    (tmp_path / "cut.json").write_text('{"kind": "test", "ident')
    with pytest.raises(SettingError, match="truncated"):
        compare(tmp_path / "cut.json", tmp_path / "cut.json")


def test_rows_of_one_file_and_rows_with_few_times_are_said() -> None:
    rng = np.random.default_rng(1)
    old, new = results(rng, independent, 9, 1), results(rng, independent, 10, 1)
    few = [{"size": 0, "samples_s": [1e-3, 1e-3]}, *new.rows[1:]]
    found = compared(old, Results("test", ("size",), few, STAMP, ("Cut short\x1b.",)))
    assert "The second file alone: Cut short?." in found.notes
    assert found.rows[0].verdict == "unknown"
    said = " ".join(found.notes)
    assert "1 row of the second file is not in the other." in said
    assert "1 row had too few times" in said
    assert "taken from the spread over the rows" in said
    assert "luck of a start" in " ".join(compared(results(rng, independent, 2, 1), old).notes)
