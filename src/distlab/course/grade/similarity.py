"""Which submissions resemble each other more than the assignment makes them: a hint, never a verdict.

Winnowing (Schleimer, Wilkerson, Aiken: "Winnowing: local algorithms for document fingerprinting", SIGMOD 2003,
https://doi.org/10.1145/872757.872770), as in MOSS. The code that a learner wrote becomes a row of token kinds:
names, numbers and strings lose their text, so that renaming changes nothing, and comments and layout are gone.
Each run of `K` kinds is hashed; of every `WINDOW` neighbouring hashes the least is kept. What the starter has, and
what most learners share (there are few ways to write a short answer), says nothing and is left out. Two
submissions score the share of the smaller one's remaining fingerprints that the other has.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import builtins
import io
import keyword
import tokenize
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from nbformat.notebooknode import NotebookNode

K = 12
"""Token kinds in a fingerprint: a shorter match is noise."""

WINDOW = 8
"""A match of at least `K + WINDOW - 1` kinds is never missed."""

COMMON = 0.5
"""A fingerprint that more than this share of the submissions have is the assignment's, not a learner's."""

LEAST = 8
"""With fewer fingerprints of its own a submission is too short to say anything."""

KEPT = {*keyword.kwlist, *keyword.softkwlist, *(name for name in dir(builtins) if name.islower())}
"""Names that keep their text: they are the language's."""

SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Pair:
    """Two students and how alike their answers are, from 0 to 1. `common` counts the fingerprints that they share."""

    one: str
    other: str
    similarity: float
    common: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def resembling(
    answers: Mapping[str, Sequence[str]], starter: Sequence[str], least: float = 0.5
) -> list[Pair]:
    """The pairs of students whose answers score at least `least`, the most alike first.

    `answers` are the sources of the code cells that each student wrote, `starter` those of the assignment.
    """
    ours = set().union(*map(fingerprints, starter))
    prints = {
        student: set().union(*map(fingerprints, sources)) - ours for student, sources in answers.items()
    }
    holders: dict[int, list[str]] = defaultdict(list)
    for student in sorted(prints):
        for one in prints[student]:
            holders[one].append(student)
    # Two of three learners are no majority of a course, but perhaps a group.
    most = max(3, int(COMMON * len(prints)))
    own: Counter[str] = Counter()
    shared: Counter[tuple[str, str]] = Counter()
    for students in holders.values():
        if len(students) <= most:
            own.update(students)
            shared.update(combinations(students, 2))
    pairs = []
    for (first, second), common in shared.items():
        smaller = min(own[first], own[second])
        if smaller >= LEAST and common / smaller >= least:
            pairs.append(Pair(first, second, common / smaller, common))
    return sorted(pairs, key=lambda pair: (-pair.similarity, -pair.common, pair.one, pair.other))


def written_by_learner(cells: Sequence[NotebookNode]) -> list[str]:
    """The code of a restored notebook that is the learner's: answers, and cells of their own."""
    return [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("locked", False)
    ]


def fingerprints(source: str) -> set[int]:
    """The winnowed hashes of a cell's token kinds."""
    kinds = token_kinds(source)
    if len(kinds) < K:
        return set()
    hashes = [zlib.crc32("\0".join(kinds[at : at + K]).encode()) for at in range(len(kinds) - K + 1)]
    if len(hashes) <= WINDOW:
        return {min(hashes)}
    return {min(hashes[at : at + WINDOW]) for at in range(len(hashes) - WINDOW + 1)}


def token_kinds(source: str) -> list[str]:
    """The code's tokens without what a copier changes first; up to the first that is no Python."""
    lines = (line for line in source.split("\n") if not line.lstrip().startswith(("%", "!")))
    kinds = []
    try:
        for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
            if token.type in SKIPPED:
                continue
            if token.type == tokenize.NAME:
                kinds.append(token.string if token.string in KEPT else "name")
            elif token.type in (tokenize.NUMBER, tokenize.STRING):
                kinds.append("number" if token.type == tokenize.NUMBER else "string")
            else:
                kinds.append(token.string)
    except (tokenize.TokenError, SyntaxError):
        pass
    return kinds
