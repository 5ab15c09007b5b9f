"""How often a job of many parts fails: MTBF of components combined, counts with intervals, availability.

    job_mtbf_h([Component("GPU", 16_384, mtbf_h=50_700)])       # 3.1 h: rates add, times do not
    poisson_interval(expected_failures(256, 100_000, 30 * 24))  # 1.84 expected, 0 to 5 seen
    held_out(PUBLISHED[0]).interval                             # what the other sites say of this one

An MTBF is a mean over many parts, not a lifetime: at 100,000 h one GPU in eleven fails within a year. Failures are
taken as Poisson: independent, at a constant rate. That is generous in a cluster's first months, and where one bad
switch takes eight nodes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlab.errors import SettingError

if TYPE_CHECKING:
    from distlab.predict.hardware.figures import Confidence


@dataclass(frozen=True)
class Component:
    """`count` parts of one kind in a job, each failing once in `mtbf_h` hours on average."""

    name: str
    count: int
    mtbf_h: float
    replaced: bool = True
    """A failure takes the node out until it is repaired; False: the node starts again (a software fault)."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise SettingError(f"count of {self.name} is {self.count}; it is 0 or more.")
        positive(f"mtbf_h of {self.name}", self.mtbf_h, infinite=True)

    @property
    def failures_per_h(self) -> float:
        return self.count / self.mtbf_h


def job_mtbf_h(components: Iterable[Component]) -> float:
    """Hours between failures of a job that any component stops: 1 / sum of count / MTBF; infinite without any.

    Series system of exponential parts (Barlow and Proschan, 1975).
    """
    rate = sum(component.failures_per_h for component in components)
    return 1 / rate if rate else math.inf


def component_mtbf_h(job_mtbf_hours: float, count: int) -> float:
    """Hours between failures of one of `count` equal parts, from those of the job: the inverse of job_mtbf_h."""
    return positive("job_mtbf_hours", job_mtbf_hours) * _at_least_one("count", count)


def expected_failures(count: int, mtbf_h: float, hours: float) -> float:
    """Mean number of failures of `count` parts in `hours`: count x hours / MTBF, each being replaced."""
    return count * not_negative("hours", hours) / positive("mtbf_h", mtbf_h, infinite=True)


def any_failure_probability(expected: float) -> float:
    """Probability of one failure or more: 1 - exp(-expected). Of the whole job: do not multiply it by the nodes."""
    return -math.expm1(-not_negative("expected", expected))


def availability(mtbf_h: float, repair_h: float) -> float:
    """Long-run share of time in service: MTBF / (MTBF + MTTR), MTBF counting up-time alone."""
    return positive("mtbf_h", mtbf_h) / (mtbf_h + not_negative("repair_h", repair_h))


def availability_of_all(single: float, count: int) -> float:
    """Share of time that `count` independent parts are all in service: single ** count."""
    if not 0 <= single <= 1:
        raise SettingError(f"availability is {single}; it lies between 0 and 1.")
    return single ** _at_least_one("count", count)


def spares_needed(nodes: int, node_mtbf_h: float, repair_h: float, confidence: float = 0.95) -> int:
    """Spare nodes with which a failure finds one free in `confidence` of cases.

    The nodes in repair are Poisson with mean nodes x MTTR / MTBF (Palm's theorem, any repair time distribution).
    """
    _share("confidence", confidence)
    mean = expected_failures(nodes, node_mtbf_h, repair_h)
    # Found free: fewer than `spares` are in repair when the failure comes.
    return _quantile(mean, math.inf, confidence) + 1


def poisson_interval(expected: float, confidence: float = 0.95) -> tuple[int, int]:
    """The counts from the lower to the upper quantile of Poisson(`expected`), both included."""
    return predictive_interval(expected, math.inf, confidence)


def predictive_interval(expected: float, shape: float, confidence: float = 0.95) -> tuple[int, int]:
    """Interval of a count whose rate is itself uncertain: Gamma of that `shape`, mean `expected`.

    The count is then negative binomial, with variance expected + expected^2 / shape; an infinite shape is Poisson.
    A rate known from k earlier failures has shape k + 1/2 (Jeffreys' prior). O(standard deviation) steps.
    """
    not_negative("expected", expected)
    positive("shape", shape, infinite=True)
    tail = (1 - _share("confidence", confidence)) / 2
    return _quantile(expected, shape, tail), _quantile(expected, shape, 1 - tail)


_SUM_LIMIT = 1e5
"""Standard deviations above this many counts: the normal quantile, which is then right to less than 1%."""


def _quantile(mean: float, shape: float, probability: float) -> int:
    """Smallest k with P(N <= k) >= probability: sums from far below the mean upward, by the ratio p(k+1)/p(k)."""
    if mean == 0:
        return 0
    deviation = math.sqrt(mean + mean * mean / shape)
    if math.isinf(shape) and deviation > _SUM_LIMIT:
        return round(mean + deviation * _normal_quantile(probability))
    if deviation > _SUM_LIMIT:  # a Poisson count adds nothing here: scale the answer from a smaller mean
        smaller = 0.5 * _SUM_LIMIT * math.sqrt(shape) / (1 + math.sqrt(shape))
        return round(_quantile(smaller, shape, probability) * mean / smaller)
    k = max(0, int(mean - 9 * deviation))
    keep = 1.0 if math.isinf(shape) else mean / (mean + shape)
    term = math.exp(_log_pmf(k, mean, shape))
    total = term
    while total < probability:
        term *= mean / (k + 1) if math.isinf(shape) else keep * (k + shape) / (k + 1)
        k += 1
        total += term
        if term < 1e-18 and k > mean + deviation:  # what rounding took from the sum
            break
    return k


def _log_pmf(k: int, mean: float, shape: float) -> float:
    if math.isinf(shape):
        return k * math.log(mean) - mean - math.lgamma(k + 1)
    keep = mean / (mean + shape)
    ways = math.lgamma(k + shape) - math.lgamma(shape) - math.lgamma(k + 1)
    return ways + k * math.log(keep) + shape * math.log1p(-keep)


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


@dataclass(frozen=True)
class Site:
    """Failures that somebody published, and over how many GPU-hours."""

    name: str
    failures: float
    gpu_hours: float
    what: str
    source: str
    checked: str
    confidence: Confidence

    @property
    def per_gpu_hour(self) -> float:
        return self.failures / self.gpu_hours


LLAMA3_GPUS, LLAMA3_DAYS, LLAMA3_INTERRUPTIONS = 16_384, 54, 419
"""H100, days that were counted, and unexpected interruptions in them (Grattafiori et al. 2024, section 3.3.4; S)."""

PUBLISHED = (
    Site(
        "Llama 3 405B",
        LLAMA3_INTERRUPTIONS,
        LLAMA3_GPUS * LLAMA3_DAYS * 24,
        "unexpected interruptions of one job, 54 days on 16,384 H100",
        "Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.4",
        "2026-11-20",
        "S",
    ),
    Site(
        "RSC-1",
        2_048 * 335 * 6.5e-3,
        16_384 * 335 * 24,
        "6.5 failures per 1,000 node-days, 11 months on 16k A100; the MTTF of 1.8 h at 16,384 GPUs follows; jobs of "
        "1,024 GPUs are said to have failed every 7.9 h (R), where this rate gives 28.8",
        "Kokolis et al. 2024, arXiv 2410.21680, quoted by others",
        "2026-11-29",
        "S",
    ),
    Site(
        "RSC-2",
        1_024 * 335 * 2.34e-3,
        8_192 * 335 * 24,
        "2.34 failures per 1,000 node-days, 11 months on 8k A100",
        "Kokolis et al. 2024, arXiv 2410.21680, quoted by others",
        "2026-11-29",
        "S",
    ),
    Site(
        "OPT-175B",
        110,
        992 * 60 * 24,
        "failures in two months on 992 A100, hardware and others",
        "Wang et al., Gemini, SOSP'23, section 2.1, citing the OPT-175B logbook",
        "2026-11-29",
        "S",
    ),
    Site(
        "SKT B200",
        10,
        504 * 73 * 24,
        "GPU failures with an XID, 73 days on 504 B200",
        "abstract of a technical report on a 63-node B200 cluster (SKT, Upstage, Lablup), 2026",
        "2026-11-29",
        "V",
    ),
    Site(
        "Nebius",
        1,
        169_800,
        "one failure in 169,800 GPU-hours on 3,000 GPUs, a customer's best",
        "Nebius, How we build reliable clusters, 2025-08-28",
        "2026-11-29",
        "V",
    ),
)
"""Sites differ by a factor of 13 for each GPU-hour: they count different things, on hardware of different ages."""

LLAMA3_CAUSES = (
    ("faulty GPU", 148, "gpu"),
    ("HBM3 memory", 72, "gpu"),
    ("software bug", 54, "software"),
    ("switch or cable", 35, "network"),
    ("host maintenance", 32, "host"),
    ("GPU SRAM", 19, "gpu"),
    ("GPU system processor", 17, "gpu"),
    ("NIC", 7, "network"),
    ("NCCL watchdog", 7, "software"),
    ("silent data corruption", 6, "gpu"),
    ("GPU thermal interface and sensor", 6, "gpu"),
    ("SSD", 3, "host"),
    ("power supply", 3, "host"),
    ("server chassis", 2, "host"),
    ("IO board", 2, "host"),
    ("dependency", 2, "software"),
    ("CPU", 2, "host"),
    ("system memory", 2, "host"),
)
"""Unexpected interruptions by cause: cause, count, what it belongs to. Llama 3, table 5, read in the reprint of
glennklockwood.com/garden/component-reliability on 2026-11-29 (S). They add up to
LLAMA3_INTERRUPTIONS; of that the first is 35.3%,
where the table prints 30.1%."""


def llama3_components(gpus: int = LLAMA3_GPUS) -> tuple[Component, ...]:
    """The parts of a job of `gpus` GPUs that fail as those of Llama 3 did: GPUs, hosts, network and software.

    A fit on Llama 3's own counts: what it says of Llama 3's number of failures is no prediction.
    """
    kinds = {"gpu": gpus, "network": gpus, "host": math.ceil(gpus / 8), "software": gpus}
    built = {**dict.fromkeys(kinds, LLAMA3_GPUS), "host": LLAMA3_GPUS // 8}
    return tuple(
        Component(
            kind,
            count,
            built[kind] * LLAMA3_DAYS * 24 / sum(n for _, n, of in LLAMA3_CAUSES if of == kind),
            replaced=kind != "software",
        )
        for kind, count in kinds.items()
    )


@dataclass(frozen=True)
class HeldOut:
    """What other sites predict of one: failures expected (at the median rate), and the 95% interval."""

    site: Site
    expected: float
    interval: tuple[int, int]

    @property
    def inside(self) -> bool:
        return self.interval[0] <= self.site.failures <= self.interval[1]


_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5% quantiles of Student's t for 1 to 10 degrees of freedom."""


def rates_across_sites(sites: Sequence[Site]) -> tuple[float, float, float]:
    """Failures per GPU-hour of a site not seen yet: lower end, median and upper end of a 95% interval.

    Rates are taken as log-normal over sites, whatever their size: the spread is between sites, not of counting. With
    a mean and a spread known from n sites the logarithm follows Student's t of n - 1 degrees of freedom, scaled by
    sqrt(1 + 1/n). Geometric means, so that it is the same whether one averages rates or MTBFs.
    """
    n = len(sites)
    if n < 2:
        raise SettingError(f"{n} sites say nothing of the spread between sites; give 2 or more.")
    logs = [math.log(site.per_gpu_hour) for site in sites]
    mean = sum(logs) / n
    deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / (n - 1) * (1 + 1 / n))
    reach = deviation * _T_975[min(n - 1, len(_T_975)) - 1]
    return math.exp(mean - reach), math.exp(mean), math.exp(mean + reach)


def held_out(site: Site, sites: Sequence[Site] = PUBLISHED) -> HeldOut:
    """Predict `site` from the others alone: the spread between sites, and that of counting on top."""
    low, median, high = rates_across_sites([other for other in sites if other.name != site.name])
    ends = poisson_interval(low * site.gpu_hours)[0], poisson_interval(high * site.gpu_hours)[1]
    return HeldOut(site, median * site.gpu_hours, ends)


def positive(name: str, value: float, *, infinite: bool = False) -> float:
    """The value, where it is more than 0 and (unless allowed) finite; SettingError otherwise."""
    if not (value > 0 and (infinite or math.isfinite(value))):
        raise SettingError(f"{name} is {value}; it must be a number, more than 0.")
    return value


def not_negative(name: str, value: float) -> float:
    if not (value >= 0 and math.isfinite(value)):
        raise SettingError(f"{name} is {value}; it must be a number, 0 or more.")
    return value


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise SettingError(f"{name} is {value}; it must be 1 or more.")
    return value


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise SettingError(f"{name} is {value}; it lies strictly between 0 and 1.")
    return value
