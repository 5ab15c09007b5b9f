"""Asking a Prometheus, which may be anything that answers at its address.

    series = await Prometheus("http://127.0.0.1:9090").ask(list, "query", query="up")

An answer has a limit and a shape; what misses them is one sentence. Answers are read in a thread of their own, one
after the other: large ones must not hold up the loop, which in the Hub serves everybody.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse
from tornado.simple_httpclient import HTTPStreamClosedError, SimpleAsyncHTTPClient

from distlab.errors import WorkError

MOST_BYTES = 2 * 2**20
"""Of an answer: 180 points of 64 GPUs have 0.5 MiB."""
MOST_TEXT = 300
TIMEOUT_S = 10.0

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of reading JSON that has another shape than expected."""

T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """One of the series that answer a query."""

    labels: dict[str, str]
    samples: tuple[tuple[float, float | None], ...]
    """(Unix time in seconds, value); one of an instant query. None for what is no number of JSON's."""

    @property
    def value(self) -> float | None:
        """Of the last sample."""
        return self.samples[-1][1]


@dataclass(frozen=True)
class Alert:
    """An alert that fires or is about to, with what its rule says of it."""

    state: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Prometheus:
    """A running Prometheus, asked and never told."""

    def __init__(self, url: str) -> None:
        """url: as `http://127.0.0.1:9090`."""
        self.url = url.rstrip("/")

    def address(self) -> str:
        """Where it answers now."""
        return self.url

    @functools.cached_property
    def http(self) -> AsyncHTTPClient:
        """Made with the first question: it belongs to the loop that runs then."""
        return SimpleAsyncHTTPClient(max_body_size=MOST_BYTES, max_clients=16, force_instance=True)

    @functools.cached_property
    def reader(self) -> ThreadPoolExecutor:
        """One thread: only one answer at a time takes the memory that its JSON takes."""
        return ThreadPoolExecutor(1, "prometheus-answers")

    async def ask(self, make: Callable[[list[Series]], T], path: str, **parameters: str) -> T:
        """What `make`, in the reading thread, makes of the series that answer a query.

        WorkError, in one sentence, where there is no answer, or none of Prometheus' shape.
        """
        samples = "value" if path == "query" else "values"
        return await self._read(
            lambda data: make([_series(one, samples) for one in data["result"]]),
            path,
            method="POST",
            body=urlencode(parameters),
        )

    async def alerts(self) -> list[Alert]:
        """The alerts, as `ask` gives series."""
        return await self._read(lambda data: [_alert(one) for one in data["alerts"]], "alerts")

    async def _read(self, make: Callable[[Any], T], path: str, **request: Any) -> T:
        url = self.address()
        response = await self._fetch(f"{url}/api/v1/{path}", url, **request)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.reader, _made, make, response, url)

    async def _fetch(self, address: str, url: str, **request: Any) -> HTTPResponse:
        # Neither redirects, which may lead anywhere, nor gzip, whose size only unpacking shows.
        try:
            return await self.http.fetch(
                address,
                request_timeout=TIMEOUT_S,
                raise_error=False,
                follow_redirects=False,
                decompress_response=False,
                **request,
            )
        except HTTPStreamClosedError:
            raise WorkError(
                f"{url} broke off its answer, or gave more than {MOST_BYTES // 2**20} MiB: "
                "choose a shorter range, or fewer machines, GPUs or runs."
            ) from None
        except (OSError, HTTPClientError) as error:
            raise UnreachableError(url, error) from None


class UnreachableError(WorkError):
    """No Prometheus answers."""

    def __init__(self, url: str, error: BaseException) -> None:
        super().__init__(f"Prometheus does not answer at {url} ({error}); start it with: distlab observe up")


def _made(make: Callable[[Any], T], response: HTTPResponse, url: str) -> T:
    try:
        answer = json.loads(response.body)
        if answer["status"] != "success":
            raise WorkError(f"Prometheus refuses the query: {str(answer['error'])[:MOST_TEXT]}")
        return make(answer["data"])
    except MALFORMED:
        raise WorkError(
            f"This cannot be shown: {url} does not answer as Prometheus does (HTTP {response.code}); "
            "look whether it is one."
        ) from None


def _series(one: Any, samples: str) -> Series:
    """One of Prometheus' series. Any of MALFORMED where it is none."""
    found = [one["value"]] if samples == "value" else one["values"]
    return Series(_texts(one["metric"]), tuple((_moment(at), _number(value)) for at, value in found))


def _alert(one: Any) -> Alert:
    return Alert(str(one["state"]), _texts(one["labels"]), _texts(one["annotations"]))


def _texts(values: Any) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError("labels are texts by their names")
    return values


def _moment(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("a time is a number of seconds")
    return float(value)


def _number(text: Any) -> float | None:
    if not isinstance(text, str):
        raise ValueError("values are texts")
    value = float(text)
    return value if math.isfinite(value) else None
