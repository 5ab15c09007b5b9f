"""How fast the models answer: one prediction, a search, simulated runs, and each command from its start to its end.

The peer of a single prediction is llm-analysis on the same case in the same run, by turns: one call of its `training`
gives step time and memory, and so it stands beside both. Each call has other numbers, so that none repeats what a cache
knows. The search and the simulation have no peer that does the same; of a command it is Python that does nothing.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.interleaved import ratio_of, take_turns
from benchmarks.results import Result

if TYPE_CHECKING:
    from distlab.predict.megatron import Case
    from distlab.predict.transformer import Layout

CALLS = 40
"""Of a turn."""
TURNS = 25
SEARCHES = 5
RUNS = 30
REPLICAS = 1000
STARTS = 15

PEER = "llm-analysis"

Way = tuple[Callable[[Any], object], Iterator[Any]]
"""A prediction, and its inputs."""


def single_us() -> list[Result]:
    """The median of one prediction of each kind, after the first; `predict.single_us` is the slowest kind."""
    ways = {**_kinds(), PEER: _llm_analysis()}
    calls = [partial(_per_call_s, *way) for way in ways.values()]
    seconds = take_turns(calls, lambda times: len(times[0]) >= TURNS, least=TURNS)
    times = dict(zip(ways, seconds, strict=True))
    theirs = times.pop(PEER)
    rows = []
    for kind, ours in times.items():
        peer = PEER if kind in ("step", "memory") else None
        ratio = ratio_of(ours, theirs).median if peer else None
        rows.append(Result(f"predict.single_us.{kind}", 1e6 * statistics.median(ours), "us", peer, ratio))
    slowest = max(times.values(), key=statistics.median)
    us = 1e6 * statistics.median(slowest)
    return [*rows, Result("predict.single_us", us, "us", PEER, ratio_of(slowest, theirs).median)]


def _per_call_s(predict: Callable[[Any], object], inputs: Iterator[Any]) -> float:
    """The median of some calls."""
    seconds = []
    for _ in range(CALLS):
        given = next(inputs)
        started = time.perf_counter()
        predict(given)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _kinds() -> dict[str, Way]:
    from distlab.predict import goodput, network
    from distlab.predict.cluster import SELENE
    from distlab.predict.convnet_cases import HOROVOD_ROCE
    from distlab.predict.convnet_step import convnet_step
    from distlab.predict.convnets import convnet
    from distlab.predict.step_time import predict_step
    from distlab.predict.training_memory import training_memory

    case = _case()
    machines = network.system("dgx_h100", 1024, 8)
    saving, resnet = goodput.Checkpoint(600, 60), convnet("resnet50")
    return {
        "step": (lambda layout: predict_step(case.model, layout, SELENE, case.software), _layouts()),
        "memory": (lambda layout: training_memory(case.model, layout), _layouts()),
        "collective": (
            lambda size: network.predict_collective("all_reduce", size, machines),
            count(1e6, 1e5),
        ),
        "goodput": (
            lambda job: goodput.goodput(job, saving),
            (goodput.Recovery(s, 60, 300) for s in count(1e4)),
        ),
        "cnn": (lambda gpus: convnet_step(resnet, 64, gpus, HOROVOD_ROCE), count(8, 8)),
    }


def _llm_analysis() -> Way:
    """The same model and batches; it stands beside the environment (scripts/setup dev)."""
    sys.path.append(str(Path(sys.prefix, "peers")))
    analysis = import_module("llm_analysis.analysis")
    config = import_module("llm_analysis.config")
    logging.disable(logging.WARNING)  # it warns at each call
    case = _case()
    model, layout = case.model, case.layout
    tool = analysis.LLMAnalysis(
        config.ModelConfig(
            model.name, model.layers, model.heads, model.hidden, model.vocabulary, model.sequence
        ),
        config.get_gpu_config_by_name("a100-sxm-80gb"),
        config.DtypeConfig(),
        config.ParallelismConfig(tp_size=layout.tensor, pp_size=layout.pipeline, dp_size=layout.data),
        flops_efficiency=0.5,
    )
    kept = analysis.ActivationRecomputation[layout.recompute.upper()]

    def training(layout: Layout) -> object:
        return tool.training(
            batch_size_per_gpu=layout.micro_batch,
            global_batch_size=layout.global_batch,
            seq_len=model.sequence,
            activation_recomputation=kept,
            flash_attn=False,
        )

    return training, _layouts()


def _case() -> Case:
    from distlab.predict import megatron

    return next(case for case in megatron.FITTED if case.name == "175B selective+sequence")


def _layouts() -> Iterator[Layout]:
    layout = _case().layout
    # Micro-batches are interleaved in whole groups.
    group = layout.data * layout.micro_batch * layout.pipeline
    return (replace(layout, global_batch=group * groups) for groups in count(1))


SEARCH = """
import time
from distlab.predict.cluster import DGX_H100
from distlab.predict.commands.presets import preset
from distlab.predict.search import Query, search

query = Query(preset("gpt-1t").model, DGX_H100, gpus=16384, global_batch=4096)
started = time.perf_counter()
found = search(query)
print(time.perf_counter() - started)
assert found.best
"""


def layout_s() -> list[Result]:
    """The best layout of a 1T model on 16,384 H100, each search in a process of its own: its caches are empty."""
    seconds = []
    for _ in range(SEARCHES):
        done = subprocess.run([sys.executable, "-c", SEARCH], check=True, capture_output=True, text=True)
        seconds.append(float(done.stdout))
    return [Result("predict.layout_s", statistics.median(seconds), "s")]


def goodput_run_s() -> list[Result]:
    """54 days of 16,384 GPUs, event by event: one run, and a thousand on one core."""
    from distlab.predict.failures import llama3_components
    from distlab.predict.goodput import Checkpoint
    from distlab.predict.simulate import Run, simulate, simulate_run

    run = Run(
        nodes=2048,
        components=llama3_components(),
        saving=Checkpoint(600, blocking_s=5, background_s=60),
        spares=32,
        repair_h=24,
        straggler_mtbf_h=50_000,
        straggler_slowdown=0.1,
        straggler_s=1800,
    )
    one = [_seconds(partial(simulate_run, run, seed)) for seed in range(RUNS)]
    many = _seconds(partial(simulate, run, REPLICAS, 1))
    return [
        Result("predict.goodput_run_s", statistics.median(one), "s"),
        Result("predict.goodput_run_s.1000_replicas", many, "s"),
    ]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


COMMANDS = {
    "memory": "--model gpt-175b --tensor 8 --pipeline 8 --gpu h100",
    "step": "--model gpt-175b --tensor 8 --pipeline 8",
    "collective": "--payload-bytes 64MiB --gpus 16 --cluster dgx_h100",
    "goodput": "--gpus 16384 --model llama3-405b",
    "cnn": "--model vgg16 --gpus 128",
    "layout": "--model gpt-22b --gpus 16 --global-batch 16",
    "presets": "",
}
"""The layout's is a small search."""


def cli_ms() -> list[Result]:
    """From a command's start to its end, tables printed; `predict.cli_ms` is the slowest command.

    Modules are compiled, as they are where pip installed the package, whatever PYTHONDONTWRITEBYTECODE says here.
    """
    script = Path(sys.executable).with_name("distlab")
    commands = [[str(script), "predict", name, *args.split()] for name, args in COMMANDS.items()]
    commands.append([sys.executable, "-c", "pass"])
    with tempfile.TemporaryDirectory() as compiled:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        run = partial(subprocess.run, check=True, capture_output=True, env=env)
        ways = [partial(_seconds, partial(run, command)) for command in commands]
        for way in ways:
            way()
        *ours, bare = take_turns(ways, lambda times: len(times[0]) >= STARTS, least=STARTS)
    rows = []
    for name, times in zip(COMMANDS, ours, strict=True):
        ms, ratio = 1e3 * statistics.median(times), ratio_of(times, bare).median
        rows.append(Result(f"predict.cli_ms.{name}", ms, "ms", "python -c pass", ratio))
    return [*rows, replace(max(rows, key=lambda row: row.value), name="predict.cli_ms")]
