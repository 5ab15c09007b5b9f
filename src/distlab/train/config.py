"""Everything that can be set about a training run, in one tree of frozen dataclasses.

A YAML file has the same names (`configs/fsdp_2gpu.yaml`), and so has the command line
(`distlab train --config configs/fsdp_2gpu.yaml --data.global_batch 64`). Equal configurations describe equal
mathematics at any world size. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distlab import plain_yaml
from distlab.errors import SettingError
from distlab.faults.config import EXAMPLE, MOST, Fault

StrategyName = Literal[
    "single",
    "ddp",
    "fsdp",
    "tensor_parallel",
    "pipeline",
    "deepspeed",
    "horovod",
    "parameter_server",
    "tensorflow",
]

COLLECTIVE_TIMEOUT_S = 300
"""How long a rank of `distlab train` waits in a collective for the others."""

NAME = re.compile(r"\w[\w .+=-]*")
"""A run's name is a folder's, also in a URL."""


@dataclass(frozen=True)
class ModelConfig:
    """What is trained (see train/models.py)."""

    kind: Literal["mlp", "cnn", "gpt"] = "mlp"
    width: int = 512
    """Units of each hidden layer (mlp), channels of the last convolution (cnn), embedding (gpt)."""
    layers: int = 2
    """Transformer blocks (gpt)."""
    heads: int = 4
    """Attention heads (gpt); a head's width, width / heads, is even."""
    dropout: float = 0.0
    """Share of what attention and MLP put out that is dropped in training (gpt)."""
    tied: bool = True
    """Do the token embedding and the last layer share one matrix (gpt)?"""
    freeze: tuple[str, ...] = ()
    """Parameters whose names start with one of these are not trained."""


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on, and how samples make a step (see train/data.py)."""

    source: Literal["digits", "text", "synthetic"] = "digits"
    global_batch: int = 256
    """Samples per optimizer step over all ranks together; the last batch of an epoch is smaller."""
    batching: Literal["shuffled", "by_length", "token_budget"] = "shuffled"
    """by_length: samples of like length share a batch. token_budget: as many as `token_budget` holds."""
    token_budget: int = 8192
    """Tokens of a global batch, padding included, where `batching` is token_budget."""
    micro_batches: int = 1
    """Forward and backward passes per optimizer step (gradient accumulation)."""
    sequence_length: int = 128
    """Longest sample in tokens (text, synthetic sequences)."""
    samples: int = 2048
    """How many the synthetic source has."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change weights (see train/optimizer.py). Schedules count optimizer steps."""

    name: Literal["sgd", "adamw", "adafactor", "adamw_8bit"] = "sgd"
    implementation: Literal["plain", "foreach", "fused"] = "foreach"
    """One kernel per operation and parameter, per operation for many parameters, or one for all of it.

    adamw_8bit has plain alone, adafactor no fused."""
    learning_rate: float = 0.02
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up; linear and cosine end at 0 after the last step."""
    warmup_steps: int = 0
    clip_norm: float | None = None
    """Longest gradient (2-norm over all parameters of the whole model) that is used as it is."""
    in_backward: bool = False
    """Update each parameter as soon as its gradient exists, and drop the gradient."""


@dataclass(frozen=True)
class MemoryConfig:
    """What trades memory for time or precision."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the computation; weights are kept in fp32. fp16 scales the loss."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Recompute in the backward pass nothing, what is cheap to compute, or everything inside a block."""
    offload: bool = False
    """Keep weights and optimizer state in host memory (fsdp, deepspeed)."""
    reshard: bool = True
    """Free the gathered weights between forward and backward (fsdp: ZeRO-3; false is ZeRO-2)."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """What deepspeed shards: nothing, optimizer state, also gradients, also weights."""


@dataclass(frozen=True)
class CommunicationConfig:
    """How gradients travel."""

    bucket_mb: float = 25.0
    """Gradients are averaged in buckets of this many MB of 10^6 bytes."""
    compression: Literal["none", "fp16", "powersgd"] = "none"
    powersgd_rank: int = 2
    reduction: Literal["mean", "adasum"] = "mean"
    """adasum (horovod): what ranks agree on is averaged, what they do not is added."""


@dataclass(frozen=True)
class ParallelConfig:
    """How many ranks share one copy of the model; the others hold further copies (data parallelism)."""

    tensor: int = 1
    pipeline: int = 1
    schedule: Literal["gpipe", "1f1b"] = "1f1b"


@dataclass(frozen=True)
class CheckpointConfig:
    """What is saved and when (see train/checkpoint/)."""

    every_steps: int = 0
    """A checkpoint after every so many optimizer steps and after the last; 0: none."""
    kind: Literal["sharded", "full"] = "sharded"
    asynchronous: bool = False
    incremental: bool = False
    """Do not write again what an earlier checkpoint of the run holds."""
    keep: int = 3
    """So many of the newest are kept."""
    timeout_s: float = 1800.0
    """How long a save may take before the run fails: ranks wait so long for each other, and for one in the background.

    Alone and in the foreground a rank waits for its storage as long as that takes."""


@dataclass(frozen=True)
class LogConfig:
    """What a run leaves behind beside its checkpoints (see train/logs.py)."""

    jsonl: bool = True
    tensorboard: bool = False
    wandb: bool = False
    """Weights & Biases; offline unless WANDB_MODE says otherwise."""
    samples: bool = False
    """Write the ids of the samples of each step, too."""
    price_per_hour: float = 0.0
    """Price of one rank's device for an hour: turns time into cost."""


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    name: str = "run"
    folder: str | None = None
    """Where `<name>/` with logs and checkpoints goes: a path or an fsspec URL (`s3://...`). None: nowhere."""
    strategy: StrategyName = "ddp"
    world_size: int = 2
    """Processes that `distlab train` starts; a launcher's own number is taken as it is."""
    launcher: Literal["torch", "ray"] = "torch"
    """Who starts and watches the processes: torch's elastic agent, or Ray Train."""
    steps: int = 40
    seed: int = 0
    compile: bool = False
    """Let torch.compile make the model faster after a slow start."""
    max_restarts: int = 0
    """How often `distlab train` starts all ranks again after one failed; they resume from `latest`."""
    resume_from_checkpoint: str | None = None
    """`latest`, a name such as `step_20`, or the path of a `step_N.ckpt`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    communication: CommunicationConfig = field(default_factory=CommunicationConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    faults: tuple[Fault, ...] = ()
    """What goes wrong on purpose, such as [{kind: slow, step: 2, rank: 1, seconds: 0.2}] (see faults/config.py)."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = self
            for part in name.split("."):
                value = getattr(value, part)
            most = _MOST.get(name, MOST)
            if not least <= value < most:  # type: ignore[operator]
                raise SettingError(f"{name} is {value}; it must be {least} or more, and below {most}.")
        if self.folder is not None and not self.folder.strip():
            raise SettingError(
                f"folder is {self.folder!r}; expected a path such as 'runs', or null for none."
            )
        whole = ("single", "ddp", "horovod")
        if self.optimizer.name == "adamw_8bit" and self.checkpoint.every_steps and self.strategy not in whole:
            raise SettingError(
                f"optimizer.name is 'adamw_8bit', whose state strategy {self.strategy!r} cannot save in parts; set "
                f"checkpoint.every_steps to 0, name to 'adamw', or strategy to {' or '.join(whole)}."
            )
        if self.optimizer.clip_norm is not None and not self.optimizer.clip_norm > 0:
            raise SettingError(
                f"optimizer.clip_norm is {self.optimizer.clip_norm}; it must be more than 0, or null."
            )
        if not self.model.dropout < 1:
            raise SettingError(f"model.dropout is {self.model.dropout}; it must be less than 1.")
        model, data = self.model, self.data
        if model.dropout and model.kind != "gpt":
            raise SettingError(
                f"model.dropout is {model.dropout} and model.kind is {model.kind!r}, which drops nothing; set dropout "
                "to 0, or kind to 'gpt'."
            )
        if data.source == ("digits" if model.kind == "gpt" else "text"):
            raise SettingError(
                f"model.kind is {model.kind!r} and data.source is {data.source!r}; a gpt reads 'text' or "
                "'synthetic', mlp and cnn read 'digits' or 'synthetic'."
            )
        if model.kind == "gpt" and model.width % (2 * model.heads):
            raise SettingError(
                f"model.width is {model.width}; it must be a multiple of twice model.heads, {2 * model.heads}."
            )
        if not NAME.fullmatch(self.name):
            raise SettingError(f"name is {self.name!r}; it must be a folder's name, such as 'fsdp_2gpu'.")
        if self.max_restarts and not self.checkpoint.every_steps:
            raise SettingError(
                f"max_restarts is {self.max_restarts} but checkpoint.every_steps is 0, so that there is nothing to "
                "start again from; set it, such as to 10."
            )
        if self.checkpoint.every_steps and self.folder is None:
            raise SettingError("checkpoint.every_steps is set but folder is not; set folder, such as 'runs'.")

    @property
    def run_folder(self) -> str | None:
        """`<folder>/<name>`, where this run's logs and checkpoints lie."""
        if self.folder is None:
            return None
        folder = self.folder if "://" in self.folder else os.path.expanduser(self.folder)
        return f"{folder.rstrip('/')}/{self.name}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as `from_dict` reads it."""
        return asdict(self)


_MOST = {"world_size": 2**12, "model.layers": 2**12, "data.micro_batches": 2**16}
"""Of each of these something is made before any other limit of the machine is met."""

_LEAST = {
    "world_size": 1,
    "steps": 1,
    "max_restarts": 0,
    "seed": 0,
    "model.width": 1,
    "model.layers": 1,
    "model.heads": 1,
    "model.dropout": 0,
    "data.global_batch": 1,
    "data.token_budget": 1,
    "data.micro_batches": 1,
    "data.sequence_length": 2,
    "data.samples": 1,
    "optimizer.learning_rate": 0,
    "optimizer.momentum": 0,
    "optimizer.weight_decay": 0,
    "optimizer.warmup_steps": 0,
    "communication.bucket_mb": 0,
    "communication.powersgd_rank": 1,
    "parallel.tensor": 1,
    "parallel.pipeline": 1,
    "checkpoint.every_steps": 0,
    "checkpoint.keep": 1,
    "checkpoint.timeout_s": 1,
    "log.price_per_hour": 0,
}


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The configuration that `values` (as YAML holds it) describes.

    SettingError names the first key that is not known, with the nearest that is, or the first wrong value.
    """
    import pydantic

    for where, name, known in _unknown(values):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {where}{near[0]}?" if near else f"known there: {', '.join(known)}."
        raise SettingError(f"There is no setting {where}{name}; {hint}")
    try:
        return pydantic.TypeAdapter(TrainConfig).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if isinstance(cause := first.get("ctx", {}).get("error"), SettingError):
            raise cause from None
        wrong = f"{where} is {reprlib.repr(first['input'])}: {_lower(first['msg']).replace('tuple', 'list')}"
        if where.startswith("faults"):
            wrong += f"; faults is a list such as [{EXAMPLE}]"
        raise SettingError(f"{wrong}.") from None


def from_yaml(path: Path) -> TrainConfig:
    """The configuration in a YAML file; a relative `folder` in it starts at the current directory."""
    import yaml

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), plain_yaml.loader())
    except OSError as error:
        raise SettingError(f"Cannot read {path}: {os.strerror(error.errno or 0)}.") from None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        where = f" at line {at.line + 1}, column {at.column + 1}" if at else ""
        raise SettingError(f"{path} is not YAML that can be read{where}: {error.problem}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, no number, no date
        raise SettingError(f"{path} is not YAML that can be read: {reprlib.repr(str(error))}") from None
    if not isinstance(values, dict):
        raise SettingError(
            f"{path} holds {reprlib.repr(values)}; expected settings, one `name: value` a line."
        )
    return from_dict(values)


def _unknown(values: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Each key that is not a setting: where it stands, its name, and the names known there."""
    known = TrainConfig().as_dict()
    for name, value in values.items():
        if name not in known:
            yield "", str(name), list(known)
        elif isinstance(known[name], dict) and isinstance(value, dict):
            yield from ((f"{name}.", str(key), list(known[name])) for key in value if key not in known[name])


def _lower(message: str) -> str:
    return message[0].lower() + message[1:]
