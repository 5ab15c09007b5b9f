"""Times and bandwidths of collectives that others measured and published, to hold a model against.

Each file names its source, hardware and units in its first lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from distlab.predict.commented_csv import read_rows

DGX = "all_reduce_dgx.csv"
H200 = "all_reduce_h200.csv"
BANDWIDTHS = "published_bandwidths.csv"


@dataclass(frozen=True)
class AllReduceRun:
    """One system at one world size: `samples` are (payload in bytes, seconds), by payload."""

    system: str
    gpus: int
    gpus_per_node: int
    source: str
    samples: tuple[tuple[float, float], ...]

    @property
    def nodes(self) -> int:
        return self.gpus // self.gpus_per_node


@dataclass(frozen=True)
class PublishedBandwidth:
    """One collective over a long payload. `algorithm` is None where NCCL chose."""

    op: str
    system: str
    gpus: int
    gpus_per_node: int
    payload_bytes: float
    algorithm: str | None
    busbw_GBps: float  # noqa: N815


def published_bandwidths() -> list[PublishedBandwidth]:
    """Single figures from bekman_ml_engineering, of which no fit knows."""
    return [
        PublishedBandwidth(
            row["op"],
            row["system"],
            int(row["gpus"]),
            int(row["gpus_per_node"]),
            float(row["payload_bytes"]),
            row["algorithm"] or None,
            float(row["busbw_GBps"]),
        )
        for row in _rows(BANDWIDTHS)
    ]


def all_reduce_runs() -> list[AllReduceRun]:
    """Every recorded run: DGX A100 and DGX H100 (microsoft/vidur), 8 H200 (ml-engineering)."""
    return [*_dgx_runs(), _h200_run()]


def all_reduce_run(system: str, gpus: int, gpus_per_node: int) -> AllReduceRun:
    """The run of that system and shape, such as `("h100_dgx", 8, 8)`; KeyError lists what there is."""
    runs = {(run.system, run.gpus, run.gpus_per_node): run for run in all_reduce_runs()}
    key = (system, gpus, gpus_per_node)
    if key not in runs:
        raise KeyError(f"no recording of {key}; there are {sorted(runs)}")
    return runs[key]


def _dgx_runs() -> list[AllReduceRun]:
    shapes: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    for row in _rows(DGX):
        key = (row["system"], int(row["gpus"]), int(row["gpus_per_node"]))
        shapes.setdefault(key, []).append((float(row["payload_bytes"]), float(row["time_ms"]) / 1e3))
    return [
        AllReduceRun(system, gpus, per_node, "agrawal2024vidur", tuple(sorted(samples)))
        for (system, gpus, per_node), samples in shapes.items()
    ]


def _h200_run() -> AllReduceRun:
    """The table gives algorithm bandwidth; time is payload over it."""
    samples = tuple(
        (float(row["payload_bytes"]), float(row["payload_bytes"]) / (float(row["algbw_GBps"]) * 1e9))
        for row in _rows(H200)
    )
    return AllReduceRun("h200", 8, 8, "bekman_ml_engineering", samples)


def _rows(name: str) -> list[dict[str, str]]:
    return read_rows(resources.files("distlab.predict").joinpath("data", name).read_text())
