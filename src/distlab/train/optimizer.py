"""How gradients change weights: the optimizers, what they remember, and the learning rate of every step.

An optimizer's state can be larger than the model. Bytes per parameter in fp32 (`optimizer_bytes` measures
them): SGD 0, with momentum 4; AdamW 8 (mean and mean square of the gradient); adamw_8bit about 2 (both in 8
bits, with a scale for each 256 of them; vectors and small matrices stay in fp32); Adafactor almost 0 (row and
column means of the squares).

Eight bits have a price that losses of a short run do not show. A mean square below some millionths of the
largest in its block is rounded to 0, while the mean of the same gradients, which is as far down by the root of
that, is not. If the next gradient of such a weight is 0 (a ReLU that is off), AdamW divides by its epsilon alone:
the weight takes a step of hundreds of learning rates. It happens to a few weights in a thousand, those that the
loss has hardly asked for; all others stay near AdamW's.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from distlab.errors import SettingError
from distlab.train.config import OptimizerConfig

IMPLEMENTATIONS = {
    "sgd": ("plain", "foreach", "fused"),
    "adamw": ("plain", "foreach", "fused"),
    "adafactor": ("plain", "foreach"),
    "adamw_8bit": ("plain",),
}

NOT_SHARDED = {("sgd", "fused"), ("adafactor", "plain"), ("adafactor", "foreach")}
"""What torch 2.13 cannot do on DTensors, which FSDP and tensor parallelism make of weights."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The configured optimizer for the parameters of `model` that are trained.

    Weight decay pulls matrices towards 0, not the vectors of biases and norms. SettingError where the
    optimizer lacks the implementation, cannot work on sharded weights, or is not installed.
    """
    return _optimizer([p for p in model.parameters() if p.requires_grad], config)


def _optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    _check(parameters, config)
    groups = _groups(parameters, config.weight_decay)
    foreach, fused = config.implementation == "foreach", config.implementation == "fused"
    rate = config.learning_rate
    if config.name == "sgd":
        return SGD(groups, rate, config.momentum, foreach=foreach, fused=fused)
    if config.name == "adamw":
        return AdamW(groups, rate, foreach=foreach, fused=fused)
    if config.name == "adafactor":
        return Adafactor(groups, rate, foreach=foreach)
    try:
        from torchao.optim import AdamW8bit  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise SettingError(
            "optimizer.name is 'adamw_8bit', which needs torchao; install it with `pip install torchao`, "
            "or set it to 'adamw'."
        ) from None
    optimizer: Optimizer = AdamW8bit(groups, rate)
    return optimizer


def _check(parameters: list[nn.Parameter], config: OptimizerConfig) -> None:
    known = IMPLEMENTATIONS[config.name]
    if config.implementation not in known:
        raise SettingError(
            f"optimizer.implementation is {config.implementation!r}, which {config.name} does not have; "
            f"set it to {' or '.join(known)}."
        )
    sharded = any(isinstance(parameter, DTensor) for parameter in parameters)
    if sharded and (config.name, config.implementation) in NOT_SHARDED:
        raise SettingError(
            f"optimizer.name is {config.name!r}, implementation {config.implementation!r}, which torch cannot "
            "do on sharded weights; set them to 'adamw' and 'fused', or to 'sgd' and 'foreach'."
        )


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    matrices = {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay}
    vectors = {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of optimizer step `step` (0 is the first) of a run of `steps`.

    It rises in `warmup_steps` equal steps to `config.learning_rate`, then follows the schedule. A function of
    the number of the step alone: it cannot run faster on more ranks, and there is nothing to save.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.learning_rate * (1 - progress)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: Optimizer | OptimizerInBackward, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's compiled step reads it from there
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_bytes(optimizer: Optimizer | OptimizerInBackward) -> int:
    """Bytes of state that this rank holds; none before the first step."""
    return sum(
        _bytes(value)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def _bytes(tensor: Tensor) -> int:
    """Bytes in this process, also of a tensor made of others: a DTensor's shard, 8-bit codes and their scales."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        inner = [getattr(tensor, name) for name in names]
        return sum(_bytes(part) for part in inner if isinstance(part, Tensor))
    return tensor.numel() * tensor.element_size()


PARTS = ("codes", "scale")
"""What a moment in 8 bits is made of: a code for each value, and the largest of each block of 256."""


def split_8bit(state: dict[str, Any]) -> dict[str, Any]:
    """Optimizer state in plain tensors, which a checkpoint can hold: a moment in 8 bits becomes its PARTS."""
    plain: dict[str, Any] = {}
    for name, value in state.items():
        if _is_8bit(value):
            plain |= {f"{name}.{part}": getattr(value, part) for part in PARTS}
        else:
            plain[name] = value
    return plain


def join_8bit(plain: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What `split_8bit` made plain, in the moments of `own`, an optimizer's state of the same names."""
    joined = {}
    for name, value in own.items():
        if not _is_8bit(value):
            joined[name] = plain[name]
            continue
        for part in PARTS:
            getattr(value, part).copy_(plain[f"{name}.{part}"])
        joined[name] = value
    return joined


def _is_8bit(value: Any) -> bool:
    """Not so where it is sharded: a DTensor of such parts; a block can lie across two ranks in another world."""
    return hasattr(value, "codes") and hasattr(value, "scale")


class OptimizerInBackward:
    """Updates each parameter as soon as its gradient exists, and drops the gradient.

    So only a few gradients are in memory at a time, not the whole model's. The price: a backward pass is a
    step. Set the learning rate before it; gradients cannot be accumulated over several, nor clipped by the
    norm of all, nor averaged over ranks after it.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.optimizers = {p: _optimizer([p], config) for p in model.parameters() if p.requires_grad}
        """One optimizer per parameter; their list is what `get_state_dict` of torch's checkpoints takes."""
        for parameter in self.optimizers:
            parameter.register_post_accumulate_grad_hook(self._update)  # type: ignore[no-untyped-call]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        return {p: state for optimizer in self.optimizers.values() for p, state in optimizer.state.items()}

    def _update(self, parameter: nn.Parameter) -> None:
        optimizer = self.optimizers[parameter]
        optimizer.step()
        optimizer.zero_grad()
