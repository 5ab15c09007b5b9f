"""Every case that the package holds, scored: published figures with their source, and recorded measurements.

    for cell in score_shipped(): print(cell.family, cell.case, cell.signed_error)

What is known of each family (source, hardware, split) stands in `validation.families.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import cast

from distlab.predict import failures, megatron, recorded
from distlab.predict.cluster import Cluster
from distlab.predict.collectives import Op, bus_bandwidth_factor
from distlab.predict.convnet_cases import cnn_cases
from distlab.predict.goodput import Checkpoint, Recovery, goodput, optimal_interval_s
from distlab.predict.network import Algorithm, predict_collective, system
from distlab.predict.own import own_cases, recorded_gpu_cases
from distlab.predict.units import GB
from distlab.predict.validation import Scored
from distlab.predict.validation.formats import (
    ACTIVATION_CELLS,
    FIGURE_7,
    score_activations,
    score_collective,
    score_step,
)

HOUR_S, DAY_S = 3600.0, 86_400.0


def score_shipped() -> list[Scored]:
    """All of them, family by family."""
    return [
        *_recorded_all_reduces(),
        *_published_bandwidths(),
        *_megatron(),
        *_left_out(),
        *_activations(),
        *_convnets(),
        *_failures(),
        *_goodput(),
        *own_cases(),
        *recorded_gpu_cases(),
    ]


def _recorded_all_reduces() -> Iterator[Scored]:
    for run in recorded.all_reduce_runs():
        for size, time_s in run.samples:
            row = {"system": run.system, "gpus": str(run.gpus), "gpus_per_node": str(run.gpus_per_node)}
            row |= {"payload_bytes": repr(size), "time_ms": repr(1e3 * time_s)}
            yield score_collective(row, "all_reduce_h200" if run.system == "h200" else "all_reduce_dgx")


def _published_bandwidths() -> Iterator[Scored]:
    """Bus bandwidths that no fit saw."""
    for row in recorded.published_bandwidths():
        op, algorithm = cast(Op, row.op), cast("Algorithm | None", row.algorithm)
        topology = system(row.system, row.gpus, row.gpus_per_node)
        time_s = predict_collective(op, row.payload_bytes, topology, algorithm).total_s
        predicted = row.payload_bytes / time_s * bus_bandwidth_factor(op, row.gpus) / GB
        case = f"{row.system} {row.gpus} GPUs, {row.gpus_per_node} per node, {row.op}"
        case += f" as a {row.algorithm}" if row.algorithm else ""
        run = (row.system, row.gpus, row.gpus_per_node)
        yield Scored(
            "published_bandwidths", case, predicted, row.busbw_GBps, "collective", False, run,
            row.payload_bytes, "GB/s",
        )  # fmt: skip


def _megatron() -> Iterator[Scored]:
    for case in megatron.FITTED:
        unit = case.unit == "iteration_s"
        yield score_step(case, "megatron_iteration_time" if unit else "megatron_weak_scaling")
    for case, _ in megatron.held_out_530b():
        yield score_step(case, "megatron_530b")


def _left_out() -> Iterator[Scored]:
    """The fitted tables again, all in seconds: each model by a fit to the other models."""
    for case, cluster in zip(megatron.FITTED, _fits_without(megatron.FITTED), strict=True):
        cell = score_step(case, "megatron_left_out")
        predicted = case.step(cluster).step_s
        yield replace(cell, predicted=predicted, measured=case.measured_step_s, fitted=False, unit="s")


@cache
def _fits_without(cases: Sequence[megatron.Case]) -> tuple[Cluster, ...]:
    """For each case, the cluster that the cases of all other models give."""
    names = dict.fromkeys(case.model.name for case in cases)
    fits = {name: megatron.fit([case for case in cases if case.model.name != name]) for name in names}
    return tuple(fits[case.model.name] for case in cases)


def _activations() -> Iterator[Scored]:
    for name, percents in FIGURE_7.items():
        for column, percent in zip(ACTIVATION_CELLS, percents, strict=True):
            cell = {"model": name, column: str(percent)}
            yield score_activations(cell, "activation_memory", column, {})


def _convnets() -> Iterator[Scored]:
    for cell in cnn_cases():
        rate = cell.family == "convnet_images_per_s"
        yield replace(cell, unit="images/s") if rate else replace(cell, kind="scaling")


def _failures() -> Iterator[Scored]:
    """Each published count from the rates of all the other sites; and Llama 3's from its maker's two clusters alone."""
    for site in failures.PUBLISHED:
        told = failures.held_out(site)
        case = f"{site.name}: {site.what}"
        yield Scored(
            "failure_counts", case, told.expected, site.failures, "failures", False, unit="failures",
            interval=told.interval,
        )  # fmt: skip
    llama, *others = failures.PUBLISHED
    _, per_gpu_hour, _ = failures.rates_across_sites([site for site in others if site.name.startswith("RSC")])
    expected = per_gpu_hour * llama.gpu_hours
    yield Scored(
        "failure_counts", f"{llama.name} from RSC-1 and RSC-2 alone, counting error only", expected,
        llama.failures, "failures", False, unit="failures", interval=failures.poisson_interval(expected),
    )  # fmt: skip


RSC1_PER_NODE_DAY, RSC2_PER_NODE_DAY = 6.5e-3, 2.34e-3
"""Failures of a node of 8 GPUs in a day (Kokolis et al., 2024, arXiv 2410.21680; S)."""


def _goodput() -> Iterator[Scored]:
    """Kokolis et al. (2024): their expression at nine points, and two of their projections. Not measurements.

    (1 - N r (u + dt/2)) / (1 + w/dt), with r failures of one of N nodes, u the restart, dt the interval, w the save.
    """
    for gpus in (2_048, 8_192, 16_384):
        per_s = gpus / 8 * RSC1_PER_NODE_DAY / DAY_S
        for restart_s, interval_s, save_s in ((300, 1800, 30), (120, 600, 10), (300, 900, 60)):
            published = (1 - per_s * (restart_s + interval_s / 2)) / (1 + save_s / interval_s)
            ours = goodput(Recovery(1 / per_s, 0, restart_s), Checkpoint(interval_s, save_s)).useful
            case = f"{gpus:,} GPUs, restart {restart_s} s, {save_s} s of saving every {interval_s} s"
            yield _share(case, ours, published)
    job = Recovery(DAY_S / (12_000 / 8 * 1e-3), 0, 300)
    best = Checkpoint(optimal_interval_s(job, Checkpoint(1, 300)), 300)
    case = "12,000 GPUs, 1 failure in 1,000 node-days, saves of minutes (300 s)"
    yield _share(case, goodput(job, best).useful, 0.9)
    job = Recovery(DAY_S / (100_000 / 8 * RSC2_PER_NODE_DAY), 0, 120)
    young_s = 120**2 / (2 * job.mtbf_s)  # the one for which two minutes are Young's interval
    case = "100,000 GPUs, 2.34 failures in 1,000 node-days, restart and interval 120 s"
    yield _share(case, goodput(job, Checkpoint(120, young_s)).useful, 0.9)


def _share(case: str, predicted: float, published: float) -> Scored:
    return Scored(
        "goodput_published", case, 100 * predicted, 100 * published, "goodput", False, unit="points"
    )
