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

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from distlab.errors import SettingError
from distlab.predict.cluster import Cluster, collective_s
from distlab.predict.flops import step_flops, tokens_per_step
from distlab.predict.kernels import HALF, optimizer_s
from distlab.predict.scaling import Term
from distlab.predict.step_parts import Layer, Replicas, Software, layer_of, replicas_of
from distlab.predict.transformer import Layout, Schedule, Transformer
from distlab.predict.units import DAY_S

__all__ = ["Seconds", "Software", "StepModel", "StepTime", "predict_step"]


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
    shared_embedding: bool
    """The first and the last stage hold the same embedding, and add up its gradients."""
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
        reduced = [f"over {ranks} ranks, what is not hidden"] if ranks > 1 else []
        if self.shared_embedding:
            reduced.append("the tied embedding's between the first and the last stage")
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
            Term("gradient reduction", s.reduction, "; ".join(reduced) or "none: each weight is on one rank"),
            Term("optimizer", s.optimizer, "memory traffic of the states"),
            Term("data loading", s.loading, f"{m} micro-batches: what is longer than all else"),
        )

    @property
    def mfu(self) -> float:
        """Model FLOP per second over the datasheet's. Counted are the scores of all pairs of tokens, as papers do: with
        FlashAttention, which leaves out half of them, very long samples come above 1."""
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

    Left out: the embedding's look-up, stragglers, the checks of loss scales that skip a step, an uneven load of experts
    or (by a causal mask) of context-parallel ranks, and that collectives of several axes slow each other where they run
    at the same time.
    """
    layout.check(model)
    return _steps(model, cluster, software or _USUAL).step(layout)


class StepModel:
    """Steps of one model on one cluster. What depends on few fields of a layout is computed once for them."""

    def __init__(self, model: Transformer, cluster: Cluster, software: Software) -> None:
        self.model, self.cluster, self.software = model, cluster, software
        self._layers: dict[tuple[int, int, int, int, bool], Layer] = {}
        self._replicas: dict[tuple[int, int, int, int], Replicas] = {}

    def step(self, layout: Layout) -> StepTime:
        """The layout must be one that `Layout.check` lets pass."""
        flops = step_flops(self.model, layout.global_batch, layout.recompute)
        return StepTime(
            self.seconds(layout),
            layout,
            self.model.layers,
            self._shares_embedding(layout),
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
        bubble_s = bubble_of(layout.schedule, layout.interleave, m, p, stage_s, here * work.weights_s)
        free_again_s = again_s - (work.ring_hidden_s if recompute == "full" else 0.0)
        gather_s, reduce_s = self.data_parallel_s(layout, work, here, free_again_s)
        seconds = Seconds(
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
            0.0,
        )
        if self.software.data_s:
            # Loaders go on beside all of the step. Were they set against the computing alone, a faster GPU could make
            # the step longer: less of it would be left to hide the collectives, and no less to wait for the data.
            seconds = seconds._replace(loading=max(0.0, m * self.software.data_s - sum(seconds)))
        return seconds

    def layer(self, layout: Layout) -> Layer:
        """A micro-batch in one layer."""
        key = layout.tensor, layout.context, layout.expert, layout.micro_batch, layout.sequence_parallel
        found = self._layers.get(key)
        if found is None:
            found = self._layers[key] = layer_of(self.model, layout, self.cluster, self.software)
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

    def _replicas_in(self, layout: Layout) -> Replicas:
        key = layout.tensor, layout.pipeline, layout.expert, layout.data * layout.context
        found = self._replicas.get(key)
        if found is None:
            found = self._replicas[key] = replicas_of(self.model, layout, self.cluster, self.software)
        return found

    def data_parallel_s(self, layout: Layout, work: Layer, here: int, again_s: float) -> tuple[float, float]:
        """Seconds that show: of gathering parameters, and of reducing gradients.

        ZeRO 0 reduces once a step. Stages 1 and 2 scatter the sums, and gather the updated weights after the
        optimizer's step, beside nothing; stage 2 keeps no whole gradients, so that it scatters those of every
        micro-batch. Stage 3 gathers each layer forward and backward (Rajbhandari et al., SC'20). Computing that hides
        another collective already hides none of these: `again_s` is what is computed again without that.
        """
        replicas, m, stage = self._replicas_in(layout), layout.micro_batches, layout.zero_stage
        forward_s = here * (work.forward_s - work.ring_hidden_s)
        tensor_hidden_s = work.tensor_s - work.tensor_back_s
        backward_s = here * (work.backward_s - 2 * work.ring_hidden_s - tensor_hidden_s + again_s)
        hide = self.software.overlap_gradients
        if stage == 3:
            shown_s = max(0.0, replicas.gather_s - forward_s)
            back_s = max(0.0, replicas.gather_s - backward_s)
            reduce_s = replicas.scatter_s
            if hide:
                reduce_s = max(0.0, replicas.gather_s + replicas.scatter_s - backward_s) - back_s
            return m * (shown_s + back_s), m * reduce_s
        reduce_s, gather_s = replicas.reduce_s, 0.0
        if stage:
            reduce_s, gather_s = replicas.scatter_s, replicas.gather_s
        if hide:
            # The first layer's gradients are ready last: nothing is left to hide their way.
            reduce_s = max(reduce_s - backward_s * (1 - 1 / here), reduce_s / here)
        if stage == 2:
            reduce_s *= m
        if self._shares_embedding(layout):
            reduce_s += self._embedding_s(layout)
        return gather_s, reduce_s

    def _shares_embedding(self, layout: Layout) -> bool:
        return self.model.tied_embedding and layout.pipeline > 1

    def _embedding_s(self, layout: Layout) -> float:
        """The first and the last stage add up their gradients of a tied embedding."""
        gradient_bytes = self.software.kernels.gradient_bytes
        payload_bytes = gradient_bytes * self.model.hidden * self.model.vocabulary / layout.tensor
        stride = layout.tensor * layout.context * layout.data * (layout.pipeline - 1)
        return collective_s("all_reduce", payload_bytes, 2, stride, self.cluster)

    def optimizer_s(self, layout: Layout) -> float:
        """Of the weights that a rank updates: its own of all, or with ZeRO its share of them."""
        found = self._replicas_in(layout)
        ranks = layout.data * layout.context if layout.zero_stage else 1
        return optimizer_s(
            found.dense / ranks + found.expert / max(1, ranks // layout.expert), self.cluster.device
        )


def bubble_of(schedule: Schedule, v: int, m: int, p: int, stage_s: float, weights_s: float) -> float:
    """Seconds that a stage is idle in a step: (p - 1)/v of a micro-batch's time on it (Narayanan et al., SC'21).

    Zero-bubble's ZB-H1 keeps a stage's layers together, and puts off the gradients of weights, `weights_s` of a
    micro-batch: less is idle by those of p - 1 stages, and of p - 1 micro-batches (Qi et al., 2023) or the m - 1 that
    there are. That is how long the schedule of `plots.timeline` is.
    """
    if schedule == "zero_bubble":
        return (p - 1) * (stage_s - weights_s) - (min(m, p) - 1) * weights_s
    return (p - 1) / v * stage_s


_USUAL = Software()


@lru_cache(maxsize=64)
def _steps(model: Transformer, cluster: Cluster, software: Software) -> StepModel:
    return StepModel(model, cluster, software)
