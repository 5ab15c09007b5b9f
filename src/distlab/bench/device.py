"""Which device a benchmark measures, and why it cannot where it cannot.

Nobody who asks for a GPU is given a CPU's figures: a GPU that is there and cannot be used is an error with the next
step; a machine without one is measured as what it is.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import psutil
import torch

from distlab.errors import SettingError, printable
from distlab.machine import gpus, torch_cuda

DeviceName = Literal["auto", "gpu", "cpu"]

RESERVE = 0.9
"""Share of the free memory that a measurement may take."""


def choose_device(wanted: DeviceName = "auto", index: int = 0) -> torch.device:
    """The device to measure. auto: the GPU of that index, or the CPU where the machine has no GPU.

    SettingError where a GPU is asked for, or there, and cannot be used.
    """
    if index < 0 or (wanted == "cpu" and index):
        raise SettingError(
            f"gpu is {index}; it is the number of a GPU, counted from 0, and --device cpu measures none."
        )
    if wanted == "cpu":
        return torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason is asked for below, once
        usable = torch.cuda.is_available()
    if not usable:
        problem = _why_not()
        if problem is None and wanted == "auto" and not index:
            return torch.device("cpu")
        raise SettingError(
            problem
            or "There is no NVIDIA GPU that this process can see; run on a machine with one, or give --device cpu."
        )
    if not 0 <= index < torch.cuda.device_count():
        raise SettingError(
            f"gpu is {index}; this process sees {torch.cuda.device_count()} GPUs, counted from 0."
        )
    device = torch.device("cuda", index)
    try:
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except RuntimeError as error:
        raise SettingError(
            f"GPU {index} cannot be used: {reason(error)}. See what nvidia-smi says."
        ) from None
    return device


def _why_not() -> str | None:
    """Why the machine's GPUs cannot be used; None where it has none."""
    found = gpus()
    built_for = torch_cuda()
    if not built_for:
        if not found:
            return None
        version = torch.__version__.split("+")[0]
        return (
            f"There is {found[0].name}, and the installed torch is built without CUDA; install the build for it "
            f"({sys.executable} -m pip install --force-reinstall torch=={version}), or give --device cpu."
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        why = "torch finds no device"
    except (RuntimeError, AssertionError) as error:
        why = reason(error)
    if not found and "too old" not in why:
        return None
    driver = found[0].driver if found else "of this machine"
    return (
        f"There is a GPU, and it cannot be used: {why}. torch is built for CUDA {built_for}, the driver is {driver}; "
        "update the driver, or give --device cpu."
    )


def reason(error: BaseException) -> str:
    """The first sentence of what torch says."""
    text = printable(str(error).strip().split("\n")[0]) or type(error).__name__
    return re.split(r"(?<=[^.\d])\. |\.$", text)[0][:300]


class DoesNotFit(Exception):  # noqa: N818 - it is a finding, not a fault
    """A size is larger than the memory."""


@contextmanager
def fitting(needed_bytes: float, device: torch.device) -> Iterator[None]:
    """What is measured in it. DoesNotFit, half a sentence, where it needs more memory than there is.

    Before an allocation that could only fail, or could have the system kill this process; and where one fails all
    the same.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = psutil.virtual_memory().available
    if needed_bytes > RESERVE * free:
        raise DoesNotFit(
            f"it does not fit: {needed_bytes / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free"
        )
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(f"it does not fit: {reason(error)}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Is this what torch raises where memory is short, on a GPU or on the host?"""
    text = str(error)
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )


def main(arguments: Sequence[str]) -> None:
    """Write the stamp of a device to a file: `python -m distlab.bench.device gpu FILE`."""
    from distlab.bench.stamp import full_stamp

    kind, answer = arguments
    place = choose_device("gpu" if kind == "gpu" else "cpu")
    Path(answer).write_text(json.dumps(asdict(full_stamp(place))))
