"""Read what the ranks' flight recorders kept, and say who is to blame.

    distlab profile flight FOLDER

Collectives of a process group are numbered, and every rank calls them in the same order. So the first number that
some ranks have and others do not tells who never came; the same number with two different operations or sizes tells
who called something else. (The reasoning of torch's own `torchfrtrace`, which unpickles whatever a file holds.)
"""

from __future__ import annotations

import dataclasses
import io
import json as jsonlib
import pickle
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.files import read_limited

MOST_BYTES = 2**26
"""Of one rank's record: 2,000 collectives with their stacks take about 4 MB."""
MOST_ITEMS = 2**23
"""Of one rank's record, however small its file."""
MOST_SHOWN = 16
"""Ranks that a sentence names."""
_NAME = re.compile(r"(?:.*rank_)([0-9]{1,6})(\.flight\.json)?")


@dataclass(frozen=True)
class Call:
    """A collective that a rank called."""

    group: str
    """The process group's name; its default is "0"."""
    number: int
    """Which of the group's collectives this is, from 1."""
    operation: str
    """As torch names it: `nccl:all_reduce`, `gloo:barrier`."""
    input_sizes: tuple[tuple[int, ...], ...]
    state: str
    """`scheduled`, `started` or `completed`; gloo's stays at `scheduled`."""
    time: float
    """Unix time of the call in seconds."""

    def __str__(self) -> str:
        sizes = ", ".join("x".join(map(str, size)) for size in self.input_sizes)
        return f"{self.operation}({sizes})"


@dataclass(frozen=True)
class Record:
    """What one rank had kept."""

    rank: int
    world_size: int | None
    calls: tuple[Call, ...]
    main_thread: tuple[str, ...]
    """Its stack when it was asked, outermost call first; empty where nobody asked."""
    groups: dict[str, tuple[int, ...]]
    """Members of the groups that it knows."""


@dataclass(frozen=True)
class Verdict:
    """What went wrong in one process group."""

    kind: Literal["missing", "different", "stuck", "none"]
    group: str
    number: int
    operation: str
    culprits: tuple[int, ...]
    waiting: tuple[int, ...]
    sentence: str
    last_calls: dict[int, str]
    """The last collective of each rank in the group, with its number."""
    stacks: dict[int, list[str]]
    """Where the culprits were, innermost call last; a call takes two lines."""


def read_flights(folder: Path) -> list[Record]:
    """The records in a folder, by rank. SettingError where there is none, or one cannot be read."""
    records: dict[int, Record] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _NAME.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_file():
            continue
        rank = int(match[1])
        if rank not in records or match[2]:  # of two, the one that also tells where the rank was
            records[rank] = _read(path, rank, is_json=bool(match[2]))
    if not records:
        raise SettingError(
            f"{folder} holds no flight record (rank_N.flight.json, nccl_trace_rank_N); run with "
            f"DISTLAB_FLIGHT={folder}, or name the folder of TORCH_FR_DUMP_TEMP_FILE."
        )
    return [records[rank] for rank in sorted(records)]


def _read(path: Path, rank: int, is_json: bool) -> Record:
    try:
        content = read_limited(path, MOST_BYTES)
        whole = jsonlib.loads(content) if is_json else {"flight": _unpickled(content)}
        _check_extent(whole)
        return _record(rank, whole)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        LookupError,
        ArithmeticError,
        AttributeError,
        EOFError,
        RecursionError,
    ) as error:
        raise SettingError(
            f"{path} is no flight record ({printable(str(error))[:200]}); remove it, and read the others."
        ) from None
    except pickle.UnpicklingError as error:
        raise SettingError(
            f"{path} is no flight record ({printable(str(error))[:200]}); remove it."
        ) from None


class _PlainData(pickle.Unpickler):
    """Builds lists, dictionaries, texts and numbers; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and a record is plain data")


def _unpickled(content: bytes) -> Any:
    for opcode, place, _ in pickletools.genops(content):
        # An unpickler makes room for all places below the one that is named.
        if "PUT" in opcode.name and isinstance(place, int) and place > len(content):
            raise ValueError(f"it asks for {place} places")
    return _PlainData(io.BytesIO(content)).load()


def _check_extent(whole: Any) -> None:
    """ValueError for what is far larger written out than packed: a pickle may hold one list a billion times."""
    left, todo = MOST_ITEMS, [whole]
    while todo:
        item = todo.pop()
        if type(item) is int and abs(item) >= 2**512:  # no float either
            raise ValueError("it holds a number of more than 512 bits")
        left -= len(item) if isinstance(item, list | tuple | dict) else 1
        left -= len(item) // 16 if isinstance(item, str | bytes | bytearray) else 0
        if left < 0:
            raise ValueError(f"it holds more than {MOST_ITEMS} items")
        if isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            todo += item
        elif item is not None and not isinstance(item, str | int | float | bytes | bytearray):
            raise ValueError(f"it holds a {type(item).__name__}")


def _record(rank: int, whole: dict[str, Any]) -> Record:
    flight = whole["flight"]
    groups = {}
    for name, config in flight.get("pg_config", {}).items():
        members = jsonlib.loads(config["ranks"]) if config.get("ranks") else []
        if name and all(type(member) is int for member in members):
            groups[str(name)] = tuple(members)
    world_size = whole.get("world_size")
    stack = whole.get("main_thread") or ()
    return Record(
        rank=rank,
        world_size=world_size if type(world_size) is int and 0 < world_size <= 10**6 else None,
        calls=tuple(_call(entry) for entry in flight["entries"] if not entry.get("is_p2p")),
        main_thread=tuple(printable(line) for entry in list(stack)[-30:] for line in str(entry).splitlines()),
        groups=groups,
    )


def _call(entry: dict[str, Any]) -> Call:
    return Call(
        group=printable(str(entry["process_group"][0])),
        number=int(entry["collective_seq_id"]),
        operation=printable(str(entry["profiling_name"])),
        input_sizes=tuple(tuple(int(n) for n in size) for size in entry["input_sizes"]),
        state=printable(str(entry["state"])),
        time=int(entry["time_created_ns"]) / 1e9,
    )


def judge(records: list[Record]) -> list[Verdict]:
    """One verdict per process group in which something is wrong; else one of kind "none".

    Those that name a rank which waits nowhere come first: a rank that waits in one group cannot come to another.
    Among equals the earliest is first.
    """
    names = dict.fromkeys(call.group for record in records for call in record.calls)
    found = [verdict for name in names if (verdict := _judge_group(records, name))]
    found.sort(key=lambda pair: pair[0])
    if found:
        verdicts = [_excuse(verdict, [other for _, other in found]) for _, verdict in found]
        return [verdict for _, verdict in sorted(verdicts, key=lambda pair: pair[0])]
    last = {record.rank: str(record.calls[-1]) for record in records if record.calls}
    done = "Every collective that a rank called was called by all of its group."
    return [Verdict("none", "", 0, "", (), (), done, last, {})]


def _judge_group(records: list[Record], group: str) -> tuple[float, Verdict] | None:
    by_rank = {
        record.rank: {call.number: call for call in record.calls if call.group == group} for record in records
    }
    members = _members(records, group, by_rank)
    last = {rank: max(by_rank.get(rank) or [0]) for rank in members}
    silent = tuple(rank for rank in members if rank not in by_rank)
    reached_by_all = min((last[rank] for rank in members if rank not in silent), default=0)
    for number in sorted(
        {number for calls in by_rank.values() for number in calls if number <= reached_by_all}
    ):
        came = {rank: calls[number] for rank, calls in by_rank.items() if number in calls}
        if odd := _odd_ones(came):
            return _verdict("different", records, by_rank, group, number, odd)
    furthest = max(last.values(), default=0)
    if silent and furthest:
        return _verdict("missing", records, by_rank, group, furthest, silent)
    if reached_by_all < furthest:
        number = reached_by_all + 1
        late = tuple(rank for rank in members if last[rank] < number)
        return _verdict("missing", records, by_rank, group, number, late)
    if any(calls and calls[furthest].state == "started" for calls in by_rank.values()):
        return _verdict("stuck", records, by_rank, group, furthest, ())
    return None


def _excuse(verdict: Verdict, found: list[Verdict]) -> tuple[bool, Verdict]:
    """Do all its culprits wait elsewhere? And the verdict, which says so."""
    elsewhere = {
        rank: other.group
        for other in found
        if verdict.kind == other.kind == "missing" and other.group != verdict.group
        for rank in other.waiting
        if rank in verdict.culprits
    }
    said = "".join(f" Rank {rank} waited itself, in group {group!r}." for rank, group in elsewhere.items())
    changed = dataclasses.replace(verdict, sentence=verdict.sentence + said)
    return set(verdict.culprits) <= set(elsewhere) and bool(elsewhere), changed


def _members(records: list[Record], group: str, by_rank: dict[int, dict[int, Call]]) -> tuple[int, ...]:
    for record in records:
        if group in record.groups:
            return record.groups[group]
    if group == "0":  # the default group holds every rank
        return tuple(range(max((record.world_size or 0 for record in records), default=0) or len(by_rank)))
    return tuple(rank for rank, calls in by_rank.items() if calls)


def _odd_ones(came: dict[int, Call]) -> tuple[int, ...]:
    """Ranks that called something else than most; sizes may differ where the operation lets them."""
    kinds: dict[tuple[str, Any], list[int]] = {}
    for rank, call in sorted(came.items()):
        sizes = call.input_sizes if re.search(r"all_?reduce|broadcast", call.operation) else ()
        kinds.setdefault((call.operation, sizes), []).append(rank)
    if len(kinds) < 2:
        return ()
    most = max(kinds.values(), key=len)
    return tuple(rank for ranks in kinds.values() if ranks is not most for rank in ranks)


def _verdict(
    kind: Literal["missing", "different", "stuck"],
    records: list[Record],
    by_rank: dict[int, dict[int, Call]],
    group: str,
    number: int,
    culprits: tuple[int, ...],
) -> tuple[float, Verdict]:
    """The verdict, and when its collective was called first."""
    came = {rank: calls[number] for rank, calls in by_rank.items() if number in calls}
    waiting = tuple(sorted(set(came) - set(culprits)))
    call = came[waiting[0]] if waiting else next(iter(came.values()))
    last = {rank: calls[max(calls)] for rank, calls in by_rank.items() if calls}
    where = f"collective {number} of group {group!r}, {call}"
    if kind == "missing":
        ends = "; ".join(_end(rank, rank in by_rank, last.get(rank)) for rank in culprits[:MOST_SHOWN])
        sentence = f"{_ranks(culprits)} never came to {where}; {_ranks(waiting)} waited there; {ends}."
    elif kind == "different":
        calls = "; ".join(f"{_ranks((rank,))} called {came[rank]}" for rank in culprits[:MOST_SHOWN])
        sentence = f"the ranks disagree on {where}: {calls}."
    else:
        sentence = f"all ranks came to {where}, and it did not end: look at the network and the GPUs first."
    verdict = Verdict(
        kind=kind,
        group=group,
        number=number,
        operation=call.operation,
        culprits=culprits,
        waiting=waiting,
        sentence=sentence[0].upper() + sentence[1:],
        last_calls={rank: f"{call.number}, {call}" for rank, call in last.items()},
        stacks={record.rank: list(record.main_thread) for record in records if record.rank in culprits},
    )
    return min(call.time for call in came.values()), verdict


def _end(rank: int, spoke: bool, last: Call | None) -> str:
    if not spoke:
        return f"rank {rank} left no record: it was killed, or its machine is gone"
    return f"rank {rank}'s last was {last.number}, {last}" if last else f"rank {rank} had called none"


def _ranks(numbers: tuple[int, ...]) -> str:
    if not numbers:
        return "no rank"
    shown = ", ".join(map(str, numbers[:MOST_SHOWN]))
    more = f" and {len(numbers) - MOST_SHOWN} more" if len(numbers) > MOST_SHOWN else ""
    return ("rank " if len(numbers) == 1 else "ranks ") + shown + more


def flight(folder: Positional[Path], json: bool = False) -> int:
    """Say which rank never came to which collective, from the flight records in a folder.

    Exits with 1 where something is wrong, with 0 where every collective was called by all.

    Args:
        folder: what DISTLAB_FLIGHT named, or where NCCL dumped (`nccl_trace_rank_N`).
        json: print verdicts as JSON.
    """
    verdicts = judge(read_flights(folder))
    if json:
        print(jsonlib.dumps([dataclasses.asdict(verdict) for verdict in verdicts], indent=1))
    else:
        for line in _lines(verdicts):
            print(line)
    return int(any(verdict.kind != "none" for verdict in verdicts))


def _lines(verdicts: list[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        yield verdict.sentence
        for rank, call in sorted(verdict.last_calls.items()):
            yield f"  rank {rank}: last collective {call}"
        for rank, stack in verdict.stacks.items():
            if stack:
                yield f"  rank {rank} was here (innermost call last):"
                yield from (f"    {line}" for line in stack[-6:])
