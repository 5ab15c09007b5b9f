"""Which settings each strategy takes: the one table behind its error messages and the book's comparison.

A setting that is not named here works with every strategy. One that is named works, beyond its default, only
where the table says so; `ANY` stands for every value.
"""

from __future__ import annotations

from typing import Any

from distlab.errors import SettingError
from distlab.train.config import TrainConfig

ANY = None
HALF = ("bf16", "fp16")

_COMMON: dict[str, tuple[Any, ...] | None] = {
    "memory.precision": HALF,
    "memory.activation_checkpointing": ANY,
    "data.micro_batches": ANY,
    "optimizer.clip_norm": ANY,
    "optimizer.name": ANY,
    "optimizer.implementation": ANY,
    "compile": ANY,
}

TAKES: dict[str, dict[str, tuple[Any, ...] | None]] = {
    "single": {**_COMMON, "optimizer.in_backward": ANY},
    "ddp": {**_COMMON, "communication.bucket_mb": ANY, "communication.compression": ANY},
    "fsdp": {**_COMMON, "memory.offload": ANY, "memory.reshard": ANY},
    "tensor_parallel": {**_COMMON, "parallel.tensor": ANY},
    "pipeline": {**_COMMON, "parallel.tensor": ANY, "parallel.pipeline": ANY, "parallel.schedule": ANY},
    "deepspeed": {
        **_COMMON,
        "optimizer.name": ("adamw",),  # or sgd: it sees flat pieces, not matrices
        "memory.offload": ANY,
        "memory.zero_stage": ANY,
        "communication.bucket_mb": ANY,
    },
    "horovod": {
        **_COMMON,
        "communication.bucket_mb": ANY,
        "communication.compression": ("fp16",),
        "communication.reduction": ANY,
    },
    # No rank has the gradient of a whole step, whose norm clipping and loss scaling look at.
    "parameter_server": {**_COMMON, "memory.precision": ("bf16",), "optimizer.clip_norm": ()},
    "tensorflow": {"data.micro_batches": ANY},
}

OPTIONAL = sorted({name for takes in TAKES.values() for name in takes})


def check_options(config: TrainConfig) -> None:
    """SettingError for the first setting that the configured strategy does not take."""
    takes = TAKES[config.strategy]
    default = TrainConfig()
    for name in OPTIONAL:
        value = setting(config, name)
        if value == setting(default, name) or _takes(takes, name, value):
            continue
        able = [strategy for strategy, others in TAKES.items() if _takes(others, name, value)]
        raise SettingError(
            f"{name} is {value!r}, which strategy {config.strategy!r} cannot do; set it to "
            f"{setting(default, name)!r}, or choose a strategy that can: {', '.join(able)}."
        )


def setting(config: TrainConfig, name: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _takes(takes: dict[str, tuple[Any, ...] | None], name: str, value: Any) -> bool:
    if name not in takes:
        return False
    allowed = takes[name]
    return allowed is ANY or value in allowed
