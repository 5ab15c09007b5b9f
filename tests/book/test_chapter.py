"""What every chapter of the book owes its reader, read off its source."""

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("mod-*/[0-9][0-9]-*.md"))


def prose_words(source: str) -> int:
    """Words that a reader reads as sentences: no front matter, code, output, tables, formulas or options."""
    text = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.S)
    text = re.sub(r"^```(?:\{code-cell\}|\w|\{bibliography\}).*?^```$", "", text, flags=re.S | re.M)
    text = re.sub(r"^\$\$.*?^\$\$.*?$", "", text, flags=re.S | re.M)
    text = re.sub(r"^(?:\||:\w|:::|```|#).*$", "", text, flags=re.M)
    text = re.sub(r"\{cite(?::t)?\}`[^`]*`", "", text)
    text = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$]*\$", "x", text)
    return len(re.findall(r"\b[A-Za-z][\w'-]*", text))


def test_the_counter_counts_sentences_alone() -> None:
    source = (
        "---\na: b\n---\n# Title\n\n```{code-cell} python3\nx = 1\n```\n\nTwo words `code`.\n\n| a | b |\n"
    )
    assert prose_words(source) == 3  # two words, and an inline code that stands for one


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_long_enough_and_asks(chapter: Path) -> None:
    source = chapter.read_text()
    assert prose_words(source) >= 4000
    assert len(re.findall(r":class: quiz\n.*?```\{dropdown\}", source, re.S)) >= 3, "hidden, worked answers"
    assert source.count("**Limits.**") >= 5, "every model says where it breaks"
    for heading in ("Takeaways", "Exercises", "Troubleshooting", "Further reading"):
        assert f"\n## {heading}\n" in source


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_citation_is_in_the_bibliography(chapter: Path) -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.M))
    cited = {
        key
        for keys in re.findall(r"\{cite(?::t)?\}`([^`]+)`", chapter.read_text())
        for key in keys.split(",")
    }
    assert cited
    assert cited <= keys


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_voice(chapter: Path) -> None:
    filler = re.findall(r"\b(?:simply|just|obviously|in today's world|leverage)\b", chapter.read_text(), re.I)
    assert not filler
