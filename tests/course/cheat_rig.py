"""A lab whose hidden tests hold canaries, the hostile submissions in `cheats/`, and a search for leaked canaries.

A cheat is a file that says what it does in a header, then how:

- `NAME.md`: code cells. A block "python GRADE_ID" is the source of that cell, "python" alone is a cell added after
  the one before, "python after:GRADE_ID" one added there. `honest: true` starts from right answers.
- `NAME.py`: the header is its docstring, and `submit(folder, notebook)` writes the submission's folder itself.

Header: `attack` names the mechanism, `after` what it is after, `points` what its honest part earns at most
(default 0), `verdict` the whole's, where the cheat must not get away with another.
"""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
import runpy
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distlab.course.site import Site
from tests.course.small_lab import HEADER, LAB_ID, Submission

CHEATS = Path(__file__).with_name("cheats")

SOURCE_WORDS = ("egretsourcecanary", "ibissourcecanary", "storksourcecanary")
ARGUMENT_WORDS = ("heronargumentcanary", "craneargumentcanary", "bitternargumentcanary")
ARGUMENT_NUMBERS = ("731290468", "583102776", "640917355")
CANARIES = SOURCE_WORDS + ARGUMENT_WORDS + ARGUMENT_NUMBERS

POINTS = {
    "test_mirror": 1.0,
    "hidden_mirror": 3.0,
    "test_mean": 1.0,
    "hidden_mean": 5.0,
    "hidden_parts": 2.0,
    "hidden_empty": 1.0,
}
ALL = sum(POINTS.values())

LAB = (
    HEADER.replace("kernelspec:", "distlab: {names: [mirror, mean]}\nkernelspec:")
    + f"""# A lab to be attacked

```{{code-cell}} ipython3
import torch
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "mirror", "solution": true}}

def mirror(text):
    \"\"\"`text` from its end to its beginning.\"\"\"
    ### BEGIN SOLUTION
    return text[::-1]
    ### END SOLUTION
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "test_mirror", "grade": true, "points": 1}}

assert mirror("abc") == "cba", f"mirror('abc') is 'cba', not {{mirror('abc')}}"
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "hidden_mirror", "grade": true, "points": 3}}

### BEGIN HIDDEN TESTS
# {SOURCE_WORDS[0]}
words = ["{ARGUMENT_WORDS[0]}", "{ARGUMENT_WORDS[1]}"]
assert all(map(lambda word: mirror(word) == word[::-1], words)), "mirror is wrong for words"
### END HIDDEN TESTS
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "mean", "solution": true}}

def mean(values):
    \"\"\"The mean of a tensor's values, a float; ValueError if it has none.\"\"\"
    ### BEGIN SOLUTION
    if not len(values):
        raise ValueError("no values")
    return float(values.double().mean())
    ### END SOLUTION
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "test_mean", "grade": true, "points": 1}}

import torch
assert mean(torch.tensor([1.0, 3.0])) == 2.0, "the mean of 1 and 3 is 2"
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "hidden_mean", "grade": true, "points": 5}}

### BEGIN HIDDEN TESTS
import torch
{SOURCE_WORDS[1]} = torch.tensor([{ARGUMENT_NUMBERS[0]}, {ARGUMENT_NUMBERS[1]}])
found = mean({SOURCE_WORDS[1]})
assert abs(found - {SOURCE_WORDS[1]}.double().mean().item()) < 1e-6, "the mean is wrong"
### END HIDDEN TESTS
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "hidden_parts", "grade": true, "points": 2}}

### BEGIN HIDDEN TESTS
import torch
{SOURCE_WORDS[2]} = mirror("{ARGUMENT_WORDS[2]}") == "{ARGUMENT_WORDS[2][::-1]}"
({SOURCE_WORDS[2]} is True) + int(mean(torch.tensor([{ARGUMENT_NUMBERS[2]}] * 2)) == {ARGUMENT_NUMBERS[2]})
### END HIDDEN TESTS
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "hidden_empty", "grade": true, "points": 1}}

### BEGIN HIDDEN TESTS
import torch
try:
    mean(torch.empty(0))
except ValueError:
    raised = True
else:
    raised = False
assert raised, "no values have no mean"
### END HIDDEN TESTS
```
"""
)

HONEST = {
    "mirror": "def mirror(text):\n    return text[::-1]",
    "mean": "def mean(values):\n    if values.numel() == 0:\n        raise ValueError\n"
    "    return values.double().mean().item()",
}

BLOCK = re.compile(r"^```python(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Cheat:
    """One hostile submission; `points` is the most that it may get."""

    path: Path
    attack: str
    after: str
    points: float = 0.0
    verdict: str = ""
    honest: bool = False

    @property
    def name(self) -> str:
        return self.path.stem.replace("_", "-")

    def submit(self, site: Site) -> None:
        released = Submission(site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb")
        if self.honest:
            answer_honestly(released)
        folder = site.course / "submitted" / self.name / LAB_ID
        if self.path.suffix == ".py":
            folder.mkdir(parents=True)
            (folder / "timestamp.txt").write_text("2026-11-20 12:00:00 UTC")
            runpy.run_path(str(self.path))["submit"](folder, released.notebook)
        else:
            _answer(released, self.path.read_text())
            released.submit(site.course, self.name)


def answer_honestly(submission: Submission) -> Submission:
    for grade_id, source in HONEST.items():
        submission.answer(grade_id, source)
    return submission


def _answer(submission: Submission, text: str) -> None:
    """Put a cheat's blocks into the notebook."""
    cells = submission.notebook["cells"]
    at = 1
    for number, (place, source) in enumerate(BLOCK.findall(text)):
        source = source.rstrip("\n")
        if place and not place.startswith("after:"):
            submission.answer(place, source)
            at = cells.index(submission.cell(place))
            continue
        if place:
            at = cells.index(submission.cell(place.removeprefix("after:")))
        at += 1
        submission.add(source, at=at)
        cells[at]["id"] = f"added-{number}"


def corpus() -> list[Cheat]:
    """All cheats, by name."""
    return [_read(path) for path in sorted(CHEATS.iterdir()) if path.suffix in (".md", ".py")]


def _read(path: Path) -> Cheat:
    _, _, rest = path.read_text().partition("---\n" if path.suffix == ".md" else '"""')
    header, found, _ = rest.partition("---\n" if path.suffix == ".md" else '"""')
    assert found, f"{path.name} has no header"
    fields = dict(line.split(": ", 1) for line in header.strip().splitlines())
    points, honest = float(fields.pop("points", 0)), fields.pop("honest", "") == "true"
    return Cheat(path, **fields, points=points, honest=honest)


# What must be nowhere


def _forms(word: str) -> Iterator[str]:
    """The word as it may be written, in lower case, without anything but letters and digits."""
    raw = word.encode()
    yield from (word, word[::-1], codecs.encode(word, "rot13"))
    yield from (raw.hex(), raw[::-1].hex(), raw.hex()[::-1])
    yield "".join(f"{byte:08b}" for byte in raw)
    yield "".join(map(str, raw))
    yield "".join(f"{byte:o}" for byte in raw)
    yield "".join(letter * 2 for letter in word)
    for start in range(3):  # base64 of a text that holds it, wherever in a group of three it begins
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            coded = encode(b"~" * start + raw).decode()
            first, last = -(-start * 8 // 6), len(coded.rstrip("=")) - 1
            yield _bare(coded[first:last])
    for start in range(5):
        coded = base64.b32encode(b"~" * start + raw).decode()
        yield _bare(coded[-(-start * 8 // 5) : len(coded.rstrip("=")) - 1])
    if word.isdigit():
        yield f"{int(word):x}"
        yield f"{int(word):b}"


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


FORMS = {form: word for word in CANARIES for form in _forms(word)}


def leaked(text: str) -> set[str]:
    """The canaries that stand in `text`, plainly or in a common disguise: separators, case, another order, codes."""
    plain = html.unescape(text)
    views = {text, plain, urllib.parse.unquote(plain), re.sub(r"\\(?:u00|x)([0-9a-f]{2})", _character, plain)}
    bare = {_bare(view) for view in views} | {re.sub(r"<[^>]*>", "", view).lower() for view in views}
    return {word for view in bare for form, word in FORMS.items() if form in view}


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def visible_outputs(notebook: dict[str, Any]) -> str:
    """All that a graded notebook shows, without the sources of tests, which are the course's own."""
    shown = [
        [cell.get("outputs"), cell["metadata"].get("distlab"), None if _is_test(cell) else cell["source"]]
        for cell in notebook["cells"]
    ]
    return json.dumps([shown, notebook["metadata"]], ensure_ascii=False)


def _is_test(cell: dict[str, Any]) -> bool:
    return bool(cell["metadata"].get("nbgrader", {}).get("grade"))
