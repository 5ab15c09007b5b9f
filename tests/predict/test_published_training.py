"""Published runs on H100: read right, and how far the step model is from them."""

from statistics import median

import pytest

from distlab.predict.published_training import PublishedRun, published_training

RUNS = published_training()


@pytest.mark.parametrize("run", [run for run in RUNS if run.parameters], ids=lambda run: run.name)
def test_a_model_has_the_parameters_that_its_source_prints(run: PublishedRun) -> None:
    assert run.model.parameters == run.parameters


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run.published_mfu and run.tokens_per_s_per_gpu], ids=lambda run: run.name
)
def test_the_two_published_columns_agree(run: PublishedRun) -> None:
    """MFU by the source's own formula, 6 N + 12 l h s per token, from its tokens per second."""
    model = run.model
    flops_per_token = 6 * model.parameters + 12 * model.layers * model.hidden * model.sequence
    assert run.tokens_per_s_per_gpu is not None
    assert run.tokens_per_s_per_gpu * flops_per_token / 989.4e12 == pytest.approx(run.mfu, rel=0.01)


def test_a_rate_of_tokens_becomes_an_mfu_near_what_its_source_says() -> None:
    """torchtitan's page says 33 to 39 % with another count of FLOP: half of the attention scores."""
    rates = [run.mfu for run in RUNS if run.published_mfu is None]
    assert rates == pytest.approx([0.41, 0.40], abs=0.03)


def test_the_model_promises_more_than_short_samples_reach() -> None:
    short = [run.flattery for run in RUNS if run.model.sequence <= 4096]
    assert min(short) > 1.1
    assert 1.2 < median(short) < 1.5
    assert max(short) < 1.6
