"""One prediction of each kind, as JSON. The test runs this in CPython and in Pyodide, and wants the same numbers."""

import contextlib
import importlib
import io
import json
import pkgutil
import sys

import distlab.predict
from distlab.cli import main
from distlab.predict.cluster import DGX_H100
from distlab.predict.convnet_cases import convnet_cluster
from distlab.predict.convnet_step import convnet_step
from distlab.predict.convnets import convnet
from distlab.predict.failures import job_mtbf_h, llama3_components
from distlab.predict.goodput import Checkpoint, Recovery, goodput, optimal_interval_s
from distlab.predict.hardware import accelerator
from distlab.predict.network import predict_collective, system
from distlab.predict.plots.exchange import over_payload
from distlab.predict.plots.step import step_chart
from distlab.predict.search import Query, search
from distlab.predict.simulate import Run, simulate
from distlab.predict.step_time import Software, predict_step
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout, Transformer

HEAVY = {"numpy", "torch", "pydantic", "tyro", "yaml", "rich", "matplotlib"}
AT_A_TERMINAL = {"distlab.predict.validation.report"}
for module in pkgutil.walk_packages(distlab.predict.__path__, "distlab.predict."):
    if module.name not in AT_A_TERMINAL:
        importlib.import_module(module.name)


gpt = Transformer("GPT 175B", layers=96, hidden=12288, heads=96, vocabulary=51200, sequence=2048)
layout = Layout(tensor=8, pipeline=8, data=2, global_batch=64, recompute="selective", sequence_parallel=True)
memory = training_memory(gpt, layout)
step = predict_step(gpt, layout, DGX_H100)
machines = system("dgx_h100", 16, 8)
collective = predict_collective("all_reduce", 64 * 2**20, machines)
components = llama3_components(16_384)
job = Recovery(3600 * job_mtbf_h(components), detection_s=60, restart_s=600)
saving = Checkpoint(600, blocking_s=30)
saving = saving.every(optimal_interval_s(job, saving))
share = goodput(job, saving)
runs = simulate(Run(2048, components, saving, 60, 600, days=10), replicas=5, seed=1)
cnn = convnet_step(convnet("resnet50"), 64, 16, convnet_cluster("dgx_a100"))
small = Transformer("small", layers=4, hidden=256, heads=4, vocabulary=1000, sequence=128)
best = search(Query(small, DGX_H100, gpus=4, global_batch=8)).best[0]
curve = over_payload("all_reduce", machines, 2**26)
plan = step_chart(gpt, layout, DGX_H100, Software(), step).plan


def printed(line):
    """What a command prints, as at a terminal."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(["predict", *line.split()])
    return out.getvalue()


print(
    json.dumps(
        {
            "python": sys.platform + sys.version,
            "parameters": gpt.parameters,
            "memory": {row["term"]: row["bytes"] for row in memory.as_rows()},
            "step": {term.name: term.seconds for term in step.terms},
            "mfu": step.mfu,
            "collective": {term.name: term.seconds for term in collective.terms},
            "cnn": {term.name: term.seconds for term in cnn.terms},
            "best": {"gpus": best.layout.gpus, "tensor": best.layout.tensor, "step_s": best.step.step_s},
            "curve": {str(i): point.seconds for i, point in enumerate(curve.points)},
            "plan": {str(i): slot.end_s for i, slot in enumerate(plan)},
            "interval_s": saving.interval_s,
            "goodput": share.terms(),
            "simulated": runs.shares,
            "peak": accelerator("h100").peak("bf16").flop_per_s,
            "printed": [
                printed("memory --model llama3-8b --data 8 --zero-stage 3 --gpu h100 --why"),
                printed("step --model llama3-8b --data 8 --tokens 1e12 --price-per-gpu-hour 2"),
                printed("collective --gpus 64 --payload-bytes 1GiB"),
                printed("goodput --gpus 1024 --model llama3-8b"),
                printed("presets"),
            ],
            "heavy": sorted(HEAVY & sys.modules.keys()),
        }
    )
)
