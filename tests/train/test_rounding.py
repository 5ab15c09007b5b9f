"""Emulated formats: on the grid, right on average where they promise it, and lossless where nothing is lost."""

import pytest
import torch

from distlab.train.rounding import product_with_short_sums, round_stochastically, scaled

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("value", [1.001, -1.001, 0.02, 3e-39])
def test_stochastic_rounding_goes_to_a_neighbour_and_is_right_on_average(
    value: float, generator: torch.Generator
) -> None:
    x = torch.full((100_000,), value)
    rounded = round_stochastically(x, generator)
    assert torch.equal(rounded, rounded.bfloat16().float())
    low, high = rounded.min().item(), rounded.max().item()
    assert low < value < high
    assert ((rounded == low) | (rounded == high)).all()
    probability = (value - low) / (high - low)
    assert (rounded == high).float().mean().item() == pytest.approx(probability, abs=0.01)


def test_stochastic_rounding_leaves_what_bf16_holds_and_what_is_not_finite(
    generator: torch.Generator,
) -> None:
    x = torch.tensor([0.0, 1.0, -2.5, float("inf"), float("-inf")])
    assert torch.equal(round_stochastically(x, generator), x)
    assert round_stochastically(torch.tensor([float("nan")]), generator).isnan().all()


def test_a_scale_brings_the_largest_value_to_the_largest_of_the_format() -> None:
    x = torch.tensor([7.0, -3.5, 0.875])  # 7 = 448 / 64: the scale is a power of two and nothing is lost
    for dtype in (E4M3, torch.float16):
        assert torch.equal(scaled(x, dtype, power_of_two=True), x)
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    assert scaled(x, E4M3).abs().max().item() == pytest.approx(x.abs().max().item())
    assert ((scaled(x, E4M3) - x).norm() / x.norm()).item() < 2**-4  # half a unit of 3 bits, at the most
    assert (scaled(x, E5M2) - x).norm() > 1.8 * (scaled(x, E4M3) - x).norm()


def test_an_outlier_costs_its_own_block_alone() -> None:
    x = torch.randn(1024, generator=torch.Generator().manual_seed(0))
    x[0] = 1e7
    assert (scaled(x, E4M3)[1:] == 0).all()
    apart = scaled(x, E4M3, block=128)
    assert (apart[1:128] == 0).all()
    assert ((apart - x)[128:].norm() / x[128:].norm()).item() < 0.04


def test_a_stale_scale_clips() -> None:
    assert scaled(torch.tensor([1.0, 8.0]), E4M3, amax=2.0).tolist() == [1.0, 2.0]


def test_short_sums_lose_what_promotion_keeps() -> None:
    a = torch.rand(8, 1024, generator=torch.Generator().manual_seed(0))
    b = torch.rand(1024, 8, generator=torch.Generator().manual_seed(1))
    exact = a.double() @ b.double()

    def error(c: torch.Tensor) -> float:
        return float((c - exact).norm() / exact.norm())

    short = error(product_with_short_sums(a, b, 14))
    promoted = error(product_with_short_sums(a, b, 14, promote_every=128))
    assert error(product_with_short_sums(a, b, 24)) < 1e-6
    assert short > 4 * promoted > 1e-6


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="does not divide the 10 values"):
        scaled(torch.ones(10), E4M3, block=4)
    with pytest.raises(ValueError, match="leave block out"):
        scaled(torch.ones(8), E4M3, block=4, amax=1.0)
    with pytest.raises(ValueError, match="multiple of step, 32"):
        product_with_short_sums(torch.ones(1, 64), torch.ones(64, 1), 14, promote_every=48)
