"""Ask an exporter, Prometheus or Alertmanager over HTTP, and what an exporter's page says.

Whoever answers may be anybody: sizes and times are limited, and addresses are those that were asked for alone.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from distlab.errors import WorkError, printable

TIMEOUT_S = 10
MOST_BYTES = 64 * 2**20


class NoAnswerError(WorkError):
    """Nobody answered, or with something else than was asked for."""


class _SameAddress(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _SameAddress)


def fetch(url: str) -> bytes:
    """What lies at an http address. NoAnswerError says why there is nothing."""
    if not url.startswith(("http://", "https://")):  # an address may come from somebody's answer
        raise NoAnswerError(f"{printable(url)[:200]} does not answer: it is no http address")
    try:
        with _OPENER.open(url, timeout=TIMEOUT_S) as reply:
            body: bytes = reply.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise NoAnswerError(f"{url} answers {error.code} {printable(str(error.reason))}") from None
    except (OSError, ValueError) as error:  # ValueError: an address that is none
        reason = getattr(error, "reason", error)
        raise NoAnswerError(f"{url} does not answer: {printable(str(reason))}") from None
    if len(body) > MOST_BYTES:
        raise NoAnswerError(f"{url} answers with more than {MOST_BYTES // 2**20} MiB")
    return body


def fetch_json(url: str) -> Any:
    """The same as plain data."""
    try:
        return json.loads(fetch(url))
    except ValueError:
        raise NoAnswerError(f"{url} answers with something that is no JSON") from None


@dataclass(frozen=True)
class Series:
    """One sample of an exporter's page."""

    name: str
    labels: dict[str, str]
    value: float

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What it is the same series by."""
        return self.name, tuple(sorted(self.labels.items()))


@dataclass(frozen=True)
class Scrape:
    """An exporter's page at one moment."""

    time: float
    """Unix time in seconds."""
    series: tuple[Series, ...]
    kinds: dict[str, str] = field(default_factory=dict)
    """What the page says that a metric is: gauge or counter."""

    def named(self, name: str) -> Iterator[Series]:
        """The series of a metric."""
        return (one for one in self.series if one.name == name)


_LINE = re.compile(r"([A-Za-z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?", re.ASCII)
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)', re.ASCII)
_ESCAPED = re.compile(r"\\(.)")


def parse(text: str, at: float = 0.0) -> Scrape:
    """Read a page in Prometheus' text format 0.0.4. ValueError where it is none.

    prometheus-client's own parser adds `_total` to the names of counters, and DCGM's do not end so.
    """
    series: list[Series] = []
    kinds: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split(maxsplit=3)
        if line.startswith("#"):
            if words[:2] == ["#", "TYPE"] and len(words) == 4:
                kinds[words[2]] = words[3].strip()
        elif words:
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(f"line {number} is {line[:80]!r}")
            series.append(Series(found[1], _labels(found[2] or "", number), float(found[3])))
    return Scrape(at, tuple(series), kinds)


def _labels(text: str, number: int) -> dict[str, str]:
    labels, position = {}, 0
    while position < len(text):
        found = _LABEL.match(text, position)
        if found is None:
            raise ValueError(f"the labels of line {number} are {text[:80]!r}")
        labels[found[1]] = _ESCAPED.sub(lambda escape: {"n": "\n"}.get(escape[1], escape[1]), found[2])
        position = found.end()
    return labels


def scrape(url: str) -> Scrape:
    """Ask an exporter as Prometheus does. NoAnswerError where it gives no page of metrics."""
    body = fetch(url)
    try:
        return parse(body.decode("utf-8"), time.time())
    except ValueError as error:
        raise NoAnswerError(f"{url} answers with no page of metrics: {printable(str(error))[:200]}") from None
