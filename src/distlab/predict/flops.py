"""Arithmetic of a transformer's training step, counted product by product: dense, grouped-query, gated, MoE.

A product of an m x k with a k x n matrix is 2 m k n FLOP. Element-wise work (norms, softmax, GELU) is not counted:
it costs time for its bytes, not for its arithmetic. Attention scores are counted for all pairs of tokens, as in the
papers, even where a causal kernel skips half of them.

    flops = step_flops(gpt, samples=64, recompute="full")
    flops.model, flops.hardware         # what the mathematics needs; what the GPU does, recomputation included
    mfu = flops.model / (step_s * gpus * peak_flops)

Sources: Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM (SC'21),
appendix; Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (2022), appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.transformer import Recompute, Transformer


@dataclass(frozen=True)
class ForwardFlops:
    """FLOP of one forward pass over some tokens: of one layer by part, and of the output layer."""

    projections: float
    """Queries, keys, values and the way back, one layer."""
    scores: float
    """Queries with keys, and probabilities with values, one layer: what selective recomputation does again."""
    mlp: float
    """One layer; of the active experts alone."""
    router: float
    """One layer; 0 in a dense model."""
    logits: float
    """The output layer, once."""

    @property
    def layer(self) -> float:
        return self.projections + self.scores + self.mlp + self.router


@dataclass(frozen=True)
class StepFlops:
    """FLOP of a whole training step, over all GPUs."""

    forward: float
    backward: float
    """Twice the forward pass: gradients of inputs, and of weights."""
    recomputed: float
    """Forward work that the backward pass does a second time."""

    @property
    def model(self) -> float:
        """What the mathematics needs: the numerator of MFU."""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """What the GPUs do: the numerator of HFU."""
        return self.model + self.recomputed


def forward_flops(model: Transformer, tokens: float) -> ForwardFlops:
    """FLOP of `tokens` tokens in samples of `model.sequence`, each attending to a whole sample."""
    width = model.heads * model.head_width
    keys_values = 2 * model.key_value_heads * model.head_width
    matrices = 3 if model.gated else 2
    return ForwardFlops(
        projections=2 * tokens * model.hidden * (2 * width + keys_values),
        scores=4 * tokens * model.sequence * width,
        mlp=2 * tokens * matrices * model.hidden * model.mlp_width * model.active_experts,
        router=2 * tokens * model.router_parameters,
        logits=2 * tokens * model.hidden * model.vocabulary,
    )


def step_flops(model: Transformer, samples: int, recompute: Recompute = "none") -> StepFlops:
    """FLOP of a step over `samples` samples (the global batch).

    For a dense model of 4 h MLP width this is 72 B s l h^2 (1 + s/6h + V/12lh) of the model, and with full
    recomputation 96 B s l h^2 (1 + s/6h + V/16lh) of the hardware: Narayanan et al., equation 3.

    With selective recomputation Korthikanti et al. count 12 B s^2 l h more for the hardware, all of the attention's
    arithmetic; only its forward pass, 4 B s^2 l h, is done again and counted here. Their HFU is higher by that.
    """
    if samples < 1:
        raise SettingError(f"samples is {samples}; a step has at least 1.")
    once = forward_flops(model, samples * model.sequence)
    forward = model.layers * once.layer + once.logits
    again = {"none": 0.0, "selective": once.scores, "full": once.layer}[recompute]
    return StepFlops(forward, 2 * forward, model.layers * again)


def tokens_per_step(model: Transformer, samples: int) -> int:
    return samples * model.sequence
