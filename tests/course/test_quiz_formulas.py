"""Formulas of the question banks, each against what it stands for: a rounding, a schedule, a model of the course."""

from __future__ import annotations

import math
import random

import pytest
import torch

from distlab.course.quiz.formulas import (
    largest_save_s,
    late_buckets_s,
    lost_from_step,
    low_rank_factor,
    none_share_probability,
    pat_all_gather_s,
    running_sum,
    zero3_gpus,
)
from distlab.predict.collectives import Link, all_gather_s
from distlab.predict.goodput import Checkpoint, Recovery, first_order_waste, young_interval_s


def test_zero3_gathers_are_as_long_as_the_arithmetic_of_a_node() -> None:
    tokens, flops, card_Bps, parameters = 8e6, 500e12, 45e9, 70e9  # noqa: N806 - the unit is part of the name
    gpus = zero3_gpus(tokens, flops, card_Bps)
    gather_s = 2 * parameters / (8 * card_Bps)
    forward_s = 2 * parameters * tokens / (gpus * flops)
    assert gather_s == pytest.approx(forward_s)


@pytest.mark.parametrize(
    ("buckets", "all_reduce_s", "late_s"), [(4, 0.01, 0.01), (4, 0.03, 0.045), (1, 0.2, 0.2)]
)
def test_buckets_are_late_by_one_of_them_or_by_what_the_wire_cannot_keep_up_with(
    buckets: int, all_reduce_s: float, late_s: float
) -> None:
    assert late_buckets_s(0.1, buckets, all_reduce_s) == pytest.approx(late_s)


def test_two_factors_have_fewer_numbers_than_their_product() -> None:
    left, right = torch.zeros(512, 4), torch.zeros(4, 128)
    assert low_rank_factor(512, 128, 4) == (left @ right).numel() / (left.numel() + right.numel())


def test_pat_sends_the_bytes_of_a_ring_in_fewer_steps() -> None:
    wire = Link(0.0, 50e9)
    assert pat_all_gather_s(1e8, 64, wire) == all_gather_s(1e8, 64, wire)
    assert pat_all_gather_s(0, 1000, Link(14e-6, 50e9)) == pytest.approx(10 * 14e-6)


def test_flows_share_a_cable_as_often_as_draws_do() -> None:
    draw = random.Random(0)
    apart = sum(len({draw.randrange(32) for _ in range(8)}) == 8 for _ in range(20_000)) / 20_000
    assert none_share_probability(8, 32) == pytest.approx(apart, abs=0.01)
    assert none_share_probability(3, 2) == 0


@pytest.mark.parametrize(("fraction_bits", "dtype"), [(7, torch.bfloat16), (10, torch.float16)])
@pytest.mark.parametrize("addend", [1.0, 1.5, 2.5, 5.0, 0.8125])
def test_a_running_sum_rounds_as_torch_does(fraction_bits: int, dtype: torch.dtype, addend: float) -> None:
    total = torch.zeros((), dtype=dtype)
    for _ in range(600):
        total += addend
    assert running_sum(addend, 600, fraction_bits) == total.item()


def test_no_update_moves_a_bf16_weight_from_that_step_on() -> None:
    peak, steps = 4e-4, 100_000
    for size in (0.02, 0.05, 0.1):
        weight = torch.tensor(size, dtype=torch.bfloat16)
        step = math.ceil(lost_from_step(weight.item(), peak, steps))
        assert weight - peak * (1 - step / steps) == weight
        assert lost_from_step(weight.item(), peak, steps) < lost_from_step(weight.item() / 2, peak, steps)
    # The bound is tight just below a power of two.
    weight = torch.tensor(2**-4 - 2**-12, dtype=torch.bfloat16)
    step = math.floor(0.97 * lost_from_step(weight.item(), peak, steps))
    assert weight - peak * (1 - step / steps) != weight


def test_the_largest_save_loses_the_share_that_may_be_lost() -> None:
    mtbf_s, write_s, detection_s, restart_s = 11_000.0, 40.0, 30.0, 90.0
    save_s = largest_save_s(mtbf_s, 0.05, write_s + detection_s + restart_s)
    saving = Checkpoint(young_interval_s(save_s, mtbf_s), save_s, write_s)
    assert first_order_waste(Recovery(mtbf_s, detection_s, restart_s), saving) == pytest.approx(0.05)
