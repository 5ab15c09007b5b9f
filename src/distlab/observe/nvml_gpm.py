"""How active a GPU's parts were: NVML's GPU performance monitoring (GPM), from Hopper on."""

from __future__ import annotations

import contextlib
import math
from typing import Any

GPM_METRICS = {1: "graphics", 5: "tensor", 10: "dram", 20: "pcie_tx", 21: "pcie_rx"}
"""Graphics, any tensor and DRAM activity in percent; PCIe in MiB/s."""
GPM_LEAST_S = 0.1
"""Between two samples of the profiling counters."""


class ActivityCounters:
    """Of one GPU. Each reading covers the time since the one before."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._before: Any = None
        self._at = -math.inf
        try:
            self._supported = bool(nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
        except nvml.NVMLError:
            self._supported = False

    def close(self) -> None:
        if self._before is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlGpmSampleFree(self._before)
            self._before = None

    def read(self, now: float) -> dict[str, float]:
        """The metrics since the reading before; none at the first one, or too soon after it."""
        if not self._supported or now - self._at < GPM_LEAST_S:
            return {}
        nvml = self._nvml
        try:
            sample = nvml.nvmlGpmSampleAlloc()
        except nvml.NVMLError:
            return {}
        before, self._before = self._before, sample
        try:
            nvml.nvmlGpmSampleGet(self._handle, sample)
            self._at = now
            return self._between(before, sample) if before is not None else {}
        except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired):
            raise
        except nvml.NVMLError:
            self.close()
            return {}
        finally:
            if before is not None:
                with contextlib.suppress(nvml.NVMLError):
                    nvml.nvmlGpmSampleFree(before)

    def _between(self, before: Any, after: Any) -> dict[str, float]:
        nvml = self._nvml
        ask = nvml.c_nvmlGpmMetricsGet_t()
        ask.version, ask.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(GPM_METRICS)
        ask.sample1, ask.sample2 = before, after
        for i, metric in enumerate(GPM_METRICS):
            ask.metrics[i].metricId = metric
        told = nvml.nvmlGpmMetricsGet(ask).metrics
        return {
            name: told[i].value
            for i, name in enumerate(GPM_METRICS.values())
            if told[i].nvmlReturn == 0 and math.isfinite(told[i].value)
        }
