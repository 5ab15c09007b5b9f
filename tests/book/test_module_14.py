"""What Module 14's page owes its reader, read off its source: a module's front page and a chapter in one."""

import re

from tests.book.test_chapter import BOOK, prose_words

SOURCE = (BOOK / "mod-14" / "index.md").read_text()


def test_it_is_long_enough_and_asks() -> None:
    assert prose_words(SOURCE) >= 2500
    assert len(re.findall(r":class: quiz\n.*?```\{dropdown\}", SOURCE, re.S)) >= 3, "hidden, worked answers"
    assert SOURCE.count("**Limits.**") >= 5, "every model says where it breaks"
    for heading in ("Takeaways", "Exercises", "Completion checklist", "Troubleshooting", "Further reading"):
        assert f"\n## {heading}\n" in SOURCE


def test_every_citation_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.M))
    cited = {key for group in re.findall(r"\{cite(?::t)?\}`([^`]+)`", SOURCE) for key in group.split(",")}
    assert cited
    assert cited <= keys


def test_voice() -> None:
    assert not re.findall(r"\b(?:simply|just|obviously|in today's world|leverage)\b", SOURCE, re.I)
