"""What more GPUs buy: step time with overlap, scaling efficiency, Amdahl's law, the pipeline bubble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distlab.errors import SettingError


@dataclass(frozen=True)
class Term:
    """A part of a predicted time that adds to it, and why it is so long."""

    name: str
    seconds: float
    why: str


@dataclass(frozen=True)
class Span:
    """From `start_s` to `end_s`, in seconds after the backward pass began."""

    start_s: float
    end_s: float


def exposed_communication_s(communication_s: float, overlap_window_s: float) -> float:
    """The part of the communication that compute does not hide: max(0, communication - window)."""
    return max(0.0, _time("communication_s", communication_s) - _time("overlap_window_s", overlap_window_s))


def step_s(compute_s: float, communication_s: float, overlap_window_s: float = 0.0) -> float:
    """One step: compute, plus the communication that the overlap window (a part of it) cannot hide."""
    if overlap_window_s > compute_s:
        raise SettingError(
            f"overlap_window_s {overlap_window_s} exceeds compute_s {compute_s}, a part of it."
        )
    return _time("compute_s", compute_s) + exposed_communication_s(communication_s, overlap_window_s)


def communication_share(step_one_rank_s: float, step_n_ranks_s: float) -> float:
    """Share of an n-rank step that is not the one-rank step's work; each rank's work being the same."""
    return max(0.0, 1 - step_one_rank_s / step_n_ranks_s)


def bucket_timeline(
    backward_s: float, bucket_bytes: Sequence[float], all_reduce_s: Sequence[float]
) -> list[Span]:
    """When each gradient bucket's all-reduce runs, as DDP schedules them.

    A bucket is ready once the backward pass has made its share of the gradient bytes (taken as even over
    the pass); buckets are reduced one after the other, in that order. `all_reduce_s[i]` is how long bucket
    i takes on the wire.
    """
    if len(bucket_bytes) != len(all_reduce_s):
        raise SettingError(f"{len(bucket_bytes)} buckets but {len(all_reduce_s)} times; give one for each.")
    total_bytes = sum(bucket_bytes)
    spans: list[Span] = []
    made_bytes = free_s = 0.0
    for size_bytes, time_s in zip(bucket_bytes, all_reduce_s, strict=True):
        made_bytes += size_bytes
        start_s = max(free_s, backward_s * made_bytes / total_bytes)
        free_s = start_s + time_s
        spans.append(Span(start_s, free_s))
    return spans


def strong_scaling_efficiency(time_one_rank_s: float, time_n_ranks_s: float, world_size: int) -> float:
    """The same total work on n ranks: t1 / (n tn). 1.0 is a speed-up of n."""
    return _positive("time_one_rank_s", time_one_rank_s) / (
        world_size * _positive("time_n_ranks_s", time_n_ranks_s)
    )


def weak_scaling_efficiency(step_one_rank_s: float, step_n_ranks_s: float) -> float:
    """The same work on every rank: t1 / tn. 1.0 is a step that takes no longer."""
    return _positive("step_one_rank_s", step_one_rank_s) / _positive("step_n_ranks_s", step_n_ranks_s)


def amdahl_speedup(serial_fraction: float, world_size: int) -> float:
    """1 / (s + (1 - s)/n): the bound when a fraction s of the work does not divide (Amdahl, 1967)."""
    if not 0 <= serial_fraction <= 1:
        raise SettingError(f"serial_fraction is {serial_fraction}; it lies between 0 and 1.")
    return 1 / (serial_fraction + (1 - serial_fraction) / world_size)


def pipeline_efficiency(stages: int, microbatches: int, interleave: int = 1) -> float:
    """Share of its time that a stage works: m / (m + (p - 1)/v).

    p stages idle for p - 1 slots while the pipeline fills and drains; with v = `interleave` chunks of
    layers per device a slot is v times shorter. Sources: Huang et al., GPipe (NeurIPS 2019); Narayanan et
    al. (SC'21) for v > 1. Both assume equal stages and free communication.
    """
    if min(stages, microbatches, interleave) < 1:
        raise SettingError(
            f"stages {stages}, microbatches {microbatches}, interleave {interleave}: all are 1 or more."
        )
    return microbatches / (microbatches + (stages - 1) / interleave)


def microbatches_for(stages: int, efficiency: float, interleave: int = 1) -> float:
    """Microbatches at which `pipeline_efficiency` reaches `efficiency` (round up)."""
    if not 0 < efficiency < 1:
        raise SettingError(f"efficiency is {efficiency}; it lies strictly between 0 and 1.")
    return efficiency * (stages - 1) / interleave / (1 - efficiency)


def _time(name: str, value: float) -> float:
    if not value >= 0:
        raise SettingError(f"{name} is {value}; it must be 0 or more seconds.")
    return value


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise SettingError(f"{name} is {value}; it must be more than 0 seconds.")
    return value
