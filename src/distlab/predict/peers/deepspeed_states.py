"""DeepSpeed's estimators of ZeRO's states: `estimate_zero2_model_states_mem_needs` and its sister for stage 3."""

from __future__ import annotations

import os
from collections.abc import Sequence

from distlab.predict.peers import Estimator, apart
from distlab.predict.transformer import Transformer
from distlab.predict.validation import MemoryRun, Scored


def estimator(cells: Sequence[Scored]) -> Estimator:
    """ImportError where it is not installed."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for a GPU, and warns
    two = apart.module("deepspeed.runtime.zero.stage_1_and_2").estimate_zero2_model_states_mem_needs
    three = apart.module("deepspeed.runtime.zero.stage3").estimate_zero3_model_states_mem_needs

    def predict(cell: Scored) -> float | None:
        run = cell.inputs
        if cell.kind != "states" or not isinstance(run, MemoryRun):
            return None
        layout = run.layout
        if layout.gpus > layout.data or run.settings.optimizer != "adamw" or layout.zero_stage == 1:
            return None  # it knows data parallelism and Adam alone, and not of stage 1
        parameters, ranks = run.model.parameters, layout.data
        if layout.zero_stage == 3:
            largest = largest_tensor(run.model)
            _, on_gpu, _ = three(parameters, largest, ranks, 1, cpu_offload=False, cpu_offload_params=False)
        else:
            _, on_gpu = two(parameters, ranks if layout.zero_stage == 2 else 1, 1, cpu_offload=False)
        return float(on_gpu)

    return predict


def largest_tensor(model: Transformer) -> int:
    """Parameters of the largest module that has some of its own, as DeepSpeed counts them: an embedding or a matrix."""
    wide = max(model.mlp_width, model.heads * model.head_width)
    return model.hidden * max(model.vocabulary, wide)
