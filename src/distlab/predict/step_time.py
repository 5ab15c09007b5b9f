"""How long a training step of a transformer takes under a layout on a cluster, term by term.

    step = predict_step(gpt, layout, SELENE)
    step.step_s, step.mfu, step.hfu, step.tokens_per_day
    for term in step.terms: print(term.name, term.seconds, term.why)

One micro-batch takes each pipeline stage its layers' time on the GPU (`kernels`), the tensor-parallel collectives of
these layers, and what it sends to the next stage. The slowest stage sets the pace of the m micro-batches; the others
add the bubble of filling and draining. Then gradients are reduced over the data-parallel ranks, as far as the last
micro-batch's backward pass does not hide it, and the optimizer takes its step.

Placement: tensor-parallel ranks are neighbours, then context, data and pipeline (the order of ranks in Megatron-LM).
Collectives take what `distlab.predict.network` says on the topology that a group then has (`cluster.Cluster.group`).

    steps = StepModel(gpt, SELENE, Software())   # for many layouts: it remembers what depends on few of their fields
    steps.seconds(layout)                        # the terms alone

The machines, and where their parameters come from, are in `cluster`; published steps to hold this against in
`megatron`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from distlab.errors import SettingError
from distlab.predict.cluster import Cluster, collective_s
from distlab.predict.collectives import Op
from distlab.predict.flops import StepFlops, step_flops, tokens_per_step
from distlab.predict.kernels import (
    HALF,
    Kernels,
    layer_time,
    optimizer_s,
    output_time,
)
from distlab.predict.scaling import Term
from distlab.predict.transformer import Layout, Recompute, Transformer

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


class Seconds(NamedTuple):
    """The terms of a step."""

    products: float
    elements: float
    recomputed: float
    output: float
    tensor: float
    expert: float
    context: float
    sends: float
    bubble: float
    gathering: float
    reduction: float
    optimizer: float
    loading: float


@dataclass(frozen=True)
class StepTime:
    """A predicted step. `terms` add up to `step_s`."""

    seconds: Seconds
    layout: Layout
    layers: int
    """Of the model."""
    tokens: int
    model_flops: float
    hardware_flops: float
    peak_flops: float
    price_per_gpu_hour: float | None

    @property
    def gpus(self) -> int:
        return self.layout.gpus

    @property
    def step_s(self) -> float:
        return sum(self.seconds)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The seconds, with the reasons."""
        s, layout = self.seconds, self.layout
        m, p, here = layout.micro_batches, layout.pipeline, self.layers // layout.pipeline
        each = f"{m} micro-batches x {here} layers of a stage"
        ms = 1e3 / (m * here)
        ranks = layout.data * layout.context
        return (
            Term("matrix products", s.products, f"{each} x {s.products * ms:.3g} ms"),
            Term("element-wise", s.elements, f"{each} x {s.elements * ms:.3g} ms of memory traffic"),
            Term("recomputation", s.recomputed, f"{layout.recompute}: {s.recomputed * ms:.3g} ms a layer"),
            Term("output layer", s.output, f"on the last stage, for each of {m} micro-batches"),
            Term("tensor parallel", s.tensor, f"{layout.tensor} ranks, {s.tensor * ms:.3g} ms a layer"),
            Term("expert parallel", s.expert, f"all-to-all over {layout.expert} ranks"),
            Term("context parallel", s.context, f"keys and values around {layout.context} ranks"),
            Term(
                "pipeline sends",
                s.sends,
                f"{layout.interleave} chunks there and back, {s.sends / m * 1e3:.3g} ms a micro-batch",
            ),
            Term("pipeline bubble", s.bubble, f"{layout.schedule}: {p - 1} of {p} stages fill and drain"),
            Term("parameter gathering", s.gathering, f"ZeRO stage {layout.zero_stage}, what is not hidden"),
            Term("gradient reduction", s.reduction, f"over {ranks} ranks, what is not hidden"),
            Term("optimizer", s.optimizer, "memory traffic of the states"),
            Term("data loading", s.loading, f"{m} micro-batches: what is longer than the computing"),
        )

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
    return _steps(model, cluster, software or _USUAL).step(layout)


class StepModel:
    """Steps of one model on one cluster. What depends on few fields of a layout is computed once for them."""

    def __init__(self, model: Transformer, cluster: Cluster, software: Software) -> None:
        self.model, self.cluster, self.software = model, cluster, software
        self._layers: dict[tuple[int, int, int, int, bool], Layer] = {}
        self._ranks: dict[tuple[int, int, int, int], _Ranks] = {}
        self._flops: dict[tuple[int, Recompute], StepFlops] = {}

    def step(self, layout: Layout) -> StepTime:
        """The layout must be one that `Layout.check` lets pass."""
        key = layout.global_batch, layout.recompute
        flops = self._flops.get(key)
        if flops is None:
            flops = self._flops[key] = step_flops(self.model, *key)
        return StepTime(
            self.seconds(layout),
            layout,
            self.model.layers,
            tokens_per_step(self.model, layout.global_batch),
            flops.model,
            flops.hardware,
            self.cluster.device.peak_flops,
            self.cluster.price_per_gpu_hour,
        )

    def seconds(self, layout: Layout) -> Seconds:
        """The terms alone."""
        m, p, recompute = layout.micro_batches, layout.pipeline, layout.recompute
        work = self.layer(layout)
        here = self.model.layers // p
        send_s = self.send_s(layout)
        again_s = work.again_s(recompute)
        tensor_s, expert_s, context_s = work.communication_s(recompute)
        layer_s = work.products_s + work.elements_s + again_s + tensor_s + expert_s + context_s
        stage_s = here * layer_s + send_s
        bubble_s = (p - 1) / layout.interleave * stage_s
        if layout.schedule == "zero_bubble":
            bubble_s = (p - 1) / layout.interleave * max(0.0, stage_s - 2 * here * work.weights_s)
        gather_s, reduce_s = self.data_parallel_s(layout, work, here, again_s)
        return Seconds(
            m * here * work.products_s,
            m * here * work.elements_s,
            m * here * again_s,
            m * work.output_s,
            m * here * tensor_s,
            m * here * expert_s,
            m * here * context_s,
            m * send_s,
            bubble_s,
            gather_s,
            reduce_s,
            self.optimizer_s(layout),
            m * max(0.0, self.software.data_s - stage_s - work.output_s),
        )

    def layer(self, layout: Layout) -> Layer:
        """A micro-batch in one layer."""
        key = layout.tensor, layout.context, layout.expert, layout.micro_batch, layout.sequence_parallel
        found = self._layers.get(key)
        if found is None:
            found = self._layers[key] = _layer(self.model, layout, self.cluster, self.software)
        return found

    def send_s(self, layout: Layout) -> float:
        """What a micro-batch's way through one stage costs in sends: each chunk's input there, its gradient back.

        Each tensor-parallel rank sends its share, and they gather it inside the node (Narayanan et al., SC'21, section
        4.1); with sequence parallelism it stays shared.
        """
        if layout.pipeline == 1:
            return 0.0
        whole_bytes = HALF * layout.micro_batch * self.model.sequence / layout.context * self.model.hidden
        stride = layout.tensor * layout.context * layout.data
        share_bytes = whole_bytes / layout.tensor
        one_s = collective_s("send_recv", share_bytes, layout.pipeline, stride, self.cluster)
        if not layout.sequence_parallel:
            one_s += collective_s("all_gather", whole_bytes, layout.tensor, 1, self.cluster)
        return 2 * layout.interleave * one_s

    def _on_ranks(self, layout: Layout) -> _Ranks:
        key = layout.tensor, layout.pipeline, layout.expert, layout.data * layout.context
        found = self._ranks.get(key)
        if found is None:
            found = self._ranks[key] = _ranks(self.model, layout, self.cluster, self.software)
        return found

    def data_parallel_s(self, layout: Layout, work: Layer, here: int, again_s: float) -> tuple[float, float]:
        """Seconds that show: of gathering parameters, and of reducing gradients.

        ZeRO 0 reduces once a step. Stages 1 and 2 scatter the sums, and gather the updated weights after the
        optimizer's step, beside nothing; stage 2 keeps no whole gradients, so that it scatters those of every
        micro-batch. Stage 3 gathers each layer forward and backward (Rajbhandari et al., SC'20).
        """
        ranks, m, stage = self._on_ranks(layout), layout.micro_batches, layout.zero_stage
        forward_s, backward_s = here * work.forward_s, here * (work.backward_s + again_s)
        hide = self.software.overlap_gradients
        if stage == 3:
            shown_s = max(0.0, ranks.gather_s - forward_s)
            back_s = max(0.0, ranks.gather_s - backward_s)
            reduce_s = ranks.scatter_s
            if hide:
                reduce_s = max(0.0, ranks.gather_s + ranks.scatter_s - backward_s) - back_s
            return m * (shown_s + back_s), m * reduce_s
        reduce_s, gather_s = ranks.reduce_s, 0.0
        if stage:
            reduce_s, gather_s = ranks.scatter_s, ranks.gather_s
        if hide:
            # The first layer's gradients are ready last: nothing is left to hide their way.
            reduce_s = max(reduce_s - backward_s * (1 - 1 / here), reduce_s / here)
        if stage == 2:
            reduce_s *= m
        if layout.pipeline > 1:
            reduce_s += self._embedding_s(layout)
        return gather_s, reduce_s

    def _embedding_s(self, layout: Layout) -> float:
        """The first and the last stage add up their gradients of a tied embedding."""
        if not self.model.tied_embedding:
            return 0.0
        gradient_bytes = self.software.kernels.gradient_bytes
        payload_bytes = gradient_bytes * self.model.hidden * self.model.vocabulary / layout.tensor
        stride = layout.tensor * layout.context * layout.data * (layout.pipeline - 1)
        return collective_s("all_reduce", payload_bytes, 2, stride, self.cluster)

    def optimizer_s(self, layout: Layout) -> float:
        found = self._on_ranks(layout)
        ranks = layout.data * layout.context if layout.zero_stage else 1
        return optimizer_s(
            found.dense / ranks + found.expert / max(1, ranks // layout.expert), self.cluster.device
        )


_USUAL = Software()


@lru_cache(maxsize=64)
def _steps(model: Transformer, cluster: Cluster, software: Software) -> StepModel:
    return StepModel(model, cluster, software)


class Layer(NamedTuple):
    """Seconds of one micro-batch in one layer: work and exposed communication, forward and backward."""

    products_s: float
    elements_s: float
    attention_s: float
    weights_s: float
    forward_s: float
    backward_s: float
    """Without what is computed again."""
    tensor_s: float
    """All of a layer's forward pass."""
    tensor_back_s: float
    expert_s: float
    """One exchange of four."""
    ring_s: float
    """Keys and values once around."""
    output_s: float
    """Of the output layer, for the same micro-batch."""

    def again_s(self, recompute: Recompute) -> float:
        """What is computed a second time."""
        if recompute == "none":
            return 0.0
        return self.attention_s if recompute == "selective" else self.forward_s

    def communication_s(self, recompute: Recompute) -> tuple[float, float, float]:
        """Of tensor, expert and context parallelism: what shows of it, forward and backward."""
        passes = 2 if recompute == "full" else 1
        bare_s = max(0.0, self.ring_s - self.attention_s)
        return (
            passes * self.tensor_s + self.tensor_back_s,
            2 * (passes + 1) * self.expert_s,
            # Backward keys and values go around with their gradients, beside an attention of twice the work.
            (passes + 2) * bare_s,
        )


def _layer(model: Transformer, layout: Layout, cluster: Cluster, software: Software) -> Layer:
    time = layer_time(model, layout, cluster.device, software.kernels)
    tokens = layout.micro_batch * model.sequence / layout.context
    activation_bytes = HALF * tokens * model.hidden

    # Two all-reduces a layer forward and two backward (Shoeybi et al., 2019); with sequence parallelism each is a
    # reduce-scatter and an all-gather of the same bytes (Korthikanti et al., 2022).
    def over_tensor_s(op: Op) -> float:
        return 2 * collective_s(op, activation_bytes, layout.tensor, 1, cluster)

    scatter_s = hidden_s = 0.0
    if layout.sequence_parallel:
        scatter_s = over_tensor_s("reduce_scatter")
        once_s = scatter_s + over_tensor_s("all_gather")
    else:
        once_s = over_tensor_s("all_reduce")
    if software.overlap_tensor:
        # Only the way back through the first of each pair of products runs beside the gradients of weights: without
        # sequence parallelism both all-reduces; with it the reduce-scatters.
        hidden_s = min(scatter_s if layout.sequence_parallel else once_s, time.weight_products_s)

    # Tokens go to their experts and come back, forward and backward (Lepikhin et al., GShard, 2021).
    routed_bytes = activation_bytes * model.active_experts / layout.tensor
    stride = layout.tensor * layout.context
    # Ring attention: each rank's keys and values visit all others while attention is computed (Liu et al., 2023).
    pair_bytes = 2 * HALF * tokens * model.key_value_heads * model.head_width / layout.tensor
    around_bytes = layout.context * pair_bytes
    return Layer(
        products_s=time.forward_products_s + time.backward_products_s,
        elements_s=time.forward_elements_s + time.backward_elements_s,
        attention_s=time.attention_s,
        weights_s=time.weight_products_s,
        forward_s=time.forward_s,
        backward_s=time.backward_s,
        tensor_s=once_s,
        tensor_back_s=once_s - hidden_s,
        expert_s=collective_s("all_to_all", routed_bytes, layout.expert, stride, cluster),
        ring_s=collective_s("all_gather", around_bytes, layout.context, layout.tensor, cluster),
        output_s=sum(output_time(model, layout, cluster.device)),
    )


class _Ranks(NamedTuple):
    """On the fullest GPU: parameters that all data-parallel ranks share, those of its experts; their collectives."""

    dense: float
    expert: float
    reduce_s: float
    scatter_s: float
    gather_s: float


def _ranks(model: Transformer, layout: Layout, cluster: Cluster, software: Software) -> _Ranks:
    here, ranks = model.layers // layout.pipeline, layout.data * layout.context
    dense: float = model.attention_parameters + model.norm_parameters + model.router_parameters
    expert = model.experts / layout.expert * model.expert_parameters
    if model.experts == 1:
        dense, expert = dense + expert, 0.0
    dense, expert = (here * dense + model.embedding_parameters) / layout.tensor, here * expert / layout.tensor

    def over_s(op: Op, bytes_each: float) -> float:
        shared_s = collective_s(op, dense * bytes_each, ranks, layout.tensor, cluster)
        wide = layout.tensor * layout.expert
        return shared_s + collective_s(op, expert * bytes_each, ranks // layout.expert, wide, cluster)

    gradient_bytes = software.kernels.gradient_bytes
    return _Ranks(
        dense,
        expert,
        over_s("all_reduce", gradient_bytes),
        over_s("reduce_scatter", gradient_bytes),
        over_s("all_gather", HALF),
    )
