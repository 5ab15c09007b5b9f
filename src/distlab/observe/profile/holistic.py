"""HolisticTraceAnalysis beside our own reading, where a GPU trace allows.

HTA (facebookresearch) reads kernels alone: the span from the first to the last kernel is busy or idle, and kernels are
computation, communication or memory copies by their names. Here the same quantities are computed by our own interval
arithmetic over the same span, as a check of either.

Which kernels HTA (0.5.0) takes for communication it decides by their names; where it misses one that we count, the
comparison says so.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from distlab.observe.profile.analysis import Comparison
from distlab.observe.profile.intervals import Times, intersect, length, union
from distlab.observe.profile.traces import Span, Trace, load


def compare_with_hta(
    traces: Mapping[int, Trace], files: Mapping[int, Path]
) -> tuple[tuple[Comparison, ...], str]:
    """A comparison for each rank with a GPU, and one sentence where there is something to say of it."""
    on_gpu = {rank: files[rank] for rank, trace in traces.items() if trace.on_gpu}
    if not on_gpu:
        return (), ""
    try:
        from hta.trace_analysis import TraceAnalysis  # type: ignore[import-untyped]
        from hta.utils.utils import get_kernel_type  # type: ignore[import-untyped]
    except ImportError as error:
        return (), f"HolisticTraceAnalysis cannot be imported ({error}): its part is left out."
    try:
        with _quiet(), tempfile.TemporaryDirectory() as scratch:
            # HTA wants each rank's number in its trace, and reads plain or gzipped JSON by the file's name.
            copies = {rank: _with_rank(path, rank, Path(scratch)) for rank, path in on_gpu.items()}
            analysis = TraceAnalysis(copies, "", include_last_profiler_step=True)
            times = analysis.get_temporal_breakdown(visualize=False).set_index("rank")
            communicates = any(_transfers(traces[rank]) for rank in on_gpu)
            overlaps = (
                analysis.get_comm_comp_overlap(visualize=False).set_index("rank") if communicates else None
            )
    except Exception as error:  # its reader asserts, and pandas raises, whatever it comes upon
        return (
            (),
            f"HolisticTraceAnalysis could not read these traces ({type(error).__name__}): its part is left out.",
        )
    found = []
    for rank in on_gpu:
        own = _own(traces[rank])
        overlap = float(overlaps.loc[rank, "comp_comm_overlap_pctg"]) if overlaps is not None else None
        found.append(
            Comparison(
                rank=rank,
                compute_percent=own[0],
                hta_compute_percent=float(times.loc[rank, "compute_time_pctg"]),
                idle_percent=own[1],
                hta_idle_percent=float(times.loc[rank, "idle_time_pctg"]),
                overlap_percent=own[2],
                hta_overlap_percent=overlap if overlap == overlap else None,  # NaN without communication
            )
        )
    names = {span.name for rank in on_gpu for span in _transfers(traces[rank])}
    unknown = sorted(name for name in names if get_kernel_type(name) != "COMMUNICATION")
    said = (
        f"HolisticTraceAnalysis takes {unknown[0]} for computation, so that its shares differ from ours."
        if unknown
        else ""
    )
    return tuple(found), said


def _own(trace: Trace) -> tuple[float, float, float | None]:
    """Percent of the span of kernels that computes, that is idle, and of communication that is hidden."""
    compute = union((s.start, s.end) for s in trace.spans if s.kind == "kernel")
    copies = union((s.start, s.end) for s in trace.spans if s.kind == "copy")
    transfers = _times_of_transfers(trace)
    busy = union([*compute, *copies, *transfers])
    span = busy[-1][1] - busy[0][0]
    hidden = length(intersect(compute, transfers)) / length(transfers) * 100 if transfers else None
    return length(compute) / span * 100, (span - length(busy)) / span * 100, hidden


def _transfers(trace: Trace) -> list[Span]:
    return [span for span in trace.spans if span.kind == "transfer" and "/" in span.thread]


def _times_of_transfers(trace: Trace) -> Times:
    return union((span.start, span.end) for span in _transfers(trace))


def _with_rank(path: Path, rank: int, scratch: Path) -> str:
    values = load(path)
    values["distributedInfo"] = {"rank": rank}
    copy = scratch / f"rank_{rank}.json"
    copy.write_text(json.dumps(values))
    return str(copy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """HTA logs at length, prints, and shows a bar; none of that is for the reader of our report."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
