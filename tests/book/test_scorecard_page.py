"""What the page on the models' errors owes its reader, read off its source: above all that no error is typed."""

import re

from tests.book.test_chapter import BOOK

SOURCE = (BOOK / "resources" / "scorecard.md").read_text()
PROSE = re.sub(r"^```\{code-cell\}.*?^```$|\A---\n.*?\n---\n", "", SOURCE, flags=re.S | re.M)


def test_it_asks_and_answers() -> None:
    assert len(re.findall(r":class: quiz\n.*?```\{dropdown\}", SOURCE, re.S)) >= 3, "hidden, worked answers"
    assert SOURCE.count("**Limits.**") >= 3
    assert "\n## Troubleshooting\n" in SOURCE


def test_every_citation_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.M))
    cited = {key for group in re.findall(r"\{cite(?::t)?\}`([^`]+)`", SOURCE) for key in group.split(",")}
    assert cited
    assert cited <= keys


def test_what_is_computed_is_shown_and_no_measured_percentage_is_typed() -> None:
    """Errors stand in the prose only as values of the cells; typed ones are quantities of a question or arithmetic."""
    glued = set(re.findall(r"\{glue:text\}`(\w+)", PROSE))
    computed = set(re.findall(r'^    "(\w+)": ', SOURCE, re.M))
    assert glued == computed
    typed = re.findall(r"[\d.]+%", re.sub(r"\{glue:text\}`[^`]*`%", "", PROSE))
    assert set(typed) == {"300%", "5%"}  # four times too large; an example


def test_voice() -> None:
    assert not re.findall(r"\b(?:simply|just|obviously|in today's world|leverage)\b", SOURCE, re.I)
