"""Goodput: the share of a run that becomes training, in closed form, with every term of the sum.

    job = Recovery(mtbf_s=3.09 * 3600, detection_s=60, restart_s=300)
    saving = Checkpoint(interval_s=600, blocking_s=60)
    goodput(job, saving).useful                         # the share; .checkpoint, .lost, .detection, .restart: the rest
    best = goodput(job, saving.every(optimal_interval_s(job, saving)))

`interval_s` is the useful work between two checkpoints, as in Daly; the wall clock adds the cost of the save. Failures
are Poisson (see failures.py). Closed forms know nothing of spares that run out, elastic worlds and stragglers:
simulate.py does, and agrees with this file where they play no part.

Sources: Young, CACM 17(9), 1974; Daly, FGCS 22(3), 2006. Asynchronous saves and detection: derived here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.failures import not_negative, positive
from distlab.predict.units import DAY_S


@dataclass(frozen=True)
class Checkpoint:
    """How the state is saved. A synchronous save has only `blocking_s`; an asynchronous one goes on in the background.

    A checkpoint counts once it is written: until `background_s` after the steps went on, a failure falls back to the
    one before it.
    """

    interval_s: float
    """Useful work between two checkpoints."""
    blocking_s: float
    """Training stands still: all of a synchronous save, the copy into host memory of an asynchronous one."""
    background_s: float = 0.0
    slowdown: float = 0.0
    """Share of training's pace that the background write takes, 0 to 1."""

    def __post_init__(self) -> None:
        positive("interval_s", self.interval_s)
        not_negative("blocking_s", self.blocking_s)
        not_negative("background_s", self.background_s)
        if not 0 <= self.slowdown < 1:
            raise SettingError(
                f"slowdown is {self.slowdown}; it is a share of the pace, 0 or more and below 1."
            )
        if self.background_s * (1 - self.slowdown) > self.interval_s:
            raise SettingError(
                f"background_s is {self.background_s}: the write goes on when the next save begins, after interval_s, "
                f"{self.interval_s}; raise interval_s, or write faster."
            )

    @property
    def cost_s(self) -> float:
        """Training time that one save takes."""
        return self.blocking_s + self.slowdown * self.background_s

    @property
    def cycle_s(self) -> float:
        """Wall time from one save to the next, without failures."""
        return self.interval_s + self.cost_s

    def every(self, interval_s: float) -> Checkpoint:
        return dataclasses.replace(self, interval_s=interval_s)


@dataclass(frozen=True)
class Recovery:
    """How often the job fails and how long it stands: until noticed, then until it trains again.

    Restart is everything from the detection to the first new step: exclude the node, schedule, start the processes,
    build the communicators, load the checkpoint. A failure may strike in it too.
    """

    mtbf_s: float
    """Of the whole job; math.inf: it never fails."""
    detection_s: float = 0.0
    restart_s: float = 0.0

    def __post_init__(self) -> None:
        positive("mtbf_s", self.mtbf_s, infinite=True)
        not_negative("detection_s", self.detection_s)
        not_negative("restart_s", self.restart_s)


@dataclass(frozen=True)
class Goodput:
    """Shares of wall time; they add up to 1."""

    useful: float
    checkpoint: float
    """Saves that were kept, and what their background writes slowed."""
    lost: float
    """Work and saves done again after failures."""
    detection: float
    restart: float

    @property
    def waste(self) -> float:
        return 1 - self.useful

    def terms(self) -> dict[str, float]:
        return dataclasses.asdict(self)


def goodput(job: Recovery, saving: Checkpoint) -> Goodput:
    """Long-run shares of wall time under Poisson failures; exact, not to first order.

    From a restart to the next failure takes an exponential time X of mean M; of the saves, those count that were
    written in it. The first cycle has no write beside it, so that the k-th is written at k L + (1 - s) P, L being the
    cycle, P the background write and s its slowdown, and exp(-(1 - s) P/M) / (exp(L/M) - 1) are written on average. A
    failure costs M of running and the standstill D + (exp(R/M) - 1)(M + D), for a restart R may fail, too, and be
    detected again. With P = D = 0 this is Daly's complete model: wall = M exp(R/M) (exp(L/M) - 1) for each interval.
    """
    if math.isinf(job.mtbf_s):
        return Goodput(saving.interval_s / saving.cycle_s, saving.cost_s / saving.cycle_s, 0.0, 0.0, 0.0)
    mean_s = job.mtbf_s
    try:
        late_s = (1 - saving.slowdown) * saving.background_s
        saves = math.exp(-late_s / mean_s) / math.expm1(saving.cycle_s / mean_s)
        failed_restarts = math.expm1(job.restart_s / mean_s)
    except OverflowError:  # hundreds of MTBF without a save: nothing is ever kept
        return Goodput(0.0, 0.0, *_standstill(job))
    detection_s = job.detection_s * (1 + failed_restarts)
    restart_s = failed_restarts * mean_s
    wall_s = mean_s + detection_s + restart_s
    useful_s, checkpoint_s = saves * saving.interval_s, saves * saving.cost_s
    return Goodput(
        useful=useful_s / wall_s,
        checkpoint=checkpoint_s / wall_s,
        lost=max(0.0, mean_s - useful_s - checkpoint_s) / wall_s,
        detection=detection_s / wall_s,
        restart=restart_s / wall_s,
    )


def _standstill(job: Recovery) -> tuple[float, float, float]:
    """Shares lost, in detection and in restart of a job that keeps nothing."""
    if job.restart_s / job.mtbf_s > 700:  # no restart ever ends
        cycle_s = job.mtbf_s + job.detection_s
        return 0.0, job.detection_s / cycle_s, job.mtbf_s / cycle_s
    failed = math.expm1(job.restart_s / job.mtbf_s)
    parts = job.mtbf_s, job.detection_s * (1 + failed), failed * job.mtbf_s
    lost, detection, restart = (part / sum(parts) for part in parts)
    return lost, detection, restart


def first_order_waste(job: Recovery, saving: Checkpoint) -> float:
    """C/T + T/(2M) + (P + D + R)/M: the rule of thumb. Above the exact waste, by less than its own square.

    Young (1974) for the first two terms: each interval pays a save, each failure loses half an interval.
    """
    standstill_s = saving.background_s + job.detection_s + job.restart_s
    loss_s = saving.interval_s / 2 + standstill_s
    return saving.cost_s / saving.interval_s + loss_s / job.mtbf_s


def young_interval_s(cost_s: float, mtbf_s: float) -> float:
    """sqrt(2 C M): the interval of least first-order waste (Young, 1974)."""
    return math.sqrt(2 * not_negative("cost_s", cost_s) * positive("mtbf_s", mtbf_s))


def daly_interval_s(cost_s: float, mtbf_s: float) -> float:
    """Daly's higher-order interval: sqrt(2CM) (1 + sqrt(C/2M)/3 + (C/2M)/9) - C; M where C is 2M or more.

    Daly, FGCS 22 (2006), equation 37. Within 0.3% of the exact optimum while C is below M / 3.
    """
    ratio = not_negative("cost_s", cost_s) / (2 * positive("mtbf_s", mtbf_s))
    if ratio >= 1:
        return mtbf_s
    return young_interval_s(cost_s, mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_s


def exact_interval_s(cost_s: float, mtbf_s: float) -> float:
    """The interval that makes `goodput` largest, whatever detection, restart and background write cost.

    They do not depend on the interval, so (1 - x) exp(x) = exp(-C/M) for x = interval / M: Lambert's W, by Newton.
    0 where a save is free: then save always.
    """
    ratio = not_negative("cost_s", cost_s) / positive("mtbf_s", mtbf_s)
    if ratio == 0:
        return 0.0
    if ratio > 30:  # 1 - x is below the rounding of 1
        return mtbf_s
    # Of log(1 - x) + x + C/M, which falls and is concave: steps from above its root never leave that side.
    x = min(math.sqrt(2 * ratio), -math.expm1(-1 - ratio))
    for _ in range(60):
        step = (math.log1p(-x) + x + ratio) * (1 - x) / x
        x += step
        if abs(step) <= 1e-12 * x:
            break
    return x * mtbf_s


def optimal_interval_s(job: Recovery, saving: Checkpoint) -> float:
    """The interval of highest goodput for this way of saving (its own interval is not looked at).

    A background write must end before the next save: the interval is never shorter than that allows. 0 where a save
    costs nothing.
    """
    shortest_s = saving.background_s * (1 - saving.slowdown)
    if math.isinf(job.mtbf_s):
        raise SettingError("mtbf_s is infinite; a job that never fails needs no checkpoint.")
    return max(exact_interval_s(saving.cost_s, job.mtbf_s), shortest_s)


def checkpoint_bytes(parameters: float, bytes_per_parameter: float = 14) -> float:
    """Size of a whole checkpoint. 14: bf16 weights, and fp32 weights, momentum and variance (Adam); no gradients.

    BLOOM's 2.3 TB for 176.2B parameters is 13.05 (V, bigscience.notion.site, read 2026-11-29).
    """
    return positive("parameters", parameters) * positive("bytes_per_parameter", bytes_per_parameter)


def write_s(
    size_bytes: float,
    storage_Bps: float,  # noqa: N803 - the unit is part of the name
    writers: int = 1,
    writer_Bps: float = math.inf,  # noqa: N803
    latency_s: float = 0.0,
) -> float:
    """Seconds to write `size_bytes`, shared evenly by `writers`, each at most `writer_Bps`, all at most `storage_Bps`.

    Bytes per second: a link sold in Gb/s goes through units.bytes_per_s first.
    """
    if writers < 1:
        raise SettingError(f"writers is {writers}; it must be 1 or more.")
    write_rate = min(
        positive("storage_Bps", storage_Bps), writers * positive("writer_Bps", writer_Bps, infinite=True)
    )
    return not_negative("latency_s", latency_s) + not_negative("size_bytes", size_bytes) / write_rate


def run_days(tokens: float, tokens_per_s: float, goodput_share: float = 1.0) -> float:
    """Days to train on `tokens` at `tokens_per_s` of the whole job while it trains: 300B at 1,000/s is 3,472."""
    if not 0 < goodput_share <= 1:
        raise SettingError(f"goodput_share is {goodput_share}; it is above 0 and at most 1.")
    return not_negative("tokens", tokens) / (positive("tokens_per_s", tokens_per_s) * goodput_share) / DAY_S
