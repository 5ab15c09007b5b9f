"""What the simulated GPUs do, and what happens to them: scenarios by name.

    scenario("straggler").conditions(gpu=2, time_s=30.0)

A scenario says for each GPU and moment what it works on, how it is cooled and what breaks. Steps of training are
given as they would be at the highest clock; the simulator stretches the computing part where the clock is lower.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from distlab.errors import SettingError
from distlab.observe.thermal import MEMORY_BYTES, MEMORY_RESERVED_BYTES, Cooling
from distlab.predict.units import GB

MOST_GPUS = 64
"""That are simulated."""
LEAK_BYTES_PER_S = 0.45 * GB


@dataclass(frozen=True)
class Work:
    """A training step of one GPU, at the highest clock. It waits for the slowest of its job in each step."""

    compute_s: float
    data_s: float = 0.0
    """The GPU has nothing to do: the loader is too slow."""
    communication_s: float = 0.0
    """Exposed: nothing else runs. A waiting collective is a running kernel that hardly switches."""
    intensity: float = 0.6
    """Share of the transistors that switch while it computes; a small batch fills less of the GPU."""
    tensor: float = 0.55
    """Share of the computing in which tensor cores are active."""
    dram: float = 0.45
    """Share of the memory's rate while it computes."""
    nvlink_bytes: float = 0.0
    """Sent and received over NVLink in a step."""
    pcie_bytes: float = 0.0
    """Read from the host in a step."""
    memory_bytes: float = 40 * GB


@dataclass(frozen=True)
class Conditions:
    """What one GPU meets at one moment."""

    work: Work | None = None
    """None: nobody uses it."""
    cooling: Cooling = field(default_factory=Cooling)
    single_bit_per_s: float = 0.0
    """Rate of corrected memory errors."""
    double_bit_per_s: float = 0.0
    lost: bool = False
    """It has fallen off the bus: nothing can be read."""
    slices: tuple[str, ...] = ()
    """MIG instances by their profiles, such as `3g.40gb`. The whole GPU then tells no utilization."""


IDLE = Conditions()


@dataclass(frozen=True)
class Scripted:
    """An XID that the driver reports at a given time."""

    time_s: float
    gpu: int
    xid: int


@dataclass(frozen=True)
class Scenario:
    """One of SCENARIOS, for a number of GPUs."""

    name: str
    about: str
    conditions: Callable[[int, float], Conditions]
    """Of a GPU, at so many seconds after the start."""
    events: tuple[Scripted, ...] = ()


TRAINING = Work(
    compute_s=0.310,
    data_s=0.004,
    communication_s=0.026,
    nvlink_bytes=24 * GB,
    pcie_bytes=0.05 * GB,
    memory_bytes=62 * GB,
)
SMALL_BATCH = Work(
    compute_s=0.018,
    data_s=0.004,
    communication_s=0.014,
    intensity=0.14,
    tensor=0.08,
    dram=0.20,
    nvlink_bytes=4 * GB,
    pcie_bytes=0.004 * GB,
    memory_bytes=11 * GB,
)
HOT = Cooling(ambient_C=38.0, resistance_K_per_W=0.1)
"""Fans have failed, and the room is warm."""
FAILS_AFTER_S, LOST_FOR_S = 40.0, 120.0
LEAK_FREE_BYTES = MEMORY_BYTES - MEMORY_RESERVED_BYTES - 14 * GB


def _idle(gpus: int) -> Scenario:
    return Scenario("idle", "Nobody uses the GPUs.", lambda gpu, t: IDLE)


def _training(gpus: int) -> Scenario:
    load = Conditions(TRAINING)
    return Scenario("training", "A healthy job on all GPUs.", lambda gpu, t: load)


def _small_batch(gpus: int) -> Scenario:
    about = "A batch too small to fill the GPU: always busy, at a third of the power."
    load = Conditions(SMALL_BATCH)
    return Scenario("small-batch", about, lambda gpu, t: load)


def _data_starved(gpus: int) -> Scenario:
    load = Conditions(replace(TRAINING, data_s=0.65))
    about = "The loader takes twice as long as the step: GPUs wait, and no kernel runs meanwhile."
    return Scenario("data-starved", about, lambda gpu, t: load)


def _straggler(gpus: int) -> Scenario:
    slow = Conditions(replace(TRAINING, compute_s=1.5 * TRAINING.compute_s))
    load = Conditions(TRAINING)
    about = f"GPU {gpus - 1} takes 1.5 times as long for its part: the others wait in the collective, busy and cool."
    return Scenario("straggler", about, lambda gpu, t: slow if gpu == gpus - 1 else load)


def _overheating(gpus: int) -> Scenario:
    about = (
        f"After {FAILS_AFTER_S:.0f} s GPU 0 loses half of its cooling: it throttles, and the whole job slows."
    )
    hot = Conditions(TRAINING, HOT)
    well = Conditions(TRAINING)
    return Scenario("overheating", about, lambda gpu, t: hot if gpu == 0 and t >= FAILS_AFTER_S else well)


def _memory_leak(gpus: int) -> Scenario:
    full_s = LEAK_FREE_BYTES / LEAK_BYTES_PER_S

    def conditions(gpu: int, t: float) -> Conditions:
        if t >= full_s:  # out of memory: the job has died
            return IDLE
        return Conditions(replace(TRAINING, memory_bytes=14 * GB + LEAK_BYTES_PER_S * t))

    about = f"Memory grows until it is full after {full_s:.0f} s; the job dies, and the GPUs stand idle."
    return Scenario("memory-leak", about, conditions)


def _ecc_storm(gpus: int) -> Scenario:
    def conditions(gpu: int, t: float) -> Conditions:
        if gpu != 0 or t < FAILS_AFTER_S:
            return Conditions(TRAINING)
        return Conditions(TRAINING, single_bit_per_s=1.2, double_bit_per_s=0.02)

    about = f"After {FAILS_AFTER_S:.0f} s GPU 0's memory breaks: corrected errors, then uncorrected ones (XID 48, 63)."
    return Scenario("ecc-storm", about, conditions)


def _xid_79(gpus: int) -> Scenario:
    last = gpus - 1
    back_s = FAILS_AFTER_S + LOST_FOR_S

    def conditions(gpu: int, t: float) -> Conditions:
        if gpu == last:
            return Conditions(TRAINING if t < FAILS_AFTER_S else None, lost=FAILS_AFTER_S + 1 <= t < back_s)
        return Conditions(TRAINING if t < FAILS_AFTER_S else None)

    about = (
        f"After {FAILS_AFTER_S:.0f} s GPU {last} falls off the bus (XID 79) and the job with it; a reset brings it "
        f"back {LOST_FOR_S:.0f} s later."
    )
    return Scenario("xid-79", about, conditions, (Scripted(FAILS_AFTER_S, last, 79),))


def _mig(gpus: int) -> Scenario:
    sliced = Conditions(replace(SMALL_BATCH, memory_bytes=34 * GB), slices=("3g.40gb", "2g.20gb", "1g.10gb"))
    healthy = Conditions(TRAINING)
    about = "GPU 0 is divided into three MIG instances, each with a job of its own."
    return Scenario("mig", about, lambda gpu, t: sliced if gpu == 0 else healthy)


SCENARIOS: dict[str, Callable[[int], Scenario]] = {
    "idle": _idle,
    "training": _training,
    "small-batch": _small_batch,
    "data-starved": _data_starved,
    "straggler": _straggler,
    "overheating": _overheating,
    "memory-leak": _memory_leak,
    "ecc-storm": _ecc_storm,
    "xid-79": _xid_79,
    "mig": _mig,
}


def scenario(name: str, gpus: int) -> Scenario:
    """The scenario of that name. SettingError for another, with the nearest."""
    if name not in SCENARIOS:
        near = difflib.get_close_matches(name, SCENARIOS, n=1, cutoff=0)[0]
        raise SettingError(
            f"There is no scenario {name!r}; did you mean {near!r}? Known are {', '.join(SCENARIOS)}."
        )
    return SCENARIOS[name](gpus)
