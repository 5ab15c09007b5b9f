"""Communication over compute for the ways of cutting a transformer, and the tokens that hide it.

Each ratio is seconds on the wire over seconds of arithmetic for the same piece of work. Below 1 the wire can
hide behind the arithmetic, if the two overlap; what does not overlap costs its share in full. Latency,
attention scores and embeddings are left out: these are first estimates for wide layers and long batches.

`flops` is the FLOP per second that one GPU reaches, `bandwidth_Bps` the bytes per second that its link carries
one way.
"""

from __future__ import annotations

from distlab.predict.units import DAY_S


def tokens_to_hide_gradients(flops: float, bandwidth_Bps: float, gradient_bytes: float = 2) -> float:  # noqa: N803
    """Tokens per GPU and step at which the gradient all-reduce is as long as the backward pass.

    A parameter costs 4 FLOP per token backwards and 2 x `gradient_bytes` on the wire (a large ring).
    """
    return gradient_bytes / 2 * flops / bandwidth_Bps


def tensor_parallel_ratio(ways: int, hidden: int, flops: float, bandwidth_Bps: float) -> float:  # noqa: N803
    """(t - 1) F / (3 h B): two 16-bit all-reduces of b s h per block against 24 b s h^2 / t FLOP.

    Source of the two all-reduces: Shoeybi et al., Megatron-LM (2019). Batch and sequence cancel.
    """
    return (ways - 1) * flops / (3 * hidden * bandwidth_Bps)


def pipeline_parallel_ratio(
    stages: int,
    layers: int,
    hidden: int,
    flops: float,
    bandwidth_Bps: float,  # noqa: N803
) -> float:
    """p F / (12 h L B): one 16-bit activation of b s h against L/p blocks of 24 b s h^2 FLOP."""
    return stages * flops / (12 * hidden * layers * bandwidth_Bps)


def training_days(parameters: float, tokens: float, gpus: int, flops_per_gpu: float) -> float:
    """6 N D FLOP (2 forward, 4 backward for each parameter and token) at `flops_per_gpu` reached on each."""
    return 6 * parameters * tokens / (gpus * flops_per_gpu) / DAY_S
