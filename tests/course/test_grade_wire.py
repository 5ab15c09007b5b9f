"""Messages that cross between processes: whole or refused, bounded, in time."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.course.grade.wire import (
    BLOB_LENGTH,
    PREFIX,
    Bounds,
    Channel,
    Closed,
    Malformed,
    TimedOut,
    TooLarge,
    parse,
)

SMALL = Bounds(json_bytes=200, blobs_bytes=1000, blobs=3, marks=20)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@contextlib.contextmanager
def pair(bounds: Bounds | None = None) -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    with Channel(ours, bounds) as one, Channel(theirs, bounds) as other:
        yield one, other


def soon() -> float:
    return time.monotonic() + 30


def frame(text: bytes, *blobs: bytes) -> bytes:
    lengths = b"".join(BLOB_LENGTH.pack(len(blob)) for blob in blobs)
    return PREFIX.pack(len(text), len(blobs)) + lengths + text + b"".join(blobs)


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.text(), JSON, max_size=4), st.lists(st.binary(max_size=300), max_size=4))
def test_a_message_arrives_as_it_was_sent(message: dict[str, object], blobs: list[bytes]) -> None:
    with pair() as (one, other):
        one.send(message, blobs, soon())
        one.send({}, deadline=soon())
        assert other.receive(soon()) == (message, blobs)
        assert other.receive(soon()) == ({}, [])


def test_a_message_larger_than_any_buffer_arrives() -> None:
    blob = bytes(range(256)) * 40_000
    with pair() as (one, other):
        sender = threading.Thread(target=one.send, args=({"a": "x" * 10**6}, [blob, b""], soon()))
        sender.start()
        message, blobs = other.receive(soon())
        sender.join()
    assert len(message["a"]) == 10**6
    assert blobs == [blob, b""]


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_message_or_malformed(text: bytes) -> None:
    try:
        message = parse(text)
    except Malformed:
        return
    assert type(message) is dict
    assert message == json.loads(text)


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_frame_are_an_error_of_the_wire(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours, SMALL) as channel, theirs:
        theirs.sendall(PREFIX.pack(30, 1) + data)  # a length of the blob that is seldom within the bounds
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises((Malformed, Closed)):
            channel.receive(soon())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"1",
        b"nul",
        b'{"a": 1} {}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 1}',
        b'{"a": ' + b"9" * 21 + b"}",
        b'{"a": ' + b"9" * 10**6 + b"}",
        b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        b'{"a": "\xff"}',
        b'{"a": "\n"}',
        b"{'a': 1}",
    ],
    ids=lambda text: text[:20].decode(errors="replace"),
)
def test_json_that_is_no_message(text: bytes) -> None:
    with pytest.raises(Malformed):
        parse(text)


@pytest.mark.parametrize(
    "data",
    [
        PREFIX.pack(2**32 - 1, 0),
        PREFIX.pack(201, 0),
        PREFIX.pack(2, 2**32 - 1),
        PREFIX.pack(2, 4),
        PREFIX.pack(2, 1) + BLOB_LENGTH.pack(2**64 - 1),
        PREFIX.pack(2, 2) + BLOB_LENGTH.pack(600) * 2,
        frame(b'{"a":[' + b",".join([b"1"] * 30) + b"]}"),
        frame(b'{"a":' + b"[" * 30 + b"]" * 30 + b"}"),
    ],
)
def test_a_frame_over_the_bounds_is_refused_by_its_lengths(data: bytes) -> None:
    with pair(SMALL) as (one, other):
        one._socket.sendall(data)
        with pytest.raises(Malformed, match="allowed are"):
            other.receive(soon())


@pytest.mark.parametrize(
    ("message", "blobs"),
    [({"a": "x" * 200}, []), ({}, [b""] * 4), ({}, [b"x" * 600] * 2), ({"a": [1] * 30}, [])],
)
def test_what_is_too_large_is_not_sent_and_leaves_the_channel_as_it_was(
    message: dict[str, object], blobs: list[bytes]
) -> None:
    with pair(SMALL) as (one, other):
        with pytest.raises(TooLarge, match="allowed are"):
            one.send(message, blobs, soon())
        one.send({"ok": 1}, [b"x"], soon())
        assert other.receive(soon()) == ({"ok": 1}, [b"x"])


def test_what_is_no_json_is_not_sent() -> None:
    with pair() as (one, _), pytest.raises(ValueError, match="JSON compliant"):
        one.send({"a": float("nan")})


@pytest.mark.parametrize("length", [0, 3, 8, 20, 30])
def test_an_end_in_the_middle(length: int) -> None:
    data = frame(b'{"a": "b"}', b"x" * 20)
    with pair() as (one, other):
        one._socket.sendall(data[:length])
        one.close()
        with pytest.raises(Closed):
            other.receive(soon())


@pytest.mark.parametrize("length", [0, 3, 8, 20, 30])
def test_the_deadline_passes_in_the_middle(length: int) -> None:
    data = frame(b'{"a": "b"}', b"x" * 20)
    with pair() as (one, other):
        one._socket.sendall(data[:length])
        with pytest.raises(TimedOut):
            other.receive(time.monotonic() + 0.02)


def test_a_peer_that_does_not_read_is_not_waited_for() -> None:
    with pair() as (one, _), pytest.raises(TimedOut):
        one.send({}, [b"x" * 10**7], time.monotonic() + 0.02)


def test_sending_to_a_peer_that_is_gone() -> None:
    with pair() as (one, other):
        other.close()
        with pytest.raises(Closed):
            one.send({"a": 1}, deadline=soon())
