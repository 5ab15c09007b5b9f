"""What a rank holds between steps: the weights that its place in the layout gives it, their gradients, the optimizer's.

A rank's part is exact: tensor parallelism cuts each matrix, the pipeline deals out layers, expert parallelism deals
out experts, and ZeRO divides what is left among the ranks that would hold the same (`memory.zero_memory`).

Left out: the count of steps that torch keeps with each weight (4 bytes a tensor), and the padding where ZeRO's
ranks do not divide a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from distlab.errors import SettingError
from distlab.predict.memory import StateBytes, zero_memory
from distlab.predict.transformer import Layout, Transformer

OptimizerName = Literal["adamw", "sgd", "sgd_momentum", "adafactor", "adamw_8bit"]

Precision = Literal["mixed", "mixed_fp32_gradients", "autocast", "fp32", "bf16"]
"""mixed: ZeRO's, weights and gradients in 16 bits beside an fp32 copy of the weights (2 + 2 + 4 + 8 with AdamW).
mixed_fp32_gradients: Megatron-LM's, gradients are added up in fp32. autocast: torch's, weights and gradients in fp32,
and a 16-bit copy of the weights for the products (with `zero_stage` 3: what FSDP gathers). fp32, bf16: all in it."""

Attention = Literal["flash", "scores"]
"""flash: scores never leave the chip (Dao et al., 2022). scores: they are kept, as in Korthikanti et al. (2022)."""

Loss = Literal["in_place", "torch"]
"""in_place: Megatron-LM's, softmax overwrites the fp32 logits. torch: `cross_entropy(logits.float())` keeps both."""

Offload = Literal["none", "optimizer", "all"]
"""optimizer: gradients and optimizer states lie in the host's memory (Ren et al., 2021, ZeRO-Offload). all: the
weights' shards, too (FSDP's CPUOffloadPolicy, ZeRO-Infinity)."""


class Bytes(NamedTuple):
    """Of one value of each kind."""

    parameter: int
    gradient: int
    master: int
    """The fp32 copy of the weight, which the optimizer updates; 0 where the weight itself is in fp32."""
    moment: int
    copy: int
    """Autocast's 16-bit copy of the weight."""
    activation: int


PRECISIONS: dict[Precision, Bytes] = {
    "mixed": Bytes(2, 2, 4, 4, 0, 2),  # Rajbhandari et al., SC'20 (V)
    "mixed_fp32_gradients": Bytes(2, 4, 4, 4, 0, 2),  # Megatron-LM's main_grad; 18 bytes with Adam (R)
    "autocast": Bytes(4, 4, 0, 4, 2, 2),  # Accelerate's estimator, estimate_training_usage (V, 2026-11)
    "fp32": Bytes(4, 4, 0, 4, 0, 4),
    "bf16": Bytes(2, 2, 0, 2, 0, 2),
}

MOMENTS = {"adamw": 2, "sgd": 0, "sgd_momentum": 1}
"""Values that the optimizer remembers of each parameter."""

BLOCK_8BIT, LEAST_8BIT = 256, 4096
"""torchao's AdamW8bit: one fp32 scale for 256 codes of a byte; tensors below 4096 values, or that 256 does not divide,
keep full moments (torchao/optim/adam.py; V, 2026-11)."""


@dataclass(frozen=True)
class MemorySettings:
    """What memory depends on beside model and layout. Settings are global: one for a run, not one for a case."""

    optimizer: OptimizerName = "adamw"
    precision: Precision = "mixed"
    attention: Attention = "flash"
    fused_kernels: bool = True
    """False: torch as it is on a CPU. Norms in several operations keep a tensor more, and attention's result is copied
    into the order of the next product (read off what autograd of torch 2.13 keeps, 2026-11; M)."""
    dropout: bool = False
    """On the scores, after attention, after the MLP and after the embedding: a byte of mask for each value."""
    loss: Loss = "in_place"
    offload: Offload = "none"
    prefetch: int = 1
    """Layers that ZeRO's stage 3 gathers ahead of the one that computes."""
    gradient_buffers: bool = False
    """Gradients have buffers that live from step to step (Megatron-LM, DeepSpeed); torch drops them after a step."""
    bucket_copies: bool = False
    """DDP without `gradient_as_bucket_view`, torch's default: the buckets are a second copy of the gradients."""
    fused_optimizer: bool = True
    """False: torch's `foreach` updates, which make one more copy of the parameters on the way."""
    fragmentation: float = 0.15
    """Of the memory that the allocator reserves, the share that it cannot use. 0.15 is the mean that GMLake could win
    back on eight LLMs (up to 0.33), on A100 80 GB (Guo et al., ASPLOS'24, abstract; S): measure your own, as
    1 - max_memory_allocated / max_memory_reserved."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("optimizer", OptimizerName),
            ("precision", Precision),
            ("attention", Attention),
            ("loss", Loss),
            ("offload", Offload),
        ):
            if getattr(self, name) not in get_args(choices):
                raise SettingError(
                    f"{name} is {getattr(self, name)!r}; it is one of {', '.join(get_args(choices))}."
                )
        if isinstance(self.prefetch, bool) or not isinstance(self.prefetch, int) or self.prefetch < 0:
            raise SettingError(f"prefetch is {self.prefetch!r}; it is a whole number of layers, 0 or more.")
        if isinstance(self.fragmentation, bool) or not 0 <= self.fragmentation < 1:
            raise SettingError(f"fragmentation is {self.fragmentation!r}; it is a share, from 0 to below 1.")

    @property
    def bytes(self) -> Bytes:
        return PRECISIONS[self.precision]

    def autocasts(self, layout: Layout) -> bool:
        """Whether torch casts at each product: then what flows from layer to layer is fp32, and every product keeps a
        16-bit copy of its input (what autograd of torch 2.13 keeps, 2026-11; M). Not where FSDP gathers 16-bit weights.
        """
        return self.precision == "autocast" and layout.zero_stage != 3

    def stream_bytes(self, layout: Layout) -> int:
        """Of a value that flows from layer to layer."""
        return 4 if self.autocasts(layout) else self.bytes.activation

    def norm_bytes(self, layout: Layout) -> int:
        """Of a value that a norm keeps: in several operations it computes in fp32."""
        return self.stream_bytes(layout) if self.fused_kernels else 4

    def agree(self, fused_attention: bool, gradient_bytes: int) -> None:
        """SettingError where a step's time is of another program (`kernels.Kernels`) than its memory."""
        if fused_attention != (self.attention == "flash"):
            raise SettingError(
                f"fused_attention is {fused_attention} with attention {self.attention!r}; fused is flash: make them "
                "agree."
            )
        if self.precision == "fp32":
            raise SettingError(
                "precision is 'fp32'; the step's time is known for 16-bit products: choose another."
            )
        if gradient_bytes != self.bytes.gradient:
            raise SettingError(
                f"gradient_bytes is {gradient_bytes}, but gradients of precision {self.precision!r} have "
                f"{self.bytes.gradient}: make them agree."
            )

    def check(self, layout: Layout) -> None:
        """SettingError where they contradict the layout."""
        if self.optimizer == "adafactor" and layout.zero_stage > 0 and layout.data * layout.context > 1:
            raise SettingError(
                f"zero_stage is {layout.zero_stage} with optimizer adafactor, whose row and column means need whole "
                "matrices; set zero_stage to 0 or take another optimizer."
            )
        if self.offload == "all" and layout.zero_stage != 3:
            raise SettingError(
                f"offload is 'all' with zero_stage {layout.zero_stage}; weights can lie in the host's memory only "
                "where they are gathered layer by layer: set zero_stage to 3, or offload to 'optimizer'."
            )


class Weight(NamedTuple):
    """`copies` tensors of the same shape on a rank; a vector has 0 columns."""

    rows: int
    columns: int
    copies: int

    @property
    def size(self) -> int:
        return self.rows * (self.columns or 1) * self.copies


def layer_weights(model: Transformer, layout: Layout) -> tuple[list[Weight], list[Weight]]:
    """Of one layer on one rank: those that every data-parallel rank holds, and the experts'.

    Column-parallel: queries, keys, values, the MLP's way up. Row-parallel, so that their biases stay whole: the
    projections back (Shoeybi et al., 2019). Norms and router are whole everywhere. A dense model has no experts.
    """
    t, h = layout.tensor, model.hidden
    queries = model.heads * model.head_width // t
    keys = local_key_value_heads(model, layout) * model.head_width
    f, up = model.mlp_width // t, 2 if model.gated else 1
    dense = [Weight(queries, h, 1), Weight(keys, h, 2), Weight(h, queries, 1)]
    dense.append(Weight(h, 0, 4 if model.biases else 2))
    mlp = [Weight(f, h, up), Weight(h, f, 1)]
    if model.biases:
        dense += [Weight(queries, 0, 1), Weight(keys, 0, 2), Weight(h, 0, 1)]
        mlp += [Weight(f, 0, up), Weight(h, 0, 1)]
    if model.experts == 1:
        return dense + mlp, []
    dense.append(Weight(model.experts, h, 1))
    local = model.experts // layout.expert
    return dense, [Weight(rows, columns, copies * local) for rows, columns, copies in mlp]


def embedding_weights(model: Transformer, layout: Layout) -> list[Weight]:
    """On the pipeline's first rank. The vocabulary is split over the tensor-parallel ranks."""
    weights = [_vocabulary(model, layout)]
    if model.learned_positions:
        weights.append(Weight(model.sequence, model.hidden, 1))
    return weights


def output_weights(model: Transformer, layout: Layout) -> list[Weight]:
    """On its last rank. A tied output layer on another rank than the embedding is a copy of it."""
    weights = [Weight(model.hidden, 0, 2 if model.biases else 1)]
    if not model.tied_embedding or layout.pipeline > 1:
        weights.append(_vocabulary(model, layout))
    return weights


def _vocabulary(model: Transformer, layout: Layout) -> Weight:
    return Weight(-(-model.vocabulary // layout.tensor), model.hidden, 1)


def local_key_value_heads(model: Transformer, layout: Layout) -> int:
    """Keys and values of a rank: where there are fewer than ranks, several ranks hold the same."""
    heads, t = model.key_value_heads, layout.tensor
    if heads % t and t % heads:
        raise SettingError(
            f"tensor is {t}, which neither divides kv_heads, {heads}, of {model.name} nor is a multiple of it."
        )
    return max(1, heads // t)


def moment_bytes(weights: list[Weight], size: int, settings: MemorySettings) -> float:
    """What the optimizer remembers of these tensors of `size` values in all, unsharded."""
    each = settings.bytes.moment
    if settings.optimizer == "adafactor":  # means of squares over rows and columns (Shazeer and Stern, 2018)
        return each * sum((w.rows + w.columns) * w.copies for w in weights)
    if settings.optimizer == "adamw_8bit":
        return 2 * sum(w.size * _bytes_8bit(w, each) for w in weights)
    return each * MOMENTS[settings.optimizer] * size


def _bytes_8bit(weight: Weight, full: int) -> float:
    size = weight.size // weight.copies
    return 1 + 4 / BLOCK_8BIT if size >= LEAST_8BIT and size % BLOCK_8BIT == 0 else full


class LayerStates(NamedTuple):
    """Of one layer on one rank, before ZeRO: parameters, and bytes of the optimizer's moments."""

    dense: int
    dense_moments: float
    experts: int
    expert_moments: float


def layer_states(model: Transformer, layout: Layout, settings: MemorySettings) -> LayerStates:
    """The same on every pipeline rank."""
    dense, experts = layer_weights(model, layout)
    dense_size, expert_size = size_of(dense), size_of(experts)
    return LayerStates(
        dense_size,
        moment_bytes(dense, dense_size, settings),
        expert_size,
        moment_bytes(experts, expert_size, settings),
    )


class RankStates(NamedTuple):
    """Parameters (a number) that a rank has a part in, and bytes of what it holds of them."""

    parameters: int
    layer_parameters: int
    """Of one of its layers, whole: what stage 3 gathers."""
    other_parameters: int
    embedding_parameters: int
    """Of the other ones, those whose gradients come last. (A tied matrix has one from the output layer before.)"""
    parameter_bytes: float
    gradient_bytes: float
    master_bytes: float
    moment_bytes: float

    @property
    def total_bytes(self) -> float:
        return self.parameter_bytes + self.gradient_bytes + self.master_bytes + self.moment_bytes


_STATES = {name: StateBytes(e.parameter, e.gradient, e.master) for name, e in PRECISIONS.items()}


def rank_states(
    model: Transformer, layout: Layout, settings: MemorySettings, rank: int, layer: LayerStates | None = None
) -> RankStates:
    """Of pipeline rank `rank`. ZeRO divides over `data` times `context` ranks, which hold the same weights.

    `layer`: `layer_states` of the same model, layout and settings, where the caller has them.
    """
    layers, stage, state = model.layers // layout.pipeline, layout.zero_stage, _STATES[settings.precision]
    layer = layer or layer_states(model, layout, settings)
    other = embedding_weights(model, layout) if rank == 0 else []
    embedding_size = size_of(other)
    if rank == layout.pipeline - 1:
        other += output_weights(model, layout)
        if rank == 0 and model.tied_embedding:
            embedding_size -= other[0].size
    other_size = size_of(other)
    copies = layout.data * layout.context
    held = zero_memory(layers * layer.dense + other_size, copies, stage, state)
    moments = layers * layer.dense_moments + moment_bytes(other, other_size, settings)
    parameter, gradient, master = held.parameter_bytes, held.gradient_bytes, held.optimizer_bytes
    moments /= copies if stage else 1
    if layer.experts:
        copies //= layout.expert
        held = zero_memory(layers * layer.experts, copies, stage, state)
        parameter += held.parameter_bytes
        gradient += held.gradient_bytes
        master += held.optimizer_bytes
        moments += layers * layer.expert_moments / (copies if stage else 1)
    layer_size = layer.dense + layer.experts
    return RankStates(
        layers * layer_size + other_size,
        layer_size,
        other_size,
        embedding_size,
        parameter,
        gradient,
        master,
        moments,
    )


def size_of(weights: list[Weight]) -> int:
    """Parameters of all of them."""
    return sum([rows * (columns or 1) * copies for rows, columns, copies in weights])
