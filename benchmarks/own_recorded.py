"""What a recording of a GPU holds of products and of training steps, as rows for the scorecard (see own_cases.py)."""

from __future__ import annotations

import gzip
import json
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Table = tuple[str, list[str], list[dict[str, Any]]]
SIZE = re.compile(r"(\d+) x (\d+) x (\d+)")
PARTS = (
    "hidden",
    "layers",
    "heads",
    "vocabulary",
    "sequence",
    "micro_batch",
    "precision",
    "recompute",
)


def tables(recording: Path) -> Iterator[Table]:
    """Names of the files, remarks and rows: steps.json and bench.json of a recording (see recordings/README.md)."""
    short = recording.resolve().name.removeprefix("nvidia-").split("-")[0]
    steps = json.loads((recording / "steps.json").read_text())
    position_s = _loading_s(recording)
    remarks = [
        "training steps of GPTs on one GPU, distlab.train, strategy single: seconds, and peak of live tensors",
        "load_s: what making a step's batch takes while the GPU waits: by the samples' length, as in the recording's "
        "run `good`",
        _on(steps["stamp"]),
        *steps["notes"],
    ]
    yield f"{short}_steps.csv", remarks, [_step(row, position_s) for row in steps["rows"]]
    bench = json.loads((recording / "bench.json").read_text())
    products = [
        _product(row) for row in bench["rows"] if row["part"] == "product" and row["data"] == "random"
    ]
    remarks = ["products of m x k with k x n matrices of random numbers on one GPU, median seconds"]
    yield f"{short}_products.csv", [*remarks, _on(bench["stamp"])], products


def _on(stamp: Mapping[str, Any]) -> str:
    return (
        f"tier recorded: {stamp['hardware']}; torch {stamp['torch']}, CUDA {stamp['cuda']}, driver {stamp['driver']}; "
        f"{stamp['date']}; {stamp['command']}"
    )


def _loading_s(recording: Path) -> float:
    """Seconds for one position of the samples of a batch: made-up sequences grow position by position."""
    length = json.loads((recording / "good.run.json").read_text())["config"]["data"]["sequence_length"]
    with gzip.open(recording / "good.rank_0.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    loading_s = statistics.median(float(record["data_s"]) for record in records if "data_s" in record)
    return loading_s / float(length)


def _step(row: Mapping[str, Any], position_s: float) -> dict[str, Any]:
    samples = row["samples_s"]
    times = {"step_s": statistics.median(samples), "low_s": min(samples), "high_s": max(samples)}
    found = {name: row[name] for name in PARTS} | {name: float(f"{s:.5g}") for name, s in times.items()}
    load_s = float(f"{position_s * row['sequence']:.5g}")
    return found | {"load_s": load_s, "peak_allocated_bytes": row["peak_allocated_bytes"]}


def _product(row: Mapping[str, Any]) -> dict[str, Any]:
    match = SIZE.fullmatch(row["size"])
    if match is None:
        raise ValueError(f"size is {row['size']!r}; expected M x K x N, such as 1024 x 1024 x 1024.")
    m, k, n = map(int, match.groups())
    return {
        "m": m,
        "n": n,
        "k": k,
        "dtype": row["name"],
        "seconds": float(f"{statistics.median(row['samples_s']):.5g}"),
    }
