"""Every option and every YAML key of `distlab predict` with values that cannot be: one sentence that names the field.

What a test accepts is an answer (exit 0) or that sentence (exit 2), never anything else; NaN, text and lists in place
of numbers are never answered.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distlab.cli import main
from distlab.errors import SettingError
from distlab.predict.commands import clusters, convnet, layout, running, simulated, training
from distlab.predict.commands.options import option
from distlab.predict.commands.scales import SCALES, check
from distlab.predict.commands.values import types_of
from distlab.predict.hardware import ACCELERATORS, LINKS
from distlab.predict.states import MemorySettings
from distlab.predict.transformer import Layout, Transformer

COMMANDS: dict[str, tuple[str, dict[str, type]]] = {
    "memory": (
        "--model gpt-22b --tensor 2 --pipeline 2 --gpu h100",
        {
            "model": Transformer,
            "layout": Layout,
            "settings": MemorySettings,
            "memory": training.MemoryOptions,
        },
    ),
    "step": (
        "--model gpt-22b --tensor 2 --pipeline 2 --tokens 1e9 --price-per-gpu-hour 2",
        {
            "model": Transformer,
            "layout": Layout,
            "cluster": clusters.ClusterOptions,
            "software": training.SoftwareOptions,
            "run": training.RunOptions,
        },
    ),
    "collective": ("--gpus 16 --payload-bytes 1MiB", {"collective": running.CollectiveOptions}),
    "goodput": (
        "--gpus 64 --model gpt2",
        {
            "job": running.GoodputOptions,
            "simulation": simulated.SimulationOptions,
            "model": Transformer,
        },
    ),
    "cnn": ("--gpus 16 --gpus-per-node 4", {"cnn": convnet.CnnOptions}),
}
ANSWERED = 0
REFUSED = 2
NAMES = (
    "memory --model",
    "memory --gpu",
    "step --cluster",
    "collective --cluster",
    "cnn --model",
    "cnn --cluster",
)
NEVER = ("nan", "abc", "", "1e400", "\x1b[31m")
"""No number, no choice and no name."""
SOMETIMES = ("-1", "0", "9" * 30)


def fields() -> Iterator[tuple[str, str, str, Any]]:
    """Each once, in the first command that has it."""
    seen = set()
    for command, (_, sections) in COMMANDS.items():
        for section, kind in sections.items():
            for name, hint in types_of(kind).items():
                if name != "name" and (kind, name) not in seen:
                    seen.add((kind, name))
                    yield command, section, name, hint


def answer(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *argv, "--json"])
    printed = capsys.readouterr()
    code = int(ended.value.code or 0)
    assert code in (ANSWERED, REFUSED)
    assert bool(printed.out) == (code == ANSWERED)
    if code == REFUSED:
        assert printed.err.count("\n") == 1, "one sentence"
        assert "\x1b" not in printed.err
        assert printed.err.startswith(f"distlab predict {argv[0]}: ")
    return code, printed.err


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, _, name, hint in fields() if hint is not bool]
)
def test_an_option(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    usual = [command, *COMMANDS[command][0].split()]
    for value in (*NEVER, *SOMETIMES):
        code, said = answer([*usual, f"{option(name)}={value}"], capsys)
        if code == REFUSED:
            assert name in said or option(name) in said, value
        else:
            assert value in SOMETIMES, value


@pytest.mark.parametrize("line", NAMES)
def test_a_name_that_is_none(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, name = line.split()
    for value in NEVER:
        code, said = answer([command, *COMMANDS[command][0].split(), f"{name}={value}"], capsys)
        assert code == REFUSED
        assert name.removeprefix("--") in said


@pytest.mark.parametrize(
    ("command", "section", "name", "hint"),
    [pytest.param(*field, id="-".join(field[:3])) for field in fields()],
)
def test_a_yaml_key(
    command: str, section: str, name: str, hint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    model = "" if section == "model" or command in ("collective", "cnn") else "model: gpt-22b\n"
    preset = "preset: gpt-22b, " if section == "model" else ""
    for value in ("{a: 1}", ".nan", "2026-01-01", "1" + "0" * 400):
        file.write_text(f"{model}{section}: {{{preset}{name}: {value}}}\n")
        code, said = answer([command, "--config", str(file)], capsys)
        assert code == REFUSED, value
        assert name in said, value


def test_a_search_refuses_before_it_searches(capsys: pytest.CaptureFixture[str]) -> None:
    for name, hint in types_of(layout.LayoutOptions).items():
        values = NEVER if hint is bool or name == "schedule" else (*NEVER, "-1")
        for value in values:
            line = [
                "layout",
                "--model",
                "gpt2",
                "--gpus",
                "8",
                "--global-batch",
                "8",
                f"{option(name)}={value}",
            ]
            code, said = answer(line, capsys)
            assert code == REFUSED, (name, value)
            assert name in said or option(name) in said


def test_nested_aliases_are_not_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine levels of nine: 387 million values, were they printed whole."""
    keys = [part.name for part in dataclasses.fields(Transformer)][1:10]
    lines = [f"  {keys[0]}: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  {key}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i, key in enumerate(keys) if i]
    (tmp_path / "laughs.yaml").write_text(
        "model:\n" + "\n".join(reversed(["  preset: gpt2", *reversed(lines)]))
    )
    for text in (
        "model:\n" + "\n".join(lines),
        f"layout:\n{lines[0]}".replace(keys[0], "recompute"),
        f"model:\n{lines[0]}\n{lines[1]}".replace(keys[0], "name").replace(keys[1], "preset"),
    ):
        (tmp_path / "laughs.yaml").write_text(text)
        code, said = answer(["memory", "--config", str(tmp_path / "laughs.yaml")], capsys)
        assert code == REFUSED
        assert len(said) < 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layout: {tensor: 2, tensor: 3}", "tensor is set twice"),
        ("model: gpt2\nmodel: gpt2-xl", "model is set twice"),
        ("layout: {<<: {tensor: 2}}", "<< merges mappings"),
        ("model: {preset: [gpt2]}", "preset of model is ['gpt2']"),
        ("model: *nothing", "undefined alias"),
    ],
)
def test_yaml_that_hides_something(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    code, said = answer(["memory", "--config", str(tmp_path / "own.yaml")], capsys)
    assert code == REFUSED
    assert words in said


@pytest.mark.parametrize(
    "path", ["", "/", "no/such.svg", "figure.gif", "figure", "\x1b.svg", "/dev/null/a.svg"]
)
def test_a_figure_that_cannot_be_drawn(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    if path == "\x1b.svg":
        path = "missing/" + path
    code, said = answer(["memory", "--model", "gpt2", f"--plot={path}"], capsys)
    assert code == REFUSED
    assert said.startswith("distlab predict memory: plot is ")
    assert not list(tmp_path.iterdir())


def test_hardware_lies_far_within_the_scales() -> None:
    """A tenth and ten times of what exists are accepted, a thousandth is not."""
    for chip in ACCELERATORS.values():
        peak = max(figure.value.flop_per_s for dtype, figure in chip.peaks.items() if dtype != "int8")
        for name, value in (
            ("peak_flops", peak),
            ("memory_bytes", chip.memory.value.bytes),
            ("memory_Bps", chip.memory_bandwidth.value.bytes_per_s),
        ):
            for factor in (0.1, 1, 10):
                check(name, value * factor)
            with pytest.raises(SettingError, match=name):
                check(name, value / SCALES[name].factor)
    for link in LINKS.values():
        check("inside_bandwidth_Bps", link.bandwidth.value.bytes_per_s)
        check("across_bandwidth_Bps", link.bandwidth.value.bytes_per_s)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("step --model gpt2 --peak-flops 989", "989 FLOP/s; a GPU has 1e12 or more: 989 TFLOP/s is 9.89e14."),
        ("step --model gpt2 --peak-flops 1e20", "1e20 FLOP/s; a GPU has 1e17 at most"),
        ("step --model gpt2 --memory-Bps 3350", "3350 B/s; a GPU's memory has 1e10 or more: 3350 GB/s is 3.35e12."),
        ("step --model gpt2 --inside-alpha-s 5", "a message takes 0.1 at most: 5 us is 5e-6."),
        ("goodput --model gpt2 --storage-Bps 50", "50 B/s; storage has 1e6 or more: 50 GB/s is 5e10."),
        ("collective --payload-bytes 1Gb", "'1Gb', in bits; it is in bytes, of 8 bits each: 1GB"),
        ("step --model gpt2 --tokens many", "tokens is 'many'; it is a number, such as 1.5e13 or 15T"),
        ("step --model gpt2 --tokens T", "tokens is 'T'; it is a number"),
        ("step --model gpt2 --tp 2", "no option '--tp'; did you mean --tensor?"),
        ("step --model gpt2 --pp=2", "no option '--pp'; did you mean --pipeline?"),
        ("memory --model gpt2 --dp 2", "no option '--dp'; did you mean --data?"),
        ("step --model gpt2 --days 3", "no option '--days'; `distlab"),
        ("layout --model gpt2 --storage nvme", "no option '--storage'; `distlab"),
        ("collective --gpus 16 --cluster dgx_a100 --algorithm in_switch", "take 'ring' or 'tree'"),
    ],
)  # fmt: skip
def test_units_and_names_of_elsewhere(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = answer(line.split(), capsys)
    assert code == REFUSED
    assert words in said


def test_combinations_are_answered_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Of plausible values that may contradict one another: an odd tensor, more experts than ranks, and so on."""
    draw = random.Random(5)
    whole = ("1", "2", "3", "4", "8", "64")
    choices = {
        "--recompute": ("none", "selective", "full"),
        "--schedule": ("gpipe", "1f1b", "interleaved", "zero_bubble"),
        "--zero-stage": ("0", "1", "2", "3"),
        **{option(name): whole for name in ("data", "tensor", "pipeline", "context", "expert", "interleave")},
        **{
            option(name): whole
            for name in ("micro_batch", "global_batch", "kv_heads", "experts", "active_experts")
        },
    }
    seen = set()
    for _ in range(100):
        picked = draw.sample(sorted(choices), draw.randint(1, 6))
        line = [f"{name}={draw.choice(choices[name])}" for name in picked]
        codes = {
            answer([command, "--model", "gpt-22b", "--why", *line], capsys)[0]
            for command in ("memory", "step")
        }
        assert len(codes) == 1, line
        seen |= codes
    assert seen == {ANSWERED, REFUSED}
