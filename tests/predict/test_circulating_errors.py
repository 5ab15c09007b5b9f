"""Errors that circulate in courses on this subject; each with the value that comes out here."""

from __future__ import annotations

import pytest

from distlab.predict.failures import (
    Component,
    any_failure_probability,
    availability,
    component_mtbf_h,
    expected_failures,
    job_mtbf_h,
)
from distlab.predict.goodput import (
    Checkpoint,
    Recovery,
    goodput,
    optimal_interval_s,
    run_days,
    write_s,
    young_interval_s,
)
from distlab.predict.registry import value
from distlab.predict.scaling import pipeline_efficiency
from distlab.predict.units import GB, bytes_per_s, gigabits_per_s


def test_availability_of_16_hours_up_and_3_down_is_84_percent_not_three_nines() -> None:
    assert availability(mtbf_h=16, repair_h=3) == pytest.approx(0.842, abs=5e-4)
    # 99.9% leaves such a repair 16 hours' thousandth part:
    assert availability(16, 16 / 999) == pytest.approx(0.999)


def test_expected_failures_are_not_the_probability_of_one_times_the_nodes() -> None:
    # 256 nodes, 30 days, one failure in 100,000 h each.
    expected = expected_failures(256, mtbf_h=100_000, hours=30 * 24)
    assert expected == pytest.approx(1.84, abs=0.005)
    assert any_failure_probability(expected) == pytest.approx(0.84, abs=0.005)
    assert any_failure_probability(expected) * 256 == pytest.approx(215, abs=0.5)  # the error


def test_300_billion_tokens_at_1000_a_second_are_3472_days_not_868() -> None:
    assert run_days(300e9, tokens_per_s=1_000) == pytest.approx(3_472, abs=0.5)
    assert run_days(300e9, tokens_per_s=4_000) == pytest.approx(868, abs=0.1)
    assert run_days(300e9, 1_000, goodput_share=0.9) == pytest.approx(3_858, abs=0.5)


def test_four_stages_with_four_microbatches_are_57_percent_busy_not_25() -> None:
    assert pipeline_efficiency(stages=4, microbatches=4) == pytest.approx(0.571, abs=5e-4)


def test_gigabytes_over_gigabits_per_second_want_a_factor_of_8() -> None:
    # 100 GB through a link of 400 Gb/s.
    assert write_s(100 * GB, bytes_per_s(400)) == pytest.approx(2.0)
    assert write_s(100 * GB, bytes_per_s(400)) == pytest.approx(8 * 100 / 400)


def test_hdr_is_200_gigabits_not_100() -> None:
    assert gigabits_per_s(value("ib_hdr_Bps")) == pytest.approx(200)
    assert value("ib_ndr_Bps") == 2 * value("ib_hdr_Bps")


def test_checkpoints_are_minutes_apart_at_scale_not_6_to_12_hours() -> None:
    job = Recovery(mtbf_s=54 * 86_400 / 419, detection_s=60, restart_s=300)
    saving = Checkpoint(interval_s=6 * 3600, blocking_s=60)
    for interval_s in (young_interval_s(60, job.mtbf_s), optimal_interval_s(job, saving)):
        assert 15 < interval_s / 60 < 25
    assert goodput(job, saving).useful < 0.35
    assert goodput(job, saving.every(12 * 3600)).useful < 0.1


def test_an_mtbf_of_200_hours_would_stop_llama3_every_44_seconds() -> None:
    assert job_mtbf_h([Component("GPU", 16_384, 200)]) * 3600 == pytest.approx(44, abs=0.1)
    assert job_mtbf_h([Component("GPU", 16_384, 200_000)]) == pytest.approx(12.2, abs=0.05)
    # What was published lies between, and nearer the second.
    assert component_mtbf_h(54 * 24 / 419, 16_384) == pytest.approx(50_700, rel=1e-3)
