"""Ways of training one model on the ranks of a process group, a file each."""

from __future__ import annotations

import importlib

import torch

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.strategies.base import Strategy
from distlab.train.strategies.options import check_options

STRATEGIES = {
    "single": "single:Single",
    "ddp": "ddp:DDP",
    "fsdp": "fsdp:FSDP",
    "tensor_parallel": "tensor_parallel:TensorParallel",
    "pipeline": "pipeline:Pipeline",
    "deepspeed": "deepspeed:DeepSpeed",
    "horovod": "horovod:Horovod",
    "parameter_server": "parameter_server:ParameterServer",
}


def build_strategy(config: TrainConfig, device: torch.device) -> Strategy:
    """The configured strategy; its framework is imported only now.

    SettingError where the strategy does not take a setting, or cannot run on these ranks.
    """
    if config.strategy not in STRATEGIES:
        raise SettingError(
            f"strategy is {config.strategy!r}, which does not train in this loop; expected one of "
            f"{', '.join(STRATEGIES)}."
        )
    check_options(config)
    module, name = STRATEGIES[config.strategy].split(":")
    strategy: type[Strategy] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return strategy(config, device)
