"""Predicted memory against what distlab.train's GPT really holds on a CPU. (The other tests of this wing need no torch.)"""

from __future__ import annotations

from typing import Any

import pytest

from distlab.predict.states import MemorySettings, RankStates, rank_states
from distlab.predict.training_memory import training_memory
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
    """What autograd keeps of distlab.train's GPT on a CPU, but for the angles of its positions and the norms' roots."""
    import torch

    from distlab.train.gpt import GPT
    from distlab.train.models import loss_sum
    from distlab.train.recompute import recompute_activations

    gpt = GPT(vocabulary=300, width=64, layers=3, heads=4)
    recompute_activations(gpt, recompute)
    weights = {p.untyped_storage().data_ptr() for p in gpt.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.zeros(16, 32, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_sum(gpt(tokens), tokens)
    model = Transformer(
        "distlab's", layers=3, hidden=64, heads=4, vocabulary=300, sequence=32,
        learned_positions=False, biases=False,
    )  # fmt: skip
    memory = training_memory(
        model,
        Layout(micro_batch=16, global_batch=16, recompute=recompute),
        MemorySettings(precision="fp32", loss="torch", fused_kernels=False),
    )
    backward = memory.at("loss backward").terms
    predicted = sum(t.bytes for t in backward if t.kind == "activations" or t.name.startswith("softmax"))
    assert predicted == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.03)
