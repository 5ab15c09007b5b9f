"""How long a training step of a transformer takes under a layout on a cluster, term by term.

    step = predict_step(gpt, layout, SELENE)
    step.step_s, step.mfu, step.hfu, step.tokens_per_day
    for term in step.terms: print(term.name, term.seconds, term.why)

One micro-batch takes each pipeline stage its layers' time on the GPU (`kernels`), the tensor-parallel collectives of
these layers, and what it sends to the next stage. The slowest stage sets the pace of the m micro-batches; the others
add the bubble of filling and draining. Then gradients are reduced over the data-parallel ranks, as far as the last
micro-batch's backward pass does not hide it, and the optimizer takes its step.

Placement: tensor-parallel ranks are neighbours, then context, data and pipeline (the order of ranks in Megatron-LM).
An axis whose group fits into a node uses the link inside; one that does not crosses nodes, with as many network cards
as the group has members in a node.

The machines, and where their parameters come from, are in `cluster`; published steps to hold this against in
`megatron`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from distlab.errors import SettingError
from distlab.predict.cluster import Cluster, axis_link, collective_s
from distlab.predict.collectives import Link, Op
from distlab.predict.flops import step_flops, tokens_per_step
from distlab.predict.kernels import (
    HALF,
    Kernels,
    layer_time,
    optimizer_s,
    output_time,
)
from distlab.predict.scaling import Term
from distlab.predict.transformer import Layout, Transformer

DAY_S = 86400


@dataclass(frozen=True)
class Software:
    """What the training program does of what it could."""

    kernels: Kernels = field(default_factory=Kernels)
    overlap_gradients: bool = True
    """Gradients are reduced while the last micro-batch's backward pass still runs."""
    overlap_tensor: bool = False
    """Tensor-parallel collectives of the backward pass run beside the products that make the weights' gradients."""
    data_s: float = 0.0
    """Loading a micro-batch; only what is longer than the step's compute shows."""


@dataclass(frozen=True)
class StepTime:
    """A predicted step. `terms` add up to `step_s`."""

    terms: tuple[Term, ...]
    gpus: int
    tokens: int
    model_flops: float
    hardware_flops: float
    peak_flops: float
    price_per_gpu_hour: float | None

    @property
    def step_s(self) -> float:
        return sum(term.seconds for term in self.terms)

    @property
    def mfu(self) -> float:
        """Model FLOP per second over the datasheet's."""
        return self.model_flops / (self.step_s * self.gpus * self.peak_flops)

    @property
    def hfu(self) -> float:
        """The same of what the hardware does, recomputation included."""
        return self.hardware_flops / (self.step_s * self.gpus * self.peak_flops)

    @property
    def flops_per_gpu(self) -> float:
        """Hardware FLOP per second and GPU: what Narayanan et al. report."""
        return self.hardware_flops / (self.step_s * self.gpus)

    @property
    def tokens_per_day(self) -> float:
        return self.tokens / self.step_s * DAY_S

    def days(self, tokens: float) -> float:
        """Days to train on `tokens`, without failures."""
        return tokens / self.tokens_per_day

    def cost(self, tokens: float) -> float:
        """Price of these days, in the currency of the cluster's price."""
        if self.price_per_gpu_hour is None:
            raise SettingError("price_per_gpu_hour is not set for this cluster; give it to see costs.")
        return self.days(tokens) * 24 * self.gpus * self.price_per_gpu_hour


def predict_step(
    model: Transformer, layout: Layout, cluster: Cluster, software: Software | None = None
) -> StepTime:
    """One step of training. SettingError where the model cannot be cut so.

    Left out: the embedding's look-up, stragglers, and the checks of loss scales that skip a step.
    """
    layout.check(model)
    software = Software() if software is None else software
    m, p = layout.micro_batches, layout.pipeline
    work = _layer(model, layout, cluster, software)
    here = model.layers // p
    output_s = sum(output_time(model, layout, cluster.device))
    send_s = _send_s(model, layout, cluster)
    layer_s = (
        work.products_s + work.elements_s + work.again_s + work.tensor_s + work.expert_s + work.context_s
    )
    stage_s = here * layer_s + send_s
    reduce_s, gather_s = _data_parallel(model, layout, cluster, software, work, here)
    bubble_s = (p - 1) / layout.interleave * stage_s
    if layout.schedule == "zero_bubble":
        bubble_s = (p - 1) / layout.interleave * max(0.0, stage_s - 2 * here * work.weights_s)
    flops = step_flops(model, layout.global_batch, layout.recompute)
    wait_s = m * max(0.0, software.data_s - stage_s - output_s)
    each = f"{m} micro-batches x {here} layers of a stage"
    terms = (
        Term("matrix products", m * here * work.products_s, f"{each} x {work.products_s * 1e3:.3g} ms"),
        Term(
            "element-wise",
            m * here * work.elements_s,
            f"{each} x {work.elements_s * 1e3:.3g} ms of memory traffic",
        ),
        Term(
            "recomputation",
            m * here * work.again_s,
            f"{layout.recompute}: {work.again_s * 1e3:.3g} ms a layer",
        ),
        Term("output layer", m * output_s, f"on the last stage, for each of {m} micro-batches"),
        Term(
            "tensor parallel",
            m * here * work.tensor_s,
            f"{layout.tensor} ranks, {work.tensor_s * 1e3:.3g} ms a layer",
        ),
        Term("expert parallel", m * here * work.expert_s, f"all-to-all over {layout.expert} ranks"),
        Term("context parallel", m * here * work.context_s, f"keys and values around {layout.context} ranks"),
        Term(
            "pipeline sends", m * send_s, f"{layout.interleave} chunks there and back, {send_s * 1e3:.3g} ms"
        ),
        Term("pipeline bubble", bubble_s, f"{layout.schedule}: {p - 1} of {p} stages fill and drain"),
        Term("parameter gathering", gather_s, f"ZeRO stage {layout.zero_stage}"),
        Term(
            "gradient reduction", reduce_s, f"over {layout.data * layout.context} ranks, what is not hidden"
        ),
        Term("optimizer", _optimizer_s(model, layout, cluster, here), "memory traffic of the states"),
        Term("data loading", wait_s, f"{software.data_s:g} s a micro-batch, beside the computing"),
    )
    return StepTime(
        terms,
        layout.gpus,
        tokens_per_step(model, layout.global_batch),
        flops.model,
        flops.hardware,
        cluster.device.peak_flops,
        cluster.price_per_gpu_hour,
    )


@dataclass(frozen=True)
class _Layer:
    """Seconds of one micro-batch in one layer: work and exposed communication, forward and backward."""

    products_s: float
    elements_s: float
    again_s: float
    weights_s: float
    tensor_s: float
    expert_s: float
    context_s: float
    forward_s: float
    backward_s: float


def _layer(model: Transformer, layout: Layout, cluster: Cluster, software: Software) -> _Layer:
    time = layer_time(model, layout, cluster.device, software.kernels)
    again_s = {"none": 0.0, "selective": time.attention_s, "full": time.forward_s}[layout.recompute]
    twice = 2 if layout.recompute == "full" else 1
    tokens = layout.micro_batch * model.sequence / layout.context
    activation_bytes = HALF * tokens * model.hidden

    # Two all-reduces a layer forward and two backward (Shoeybi et al., 2019); with sequence parallelism each is a
    # reduce-scatter and an all-gather of the same bytes (Korthikanti et al., 2022).
    once_s = 2 * collective_s("all_reduce", activation_bytes, layout.tensor, 1, cluster)
    back_s = once_s
    if software.overlap_tensor:
        # Only the way back through the first of each pair of products runs beside the gradients of weights: without
        # sequence parallelism both all-reduces; with it the reduce-scatters, half of the bytes.
        can_hide_s = once_s / 2 if layout.sequence_parallel else once_s
        back_s -= min(can_hide_s, time.weight_products_s)
    tensor_s = twice * once_s + back_s

    # Tokens go to their experts and come back, forward and backward (Lepikhin et al., GShard, 2021).
    routed_bytes = activation_bytes * model.active_experts / layout.tensor
    exchange_s = collective_s(
        "all_to_all", routed_bytes, layout.expert, layout.tensor * layout.context, cluster
    )
    expert_s = 2 * (twice + 1) * exchange_s

    # Ring attention: each rank's keys and values visit all others while attention is computed (Liu et al., 2023).
    pair_bytes = 2 * HALF * tokens * model.key_value_heads * model.head_width / layout.tensor
    ring_time_s = collective_s(
        "all_gather", layout.context * pair_bytes, layout.context, layout.tensor, cluster
    )
    context_s = twice * max(0.0, ring_time_s - time.attention_s)
    context_s += max(0.0, 2 * ring_time_s - 2 * time.attention_s)
    return _Layer(
        products_s=time.forward_products_s + time.backward_products_s,
        elements_s=time.forward_elements_s + time.backward_elements_s,
        again_s=again_s,
        weights_s=time.weight_products_s,
        tensor_s=tensor_s,
        expert_s=expert_s,
        context_s=context_s,
        forward_s=time.forward_s,
        backward_s=time.backward_s + again_s,
    )


def _send_s(model: Transformer, layout: Layout, cluster: Cluster) -> float:
    """What a micro-batch's way through one stage costs in sends: each chunk's input there, its gradient back.

    Each tensor-parallel rank sends its share, and they gather it inside the node (Narayanan et al., SC'21, section
    4.1); with sequence parallelism it stays shared.
    """
    if layout.pipeline == 1:
        return 0.0
    whole_bytes = HALF * layout.micro_batch * model.sequence / layout.context * model.hidden
    stride = layout.tensor * layout.context * layout.data
    link = axis_link(layout.pipeline, stride, cluster)
    # A card for each GPU: the neighbours of one rank are alone on it.
    bandwidth = link.bandwidth_Bps if link is cluster.inside else cluster.across.bandwidth_Bps
    one_s = Link(link.alpha_s, bandwidth).message_s(whole_bytes / layout.tensor)
    if not layout.sequence_parallel:
        one_s += collective_s("all_gather", whole_bytes, layout.tensor, 1, cluster)
    return 2 * layout.interleave * one_s


def _parameters_here(model: Transformer, layout: Layout, here: int) -> tuple[float, float]:
    """On the fullest GPU: those that all data-parallel ranks share, and those of its experts."""
    dense: float = model.attention_parameters + model.norm_parameters + model.router_parameters
    expert = model.experts / layout.expert * model.expert_parameters
    if model.experts == 1:
        dense, expert = dense + expert, 0.0
    return (here * dense + model.embedding_parameters) / layout.tensor, here * expert / layout.tensor


def _data_parallel(
    model: Transformer, layout: Layout, cluster: Cluster, software: Software, work: _Layer, here: int
) -> tuple[float, float]:
    """Seconds that show: of reducing gradients, and of gathering parameters (ZeRO stage 3)."""
    ranks = layout.data * layout.context
    dense, expert = _parameters_here(model, layout, here)
    wide = layout.tensor * layout.expert

    def over_ranks(op: Op, bytes_each: float) -> float:
        shared_s = collective_s(op, dense * bytes_each, ranks, layout.tensor, cluster)
        return shared_s + collective_s(op, expert * bytes_each, ranks // layout.expert, wide, cluster)

    gradient_bytes = software.kernels.gradient_bytes
    forward_s, backward_s = here * work.forward_s, here * work.backward_s
    if layout.zero_stage == 3:
        gather_s, scatter_s = over_ranks("all_gather", HALF), over_ranks("reduce_scatter", gradient_bytes)
        shown_s = max(0.0, gather_s - forward_s)
        back_s = max(0.0, gather_s - backward_s)
        reduce_s = max(0.0, gather_s + scatter_s - backward_s) - back_s
        return layout.micro_batches * reduce_s, layout.micro_batches * (shown_s + back_s)
    reduce_s = over_ranks("all_reduce", gradient_bytes)
    if software.overlap_gradients:
        # The first layer's gradients are ready last: nothing is left to hide their way.
        reduce_s = max(reduce_s - backward_s * (1 - 1 / here), reduce_s / here)
    if model.tied_embedding and layout.pipeline > 1:
        embedding_bytes = gradient_bytes * model.hidden * model.vocabulary / layout.tensor
        stride = layout.tensor * layout.context * layout.data
        reduce_s += collective_s("all_reduce", embedding_bytes, 2, stride, cluster)
    return reduce_s, 0.0


def _optimizer_s(model: Transformer, layout: Layout, cluster: Cluster, here: int) -> float:
    dense, expert = _parameters_here(model, layout, here)
    ranks = layout.data * layout.context if layout.zero_stage else 1
    return optimizer_s(dense / ranks + expert / max(1, ranks // layout.expert), cluster.device)
