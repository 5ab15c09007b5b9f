"""Scaling laws against brute force, published values and a gradient whose noise is known."""

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict.scaling_laws import (
    BESIROGLU,
    HOFFMANN,
    ParametricLaw,
    compute_optimal,
    noise_scale,
    samples_over_least,
    steps_over_least,
)


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU], ids=lambda law: law.name)
@given(flops=st.floats(1e19, 1e27))
def test_no_other_split_of_the_budget_has_a_lower_loss(law: ParametricLaw, flops: float) -> None:
    parameters, tokens = compute_optimal(flops, law)
    assert 6 * parameters * tokens == pytest.approx(flops)
    best = law.loss(parameters, tokens)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert law.loss(parameters * factor, tokens / factor) > best


def test_chinchillas_budget_gives_about_twenty_tokens_per_parameter_in_the_second_fit() -> None:
    """Chinchilla: 70e9 parameters, 1.4e12 tokens. The first fit, rounded, asks for far more tokens."""
    flops = 6 * 70e9 * 1.4e12
    parameters, tokens = compute_optimal(flops, BESIROGLU)
    assert tokens / parameters == pytest.approx(20, rel=0.2)
    parameters, tokens = compute_optimal(flops, HOFFMANN)
    assert tokens / parameters > 50


def test_the_noise_scale_of_a_known_gradient() -> None:
    """Mean (1, ..., 1) in 10 dimensions, each coordinate with variance 9: tr(S)/|G|^2 is 90/10."""
    draw = random.Random(0)

    def norm_squared(batch: int) -> float:
        return sum(fmean(1 + 3 * draw.gauss(0, 1) for _ in range(batch)) ** 2 for _ in range(10))

    small, large = (fmean(norm_squared(batch) for _ in range(400)) for batch in (4, 64))
    assert noise_scale(4, small, 64, large) == pytest.approx(9, rel=0.1)


def test_estimates_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingError, match="more steps"):
        noise_scale(4, 1.0, 64, 2.0)
    with pytest.raises(SettingError, match="large_batch"):
        noise_scale(64, 1.0, 4, 2.0)


@given(batch=st.floats(1, 1e6), critical=st.floats(1, 1e6))
def test_steps_and_samples_trade_off_along_a_hyperbola(batch: float, critical: float) -> None:
    steps, samples = steps_over_least(batch, critical), samples_over_least(batch, critical)
    assert (steps - 1) * (samples - 1) == pytest.approx(1)
    assert samples / steps == pytest.approx(batch / critical)
