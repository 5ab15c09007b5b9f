"""`distlab predict`: answers are the models', nonsense is named, and nothing heavy is imported."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.cli import COMMANDS
from distlab.errors import SettingError
from distlab.predict import failures, goodput, network
from distlab.predict.cluster import DGX_H100, SELENE
from distlab.predict.commands.show import gpus, number
from distlab.predict.commands.values import size
from distlab.predict.hardware import accelerator
from distlab.predict.hardware.prices import read_prices
from distlab.predict.memory import RESERVE_BYTES
from distlab.predict.models import MODELS
from distlab.predict.states import MemorySettings
from distlab.predict.step_time import predict_step
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout, Transformer
from tests.predict.command_rig import answer, run

NAMES = sorted(
    name
    for name in COMMANDS
    if name.startswith("predict ") and "distlab.predict.commands" in COMMANDS[name][0]
    if name != "predict presets"  # predicts nothing
)
EXAMPLES = {
    "predict memory": "--model gpt-175b --tensor 8 --pipeline 8 --gpu h100",
    "predict step": "--model gpt-175b --tensor 8 --pipeline 8 --cluster dgx_a100 --tokens 3e11 --price-per-gpu-hour 2",
    "predict cnn": "--model vgg16 --gpus 128 --gpus-per-node 4",
    "predict collective": "--payload-bytes 64MiB --gpus 16 --cluster dgx_h100",
    "predict layout": "--model gpt-22b --gpus 64 --global-batch 64",
    "predict goodput": "--gpus 16384 --model llama3-405b",
}


def error(line: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert run(line, *more) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_every_command_has_an_example() -> None:
    assert sorted(EXAMPLES) == NAMES


@pytest.mark.parametrize("name", EXAMPLES)
def test_terms_of_a_table_are_there_with_why_and_total(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{name} {EXAMPLES[name]}") == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("(predicted)", "term", "why", "total"))
    found = answer(f"{name} {EXAMPLES[name]}", capsys)
    terms = found["terms"]
    printed = terms if isinstance(terms, dict) else [term.get("name", term.get("term")) for term in terms]
    worth = [t.get("seconds", t.get("bytes")) for t in terms] if isinstance(terms, list) else terms.values()
    assert all(term in table for term, value in zip(printed, worth, strict=True) if value)


def test_memory_is_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer("predict memory --model gpt-175b --tensor 8 --pipeline=8 --global_batch 16", capsys)
    want = training_memory(MODELS["gpt-175b"].model, Layout(tensor=8, pipeline=8, global_batch=16))
    assert found["peak_bytes"] == want.peak_bytes
    assert found["reserved_bytes"] == pytest.approx(sum(term["bytes"] for term in found["terms"]))
    assert found["layout"]["gpus"] == 64
    assert found["fits"] is None
    assert answer("predict memory --model gpt2 --gpu h100", capsys)["fits"] is True
    assert answer("predict memory --model gpt-175b --gpu h100", capsys)["fits"] is False


def test_step_is_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    line = "predict step --model gpt-22b --tensor 8 --global-batch 4 --micro-batch 4 --recompute full"
    layout = Layout(tensor=8, micro_batch=4, global_batch=4, recompute="full")
    for cluster, name in ((SELENE, "selene"), (DGX_H100, "dgx_h100")):
        found = answer(f"{line} --cluster {name}", capsys)
        assert found["step_s"] == predict_step(MODELS["gpt-22b"].model, layout, cluster).step_s
        assert found["step_s"] == pytest.approx(sum(term["seconds"] for term in found["terms"]))
        assert (found["days"], found["cost"]) == (None, None)
    priced = answer(f"{line} --tokens 1e9 --price-per-gpu-hour 2.5", capsys)
    assert priced["days"] == pytest.approx(1e9 / priced["tokens_per_day"])
    assert priced["cost"] == pytest.approx(priced["days"] * 24 * 8 * 2.5)


def test_what_mfu_counts_is_said_of_long_samples(capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of Mixtral 8x22B at 64k tokens: 4 s d against 2 x 39.1e9 parameters / 56 layers, and the output's."""
    assert run("predict step --model mixtral-8x22b --data 8") == 0
    said = capsys.readouterr().out
    scores, rest = 56 * 4 * 65536 * 6144, 2 * (39.161468928e9 - 6144 * 32768)
    assert f"Scores are {scores / (scores + rest):.0%} of these FLOP" in said
    assert run("predict step --model gpt2 --data 8 --sequence 64") == 0
    assert "of these FLOP" not in capsys.readouterr().out


def test_a_clusters_values_can_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    line = "predict step --model llama3-8b --data 16 --no-overlap-gradients"
    usual = answer(line, capsys)
    slow = answer(f"{line} --across-bandwidth-Bps 1e9", capsys)
    assert slow["cluster"]["network"]["fabric"]["nic_Bps"] == 1e9
    assert slow["cluster"]["network"]["inside"] == usual["cluster"]["network"]["inside"]
    assert slow["step_s"] > usual["step_s"]
    assert answer(f"{line} --peak-flops 1e14", capsys)["step_s"] > usual["step_s"]


def test_collective_is_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        "predict collective --op all_gather --payload-bytes 1.5MB --gpus 16 --cluster dgx_h100", capsys
    )
    want = network.predict_collective("all_gather", 1.5e6, network.system("dgx_h100", 16, 8))
    assert (found["total_s"], found["algorithm"], found["protocol"]) == (
        want.total_s,
        want.algorithm,
        want.protocol,
    )
    assert found["bus_bandwidth_Bps"] == pytest.approx(1.5e6 / want.total_s * 15 / 16)
    alone = answer("predict collective --gpus 1", capsys)
    assert (alone["total_s"], alone["terms"]) == (0, [])
    hidden = answer("predict collective --overlap-s 100", capsys)
    assert hidden["exposed_s"] == 0 < hidden["total_s"]


def test_goodput_is_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        "predict goodput --gpus 64 --mtbf-h 3 --interval-s 900 --blocking-s 30 --detection-s 60 --restart-s 300",
        capsys,
    )
    want = goodput.goodput(goodput.Recovery(3 * 3600, 60, 300), goodput.Checkpoint(900, 30))
    assert found["goodput"] == want.useful
    assert math.fsum(found["terms"].values()) == pytest.approx(1)
    assert found["failures"] == pytest.approx(240)
    best = answer("predict goodput --gpus 64 --mtbf-h 3 --blocking-s 30 --restart-s 300", capsys)
    assert best["goodput"] > want.useful
    sized = answer("predict goodput --model gpt2 --storage-Bps 1e9", capsys)
    assert sized["blocking_s"] == pytest.approx(14 * 124_439_808 / 1e9)


CONFIG = """
model: {name: "mine \\e[31m", layers: 8, hidden: 512, heads: 8, vocabulary: 1000, sequence: 256, kv_heads: null}
layout: {data: 2, micro_batch: 2, global_batch: 8, zero_stage: 3}
settings: {optimizer: sgd, fragmentation: 0}
cluster: {preset: dgx_a100, price_per_gpu_hour: 1e0}
run: {tokens: 1e9}
job: {mtbf_h: 10, storage_Bps: 1e9}
"""


def test_one_file_serves_all_and_options_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(CONFIG)
    more = ("--config", str(file))
    found = answer("predict memory", capsys, *more)
    assert found["model"]["parameters"] == Transformer("", 8, 512, 8, 1000, 256).parameters
    assert (found["layout"]["zero_stage"], found["settings"]["optimizer"]) == (3, "sgd")
    assert found["peak_bytes"] == found["reserved_bytes"]
    assert answer("predict memory --layers 4 --zero-stage 0", capsys, *more)["model"]["layers"] == 4
    assert answer("predict memory --model gpt2", capsys, *more)["model"]["parameters"] == 124_439_808
    step = answer("predict step", capsys, *more)
    assert step["cluster"]["name"] == SELENE.name
    assert step["cost"] == pytest.approx(step["days"] * 24 * 2)
    assert answer("predict goodput", capsys, *more)["mtbf_h"] == 10
    assert run("predict memory", *more) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("memory", "model is missing"),
        ("memory --model gpt3", "model is 'gpt3'; did you mean 'gpt2'?"),
        ("memory --layers 2 --hidden 64", "heads of model is missing"),
        ("memory --model gpt2 --tensr 2", "'--tensr'; did you mean --tensor?"),
        ("memory --model gpt2 --tensor", "--tensor: expected one argument"),
        ("memory --model gpt2 --tensor two", "tensor is 'two'; it is a whole number"),
        ("memory --model gpt2 --tensor 1.5", "tensor is '1.5'; it is a whole number"),
        ("memory --model gpt2 --tensor -2", "tensor is -2"),
        ("memory --model gpt2 --data 0", "data is 0"),
        ("memory --model gpt2 --tensor 5", "tensor is 5, which does not divide heads"),
        ("memory --model gpt2 --recompute ful", "recompute is 'ful'; did you mean 'full'?"),
        ("memory --model gpt2 --zero-stage 4", "zero_stage is '4'"),
        ("memory --model gpt2 --fragmentation nan", "fragmentation is 'nan'; it is a finite number"),
        ("memory --model gpt2 --rank 3", "rank is 3"),
        ("memory --model gpt2 --gpu h10", "There is no accelerator 'h10'"),
        ("memory --model gpt2 --layers 100000000000000000000000x", "layers is"),
        ("step --model gpt2 --cluster dgx_h10", "cluster is 'dgx_h10'; did you mean 'dgx_h100'?"),
        ("step --model gpt2 --gemm-efficiency 1.2", "gemm_efficiency is 1.2; it must be above 0, at most 1"),
        ("step --model gpt2 --peak-flops 0", "peak_flops is 0"),
        ("step --model gpt2 --inside-alpha-s -1", "inside_alpha_s is -1"),
        ("step --model gpt2 --tokens -5", "tokens is -5"),
        ("step --model gpt2 --data-s -1", "data_s is -1"),
        ("step --model gpt2 --gradient-bytes 3", "gradient_bytes is 3"),
        ("collective --op allreduce", "op is 'allreduce'; did you mean 'all_reduce'?"),
        ("collective --payload-bytes 3parsec", "unit of payload_bytes is '3parsec'"),
        ("collective --payload-bytes=-1", "payload_bytes is -1"),
        ("collective --gpus 0", "gpus is 0"),
        ("collective --gpus 12 --gpus-per-node 8", "gpus is 12; it must be a multiple of gpus_per_node"),
        ("collective --cluster dgx", "cluster is 'dgx'"),
        ("collective --op all_gather --algorithm tree", "algorithm is 'tree'"),
        ("goodput", "model is missing"),
        ("goodput --model gpt2 --mtbf-h 0", "mtbf_h is 0"),
        ("goodput --model gpt2 --mtbf-h inf", "mtbf_h is infinite"),
        ("goodput --model gpt2 --slowdown 1", "slowdown is 1"),
        ("goodput --blocking-s 0", "blocking_s is 0"),
        ("goodput --blocking-s -1", "blocking_s is -1"),
        ("goodput --model gpt2 --storage-Bps 0", "storage_Bps is 0"),
        ("goodput --model gpt2 --days 0", "days is 0"),
        ("goodput --model gpt2 --gpus -1", "gpus is -1"),
        ("goodput --model gpt2 --interval-s 0", "interval_s is 0"),
        ("goodput --model gpt2 --background-s -1", "background_s is -1"),
        ("step --model gpt2 --peak-flops 1e-320", "peak_flops is '1e-320'; it is a number of at most 1e+30"),
        ("step --model gpt2 --tokens 1e308", "tokens is '1e308'"),
        ("memory --config no-such.yaml", "config is 'no-such.yaml', which cannot be read"),
    ],
)
def test_nonsense_names_the_field(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in error(f"predict {line}", capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: gpt2", "section is 'modle'; did you mean 'model'?"),
        ("model: {layer: 2}", "key of model is 'layer'; did you mean 'layers'?"),
        ("model: {layers: [2]}", "layers is [2]; it is a whole number"),
        ("model: {layers: true}", "layers is True; it is a whole number"),
        ("model: {layers: .nan}", "layers is nan"),
        ("model: {gated: 1}", "gated is 1; it is true or false"),
        ("model: gpt2\nlayout: flat", "layout is 'flat'; it is a mapping"),
        ("model: gpt2\nlayout: [1]", "layout is list; it is a mapping"),
        ("model: gpt2\nsettings: {optimizer: adam}", "optimizer is 'adam'; did you mean 'adamw'?"),
        ("- 1", "it holds a mapping"),
        ("{", "which is no YAML"),
        ("? [a]\n: 1", "which is no YAML"),
        ("[" * 5000, "which is no YAML"),
        ("a: " + "x" * 2**20, "more than 1048576 bytes"),
        ("model: !!python/object/apply:os.system ['true']", "which is no YAML"),
    ],
)
def test_a_wrong_file_names_the_key(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    said = error("predict memory", capsys, "--config", str(tmp_path / "own.yaml"))
    assert words in said.replace('"', "'")


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_each_field(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{name} --help") == 0
    shown = capsys.readouterr().out
    words = {
        "memory": "--zero-stage",
        "step": "--across-alpha-s",
        "cnn": "--fusion-bytes",
        "collective": "--op",
        "goodput": "--mtbf-h",
        "layout": "--objective",
    }
    assert words[name.split()[1]] in shown


def test_sizes() -> None:
    assert [size("s", text) for text in ("4096", "64MiB", "1.5 GB", "2kb", "1e3B")] == [
        4096,
        64 * 2**20,
        1.5e9,
        2000,
        1000,
    ]
    with pytest.raises(SettingError, match="in bits"):
        size("s", "64 Mb")


def test_answers_import_nothing_heavy() -> None:
    lines = [f"{name} {rest} --json".split() for name, rest in EXAMPLES.items()]
    code = f"""
import contextlib, io, sys
from distlab.cli import main
for line in {lines!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(line)
print({{"torch", "numpy", "matplotlib", "tyro", "rich", "yaml", "pydantic"}} & sys.modules.keys())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_a_provider_s_price_is_that_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    line = "predict step --model gpt-22b --tensor 8 --tokens 1e11 --cluster dgx_h200"
    price = read_prices().of("nebius").of_accelerator(accelerator("h200"))
    assert price is not None
    found = answer(f"{line} --provider nebius", capsys)
    assert found["cluster"]["price_per_gpu_hour"] == price.per_hour
    assert found["cost"] == answer(f"{line} --price-per-gpu-hour {price.per_hour}", capsys)["cost"]
    for more, words in (
        ("--provider aws", "provider is 'aws', of which no price of NVIDIA H200"),
        ("--provider acme", "no price of the provider 'acme'"),
        ("--provider nebius --price-per-gpu-hour 2", "give one of them"),
    ):
        assert words in error(f"{line} {more}", capsys)


LLAMA_8B = "--model llama3-8b --data 8 --global-batch 8 --zero-stage 1 --recompute selective"


def test_memory_step_and_layout_agree_on_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """One reserve: a layout that is 1.8 GiB over in one command is so in all."""
    layout = Layout(data=8, global_batch=8, zero_stage=1, recompute="selective")
    taken = training_memory(MODELS["llama3-8b"].model, layout).reserved_bytes
    usable = accelerator("h100").usable.value.bytes - RESERVE_BYTES
    assert taken > usable > taken - RESERVE_BYTES
    memory = answer(f"predict memory {LLAMA_8B} --gpu h100", capsys)
    step = answer(f"predict step {LLAMA_8B}", capsys)["memory"]
    why = "data=8,zero_stage=1,recompute=selective,micro_batch=1"
    searched = answer("predict layout --model llama3-8b --gpus 8 --global-batch 8", capsys, "--why", why)
    for found in (memory, step):
        assert (found["fits"], found["usable_bytes"], found["reserved_bytes"]) == (False, usable, taken)
    assert searched["usable_bytes"] == usable
    assert searched["why"]["over_bytes"] == pytest.approx(taken - usable)
    for line in (f"memory {LLAMA_8B} --gpu h100", f"step {LLAMA_8B}"):
        assert run(f"predict {line}") == 0
        shown = capsys.readouterr().out
        assert f"DOES NOT FIT into {accelerator('h100').title}" in shown
        assert f"{(taken - usable) / 2**30:,.3f} GiB too much" in shown
    spared = answer(f"predict memory {LLAMA_8B} --gpu h100 --reserve-bytes 1GiB", capsys)
    assert (spared["fits"], spared["reserve_bytes"], spared["ways_out"]) == (True, 2**30, [])
    assert run(f"predict memory {LLAMA_8B} --gpu h100 --reserve-bytes 1GiB") == 0
    assert "NCCL's buffers: 1.000 GiB (given)" in capsys.readouterr().out
    nothing = answer(f"predict memory {LLAMA_8B} --gpu h100 --reserve-bytes 90GB", capsys)
    assert (nothing["fits"], nothing["usable_bytes"]) == (False, 0)


@pytest.mark.parametrize(
    ("line", "layout"),
    [
        ("--data 8 --global-batch 8", Layout(data=8, global_batch=8)),
        (
            "--tensor 8 --pipeline 4 --data 8 --global-batch 64 --micro-batch 4",
            Layout(8, 8, 4, micro_batch=4, global_batch=64),
        ),
        ("--tensor 8", Layout(tensor=8)),
    ],
)
def test_ways_out_fit_and_the_cheapest_comes_first(
    line: str, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    model = MODELS["llama3-70b"].model
    found = answer(f"predict step --model llama3-70b {line}", capsys)["memory"]
    assert found["fits"] is False
    assert found["ways_out"]
    alone = predict_step(model, layout, DGX_H100).step_s * layout.gpus
    for way in found["ways_out"]:
        there = replace(layout, **way["changes"])
        assert training_memory(model, there).reserved_bytes == way["reserved_bytes"] <= found["usable_bytes"]
        assert way["gpus"] == there.gpus
        assert way["gpu_time"] == pytest.approx(
            predict_step(model, there, DGX_H100).step_s * there.gpus / alone
        )
    assert [way["gpu_time"] for way in found["ways_out"]] == sorted(w["gpu_time"] for w in found["ways_out"])
    assert run(f"predict step --model llama3-70b {line}") == 0
    assert "What fits, cheapest first: " in capsys.readouterr().out


def test_where_no_small_change_helps_the_search_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = "predict memory --model gpt-1t --gpu t4"
    assert answer(line, capsys)["ways_out"] == []
    assert run(line) == 0
    assert "`distlab predict layout --gpus 4 --global-batch 1` search" in capsys.readouterr().out


def test_memory_of_a_step_is_of_its_program(capsys: pytest.CaptureFixture[str]) -> None:
    model, line = MODELS["gpt2"].model, "predict step --model gpt2"
    for more, settings in (
        ("--no-fused-attention", MemorySettings(attention="scores")),
        ("--gradient-bytes 4", MemorySettings(precision="mixed_fp32_gradients")),
        ("--optimizer sgd", MemorySettings(optimizer="sgd")),
    ):
        found = answer(f"{line} {more}", capsys)["memory"]["reserved_bytes"]
        assert found == training_memory(model, Layout(), settings).reserved_bytes
    assert "make them agree" in error(f"{line} --no-fused-attention --attention flash", capsys)
    assert "precision is 'fp32'" in error(f"{line} --precision fp32", capsys)


def test_a_run_has_a_list_price_with_its_currency_and_date(capsys: pytest.CaptureFixture[str]) -> None:
    line = "predict step --model gpt-22b --tensor 8 --tokens 1T"
    table = read_prices()
    row = table.of_accelerator(accelerator("h100"))
    assert row is not None
    found = answer(line, capsys)
    assert found["cost"] == pytest.approx(found["days"] * 24 * 8 * row.per_hour)
    assert found["price"]["currency"] == table.currency
    assert found["price"]["date"] == row.date
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert f"{found['cost']:,.2f} {table.currency} at {row.per_hour:g} {table.currency} a GPU-hour" in shown
    assert f"read {row.date}" in shown
    assert answer(f"{line} --price-per-gpu-hour 2", capsys)["price"]["currency"] is None
    nowhere = answer(f"{line} --cluster dgx_2", capsys)
    assert (nowhere["cost"], nowhere["price"]) == (None, None)
    assert run(f"{line} --cluster dgx_2") == 0
    assert "No cost: the registry has no price of NVIDIA V100" in capsys.readouterr().out
    cheapest = answer(
        "predict layout --model gpt2 --gpus 8 --global-batch 8 --objective cost --tokens 1B", capsys
    )
    assert cheapest["price"]["per_gpu_hour"] == row.per_hour
    assert cheapest["best"][0]["cost"] == pytest.approx(
        cheapest["best"][0]["days"] * 24 * cheapest["best"][0]["layout"]["gpus"] * row.per_hour
    )


def test_tokens_and_parameters_are_counted_in_trillions_and_billions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "predict step --model gpt2 --tokens"
    assert answer(f"{line} 15T", capsys)["days"] == answer(f"{line} 1.5e13", capsys)["days"]
    assert answer("predict goodput --parameters 7B", capsys)["checkpoint_bytes"] == 14 * 7e9


def test_convnets_say_what_they_run_on_and_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict cnn --gpus 64") == 0
    shown = capsys.readouterr().out
    head = shown.splitlines()[0]
    for words in ("64 GPUs", "P100 PCIe", "32-bit", "25 Gb/s Ethernet"):
        assert words in head
    assert "Extrapolated" not in shown
    assert "11,690 images/s" in shown
    line = "predict cnn --cluster dgx_a100 --gpus 1 --batch"
    assert run(f"{line} 100000") == 0
    shown = capsys.readouterr().out
    assert "DOES NOT FIT into NVIDIA A100" in shown
    assert "Extrapolated: no convolutional network on NVIDIA A100" in shown
    assert ", 1 GPU;" in shown
    most = int(shown.partition("What fits: batch ")[2].partition(".")[0].replace(",", ""))
    assert answer(f"{line} {most}", capsys)["memory"]["fits"] is True
    assert answer(f"{line} {most + 1}", capsys)["memory"]["fits"] is False


def test_expected_failures_have_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """Poisson(240): 95% of its counts lie within about 1.96 standard deviations."""
    line = "predict goodput --gpus 64 --mtbf-h 3 --blocking-s 30"
    low, high = answer(line, capsys)["failures_95"]
    assert (low, high) == failures.poisson_interval(240)
    assert abs((high - low) / 2 - 1.96 * math.sqrt(240)) < 1
    assert run(line) == 0
    assert f"240 failures expected, {low} to {high} in 95% of runs" in capsys.readouterr().out


def test_required_options_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("layout", "samples of a step; required"), ("step", "without it data x")):
        assert run(f"predict {command} --help") == 0
        assert words in " ".join(capsys.readouterr().out.split())


def test_numbers_have_four_digits_and_no_exponent() -> None:
    assert [number(value) for value in (11690.4, 1234567, 999.96, 0.0251333, 0, 9999.9, 1e16)] == [
        *("11,690", "1,235,000", "1000", "0.02513", "0", "10,000", "1e+16"),
    ]
    assert [gpus(count) for count in (1, 8, 1024)] == ["1 GPU", "8 GPUs", "1,024 GPUs"]
