"""Loading: by hand, and by a simulation of workers that wait."""

from __future__ import annotations

import pytest

from distlab.errors import SettingError
from distlab.predict.loading import in_flight, loader


def test_little_by_hand() -> None:
    assert in_flight(20_000, 0.15) == 3_000
    assert in_flight(0, 1) == 0


def test_each_limit_by_hand() -> None:
    slow = loader(workers=8, sample_bytes=1e5, latency_s=1e-3, stream_Bps=1e9, round_trips=3)
    assert slow.samples_per_s == pytest.approx(8 / (3e-3 + 1e-4))
    assert slow.limit == "latency"
    assert loader(8, 1e6, 1e-3, 1e8).limit == "stream"
    assert loader(8, 1e6, 1e-3, 1e9, decode_s=0.1).limit == "decoding"
    wide = loader(1000, 1e6, 1e-3, 1e9, client_Bps=1e9)
    assert (wide.samples_per_s, wide.limit) == (1000, "client")


def test_workers_that_wait_reach_it() -> None:
    """A worker's clock moves by its own parts alone: in 60 s of it, so many samples."""
    workers, parts = 5, (2e-3, 1e6 / 5e8, 3e-3)
    done = 0
    for _ in range(workers):
        clock = 0.0
        while (clock := clock + sum(parts)) <= 60:
            done += 1
    assert loader(workers, 1e6, 2e-3, 5e8, decode_s=3e-3).samples_per_s == pytest.approx(done / 60, rel=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: in_flight(-1, 1),
        lambda: loader(0, 1, 1, 1),
        lambda: loader(1, 0, 1, 1),
        lambda: loader(1, 1, 1, 0),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(SettingError):
        call()  # type: ignore[operator]
