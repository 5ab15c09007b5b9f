"""Training runs on H100 that others published, to hold the step model against: none of them was used in a fit.

    for run in published_training():
        print(run.name, f"{run.mfu:.1%} published, {run.predicted.mfu:.1%} predicted")

The model's two fitted numbers come from A100 (`cluster`), so that these runs say how far it carries to newer GPUs and
to other programs. The file of the runs names their sources, and what stands for what they leave out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import Any, cast

from distlab.predict.cluster import DGX_H100
from distlab.predict.commented_csv import read_rows
from distlab.predict.flops import step_flops, tokens_per_step
from distlab.predict.models import MODELS
from distlab.predict.step_time import StepTime, predict_step
from distlab.predict.transformer import Layout, Recompute, Transformer

RUNS = "published_training.csv"

MPT = {
    "mpt-7b": (32, 4096, 32),
    "mpt-13b": (40, 5120, 40),
    "mpt-30b": (48, 7168, 56),
    "mpt-70b": (80, 8192, 64),
}
"""Layers, width and heads (mosaicml/llm-foundry, scripts/train/yamls/pretrain, S); with `MPT_VOCABULARY` they give the
published numbers of parameters to the last one."""

MPT_VOCABULARY = 50368


@dataclass(frozen=True)
class PublishedRun:
    """One run."""

    source: str
    """A key of book/references.bib."""
    model: Transformer
    layout: Layout
    published_mfu: float | None
    """As a share, where the source gives it."""
    tokens_per_s_per_gpu: float | None
    parameters: int | None
    """As the source prints them."""

    @property
    def name(self) -> str:
        """Model, tokens of a sample, and GPUs."""
        return f"{self.model.name}, {self.model.sequence:,} tokens, {self.layout.gpus:,} GPUs"

    @property
    def mfu(self) -> float:
        """The published one; where a rate of tokens was published, by `step_flops` and the datasheet's peak."""
        if self.published_mfu is not None:
            return self.published_mfu
        assert self.tokens_per_s_per_gpu is not None, "a row has one of the two"
        batch = self.layout.global_batch
        flops_per_token = step_flops(self.model, batch).model / tokens_per_step(self.model, batch)
        return self.tokens_per_s_per_gpu * flops_per_token / DGX_H100.device.peak_flops

    @cached_property
    def predicted(self) -> StepTime:
        """On nodes of 8 H100 SXM with a 400 Gb/s card for each GPU."""
        return predict_step(self.model, self.layout, DGX_H100)

    @property
    def flattery(self) -> float:
        """Predicted MFU over the published one: above 1 the model promises more than was reached."""
        return self.predicted.mfu / self.mfu


def published_training() -> list[PublishedRun]:
    """All of them, in the file's order."""
    rows = read_rows(resources.files("distlab.predict").joinpath("data", RUNS).read_text())
    return [_run(row) for row in rows]


def _run(row: dict[str, str]) -> PublishedRun:
    counts = ("data", "tensor", "pipeline", "interleave", "zero_stage", "micro_batch", "global_batch")
    fields: dict[str, Any] = {name: int(row[name]) for name in counts}
    layout = Layout(
        **fields,
        recompute=cast(Recompute, row["recompute"]),
        schedule="interleaved" if fields["interleave"] > 1 else "1f1b",
        sequence_parallel=fields["tensor"] > 1,
    )
    assert layout.gpus == int(row["gpus"]), row
    mfu, rate, parameters = (
        row[name] for name in ("mfu_percent", "tokens_per_s_per_gpu", "published_parameters")
    )
    return PublishedRun(
        row["source"],
        _model(row["model"], int(row["sequence"])),
        layout,
        float(mfu) / 100 if mfu else None,
        float(rate) if rate else None,
        int(parameters) if parameters else None,
    )


def _model(name: str, sequence: int) -> Transformer:
    if name in MPT:
        layers, hidden, heads = MPT[name]
        return Transformer(
            name.replace("mpt-", "MPT ").upper(), layers, hidden, heads, MPT_VOCABULARY, sequence
        )
    model = replace(MODELS[name].model, sequence=sequence)
    # 126 layers cannot be cut into 16 equal stages; Meta dealt them out unevenly.
    return replace(model, layers=128) if model.layers == 126 else model
