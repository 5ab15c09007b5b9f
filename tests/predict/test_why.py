"""`--why`: every term that a model can have has a formula and a source, and what follows is worked out in numbers."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from distlab.cli import main
from distlab.predict import convnet_step, memory_terms, step_time, training_memory
from distlab.predict.commands.why import SYMBOLS, TERMS, Why
from distlab.predict.goodput import Checkpoint, Recovery, goodput
from distlab.predict.network import model as network_model

EXAMPLES = {
    "memory": "--model gpt-175b --tensor 8 --pipeline 8 --gpu h100",
    "step": "--model gpt-175b --tensor 8 --pipeline 8 --tokens 3e11 --price-per-gpu-hour 2",
    "collective": "--payload-bytes 64MiB --gpus 16 --cluster dgx_h100 --overlap-s 1e-4",
    "goodput": "--gpus 16384 --model llama3-405b",
    "cnn": "--model vgg16 --gpus 128",
}


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *line.split()])
    assert ended.value.code == 0
    return capsys.readouterr().out


def names_of_terms(module: Any) -> set[str]:
    """The first argument of every `Term(...)` in a module's source; where that is a variable, what it is set to."""
    tree = ast.parse(Path(module.__file__).read_text())
    texts: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            for name, text in pairs:
                if isinstance(name, ast.Name) and isinstance(text, ast.Constant):
                    texts[name.id] = text.value
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Term":
            first = node.args[0]
            found.add(str(first.value if isinstance(first, ast.Constant) else texts[first.id]))  # type: ignore[attr-defined]
    assert found
    return found


def test_every_term_has_a_formula_and_a_source() -> None:
    assert names_of_terms(memory_terms) | {training_memory.FRAGMENTATION} <= TERMS["memory"].keys()
    assert names_of_terms(step_time) == TERMS["step"].keys()
    assert names_of_terms(network_model) == TERMS["collective"].keys()
    assert names_of_terms(convnet_step) == TERMS["cnn"].keys()
    shares = goodput(Recovery(3600), Checkpoint(600, 60)).terms()
    assert shares.keys() == TERMS["goodput"].keys()
    for terms in TERMS.values():
        assert all(reason.formula and reason.source for reason in terms.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_printed_term_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(f"{name} {EXAMPLES[name]}", capsys)
    told = run(f"{name} {EXAMPLES[name]} --why", capsys)
    assert "    = " in told
    assert "    = " not in plain
    found = json.loads(run(f"{name} {EXAMPLES[name]} --why --json", capsys))
    terms = found["terms"]
    shown = (
        list(terms)
        if isinstance(terms, dict)
        else [term.get("name", term.get("term")) for term in terms if term.get("seconds", term.get("bytes"))]
    )
    explained = [row["term"] for row in found["why"]]
    assert explained[: len(shown)] == shown
    assert len(explained) > len(shown)
    assert all(row["formula"] and row["source"] for row in found["why"])
    assert "why" not in json.loads(run(f"{name} {EXAMPLES[name]} --json", capsys))


def test_what_follows_is_in_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(f"step {EXAMPLES['step']} --why --json", capsys))
    follows = {row["term"]: row["formula"] for row in found["why"]}
    assert follows["MFU"].endswith(f"= {found['mfu']:.2%}")
    assert follows["days"].endswith(f"= {found['days']:,.4g}")
    assert follows["cost"].endswith(f"= {found['cost']:,.2f}")
    found = json.loads(run(f"goodput {EXAMPLES['goodput']} --why --json", capsys))
    follows = {row["term"]: row["formula"] for row in found["why"]}
    assert follows["failures"].endswith(f"= {found['failures']:,.4g}")
    found = json.loads(run(f"collective {EXAMPLES['collective']} --why --json", capsys))
    follows = {row["term"]: row["formula"] for row in found["why"]}
    assert f"= {found['bus_bandwidth_Bps'] / 1e9:.4g} GB/s" in follows["bus bandwidth"]


def test_symbols_make_the_terms(capsys: pytest.CaptureFixture[str]) -> None:
    """Formulas with the values that are printed beside them give the terms."""
    found = json.loads(run(f"collective {EXAMPLES['collective']} --why --json", capsys))
    seconds = {term["name"]: term["seconds"] for term in found["terms"]}
    w, c = found["symbols"]["W"], found["symbols"]["C"]
    assert seconds["pipeline"] == pytest.approx(2 * math.sqrt(c * w))
    assert seconds["wire"] + seconds["protocol"] == w
    found = json.loads(run(f"goodput {EXAMPLES['goodput']} --why --json", capsys))
    s = found["symbols"]
    saves = math.exp(-s["late"] / s["M"]) / math.expm1(s["cycle"] / s["M"])
    wall = s["M"] + s["D"] * math.exp(s["R"] / s["M"]) + s["M"] * math.expm1(s["R"] / s["M"])
    assert found["terms"]["useful"] == pytest.approx(saves * s["T"] / wall)
    assert found["terms"]["detection"] == pytest.approx(s["D"] * math.exp(s["R"] / s["M"]) / wall)
    line = (
        "memory --model gpt-22b --tensor 8 --sequence-parallel --micro-batch 8 --global-batch 8 --why --json"
    )
    found = json.loads(run(line, capsys))
    held = {term["term"]: term["bytes"] for term in found["terms"]}
    s = found["symbols"]
    inputs = s["e"] * s["s"] * s["b"] * s["h"] / s["t"]
    assert held["layer inputs"] == 48 * inputs
    assert held["norms"] == 48 * 3 * inputs
    mlp = s["e"] * s["s"] * s["b"] * s["f"] * 2 / s["t"]
    assert held["MLP"] == 48 * mlp


def test_only_symbols_of_the_shown_formulas_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    told = run("memory --model gpt2 --why", capsys)
    assert "    b = 1: samples of a micro-batch" in told
    for name, symbols in SYMBOLS.items():
        formulas = " ".join(reason.formula for reason in TERMS[name].values())
        words = set(re.findall(r"[A-Za-z_]+", formulas))
        unused = [symbol for symbol in symbols if not words & set(re.findall(r"[A-Za-z_]+", symbol))]
        assert not unused, name


def test_a_term_without_a_formula_is_an_error() -> None:
    with pytest.raises(KeyError):
        Why("step", ["telepathy"], []).lines()
