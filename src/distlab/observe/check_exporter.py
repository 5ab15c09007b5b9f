"""Is what an exporter says of its GPUs complete, rightly labelled, physically possible, and alive?

Two scrapes, a moment apart, are enough to tell. Each check is a function of them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from distlab.errors import printable
from distlab.observe.metrics import DCGM, GPU_LABELS, METRICS, MIG_LABELS, OUR_LABELS
from distlab.observe.scrape import Scrape, Series

State = Literal["ok", "warn", "fail"]

CORE = tuple(
    f"DCGM_FI_{name}"
    for name in (
        "DEV_SM_CLOCK",
        "DEV_MEM_CLOCK",
        "DEV_GPU_TEMP",
        "DEV_POWER_USAGE",
        "DEV_GPU_UTIL",
        "DEV_MEM_COPY_UTIL",
        "DEV_FB_FREE",
        "DEV_FB_USED",
    )
)
"""What every NVIDIA GPU of a data centre tells; the rest of the set depends on model and rights."""
NOT_WITH_MIG = ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_MEM_COPY_UTIL")
"""With MIG on, the driver knows no utilisation of the whole GPU."""

RANGES = {
    "DCGM_FI_DEV_GPU_UTIL": (0, 100),
    "DCGM_FI_DEV_MEM_COPY_UTIL": (0, 100),
    "DCGM_FI_DEV_ENC_UTIL": (0, 100),
    "DCGM_FI_DEV_DEC_UTIL": (0, 100),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": (0, 1),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": (0, 1),
    "DCGM_FI_PROF_DRAM_ACTIVE": (0, 1),
    "DCGM_FI_DEV_GPU_TEMP": (5, 110),
    "DCGM_FI_DEV_MEMORY_TEMP": (5, 120),
    "DCGM_FI_DEV_POWER_USAGE": (1, 2000),
    "DCGM_FI_DEV_SM_CLOCK": (1, 4000),
    "DCGM_FI_DEV_MEM_CLOCK": (1, 20_000),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": (0, 511),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": (0, 1),
}
"""What can be true of any GPU, idle or loaded: no measurement is outside."""
POWER_PEAK = 1.2
"""Draw over its limit that a GPU may show for a moment."""
MEMORY_TOLERANCE = 0.1
"""Between the memory in a GPU's name and what the driver counts."""
SHOWN = 3
"""Findings that a check names."""


@dataclass(frozen=True)
class Check:
    """What was looked at, and what to do where it is not in order."""

    name: str
    state: State
    found: str
    fix: str = ""


def check_exporter(first: Scrape, second: Scrape) -> list[Check]:
    """All checks of an exporter's two pages."""
    return [
        gpus_found(second),
        tier_said(second),
        metrics_present(second),
        labels_right(second),
        values_possible(second),
        memory_adds_up(first, second),
        counters_grow(first, second),
        alive(first, second),
    ]


def uuids(scrape: Scrape) -> set[str]:
    """The GPUs on a page."""
    return {one.labels["UUID"] for one in scrape.series if _is_of_gpu(one) and "UUID" in one.labels}


def gpus_found(page: Scrape) -> Check:
    """At least one GPU, all that the source counts, and none lost."""
    name = "GPUs"
    found = uuids(page)
    counted = sum(one.value for one in page.named("distlab_source_gpus"))
    lost = sorted({one.labels.get("gpu", "?") for one in page.named("distlab_gpu_lost") if one.value})
    if lost:
        return Check(
            name, "fail", f"GPU {some(lost)} was there and is lost", "see the runbook of the alert GpuLost"
        )
    if not found:
        up = all(one.value for one in page.named("distlab_source_up"))
        fix = "look at the exporter's log and at `distlab observe sample`"
        return Check(name, "fail", "no GPU on the page" if up else "the exporter cannot read its GPUs", fix)
    if counted and counted != len(found):
        return Check(
            name, "fail", f"{len(found)} on the page, {counted:.0f} read", "look at the exporter's log"
        )
    return Check(name, "ok", f"{len(found)}: {some(sorted({_model(one) for one in _of_gpus(page)}))}")


def tier_said(page: Scrape) -> Check:
    """Does each series say where it comes from, and is a simulated GPU called one?"""
    name = "Tier of the data"
    tiers = {one.labels.get("tier", "") for one in _of_gpus(page)}
    lies = {
        _model(one)
        for one in _of_gpus(page)
        if "tier" in one.labels
        and (one.labels["tier"] == "simulated") != _model(one).startswith("SIMULATED")
        and one.labels["tier"] != "recorded"  # a recording may be of a simulation
    }
    if lies:
        return Check(name, "fail", f"{some(sorted(lies))} under another tier", "report it: the exporter errs")
    if tiers <= {""}:
        return Check(name, "warn", "not said", "use `distlab observe export`, or take it for gpu knowingly")
    meaning = {
        "gpu": "gpu: read from the driver now",
        "recorded": "recorded: read from a driver once",
        "simulated": "simulated: computed by a model",
    }
    return Check(name, "ok", "; ".join(meaning.get(tier, printable(tier)) for tier in sorted(tiers)))


def metrics_present(page: Scrape) -> Check:
    """Every metric of the set, for every GPU."""
    name = "Metrics"
    have: dict[str, set[str]] = defaultdict(set)
    sliced = set()
    for one in _of_gpus(page):
        uuid = one.labels.get("UUID", "")
        have[uuid].add(one.name)
        if MIG_LABELS[1] in one.labels:
            sliced.add(uuid)
    missing: set[str] = set()
    untold: set[str] = set()
    for uuid, names in have.items():
        for metric in DCGM:
            if metric.name not in names and not (uuid in sliced and metric.name in NOT_WITH_MIG):
                (missing if metric.name in CORE else untold).add(metric.name)
    if missing:
        fix = "look at distlab_source_problems and the exporter's log: driver and rights"
        return Check(name, "fail", f"missing: {some(sorted(missing))}", fix)
    told = len(DCGM) - len(untold)
    if untold:
        fix = "nothing where the model has no such part; else rights (profiling counters need administrator rights)"
        return Check(
            name, "warn", f"{told} of {len(DCGM)} for each GPU; not told: {some(sorted(untold))}", fix
        )
    return Check(name, "ok", f"all {told}, for each GPU")


def labels_right(page: Scrape) -> Check:
    """The labels of dcgm-exporter and distlab, and values that fit each other."""
    name = "Labels"
    ours = any(one.name.startswith("distlab_") for one in page.series)
    wrong = set()
    for one in page.series:
        metric = METRICS.get(one.name)
        if metric is None:
            if ours and one.name.startswith(("DCGM_", "distlab_")):
                wrong.add(f"{one.name} is unknown")
            continue
        wanted = set(metric.labels if ours else GPU_LABELS)
        absent = wanted - set(one.labels)
        surplus = set(one.labels) - wanted - set(MIG_LABELS) if ours else set()
        if absent or surplus:
            wrong.add(f"{one.name} {'lacks' if absent else 'has'} {', '.join(sorted(absent or surplus))}")
        elif _is_of_gpu(one) and one.labels["device"] != f"nvidia{one.labels['gpu']}":
            wrong.add(f"{one.name}: device {one.labels['device']} for gpu {one.labels['gpu']}")
    if wrong:
        return Check(name, "fail", some(sorted(wrong)), "use an exporter of this version of distlab")
    if not ours:
        fix = f"nothing; without {', '.join(OUR_LABELS)} nobody knows whose GPU it is"
        return Check(name, "warn", "those of dcgm-exporter alone", fix)
    return Check(name, "ok", f"{', '.join((*GPU_LABELS[:2], *OUR_LABELS))} and the rest, on every series")


def values_possible(page: Scrape) -> Check:
    """No utilisation of 140%, no frozen GPU, no clock over its maximum."""
    name = "Values"
    limits = {
        (limit, one.labels.get("UUID")): one.value * factor
        for limit, metric, factor in (
            ("DCGM_FI_DEV_SM_CLOCK", "distlab_gpu_sm_clock_max_mhz", 1.0),
            ("DCGM_FI_DEV_POWER_USAGE", "distlab_gpu_power_limit_watts", POWER_PEAK),
        )
        for one in page.named(metric)
    }
    wrong = []
    for one in page.series:
        low, high = RANGES.get(one.name, (-math.inf, math.inf))
        high = min(high, limits.get((one.name, one.labels.get("UUID")), math.inf))
        negative = one.name in METRICS and one.name != "distlab_train_loss" and one.value < 0
        if not low <= one.value <= high or negative:
            wrong.append(f"{one.name} of GPU {one.labels.get('gpu', '-')} is {one.value:g}")
    if wrong:
        fix = "compare with `nvidia-smi -q -i GPU`; a sensor or the exporter errs"
        return Check(name, "fail", some(wrong), fix)
    return Check(name, "ok", "all within what is physically possible")


def memory_adds_up(first: Scrape, second: Scrape) -> Check:
    """Used, free and reserved are the GPU's memory: the same sum in both scrapes, and what its name says."""
    name = "Memory"
    before, now = _memory_mib(first), _memory_mib(second)
    wrong = []
    for (uuid, model), total in now.items():
        if abs(before.get((uuid, model), total) - total) > 0.01 * total:
            wrong.append(f"the sum of {uuid} moved from {before[uuid, model]:.0f} to {total:.0f} MiB")
        said = re.search(r"(\d+)\s?GB\b", model)
        if said and abs(total / 1024 / int(said[1]) - 1) > MEMORY_TOLERANCE:
            wrong.append(f"{total / 1024:.1f} GiB on a {model}")
    if wrong:
        return Check(name, "fail", some(wrong), "compare with `nvidia-smi -q -d MEMORY`")
    if not now:
        return Check(name, "warn", "not told for whole GPUs", "nothing, where MIG is on")
    totals = sorted({f"{total / 1024:.1f} GiB" for total in now.values()})
    return Check(name, "ok", f"used, free and reserved add up to {some(totals)}")


def counters_grow(first: Scrape, second: Scrape) -> Check:
    """A counter never falls while its exporter lives."""
    before = {one.key: one.value for one in first.series}
    counters = [one for one in second.series if _is_counter(one, second)]
    fell = [
        f"{one.name} fell from {before[one.key]:g} to {one.value:g}"
        for one in counters
        if one.value < before.get(one.key, -math.inf)
    ]
    if fell:
        fix = "validate again: a restart between the scrapes does this once; else the exporter errs"
        return Check("Counters", "fail", some(fell), fix)
    return Check("Counters", "ok", f"none of {len(counters)} fell in {second.time - first.time:.1f} s")


def alive(first: Scrape, second: Scrape) -> Check:
    """Has each GPU been read anew in between? Its energy grows, or some value has moved."""
    before = {one.key: one.value for one in first.series}
    moved, known = set(), set()
    for one in _of_gpus(second):
        uuid = one.labels.get("UUID", "")
        known.add(uuid)
        if one.value != before.get(one.key):
            moved.add(uuid)
    stale = sorted(known - moved)
    if stale:
        fix = "wait longer between the scrapes (--seconds); if it stays so, restart the exporter"
        return Check("Fresh", "fail", f"no value of {some(stale)} has moved", fix)
    return Check("Fresh", "ok", f"each GPU was read within {second.time - first.time:.1f} s")


def _is_counter(one: Series, page: Scrape) -> bool:
    metric = METRICS.get(one.name)
    return metric.kind == "counter" if metric else page.kinds.get(one.name) == "counter"


def _memory_mib(page: Scrape) -> dict[tuple[str, str], float]:
    """Of each whole GPU."""
    parts: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for part in ("USED", "FREE", "RESERVED"):
        for one in page.named(f"DCGM_FI_DEV_FB_{part}"):
            if not one.labels.get(MIG_LABELS[1]):
                parts[one.labels.get("UUID", ""), _model(one)][part] = one.value
    return {key: sum(sizes.values()) for key, sizes in parts.items() if {"USED", "FREE"} <= set(sizes)}


def _is_of_gpu(one: Series) -> bool:
    return one.name.startswith("DCGM_FI_")


def _of_gpus(page: Scrape) -> Iterator[Series]:
    return filter(_is_of_gpu, page.series)


def _model(one: Series) -> str:
    return one.labels.get("modelName", "")


def some(findings: Iterable[str]) -> str:
    """The first few, and how many more."""
    every = [printable(str(one)) for one in findings]
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
