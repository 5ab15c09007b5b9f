"""What a training job asks of its storage while it reads: requests in flight, samples per second, and who limits them.

rate = loader(workers=64, sample_bytes=110e3, latency_s=1e-3, stream_Bps=200e6, client_Bps=1.5e9, round_trips=3)
rate.samples_per_s, rate.limit           # and "latency" or "client" says what to change
in_flight(requests_per_s=20_000, latency_s=0.15)          # 3,000 requests that must be on their way at once
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distlab.errors import SettingError
from distlab.predict.failures import not_negative, positive


def in_flight(requests_per_s: float, latency_s: float) -> float:
    """Requests that are under way at any time: rate times latency (Little, Operations Research 9(3), 1961).

    Each second `requests_per_s` begin, and each stays `latency_s`; a reader that keeps fewer on their way gets less.
    """
    return not_negative("requests_per_s", requests_per_s) * not_negative("latency_s", latency_s)


@dataclass(frozen=True)
class LoaderRate:
    """What one node's loader reaches."""

    samples_per_s: float
    limit: Literal["latency", "stream", "client", "decoding"]
    """What takes most of a worker's time, or `client`: the node's whole share of the storage."""


def loader(
    workers: int,
    sample_bytes: float,
    latency_s: float,
    stream_Bps: float,  # noqa: N803 - the unit is part of the name
    client_Bps: float = math.inf,  # noqa: N803
    round_trips: float = 1.0,
    decode_s: float = 0.0,
) -> LoaderRate:
    """Of workers that read one sample after the other, each: wait, read, decode.

    round_trips: of `latency_s` before the bytes of a sample: name, open and first read are three; of a sample inside a
    large file that is read in order, next to none. stream_Bps: of one reader alone. client_Bps: of the node.
    """
    if workers < 1:
        raise SettingError(f"workers is {workers}; it must be 1 or more.")
    size = positive("sample_bytes", sample_bytes)
    parts: dict[Literal["latency", "stream", "decoding"], float] = {
        "latency": not_negative("round_trips", round_trips) * not_negative("latency_s", latency_s),
        "stream": size / positive("stream_Bps", stream_Bps),
        "decoding": not_negative("decode_s", decode_s),
    }
    by_workers = workers / sum(parts.values())
    by_client = positive("client_Bps", client_Bps, infinite=True) / size
    if by_client < by_workers:
        return LoaderRate(by_client, "client")
    most, _ = max(parts.items(), key=lambda part: part[1])
    return LoaderRate(by_workers, most)
