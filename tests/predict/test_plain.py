"""Tables and sentences without rich: nothing is cut, columns stand below each other, an ASCII terminal has a table."""

from __future__ import annotations

import io
import sys

import pytest

from distlab.predict.commands import plain
from distlab.predict.commands.plain import Column, print_lines, print_table, wrapped

COLUMNS = [Column("term"), Column("time", right=True)]
ROWS = [["forward", "12.5 ms"], ["a longer term", "3 s"]]


def test_a_table_is_as_wide_as_it_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Time", COLUMNS, ROWS, ["total", "3.0125 s"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "Time"
    assert {len(line) for line in lines} == {len("│ a longer term │ 3.0125 s │")}
    assert "│ forward       │  12.5 ms │" in lines
    assert lines[-2] == "│ total         │ 3.0125 s │"
    print_table("Time", COLUMNS, ROWS)
    *_, last, end = capsys.readouterr().out.splitlines()
    assert last == "│ a longer term │     3 s │"
    assert end.startswith("└")


def test_words_are_broken_where_the_terminal_is_narrow_and_figures_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "_terminal_columns", lambda: 50)
    columns = [*COLUMNS, Column("why")]
    why = "a reason of many words that no narrow terminal has the room for"
    print_table("Time", columns, [[*ROWS[0], why], [*ROWS[1], "short"]], ["total", "3.0125 s", ""])
    _, *lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in lines} == {50}
    assert "│ forward       │  12.5 ms │ a reason of many" in lines[3]
    body = " ".join(line.split("│")[3].strip() for line in lines[3:-4])
    assert body == why
    monkeypatch.setattr(plain, "_terminal_columns", lambda: 10)
    print_table("Time", columns, [[*ROWS[0], why]], ["total", "3.0125 s", ""])
    assert "12.5 ms" in capsys.readouterr().out


def test_where_boxes_cannot_be_printed_they_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", newline="\n"))
    print_table("Time", COLUMNS, ROWS, ["total", "3.0125 s"])
    sys.stdout.flush()
    assert raw.getvalue().decode("ascii").splitlines()[3] == "+---------------+----------+"


def test_lines_are_whole_in_a_pipe_and_broken_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "one two three four " * 20
    print_lines([text.strip()])
    assert capsys.readouterr().out == text.strip() + "\n"
    for width in (5, 11, 40):
        lines = wrapped(text, width)
        assert all(len(line) <= width for line in lines)
        assert " ".join(lines).split() == text.split()
    assert wrapped("    = a formula of words", 16) == ["    = a formula", "    of words"]
    assert wrapped("", 10) == [""]
    assert wrapped("anunbreakableword", 5) == ["anunbreakableword"]
