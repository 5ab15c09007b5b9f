"""Recordings that are one JSON file, made by a module of their own: `python -m distlab.record.MODULE --out FILE`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from distlab.errors import SettingError, WorkError
from distlab.files import write_whole


def record_into_file(
    module: str, record: Callable[[], dict[str, Any]], args: Sequence[str], indent: int | None = 1
) -> int:
    """Record into a file, replacing it only when all is measured; the exit code 0.

    `module` is the name below `distlab.record` that `--help` shows. What `record` raises goes on. Without `indent`
    all stands on one line: for long rows of numbers.
    """
    description = "Record into a file, replacing it only when all is measured."
    parser = argparse.ArgumentParser(prog=f"python -m distlab.record.{module}", description=description)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args(args).out
    found = json.dumps(record(), indent=indent)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, found.encode() + b"\n")
    return 0


def read_from_file(path: Path, form: str, what: str) -> dict[str, Any]:
    """What was recorded, without its format. SettingError for a file that is no such recording.

    `form` is the format that the file must name, `what` what the error says it is not: "recording of drills".
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.pop("format", None) != form:
        raise SettingError(f"{path} is no {what}; expected what this module writes.")
    return found


def exit_as(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """End this program as `main` does with its arguments: with 2 for a setting, with 1 for work that failed."""
    try:
        sys.exit(main(sys.argv[1:]))
    except (SettingError, WorkError) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingError) else 1)
