"""The summands of a training step's memory on one rank, each with a sentence on how it comes about.

Working buffers (kinds `buffers` and `loss`, but for what is kept of the loss) are derived here (C), from what each
operation must hold at once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from distlab.predict.activations import (
    InFlight,
    LayerActivations,
    stream_values,
    tokens,
    weight_gradient_bytes,
)
from distlab.predict.states import MemorySettings, RankStates, local_key_value_heads
from distlab.predict.transformer import Layout, Transformer

Kind = Literal["states", "activations", "loss", "buffers"]


class Term(NamedTuple):
    """One summand, in words that say how it comes about."""

    name: str
    kind: Kind
    bytes: float
    why: str


Terms = tuple[Term, ...]

GATHERED_LAYERS, COPIED_LAYER = "gathered layers", "16-bit copies of a layer's weights"
OF_A_LAYER_AT_WORK = frozenset({GATHERED_LAYERS, COPIED_LAYER})
"""Names of terms that are there while a layer computes, and not beside the loss."""

_ZERO_WHY = {
    0: "whole on every data-parallel rank",
    1: "ZeRO 1 shares out the optimizer's states alone",
    2: "ZeRO 2 shares out optimizer's states and gradients",
    3: "ZeRO 3 shares out all: a shard of each",
}


def state_terms(layout: Layout, settings: MemorySettings, held: RankStates) -> tuple[Terms, Terms, Terms]:
    """What is held all through a step, the gradients, and what lies in the host's memory."""
    why = _ZERO_WHY[layout.zero_stage]
    parameters = Term("parameters", "states", held.parameter_bytes, why)
    gradients = Term("gradients", "states", held.gradient_bytes, why)
    optimizer = (
        Term("fp32 copy of the parameters", "states", held.master_bytes, why),
        Term("optimizer's moments", "states", held.moment_bytes, why),
    )
    if settings.offload == "all":
        return (), (), (parameters, gradients, *optimizer)
    if settings.offload == "optimizer":
        return (parameters,), (), (gradients, *optimizer)
    copies: Terms = ()
    if settings.bucket_copies and layout.zero_stage == 0:
        copies = (
            Term("buckets", "buffers", held.gradient_bytes, "DDP's own copy of what it sums over the ranks"),
        )
    return (parameters, *optimizer, *copies), (gradients,), ()


def whole_terms(
    layout: Layout, settings: MemorySettings, held: RankStates, layers: int
) -> tuple[Terms, Terms]:
    """Weights made whole to compute with, and gradients that are whole until they are shared out or sent to the host.

    A unit of stage 3 is a layer; the rest (embedding, output layer) is one more, whole from the forward pass to the end
    of the backward pass, as with FSDP's root. Each is in the precision of the products. Beside a layer's gradients
    FSDP has their fp32 copy that is summed, where the shards are in fp32.
    """
    e = settings.bytes
    copies = layout.data * layout.context
    weights: Terms = ()
    gradients: Terms = ()
    if layout.zero_stage == 3 and (copies > 1 or e.copy or settings.offload == "all"):
        whole = held.layer_parameters * min(layers, 1 + settings.prefetch)
        rest = held.other_parameters * e.activation
        weights = (
            Term(
                GATHERED_LAYERS,
                "buffers",
                whole * e.activation,
                "the layer at work, and those gathered ahead",
            ),
            Term(
                "gathered rest", "buffers", rest, "embedding and output layer, kept from forward to backward"
            ),
        )
        gradients = (Term("whole gradients of the rest", "buffers", rest, "until the backward pass ends"),)
    elif e.copy:
        again = (
            layout.recompute == "full"
        )  # then a layer's products are done, and their copies made, once more
        copied = held.other_parameters if again else held.parameters
        weights = (
            Term(
                "16-bit copies of the weights", "buffers", e.copy * copied, "autocast's, until backward ends"
            ),
            Term(COPIED_LAYER, "buffers", e.copy * held.layer_parameters if again else 0, "the one at work"),
        )
    if (layout.zero_stage >= 2 and copies > 1) or settings.offload != "none":
        each = e.activation + (e.gradient if e.gradient > e.activation and e.copy else 0)
        whole = held.layer_parameters * each
        gradients += (
            Term("whole gradients of a layer", "buffers", whole, "until they are summed and shared out"),
        )
    return weights, gradients


def activation_terms(layout: Layout, layer: LayerActivations) -> Terms:
    """What one layer keeps of one micro-batch for its backward pass."""
    inputs = Term("layer inputs", "activations", layer.inputs, "micro-batches in flight, times layers")
    if layout.recompute == "full":
        return (inputs,)
    terms = (
        inputs,
        Term("norms", "activations", layer.norms, "results of both norms, input of the second"),
        Term("attention", "activations", layer.attention, "queries, keys, values and the result"),
        Term("MLP", "activations", layer.mlp, "before and after the nonlinearity"),
        Term("dropout masks", "activations", layer.masks, "a byte for each value"),
        Term("routing", "activations", layer.routing, "tokens to and from their experts"),
    )
    if layout.recompute == "selective":
        return terms
    return (
        *terms,
        Term("attention scores", "activations", layer.scores, "a value for each pair of tokens"),
    )


def beside_layers(
    model: Transformer, layout: Layout, settings: MemorySettings, kept: InFlight, rank: int
) -> Terms:
    """What a rank keeps of all micro-batches in flight beside what their layers do."""
    terms: Terms = ()
    if kept.weight_chunks:
        waiting = kept.weight_chunks * kept.chunk_layers * weight_gradient_bytes(model, layout, settings)
        terms = (Term("waiting for weights' gradients", "activations", waiting, "ZB-H1 puts these off"),)
    if rank == 0 and settings.dropout:
        mask = kept.batches * stream_values(model, layout)
        terms += (Term("embedding's dropout mask", "activations", mask, "a byte for each value"),)
    return terms


class LossTerms(NamedTuple):
    """What each micro-batch keeps, and what is there beside while the loss is computed, and while its gradient is."""

    kept: Terms
    forward: Terms
    backward: Terms


NO_LOSS = LossTerms((), (), ())


def loss_terms(model: Transformer, layout: Layout, settings: MemorySettings) -> LossTerms:
    """Buffers of tokens times V/t values: 4 bytes of each are kept (Korthikanti et al., section 4.3: 4 s b v / t).

    While it computes, in place: the logits as the product gave them, beside the fp32 ones; backwards their gradient.
    torch: beside logits and result (kept) the fp32 logits; backwards two gradients in fp32 beside what is kept. The
    final norm's input and result are kept as long.
    """
    values = tokens(model, layout) * -(-model.vocabulary // layout.tensor)
    e = settings.bytes.activation
    cast = e if e < 4 else 0
    forward, backward = (cast + 4, 8) if settings.loss == "torch" else (cast, cast)
    norm = (e + (1 if settings.fused_kernels else 2) * settings.norm_bytes(layout)) * stream_values(
        model, layout
    )
    return LossTerms(
        (
            Term("softmax of the logits", "loss", 4 * values, "fp32, for each micro-batch in flight"),
            Term("final norm", "activations", norm, "its input and its result"),
        ),
        (Term("logits", "loss", forward * values, "while the loss is computed"),),
        (Term("gradient of the logits", "loss", backward * values, "while it is handed back"),),
    )


class OutputTerms(NamedTuple):
    """Gradients of the output layer, beside the sum of all: as it is made, in the layers' backward pass, at its end."""

    fresh: Terms
    layers: Terms
    embedding: Terms


NO_OUTPUT = OutputTerms((), (), ())


def output_terms(model: Transformer, layout: Layout, settings: MemorySettings, counted: bool) -> OutputTerms:
    """It is the first to be there. `counted`: among the gradients of earlier micro-batches, to which it is added.

    A tied matrix has two gradients, one from either end of the model: torch holds the first, makes the second, and then
    their sum. (Megatron-LM adds everything into buffers.)
    """
    e, copies = settings.bytes, layout.data * layout.context
    if settings.gradient_buffers:
        return NO_OUTPUT
    gathered = layout.zero_stage == 3 and copies > 1
    one = (e.activation if gathered else e.gradient) * model.hidden * -(-model.vocabulary // layout.tensor)
    tied = model.tied_embedding and layout.pipeline == 1
    layers: float = 0
    if settings.offload == "none" and (tied or not counted):
        layers = one / (copies if layout.zero_stage >= 2 else 1)
    values = tokens(model, layout) * -(-model.vocabulary // layout.tensor)
    name, why = "output layer's gradient", "the first to be there"
    return OutputTerms(
        (
            Term(name, "buffers", 0 if gathered else one, why),
            Term("gradient of the logits", "loss", e.activation * values, "from which it is made"),
        ),
        (Term(name, "buffers", 0 if gathered else layers, why),),
        (Term("tied matrix's gradients", "buffers", (3 if counted else 2) * one, "two, and their sum"),)
        if tied
        else (),
    )


def made_at_the_end(held: RankStates) -> float:
    """Share of the gradients that are there while a first micro-batch's backward pass is in the first layer: that one's
    and the embedding's come last."""
    return 1 - (held.layer_parameters + held.embedding_parameters) / held.parameters


def work_terms(
    model: Transformer, layout: Layout, settings: MemorySettings, layer: LayerActivations
) -> Terms:
    """While one layer's backward pass runs: what is computed again, and gradients of activations.

    These peak in the MLP, or in the scores: a gradient of its widest tensor, and that of the layer's result. Each
    further one takes the place of an activation that is done with.
    """
    n, t, e = tokens(model, layout), layout.tensor, settings.bytes.activation
    again = layer.total - layer.kept(layout.recompute)
    whole = stream_values(model, layout)
    wide = n * model.active_experts * model.mlp_width / t * (2 if model.gated else 1)
    scores = n * model.heads / t * model.sequence if settings.attention == "scores" else 0
    terms = [
        Term("recomputed layer", "buffers", again, "one layer's activations, made again"),
        Term(
            "gradients of activations",
            "buffers",
            settings.stream_bytes(layout) * whole + e * max(wide, scores),
            "the widest operation's",
        ),
    ]
    if layout.sequence_parallel and t > 1:
        terms.append(
            Term("gathered sequence", "buffers", e * n * model.hidden, "the inputs of matrices, whole")
        )
    if layout.context > 1:  # one block of keys and values on the way (Liu et al., 2023, Ring Attention)
        keys = 2 * local_key_value_heads(model, layout) * model.head_width
        terms.append(Term("ring attention", "buffers", e * n * keys, "the next rank's keys and values"))
    return tuple(terms)


def update_terms(settings: MemorySettings, held: RankStates) -> Terms:
    """torch's foreach updates hold one more copy of the parameters (torch.optim's documentation; V, 2026-11)."""
    if settings.fused_optimizer or settings.offload != "none":
        return ()
    copy = held.master_bytes or held.parameter_bytes
    return (Term("foreach's intermediates", "buffers", copy, "one copy of the shards that it updates"),)
