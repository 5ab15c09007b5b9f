"""DeepSpeed: data parallelism whose ranks stop keeping the same things twice (ZeRO, in four stages).

Bytes on each of n ranks for P parameters, trained by AdamW in 16 bits with fp32 copies (Rajbhandari et al.,
2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, section 3 and figure 1):

| stage | sharded              | weights | gradients | fp32 copy, moments | travels in a step     |
|-------|----------------------|---------|-----------|--------------------|-----------------------|
| 0     | nothing              | 4 P     | 4 P       | 8 P                | gradients, all-reduce |
| 1     | optimizer state      | 2 P     | 2 P       | 12 P / n           | the same              |
| 2     | ... and gradients    | 2 P     | 2 P / n   | 12 P / n           | the same              |
| 3     | ... and weights      | 2 P / n | 2 P / n   | 12 P / n           | half as much again    |

Stage 0 computes as DDP does, under autocast: its weights are the fp32 ones. Stages 1 to 3 hold 16-bit weights
to compute with, and of the fp32 ones, which the optimizer updates, a rank has its share.

The optimizer is torch's own, as in all strategies, with offload too: there it runs on the CPU. (DeepSpeed's
CPUAdam does the same arithmetic, but a compiler has to build it first. Neither it nor the shared-memory
kernel that DeepSpeed would build for CPUs at start-up, in half a minute, is used here.) An optimizer sees one
flat piece of many parameters, so that only optimizers that treat each number by itself will do.

Measured as communication is the time of each of DeepSpeed's collective calls and of each wait for one. Not on
a GPU in stage 3, which communicates on streams of its own: what it waits there shows as computation.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.mesh import build_mesh
from distlab.train.models import parameter_count
from distlab.train.optimizer import build_optimizer, set_learning_rate
from distlab.train.precision import DTYPES
from distlab.train.strategies.base import Batch, Strategy, Update
from distlab.train.strategies.stopwatch import Stopwatch, stopwatch
from distlab.train.strategies.zero_state import ZeroState

SHARDED = (
    frozenset[str](),
    frozenset({"optimizer"}),
    frozenset({"optimizer", "gradients"}),
    frozenset({"optimizer", "gradients", "weights"}),
)
"""By stage."""

SMALL = 1e-3
"""Stage 3 leaves a parameter whole on every rank if it has less than this part of the model's weights: a
gather of few bytes costs as much time as one of many. DeepSpeed's own limit is 100,000."""


class DeepSpeed(Strategy):
    """ZeRO stages 0 to 3, with optimizer state (and weights, in stage 3) in host memory if offloaded."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.stage = config.memory.zero_stage
        if config.memory.offload and not self.stage:
            raise SettingError(
                "memory.offload is on and memory.zero_stage is 0, which shards nothing that could be offloaded; "
                "set memory.zero_stage to 1, 2 or 3."
            )
        if config.compile and self.stage == 3:
            raise SettingError(
                "compile is on and memory.zero_stage is 3, whose hooks around every layer torch.compile would "
                "compile again and again; set memory.zero_stage to 2 or less, compile to false, or strategy to 'fsdp'."
            )
        self.deepspeed = import_deepspeed(device)
        self.mesh = build_mesh(config, device)
        self.half = (
            DTYPES[config.memory.precision] if self.stage and config.memory.precision != "fp32" else None
        )
        bytes_each = (self.half or torch.float32).itemsize
        self.bucket = max(1, int(config.communication.bucket_mb * 1e6 / bytes_each))
        """Numbers that travel together."""
        self.shards = SHARDED[self.stage]
        # From stage 2 on a rank has no room for whole gradients: they travel after every micro-batch.
        self.accumulates_without_sync = self.stage < 2
        self.gradient_factor = self.data_size  # DeepSpeed averages over ranks; the step follows their sum

    def wrap(self, model: nn.Module) -> nn.Module:
        if self.half is not None:
            model.register_forward_pre_hook(self._cast_inputs)
        optimizer = build_optimizer(model, self.config.optimizer)
        self.zero_state = ZeroState(model, optimizer, self.stage, self.mesh["data"])
        self.engine, *_ = self.deepspeed.initialize(
            model=model, optimizer=optimizer, config=self._engine_config(model), dist_init_required=False
        )
        if self.stage:
            self.zero_state.attach(self.deepspeed, self.engine)
        self.stopwatch = stopwatch(self.device)
        if self.stage < 3 or self.device.type == "cpu":
            _watch(self.deepspeed.comm.comm, self.stopwatch)
        # All that stage 0's engine would do in the forward pass is to switch autocast off.
        module: nn.Module = self.engine if self.stage else self.engine.module
        return module

    def _engine_config(self, model: nn.Module) -> dict[str, Any]:
        """What others write in a `ds_config.json`."""
        memory = self.config.memory
        place = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's reports alone; sampler.py makes the batches
            "gradient_accumulation_steps": self.config.data.micro_batches,
            "gradient_clipping": self.config.optimizer.clip_norm or 0.0,
            "bf16": {"enabled": self.half is torch.bfloat16, "check_grad_overflow": False},
            "fp16": {"enabled": self.half is torch.float16, "loss_scale": 1.0},  # not adapted: see `update`
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": self.bucket,
                "allgather_bucket_size": self.bucket,
                "stage3_prefetch_bucket_size": self.bucket,
                "stage3_param_persistence_threshold": int(SMALL * parameter_count(model)),
                "offload_optimizer": place if memory.offload else None,
                "offload_param": place if memory.offload and self.stage == 3 else None,
            },
            "zero_force_ds_cpu_optimizer": False,
            "zero_allow_untested_optimizer": True,  # plain SGD; the tests of this strategy are its test
            "steps_per_print": None,
        }

    def _cast_inputs(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.to(self.half) if x.is_floating_point() else x for x in inputs)

    def compiled(self) -> Any:
        self.engine.compile()
        return self.model

    def build_optimizer(self) -> Optimizer:
        optimizer: Optimizer = self.engine.optimizer
        return optimizer

    def gradients(self, batch: Batch) -> Tensor:
        self.stopwatch.reset()
        if self.stage:
            self.engine.optimizer.override_loss_scale(self.scale.factor)
        return super().gradients(batch)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.half else super().autocast()

    @contextmanager
    def synchronise(self, last: bool) -> Iterator[None]:
        self.engine.set_gradient_accumulation_boundary(last)
        yield
        if last and not self.stage:
            self.engine.allreduce_gradients(self.bucket)

    def backward(self, loss: Tensor) -> None:
        if not self.stage:
            super().backward(loss)
            return
        # DeepSpeed multiplies by the loss scale itself. And the loss is a part of a mean over all micro-batches
        # already, so that it must not be divided by their number (scale_wrt_gas).
        self.engine.backward(loss / self.scale.factor, scale_wrt_gas=False)

    def update(self, learning_rate: float) -> Update:
        if not self.stage:
            return super().update(learning_rate)
        set_learning_rate(self.optimizer, learning_rate)
        self.engine.step()
        applied = self.engine.was_step_applied()
        norm = float(self.engine.get_global_grad_norm()) if applied else math.inf
        self.scale.observe(norm)
        return Update(norm, applied)

    def communication_s(self) -> float:
        return self.stopwatch.total_s()

    def weights_sum(self) -> float:
        if self.stage < 3:
            return super().weights_sum()
        total = 0.0
        for weights in self.model.parameters():
            with self.deepspeed.zero.GatheredParameters([weights]):
                total += weights.detach().double().sum().item()
        return total

    def state(self) -> dict[str, Any]:
        return self.zero_state.read() if self.stage else super().state()

    def load_state(self, state: dict[str, Any]) -> None:
        if self.stage:
            self.zero_state.write(state)
        else:
            super().load_state(state)


def import_deepspeed(device: torch.device) -> Any:
    """The package, told which device to use, what it can do, and not to compile anything."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise SettingError(
            "strategy is 'deepspeed', which is not installed; install it with `pip install deepspeed==0.19.8`, "
            "or choose another strategy, such as 'fsdp'."
        ) from None
    if device.type == "cpu":
        # It asks for CPUs with fp16 instructions (AVX512-FP16, AMX); torch computes in fp16 on all others, too.
        deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of every optimizer that is not its own
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # names that it calls
    return deepspeed


def _watch(comm: Any, watch: Stopwatch) -> None:
    """Put a stopwatch on what all of DeepSpeed's communication goes through, in place of an earlier one."""
    comm.cdb = _Watched(getattr(comm.cdb, "watched", comm.cdb), watch)


class _Watched:
    """An object whose methods, and the `wait` of what they return, are timed."""

    def __init__(self, watched: Any, watch: Stopwatch) -> None:
        self.watched = watched
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.watched, name)
        return self._timed(attribute) if callable(attribute) else attribute

    def _timed(self, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.watch.start()
            try:
                result = method(*args, **options)
            finally:
                self.watch.stop()
            return _Watched(result, self.watch) if hasattr(result, "wait") else result

        return call
