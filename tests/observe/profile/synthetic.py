"""Made-up traces in the form that torch.profiler writes; each says of itself that it is synthetic."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

BASE_NS = 1_790_857_026_000_000_000
MAIN, GLOO = 100, 101


def event(
    name: str, category: str, start_us: float, end_us: float, thread: int = MAIN, **args: Any
) -> dict[str, Any]:
    """A complete event."""
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 0 if category in ("kernel", "gpu_memcpy") else MAIN,
        "tid": thread,
        "ts": start_us,
        "dur": end_us - start_us,
        "args": args,
    }


def step(number: int, start_us: float, end_us: float) -> dict[str, Any]:
    return event(f"ProfilerStep#{number}", "user_annotation", start_us, end_us)


def op(name: str, start_us: float, end_us: float, **args: Any) -> dict[str, Any]:
    return event(name, "cpu_op", start_us, end_us, **args)


def data(start_us: float, end_us: float) -> dict[str, Any]:
    return event("distlab::data", "user_annotation", start_us, end_us)


def gloo(name: str, start_us: float, end_us: float, elements: int = 8) -> dict[str, Any]:
    return event(f"gloo:{name}", "user_annotation", start_us, end_us, GLOO, **{"Input Dims": [[elements]]})


def kernel(
    name: str, start_us: float, end_us: float, stream: int = 7, correlation: int = 0
) -> list[dict[str, Any]]:
    """A kernel, and the call on the host that launched it."""
    both = {"correlation": correlation, "External id": correlation}
    return [
        event(name, "kernel", start_us, end_us, stream, device=0, stream=stream, **both),
        event("cudaLaunchKernel", "cuda_runtime", start_us - 2, start_us - 1, MAIN, cbid=211, **both),
    ]


def memory(at_us: float, total_bytes: int, gpu: bool = False) -> dict[str, Any]:
    args = {"Total Allocated": total_bytes, "Device Type": int(gpu), "Device Id": 0 if gpu else -1}
    return {
        "ph": "i",
        "cat": "cpu_instant_event",
        "name": "[memory]",
        "pid": MAIN,
        "tid": MAIN,
        "ts": at_us,
        "args": args,
    }


def trace(
    events: list[dict[str, Any]], rank: int = 0, world_size: int = 2, host: str = "node-0"
) -> dict[str, Any]:
    """The JSON of a whole trace."""
    return {
        "schemaVersion": 1,
        "synthetic": True,
        "deviceProperties": [],
        "distributedInfo": {"backend": "gloo", "rank": rank, "world_size": world_size},
        "host_name": host,
        "baseTimeNanoseconds": BASE_NS,
        "traceEvents": events,
    }


def write(folder: Path, values: dict[str, Any], rank: int = 0) -> Path:
    """Write it where a profile's folder has it."""
    path = folder / f"rank_{rank}.trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(values).encode(), 1))
    return path
