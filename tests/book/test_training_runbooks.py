"""The training runbooks: each has all its parts, and names only what exists and a drill that a test runs."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
from myst_parser.mdit_to_docutils.base import default_slugify

from distlab.cli import COMMANDS, main
from distlab.faults import drills
from distlab.faults.config import Fault
from distlab.observe.metrics import METRICS
from distlab.observe.panels import DASHBOARDS
from distlab.observe.rules import alerts, recorded
from distlab.train.config import from_dict
from tests.book.test_chapter import BOOK

ROOT = BOOK.parent
PAGE = BOOK / "resources" / "training-runbooks.md"
SOURCE = PAGE.read_text(encoding="utf-8")
GLOSSARY = BOOK / "resources" / "glossary.md"
PLACES = {
    label: default_slugify(heading)
    for label, heading in re.findall(
        r"^\(([\w-]+)\)=\n(?:\([\w-]+\)=\n)*#+ (.+)$",
        (BOOK / "resources" / "runbooks.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
"""Of the alerts' page: the heading below each label, as a link names it."""
RUNBOOKS = (
    "Failure injection",
    "Node loss",
    "NCCL hang",
    "Checkpoint corruption",
    "Storage stall",
    "Cost overrun",
)
PARTS = ("symptom", "confirm", "act", "roll back", "communicate", "review")
NOTICES = ("First notice", "Update", "All-clear")
TESTED = ("tests/faults/test_training_drills.py", "tests/faults/test_drills.py")
"""Where drills are run."""
OUTPUT = {
    "NCCL hang": ("did not take part in a collective", "train/launch.py"),
    "Failure injection": ("Fault: ", "faults/inject.py"),
    "Node loss": ("failed (exitcode: ", "faults/drills/torchrun.py"),
    "Checkpoint corruption": ("Skipped damaged checkpoint ", "train/checkpoint/manager.py"),
    "Storage stall": ("The last checkpoint was not saved", "train/checkpoint/manager.py"),
    "Cost overrun": ("the last step is saved; go on with", "train/run.py"),
}
"""A line of the program that each runbook quotes, and the source that prints it."""


def chapters(text: str, level: str) -> dict[str, str]:
    """The text below each heading of a level, by the heading."""
    parts = re.split(rf"^{level} (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def runbooks(text: str = SOURCE) -> dict[str, str]:
    return {name: body for name, body in chapters(text, "##").items() if name in RUNBOOKS}


def lacking(name: str, body: str) -> list[str]:
    """What a runbook lacks of what each has to have."""
    found = chapters(body, "###")
    missing = [f"heading {part}" for part in PARTS if f"{name}: {part}" not in found]
    if list(found) != [f"{name}: {part}" for part in PARTS] and not missing:
        missing.append("the order of the parts")
    part = {wanted: found.get(f"{name}: {wanted}", "") for wanted in PARTS}
    missing += [f"words under {wanted}" for wanted, text in part.items() if len(text.split()) < 30]
    needs = {
        "symptom": (
            ("log", "Log|output"),
            ("alert", r"\[`[A-Z]\w+`\]\((?:runbooks\.md)?#|No alert:"),
            ("metric", "Metric"),
        ),
        "confirm": (("command", r"^\$ "), ("output", r"```console\n(?:\$ .*\n)+[^$`]")),
        "act": (("numbers", r"^1\. .*\n(?:.*\n)*?2\. "), ("who", r"\*(?:Lead|Job owner|Operator)\*")),
        "roll back": (("point of no return", r"\*\*Point of no return:\*\* \w"),),
        "communicate": (
            ("who, when, channel", r"^\| Who \| When \| Channel \|"),
            *((notice, rf"^{notice}: .*\[[A-Z]") for notice in NOTICES),
        ),
        "review": (("questions", r"\?$"), ("record", r"\bRecord\b"), ("feedback", r"Feed\s+back:")),
    }
    missing += [
        f"{what} under {wanted}"
        for wanted, patterns in needs.items()
        for what, pattern in patterns
        if not re.search(pattern, part[wanted], re.MULTILINE)
    ]
    if not re.search(r"^\*\*Drill:\*\* `distlab drill ", body, re.MULTILINE):
        missing.append("a drill")
    return missing


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Each command of distlab that the text gives in code, by its name, with the options.

    "" for one that is none; the help of a group of commands is left out.
    """
    code = [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    code += [
        line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    ]
    found = []
    for line in code:
        match = re.match(r"\$? ?(?:[A-Z_]+=\S+ )?distlab ((?:[a-z][a-z-]* ?)+)(.*)", line)
        if match is None:
            continue
        words = match[1].split()
        name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), "")
        if match[2] == "--help" and any(n.split()[: len(words)] == words for n in COMMANDS):
            continue
        found.append((name, re.findall(r"(?<=\s)--[a-z_-]+", " " + match[0].partition("#")[0])))
    return found


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_has_all_its_parts(name: str) -> None:
    assert lacking(name, runbooks()[name]) == []


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_or_empty_is_found(part: str) -> None:
    name, body = RUNBOOKS[1], runbooks()[RUNBOOKS[1]]
    heading = f"### {name}: {part}\n"
    text = chapters(body, "###")[f"{name}: {part}"]
    assert f"heading {part}" in lacking(name, body.replace(heading, ""))
    assert f"words under {part}" in lacking(name, body.replace(text, "\n"))


def test_other_lacks_are_found() -> None:
    name, body = RUNBOOKS[0], runbooks()[RUNBOOKS[0]]
    for taken, said in (
        ("**Drill:** `distlab", "a drill"),
        ("All-clear: Stopped", "All-clear under communicate"),
        ("**Point of no return:**", "point of no return under roll back"),
        ("Feed back:", "feedback under review"),
    ):
        assert taken in body
        assert lacking(name, body.replace(taken, "")) == [said]


def test_every_drill_is_listed_in_one_place_and_run_by_a_test() -> None:
    rows = dict(
        re.findall(r"^\| \[([^\]]+)\]\(#[\w-]+\) \|.*\| `(distlab drill [^`]+)` \|$", SOURCE, re.MULTILINE)
    )
    assert tuple(rows) == RUNBOOKS
    assert drills.__doc__ is not None
    tests = "".join((ROOT / path).read_text() for path in TESTED)
    for name, body in runbooks().items():
        drill = re.search(r"^\*\*Drill:\*\* `([^`]+)`", body, re.MULTILINE)
        assert drill is not None
        assert drill[1] == rows[name]
    named = {name for name, _ in commands_in(SOURCE) if name.startswith("drill ")}
    listed = {name for name, _ in commands_in(f"```text\n{drills.__doc__.replace('    ', '')}\n```")}
    assert named == listed - {""}, "the page has all drills, and the package says the same"
    assert listed - {""} == {name for name in COMMANDS if name.startswith("drill ")}
    for name in named - {"drill leftovers"}:
        module = COMMANDS[name][0].split(":")[0]
        assert f"from {module} import drill_" in tests, f"no test runs {name}"


def test_commands_and_their_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    wanted: dict[str, set[str]] = {}
    for name, options in commands_in(SOURCE):
        assert name, "a command that is none"
        wanted.setdefault(name, set()).update(options)
    assert {"train", "profile flight", "observe cost", "drill leftovers"} <= set(wanted)
    for name, options in wanted.items():
        if not options:
            continue
        with pytest.raises(SystemExit) as ended:
            main([*name.split(), "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out.replace("_", "-")
        for option in options:
            assert option.replace("_", "-") in shown, f"distlab {name} has no {option}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`distlab drill hang`", [("drill hang", [])]),
        ("`distlab drill tsunami --now`", [("", ["--now"])]),
        ("```console\n$ A=b distlab train --config x  # --no\n```", [("train", ["--config"])]),
        ("`distlab drill\n--help`", []),
        ("the drills of `distlab.faults`, and distlab drill", []),
    ],
)
def test_commands_are_read_off_code(text: str, found: list[tuple[str, list[str]]]) -> None:
    assert commands_in(text) == found


def test_alerts_metrics_faults_panels_and_settings_exist() -> None:
    linked = dict(re.findall(r"\[`(\w+)`\]\(((?:runbooks\.md)?#[\w-]+)\)", SOURCE))
    assert len(linked) >= 8
    for name, target in linked.items():
        label = alerts()[name]["annotations"]["runbook_url"].rpartition("#")[2]
        assert target in (f"#{label}", f"runbooks.md#{PLACES[label]}"), name
    python = {"ScalingConfig", "NodeName"}
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)[`(]", SOURCE))
    assert named - python <= set(alerts())
    metrics = set(re.findall(r"`((?:run:)?distlab_\w+(?::\w+)?)`", SOURCE))
    assert len(metrics) >= 6
    assert metrics <= set(METRICS) | set(recorded())
    kinds = set(typing.get_args(typing.get_type_hints(Fault)["kind"]))
    undone = chapters(runbooks()["Failure injection"], "###")["Failure injection: roll back"]
    assert set(re.findall(r"`(\w+)`(?=.*\|.*\|)", undone)) - {"ballast"} == kinds, "each fault has a way back"
    titles = {panel.title for board in DASHBOARDS for panel in board.panels}
    quoted = re.findall(r"\*([A-Z][a-z ']+)\*", SOURCE.replace("\n", " "))
    for title in (
        "Budget used",
        "Budget at the run's end",
        "Until the budget is spent",
        "Wasted",
        "Whose prices",
    ):
        assert title in quoted
        assert title in titles
    for line in re.findall(r"^ *(checkpoint: \{.*\})$", SOURCE, re.MULTILINE):
        import yaml

        from_dict({"folder": "runs", **yaml.safe_load(line)})


@pytest.mark.parametrize("name", RUNBOOKS)
def test_lines_that_are_quoted_are_the_programs(name: str) -> None:
    line, source = OUTPUT[name]
    assert line in runbooks()[name]
    assert line in (ROOT / "src" / "distlab" / source).read_text().replace("\\(", "(")


def test_links_lead_somewhere() -> None:
    """To headings of this page and to labels of the other, which the whole book knows."""
    headings = {default_slugify(heading) for heading in re.findall(r"^#+ (.+)$", SOURCE, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", SOURCE))
    assert {default_slugify(name) for name in RUNBOOKS} <= linked
    assert linked <= headings | set(PLACES)
    # A word of the glossary and a label of one name would be two targets.
    glossary = {term.lower() for term in re.findall(r"^([\w-]+)$", GLOSSARY.read_text(), re.MULTILINE)}
    assert not (linked - headings) & glossary
    assert set(re.findall(r"\]\(\s*runbooks\.md#([\w-]+)\)", SOURCE)) <= set(PLACES.values())
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.MULTILINE))
    cited = {key for group in re.findall(r"\{cite(?::t)?\}`([^`]+)`", SOURCE) for key in group.split(",")}
    assert cited
    assert cited <= keys


def test_the_page_is_found_from_where_it_is_needed() -> None:
    assert "resources/training-runbooks" in (ROOT / "_toc.yml").read_text()
    for page in ("resources/runbooks", "mod-202/06-fault-tolerance-and-checkpointing", "mod-202/index"):
        assert "training-runbooks.md" in Path(BOOK / f"{page}.md").read_text(), page
    assert "training-runbooks.md" in (BOOK / "instructor" / "mod-202.md").read_text()


def test_voice() -> None:
    assert not re.findall(r"\b(?:simply|just|obviously|in today's world|leverage)\b", SOURCE, re.IGNORECASE)
