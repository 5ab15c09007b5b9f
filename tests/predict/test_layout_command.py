"""`distlab predict layout`: the search's answers, its reasons in words, and one sentence for nonsense."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from distlab.predict.cluster import DGX_H100, SELENE
from distlab.predict.commands.layout import QUIET_S, Progress
from distlab.predict.commands.layout_tables import short
from distlab.predict.models import MODELS
from distlab.predict.search import Query, search, why_with
from distlab.predict.states import MemorySettings
from tests.predict.command_rig import answer, run

LINE = "predict layout --model gpt-22b --gpus 16 --global-batch 16"


def test_the_answer_is_the_searchs(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(LINE + " --keep 3", capsys)
    want = search(Query(MODELS["gpt-22b"].model, DGX_H100, 16, 16, keep=3))
    assert [row["step_s"] for row in found["best"]] == [ranked.step.step_s for ranked in want.best]
    assert [row["layout"]["tensor"] for row in found["best"]] == [r.layout.tensor for r in want.best]
    assert sum(term["seconds"] for term in found["terms"]) == pytest.approx(found["best"][0]["step_s"])
    counted = sum(row["count"] for row in found["rejected"] if row["of"] == "layouts")
    assert counted + 3 == found["layouts"] == want.layouts
    assert {row["field"] for row in found["nearest"]} >= {"tensor", "micro_batch", "recompute", "zero_stage"}
    assert found["why"] is None


def test_tables_show_the_best_and_why_others_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(LINE + " --tokens 1e10 --price-per-gpu-hour 2") == 0
    shown = capsys.readouterr().out
    model = MODELS["gpt-22b"].model
    best = search(Query(model, DGX_H100, 16, 16, tokens=1e10)).best[0]
    for words in (
        f"Best layouts of GPT 22B, {model.parameters / 1e9:.4g}B parameters, on 16 GPUs of NVIDIA DGX H100",
        "The best with another value of one field",
        "matrix products",
        f"{best.step.mfu:.1%}",
        f"A step of the best: {short(best.layout)}",
        "How many lost, and why",
        "│ layouts │ memory │",
        "│ layouts │ behind others │",
        "pipeline must divide the micro-batches",
        "Usable memory",
        "Extrapolated: no step on NVIDIA H100",
    ):
        assert words in " ".join(shown.split())


def test_why_of_a_layout(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(LINE, capsys, "--why", "tensor=4, zero-stage=0")
    searched = search(Query(MODELS["gpt-22b"].model, DGX_H100, 16, 16))
    want = why_with(searched, {"tensor": 4, "zero_stage": 0})
    assert found["why"]["text"] == want.text
    assert found["why"]["layout"]["tensor"] == 4
    assert found["why"]["kind"] == want.kind
    assert answer(LINE, capsys, "--why", "data=16 zero_stage=0 tensor=1")["why"]["kind"] == "memory"
    assert answer(LINE, capsys, "--why", "recompute=full,sequence_parallel=false")["why"]["slower_s"] > 0
    assert run(LINE, "--why", "tensor=4,schedule=gpipe") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Why not tensor=4,schedule=gpipe: a step takes" in shown
    assert "longer by" in shown


def test_what_is_given_is_not_searched(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(LINE + " --tensor 4 --recompute full --zero-stage 1 --no-sequence-parallel", capsys)
    for row in found["best"]:
        cut = row["layout"]
        assert (cut["tensor"], cut["recompute"], cut["zero_stage"], cut["sequence_parallel"]) == (
            *(4, "full", 1, False),
        )
    assert found["fixed"]["tensor"] == 4
    assert "tensor" not in {row["field"] for row in found["nearest"]}


def test_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    time = answer(LINE, capsys)["best"][0]
    memory = answer(LINE + " --objective memory", capsys)["best"][0]
    assert memory["headroom_bytes"] > time["headroom_bytes"]
    assert memory["step_s"] > time["step_s"]
    searched = answer(LINE + " --objective cost --tokens 1e11 --price-per-gpu-hour 2", capsys)
    assert searched["gpu_counts"] == [16, 8]
    cost = searched["best"][0]
    assert cost["layout"]["gpus"] <= 16
    assert cost["cost"] == pytest.approx(cost["days"] * 24 * cost["layout"]["gpus"] * 2)
    assert time["cost"] is None


def test_settings_reach_memory_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Gradients in fp32 take memory, and their sums time: one program for both."""
    more = "--precision mixed_fp32_gradients --attention scores --cluster dgx_a100 --reserve-bytes 4GiB"
    found = answer(f"{LINE} {more}", capsys)
    settings = MemorySettings(precision="mixed_fp32_gradients", attention="scores")
    query = Query(MODELS["gpt-22b"].model, SELENE, 16, 16, reserve_bytes=4 * 2**30, settings=settings)
    assert query.program.kernels.gradient_bytes == 4
    assert not query.program.kernels.fused_attention
    assert found["best"][0]["step_s"] == search(query).best[0].step.step_s
    assert found["usable_bytes"] == query.usable_bytes


CONFIG = """
model: {name: mine, layers: 8, hidden: 512, heads: 8, vocabulary: 1000, sequence: 256}
search: {gpus: 8, objective: memory, keep: 2, why: "tensor=2"}
layout: {global_batch: 8, pipeline: 2}
cluster: {preset: p4d.24xlarge, memory_bytes: 2e9}
settings: {fragmentation: 0}
software: {overlap_gradients: false}
"""


def test_a_file_of_your_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(CONFIG)
    found = answer("predict layout --reserve-bytes 0", capsys, "--config", str(file))
    assert found["objective"] == "memory"
    assert found["usable_bytes"] == 2e9
    assert [row["layout"]["pipeline"] for row in found["best"]] == [2, 2]
    assert found["why"]["layout"]["tensor"] == 2
    won = answer("predict layout --reserve-bytes 0 --objective time", capsys, "--config", str(file))
    assert won["objective"] == "time"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model gpt2 --global-batch 8", "gpus of search is missing; give --gpus"),
        ("--model gpt2 --gpus 8", "global_batch of layout is missing; give --global-batch"),
        ("--model gpt2 --gpus 0 --global-batch 8", "gpus is 0"),
        ("--model gpt2 --gpus 8 --global-batch 8 --keep 0", "keep is 0"),
        ("--model gpt2 --gpus 8 --global-batch 8 --objective speed", "objective is 'speed'"),
        ("--model gpt2 --gpus 8 --global-batch 8 --objective cost", "tokens is missing"),
        ("--model gpt2 --gpus 8 --global-batch 8 --objective cost --tokens 1B --cluster dgx_2", "price_per_gpu_hour"),
        ("--model gpt2 --gpus 8 --global-batch 8 --tensor 3", "of which no layout has tensor 3"),
        ("--model gpt2 --gpus 8 --global-batch 8 --why tensor", "why is 'tensor'; it is fields with values"),
        ("--model gpt2 --gpus 8 --global-batch 8 --why tensr=2", "field of why is 'tensr'; did you mean 'tensor'"),
        ("--model gpt2 --gpus 8 --global-batch 8 --why tensor=x", "tensor is 'x'; it is a whole number"),
        ("--model gpt2 --gpus 8 --global-batch 8 --why ,", "why is ','; it is fields with values"),
        ("--model gpt2 --gpus 8 --global-batch 8 --cluster dgx_h10", "did you mean 'dgx_h100'"),
        ("--model gpt2 --gpus 8 --global-batch 8 --reserve-bytes 90GB", "reserve_bytes, 9e+10, leaves nothing"),
        ("--model gpt2 --gpus 8 --global-batch 8 --reserve-bytes -1", "reserve_bytes is -1"),
        ("--model gpt2 --gpus 8 --global-batch 8 --memory-bytes 1", "memory_bytes is 1 bytes; a GPU has 1e9 or more"),
        ("--model gpt2 --gpus 8 --global-batch 8 --precision fp32", "precision is 'fp32'"),
        ("--model gpt2 --gpus 8 --global-batch 8 --no-fused-attention --attention flash", "fused_attention is False"),
        ("--model gpt2 --gpus 8 --global-batch 8 --days 3", "tokens is missing; days"),
        ("--gpus 8 --global-batch 8", "model is missing"),
    ],
)  # fmt: skip
def test_nonsense_names_the_field(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"predict layout {line}") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model gpt-1t --gpus 8 --global-batch 8", "No layout fits: the leanest on 8 GPUs takes"),
        ("--model gpt2 --gpus 8 --global-batch 8 --tokens 1e12 --days 1", "No layout is done in 1 days; the fastest"),
        ("--model gpt2 --gpus 7 --global-batch 8", "No layout of 7 GPUs is possible (context must divide sequence"),
    ],
)  # fmt: skip
def test_where_nothing_is_found(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"predict layout {line}") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_after_a_while_and_on_a_terminal_alone() -> None:
    now = [0.0]
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        now[0] = 0.0
        progress = Progress(stream, lambda: now[0])
        progress(0.1)
        assert stream.getvalue() == ""
        now[0] = QUIET_S
        progress(0.5)
        progress(0.501)
        progress.clear()
    assert terminal.getvalue().count("searched 50%") == 1
    assert terminal.getvalue().endswith("\r")
    assert pipe.getvalue() == ""
