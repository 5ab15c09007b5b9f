"""`analysis.json`: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.observe.profile.analysis import (
    Analysis,
    Clock,
    Collective,
    Comparison,
    FlameGraph,
    MemoryLine,
    Operator,
    RankProfile,
    StepTimes,
    Straggler,
    from_json,
    read_analysis,
    write_analysis,
)

RANK = RankProfile(
    rank=0,
    host="node",
    pid=7,
    device="cpu",
    steps_seen=5,
    steps=(StepTimes(2, 0.0, 1.0, 0.5, 0.4, 0.3, 0.1, 0.1), StepTimes(3, 1.0, 2.0, 1.5, 0.4, 0.3, 0.1, 0.1)),
    operators=(Operator("aten::mm", "cpu", 4, 0.5, 0.9, "[8, 8], [8, 8]"),),
    collectives=(Collective("gloo:all_reduce", 2, 64, 0.8, 0.4),),
    memory=(MemoryLine("cpu", 10, 0.5, 2, ((0.0, 1), (0.5, 10)), True),),
    profiled_step_s=1.1,
    unprofiled_step_s=1.0,
    unprofiled_steps=3,
)
ANALYSIS = Analysis(
    stamp={"tier": "cpu", "cores": 2},
    command="distlab train",
    exit_code=0,
    tier="cpu",
    world_size=2,
    ranks=(RANK,),
    missing_ranks=(1,),
    stragglers=(
        Straggler(0, "persistent", 1.0, 0.5, 9.0, 2, 2, 4, 4, "idle", "Rank 0 holds the others back."),
    ),
    clocks=(Clock(0, "node", 0.0, 0.0, "same host"),),
    flame_graph=FlameGraph(0, "pyspy_rank_0.svg", None, 2.0),
    hta=(Comparison(0, 50.0, 50.0, 10.0, 10.0, None, None),),
    problems=("Rank 1 left no trace.",),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_analysis(tmp_path, ANALYSIS)
    assert read_analysis(tmp_path) == ANALYSIS
    assert ANALYSIS.slowest == ANALYSIS.stragglers[0]
    assert RANK.mean()["step_s"] == 1.5
    assert RANK.overhead == pytest.approx(0.1)


def changed(**values: Any) -> str:
    return json.dumps(json.loads(ANALYSIS.to_json()) | values)


STEP = json.loads(ANALYSIS.to_json())["ranks"][0]["steps"][0]


def with_step(**values: Any) -> str:
    rank = json.loads(ANALYSIS.to_json())["ranks"][0]
    return changed(ranks=[rank | {"steps": [STEP | values]}])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not an analysis"),
        ("[]", "not an analysis"),
        ("[" * 100_000, "not an analysis"),
        (changed(format=99), "its format is 99, not 1"),
        (changed(world_size="two"), "world_size"),
        (changed(world_size=True), "world_size"),
        (changed(surprise=1), "surprise"),
        (with_step(idle_s=0.2), "the parts of step 2 of rank 0"),
        (with_step(idle_s=-0.1, data_s=0.3), "the parts of step 2 of rank 0"),
        (ANALYSIS.to_json().replace("0.5,", "NaN,", 1), "not an analysis"),
        (ANALYSIS.to_json().replace("0.5,", "1e999,", 1), "not an analysis"),
    ],
)
def test_anything_else_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as error:
        from_json(text, "x/analysis.json")
    assert "\n" not in str(error.value)
    assert "distlab profile analyze" in str(error.value)


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    read = from_json(replace(ANALYSIS, command="train \x1b]0;x\x07", problems=("a\nb",)).to_json())
    assert (read.command, read.problems) == ("train ?]0;x?", ("a?b",))


def test_a_missing_file_a_link_and_a_pipe_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"holds no analysis\.json and no trace"):
        read_analysis(tmp_path)
    (tmp_path / "rank_0.trace.json.gz").touch()
    with pytest.raises(SettingError, match=rf"make it with `distlab profile analyze {tmp_path}`"):
        read_analysis(tmp_path)
    (tmp_path / "analysis.json").symlink_to("/etc/passwd")
    with pytest.raises(SettingError, match="Cannot read"):
        read_analysis(tmp_path)
    (tmp_path / "analysis.json").unlink()
    os.mkfifo(tmp_path / "analysis.json")
    with pytest.raises(SettingError, match="not a regular file"):
        read_analysis(tmp_path)
