"""What completes a module: `distlab/completion.yml`, or an installation's own `var/completion.yml` in its place."""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from distlab.course.site import ASSIGNMENT_ID, Site
from distlab.errors import SettingError
from distlab.labs import labs
from distlab.plain_yaml import loader

Asked = Literal["passed", "submitted", "nothing"]

MODULE_ID = re.compile(r"mod-[0-9]+")
PAGE = re.compile(r"[a-z0-9-]+(/[a-z0-9-]+)*")
FILE = "completion.yml"


@dataclass(frozen=True)
class Part:
    """An assignment of a module."""

    id: str
    name: str
    """What sentences call it, such as `Lab 1`."""
    page: str
    """The book's page about it, without its ending."""
    pass_percent: float
    gate: Asked
    """What completing the module asks of it."""
    title: str = ""

    @property
    def counts(self) -> bool:
        """Does the completion of the module depend on it?"""
        return self.gate != "nothing"


@dataclass(frozen=True)
class Module:
    """A module and all that is handed in for it."""

    module: str
    title: str
    page: str
    parts: tuple[Part, ...]


def modules_of(site: Site) -> tuple[Module, ...]:
    """The table of an installation. Raises `SettingError` where its own is wrong."""
    own = site.var / FILE
    try:
        changed_ns = own.stat().st_mtime_ns
    except FileNotFoundError:
        return modules()
    return _read(own, changed_ns)


@functools.cache
def modules() -> tuple[Module, ...]:
    """The course's own table."""
    return parse(resources.files("distlab").joinpath(FILE).read_text(encoding="utf-8"), f"distlab/{FILE}")


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed_ns: int) -> tuple[Module, ...]:
    return parse(path.read_text(encoding="utf-8"), str(path))


def parse(text: str, where: str) -> tuple[Module, ...]:
    """Read a table. Raises `SettingError`, which begins with `where`."""
    try:
        rows = yaml.load(text, loader())
    except yaml.YAMLError as error:
        raise SettingError(f"{where}: {' '.join(str(error).split())}") from None
    if not isinstance(rows, list):
        raise SettingError(f"{where}: a list of modules is expected.")
    titles = {lab.id: lab.title for lab in labs()}
    found = tuple(_module(row, titles, f"{where}: module {number}") for number, row in enumerate(rows, 1))
    for name, ids in (
        ("module", [module.module for module in found]),
        ("part", [part.id for module in found for part in module.parts]),
    ):
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise SettingError(f"{where}: the {name} {twice[0]} stands there twice.")
    return found


def _module(row: Any, titles: dict[str, str], where: str) -> Module:
    given = _given(Module, row, where)
    _check(isinstance(given["parts"], list), where, "parts", given["parts"], "a list of parts")
    _check(_matches(MODULE_ID, given["module"]), where, "module", given["module"], "such as mod-202")
    _check(_text(given["title"]), where, "title", given["title"], "some text")
    _check(_matches(PAGE, given["page"]), where, "page", given["page"], "such as mod-202/index")
    parts = tuple(
        _part(part, titles, f"{where}, part {number}") for number, part in enumerate(given["parts"], 1)
    )
    if not any(part.counts for part in parts):
        raise SettingError(
            f"{where}: nothing is asked for, so everyone would have completed it; "
            "give a part `gate: passed` or `gate: submitted`."
        )
    return Module(given["module"], given["title"], given["page"], parts)


def _part(row: Any, titles: dict[str, str], where: str) -> Part:
    given = _given(Part, row, where)
    _check(_matches(ASSIGNMENT_ID, given["id"]), where, "id", given["id"], "such as mod-202-lab-1")
    _check(_text(given["name"]), where, "name", given["name"], "some text")
    _check(_matches(PAGE, given["page"]), where, "page", given["page"], "such as mod-202/lab-1")
    percent = given["pass_percent"]
    is_number = isinstance(percent, int | float) and not isinstance(percent, bool)
    _check(is_number and 0 < percent <= 100, where, "pass_percent", percent, "above 0 and up to 100")
    _check(given["gate"] in get_args(Asked), where, "gate", given["gate"], "passed, submitted or nothing")
    # What a lab is called is said where labs are listed.
    title = titles.get(given["id"]) or given.get("title")
    _check(_text(title), where, "title", title, "some text")
    return Part(**{**given, "title": title})


def _given(kind: type, row: Any, where: str) -> dict[str, Any]:
    """The row's values by name, if they are those that `kind` has."""
    if not isinstance(row, dict):
        raise SettingError(f"{where}: settings (`name: value`) are expected.")
    known = {field.name: field.default is MISSING for field in fields(kind)}
    for name in row:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise SettingError(f"{where}: there is no setting {str(name)[:40]!r}; {hint}")
    for name, needed in known.items():
        if needed and name not in row:
            raise SettingError(f"{where}: {name} is missing.")
    return row


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check(right: bool, where: str, name: str, value: Any, expected: str) -> None:
    if not right:
        raise SettingError(f"{where}: {name} is {str(value)[:60]!r}; it must be {expected}.")
