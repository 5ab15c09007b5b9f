"""Reading the Chrome traces that torch.profiler writes: a rank's operators, kernels, annotations, memory events.

A trace may come from anybody: sizes, types and numbers are checked, and what does not fit is one sentence.

What torch 2.13 writes. `ts` and `dur` are microseconds after `baseTimeNanoseconds` (Unix time). Host operators have
the category `cpu_op`; annotations (`record_function`) `user_annotation`, among them `ProfilerStep#N`; gloo's transfers
are annotations `gloo:all_reduce`... on threads of its own (`pt_gloo_runloop`); NCCL's are kernels `nccl...` on streams.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from distlab.errors import SettingError, printable
from distlab.files import read_limited

MOST_FILE_BYTES = 128 * 2**20
MOST_JSON_BYTES = 128 * 2**20
"""Uncompressed. The largest of the course's runs (tensor parallelism) writes 2.5 MB a step and rank, so 50 steps."""
MOST_VALUES = 12_000_000
"""In lists and objects. A real trace has one in 11 bytes or more and takes 4 times its size in memory; nothing but
empty lists would take 27 times as much."""
MOST_NAME = 200
MOST_SHAPES = 120
MOST_DIMS = 64
"""Of a tensor: torch's own limit. The product of longer lists could take hours."""
MOST_RANK = 2**16
LATEST_NS = 2**62

Kind = Literal["op", "call", "transfer", "data", "kernel", "copy", "other"]
"""op: a host operator. call: a host operator that starts, or waits for, communication. transfer: communication itself.
data: the annotation around loading a batch. kernel, copy: on a GPU. other: any other annotation."""

DATA = "distlab::data"
"""The annotation of `Profiler.data()`."""
DATALOADER = "enumerate(DataLoader)"
"""What torch's DataLoader wraps each of its batches in."""

WAIT = "distlab::communication"
"""The annotation around waiting for other ranks where torch's profiler sees no transfer, as of Horovod."""

_STEP = re.compile(r"ProfilerStep#(\d{1,12})")
_TRANSFER = re.compile(r"(gloo|mpi|ucc|xccl|ccl):")
_CALL = re.compile(r"_?c10d(_functional)?::")
_RANK_FILE = re.compile(r"rank_(\d{1,6})\.trace\.json\.gz")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that ran from `start` to `end` (ns) on a thread, or on a stream of a GPU."""

    kind: Kind
    name: str
    start: int
    end: int
    thread: str
    """Host: the thread's id. GPU: `device/stream`."""
    shapes: str = ""
    elements: int = 0
    group: str = ""
    """The ranks that a transfer is between, where the trace tells."""


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """An allocation or a release."""

    at: int
    """ns."""
    device: str
    """`cpu`, `gpu:0`."""
    allocated_bytes: int
    """What tensors hold after it; on a CPU counted from the start of the profile."""


@dataclass(frozen=True)
class Trace:
    """One rank's trace. Times are nanoseconds of Unix time, by the clock of the rank's host."""

    rank: int
    world_size: int
    host: str
    pid: int
    main_thread: str
    """The one that calls `profiler.step()`."""
    steps: tuple[tuple[int, int, int], ...]
    """(number, start, end), in order."""
    spans: tuple[Span, ...]
    """By start."""
    memory: tuple[MemoryEvent, ...]
    """By time."""
    synthetic: bool = False
    """Does it say of itself that it was made up?"""
    on_gpu: bool = False
    """Did anything run on a GPU?"""


def rank_files(folder: Path) -> dict[int, Path]:
    """The ranks' traces in a profile's folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        if match := _RANK_FILE.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a trace, compressed or not. SettingError in one sentence for anything else."""
    try:
        content = _expand(read_limited(path, MOST_FILE_BYTES))
        if sum(content.count(mark) for mark in (b"[", b"{", b",")) > MOST_VALUES:
            raise OSError(f"it has more than {MOST_VALUES} values")
        values = json.loads(content)
    except OSError as error:
        raise SettingError(f"Cannot read {path.name}: {error}; profile fewer steps, or again.") from None
    except (ValueError, RecursionError, MemoryError):
        raise SettingError(
            f"{path.name} is not a whole trace: it is cut off or damaged; profile again."
        ) from None
    if not isinstance(values, dict) or not isinstance(values.get("traceEvents"), list):
        raise SettingError(f"{path.name} is JSON, but no Chrome trace: it has no list `traceEvents`.")
    return values


def _expand(content: bytes) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    expander = zlib.decompressobj(wbits=31)
    try:
        text = expander.decompress(content, MOST_JSON_BYTES + 1)
    except zlib.error:
        raise ValueError("damaged") from None
    if len(text) > MOST_JSON_BYTES:
        raise OSError(f"it has more than {MOST_JSON_BYTES} bytes uncompressed")
    if not expander.eof:
        raise ValueError("cut off")
    return text


def read_trace(path: Path, rank: int) -> Trace:
    """Rank `rank`'s trace; SettingError where it cannot be read, or is of another rank."""
    return digest(load(path), rank, path.name)


def digest(values: dict[str, Any], rank: int, name: str = "trace") -> Trace:
    """What the analysis needs of a trace's JSON."""
    base = _whole(values.get("baseTimeNanoseconds", 0))
    info = values.get("distributedInfo")
    info = info if isinstance(info, dict) else {}
    said = _whole(info.get("rank", rank))
    if said != rank:
        raise SettingError(f"{name} says that it is of rank {said}, not {rank}; profile again.")
    spans, memory, steps = [], [], []
    pid = 0
    main = ""
    # Threads of gloo's own: the main one is none, though it has the annotations of what it sends and receives.
    threads = {_text(event.get("tid")) for event in _events(values) if _is_transfer(event)}
    threads -= {_text(event.get("tid")) for event in _events(values) if _is_step(event)}
    for event in _events(values):
        if event.get("cat") == "cpu_instant_event":
            if (change := _memory_event(event, base)) is not None:
                memory.append(change)
            continue
        span = _span(event, base, threads)
        if span is None:
            continue
        if _is_step(event):
            steps.append((int(span.name.partition("#")[2]), span.start, span.end))
            main, pid = span.thread, _whole(event.get("pid", 0))
        else:
            spans.append(span)
    shapes = _shapes_by_id(values)
    spans = [_with_shapes(span, shapes) for span in spans] if shapes else spans
    return Trace(
        rank=rank,
        world_size=max(1, min(_whole(info.get("world_size", 1)), MOST_RANK)),
        host=_text(values.get("host_name", "")) or "unknown",
        pid=pid,
        main_thread=main,
        steps=tuple(_apart(sorted(steps, key=lambda step: step[1]))),
        spans=tuple(sorted(spans, key=lambda span: (span.start, -span.end))),
        memory=tuple(sorted(memory, key=lambda change: change.at)),
        synthetic=values.get("synthetic") is True,
        on_gpu=any(span.kind == "kernel" for span in spans),
    )


def _events(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (event for event in values["traceEvents"] if isinstance(event, dict))


def _is_transfer(event: dict[str, Any]) -> bool:
    return event.get("cat") == "user_annotation" and bool(_TRANSFER.match(str(event.get("name", ""))))


def _is_step(event: dict[str, Any]) -> bool:
    return event.get("cat") == "user_annotation" and bool(_STEP.fullmatch(str(event.get("name", ""))))


def _span(event: dict[str, Any], base: int, transfer_threads: set[str]) -> Span | None:
    if event.get("ph") != "X":
        return None
    start, end = _nanoseconds(event, base)
    if start is None or end is None:
        return None
    name, category, args = _text(event.get("name", "")), event.get("cat"), event.get("args")
    args = args if isinstance(args, dict) else {}
    kind = _kind(name, category, _text(event.get("tid")) in transfer_threads)
    if kind is None:
        return None
    on_gpu = category in ("kernel", "gpu_memcpy", "gpu_memset")
    thread = f"{_text(args.get('device', event.get('pid')))}/" if on_gpu else ""
    shapes, elements = _dims(args)
    if on_gpu:
        shapes = f"#{_whole(args.get('External id', -1))}"
        elements = _whole(args.get("In msg nelems", 0))
    group = _text(args.get("Process Group Ranks", ""))
    return Span(kind, name, start, end, thread + _text(event.get("tid")), shapes, elements, group)


def _kind(name: str, category: Any, on_transfer_thread: bool) -> Kind | None:
    if category == "cpu_op":
        if on_transfer_thread:  # gloo copies and adds up by operators
            return "transfer"
        return "call" if _CALL.match(name) else "op"
    if category == "user_annotation":
        if _TRANSFER.match(name) or name == WAIT:
            return "transfer"
        return "data" if name == DATA or name.startswith(DATALOADER) else "other"
    if category == "kernel":
        return "transfer" if "nccl" in name.lower() else "kernel"
    if category in ("gpu_memcpy", "gpu_memset"):
        return "transfer" if "PtoP" in name else "copy"
    return None


def _nanoseconds(event: dict[str, Any], base: int) -> tuple[int | None, int | None]:
    ts, duration = _microseconds(event.get("ts")), _microseconds(event.get("dur", 0))
    if ts is None or duration is None:
        return None, None
    start = base + round(ts * 1000)
    return start, start + round(duration * 1000)


def _microseconds(value: Any) -> float | None:
    if type(value) not in (int, float) or not 0 <= value < LATEST_NS / 1e3:  # NaN is in no range
        return None
    return float(value)


def _memory_event(event: dict[str, Any], base: int) -> MemoryEvent | None:
    args = event.get("args")
    at, _ = _nanoseconds(event, base)
    if event.get("name") != "[memory]" or not isinstance(args, dict) or at is None:
        return None
    total, kind, device = (args.get(key) for key in ("Total Allocated", "Device Type", "Device Id"))
    if type(total) is not int or abs(total) >= LATEST_NS or kind not in (0, 1):
        return None
    return MemoryEvent(at, "cpu" if kind == 0 else f"gpu:{_whole(device)}", total)


def _dims(args: dict[str, Any]) -> tuple[str, int]:
    dims = args.get("Input Dims")
    if not isinstance(dims, list):
        return "", 0
    known = [dim for dim in dims if isinstance(dim, list) and 0 < len(dim) <= MOST_DIMS]
    try:
        elements = sum(math.prod(dim) for dim in known if dim == [_whole(size) for size in dim])
    except (TypeError, OverflowError):
        elements = 0
    text = ", ".join(str(dim) for dim in known[:8])
    return printable(text if len(text) <= MOST_SHAPES else text[: MOST_SHAPES - 3] + "..."), _whole(elements)


def _shapes_by_id(values: dict[str, Any]) -> dict[str, str]:
    """Shapes of host operators by their id, for the kernels that they started; empty without a GPU."""
    if not any(event.get("cat") == "kernel" for event in _events(values)):
        return {}
    found = {}
    for event in _events(values):
        args = event.get("args")
        if event.get("cat") == "cpu_op" and isinstance(args, dict):
            found[f"#{_whole(args.get('External id', -1))}"] = _dims(args)[0]
    return found


def _with_shapes(span: Span, shapes: dict[str, str]) -> Span:
    if not span.shapes.startswith("#"):
        return span
    return Span(
        span.kind,
        span.name,
        span.start,
        span.end,
        span.thread,
        shapes.get(span.shapes, ""),
        span.elements,
        span.group,
    )


def _apart(steps: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Steps one after the other: what lies within one before it is left out."""
    until, seen = -1, set()
    for number, start, end in steps:
        if start >= until and end > start and number not in seen:
            seen.add(number)
            yield number, start, end
            until = end


def _whole(value: Any) -> int:
    """A number that may be one; 0 for what is none or out of all bounds."""
    return value if type(value) is int and abs(value) < LATEST_NS else 0


def _text(value: Any) -> str:
    return _printable(str(value)[:MOST_NAME]) if isinstance(value, str | int) else ""


@lru_cache(2**16)
def _printable(text: str) -> str:
    return printable(text)  # a trace has few names, and each of them often
