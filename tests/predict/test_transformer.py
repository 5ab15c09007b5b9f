"""Parameter counts against published ones, and layouts that cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.predict.transformer import Layout, Transformer

GPT_175B = Transformer("GPT-175B", layers=96, hidden=12288, heads=96, vocabulary=51200, sequence=2048)
LLAMA_405B = Transformer(
    "Llama 3 405B", layers=126, hidden=16384, heads=128, kv_heads=8, vocabulary=128256, sequence=8192,
    feed_forward=53248, gated=True, tied_embedding=False, learned_positions=False, biases=False,
)  # fmt: skip
MIXTRAL = Transformer(
    "Mixtral 8x7B", layers=32, hidden=4096, heads=32, kv_heads=8, vocabulary=32000, sequence=8192,
    feed_forward=14336, gated=True, experts=8, active_experts=2, tied_embedding=False, learned_positions=False,
    biases=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "billions", "active"),
    [
        (GPT_175B, 174.6, 174.6),  # Narayanan et al., SC'21, table 1
        (LLAMA_405B, 405.85, 405.85),  # the published checkpoint's own count
        (MIXTRAL, 46.7, 12.9),  # Jiang et al., 2024
    ],
)
def test_parameters_are_the_published_ones(model: Transformer, billions: float, active: float) -> None:
    assert model.parameters / 1e9 == pytest.approx(billions, abs=0.06)
    assert model.active_parameters / 1e9 == pytest.approx(active, abs=0.06)


def test_parameters_follow_the_papers_formula() -> None:
    # 12 l h^2 (1 + 13/(12 h) + (V + s)/(12 l h)); Narayanan et al., equation 2. The final norm is left out there.
    l, h, v, s = 96, 12288, 51200, 2048  # noqa: E741
    formula = 12 * l * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * l * h))
    assert GPT_175B.parameters - 2 * h == pytest.approx(formula, abs=1)


def test_a_layout_counts_gpus_and_micro_batches() -> None:
    layout = Layout(data=4, tensor=8, pipeline=8, interleave=3, micro_batch=2, global_batch=64)
    layout.check(GPT_175B)
    assert (layout.gpus, layout.micro_batches) == (256, 8)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data": 0}, "data is 0"),
        ({"global_batch": 6, "data": 4}, "global_batch is 6"),
        ({"expert": 2}, "expert is 2, which does not divide data"),
        ({"interleave": 2}, "without a pipeline"),
        ({"zero_stage": 4}, "zero_stage is 4"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Layout(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tensor": 5}, "tensor is 5, which does not divide heads, 96"),
        ({"pipeline": 5}, "does not divide layers, 96"),
        ({"context": 3}, "does not divide sequence, 2048"),
        ({"expert": 2, "data": 2, "global_batch": 2}, "does not divide experts, 1"),
    ],
)
def test_a_layout_that_does_not_fit_the_model_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Layout(**values).check(GPT_175B)


@pytest.mark.parametrize("values", [{"layers": 0}, {"heads": 7}, {"kv_heads": 5}, {"active_experts": 2}])
def test_a_model_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        replace(GPT_175B, **values)
