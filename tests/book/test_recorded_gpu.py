"""What the page on recorded telemetry owes its reader, read off its source."""

import re

from tests.book.test_chapter import BOOK

SOURCE = (BOOK / "resources" / "recorded-gpu.md").read_text()


def test_it_asks_and_answers() -> None:
    assert len(re.findall(r":class: quiz\n.*?```\{dropdown\}", SOURCE, re.S)) >= 2, "hidden, worked answers"
    assert "**Limits.**" in SOURCE
    assert "\n## Troubleshooting\n" in SOURCE


def test_every_citation_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.M))
    cited = {key for group in re.findall(r"\{cite(?::t)?\}`([^`]+)`", SOURCE) for key in group.split(",")}
    assert cited
    assert cited <= keys


def test_the_sentences_it_explains_are_the_programs() -> None:
    """The troubleshooting table quotes what the sources say."""
    from distlab.observe import nvml, nvml_device, recording

    said = " ".join(nvml.SENTENCES.values())
    for module in (nvml_device, recording):
        assert module.__file__
        said += open(module.__file__, encoding="utf-8").read()  # noqa: SIM115
    table = SOURCE.partition("\n## Troubleshooting\n")[2].partition("\n## ")[0]
    quoted = [row.split("|")[1].strip() for row in table.strip().splitlines()[2:]]
    assert len(quoted) >= 6
    assert [words for words in quoted if words not in said] == []


def test_voice() -> None:
    assert not re.findall(r"\b(?:simply|just|obviously|in today's world|leverage)\b", SOURCE, re.I)
