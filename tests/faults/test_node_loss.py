"""The story of an elastic run that loses a node: the recorded one, and what is refused.

The run itself is made by the notebook of MOD-202's first lab, which tests/labs runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.faults.drills import node_loss
from distlab.faults.drills.node_loss import RUN, lose_a_node
from distlab.observe.scrape import parse
from distlab.record import node_loss as recorder
from distlab.train.config import from_dict


def test_the_recorded_story() -> None:
    story = recorder.read()
    names = ("asked", "nodes came", "killed", "noticed", "trained", "nodes gone")
    assert [story.at(name) for name in names] == sorted(story.at(name) for name in names)
    assert story.at("asked") == 0
    assert story.at("nodes gone") - story.at("trained") > story.idle_s == node_loss.IDLE_S
    steps = [event for event in story.events if event["what"] == "step"]
    before = [step["step"] for step in steps if step["time"] <= story.at("noticed")]
    after = [step["step"] for step in steps if step["time"] > story.at("noticed")]
    assert before == list(range(node_loss.AFTER_STEPS))
    assert after == list(range(after[0], RUN["steps"]))
    assert after[0] % RUN["checkpoint"]["every_steps"] == 0 < after[0] < len(before)
    assert {moment["nodes"] for moment in story.moments} >= {0, 1, 2}
    assert sorted({line["step"] for line in story.lines}) == list(range(RUN["steps"]))
    told = [sum(one.value for one in parse(text).named("autoscaler_active_nodes")) for _, text in story.pages]
    assert max(told) == 3, "the head and two nodes"
    assert "2 cores" in story.stamp


def test_of_the_cluster_each_turn_is_kept() -> None:
    nodes = [0, 0, 0, 1, 2, 2, 1, 1, 1]
    moments = [{"time": 0.2 * i, "nodes": count} for i, count in enumerate(nodes)]
    assert [moments.index(one) for one in recorder.turns(moments)] == [0, 2, 3, 4, 5, 6, 8]
    assert recorder.turns(moments[:1]) == moments[:1]


def test_a_server_with_too_little_memory_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEM_LIMIT", str(2 * 2**30))  # as JupyterHub does
    with pytest.raises(SettingError, match=r"up to 3 GiB of memory; here are 2\.0 GiB"):
        lose_a_node(from_dict(RUN | {"folder": "/nowhere"}))


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(SettingError, match="no recorded loss of a node"):
        recorder.read(other)


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads(recorder.RECORDED.read_text())
    monkeypatch.setattr(recorder, "record", lambda: recorded)
    path = tmp_path / "again.json"
    assert recorder.main(["--out", str(path)]) == 0
    assert recorder.read(path) == recorder.read()


def test_a_run_that_could_not_come_back_is_refused() -> None:
    with pytest.raises(SettingError, match="max_restarts is 0"):
        lose_a_node(from_dict(RUN | {"max_restarts": 0}))
