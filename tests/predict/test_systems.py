"""Systems that were recorded, beside nodes of the registry: what they are called and are, and what is extrapolated."""

from __future__ import annotations

import json

import pytest

from distlab.cli import main
from distlab.predict.cluster import cluster
from distlab.predict.hardware import NODES
from distlab.predict.network import SYSTEMS, machine, system
from distlab.predict.network.systems import NAMES, RECORDED, unmeasured
from distlab.predict.validation.formats import system_for


def distlab(command: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    return int(ended.value.code or 0)


def test_each_system_has_one_name_of_its_own_and_says_what_it_is() -> None:
    assert {RECORDED.get(name, name) for name in NAMES} == set(SYSTEMS)
    assert len(NAMES) == len(SYSTEMS)
    assert not set(NAMES) & set(NODES)
    for name in NAMES:
        assert machine(name).about
        assert system_for(name) == RECORDED.get(name, name)
        assert system(name, 2, 2) == system(system_for(name), 2, 2)


@pytest.mark.parametrize(
    ("name", "gpus", "sentences"),
    [
        ("recorded_a100_dgx", 16, []),
        ("recorded_a100_dgx", 24, ["2 nodes were recorded, and 3 are asked for"]),
        ("recorded_h200", 8, []),
        ("recorded_h100_dgx", 16, ["1 node was recorded, and 2 are asked for", "no collective over ib_ndr"]),
        ("a100_pairwise_nvlink", 8, ["none of its collectives was measured"]),
        ("dgx_h100", 8, []),
        ("dgx_h100", 16, ["no collective over ib_ndr was measured"]),
        ("p5", 16, []),
        ("dgx_b200", 8, ["no collective over nvswitch4 was fitted: one published all-reduce"]),
    ],
)
def test_what_is_extrapolated(name: str, gpus: int, sentences: list[str]) -> None:
    found = unmeasured(name, gpus, 8)
    assert len(found) == len(sentences)
    assert all(one.startswith(start) for one, start in zip(found, sentences, strict=True))


@pytest.mark.parametrize("name", ["dgx_h100", "dgx_b200", "p5"])
def test_a_cluster_says_the_same_of_its_links(name: str) -> None:
    assert set(unmeasured(name, 16, 8)) <= set(cluster(name).extrapolated)


@pytest.mark.parametrize("name", ["recorded_a100_dgx", "dgx_a100"])
def test_the_answer_says_which_machine_it_is_of(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert distlab(f"predict collective --gpus 16 --cluster {name}") == 0
    shown = capsys.readouterr().out
    assert distlab(f"predict collective --gpus 16 --cluster {name} --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert f"{name}: {told['cluster_is']}." in shown
    assert ("as recorded" in told["cluster_is"]) == (name in RECORDED)
    assert told["extrapolated"] == unmeasured(name, 16, 8)
    assert all(f"Extrapolated: {sentence}." in shown for sentence in told["extrapolated"])


def test_a_recorded_system_is_not_mistaken_for_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert distlab("predict collective --cluster a100_dgx") == 2
    assert "did you mean 'recorded_a100_dgx'?" in capsys.readouterr().err


def test_presets_list_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert distlab("predict presets --json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed["systems"]] == list(NAMES)
    assert {row["name"] for row in listed["clusters"]} == set(NODES)
