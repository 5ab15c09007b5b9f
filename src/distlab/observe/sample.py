"""One reading of a GPU, whatever it comes from: the driver, a recording or the simulator.

    with open_source("nvml") as source:            # or "recorded", "simulated"
        for sample in source.read().samples:
            print(sample.name, sample.utilization_percent, sample.power_W)

A value that the device does not tell is None; a device that cannot be read is missing from `Reading.samples` and named
in `Reading.problems`. Nothing is ever filled in with zero or with the last value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self

SampleTier = Literal["gpu", "recorded", "simulated"]
"""`gpu`: read from a driver now. `recorded`: read from a driver once. `simulated`: computed by a model."""

ThrottleReason = Literal[
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
]
"""Why the clock is below its maximum: NVML's nvmlClocksEventReason* names (the bits are in throttle.py)."""


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that holds memory on a GPU."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class MigInstance:
    """A slice of a GPU in MIG mode."""

    gpu_instance: int
    compute_instance: int
    profile: str
    """As NVIDIA writes it: `1g.10gb`."""
    uuid: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Xid:
    """An error that the driver reported (NVIDIA's XID catalogue tells what it means)."""

    time: float
    """Unix time in seconds."""
    code: int


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """One GPU at one moment. Fields that end in `_total` only grow while the driver is loaded."""

    time: float
    """Unix time in seconds of the reading; of a recording, when it was taken."""
    gpu: int
    """The driver's index."""
    uuid: str
    name: str
    """As the driver gives it; the simulator's begin with SIMULATED."""
    tier: SampleTier
    driver: str | None = None

    utilization_percent: float | None = None
    """Share of the last period in which a kernel ran. It says nothing about how much of the GPU that kernel used."""
    memory_utilization_percent: float | None = None
    """Share of the last period in which device memory was read or written."""
    encoder_percent: float | None = None
    decoder_percent: float | None = None
    graphics_active: float | None = None
    """0 to 1, from the profiling counters (GPM: Hopper and later)."""
    tensor_active: float | None = None
    """0 to 1: share of cycles in which a tensor core was active (GPM)."""
    dram_active: float | None = None
    """0 to 1: share of cycles in which the memory interface moved data (GPM)."""

    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    """Kept by the driver: neither used nor free."""

    sm_clock_MHz: float | None = None  # noqa: N815 - units keep their case
    sm_clock_max_MHz: float | None = None  # noqa: N815
    memory_clock_MHz: float | None = None  # noqa: N815
    power_W: float | None = None  # noqa: N815
    power_limit_W: float | None = None  # noqa: N815
    energy_J_total: float | None = None  # noqa: N815
    """Since the driver was loaded."""
    temperature_C: float | None = None  # noqa: N815
    memory_temperature_C: float | None = None  # noqa: N815
    slowdown_temperature_C: float | None = None  # noqa: N815
    """Where the hardware begins to slow its clock."""
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    """Empty: the clock is at its maximum. None: not known."""

    ecc_single_bit_total: int | None = None
    """Corrected errors since the driver was loaded (volatile)."""
    ecc_double_bit_total: int | None = None
    """Uncorrected ones."""
    remapped_rows_correctable: int | None = None
    remapped_rows_uncorrectable: int | None = None
    row_remap_failed: bool | None = None
    xids: tuple[Xid, ...] = ()
    """Reported since the reading before."""

    pcie_tx_bytes_per_s: float | None = None
    pcie_rx_bytes_per_s: float | None = None
    pcie_replays_total: int | None = None
    nvlink_bytes_total: int | None = None
    """Sent and received over all links."""
    nvlink_errors_total: int | None = None

    processes: tuple[GpuProcess, ...] | None = None
    """None: not permitted to know."""
    mig: tuple[MigInstance, ...] | None = None
    """None: MIG is off or not supported. With MIG on, the driver gives no utilisation of the whole GPU."""


@dataclass(frozen=True)
class Problem:
    """Something that could not be read, in one sentence with the next step."""

    what: str
    gpu: int | None = None
    """None: the whole source."""
    xids: tuple[Xid, ...] = ()
    """Reported since the reading before, of a GPU that has no sample now."""


@dataclass(frozen=True)
class Reading:
    """What a source had to say at one moment."""

    samples: tuple[GpuSample, ...]
    problems: tuple[Problem, ...] = ()


class Source(Protocol):
    """Where samples come from. `read` never raises for a device's sake: it reports a Problem."""

    tier: SampleTier

    def read(self) -> Reading:
        """All devices, now."""
        ...

    def close(self) -> None:
        """Give back what the source holds."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
