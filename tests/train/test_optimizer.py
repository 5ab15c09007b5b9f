from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.testing._internal.distributed.fake_pg import FakeStore

from distlab.errors import SettingError
from distlab.train.config import ModelConfig, OptimizerConfig
from distlab.train.models import build_model, loss_sum, parameter_count
from distlab.train.optimizer import (
    IMPLEMENTATIONS,
    NOT_SHARDED,
    OptimizerInBackward,
    build_optimizer,
    learning_rate,
    optimizer_bytes,
    set_learning_rate,
)

TINY = ModelConfig(kind="gpt", width=16, heads=2, freeze=("blocks.0.attention.k",))
COMBINATIONS = [
    (name, implementation)
    for name, implementations in IMPLEMENTATIONS.items()
    for implementation in implementations
    if name != "adamw_8bit"
]


def _backward(model: nn.Module, seed: int) -> None:
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(seed))
    loss_sum(model(tokens[:, :-1]), tokens[:, 1:]).div(16).backward()


def _train(config: OptimizerConfig, steps: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model(TINY, 0)
    optimizer = build_optimizer(model, config)
    for step in range(steps):
        _backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def _by_hand(name: str, gradients: list[list[torch.Tensor]], config: OptimizerConfig) -> list[torch.Tensor]:
    """The published update rules (Loshchilov and Hutter, 2019, algorithm 2; heavy-ball SGD as torch has it)."""
    model = build_model(TINY, 0)
    parameters = [p.detach().double() for p in model.parameters() if p.requires_grad]
    for p, sequence in zip(parameters, zip(*gradients, strict=True), strict=True):
        decay = config.weight_decay if p.dim() > 1 else 0.0
        mean, square = torch.zeros_like(p), torch.zeros_like(p)
        for t, gradient in enumerate(sequence, start=1):
            g = gradient.double()
            if name == "sgd":
                mean.mul_(config.momentum).add_(g + decay * p)
                p.sub_(config.learning_rate * mean)
            else:
                mean.mul_(0.9).add_(0.1 * g)
                square.mul_(0.999).add_(0.001 * g * g)
                p.mul_(1 - config.learning_rate * decay)
                p.sub_(
                    config.learning_rate * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
                )
    return parameters


@pytest.mark.parametrize(("name", "implementation"), [c for c in COMBINATIONS if c[0] != "adafactor"])
def test_updates_are_the_published_ones(name: Any, implementation: Any) -> None:
    config = OptimizerConfig(name, implementation, learning_rate=0.01, weight_decay=0.1)
    model = build_model(TINY, 0)
    optimizer = build_optimizer(model, config)
    gradients = []
    for step in range(4):
        _backward(model, step)
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
    trained = [p.detach().double() for p in model.parameters() if p.requires_grad]
    for own, reference in zip(trained, _by_hand(name, gradients, config), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "implementation"), COMBINATIONS)
def test_only_matrices_decay_and_frozen_weights_stay(name: Any, implementation: Any) -> None:
    """With gradients of 0 nothing but decay moves a weight."""
    config = OptimizerConfig(name, implementation, learning_rate=0.01, weight_decay=0.5)
    model = build_model(TINY, 0)
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(model, config).step()
    for (parameter_name, own), old in zip(model.named_parameters(), before.parameters(), strict=True):
        decays = own.dim() > 1 and not parameter_name.startswith(TINY.freeze)
        torch.testing.assert_close(own, old * (1 - 0.01 * 0.5) if decays else old, rtol=1e-5, atol=1e-7)


def test_bytes_of_state() -> None:
    """Against what the update rules need to remember: nothing before the first step."""
    model = build_model(TINY, 0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = parameter_count(model)
    counter = 4 * len(parameters)  # AdamW and Adafactor number each parameter's steps
    factors = sum(p.shape[0] + p.shape[1] if p.dim() > 1 else p.numel() for p in parameters)
    expected = {"sgd": 4 * count, "adamw": 8 * count + counter, "adafactor": 4 * factors + counter}
    for name, implementation in COMBINATIONS:
        config = OptimizerConfig(name, implementation)  # type: ignore[arg-type]
        assert optimizer_bytes(build_optimizer(model, config)) == 0
        assert optimizer_bytes(_train(config, steps=1)[1]) == expected[name]
    assert optimizer_bytes(_train(OptimizerConfig("sgd", momentum=0), steps=1)[1]) == 0


@pytest.mark.parametrize(("name", "implementation"), [("adafactor", "fused"), ("adamw_8bit", "foreach")])
def test_implementation_that_does_not_exist(name: Any, implementation: Any) -> None:
    with pytest.raises(SettingError, match=f"is '{implementation}', which {name} does not have; .*plain"):
        build_optimizer(build_model(TINY, 0), OptimizerConfig(name, implementation))


@pytest.fixture
def first_of_two_shards() -> Iterator[nn.Module]:
    """A model of which this process, as rank 0 of 2, holds the upper half of the rows; nothing is sent."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2,))
        model = nn.Linear(16, 8, bias=False)
        shard = DTensor.from_local(model.weight.detach()[:4], mesh, [Shard(0)])
        model.weight = nn.Parameter(shard)
        model.weight.grad = torch.ones_like(shard)
        yield model
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("name", "implementation"), COMBINATIONS)
def test_sharded_weights(first_of_two_shards: nn.Module, name: Any, implementation: Any) -> None:
    config = OptimizerConfig(name, implementation)
    if (name, implementation) not in NOT_SHARDED:
        optimizer = build_optimizer(first_of_two_shards, config)
        optimizer.step()
        assert optimizer_bytes(optimizer) == {"sgd": 4 * 64, "adamw": 8 * 64 + 4}[name]
        return
    with pytest.raises(SettingError, match=f"is '{name}', implementation '{implementation}', .* sharded"):
        build_optimizer(first_of_two_shards, config)
    optimizer = build_optimizer(nn.Linear(1, 1), config)
    optimizer.param_groups[0]["params"] = [first_of_two_shards.weight]
    with pytest.raises((NotImplementedError, RuntimeError)):  # or the table of what cannot be is out of date
        optimizer.step()


def test_8_bit_states_without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(SettingError, match="needs torchao; install it with `pip install torchao`"):
        build_optimizer(build_model(TINY, 0), OptimizerConfig("adamw_8bit", "plain"))


def test_8_bit_states_are_small_and_near() -> None:
    """Without its compiler, which takes a minute for what the same code does uncompiled."""
    pytest.importorskip("torchao", reason="torchao is not installed: `pip install torchao`")
    config = OptimizerConfig("adamw_8bit", "plain", weight_decay=0.1)
    models = [nn.Linear(64, 64, bias=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    plain = OptimizerConfig("adamw", weight_decay=0.1)
    optimizers = [build_optimizer(models[0], config), build_optimizer(models[1], plain)]
    torch.manual_seed(0)
    with torch.compiler.set_stance("force_eager"):
        for step in range(5):
            gradient = torch.randn(64, 64)
            for model, optimizer in zip(models, optimizers, strict=True):
                set_learning_rate(optimizer, 0.01 / (step + 1))
                model.weight.grad = gradient.clone()
                optimizer.step()
    moved = 0.01 * sum(1 / (step + 1) for step in range(5))
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=0, atol=0.1 * moved)
    codes, scales, table, counter = 4096, 4 * 4096 // 256, 4 * 256, 4
    assert optimizer_bytes(optimizers[0]) == 2 * (codes + scales + table) + counter
    assert optimizer_bytes(optimizers[1]) == 2 * 4 * 4096 + counter


def test_a_mean_square_that_is_rounded_to_0_makes_a_long_step() -> None:
    """Why weights in 8 bits leave those of AdamW: one gradient of 1e-5 among many of 1, and then none."""
    pytest.importorskip("torchao", reason="torchao is not installed: `pip install torchao`")
    rate = 0.001
    moved = {}
    for name in ("adamw", "adamw_8bit"):
        model = nn.Linear(64, 64, bias=False)
        optimizer = build_optimizer(model, OptimizerConfig(name, "plain", learning_rate=rate))  # type: ignore[arg-type]
        with torch.compiler.set_stance("force_eager"):
            for rare in (1e-5, 0.0):
                before = model.weight[0, 0].item()
                model.weight.grad = torch.ones(64, 64)
                model.weight.grad[0, 0] = rare
                optimizer.step()
        moved[name] = abs(model.weight[0, 0].item() - before) / rate
    mean = 0.1 * 1e-5 * 0.9 / (1 - 0.9**2)
    assert moved["adamw"] < 1
    assert moved["adamw_8bit"] == pytest.approx(mean / 1e-8, rel=0.3), "epsilon is all that it is divided by"


@pytest.mark.parametrize("warmup", [0, 1, 4, 20])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_are_torchs_own(schedule: Literal["constant", "linear", "cosine"], warmup: int) -> None:
    steps = 20
    config = OptimizerConfig(learning_rate=0.3, schedule=schedule, warmup_steps=warmup)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], config.learning_rate)
    rest = max(1, steps - warmup)
    after: LRScheduler
    if schedule == "constant":
        after = ConstantLR(optimizer, factor=1)
    elif schedule == "linear":
        after = LinearLR(optimizer, 1, 0, total_iters=rest)
    else:
        after = CosineAnnealingLR(optimizer, T_max=rest)
    scheduler = after
    if warmup:
        rise = LinearLR(optimizer, 1 / warmup, 1, total_iters=max(1, warmup - 1))
        scheduler = SequentialLR(optimizer, [rise, after], [warmup])
    for step in range(steps):
        assert learning_rate(config, step, steps) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_schedules_end_at_zero_after_the_last_step() -> None:
    for schedule in ("linear", "cosine"):
        config = OptimizerConfig(learning_rate=0.3, schedule=schedule, warmup_steps=3)  # type: ignore[arg-type]
        assert learning_rate(config, 2, 10) == learning_rate(config, 3, 10) == 0.3
        assert learning_rate(config, 10, 10) == pytest.approx(0, abs=1e-12)
        assert 0 < learning_rate(config, 9, 10) < 0.3
    half = OptimizerConfig(learning_rate=0.3, schedule="cosine")
    assert learning_rate(half, 5, 10) == pytest.approx(0.15)
    assert learning_rate(half, 2, 8) == pytest.approx(0.3 * math.cos(math.pi / 8) ** 2)


@pytest.mark.parametrize(("name", "implementation"), COMBINATIONS)
def test_updates_in_the_backward_pass_are_the_same(name: Any, implementation: Any) -> None:
    config = OptimizerConfig(name, implementation, learning_rate=0.01, weight_decay=0.1)
    reference, ordinary = _train(config)
    model = build_model(TINY, 0)
    optimizer = OptimizerInBackward(model, config)
    for step in range(4):
        _backward(model, step)
        assert all(p.grad is None for p in model.parameters())
    for own, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
    assert optimizer_bytes(optimizer) == optimizer_bytes(ordinary)


def test_updates_in_the_backward_pass_hold_few_gradients() -> None:
    """How many there are whenever one is complete: a gradient at a time, not the model's."""
    alive = []
    model = build_model(TINY, 0)
    for p in model.parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(
                lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
            )
    _backward(model, 0)
    assert max(alive) == len(alive) == len(list(model.parameters())) - 1
    model.zero_grad()
    alive.clear()
    OptimizerInBackward(model, OptimizerConfig())  # its hooks run after those that count
    _backward(model, 0)
    assert max(alive) == 1


def test_learning_rate_of_updates_in_the_backward_pass() -> None:
    model = build_model(TINY, 0)
    optimizer = OptimizerInBackward(model, OptimizerConfig(momentum=0))
    before = [p.clone() for p in model.parameters()]
    set_learning_rate(optimizer, 0.0)
    _backward(model, 0)
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("into", ["ordinary", "in backward"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "adafactor"])
def test_checkpoints_pass_between_updates_after_and_in_the_backward_pass(name: Any, into: str) -> None:
    config = OptimizerConfig(name, learning_rate=0.01, weight_decay=0.1)
    ordinary, optimizer = _train(config)
    in_backward = build_model(TINY, 0)
    its = OptimizerInBackward(in_backward, config)
    for step in range(4):
        _backward(in_backward, step)
    source = (in_backward, list(its.optimizers.values())) if into == "ordinary" else (ordinary, optimizer)
    weights, states = copy.deepcopy(get_state_dict(*source))

    resumed = build_model(TINY, 1)
    new: Any = build_optimizer(resumed, config)
    if into == "in backward":
        new = list(OptimizerInBackward(resumed, config).optimizers.values())
    set_state_dict(resumed, new, model_state_dict=weights, optim_state_dict=states)
    for model in (resumed, ordinary):
        _backward(model, 4)
    optimizer.step()
    if into == "ordinary":
        new.step()
    for own, other in zip(resumed.parameters(), ordinary.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
