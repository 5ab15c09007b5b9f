"""One GPU as NVML tells it: each value by a call of its own."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from distlab.errors import printable
from distlab.observe.nvml_gpm import ActivityCounters
from distlab.observe.sample import GpuProcess, GpuSample, MigInstance
from distlab.observe.throttle import throttle_reasons

CLOCK_SM, CLOCK_MEMORY = 1, 2
SENSOR_GPU, THRESHOLD_SLOWDOWN = 0, 1
CORRECTED, UNCORRECTED, VOLATILE = 0, 1, 0
PCIE_TX, PCIE_RX = 0, 1
MEMORY_V2 = 0x02000028
"""Versions of structures and enumerations of nvml.h."""

ALL_LINKS = 2**32 - 1
FIELD_MEMORY_TEMPERATURE = 82
FIELD_SLOWDOWN_MARGIN = 194
"""TEMPERATURE_SLOWDOWN_TLIMIT: the margin at which the hardware slows the clock; Ada, Hopper and later."""
FIELD_NVLINK_KIB = ((138, ALL_LINKS), (139, ALL_LINKS))
"""NVLINK_THROUGHPUT_DATA_TX and _RX, in KiB, over all links (nvml.h)."""
FIELD_NVLINK_ERRORS = (38, 45, 52, 59)
"""CRC errors of flits and of data, replays, recoveries: totals over all links."""
MOST_NAME = 100
DEPRECATED = 26
"""NVML_ERROR_DEPRECATED: the driver has the value under another name."""


class Lost(Exception):  # noqa: N818 - the GPU is lost, not the program
    """The device cannot be reached. The message is a sentence with the next step."""


class Device:
    """A GPU of this machine, by the driver's index."""

    def __init__(self, nvml: Any, index: int) -> None:
        self.index = index
        self.lost = False
        self.handle: Any = None
        self._nvml = nvml
        self._activity: ActivityCounters | None = None
        self._denied: list[str] = []
        self._failed: list[str] = []
        self._too_old: list[str] = []
        try:
            self.handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            self.lost = True
            self._why = error

    def close(self) -> None:
        if self._activity is not None:
            self._activity.close()

    def read(self, now: float, driver: str) -> tuple[GpuSample, list[str]]:
        """All that it tells, and sentences about what it may not or could not tell. Lost where it is not there."""
        nvml = self._nvml
        if self.handle is None:
            raise self._loss(self._why)
        self._denied, self._failed, self._too_old = [], [], []
        try:
            sample = self._sample(now, driver)
        except (
            nvml.NVMLError_GpuIsLost,
            nvml.NVMLError_ResetRequired,
            nvml.NVMLError_Uninitialized,
        ) as error:
            self.lost = True
            raise self._loss(error) from None
        except nvml.NVMLError as error:
            raise self._loss(error) from None
        complaints = []
        if self._denied:
            what = ", ".join(dict.fromkeys(self._denied))
            complaints.append(f"This user may not read of GPU {self.index}: {what}; root may.")
        if self._failed:
            complaints.append(f"GPU {self.index} could not tell: {', '.join(self._failed)}.")
        if self._too_old:
            what = ", ".join(dict.fromkeys(self._too_old))
            complaints.append(
                f"The driver {driver} is too old to tell of GPU {self.index}: {what}; 535 or later can."
            )
        return sample, complaints

    def _loss(self, error: Any) -> Lost:
        if isinstance(error, self._nvml.NVMLError_GpuIsLost):
            why = "has fallen off the bus: drain the node and reset the GPU or reboot (XID 79 in `dmesg`)"
        elif isinstance(error, self._nvml.NVMLError_ResetRequired):
            why = "needs a reset: stop what uses it, then `nvidia-smi --gpu-reset`"
        elif isinstance(error, self._nvml.NVMLError_NoPermission):
            why = "may not be read by this user: check the rights of its /dev/nvidia*"
        else:
            why = f"cannot be read ({printable(str(error))}): look at `nvidia-smi` and `dmesg`"
        return Lost(f"GPU {self.index} {why}.")

    def _ask(self, what: str, call: str, *args: Any, else_call: str = "", handle: Any = None) -> Any:
        """What a call returns; None where the device, its driver or this user has no such value.

        else_call: what it was called, with the same arguments, by older drivers. handle: of a slice, in place of the
        GPU's own.
        """
        nvml = self._nvml
        older = partial(self._ask, what, else_call, *args, handle=handle) if else_call else None
        function = getattr(nvml, call, None)
        if function is None:  # an older nvidia-ml-py
            return older() if older else None
        try:
            return function(handle or self.handle, *args)
        except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired, nvml.NVMLError_Uninitialized):
            raise
        except nvml.NVMLError_NoPermission:
            self._denied.append(what)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            pass
        except nvml.NVMLError_FunctionNotFound:
            if older:
                return older()
            self._too_old.append(what)
        except nvml.NVMLError as error:
            if error.value == DEPRECATED:
                return older() if older else None
            self._failed.append(f"{what} ({printable(str(error))})")
        except UnicodeDecodeError:
            self._failed.append(f"{what} (no text)")
        return None

    def _sample(self, now: float, driver: str) -> GpuSample:
        ask = self._ask
        uuid, name = ask("UUID", "nvmlDeviceGetUUID"), ask("name", "nvmlDeviceGetName")
        mig_mode = ask("MIG mode", "nvmlDeviceGetMigMode")
        in_slices = bool(mig_mode and mig_mode[0])
        rates = None if in_slices else ask("utilization", "nvmlDeviceGetUtilizationRates")
        encoder = None if in_slices else ask("encoder utilization", "nvmlDeviceGetEncoderUtilization")
        decoder = None if in_slices else ask("decoder utilization", "nvmlDeviceGetDecoderUtilization")
        counters = {} if in_slices else self._counters(now)
        memory, reserved = self._memory()
        energy_mJ = ask("energy", "nvmlDeviceGetTotalEnergyConsumption")  # noqa: N806
        reasons = ask(
            "throttle reasons",
            "nvmlDeviceGetCurrentClocksEventReasons",
            else_call="nvmlDeviceGetCurrentClocksThrottleReasons",
        )
        rows = ask("remapped rows", "nvmlDeviceGetRemappedRows") or (None,) * 4
        fields = self._fields(
            (FIELD_MEMORY_TEMPERATURE, FIELD_SLOWDOWN_MARGIN, *FIELD_NVLINK_KIB, *FIELD_NVLINK_ERRORS)
        )
        link_KiB = [value for key in FIELD_NVLINK_KIB if (value := fields[key]) is not None]  # noqa: N806
        link_errors = [value for key in FIELD_NVLINK_ERRORS if (value := fields[key]) is not None]
        temperature = ask(
            "temperature", "nvmlDeviceGetTemperatureV", SENSOR_GPU, else_call="nvmlDeviceGetTemperature"
        )
        power = _scaled(ask("power", "nvmlDeviceGetPowerUsage"), 1e-3)
        return GpuSample(
            time=now,
            gpu=self.index,
            uuid=printable(uuid or f"unknown-{self.index}"),
            name=printable(name or "unknown NVIDIA GPU"),
            tier="gpu",
            driver=driver,
            utilization_percent=rates and rates.gpu,
            memory_utilization_percent=rates and rates.memory,
            encoder_percent=encoder and encoder[0],
            decoder_percent=decoder and decoder[0],
            graphics_active=_scaled(counters.get("graphics"), 1e-2),
            tensor_active=_scaled(counters.get("tensor"), 1e-2),
            dram_active=_scaled(counters.get("dram"), 1e-2),
            memory_used_bytes=memory and memory.used,
            memory_free_bytes=memory and memory.free,
            memory_reserved_bytes=reserved,
            sm_clock_MHz=ask("SM clock", "nvmlDeviceGetClockInfo", CLOCK_SM),
            sm_clock_max_MHz=ask("highest SM clock", "nvmlDeviceGetMaxClockInfo", CLOCK_SM),
            memory_clock_MHz=ask("memory clock", "nvmlDeviceGetClockInfo", CLOCK_MEMORY),
            power_W=power,
            power_limit_W=_scaled(ask("power limit", "nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
            energy_J_total=_scaled(energy_mJ, 1e-3),
            temperature_C=temperature,
            memory_temperature_C=fields[FIELD_MEMORY_TEMPERATURE],
            slowdown_temperature_C=self._slowdown(temperature, fields[FIELD_SLOWDOWN_MARGIN]),
            throttle_reasons=None if reasons is None else throttle_reasons(reasons),
            ecc_single_bit_total=ask("ECC errors", "nvmlDeviceGetTotalEccErrors", CORRECTED, VOLATILE),
            ecc_double_bit_total=ask("ECC errors", "nvmlDeviceGetTotalEccErrors", UNCORRECTED, VOLATILE),
            remapped_rows_correctable=rows[0],
            remapped_rows_uncorrectable=rows[1],
            row_remap_failed=None if rows[3] is None else bool(rows[3]),
            pcie_tx_bytes_per_s=self._pcie(counters.get("pcie_tx"), PCIE_TX),
            pcie_rx_bytes_per_s=self._pcie(counters.get("pcie_rx"), PCIE_RX),
            pcie_replays_total=ask("PCIe replays", "nvmlDeviceGetPcieReplayCounter"),
            nvlink_bytes_total=int(sum(link_KiB) * 1024) if link_KiB else None,
            nvlink_errors_total=int(sum(link_errors)) if link_errors else None,
            processes=self._processes(),
            mig=self._mig() if in_slices else None,
        )

    def _memory(self) -> tuple[Any, int | None]:
        """The memory and what the driver keeps of it, which older drivers count as used."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self.handle, MEMORY_V2)
            return memory, memory.reserved
        except self._nvml.NVMLError:  # what kind it is shows in the older call, too
            return self._ask("memory", "nvmlDeviceGetMemoryInfo"), None

    def _slowdown(self, temperature: float | None, at_margin: float | None) -> float | None:
        """Where the hardware slows the clock. Later GPUs tell margins in place of temperatures: 0 at the limit."""
        known: float | None = self._ask(
            "slowdown temperature", "nvmlDeviceGetTemperatureThreshold", THRESHOLD_SLOWDOWN
        )
        if known is not None or temperature is None or at_margin is None:
            return known
        margin = self._ask("temperature margin", "nvmlDeviceGetMarginTemperature")
        return None if margin is None else temperature + margin - at_margin

    def _fields(self, keys: tuple[Any, ...]) -> dict[Any, float | None]:
        """Field values by their keys, each None by itself; a key is an id, or an id and a link."""
        values = self._ask("field values", "nvmlDeviceGetFieldValues", list(keys))
        known: dict[Any, float | None] = dict.fromkeys(keys)
        for key, value in zip(keys, values or (), strict=False):
            if value.nvmlReturn == 0:
                known[key] = _typed(value)
        return known

    def _pcie(self, mib_per_s: float | None, direction: int) -> float | None:
        """Bytes per second; NVML's own measure takes 20 ms of waiting, so the profiling counters go first."""
        if mib_per_s is not None:
            return mib_per_s * 2**20
        return _scaled(self._ask("PCIe traffic", "nvmlDeviceGetPcieThroughput", direction), 1e3)

    def _counters(self, now: float) -> dict[str, float]:
        """The profiling counters since the reading before, where the GPU has them (Hopper and later)."""
        if self._activity is None:
            self._activity = ActivityCounters(self._nvml, self.handle)
        return self._activity.read(now)

    def _processes(self) -> tuple[GpuProcess, ...] | None:
        found = self._ask(
            "processes",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            else_call="nvmlDeviceGetComputeRunningProcesses_v2",
        )
        if found is None:
            return None
        return tuple(
            GpuProcess(pid=p.pid, name=self._name(p.pid), memory_bytes=p.usedGpuMemory) for p in found
        )

    def _name(self, pid: int) -> str:
        try:
            return printable(self._nvml.nvmlSystemGetProcessName(pid))[:MOST_NAME]
        except (self._nvml.NVMLError, UnicodeDecodeError):  # it has ended, or is in another container
            return "unknown"

    def _mig(self) -> tuple[MigInstance, ...]:
        """The instances, as far as this user may see them."""
        found = []
        for i in range(self._ask("MIG instances", "nvmlDeviceGetMaxMigDeviceCount") or 0):
            try:
                handle = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(self.handle, i)
            except (self._nvml.NVMLError_NotFound, self._nvml.NVMLError_InvalidArgument):
                continue  # a place without an instance
            except self._nvml.NVMLError_NoPermission:
                self._denied.append("MIG instances")
                break
            ask = partial(self._ask, handle=handle)
            memory, name = (
                ask("memory of a MIG instance", "nvmlDeviceGetMemoryInfo"),
                ask("name", "nvmlDeviceGetName"),
            )
            found.append(
                MigInstance(
                    gpu_instance=ask("MIG id", "nvmlDeviceGetGpuInstanceId") or 0,
                    compute_instance=ask("MIG id", "nvmlDeviceGetComputeInstanceId") or 0,
                    profile=printable(name or "").rpartition("MIG ")[2] or "unknown",
                    uuid=printable(ask("MIG UUID", "nvmlDeviceGetUUID") or "unknown"),
                    memory_used_bytes=memory and memory.used,
                    memory_total_bytes=memory and memory.total,
                )
            )
        return tuple(found)


def _typed(field: Any) -> float | None:
    """A field value in the type that it says it has (nvmlValueType_t)."""
    names = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    if field.valueType >= len(names):
        return None
    value = getattr(field.value, names[field.valueType])
    return value if math.isfinite(value) else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
