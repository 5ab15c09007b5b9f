"""A topology from your own measurement: the file that `distlab bench collectives --out FILE` writes.

    from distlab.predict.network.calibrate import calibrate
    found = calibrate("before.json")
    found.topology, found.mean_error, found.held_out_error
    fit_host(samples, cores=2).seconds("all_reduce", 4 * MIB, ranks=4)      # processes that share a machine's cores

Every other payload is fitted and the rest held out; the fit over all of them is what is returned.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from distlab.errors import SettingError, printable
from distlab.predict.collectives import Op
from distlab.predict.network.algorithms import kernel_factor
from distlab.predict.network.fitting import Sample, fit, mean_error
from distlab.predict.network.model import predict_collective
from distlab.predict.network.topology import PROTOCOLS, NodeLink, Protocol, Topology

RANKS_MOST = 100_000
PAYLOAD_MOST = 2.0**50


@dataclass(frozen=True)
class Calibration:
    """A fitted topology, and how far it is off the times that it was fitted to and those that it was not."""

    topology: Topology
    op: Op
    samples: tuple[Sample, ...]
    mean_error: float
    """Mean of |predicted - measured| / measured, over the samples."""
    held_out_error: float
    """The same over every other payload, of a fit to those between."""


def calibrate(
    path: str | Path, op: Op = "all_reduce", op_from_bytes: float = 0.0, name: str = "measured"
) -> Calibration:
    """Fit launch, hop, chunk and bandwidth to the rows of `op`, those of `op_from_bytes` and more.

    All ranks are taken as one node: a file does not say which ranks share a link. The hop's time can be told from the
    launch only where the rows have more than one world size; with one it is all launch.
    Raises SettingError for a file that is not one of results of collectives, and for one with too few rows of `op`.
    """
    from distlab.bench.results import read_results  # keeps `distlab.predict` usable without the benchmarks

    if op not in get_args(Op):
        raise SettingError(f"op is {op!r}; it must be one of {', '.join(get_args(Op))}.")
    results = read_results(path)
    shown = printable(str(path))
    if results.kind != "collectives":
        raise SettingError(
            f"{shown} holds {printable(results.kind)!r}; expected what `distlab bench collectives --out` writes."
        )
    found = [_sample(row, op, shown) for row in results.rows if row.get("operation") == op]
    samples = _by_payload([s for s in found if s.payload_bytes >= op_from_bytes and s.gpus > 1])
    if len({s.payload_bytes for s in samples}) < 4:
        raise SettingError(
            f"{shown} has {op} rows of {len({s.payload_bytes for s in samples})} payloads over 2 ranks or more; "
            "a fit needs 4: measure a range of sizes."
        )
    protocols = PROTOCOLS if results.stamp.get("backend") == "nccl" else ("Simple",)
    topology = fit_topology(samples, name, protocols)
    half = fit_topology(samples[::2], name, protocols)
    return Calibration(
        topology, op, tuple(samples), mean_error(samples, topology), mean_error(samples[1::2], half)
    )


def _sample(row: Mapping[str, Any], op: Op, shown: str) -> Sample:
    """A row's median. Rows were written by anybody: counts and sizes are checked, times are by `read_results`."""
    ranks, payload = row.get("world_size"), row.get("payload_bytes")
    if type(ranks) is not int or not 1 <= ranks <= RANKS_MOST:
        raise SettingError(
            f"{shown} has a row whose world_size is not 1 to {RANKS_MOST:,}; measure it again."
        )
    if type(payload) not in (int, float) or payload is None or not 0 < payload <= PAYLOAD_MOST:
        raise SettingError(f"{shown} has a row whose payload_bytes is no size; measure it again.")
    return Sample(ranks, ranks, float(payload), statistics.median(row["samples_s"]), op)


def _by_payload(samples: Sequence[Sample]) -> list[Sample]:
    """One sample per world size and payload, by payload: the median over places, dtypes and roots."""
    groups: dict[tuple[float, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.payload_bytes, sample.gpus), []).append(sample)
    return [
        Sample(gpus, gpus, payload, statistics.median(s.time_s for s in group), group[0].op)
        for (payload, gpus), group in sorted(groups.items())
    ]


def fit_topology(samples: Sequence[Sample], name: str, protocols: tuple[Protocol, ...]) -> Topology:
    """One node's launch, hop, chunk and bandwidth, from a start that the smallest and the largest payload give."""
    quick, big = min(s.time_s for s in samples), max(samples, key=lambda s: s.payload_bytes)
    tells_hops = len({s.gpus for s in samples}) > 1

    def build(values: Sequence[float]) -> Topology:
        launch_s, chunk_s, bandwidth_Bps = values[:3]  # noqa: N806 - the unit is part of the name
        inside = NodeLink(name, bandwidth_Bps, values[3] if tells_hops else 0.0, chunk_s, protocols)
        return Topology(big.gpus, big.gpus, inside, launch_s=launch_s)

    rate = kernel_factor(big.op, big.gpus) * big.payload_bytes / big.time_s
    start = [
        quick / 2,
        quick / (20 * big.gpus),
        1.2 * rate,
        *([quick / (4 * big.gpus)] if tells_hops else []),
    ]
    return build(fit(samples, start, build))


def slowdown(ranks: int, cores: int) -> float:
    """How much longer `ranks` processes, one thread each, take for the same work each than one alone: ranks / cores.

    Never below 1: a thread is on one core at a time. Source: processor sharing (Kleinrock, 1976, Queueing Systems II,
    section 4.4), to which a fair scheduler comes close: of n runnable threads each gets cores / n of a core. Left out:
    switching, caches and memory bandwidth that neighbours share.
    """
    if min(ranks, cores) < 1:
        raise SettingError(f"ranks is {ranks} and cores {cores}; both are 1 or more.")
    return max(1.0, ranks / cores)


@dataclass(frozen=True)
class Host:
    """Processes of one machine whose network is its memory, and their own cores move the bytes."""

    topology: Topology
    """As if each process had a core."""
    cores: int

    def seconds(self, op: Op, payload_bytes: float, ranks: int) -> float:
        """Of a collective; `payload_bytes` as in `collectives`."""
        alone_s = predict_collective(op, payload_bytes, self.topology.group(ranks, ranks)).total_s
        return slowdown(ranks, self.cores) * alone_s


def fit_host(samples: Sequence[Sample], cores: int, name: str = "memory") -> Host:
    """From times of one operation over any numbers of ranks, each taken as `slowdown` times what it would be alone."""
    alone = [replace(sample, time_s=sample.time_s / slowdown(sample.gpus, cores)) for sample in samples]
    return Host(fit_topology(alone, name, ("Simple",)), cores)
