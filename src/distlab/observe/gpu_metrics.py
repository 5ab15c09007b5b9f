"""Samples of GPUs as metrics: DCGM's names and units, and distlab's own for what DCGM has none.

What only grows while the exporter runs is counted here (XIDs), and rates are taken between two samples (NVLink).
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable

from distlab.observe.exposition import Page, label_text
from distlab.observe.sample import GpuSample, MigInstance, Reading, SampleTier, Xid
from distlab.observe.throttle import THROTTLE_BITS, throttle_mask
from distlab.predict.hardware.prices import PriceTable
from distlab.predict.units import MIB

MOST_PROCESSES = 32
"""Of a GPU."""
MOST_XID = 999
"""NVIDIA's catalogue ends below 200; other codes are no XIDs."""
MOST_CODES = 32
"""Of a GPU, whose XIDs are counted each for itself."""
MOST_KNOWN = 128
"""GPUs, those that are lost included: twice as many as a machine can have."""

Value = float | None


def _mib(size: int | None) -> Value:
    return None if size is None else size // MIB


FIELDS: dict[str, Callable[[GpuSample], Value]] = {
    "DCGM_FI_DEV_SM_CLOCK": lambda gpu: gpu.sm_clock_MHz,
    "DCGM_FI_DEV_MEM_CLOCK": lambda gpu: gpu.memory_clock_MHz,
    "DCGM_FI_DEV_MEMORY_TEMP": lambda gpu: gpu.memory_temperature_C,
    "DCGM_FI_DEV_GPU_TEMP": lambda gpu: gpu.temperature_C,
    "DCGM_FI_DEV_POWER_USAGE": lambda gpu: gpu.power_W,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": lambda gpu: (
        None if gpu.energy_J_total is None else round(1000 * gpu.energy_J_total)
    ),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": lambda gpu: gpu.pcie_replays_total,
    "DCGM_FI_DEV_GPU_UTIL": lambda gpu: gpu.utilization_percent,
    "DCGM_FI_DEV_MEM_COPY_UTIL": lambda gpu: gpu.memory_utilization_percent,
    "DCGM_FI_DEV_ENC_UTIL": lambda gpu: gpu.encoder_percent,
    "DCGM_FI_DEV_DEC_UTIL": lambda gpu: gpu.decoder_percent,
    "DCGM_FI_DEV_FB_RESERVED": lambda gpu: _mib(gpu.memory_reserved_bytes),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": lambda gpu: gpu.ecc_single_bit_total,
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": lambda gpu: gpu.ecc_double_bit_total,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": lambda gpu: gpu.remapped_rows_uncorrectable,
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": lambda gpu: gpu.remapped_rows_correctable,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": lambda gpu: (
        None if gpu.row_remap_failed is None else int(gpu.row_remap_failed)
    ),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": lambda gpu: (
        None if gpu.throttle_reasons is None else throttle_mask(gpu.throttle_reasons)
    ),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": lambda gpu: gpu.graphics_active,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": lambda gpu: gpu.tensor_active,
    "DCGM_FI_PROF_DRAM_ACTIVE": lambda gpu: gpu.dram_active,
    "DCGM_FI_PROF_PCIE_TX_BYTES": lambda gpu: gpu.pcie_tx_bytes_per_s,
    "DCGM_FI_PROF_PCIE_RX_BYTES": lambda gpu: gpu.pcie_rx_bytes_per_s,
    "distlab_gpu_sm_clock_max_mhz": lambda gpu: gpu.sm_clock_max_MHz,
    "distlab_gpu_power_limit_watts": lambda gpu: gpu.power_limit_W,
    "distlab_gpu_slowdown_temperature_celsius": lambda gpu: gpu.slowdown_temperature_C,
    "distlab_gpu_nvlink_bytes_total": lambda gpu: gpu.nvlink_bytes_total,
    "distlab_gpu_nvlink_errors_total": lambda gpu: gpu.nvlink_errors_total,
}
"""What one sample says of a whole GPU, each in the metric's unit."""

Owner = dict[str, str]
"""The labels `run` and `job_name`."""
NOBODY: Owner = {"job_name": "", "run": ""}


class GpuMetrics:
    """What the exporter knows of GPUs: the last reading, and what was counted since the first."""

    def __init__(self, prices: PriceTable) -> None:
        self.prices = prices
        self._host = platform.node()
        self.known: dict[str, GpuSample] = {}
        """Every GPU that was read, by UUID; beyond MOST_KNOWN, those that were lost first are forgotten."""
        self._xids: dict[str, dict[int, int]] = defaultdict(dict)
        self._last_xid: dict[str, int] = {}
        self._nvlink: dict[str, float] = {}

    def take(self, reading: Reading) -> None:
        """Count what a new reading brings."""
        for gpu in reading.samples:
            before = self.known.get(gpu.uuid)
            self._nvlink.pop(gpu.uuid, None)
            if before and before.nvlink_bytes_total is not None and gpu.nvlink_bytes_total is not None:
                moved, took_s = gpu.nvlink_bytes_total - before.nvlink_bytes_total, gpu.time - before.time
                if moved >= 0 and took_s > 0:
                    self._nvlink[gpu.uuid] = moved / 1024 / took_s / 1000  # as DCGM: KiB/s over 1000
            self.known.pop(gpu.uuid, None)  # to the end, behind those that are lost
            self.known[gpu.uuid] = gpu
            self._count(gpu.uuid, gpu.xids)
        for uuid in list(self.known)[: max(0, len(self.known) - MOST_KNOWN)]:
            for kept in (self.known, self._xids, self._last_xid, self._nvlink):
                kept.pop(uuid, None)
        by_index = {gpu.gpu: uuid for uuid, gpu in self.known.items()}
        for problem in reading.problems:
            if problem.gpu in by_index:
                self._count(by_index[problem.gpu], problem.xids)

    def write(self, page: Page, reading: Reading, owners: dict[str, Owner]) -> None:
        """The metrics of the GPUs in a reading. owners: by UUID of a GPU or MIG instance."""
        for gpu in reading.samples:
            owner = owners.get(gpu.uuid, NOBODY)
            labels = self._labels_of(gpu, owner)
            text = label_text(labels)
            for name, value_of in FIELDS.items():
                value = value_of(gpu)
                if value is not None:
                    page.add(name, text, value)
            page.add("DCGM_FI_DEV_XID_ERRORS", text, self._last_xid.get(gpu.uuid, 0))
            page.add("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", text, self._nvlink.get(gpu.uuid))
            if gpu.mig:  # as dcgm-exporter: the instances' memory in place of the whole
                self._write_instances(page, gpu.mig, labels, owners)
            else:
                page.add("DCGM_FI_DEV_FB_FREE", text, _mib(gpu.memory_free_bytes))
                page.add("DCGM_FI_DEV_FB_USED", text, _mib(gpu.memory_used_bytes))
            self._write_own(page, gpu, text[:-1], owner)

    def write_lost(self, page: Page, reading: Reading) -> None:
        """GPUs that are missing, and what happened to them. Their other metrics are gone with them."""
        present = {gpu.uuid for gpu in reading.samples}
        for uuid, gpu in self.known.items():
            if uuid not in present:
                labels = self._labels_of(gpu, NOBODY)
                lost = {name: value for name, value in labels.items() if name not in NOBODY}
                page.add("distlab_gpu_lost", label_text(lost), 1)
                self._write_xids(page, uuid, label_text(labels)[:-1])

    def _write_own(self, page: Page, gpu: GpuSample, text: str, owner: Owner) -> None:
        """text: the labels, without the brace that closes them."""
        if gpu.throttle_reasons is not None:
            for reason in THROTTLE_BITS:
                page.add(
                    "distlab_gpu_throttled",
                    f'{text},reason="{reason}"}}',
                    int(reason in gpu.throttle_reasons),
                )
        self._write_xids(page, gpu.uuid, text)
        memory: dict[int, int] = {}  # in MIG mode a process comes once for each instance that it uses
        for process in (gpu.processes or ())[:MOST_PROCESSES]:
            if process.memory_bytes is not None:
                memory[process.pid] = memory.get(process.pid, 0) + process.memory_bytes
        for pid, held_bytes in memory.items():
            page.add("distlab_gpu_process_memory_bytes", f'{text},pid="{pid}"}}', held_bytes)
        if owner["run"] or gpu.processes is not None:
            page.add("distlab_gpu_allocated", text + "}", int(bool(owner["run"] or gpu.processes)))
        price = self.prices.find(gpu.name)
        page.add("distlab_gpu_price_per_hour", text + "}", price.per_hour if price else None)

    def _write_xids(self, page: Page, uuid: str, text: str) -> None:
        for code, count in self._xids[uuid].items():
            page.add("distlab_gpu_xid_events_total", f'{text},xid="{code}"}}', count)

    def _write_instances(
        self, page: Page, instances: tuple[MigInstance, ...], labels: dict[str, str], owners: dict[str, Owner]
    ) -> None:
        # Compute instances share the memory of their GPU instance: one of them, a run's if any is, stands for all.
        by_gpu_instance = {
            one.gpu_instance: one for one in sorted(instances, key=lambda one: one.uuid in owners)
        }
        for instance in by_gpu_instance.values():
            own = labels | owners.get(instance.uuid, NOBODY)
            own |= {"GPU_I_PROFILE": instance.profile, "GPU_I_ID": str(instance.gpu_instance)}
            text = label_text(own)
            page.add("DCGM_FI_DEV_FB_USED", text, _mib(instance.memory_used_bytes))
            if instance.memory_used_bytes is not None and instance.memory_total_bytes is not None:
                page.add(
                    "DCGM_FI_DEV_FB_FREE",
                    text,
                    _mib(instance.memory_total_bytes - instance.memory_used_bytes),
                )

    def _count(self, uuid: str, xids: tuple[Xid, ...]) -> None:
        counts = self._xids[uuid]
        for xid in xids:
            if 0 < xid.code <= MOST_XID and (xid.code in counts or len(counts) < MOST_CODES):
                counts[xid.code] = counts.get(xid.code, 0) + 1
                self._last_xid[uuid] = xid.code

    def _labels_of(self, gpu: GpuSample, owner: Owner) -> dict[str, str]:
        return {
            "gpu": str(gpu.gpu),
            "UUID": gpu.uuid,
            "device": f"nvidia{gpu.gpu}",
            "modelName": gpu.name,
            "Hostname": self._host,
            "DCGM_FI_DRIVER_VERSION": gpu.driver or "",
            "tier": gpu.tier,
            **owner,
        }


def write_source(page: Page, tier: SampleTier, reading: Reading | None, up: bool) -> None:
    """Whether GPUs can be read. A reading that is too old is None: nothing is known then."""
    text = label_text({"tier": tier})
    page.add("distlab_source_up", text, int(up))
    page.add("distlab_source_gpus", text, len(reading.samples) if reading and up else None)
    page.add("distlab_source_problems", text, len(reading.problems) if reading else None)
