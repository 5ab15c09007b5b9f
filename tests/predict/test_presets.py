"""Models, clusters and GPUs with a name: shapes give the published numbers of parameters, all have a source."""

from __future__ import annotations

import json
import re

import pytest

from distlab.cli import main
from distlab.predict.commands.presets import preset, unknown
from distlab.predict.hardware import ACCELERATORS, NODES
from distlab.predict.models import MODELS


@pytest.mark.parametrize("name", [name for name, known in MODELS.items() if known.published])
def test_a_shape_gives_the_published_number_of_parameters(name: str) -> None:
    known = MODELS[name]
    assert known.model.parameters + known.beside == known.published


def test_every_model_has_a_source_with_a_letter() -> None:
    for known in MODELS.values():
        assert known.confidence in "VSCR"
    assert sum(known.published is not None for known in MODELS.values()) >= 20


def test_names_are_unique_and_plain() -> None:
    titles = [known.model.name for known in MODELS.values()]
    assert len(set(titles)) == len(titles)
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) and preset(name.upper()) is MODELS[name] for name in MODELS)


def test_the_list_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "presets", "--json"])
    assert ended.value.code == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed["models"]] == list(MODELS)
    assert [row["name"] for row in listed["clusters"]] == list(NODES)
    assert [row["name"] for row in listed["gpus"]] == list(ACCELERATORS)
    assert all(
        row["source"] and row["url"].startswith("https://") for row in listed["clusters"] + listed["gpus"]
    )
    with pytest.raises(SystemExit):
        main(["predict", "presets"])
    table = capsys.readouterr().out
    assert all(name in table for name in (*MODELS, *NODES, *ACCELERATORS))
    assert all(row["source"] in table for row in listed["models"])


def test_a_name_that_is_none_is_one_sentence_or_two() -> None:
    known = ["adamw", "sgd"]
    assert str(unknown("optimizer", "zzz", known)) == "optimizer is 'zzz'; it is one of adamw, sgd."
    meant = "optimizer is 'adam'; did you mean 'adamw'? It is one of adamw, sgd."
    assert str(unknown("optimizer", "adam", known)) == meant
