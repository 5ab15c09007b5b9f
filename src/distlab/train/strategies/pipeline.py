"""Pipeline parallelism with torch.distributed.pipelining: each stage of a GPT's layers on ranks of its own.

A step's samples are cut into micro-batches that follow each other through the stages: while stage 1 computes
the second, stage 2 computes the first. Only activations travel, and their gradients back. The price is the
*bubble*: with p stages and m micro-batches, a stage is idle for (p - 1) of (m + p - 1) turns, however fast the
links are. Two schedules with the same bubble (`parallel.schedule`):

- `gpipe`: all micro-batches forward, then all backward. A stage keeps the activations of all m (Huang et al.,
  2019, GPipe).
- `1f1b`: after a warm-up, one forward, one backward in turn. A stage keeps those of p at most (Narayanan et
  al., 2019, PipeDream; 2021, Megatron-LM, section 2.2).

The stages are cut by block, and parameters keep their names, so that a checkpoint fits every other strategy.
Embedding and head may share one matrix: then the first and the last stage both hold it, add their gradients,
and take the same step. Data and tensor parallelism join in over the same mesh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.distributed.tensor import DTensor

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.gpt import GPT
from distlab.train.mesh import build_mesh, local, sum_gradients
from distlab.train.models import IGNORED, VOCABULARY, loss_sum
from distlab.train.strategies.base import Batch, Strategy, Sums, count_right
from distlab.train.strategies.stopwatch import stopwatch
from distlab.train.strategies.tensor_parallel import check_divisible, same_random_numbers, split_layers

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
EMBEDDING, HEAD = "embedding.weight", "head.weight"


class Pipeline(Strategy):
    """Every rank of the mesh's `pipeline` axis holds one stage: some consecutive blocks of a GPT."""

    shards = frozenset({"weights", "gradients", "optimizer"})

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        check_stages(config)
        check_divisible(config)
        self.mesh = build_mesh(config, device)
        self.data_size, self.data_rank = self.mesh["data"].size(), self.mesh.get_local_rank("data")
        self.stages, self.stage = config.parallel.pipeline, self.mesh.get_local_rank("pipeline")
        self.is_first, self.is_last = self.stage == 0, self.stage == self.stages - 1
        self.stopwatch = stopwatch(device)
        self._schedule: tuple[torch.Size, PipelineScheduleSingle] | None = None

    def wrap(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, GPT)
        tied = model.head.weight is model.embedding.weight
        check_trainable(model, self.stages)
        cut(model, self.stage, self.stages)
        model.to(self.device)
        if self.config.parallel.tensor > 1:
            split_layers(model, self.mesh["tensor"], None if self.config.compile else self.stopwatch)
        self.tied: nn.Parameter | None = None
        """The matrix that first and last stage both hold; None elsewhere."""
        if tied:
            ends = [column[[0, -1]].tolist() for column in self.mesh.mesh.flatten(1).T]
            self.ends, _ = dist.new_subgroups_by_enumeration(ends)  # type: ignore[no-untyped-call]
            if self.is_first or self.is_last:
                self.tied = (model.embedding if self.is_first else model.head).get_parameter("weight")
        return model

    def gradients(self, batch: Batch) -> Tensor:
        if self.config.parallel.tensor > 1 and self.config.model.dropout > 0:
            same_random_numbers(self.mesh, self.device)
        self.loss_factor = self.scale.factor / batch.global_tokens
        inputs, targets = join(batch.micro_batches, self.config.data.micro_batches)
        losses: list[Tensor] = []
        self.stopwatch.reset()
        schedule = self._schedule_for(inputs)
        self.stopwatch.start()
        schedule.step(*self._given(inputs), target=targets, losses=losses, return_outputs=False)
        if self.tied is not None and self.tied.grad is not None:
            dist.all_reduce(local(self.tied.grad), group=self.ends)
        sum_gradients(self.model, self.mesh, "data")
        self.stopwatch.stop()
        # The loss is known to the last stage, and to all its ranks of the tensor axis: one of them counts it.
        if self.is_last and self.mesh.get_local_rank("tensor") == 0:
            return torch.stack(losses).detach().sum() / self.scale.factor
        return torch.zeros((), device=self.device)

    def communication_s(self) -> float:
        """All time of a step in which this stage did not compute: the bubble and the transfers."""
        return self.stopwatch.total_s()

    def total_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """The root of the sum of all stages' squares; the matrix that two stages hold counts once."""
        counted = [g for g in gradients if self.is_first or self.tied is None or g is not self.tied.grad]
        squares = super().total_norm(counted).to(self.device) ** 2
        dist.all_reduce(squares, group=self.mesh.get_group("pipeline"))
        return squares.sqrt()

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Sums:
        inputs, targets = join([(inputs, targets)], self.config.data.micro_batches)
        self.loss_factor = 1.0
        self.model.eval()
        with torch.no_grad():
            outputs = self._schedule_for(inputs).eval(*self._given(inputs), target=targets, losses=[])
        self.model.train()
        sums = count_right(outputs, targets) if self.is_last else Sums(0.0, 0, 0)
        answer = torch.tensor([sums.loss, sums.right, sums.tokens], dtype=torch.float64, device=self.device)
        dist.broadcast(answer, group=self.mesh.get_group("pipeline"), group_src=self.stages - 1)
        loss, right, tokens = answer.tolist()
        return Sums(loss, int(right), int(tokens))

    def weights_sum(self) -> float:
        copy = self.tied if self.is_last else None
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for weights in self.model.parameters():
            if weights is not copy:
                part = weights.detach().double().sum()
                total += part.full_tensor() if isinstance(part, DTensor) else part
        dist.all_reduce(total, group=self.mesh.get_group("pipeline"))
        return total.item()

    def state(self) -> dict[str, Any]:
        state = super().state()
        return state | {"optimizer": self._renamed(state["optimizer"], HEAD, EMBEDDING)}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state | {"optimizer": self._renamed(state["optimizer"], EMBEDDING, HEAD)})

    def _renamed(self, optimizer: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
        """Optimizer state, where a tied matrix goes by the embedding's name, also on the stage of the head."""
        if not self.is_last or self.tied is None:
            return dict(optimizer)
        return {name.replace(f".{old}.", f".{new}."): value for name, value in optimizer.items()}

    def _given(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What the schedule takes from outside: the first stage reads tokens, the others what they are sent."""
        return (inputs,) if self.is_first else ()

    def _schedule_for(self, inputs: Tensor) -> PipelineScheduleSingle:
        """A schedule for this shape, as a stage allocates beforehand what it receives into; kept for the next."""
        if self._schedule is None or self._schedule[0] != inputs.shape:
            self._schedule = inputs.shape, self._new_schedule(inputs)
        return self._schedule[1]

    def _new_schedule(self, inputs: Tensor) -> PipelineScheduleSingle:
        micro_batches = self.config.data.micro_batches
        rows, length = len(inputs) // micro_batches, inputs.shape[1]
        tokens = torch.empty(rows, length, dtype=torch.int64, device="meta")
        x_BLD = torch.empty(rows, length, self.config.model.width, device="meta", requires_grad=True)  # noqa: N806
        logits = torch.empty(rows, length, VOCABULARY, device="meta", requires_grad=True)
        stage = Stage(
            self.forward,
            self.stage,
            self.stages,
            self.device,
            input_args=tokens if self.is_first else x_BLD,
            output_args=logits if self.is_last else x_BLD,
            group=self.mesh.get_group("pipeline"),
        )
        stage.strategy = self
        schedule = SCHEDULES[self.config.parallel.schedule]
        return schedule(stage, micro_batches, loss_fn=self._loss, scale_grads=False)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss_sum(logits, targets) * self.loss_factor


class Stage(PipelineStage):
    """A stage that computes in the configured precision, and stops the watch while it computes."""

    strategy: Pipeline

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        self.strategy.stopwatch.stop()
        with self.strategy.autocast():
            output = super().forward_one_chunk(*args, **kwargs)
        self.strategy.stopwatch.start()
        return output

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        self.strategy.stopwatch.stop()
        super().backward_one_chunk(*args, **kwargs)
        self.strategy.stopwatch.start()


def check_stages(config: TrainConfig) -> None:
    """SettingError for what cannot be cut into the configured stages."""
    stages, layers, micro_batches = config.parallel.pipeline, config.model.layers, config.data.micro_batches
    if stages == 1:
        raise SettingError(
            "parallel.pipeline is 1, which leaves strategy 'pipeline' nothing to cut; set it to 2 or more, or "
            "strategy to 'ddp'."
        )
    if config.model.kind != "gpt":
        raise SettingError(
            f"model.kind is {config.model.kind!r}; strategy 'pipeline' cuts a 'gpt' between its blocks."
        )
    if layers < stages:
        raise SettingError(
            f"model.layers is {layers}; it must be {stages} or more, a block for each stage of "
            "parallel.pipeline."
        )
    if config.parallel.schedule == "1f1b" and micro_batches < stages:
        raise SettingError(
            f"data.micro_batches is {micro_batches}; schedule '1f1b' needs at least as many as "
            f"parallel.pipeline, {stages} (better several times that), or set parallel.schedule to 'gpipe'."
        )


def parts_of(model: GPT, stage: int, stages: int) -> dict[str, nn.Module]:
    """What a stage holds, by name. All stages have as many blocks as the others, or one more."""
    layers = len(model.blocks)
    parts: dict[str, nn.Module] = {"embedding": model.embedding} if stage == 0 else {}
    for i in range(layers * stage // stages, layers * (stage + 1) // stages):
        parts[f"blocks.{i}"] = model.blocks[str(i)]
    return parts | ({"norm": model.norm, "head": model.head} if stage == stages - 1 else {})


def check_trainable(model: GPT, stages: int) -> None:
    """SettingError if a stage would have nothing to train."""
    for stage in range(stages):
        parts = parts_of(model, stage, stages)
        if not any(p.requires_grad for part in parts.values() for p in part.parameters()):
            raise SettingError(
                f"model.freeze leaves stage {stage} of the pipeline nothing to train, which holds "
                f"{', '.join(parts)}; freeze less, or set parallel.pipeline to less than {stages}."
            )


def cut(model: GPT, stage: int, stages: int) -> None:
    """Take away what other stages hold, in place. What stays keeps its names."""
    parts = parts_of(model, stage, stages)
    for name in list(model.blocks):
        if f"blocks.{name}" not in parts:
            del model.blocks[name]
    for name in ("embedding", "norm", "head"):
        if name not in parts:
            setattr(model, name, nn.Identity())


def join(micro_batches: Sequence[tuple[Tensor, Tensor]], parts: int) -> tuple[Tensor, Tensor]:
    """All samples as one batch (rows, longest), whose rows divide into `parts` equal micro-batches.

    All micro-batches of a step must have one shape, because a stage must know what it will receive. Which
    sample is in which one is of no account to the sum of losses; what is padded is IGNORED. Batching by
    length keeps the padding small.
    """
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    padded = max(1, -(-rows // parts)) * parts
    length = max(inputs.shape[1] for inputs, _ in micro_batches)
    inputs = micro_batches[0][0].new_zeros(padded, length)
    targets = micro_batches[0][1].new_full((padded, length), IGNORED)
    row = 0
    for some_inputs, some_targets in micro_batches:
        here = slice(row, row + len(some_inputs)), slice(some_inputs.shape[1])
        inputs[here], targets[here] = some_inputs, some_targets
        row += len(some_inputs)
    return inputs, targets
