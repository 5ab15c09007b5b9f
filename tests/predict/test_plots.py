"""Charts of predictions: their numbers are the models', and drawn they are accessible files."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from distlab.cli import main
from distlab.errors import SettingError
from distlab.predict import network
from distlab.predict.cluster import DGX_H100
from distlab.predict.collectives import bus_bandwidth_factor
from distlab.predict.failures import Component, job_mtbf_h, llama3_components
from distlab.predict.goodput import Checkpoint, Recovery, goodput, optimal_interval_s
from distlab.predict.hardware import accelerator
from distlab.predict.kernels import Kernels, layer_time
from distlab.predict.models import MODELS
from distlab.predict.plots.chart import grid
from distlab.predict.plots.drawing import figure, save
from distlab.predict.plots.exchange import over_payload, over_ranks
from distlab.predict.plots.growth import growth
from distlab.predict.plots.intervals import REPLICAS, intervals
from distlab.predict.plots.placement import placement
from distlab.predict.plots.waterfall import Bar, Waterfall, memory_waterfall, step_waterfall
from distlab.predict.step_time import predict_step
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout
from distlab.predict.units import GIB

GPT = MODELS["gpt-22b"].model
LAYOUT = Layout(data=4, tensor=4, pipeline=2, global_batch=32, recompute="selective", sequence_parallel=True)
COMMANDS = {
    "memory --model gpt-22b --tensor 8 --gpu h100": ("plot",),
    "step --model gpt-22b --tensor 4 --pipeline 4 --data 2": ("plot", "plot-scaling", "plot-roofline"),
    "collective --gpus 16 --payload-bytes 64MiB": ("plot", "plot-ranks"),
    "goodput --gpus 1024 --model gpt-22b": ("plot",),
    "layout --model gpt-22b --gpus 16 --global-batch 32 --tensor 8": ("plot",),
}


def adds_up(chart: Waterfall) -> bool:
    at = 0.0
    for bar in chart.bars:
        if bar.start != pytest.approx(at, abs=1e-9) or not bar.length > 0:
            return False
        at += bar.length
    return True


def test_a_memory_waterfall_adds_up_to_what_is_reserved() -> None:
    found = training_memory(GPT, LAYOUT)
    gpu = accelerator("h100")
    chart = memory_waterfall(found, gpu)
    assert adds_up(chart)
    assert chart.total == pytest.approx(found.reserved_bytes / GIB)
    assert chart.limit is not None
    assert chart.limit.x == gpu.usable.value.bytes / GIB
    assert ("beyond" in chart.in_words()) == (chart.total > chart.limit.x)
    kinds = [bar.kind for bar in chart.bars]
    assert kinds == sorted(kinds, key=chart.kinds.index), "kind by kind"
    states = sum(bar.length for bar in chart.bars if bar.kind == "states")
    held = sum(term.bytes for term in found.peak.terms if term.kind == "states")
    assert states == pytest.approx(held / GIB)
    assert memory_waterfall(found).limit is None


def test_a_step_waterfall_adds_up_to_the_step() -> None:
    found = predict_step(GPT, LAYOUT, DGX_H100)
    chart = step_waterfall(found)
    factor = {"s": 1.0, "ms": 1e3, "us": 1e6}[chart.unit]
    assert adds_up(chart)
    assert chart.total == pytest.approx(found.step_s * factor)
    waiting = sum(bar.length for bar in chart.bars if bar.kind == "waiting")
    bubble = next(term.seconds for term in found.terms if term.name == "pipeline bubble")
    assert waiting == pytest.approx(bubble * factor)


def test_scaling_curves_are_the_step_model_s() -> None:
    chart = growth(GPT, LAYOUT, DGX_H100)
    asked = {name: next(size for size in sizes if size.gpus == LAYOUT.gpus) for name, sizes in
             (("weak", chart.weak), ("strong", chart.strong))}  # fmt: skip
    assert asked["weak"].step_s == asked["strong"].step_s == predict_step(GPT, LAYOUT, DGX_H100).step_s
    smallest = predict_step(GPT, replace(LAYOUT, data=1, global_batch=8), DGX_H100).step_s
    assert asked["weak"].efficiency == pytest.approx(smallest / asked["weak"].step_s)
    alone = predict_step(GPT, replace(LAYOUT, data=1), DGX_H100).step_s
    assert asked["strong"].efficiency == pytest.approx(alone / (4 * asked["strong"].step_s))
    for sizes in (chart.weak, chart.strong):
        assert sizes[0].efficiency == 1
        assert [size.gpus for size in sizes] == sorted({size.gpus for size in sizes})
        assert all(0 < size.efficiency <= 1 + 1e-9 for size in sizes)
    assert {size.gpus // 8 for size in chart.strong} == {1, 2, 4, 8, 16, 32}


@pytest.mark.parametrize("kernels", [Kernels(), Kernels(fused_attention=False)])
@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "mixtral-8x7b"])
def test_kernels_stand_under_the_roof(name: str, kernels: Kernels) -> None:
    chart = placement(MODELS[name].model, Layout(), DGX_H100.device, kernels)
    for kernel in chart.kernels:
        assert 0 < kernel.flops <= chart.attainable(kernel.intensity) * (1 + 1e-9)
    low = [kernel for kernel in chart.kernels if kernel.kind == "element-wise"]
    assert all(kernel.intensity < chart.ridge / 50 for kernel in low)
    assert f"{chart.ridge:.3g} FLOP/B" in chart.in_words()


@pytest.mark.parametrize("kernels", [Kernels(), Kernels(fused_attention=False)])
@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "mixtral-8x7b"])
def test_their_products_take_what_the_step_model_says(name: str, kernels: Kernels) -> None:
    model, layout = MODELS[name].model, Layout(data=4, expert=2 if "mix" in name else 1, tensor=4, micro_batch=2,
                                               global_batch=8)  # fmt: skip
    chart = placement(model, layout, DGX_H100.device, kernels)
    of_a_layer = [kernel for kernel in chart.kernels if kernel.flop and kernel.name != "output layer"]
    time = layer_time(model, layout, DGX_H100.device, kernels)
    assert sum(kernel.flop / kernel.flops for kernel in of_a_layer) == pytest.approx(time.forward_products_s)


def test_a_curve_over_payloads_is_the_network_model_s() -> None:
    machines = network.system("a100_dgx", 8, 8)
    chart = over_payload("all_gather", machines, 3e6)
    for point in (chart.asked, *chart.points[::12]):
        found = network.predict_collective("all_gather", point.x, machines)
        assert point.seconds == found.total_s
        rate = point.x / point.seconds * bus_bandwidth_factor("all_gather", 8)
        assert point.bus_bandwidth_Bps == pytest.approx(rate)
        assert point.way == f"{found.algorithm}, {found.protocol}".replace("_", "-")
    assert chart.asked in chart.points
    assert chart.switches
    for switch in chart.switches:
        before, after = (
            network.predict_collective("all_gather", x, machines) for x in (switch.x * 0.998, switch.x)
        )
        assert (before.algorithm, before.protocol) != (after.algorithm, after.protocol)
        assert switch.label.startswith(after.algorithm.replace("_", "-"))
    one = over_payload("all_gather", machines, 3e6, "ring", "Simple")
    assert not one.switches
    assert all(single.seconds >= best.seconds for single, best in zip(one.points, chart.points, strict=True))


def test_a_curve_over_ranks_goes_where_there_is_a_network() -> None:
    chart = over_ranks("all_reduce", 2**26, lambda n: network.system("dgx_h100", n, min(n, 8)), 16)
    assert [point.x for point in chart.points] == [2, 4, 8, 16, 32, 64]
    inside = over_ranks("all_reduce", 2**26, lambda n: network.system("h100_pairwise_nvlink", n, n), 4)
    assert [point.x for point in inside.points] == [2, 4, 8]
    with pytest.raises(ValueError, match="system is 'none'"):
        over_ranks("all_reduce", 2**26, lambda n: network.system("none", n, n), 4)


def test_a_curve_over_intervals_peaks_at_the_best() -> None:
    components = llama3_components(2048)
    job = Recovery(3600 * job_mtbf_h(components), 60, 600)
    asked = Checkpoint(7200, 30, 60, 0.1)
    chart = intervals(job, asked, components, days=20)
    marks = {mark.label: mark for mark in chart.marks}
    best_s = optimal_interval_s(job, asked)
    assert marks["best"].x == best_s
    assert max(chart.curve, key=lambda point: point[1])[0] == best_s
    assert marks["asked"].y == goodput(job, asked).useful
    assert {"Young", "Daly"} < marks.keys()
    assert "asked" not in {mark.label for mark in intervals(job, asked.every(best_s)).marks}
    # Six means with their 95% intervals: that two or more miss is a case of 4 in 100, and the seed is fixed.
    inside = [
        run.low <= goodput(job, asked.every(run.interval_s)).useful <= run.high for run in chart.simulated
    ]
    assert len(inside) == 6
    assert sum(inside) >= 4
    assert all(abs(math.log(run.interval_s / best_s)) > 0.1 for run in chart.simulated), (
        "none under the marks"
    )
    assert f"{REPLICAS} simulated runs" in chart.caption
    assert not intervals(job, asked).simulated
    assert not intervals(
        Recovery(60.0, 1, 1), Checkpoint(60, 1), [Component("job", 1, 1 / 60)], 3e4
    ).simulated


def test_what_has_no_curve_says_why() -> None:
    with pytest.raises(SettingError, match="gpus is 1"):
        over_payload("all_reduce", network.system("dgx_h100", 1, 1), 1e6)
    with pytest.raises(SettingError, match="mtbf_h is infinite"):
        intervals(Recovery(math.inf), Checkpoint(60, 1))
    with pytest.raises(SettingError, match="blocking_s is 0"):
        intervals(Recovery(3600), Checkpoint(60, 0))


def test_extremes_are_drawn() -> None:
    assert "1 KiB" in figure(over_payload("all_reduce", network.system("dgx_h100", 16, 8), 1e30)).svg
    job, saving = Recovery(1.0), Checkpoint(1e9, 1e9)  # nothing is ever kept
    assert "goodput" in figure(intervals(job, saving)).svg


def test_a_grid_has_its_ends() -> None:
    assert grid(1, 1000, 4) == pytest.approx([1, 10, 100, 1000])
    assert (grid(3, 7, 9)[0], grid(3, 7, 9)[-1]) == (3, 7)
    assert grid(5, 5, 9) == [5]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_draw_accessible_files(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {name: tmp_path / f"{name}.svg" for name in COMMANDS[line]}
    with pytest.raises(SystemExit) as ended:
        main(["predict", *line.split(), *(f"--{name}={path}" for name, path in options.items())])
    assert ended.value.code == 0
    printed = capsys.readouterr().out.replace("\n", "")
    for path in options.values():
        assert f"Drawn: {path}" in printed
        text = path.read_text()
        root = ElementTree.fromstring(text)
        svg = "{http://www.w3.org/2000/svg}"
        title, description = root.find(f"{svg}title"), root.find(f"{svg}desc")
        assert title is not None
        assert description is not None
        assert title.text
        assert len(description.text or "") > 100
        assert root.get("role") == "img"
        assert "prefers-color-scheme:dark" in text
        assert not re.search(r"#000000|nan|href=\"http", text), (
            "no ink of its own, and nothing from elsewhere"
        )
        assert path.stat().st_size < 300_000
        words = [node.text for node in root.iter(f"{svg}text")]
        assert len(words) > 5, "text stays text"


def test_files_and_figures_are_the_same_every_time(tmp_path: Path) -> None:
    bars = (Bar("weights", "states", 0, 2), Bar("inputs", "activations", 2, 1))
    chart = Waterfall("Memory", "Two bars.", "GiB", bars, ("states", "activations"))
    for kind, begins in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        paths = [tmp_path / f"{i}.{kind}" for i in range(2)]
        for path in paths:
            save(chart, path)
        first, second = (path.read_bytes() for path in paths)
        assert first.startswith(begins)
        assert first == second
    assert chart.in_words().encode() in (tmp_path / "0.png").read_bytes()
    inline = figure(chart)
    assert "currentColor" in inline.svg
    assert "<style" not in inline.svg
    assert inline.alt == chart.in_words()


def test_a_name_of_somebody_s_is_shown_as_it_is(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    name = r"<b>$\frac{1}$ & 模型" + "x" * 100
    chart = memory_waterfall(training_memory(GPT, LAYOUT), title=name)
    save(chart, tmp_path / "name.svg")
    root = ElementTree.fromstring((tmp_path / "name.svg").read_text())
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text == name[:57] + "..." for text in texts)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == chart.heading
    assert chart.heading.startswith(name)
    assert not recwarn.list


def test_data_need_no_matplotlib() -> None:
    code = """
import sys
from distlab.predict.plots import exchange, growth, intervals, placement, step, waterfall
print({"matplotlib", "numpy"} & sys.modules.keys())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
