from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distlab.errors import LaunchError, SettingError
from distlab.observe.profile.flight import FOLDER
from distlab.observe.profile.flight_report import Call, Record, flight, judge, read_flights
from distlab.train.launch import launch


def _one_hangs() -> None:
    tensor = torch.ones(12)
    dist.all_reduce(tensor)
    if dist.get_rank() == 1:
        threading.Event().wait()
    dist.all_reduce(tensor)


def _one_calls_another() -> None:
    if dist.get_rank() == 1:
        dist.broadcast(torch.ones(3), src=1)
    dist.all_reduce(torch.ones(12))


@pytest.mark.parametrize("function", [_one_hangs, _one_calls_another])
def test_real_ranks_leave_records_that_name_the_culprit(
    tmp_path: Path, function: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "flight"))
    with pytest.raises(LaunchError):
        launch(function, 3, threads_per_rank=1, timeout_s=2)
    records = read_flights(tmp_path / "flight")
    assert [record.rank for record in records] == [0, 1, 2]
    verdict = judge(records)[0]
    assert verdict.culprits == (1,)
    assert flight(tmp_path / "flight") == 1
    told = capsys.readouterr().out
    if function is _one_hangs:
        assert verdict.kind == "missing"
        assert verdict.waiting == (0, 2)
        assert verdict.sentence.startswith("Rank 1 never came to collective ")
        assert "gloo:all_reduce(12); ranks 0, 2 waited there" in verdict.sentence
        assert "threading.Event().wait()" in told  # where it hung
    else:
        assert verdict.kind == "different"
        assert "rank 1 called gloo:broadcast(3)" in verdict.sentence


def _record(
    rank: int, *operations: str, first: int = 1, state: str = "completed", world_size: int = 3
) -> Record:
    calls = tuple(
        Call("0", first + i, operation, ((4,),), state, 100.0 + i) for i, operation in enumerate(operations)
    )
    return Record(rank, world_size, calls, (), {})


def test_a_rank_without_a_record_is_the_culprit() -> None:
    [verdict] = judge([_record(0, "a", "b"), _record(2, "a", "b")])
    assert (verdict.kind, verdict.culprits, verdict.waiting, verdict.number) == ("missing", (1,), (0, 2), 2)
    assert "it was killed" in verdict.sentence


def test_what_a_ring_has_forgotten_is_not_missing() -> None:
    [verdict] = judge([_record(0, "a", "b", "c"), _record(1, "b", "c", first=2), _record(2, "a", "b", "c")])
    assert verdict.kind == "none"


def test_the_first_difference_counts_and_not_what_follows_from_it() -> None:
    [verdict] = judge([_record(0, "a", "b"), _record(1, "a", "x", "b"), _record(2, "a", "b")])
    assert (verdict.kind, verdict.number, verdict.culprits) == ("different", 2, (1,))


def test_all_came_and_none_left_is_the_networks_fault() -> None:
    records = [_record(rank, "a", "b", state="started") for rank in range(3)]
    [verdict] = judge(records)
    assert (verdict.kind, verdict.culprits) == ("stuck", ())


def test_the_group_that_hung_first_comes_first() -> None:
    later = Call("1", 1, "b", ((4,),), "started", 50.0)
    early = Call("0", 1, "a", ((4,),), "started", 10.0)
    groups = {"1": (0, 1)}
    verdicts = judge([Record(0, 2, (early, later), (), groups), Record(1, 2, (), (), groups)])
    assert [verdict.group for verdict in verdicts] == ["0", "1"]
    assert all(verdict.culprits == (1,) for verdict in verdicts)


def test_who_waits_in_another_group_is_excused() -> None:
    """Rank 2 comes to nothing; rank 1 waits for it, and so cannot come to where rank 0 waits, since earlier."""
    groups = {"left": (0, 1), "right": (1, 2)}
    left, right = (
        Call("left", 1, "a", ((4,),), "started", 10.0),
        Call("right", 1, "a", ((4,),), "started", 20.0),
    )
    first, second = judge(
        [Record(0, 3, (left,), (), groups), Record(1, 3, (right,), (), groups), Record(2, 3, (), (), groups)]
    )
    assert (first.group, first.culprits) == ("right", (2,))
    assert "waited itself" not in first.sentence
    assert (second.group, second.culprits) == ("left", (1,))
    assert second.sentence.endswith("Rank 1 waited itself, in group 'right'.")


def _flight(**changes: Any) -> dict[str, Any]:
    entry = {
        "process_group": ["0", "default_pg"],
        "collective_seq_id": 1,
        "profiling_name": "nccl:all_reduce",
        "input_sizes": [[4]],
        "state": "started",
        "time_created_ns": 10**9,
        "is_p2p": False,
    }
    return {
        "entries": [entry | changes],
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
    }


def test_reads_what_nccl_dumps(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / f"nccl_trace_rank_{rank}").write_bytes(pickle.dumps(_flight()))
    records = read_flights(tmp_path)
    assert records[1].calls == (Call("0", 1, "nccl:all_reduce", ((4,),), "started", 1.0),)
    assert judge(records)[0].kind == "stuck"


def _many_times(what: Any, times: int) -> Any:
    """10**times of it, in a pickle of some hundred bytes."""
    for _ in range(times):
        what = [what] * 10
    return what


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("owned"),)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(_Evil()),
        pickle.dumps([1]),
        pickle.dumps(_flight(process_group=[])),
        pickle.dumps(_flight(input_sizes=[["x"]])),
        pickle.dumps(_flight())[:-20],
        pickle.dumps(_flight(process_group=[_many_times("l", 9)])),
        pickle.dumps(_flight(time_created_ns=10**400)),
        b"\x80\x04]r" + (2**31 - 2).to_bytes(4, "little") + b".",
        b"",
    ],
)
def test_a_hostile_or_torn_record_is_one_sentence(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nccl_trace_rank_0").write_bytes(content)
    with pytest.raises(SettingError, match="is no flight record"):
        read_flights(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_texts_of_a_record_do_not_drive_the_terminal(tmp_path: Path) -> None:
    record = {"flight": _flight(profiling_name="\x1b[2Jx"), "main_thread": ["\x1b]0;x"], "world_size": 10**30}
    (tmp_path / "rank_0.flight.json").write_text(json.dumps(record))
    [record_read] = read_flights(tmp_path)
    assert record_read.calls[0].operation == "?[2Jx"
    assert record_read.main_thread == ("?]0;x",)
    assert record_read.world_size is None


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="DISTLAB_FLIGHT="):
        read_flights(tmp_path)
