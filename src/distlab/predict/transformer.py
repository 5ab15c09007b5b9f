"""A decoder-only transformer as numbers, and how its training is laid out over GPUs: what memory and step time need.

    gpt = Transformer("GPT-175B", layers=96, hidden=12288, heads=96, vocabulary=51200, sequence=2048)
    layout = Layout(tensor=8, pipeline=8, interleave=3, micro_batch=1, global_batch=64, recompute="full")
    layout.check(gpt)                    # SettingError where it cannot be
    gpt.parameters, layout.gpus, layout.micro_batches

Symbols as in Narayanan et al. (SC'21): s `sequence`, h `hidden`, a `heads`, l `layers`, V `vocabulary`,
b `micro_batch`, B `global_batch`, t `tensor`, p `pipeline`, d `data`, m `micro_batches`, v `interleave`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distlab.errors import SettingError

Recompute = Literal["none", "selective", "full"]
"""none: all activations are kept. selective: attention scores are computed again (Korthikanti et al., 2022). full: only
each layer's input is kept."""

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble"]

ZeroStage = Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class Transformer:
    """The model. Fields that are None follow from others."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    sequence: int
    """Tokens of a sample."""
    kv_heads: int | None = None
    """Grouped-query attention has fewer keys and values than heads; None: as many."""
    feed_forward: int | None = None
    """Width of the MLP (of one expert); None: 4 hidden."""
    gated: bool = False
    """SwiGLU: three matrices in the MLP in place of two."""
    experts: int = 1
    """Of each layer's MLP; 1 is a dense model."""
    active_experts: int = 1
    """How many of them a token visits."""
    tied_embedding: bool = True
    """The output layer is the embedding's transpose."""
    learned_positions: bool = True
    """A parameter for each position (GPT); False: rotary ones, which have none."""
    biases: bool = True
    head_size: int | None = None
    """None: hidden / heads."""

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "vocabulary", "sequence", "experts", "active_experts"):
            _at_least_one(name, getattr(self, name))
        for name in ("kv_heads", "feed_forward", "head_size"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if self.head_size is None and self.hidden % self.heads:
            raise SettingError(
                f"heads is {self.heads}, which does not divide hidden, {self.hidden}; choose one that does, or give "
                "head_size."
            )
        if self.heads % self.key_value_heads:
            raise SettingError(f"kv_heads is {self.kv_heads}, which does not divide heads, {self.heads}.")
        if self.active_experts > self.experts:
            raise SettingError(
                f"active_experts is {self.active_experts}, more than experts, {self.experts}; it is at most that."
            )

    @property
    def key_value_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads if self.head_size is None else self.head_size

    @property
    def mlp_width(self) -> int:
        return 4 * self.hidden if self.feed_forward is None else self.feed_forward

    @property
    def attention_parameters(self) -> int:
        """Of one layer: queries, keys, values and the projection back."""
        queries = self.heads * self.head_width
        keys_values = 2 * self.key_value_heads * self.head_width
        weights = self.hidden * (queries + keys_values) + queries * self.hidden
        return weights + (queries + keys_values + self.hidden if self.biases else 0)

    @property
    def expert_parameters(self) -> int:
        """Of one expert of one layer; of a dense model, its MLP."""
        matrices = 3 if self.gated else 2
        biases = (matrices - 1) * self.mlp_width + self.hidden if self.biases else 0
        return matrices * self.hidden * self.mlp_width + biases

    @property
    def router_parameters(self) -> int:
        """Of one layer; none in a dense model."""
        return self.hidden * self.experts if self.experts > 1 else 0

    @property
    def norm_parameters(self) -> int:
        """Of one layer: two norms, with a bias each where the model has biases."""
        return 2 * self.hidden * (2 if self.biases else 1)

    @property
    def layer_parameters(self) -> int:
        """Of one layer with all its experts."""
        mlp = self.experts * self.expert_parameters + self.router_parameters
        return self.attention_parameters + mlp + self.norm_parameters

    @property
    def embedding_parameters(self) -> int:
        """Of the token embedding and the positions."""
        return self.hidden * (self.vocabulary + (self.sequence if self.learned_positions else 0))

    @property
    def output_parameters(self) -> int:
        """Of the final norm, and of the output layer where it is not the embedding's."""
        norm = self.hidden * (2 if self.biases else 1)
        return norm + (0 if self.tied_embedding else self.hidden * self.vocabulary)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer_parameters + self.embedding_parameters + self.output_parameters

    @property
    def active_parameters(self) -> int:
        """Those that a token meets: with the active experts alone."""
        idle = self.layers * (self.experts - self.active_experts) * self.expert_parameters
        return self.parameters - idle


@dataclass(frozen=True)
class Layout:
    """How training is spread over GPUs, and how a step is cut."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    """Ranks that share a sample's tokens, in all layers (ring attention)."""
    expert: int = 1
    """Ranks, among the data-parallel ones, that share the experts of a layer."""
    sequence_parallel: bool = False
    """Norms and dropouts are split over the tensor-parallel ranks, too (Korthikanti et al., 2022)."""
    interleave: int = 1
    """Chunks of layers on a pipeline stage."""
    schedule: Schedule = "1f1b"
    micro_batch: int = 1
    """Samples of a micro-batch."""
    global_batch: int = 1
    """Samples of a step, over all ranks."""
    recompute: Recompute = "none"
    zero_stage: ZeroStage = 0
    """Over the data-parallel ranks: what they share of optimizer states (1), gradients (2), parameters (3)."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if (
                type(value) is not int or value < 1
            ):  # a search comes by a million times: no call where all is well
                _at_least_one(name, value)
        if self.zero_stage not in range(4):
            raise SettingError(f"zero_stage is {self.zero_stage}; it is 0, 1, 2 or 3.")
        if self.global_batch % (self.data * self.micro_batch):
            raise SettingError(
                f"global_batch is {self.global_batch}, which data times micro_batch, {self.data} x {self.micro_batch}, "
                "does not divide; choose a multiple."
            )
        if self.data % self.expert:
            raise SettingError(f"expert is {self.expert}, which does not divide data, {self.data}.")
        if self.interleave > 1 and self.pipeline == 1:
            raise SettingError(f"interleave is {self.interleave} without a pipeline; set pipeline above 1.")

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def micro_batches(self) -> int:
        """That each pipeline works through in a step."""
        return self.global_batch // (self.data * self.micro_batch)

    def check(self, model: Transformer) -> None:
        """SettingError where the model cannot be cut so."""
        for name, parts, what, whole in (
            ("tensor", self.tensor, "heads", model.heads),
            ("tensor", self.tensor, "feed_forward, the MLP's width", model.mlp_width),
            ("context", self.context, "sequence", model.sequence),
            ("expert", self.expert, "experts", model.experts),
            ("pipeline times interleave", self.pipeline * self.interleave, "layers", model.layers),
        ):
            if whole % parts:
                raise SettingError(
                    f"{name} is {parts}, which does not divide {what}, {whole}, of {model.name}."
                )
        if self.interleave > 1 and self.micro_batches % self.pipeline:
            raise SettingError(
                f"micro_batches is {self.micro_batches}, which pipeline {self.pipeline} does not divide; with "
                f"interleave {self.interleave} it must (Megatron-LM's rule): choose another global_batch or interleave."
            )
        if self.sequence_parallel and model.sequence % self.tensor:
            raise SettingError(
                f"tensor is {self.tensor}, which does not divide sequence, {model.sequence}; sequence_parallel "
                "needs it."
            )


_COUNTS = ("data", "tensor", "pipeline", "context", "expert", "interleave", "micro_batch", "global_batch")


def _at_least_one(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(f"{name} is {value!r}; it must be a whole number of at least 1.")
