"""The coverage table of MOD-202: each row leads to something that is there, and to a check that exists.

Some lines of the sources ask for what no other test reads (hours, words, names); the tests at the end do.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from myst_parser.mdit_to_docutils.base import default_slugify

from distlab.cli import COMMANDS
from distlab.course.labsource import read_lab
from tests.book.test_chapter import BOOK, prose_words

ROOT = BOOK.parent
TABLE = BOOK / "instructor" / "mod-202-coverage.yml"
SOURCES = ("readme", "roadmap")
CHAPTERS = sorted((BOOK / "mod-202").glob("0*.md"))
INDEX = (BOOK / "mod-202" / "index.md").read_text()
WORDS = {1: 5000, 2: 5000, 3: 4500, 4: 4500, 5: 4000, 6: 4500, 7: 5000}
"""What the readme asks of each chapter at least."""
LINES = {"readme": 170, "roadmap": 40}
"""Lines of the sources that ask for something: headings, introductions and the heads of tables do not."""
CODE_CELL = re.compile(r"^```\{code-cell\}", re.MULTILINE)

pytestmark = pytest.mark.skipif(
    not (ROOT / "solutions").is_dir(), reason="a learner's copy has neither solutions nor question banks"
)


@dataclass(frozen=True)
class Row:
    """One line of a source document, or one of several things that a line names."""

    source: str
    section: str
    what: str
    target: str = ""
    check: str = ""
    planned: str = ""


def read_rows() -> list[Row]:
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    assert tuple(table) == SOURCES
    return [
        Row(source, section, **row)
        for source, sections in table.items()
        for section, rows in sections.items()
        for row in rows
    ]


ROWS = read_rows()


@functools.cache
def pages() -> set[str]:
    """The pages of the table of contents, below book/."""
    return set(re.findall(r"^\s*- file: (\S+)$", (ROOT / "_toc.yml").read_text(), re.MULTILINE))


@functools.cache
def sections(page: Path) -> dict[str, str]:
    """The text below each heading, down to the next one of its level, by the slug that a link names."""
    source = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines, tokens = source.splitlines(), MarkdownIt().parse(source)
    found = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open" and opening.map and inline.children:
            parts = [part.content for part in inline.children if part.type in ("text", "code_inline")]
            found.append((default_slugify("".join(parts)), int(opening.tag[1]), opening.map[0]))
    texts = {}
    for place, (slug, level, start) in enumerate(found):
        ends = (line for _, other, line in found[place + 1 :] if other <= level)
        texts[slug] = "\n".join(lines[start : next(ends, len(lines))])
    return texts


@functools.cache
def names_of_tests(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@functools.cache
def cells_of(lab: str) -> frozenset[str]:
    cells = read_lab(ROOT / "solutions" / lab / "lab.md").cells
    return frozenset(cell.metadata.get("nbgrader", {}).get("grade_id", "") for cell in cells)


def problem_of_target(target: str) -> str:
    """What is wrong with a row's target; empty if it is there."""
    name, _, place = target.partition("#")
    page = BOOK / f"{name}.md"
    if name.startswith("solutions/") and place:
        lab = name.removeprefix("solutions/")
        if not (ROOT / name / "lab.md").is_file():
            return f"no lab {lab}"
        return "" if place in cells_of(lab) else f"no cell {place} in {lab}"
    if page.is_file():
        if name not in pages():
            return f"{name} is not in the table of contents"
        return "" if not place or place in sections(page) else f"no heading {place} in {name}"
    path = (ROOT / target).resolve()
    return "" if path.is_relative_to(ROOT) and path.is_file() else f"no page and no file {target}"


def problem_of_check(check: str) -> str:
    """What is wrong with a row's check; empty if there is such a test or command."""
    if check.startswith("distlab "):
        return "" if check.removeprefix("distlab ") in COMMANDS else f"no command {check}"
    name, _, function = check.partition("::")
    path = ROOT / name
    if not re.fullmatch(r"tests/(\w+/)*test_\w+\.py", name) or not path.is_file():
        return f"no test file {name}"
    if not function.startswith("test_") or function not in names_of_tests(path):
        return f"no test {function} in {name}"
    return ""


def problem_of_plan(planned: str, root: Path = ROOT) -> str:
    """Why a row may no longer say that something is planned; empty while it may."""
    if re.fullmatch(r"mod-202-lab-\d+", planned):
        there = (root / "solutions" / planned).exists()
        return f"{planned} is there: fill in target and check" if there else ""
    if planned.startswith("mod-202/"):
        return f"{planned} is there: fill in target and check" if planned in pages() else ""
    return f"neither a lab nor a page of MOD-202: {planned}"


@pytest.mark.parametrize("source", SOURCES)
def test_every_row_leads_somewhere_and_is_checked(source: str) -> None:
    problems = []
    for row in (row for row in ROWS if row.source == source):
        if row.planned:
            found = (
                ["planned, and yet with a target or a check"]
                if row.target or row.check
                else [problem_of_plan(row.planned)]
            )
        else:
            found = [problem_of_target(row.target), problem_of_check(row.check)]
        problems += [f"{row.section}: {row.what}: {problem}" for problem in found if problem]
    assert problems == []


def test_no_row_stands_twice() -> None:
    counted = Counter((row.source, row.section, row.what.lower()) for row in ROWS)
    assert [key for key, count in counted.items() if count > 1] == []
    written = re.findall(r"^ +- what: ", TABLE.read_text(), re.MULTILINE)
    assert len(ROWS) == len(written), "a section that stands twice hides the first of its two"
    of_source = Counter(row.source for row in ROWS)
    assert all(of_source[source] >= lines for source, lines in LINES.items()), "a line has lost its row"


def test_the_page_shows_every_section_once_in_order() -> None:
    page = (BOOK / "instructor" / "mod-202-coverage.md").read_text()
    assert "instructor/mod-202-coverage" in pages()
    shown = re.findall(r'^table\("(\w+)", "(.+)"\)$', page, re.MULTILINE)
    assert shown == list(dict.fromkeys((row.source, row.section) for row in ROWS))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("mod-107/lab-3", ""),
        ("mod-107/lab-3#completion-criteria", ""),
        ("mod-107/lab-3#completion", "no heading completion in mod-107/lab-3"),
        ("mod-107/lab-4", "no page and no file mod-107/lab-4"),
        ("solutions/mod-107-lab-3#shard-indices", ""),
        ("solutions/mod-107-lab-3#shard", "no cell shard in mod-107-lab-3"),
        ("solutions/mod-107-lab-99#shard", "no lab mod-107-lab-99"),
        ("README.md", ""),
        ("../README.md", "no page and no file ../README.md"),
        ("", "no page and no file "),
    ],
)
def test_a_target_that_is_not_there_is_found(target: str, problem: str) -> None:
    assert problem_of_target(target) == problem


def test_a_page_outside_the_table_of_contents_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "pages", set)
    assert problem_of_target("mod-107/lab-3") == "mod-107/lab-3 is not in the table of contents"


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ("distlab predict step", ""),
        ("distlab predict", "no command distlab predict"),
        ("distlab predict step --help", "no command distlab predict step --help"),
        ("tests/test_cli.py::test_alone_it_lists_its_commands", ""),
        ("tests/test_cli.py::test_nothing", "no test test_nothing in tests/test_cli.py"),
        ("tests/test_nothing.py::test_it", "no test file tests/test_nothing.py"),
        ("tests/programs.py::test_it", "no test file tests/programs.py"),
        ("tests/test_cli.py", "no test  in tests/test_cli.py"),
        ("", "no test file "),
    ],
)
def test_a_check_that_is_none_is_found(check: str, problem: str) -> None:
    assert problem_of_check(check) == problem


def test_a_plan_ends_when_the_thing_is_there(tmp_path: Path) -> None:
    assert problem_of_plan("mod-202-lab-1", tmp_path) == ""
    (tmp_path / "solutions" / "mod-202-lab-1").mkdir(parents=True)
    there = "mod-202-lab-1 is there: fill in target and check"
    assert problem_of_plan("mod-202-lab-1", tmp_path) == there
    assert problem_of_plan("mod-202-lab-11", tmp_path) == ""
    assert problem_of_plan("mod-202/quiz") == "mod-202/quiz is there: fill in target and check"
    assert problem_of_plan("mod-202/08-more") == ""
    assert problem_of_plan("some day") == "neither a lab nor a page of MOD-202: some day"


# What lines of the sources ask for, and no other test reads.


def test_the_modules_page_says_what_it_is() -> None:
    assert INDEX.startswith("# MOD-202: Distributed training at scale\n")
    facts = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", INDEX, re.MULTILINE))
    assert "senior ai infrastructure engineer" in facts["Role"].lower()
    hours = [int(number) for number in re.findall(r"\d+", facts["Time"])]
    assert hours == [55, 18, 24, 10, 3]
    assert sum(hours[1:]) == hours[0]
    assert {"MOD-201", "MOD-107"} <= set(re.findall(r"MOD-\d+", facts["Builds on"]))
    assert {"MOD-203", "MOD-204", "PROJ-301"} <= set(re.findall(r"[A-Z]+-\d+", facts["Leads to"]))
    assert facts["distributed-training-optimization"].startswith("expert | ")
    assert facts["performance-engineering"].startswith("proficient | ")
    differ = sections(BOOK / "mod-202" / "index.md")["where-the-sources-of-this-module-differ"]
    assert "20 reading, 25 labs, 2 assessments and 8 project" in differ
    assert "Model optimization and acceleration" in differ


def test_the_page_lists_every_chapter() -> None:
    listed = sections(BOOK / "mod-202" / "index.md")["chapters"]
    assert len(CHAPTERS) == len(WORDS)
    assert [path.name for path in CHAPTERS if f"({path.name})" not in listed] == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_have_the_words_that_the_source_asks_for(chapter: Path) -> None:
    assert prose_words(chapter.read_text()) >= WORDS[int(chapter.name[:2])]


def rows_checked_by(test: str) -> Iterator[Row]:
    return (row for row in ROWS if row.check.endswith(f"test_mod_202_coverage.py::{test}"))


def test_sections_run_what_they_show() -> None:
    """The section has cells, and the build, which stops at the first that fails, runs them."""
    found = list(rows_checked_by("test_sections_run_what_they_show"))
    assert found
    for row in found:
        name, _, place = row.target.partition("#")
        assert CODE_CELL.search(sections(BOOK / f"{name}.md")[place]), row


def test_the_build_runs_every_cell() -> None:
    execute = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]
    assert execute["execute_notebooks"] == "cache"
    assert execute["raise_on_error"] is True
    assert "exclude_patterns" not in execute
    for chapter in CHAPTERS:
        source = chapter.read_text()
        assert len(CODE_CELL.findall(source)) >= 10, chapter
        assert not re.search(r"^:tags:.*(skip-execution|raises-exception)", source, re.MULTILINE), chapter


def test_each_application_is_treated() -> None:
    page = next(path for path in CHAPTERS if path.name.startswith("01-"))
    treated = sections(page)["what-distributes-differently-workloads"]
    found = list(rows_checked_by("test_each_application_is_treated"))
    assert len(found) == 5
    words = {
        word for row in found for word in re.findall(r"\b\w*[A-Z]\w*\b|multi-agent|protein|climate", row.what)
    }
    assert words == {"GPT", "BERT", "T5", "ResNet", "RLHF", "multi-agent", "protein", "climate"}
    names = {"RLHF": "Reinforcement learning from feedback"}
    for word in words | {"Vision", "Recommenders", "ViT"}:
        assert names.get(word, word) in treated, word


def test_each_tool_is_on_the_page_of_tools() -> None:
    """Fabrics, which nobody installs, stand in the glossary."""
    page = (BOOK / "resources" / "tools-and-frameworks.md").read_text()
    glossary = (BOOK / "resources" / "glossary.md").read_text()
    tools = [row.what for row in ROWS if row.section == "Tools and Technologies"]
    assert len(tools) >= 19
    for tool in tools:
        where = glossary if tool in ("InfiniBand", "RDMA") else page
        for name in re.split(r"[:,] |Kubeflow ", tool):
            assert re.search(re.escape(name), where, re.IGNORECASE), name


def test_the_reading_is_annotated() -> None:
    page = BOOK / "resources" / "recommended-reading.md"
    texts = re.findall(r"^- .*\{cite:t\}.*$", page.read_text(), re.MULTILINE)
    assert len(texts) >= 30
    for text in texts:
        assert len(text.rpartition("`")[2].split()) >= 6, text
    assert {"how-to-stay-current", "cutting-a-model"} <= set(sections(page))
    assert {"narayanan2021megatron", "rajbhandari2020zero"} <= set(
        re.findall(r"cite:t\}`(\w+)`", page.read_text())
    )
