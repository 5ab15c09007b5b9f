"""A wrong configuration is named: what it is, and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from distlab.errors import SettingError
from distlab.faults.config import EXAMPLE, Fault
from distlab.train.config import TrainConfig, from_dict, from_yaml
from distlab.train.run import parse
from distlab.train.strategies.options import OPTIONAL, TAKES, check_options, setting


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, r"no setting modle; did you mean model\?"),
        ({"model": {"widht": 3}}, r"no setting model.widht; did you mean model.width\?"),
        ({"xyz": 1}, "no setting xyz; known there: name, folder"),
        ({"faults": [{"kind": "kill", "step": 1, "when": 2}]}, "faults.0.when"),
        (
            {"faults": "slow"},
            r"faults is 'slow': input should be a valid list; faults is a list such as \[\{kind: slow, step: 2, rank",
        ),
        ({"faults": [{"kind": "slow"}]}, r"faults\.0\.step .*: field required; faults is a list such as"),
        ({"model": {"width": "wide"}}, "model.width is 'wide': input should be a valid integer"),
        ({"model": 3}, "model is 3"),
        ({"strategy": "dpp"}, "strategy is 'dpp': input should be 'single', 'ddp'"),
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"world_size": 2**31 - 1}, "world_size is 2147483647; .* below 4096"),
        ({"faults": [{"kind": "slow", "step": 1, "seconds": float("inf")}]}, "seconds is inf"),
        ({"data": {"micro_batches": 0}}, "data.micro_batches is 0"),
        ({"model": {"kind": "gpt"}}, "model.kind is 'gpt' and data.source is 'digits'"),
        (
            {"model": {"kind": "gpt", "width": 12, "heads": 4}, "data": {"source": "text"}},
            "model.width is 12; .* twice model.heads, 8",
        ),
        ({"model": {"dropout": 0.1}}, "model.dropout is 0.1 and model.kind is 'mlp', which drops nothing"),
        ({"name": "../up"}, "name is '../up'"),
        ({"checkpoint": {"every_steps": 2}}, "folder is not"),
        ({"checkpoint": {"timeout_s": 0.5}}, "checkpoint.timeout_s is 0.5; it must be 1 or more"),
        ({"max_restarts": 1}, "max_restarts is 1 but checkpoint.every_steps is 0"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        from_dict(values)


def test_the_example_of_a_fault_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    [fault] = from_dict({"faults": [yaml.safe_load(EXAMPLE)]}).faults
    assert (fault.kind, fault.rank) == ("slow", 1)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"faults:\n  - {EXAMPLE}" in readme
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert EXAMPLE in said
    assert all(kind in said for kind in get_args(get_type_hints(Fault)["kind"]))


def test_a_configuration_survives_the_way_through_plain_data() -> None:
    config = from_dict(
        {"model": {"freeze": ["head"]}, "faults": [{"kind": "slow", "step": 2, "seconds": 0.5}]}
    )
    assert from_dict(config.as_dict()) == config


def test_files(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Cannot read .*none\.yaml: No such file"):
        from_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(SettingError, match="expected settings"):
        from_yaml(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    with pytest.raises(SettingError, match=r"bad\.yaml is not YAML that can be read at line 2, column 1: "):
        from_yaml(tmp_path / "bad.yaml")
    (tmp_path / "twice.yaml").write_text("data:\n  global_batch: 8\n  global_batch: 16\n")
    with pytest.raises(SettingError, match=r"at line 3, column 3: global_batch is set twice\."):
        from_yaml(tmp_path / "twice.yaml")
    levels = "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 31))
    (tmp_path / "merge.yaml").write_text("a0: &a0 {steps: 1}\n" + levels)
    with pytest.raises(SettingError, match=r"at line 2, column 5: << merges"):
        from_yaml(tmp_path / "merge.yaml")


def test_the_command_line_changes_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("strategy: fsdp\nsteps: 9\ndata: {global_batch: 32}\n")
    line = ["--config", str(path), "--resume_from_checkpoint", "latest", "--data.global-batch", "64"]
    config, as_json = parse(line)
    assert (config.strategy, config.steps, config.data.global_batch) == ("fsdp", 9, 64)
    assert config.resume_from_checkpoint == "latest"
    assert not as_json
    with pytest.raises(SettingError, match="steps is 0; it must be 1 or more"):
        parse([*line, "--steps", "0"])


def test_a_strategy_refuses_what_it_cannot_do() -> None:
    with pytest.raises(SettingError, match=r"memory.offload is True.*'ddp' cannot.*fsdp, deepspeed"):
        check_options(from_dict({"memory": {"offload": True}}))
    with pytest.raises(SettingError, match=r"compression is 'powersgd'.*'horovod' cannot.*: ddp"):
        check_options(from_dict({"strategy": "horovod", "communication": {"compression": "powersgd"}}))
    check_options(from_dict({"strategy": "fsdp", "memory": {"offload": True}}))


def test_the_table_of_options_names_settings_and_strategies_that_exist() -> None:
    for name in OPTIONAL:
        setting(TrainConfig(), name)
    for strategy in TAKES:
        assert from_dict({"strategy": strategy}).strategy == strategy
