"""`distlab` in this process: its exit code, and its answer as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distlab.cli import main


def run(line: str, *more: str) -> int:
    """The exit code of a command; words of `more` are not split."""
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), *more])
    return int(ended.value.code or 0)


def answer(line: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """What it prints with --json."""
    assert run(line + " --json", *more) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["tier"] == "predicted"
    return found
