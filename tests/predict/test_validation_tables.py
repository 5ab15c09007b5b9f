"""The scorecard's tables: what stands in them, in a terminal and in Markdown."""

from __future__ import annotations

import pytest

from distlab.predict.validation import Scored
from distlab.predict.validation.tables import (
    CASES_SHOWN,
    Line,
    Table,
    details,
    number,
    percent,
    size,
    summary,
)
from distlab.predict.validation.targets import groups

TABLE = Table(("a_b", "n"), 1, (Line(("x_y|*z", "1")), Line(("far", "2"), missed=True, new=True)), "t")


def test_markdown_says_words_as_they_are_and_misses_in_bold() -> None:
    assert TABLE.as_markdown().splitlines() == [
        "| a_b | n |",
        "| --- | ---: |",
        "| x\\_\u200by\\|\\*z | 1 |",
        "| **far** | **2** |",
    ]


def test_some_columns_in_another_order() -> None:
    chosen = TABLE.of("n", "a_b")
    assert (chosen.columns, chosen.words) == (("n", "a_b"), 1)
    assert chosen.lines[1] == Line(("2", "far"), missed=True, new=True)
    with pytest.raises(ValueError, match="not in tuple"):
        TABLE.of("m")


def links(count: int) -> list[Scored]:
    """Sizes of 2 MiB and more on two runs, the first of them fitted; 10% too much everywhere."""
    return [
        Scored("f", f"{n} {i}", 1.1, 1.0, "collective", i == 0, ("s", n, n), 2.0 ** (21 + i), "ms")
        for n in (2, 4)
        for i in range(count // 2)
    ]


def test_many_collectives_are_shown_by_payload_few_one_by_one() -> None:
    (few,) = details(groups(links(CASES_SHOWN)))
    assert len(few.lines) == CASES_SHOWN
    assert few.lines[0].cells == ("2 0", "yes", "1.1", "1 ms", "+10.0%", "")
    (many,) = details(groups(links(CASES_SHOWN + 2)))
    assert many.columns == ("payload", "s 1x2", "s 1x4")
    assert many.lines[0].cells == ("2 MiB", "+10.0%*", "+10.0%*")
    assert many.lines[1].cells == ("4 MiB", "+10.0% ", "+10.0% ")


def test_a_group_has_its_errors_and_its_verdict() -> None:
    found = groups([Scored("f", str(i), 1 + i / 100, 1.0, "activations", False) for i in (-2, 1, 6)])
    (line,) = summary(found).lines
    assert line.cells == (
        "f", "activations", "no", "3", "3.0%", "2.0%", "6.0%", "6.0%", "+1.7%", "max 5.0%, missed",
    )  # fmt: skip
    assert line.missed
    (table,) = details(found)
    assert [(row.cells[-1], row.missed) for row in table.lines] == [
        ("", False),
        ("", False),
        ("missed", True),
    ]


def test_numbers_for_people() -> None:
    assert [number(v) for v in (0.0123449, 12345.6, 1.5e9)] == ["0.01234", "12,346", "1.5e+09"]
    assert [percent(v, "+") for v in (-0.014, 2000.0)] == ["-1.4%", "+2e+05%"]
    assert [size(v) for v in (2048.0, 1.5 * 2**20)] == ["2 KiB", "1.5 MiB"]
