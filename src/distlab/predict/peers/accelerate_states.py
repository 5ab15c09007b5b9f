"""Accelerate's estimator (`accelerate estimate-memory`): its functions, on the run's model without its values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from distlab.predict.peers import Estimator, apart
from distlab.predict.transformer import Transformer
from distlab.predict.validation import MemoryRun, Scored


def estimator(cells: Sequence[Scored]) -> Estimator:
    """ImportError where it is not installed."""
    training = apart.module("accelerate.commands.estimate").estimate_training_usage
    sizes = apart.module("accelerate.utils").calculate_maximum_sizes

    @cache
    def model_bytes(model: Transformer) -> int | None:
        import torch

        from distlab.train.gpt import GPT

        with torch.device("meta"):
            gpt = GPT(model.vocabulary, model.hidden, model.layers, model.heads, tied=model.tied_embedding)
        counted = sum(parameter.numel() for parameter in gpt.parameters())
        return int(sizes(gpt)[0]) if counted == model.parameters else None

    def predict(cell: Scored) -> float | None:
        run = cell.inputs
        if cell.kind not in ("states", "peak") or not isinstance(run, MemoryRun):
            return None
        if run.settings.optimizer != "adamw":
            return None  # it is about Adam
        size = model_bytes(run.model)
        precision = "float32" if run.settings.precision == "fp32" else "bfloat16"
        return None if size is None else float(max(training(size, precision).values()))

    return predict
