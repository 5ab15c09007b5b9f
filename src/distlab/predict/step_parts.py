"""The parts of a step that several layouts share: a micro-batch in one layer, and the collectives of gradients.

`step_time` puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from distlab.predict.cluster import Cluster, collective_s
from distlab.predict.collectives import Op
from distlab.predict.kernels import HALF, Kernels, layer_time, output_time
from distlab.predict.states import embedding_weights, layer_weights, output_weights, size_of
from distlab.predict.transformer import Layout, Recompute, Transformer


@dataclass(frozen=True)
class Software:
    """What the training program does of what it could."""

    kernels: Kernels = field(default_factory=Kernels)
    overlap_gradients: bool = True
    """Gradients are reduced while the last micro-batch's backward pass still runs."""
    overlap_tensor: bool = False
    """Tensor-parallel collectives of the backward pass run beside the products that make the weights' gradients."""
    data_s: float = 0.0
    """Loading a micro-batch, beside everything else of a step; only what is longer than that shows."""


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

    @property
    def ring_hidden_s(self) -> float:
        """Of the forward pass: attention beside which keys and values travel. Backward it is twice that."""
        return min(self.ring_s, self.attention_s)

    def again_s(self, recompute: Recompute) -> float:
        """What is computed a second time."""
        if recompute == "none":
            return 0.0
        return self.attention_s if recompute == "selective" else self.forward_s

    def communication_s(self, recompute: Recompute) -> tuple[float, float, float]:
        """Of tensor, expert and context parallelism: what shows of it, forward and backward."""
        passes = 2 if recompute == "full" else 1
        bare_s = self.ring_s - self.ring_hidden_s
        return (
            passes * self.tensor_s + self.tensor_back_s,
            2 * (passes + 1) * self.expert_s,
            # Backward keys and values go around with their gradients, beside an attention of twice the work.
            (passes + 2) * bare_s,
        )


def layer_of(model: Transformer, layout: Layout, cluster: Cluster, software: Software) -> Layer:
    """One micro-batch in one layer. It depends on how a layer is cut, and on neither pipeline nor batch."""
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


class Replicas(NamedTuple):
    """Weights of the fullest GPU that others hold, too, and the collectives among these."""

    dense: int
    """Parameters that all data- and context-parallel ranks hold."""
    expert: int
    """Parameters of its experts, which fewer ranks hold."""
    reduce_s: float
    """All-reduce of their gradients."""
    scatter_s: float
    """Reduce-scatter of their gradients."""
    gather_s: float
    """All-gather of the weights, in 16 bits."""


def replicas_of(model: Transformer, layout: Layout, cluster: Cluster, software: Software) -> Replicas:
    """Those of one layout; it depends on neither micro-batch, schedule nor ZeRO stage."""
    here, ranks = model.layers // layout.pipeline, layout.data * layout.context
    each = layer_weights(model, layout)
    ends = [embedding_weights(model, layout), output_weights(model, layout)]
    if layout.pipeline == 1:
        ends = [ends[0] + ends[1]]
    dense = here * size_of(each[0]) + max(size_of(end) for end in ends)
    expert = here * size_of(each[1])

    def over_s(op: Op, bytes_each: float) -> float:
        shared_s = collective_s(op, dense * bytes_each, ranks, layout.tensor, cluster)
        wide = layout.tensor * layout.expert
        return shared_s + collective_s(op, expert * bytes_each, ranks // layout.expert, wide, cluster)

    gradient_bytes = software.kernels.gradient_bytes
    return Replicas(
        dense,
        expert,
        over_s("all_reduce", gradient_bytes),
        over_s("reduce_scatter", gradient_bytes),
        over_s("all_gather", HALF),
    )
