"""GPUs that a physical model computes, for machines that have none. Every name says SIMULATED.

    with SimulatedSource("overheating", gpus=8) as source:
        print(source.read().samples[0].temperature_C)

    simulate("straggler", seconds=120)            # two minutes at once, for a figure or a test

The same seed and the same times give the same samples, however often they are read. The physics is in thermal.py,
the loads and faults in workload.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from distlab.errors import SettingError
from distlab.observe.sample import (
    GpuProcess,
    GpuSample,
    MigInstance,
    Problem,
    Reading,
    SampleTier,
    Source,
    Xid,
)
from distlab.observe.thermal import (
    CLOCK_MAX_MHZ,
    DRAM_K,
    MEMORY_BYTES,
    MEMORY_CLOCK_MHZ,
    MEMORY_RESERVED_BYTES,
    SLOWDOWN_C,
    STEP_S,
    Die,
)
from distlab.observe.workload import MOST_GPUS, Conditions, Scenario, Work, scenario
from distlab.predict.units import GIB

NAME = "SIMULATED H100 80GB"
MOST_STEPS = 7200
"""Of a reading: an hour. After a longer pause (a laptop's lid) the model goes on from where it was."""
WAITING_ACTIVITY = 0.09
"""Of a GPU that waits in a collective: its kernel spins."""
WAITING_DRAM = 0.05
JITTER = 0.015
"""Standard deviation of a step's computing time."""
FIRST_PID = 2**22
"""No process of a Linux machine has such a number: pid_max is at most this."""
ROWS_PER_BANK = 8
"""Rows that can be remapped after uncorrected errors until remapping fails (NVIDIA, GPU memory error management)."""
CORRECTABLE_PER_REMAP = 100


@dataclass
class _Gpu:
    """What a simulated GPU remembers. Counters start anew when it comes back."""

    random: random.Random
    die: Die = field(default_factory=Die)
    conditions: Conditions = field(default_factory=Conditions)
    busy: float = 0.0
    tensor: float = 0.0
    dram: float = 0.0
    pcie_bytes_per_s: float = 0.0
    nvlink_bytes: float = 0.0
    drift: float = 0.0
    single_bit: int = 0
    double_bit: int = 0
    remapped: int = 0
    xids: list[Xid] = field(default_factory=list)

    def revive(self) -> None:
        """It was reset: the driver counts from zero."""
        self.die.energy_J = self.nvlink_bytes = 0.0
        self.single_bit = self.double_bit = 0


class SimulatedSource(Source):
    """A scenario (or `follow`, a job that really runs) on `gpus` GPUs, as a Source."""

    tier: SampleTier = "simulated"

    def __init__(
        self,
        script: str | Scenario = "training",
        *,
        gpus: int = 8,
        seed: int = 0,
        speed: float = 1.0,
        at_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """script: a scenario's name, or one of your own. speed: simulated seconds for each of the clock's.
        at_s: how much of the scenario has passed already. SettingError for what cannot be simulated.
        """
        if not 1 <= gpus <= MOST_GPUS:
            raise SettingError(f"{gpus} GPUs cannot be simulated; choose 1 to {MOST_GPUS}.")
        if not 0 < speed <= 3600:
            raise SettingError(f"A speed of {speed:g} cannot be simulated; choose more than 0, 3600 at most.")
        self.scenario = scenario(script, gpus) if isinstance(script, str) else script
        self.speed = speed
        self.step_s: float | None = None
        """Of the simulated job, now; None while there is none."""
        self._clock = clock
        self._origin = clock() - at_s / speed
        self._done = self._skipped = 0
        self._gpus = [_Gpu(random.Random(f"{seed} {gpu}")) for gpu in range(gpus)]
        self._events = sorted(self.scenario.events, key=lambda event: event.time_s)

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> Reading:
        """All GPUs at this moment of simulated time, which starts with the source."""
        elapsed_s = max(0.0, self._clock() - self._origin) * self.speed
        due = int(elapsed_s / STEP_S + 1e-9) - self._skipped - self._done
        if due > MOST_STEPS:
            self._skipped += due - MOST_STEPS
        for _ in range(min(due, MOST_STEPS)):
            self._step()
        now = self._origin + elapsed_s
        samples, problems = [], []
        for index, gpu in enumerate(self._gpus):
            xids, gpu.xids = tuple(gpu.xids), []
            if gpu.conditions.lost:
                what = f"GPU {index} has fallen off the bus (SIMULATED): drain the node and reset the GPU."
                problems.append(Problem(what, index, xids))
            else:
                samples.append(_sample(index, gpu, now, xids))
        return Reading(tuple(samples), tuple(problems))

    def _step(self) -> None:
        """One step of all GPUs. Those that work belong to one job, whose step lasts as long as the slowest needs."""
        at_s = (self._done + self._skipped) * STEP_S
        self._done += 1
        times: list[tuple[_Gpu, Work, float, float]] = []
        for index, gpu in enumerate(self._gpus):
            was_lost = gpu.conditions.lost
            gpu.conditions = self.scenario.conditions(index, at_s)
            if was_lost and not gpu.conditions.lost:
                gpu.revive()
            self._break(gpu, at_s)
            work = None if gpu.conditions.lost else gpu.conditions.work
            if work is None:
                gpu.die.next_clock(0, 0, idle=True)
                gpu.busy = gpu.tensor = gpu.dram = gpu.pcie_bytes_per_s = 0.0
                gpu.die.run(0, 0, gpu.conditions.cooling)
                continue
            share = gpu.die.next_clock(work.intensity, work.dram)
            gpu.drift += 0.3 * (gpu.random.gauss(0, JITTER) - gpu.drift)
            compute_s = work.compute_s * (1 + gpu.drift) / share
            times.append((gpu, work, compute_s, work.data_s + compute_s + work.communication_s))
        together = [total for gpu, *_, total in times if not gpu.conditions.slices]
        self.step_s = max(together, default=None)
        for gpu, work, compute_s, total in times:
            alone = self.step_s is None or bool(gpu.conditions.slices)
            step_s = total if self.step_s is None or alone else self.step_s
            world_size = 1 if alone else len(together)
            _load(gpu, work, compute_s / step_s, work.data_s / step_s, step_s, world_size)

    def _break(self, gpu: _Gpu, at_s: float) -> None:
        """Faults by chance, at the rates of the conditions, and by the script."""
        time_s = self._origin + at_s
        while self._events and self._events[0].time_s <= at_s:
            event = self._events.pop(0)
            self._gpus[event.gpu].xids.append(Xid(time=time_s, code=event.xid))
        conditions = gpu.conditions
        if conditions.single_bit_per_s and gpu.random.random() < conditions.single_bit_per_s * STEP_S:
            gpu.single_bit += 1
        if conditions.double_bit_per_s and gpu.random.random() < conditions.double_bit_per_s * STEP_S:
            gpu.double_bit += 1
            gpu.remapped += gpu.remapped < ROWS_PER_BANK
            gpu.xids += [
                Xid(time=time_s, code=code) for code in (48, 63 if gpu.remapped < ROWS_PER_BANK else 64)
            ]


def _load(gpu: _Gpu, work: Work, compute: float, data: float, step_s: float, world_size: int) -> None:
    """A step of the model, in which a GPU computes and waits for data for these shares of the time."""
    waiting = max(0.0, 1 - compute - data)
    gpu.busy = compute + waiting
    gpu.tensor = work.tensor * compute
    gpu.dram = work.dram * compute + WAITING_DRAM * waiting
    gpu.pcie_bytes_per_s = work.pcie_bytes / step_s
    if world_size > 1:
        gpu.nvlink_bytes += work.nvlink_bytes * STEP_S / step_s
    gpu.die.run(work.intensity * compute + WAITING_ACTIVITY * waiting, gpu.dram, gpu.conditions.cooling)


def _sample(index: int, gpu: _Gpu, now: float, xids: tuple[Xid, ...]) -> GpuSample:
    die, work = gpu.die, gpu.conditions.work
    room = MEMORY_BYTES - MEMORY_RESERVED_BYTES
    used = min(int(work.memory_bytes), room) if work else 0
    sample = GpuSample(
        time=now,
        gpu=index,
        uuid=f"GPU-51301a7e-d000-4000-8000-{index:012x}",
        name=NAME,
        tier="simulated",
        driver="SIMULATED",
        utilization_percent=round(100 * gpu.busy),
        memory_utilization_percent=round(100 * gpu.dram),
        encoder_percent=0,
        decoder_percent=0,
        graphics_active=gpu.busy,
        tensor_active=gpu.tensor,
        dram_active=gpu.dram,
        memory_used_bytes=used,
        memory_free_bytes=room - used,
        memory_reserved_bytes=MEMORY_RESERVED_BYTES,
        sm_clock_MHz=die.clock_MHz,
        sm_clock_max_MHz=CLOCK_MAX_MHZ,
        memory_clock_MHz=MEMORY_CLOCK_MHZ,
        power_W=die.power_W,
        power_limit_W=die.power_limit_W,
        energy_J_total=die.energy_J,
        temperature_C=round(die.temperature_C),
        memory_temperature_C=round(die.temperature_C + DRAM_K * gpu.dram),
        slowdown_temperature_C=SLOWDOWN_C,
        throttle_reasons=die.throttle_reasons,
        ecc_single_bit_total=gpu.single_bit,
        ecc_double_bit_total=gpu.double_bit,
        remapped_rows_correctable=gpu.single_bit // CORRECTABLE_PER_REMAP,
        remapped_rows_uncorrectable=gpu.remapped,
        row_remap_failed=gpu.remapped >= ROWS_PER_BANK,
        xids=xids,
        pcie_tx_bytes_per_s=0.02 * gpu.pcie_bytes_per_s,
        pcie_rx_bytes_per_s=gpu.pcie_bytes_per_s,
        pcie_replays_total=0,
        nvlink_bytes_total=int(gpu.nvlink_bytes),
        nvlink_errors_total=0,
        processes=(GpuProcess(pid=FIRST_PID + index, name="SIMULATED training", memory_bytes=used),)
        if work
        else (),
    )
    return _sliced(sample, gpu.conditions.slices) if gpu.conditions.slices else sample


def _sliced(sample: GpuSample, profiles: tuple[str, ...]) -> GpuSample:
    """The GPU in MIG mode: its memory is shared out by the profiles, and as a whole it tells no activity."""
    sizes = [int(profile.partition(".")[2].removesuffix("gb")) * GIB for profile in profiles]
    used = sample.memory_used_bytes or 0
    instances = tuple(
        MigInstance(
            gpu_instance=number,
            compute_instance=0,
            profile=profile,
            uuid=f"MIG-51301a7e-d000-4000-8000-{sample.gpu:06x}{number:06x}",
            memory_used_bytes=used * size // sum(sizes),
            memory_total_bytes=size,
        )
        for number, (profile, size) in enumerate(zip(profiles, sizes, strict=True), 1)
    )
    return replace(
        sample,
        mig=instances,
        utilization_percent=None,
        memory_utilization_percent=None,
        encoder_percent=None,
        decoder_percent=None,
        graphics_active=None,
        tensor_active=None,
        dram_active=None,
    )


def simulate(
    script: str | Scenario, *, seconds: float, every_s: float = 1.0, gpus: int = 8, seed: int = 0
) -> list[Reading]:
    """A reading every `every_s` of simulated time from 0 on, at once."""
    now = 0.0
    source = SimulatedSource(script, gpus=gpus, seed=seed, clock=lambda: now)
    readings = []
    for i in range(int(seconds / every_s) + 1):
        now = i * every_s
        readings.append(source.read())
    return readings
