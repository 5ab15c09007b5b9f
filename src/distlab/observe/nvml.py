"""The GPUs of this machine, read from NVIDIA's driver through NVML (nvidia-ml-py).

    with NvmlSource() as source:
        reading = source.read()

Each value is asked for by itself: one that a device or its driver does not have is None and costs no other value. A
GPU that cannot be reached is missing from the reading and named in its problems, the others go on, and NVML is
started anew from time to time, so that it comes back when the driver has it back. What one device tells is in
nvml_device.py.
"""

from __future__ import annotations

import ctypes
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distlab.errors import SettingError, printable
from distlab.observe.nvml_device import Device, Lost
from distlab.observe.sample import GpuSample, Problem, Reading, SampleTier, Source, Xid

XID_EVENT = 0x8
"""nvmlEventTypeXidCriticalError."""
MOST_EVENTS = 1000
"""Of a reading: a driver that reports more at once can wait."""
RESTART_S = 30.0
"""While a GPU is lost, NVML is started anew so often: only that finds a GPU that was reset."""

SENTENCES = {
    1: "NVML was shut down; it is started again at the next reading.",
    4: "This user may not talk to the NVIDIA driver: check the rights of /dev/nvidia* and /dev/nvidiactl.",
    9: "The NVIDIA driver is installed and not loaded: run `nvidia-smi` or `modprobe nvidia` as root, and see `dmesg`.",
    12: "No NVIDIA driver is installed here (no libnvidia-ml.so.1): install one, start the container with "
    "`--gpus all`, or choose the source simulated.",
    13: "The NVIDIA driver is too old for nvidia-ml-py: install driver 535 or later.",
    17: "The system forbids access to the GPUs (a container's device rules): start it with `--gpus all`.",
    18: "The NVIDIA driver was updated and its old kernel module is still loaded: reboot, or reload the modules.",
}
"""By NVML's error code (nvmlReturn_t), when nothing can be read."""


def driver_is_installed() -> bool:
    """Is there an NVIDIA driver's library, in whatever state?"""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


class NvmlSource(Source):
    """This machine's GPUs. Where nothing can be read, each reading says why, and tries again."""

    tier: SampleTier = "gpu"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """SettingError where nvidia-ml-py is not installed."""
        try:
            import pynvml  # type: ignore[import-untyped]
        except ImportError:
            raise SettingError("nvidia-ml-py is not installed; run `pip install nvidia-ml-py`.") from None
        self._nvml: Any = pynvml
        self._clock = clock
        self._devices: list[Device] | None = None
        """None: NVML is not started."""
        self._known: dict[str, tuple[int, str]] = {}
        """Index and name of each GPU that was ever read, by UUID."""
        self._events: Any = None
        self._started = 0.0
        self._complaints: list[str] = []

    def close(self) -> None:
        """Shut NVML down. Another reading would start it again."""
        if self._devices is None:
            return
        for device in self._devices:
            device.close()
        for call, args in ((self._nvml.nvmlEventSetFree, (self._events,)), (self._nvml.nvmlShutdown, ())):
            try:
                if call is self._nvml.nvmlShutdown or self._events is not None:
                    call(*args)
            except self._nvml.NVMLError:  # it is gone already
                pass
        self._devices = self._events = None

    def read(self) -> Reading:
        """All GPUs, now."""
        now = self._clock()
        try:
            lost = self._devices is not None and (
                any(device.lost for device in self._devices) or self._missing()
            )
            if lost and now - self._started >= RESTART_S:
                self.close()
            if self._devices is None:
                self._start(now)
        except self._nvml.NVMLError as error:
            self.close()
            return Reading((), (Problem(self._sentence(error)), *self._gone(set())))
        samples: list[GpuSample] = []
        problems = [Problem(what) for what in self._complaints]
        for device in self._devices or ():
            try:
                sample, complaints = device.read(now, self._driver)
            except Lost as error:
                problems.append(Problem(str(error), device.index))
                continue
            self._known[sample.uuid] = (sample.gpu, sample.name)
            samples.append(sample)
            problems += [Problem(what, device.index) for what in complaints]
        # Asked for last, so that no GPU is found lost in an earlier reading than the XID that says why.
        xids = self._new_xids(now)
        samples = [replace(sample, xids=tuple(xids.pop(sample.gpu, ()))) for sample in samples]
        problems = [
            problem if problem.gpu is None else replace(problem, xids=tuple(xids.pop(problem.gpu, ())))
            for problem in problems
        ]
        if not self._devices:
            problems.append(Problem("The NVIDIA driver lists no GPU: look at `nvidia-smi -L` and `dmesg`."))
        told_of = {problem.gpu for problem in problems if problem.gpu is not None}
        gone = [p for p in self._gone({sample.uuid for sample in samples}) if p.gpu not in told_of]
        return Reading(tuple(samples), (*problems, *gone))

    def _start(self, now: float) -> None:
        """Start NVML, find the GPUs and ask for their XIDs. NVMLError where that cannot be."""
        nvml = self._nvml
        nvml.nvmlInit()
        self._devices, self._complaints = [], []
        self._started = now
        self._driver = printable(nvml.nvmlSystemGetDriverVersion())
        for index in range(nvml.nvmlDeviceGetCount()):
            self._devices.append(Device(nvml, index))
        try:
            self._events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            self._complaints.append(f"XIDs cannot be told ({error}); `dmesg` shows them.")
            return
        refused = [device.index for device in self._devices if not self._register(device)]
        if refused:
            which = ", ".join(map(str, refused))
            self._complaints.append(f"XIDs of GPU {which} are not told to this user; `dmesg` shows them.")

    def _register(self, device: Device) -> bool:
        nvml = self._nvml
        try:
            nvml.nvmlDeviceRegisterEvents(device.handle, XID_EVENT, self._events)
        except (nvml.NVMLError_NoPermission, nvml.NVMLError_Unknown):
            return False
        except nvml.NVMLError:  # not a kind that reports events, or lost: its reading will say
            pass
        return True

    def _new_xids(self, now: float) -> dict[int, list[Xid]]:
        """What the driver has reported since the last reading, by GPU. It does not wait."""
        found: dict[int, list[Xid]] = defaultdict(list)
        nvml = self._nvml
        for _ in range(MOST_EVENTS if self._events is not None else 0):
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # a timeout: no more; or lost, which the device's reading says
                break
            index = next((d.index for d in self._devices or () if _same(d.handle, event.device)), None)
            if index is not None and event.eventType == XID_EVENT:
                found[index].append(Xid(time=now, code=int(event.eventData)))
        return found

    def _missing(self) -> bool:
        """Has a GPU that was here before not come back when NVML was started?"""
        return len(self._known) > len(self._devices or ())

    def _gone(self, read: set[str]) -> list[Problem]:
        return [
            Problem(f"GPU {index} ({name}, {uuid}) was there and cannot be read now.", index)
            for uuid, (index, name) in self._known.items()
            if uuid not in read
        ]

    def _sentence(self, error: Any) -> str:
        text = f"The NVIDIA driver answers {printable(str(error))!r}: look at `nvidia-smi` and `dmesg`."
        return SENTENCES.get(error.value, text)


def _same(handle: Any, other: Any) -> bool:
    """Do two handles of NVML's mean the same device?"""
    return bool(ctypes.cast(handle, ctypes.c_void_p).value == ctypes.cast(other, ctypes.c_void_p).value)
