"""Scaling and memory models against closed formulas, published values and errors that circulate."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.predict.memory import FULL_PRECISION_ADAM, zero_memory
from distlab.predict.scaling import (
    amdahl_speedup,
    bucket_timeline,
    exposed_communication_s,
    microbatches_for,
    pipeline_efficiency,
    step_s,
    strong_scaling_efficiency,
    weak_scaling_efficiency,
)
from distlab.predict.units import GB, bytes_per_s, gigabits_per_s

times = st.floats(1e-6, 1e3)


@given(stages=st.integers(1, 64), microbatches=st.integers(1, 512), interleave=st.integers(1, 8))
def test_pipeline_efficiency_is_a_share_that_grows_with_work(
    stages: int, microbatches: int, interleave: int
) -> None:
    share = pipeline_efficiency(stages, microbatches, interleave)
    assert 0 < share <= 1
    assert pipeline_efficiency(stages, microbatches + 1, interleave) >= share
    assert pipeline_efficiency(stages, microbatches, interleave + 1) >= share


@given(stages=st.integers(2, 64), efficiency=st.floats(0.05, 0.98))
def test_microbatches_for_inverts_the_efficiency(stages: int, efficiency: float) -> None:
    m = microbatches_for(stages, efficiency)
    assert m / (m + stages - 1) == pytest.approx(efficiency)


@given(st.floats(1e-3, 1e6))
def test_rate_conversion_round_trips(rate: float) -> None:
    assert gigabits_per_s(bytes_per_s(rate)) == pytest.approx(rate)


def test_amdahl_by_hand() -> None:
    assert amdahl_speedup(0.05, 8) == pytest.approx(5.926, abs=5e-4)
    assert amdahl_speedup(0, 8) == 8
    assert amdahl_speedup(1, 8) == 1


@given(compute=times, communication=times, share=st.floats(0, 1))
def test_a_step_lies_between_full_overlap_and_none(
    compute: float, communication: float, share: float
) -> None:
    step = step_s(compute, communication, share * compute)
    assert max(compute, communication) <= step * (1 + 1e-12)
    assert step <= compute + communication


def test_exposed_communication() -> None:
    assert exposed_communication_s(0.05, 0.03) == pytest.approx(0.02)
    assert exposed_communication_s(0.02, 0.03) == 0


@given(t1=times, n=st.integers(1, 1024))
def test_perfect_scaling_is_one(t1: float, n: int) -> None:
    assert strong_scaling_efficiency(t1, t1 / n, n) == pytest.approx(1)
    assert weak_scaling_efficiency(t1, t1) == 1


def test_a_step_of_1_4_times_is_71_percent() -> None:
    assert weak_scaling_efficiency(1.0, 1.4) == pytest.approx(0.714, abs=5e-4)


def test_buckets_start_when_ready_and_never_together() -> None:
    spans = bucket_timeline(backward_s=0.10, bucket_bytes=[25, 25, 50], all_reduce_s=[0.04, 0.04, 0.02])
    assert [s.start_s for s in spans] == pytest.approx([0.025, 0.065, 0.105])
    assert spans[-1].end_s == pytest.approx(0.125)


@given(st.lists(st.tuples(st.floats(1, 1e9), times), min_size=1, max_size=20), times)
def test_last_bucket_always_waits_for_the_backward_pass(
    buckets: list[tuple[float, float]], backward: float
) -> None:
    sizes, wire = [b for b, _ in buckets], [t for _, t in buckets]
    spans = bucket_timeline(backward, sizes, wire)
    assert spans[-1].start_s >= backward * (1 - 1e-9)
    assert all(a.end_s <= b.start_s for a, b in pairwise(spans))


def test_zero_stages_of_the_paper() -> None:
    # Rajbhandari et al., ZeRO, figure 1: 7.5e9 parameters on 64 GPUs, in GB.
    gigabytes = [zero_memory(7.5e9, 64, stage).total_bytes / GB for stage in range(4)]
    assert gigabytes == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


@given(world_size=st.integers(1, 4096), stage=st.integers(1, 3))
def test_a_higher_stage_never_holds_more(world_size: int, stage: int) -> None:
    higher, lower = zero_memory(1e9, world_size, stage), zero_memory(1e9, world_size, stage - 1)
    assert higher.total_bytes <= lower.total_bytes


def test_adam_holds_16_bytes_per_parameter_in_either_precision() -> None:
    assert zero_memory(1, 1, 0).total_bytes == 16
    assert zero_memory(1, 1, 0, FULL_PRECISION_ADAM).total_bytes == 16


def test_bad_arguments_name_the_value() -> None:
    with pytest.raises(ValueError, match="stage is 4"):
        zero_memory(1e9, 8, 4)
    with pytest.raises(ValueError, match=r"serial_fraction is 1\.2"):
        amdahl_speedup(1.2, 8)
    with pytest.raises(ValueError, match="all are 1 or more"):
        pipeline_efficiency(0, 4)
    with pytest.raises(ValueError, match="exceeds compute_s"):
        step_s(0.1, 0.1, 0.2)
    with pytest.raises(ValueError, match="2 buckets but 1 times"):
        bucket_timeline(1, [1, 1], [1])
