"""Predicted memory against what the GPT of distlab.train really holds on a CPU: alone of this wing, with torch."""

from __future__ import annotations

from typing import Any

import pytest

from distlab.predict.states import MemorySettings, RankStates, rank_states
from distlab.predict.training_memory import TrainingMemory, training_memory
from distlab.predict.transformer import Layout, Transformer


@pytest.mark.parametrize("strategy", ["single", "fsdp"])
def test_states_of_real_training(strategy: str) -> None:
    """What a rank of distlab.train holds after a step, alone and as the first of two (which sends nothing)."""
    from torch import distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    shards = 2 if strategy == "fsdp" else 1
    model = Transformer(
        "distlab's", layers=2, hidden=32, heads=4, vocabulary=256, sequence=16,
        learned_positions=False, biases=False,
    )  # fmt: skip
    layout = Layout(data=shards, global_batch=shards, zero_stage=3)
    if shards > 1:
        dist.init_process_group("fake", rank=0, world_size=shards, store=FakeStore())
    try:
        for name in ("adamw", "sgd_momentum", "sgd") + (("adafactor",) if shards == 1 else ()):
            chosen = MemorySettings(name, "fp32")
            expected = rank_states(model, layout, chosen, 0)
            assert _trained(strategy, model, name) == _tuple(expected)
    finally:
        if shards > 1:
            dist.destroy_process_group()


def _tuple(held: RankStates) -> tuple[float, float, float]:
    return held.parameter_bytes, held.gradient_bytes, held.moment_bytes


def _trained(strategy: str, model: Transformer, optimizer: str) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and the optimizer's state, without its counts of steps."""
    import torch

    from distlab.train.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
    from distlab.train.mesh import local
    from distlab.train.models import build_model
    from distlab.train.optimizer import build_optimizer, optimizer_bytes
    from distlab.train.strategies.fsdp import FSDP
    from distlab.train.strategies.single import Single

    name = "sgd" if optimizer == "sgd_momentum" else optimizer
    config = TrainConfig(
        strategy=strategy,  # type: ignore[arg-type]
        model=ModelConfig("gpt", width=model.hidden, layers=model.layers, heads=model.heads),
        data=DataConfig("synthetic"),
        optimizer=OptimizerConfig(name, "plain", momentum=0.9 if optimizer == "sgd_momentum" else 0.0),  # type: ignore[arg-type]
    )
    kind = FSDP if strategy == "fsdp" else Single
    wrapped = kind(config, torch.device("cpu")).wrap(build_model(config.model, 0))
    rule = build_optimizer(wrapped, config.optimizer)
    wrapped(torch.zeros(1, model.sequence, dtype=torch.long)).sum().backward()
    rule.step()
    held = [local(p) for p in wrapped.parameters()]
    gradients = [local(p.grad) for p in wrapped.parameters() if p.grad is not None]
    counts = sum(4 for state in rule.state.values() if "step" in state)
    sizes = [sum(x.numel() * x.element_size() for x in group) for group in (held, gradients)]
    return sizes[0], sizes[1], optimizer_bytes(rule) - counts


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_activations_of_real_training(recompute: Any) -> None:
    """What autograd keeps, but for the angles of GPT's positions and the norms' roots."""
    import torch

    from distlab.train.models import loss_sum

    gpt, tokens = _gpt(recompute, tied=True)
    weights = {p.untyped_storage().data_ptr() for p in gpt.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_sum(gpt(tokens), tokens)
    backward = _predicted(recompute, tied=True).at("loss backward").terms
    predicted = sum(t.bytes for t in backward if t.kind == "activations" or t.name.startswith("softmax"))
    assert predicted == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.03)


@pytest.mark.parametrize(
    ("recompute", "tied", "micro_batches", "fused"),
    [("none", True, 1, True), ("none", False, 3, True), ("full", True, 3, True), ("full", False, 1, False)],
)
def test_peak_of_real_training(recompute: Any, tied: bool, micro_batches: int, fused: bool) -> None:
    """Of a whole step, against torch's own tracker of every tensor."""
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker

    from distlab.train.models import loss_sum

    gpt, tokens = _gpt(recompute, tied)
    rule = torch.optim.AdamW(gpt.parameters(), fused=fused, foreach=not fused)
    tracker = MemTracker()
    tracker.track_external(gpt, rule, tokens)
    with tracker:
        for _ in range(2):  # the optimizer's state is there from the second step on
            for _ in range(micro_batches):
                tracker.reset_mod_stats()
                loss_sum(gpt(tokens), tokens).backward()  # type: ignore[no-untyped-call]
            rule.step()
            rule.zero_grad()
    (measured,) = (tracked["Total"] for tracked in tracker.get_tracker_snapshot("peak").values())
    predicted = _predicted(recompute, tied, micro_batches, fused).peak_bytes
    assert predicted == pytest.approx(measured, rel=0.02)


def _gpt(recompute: str, tied: bool) -> tuple[Any, Any]:
    """A small GPT and tokens for it."""
    import torch

    from distlab.train.gpt import GPT
    from distlab.train.recompute import recompute_activations

    gpt = GPT(vocabulary=300, width=64, layers=3, heads=4, tied=tied)
    recompute_activations(gpt, recompute)
    return gpt, torch.zeros(16, 32, dtype=torch.long)


def _predicted(recompute: Any, tied: bool, micro_batches: int = 1, fused: bool = True) -> TrainingMemory:
    model = Transformer(
        "distlab's", layers=3, hidden=64, heads=4, vocabulary=300, sequence=32,
        tied_embedding=tied, learned_positions=False, biases=False,
    )  # fmt: skip
    layout = Layout(micro_batch=16, global_batch=16 * micro_batches, recompute=recompute)
    on_a_cpu = MemorySettings(precision="fp32", loss="torch", fused_kernels=False, fused_optimizer=fused)
    return training_memory(model, layout, on_a_cpu)
