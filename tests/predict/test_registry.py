"""Constants carry sources that the book can cite; recordings load, and the model's error on them is known."""

import re
from pathlib import Path
from statistics import mean

import pytest

from distlab.predict.collectives import bus_bandwidth_Bps, fit_alpha_beta, ring_all_reduce_s
from distlab.predict.recorded import all_reduce_run, all_reduce_runs
from distlab.predict.registry import REGISTRY, constant, value
from distlab.predict.units import GB, GIB

BIBLIOGRAPHY = Path(__file__).parents[2] / "book" / "references.bib"


def test_every_source_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY.read_text(), re.M))
    sources = {c.source for c in REGISTRY.values()} | {run.source for run in all_reduce_runs()}
    assert sources <= keys


def test_link_rates_are_bytes_not_bits() -> None:
    assert value("ib_ndr_Bps") == 50 * GB
    assert all(c.unit != "bit/s" for c in REGISTRY.values())


def test_an_unknown_constant_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="nvlink4_Bps"):
        constant("nvlink4_GBps")


def test_an_unknown_recording_lists_what_there_is() -> None:
    with pytest.raises(KeyError, match="h100_dgx"):
        all_reduce_run("h100_dgx", 3, 3)


def test_h200_recording_gives_the_published_bus_bandwidth() -> None:
    payload, time_s = all_reduce_run("h200", 8, 8).samples[-1]
    assert payload == 16 * GIB
    bus = bus_bandwidth_Bps("all_reduce", payload, time_s, 8)
    assert bus == pytest.approx(value("h200x8_nvls_all_reduce_Bps"), rel=1e-3)


@pytest.mark.parametrize(
    ("system", "gpus", "gpus_per_node", "bound"),
    [("h100_dgx", 8, 8, 0.06), ("a100_dgx", 8, 8, 0.11), ("a100_dgx", 16, 8, 0.16)],
)
def test_held_out_error_of_the_alpha_beta_model(
    system: str, gpus: int, gpus_per_node: int, bound: float
) -> None:
    # Fitted on every second payload of 1 MB and more, held against the others. A regression bound: the
    # chapter prints the same figures.
    samples = [s for s in all_reduce_run(system, gpus, gpus_per_node).samples if s[0] >= 1e6]
    link = fit_alpha_beta(samples[::2], gpus)
    errors = [abs(ring_all_reduce_s(size, gpus, link) - time) / time for size, time in samples[1::2]]
    assert mean(errors) < bound
