"""Messages between two processes that do not trust each other: JSON with raw bytes beside it, over a socket.

    channel = Channel(sock)
    channel.send({"op": "get"}, [b"bytes"], deadline=time.monotonic() + 5)
    message, blobs = channel.receive(deadline=time.monotonic() + 5)

A frame is 8 bytes (length of the JSON, number of blobs, both 32 bits, network order), the length of each blob
(64 bits), the JSON, the blobs. All lengths are checked before anything of that size is read or made, and the
JSON is of one object without duplicate keys, `NaN`, infinite or overlong numbers. Neither side can make the
other run anything, or use more than the bounds below.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MIB = 2**20

PREFIX = struct.Struct("!II")
BLOB_LENGTH = struct.Struct("!Q")
MAX_JSON_DIGITS = 20
"""Digits of a whole number in JSON: 64 bits and a sign."""


class WireError(Exception):
    """The other side cannot be talked with any more; the frame after this one cannot be found."""


class Closed(WireError):  # noqa: N818 - how a conversation ended
    """The other side has closed its end, or its process ended."""


class TimedOut(WireError):  # noqa: N818
    """The deadline passed before a whole frame had been received or sent."""


class Malformed(WireError):  # noqa: N818
    """What came is no message, or one over the bounds."""


class TooLarge(WireError):  # noqa: N818
    """What is to be sent is over the bounds. Not a byte was sent: the channel can still be used."""


@dataclass(frozen=True)
class Bounds:
    """What one frame may hold. `marks` counts `{`, `[` and `,`, so that parsing costs no more than that many
    small objects of memory."""

    json_bytes: int = 32 * MIB
    blobs_bytes: int = 96 * MIB
    blobs: int = 65_536
    marks: int = 3_000_000


class Channel:
    """One end of a connected stream socket, which it owns. `close` it, or use it in a `with` statement."""

    def __init__(self, sock: socket.socket, bounds: Bounds | None = None) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)  # no program that this process starts gets it
        self.bounds = bounds or Bounds()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(
        self, message: dict[str, Any], blobs: Sequence[bytes] = (), deadline: float | None = None
    ) -> None:
        """Send one frame by `deadline` (on `time.monotonic()`; None waits as long as it takes).

        Raises TooLarge, TimedOut, Closed. ValueError or TypeError for what JSON does not know.
        """
        text = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
        lengths = [len(blob) for blob in blobs]
        if problem := self._problem(len(text), lengths) or self._marks_problem(text):
            raise TooLarge(problem)
        head = PREFIX.pack(len(text), len(lengths)) + b"".join(map(BLOB_LENGTH.pack, lengths))
        for part in (head + text, *blobs):
            self._send(memoryview(part), deadline)

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], list[bytes]]:
        """The next frame, if it is whole by `deadline`. Raises Closed, TimedOut, Malformed."""
        json_length, count = PREFIX.unpack(self._receive(PREFIX.size, deadline))
        if problem := self._problem(json_length, [0] * min(count, self.bounds.blobs + 1)):
            raise Malformed(problem)
        raw_lengths = self._receive(count * BLOB_LENGTH.size, deadline)
        lengths = [length for (length,) in BLOB_LENGTH.iter_unpack(raw_lengths)]
        if problem := self._problem(json_length, lengths):
            raise Malformed(problem)
        text = self._receive(json_length, deadline)
        if problem := self._marks_problem(text):
            raise Malformed(problem)
        blobs = [bytes(self._receive(length, deadline)) for length in lengths]
        return parse(text), blobs

    def _problem(self, json_length: int, lengths: list[int]) -> str:
        """What is over the bounds; empty if nothing is."""
        bounds = self.bounds
        if (
            json_length <= bounds.json_bytes
            and len(lengths) <= bounds.blobs
            and sum(lengths) <= bounds.blobs_bytes
        ):
            return ""
        return (
            f"a message of {json_length} bytes and {len(lengths)} blobs of {sum(lengths)} bytes; allowed are "
            f"{bounds.json_bytes} bytes and {bounds.blobs} blobs of {bounds.blobs_bytes} bytes together"
        )

    def _marks_problem(self, text: bytes | bytearray) -> str:
        marks = text.count(b"{") + text.count(b"[") + text.count(b",")
        return (
            f"a message of {marks} items; allowed are {self.bounds.marks}"
            if marks > self.bounds.marks
            else ""
        )

    def _send(self, data: memoryview, deadline: float | None) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except (BlockingIOError, InterruptedError):
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise Closed(f"the other side is gone: {error}") from error

    def _receive(self, length: int, deadline: float | None) -> bytearray:
        """Exactly `length` bytes. Memory is taken as they come, not as they are promised."""
        data = bytearray()
        while len(data) < length:
            try:
                chunk = self._socket.recv(min(length - len(data), MIB))
            except (BlockingIOError, InterruptedError):
                self._wait(select.POLLIN, deadline)
                continue
            except OSError as error:
                raise Closed(f"the other side is gone: {error}") from error
            if not chunk:
                raise Closed("the other side is gone")
            data += chunk
            if len(data) < length and deadline is not None and time.monotonic() > deadline:
                raise TimedOut("the deadline passed")  # a peer that sends byte by byte never makes us wait
        return data

    def _wait(self, event: int, deadline: float | None) -> None:
        """Until the socket is ready. `poll`, unlike `select`, takes any descriptor number."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut("the deadline passed")
        poll = select.poll()
        poll.register(self._socket, event)
        poll.poll(None if left is None else math.ceil(left * 1000))


def parse(text: bytes | bytearray) -> dict[str, Any]:
    """The JSON object in `text`, of exact builtin types. Raises Malformed for all else."""
    try:
        message = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not a message: {type(error).__name__}") from error
    if type(message) is not dict:
        raise Malformed("a message is one JSON object")
    return message


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_JSON_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number too large")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
