"""The ranks' traces in one file that chrome://tracing and ui.perfetto.dev open: a process for each rank.

Threads keep their numbers; a GPU's streams become threads of the rank's process. Times begin at 0 with the first
profiled step of any rank, and clocks of different hosts are brought into line (clocks.py).
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distlab.errors import SettingError
from distlab.observe.profile.analysis import MERGED
from distlab.observe.profile.clocks import Timeline
from distlab.observe.profile.traces import LATEST_NS, MOST_NAME, load

STREAMS = 10**9
"""Threads of a rank from this number on are streams of its GPU."""
FLOWS = 2**40
"""Each rank's arrows between events have numbers of their own."""
KEPT = {"X", "i", "I", "C", "s", "t", "f", "b", "n", "e"}


def merge(folder: Path, files: Mapping[int, Path], timeline: Timeline, note: str) -> Path:
    """Write `merged.trace.json.gz` in `folder` from the ranks' traces; a rank at a time is in memory.

    note: what the file says of itself. A trace that cannot be read is left out.
    """
    path = folder / MERGED
    part = path.with_name(f".{MERGED}.part")
    part.unlink(missing_ok=True)
    with part.open("xb") as raw, gzip.GzipFile("", "wb", compresslevel=5, fileobj=raw, mtime=0) as packed:
        _write(packed, files, timeline, note)
    part.replace(path)
    return path


def _write(out: gzip.GzipFile, files: Mapping[int, Path], timeline: Timeline, note: str) -> None:
    head = {"displayTimeUnit": "ms", "otherData": {"made_by": "distlab profile", "note": note}}
    out.write(json.dumps(head)[:-1].encode() + b', "traceEvents": [')
    first = True
    for rank, file in files.items():
        try:
            values = load(file)
        except SettingError:
            continue
        host = str(values.get("host_name", "unknown"))[:MOST_NAME]
        for event in _events(values, rank, host, timeline.origin_of(rank)):
            with contextlib.suppress(ValueError, RecursionError):  # a number that JSON has no word for
                text = json.dumps(event, allow_nan=False).encode()
                out.write(text if first else b",\n" + text)
                first = False
    out.write(b"]}")


def _events(values: dict[str, Any], rank: int, host: str, origin: int) -> Iterator[dict[str, Any]]:
    yield _name("process_name", rank, 0, f"rank {rank} ({host})")
    yield {"ph": "M", "name": "process_sort_index", "pid": rank, "tid": 0, "args": {"sort_index": rank}}
    base = values.get("baseTimeNanoseconds", 0)
    shift = (base if type(base) is int and abs(base) < LATEST_NS else 0) - origin
    streams: dict[tuple[Any, Any], int] = {}
    for event in values["traceEvents"]:
        if not isinstance(event, dict):
            continue
        moved = _moved(event, rank, shift, streams)
        if moved is not None:
            yield moved
    for (device, stream), thread in streams.items():
        yield _name("thread_name", rank, thread, f"GPU {device} stream {stream}")


def _moved(
    event: dict[str, Any], rank: int, shift: int, streams: dict[tuple[Any, Any], int]
) -> dict[str, Any] | None:
    """The event in the rank's process and on the common line; None for what has no place there."""
    thread, phase, ts = event.get("tid"), event.get("ph"), event.get("ts")
    if phase == "M":
        if (
            event.get("name") in ("thread_name", "thread_sort_index")
            and type(thread) is int
            and event.get("pid")
        ):
            return _plain(event, rank, thread)
        return None
    if str(phase) not in KEPT or type(thread) is not int or type(ts) not in (int, float):
        return None
    if not 0 <= ts < LATEST_NS / 1e3:  # type: ignore[operator]  # NaN is in no range
        return None
    args = event.get("args")
    on_gpu = event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset", "gpu_user_annotation") or (
        event.get("cat") == "ac2g" and phase == "f"
    )
    if on_gpu:
        device = args.get("device", event.get("pid")) if isinstance(args, dict) else event.get("pid")
        key = (str(device)[:20], thread)
        thread = streams.setdefault(key, STREAMS + len(streams))
    moved = _plain(event, rank, thread)
    moved["ts"] = (round(ts * 1000) + shift) / 1000  # type: ignore[operator]
    if type(event.get("id")) is int:
        moved["id"] = rank * FLOWS + event["id"]
    return moved


_FIELDS = {"ph", "cat", "name", "dur", "s", "bp", "args"}


def _plain(event: dict[str, Any], rank: int, thread: int) -> dict[str, Any]:
    return {key: event[key] for key in event.keys() & _FIELDS} | {"pid": rank, "tid": thread}


def _name(kind: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": {"name": name}}
