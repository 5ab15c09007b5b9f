"""Cases of one machine of our own and of one GPU: what the package's files come to, and made-up files."""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.predict.network import NodeLink, Topology, predict_collective
from distlab.predict.network.calibrate import Host, fit_host, slowdown
from distlab.predict.network.fitting import Sample
from distlab.predict.own import (
    COLLECTIVES,
    DATA,
    FAMILIES,
    MEMORY,
    STEPS,
    held_out,
    hosts,
    noise,
    own_cases,
    recorded_gpu_cases,
    remarks,
    rows,
    unit_bytes,
)
from distlab.predict.own_gpu import GPUS, device_for, eager_bytes, eager_step_s, gpu_memory_run
from distlab.predict.units import GB, MIB
from distlab.predict.validation import Scored

CORES = 2
LAUNCH_S, HOP_S, CHUNK_S = 4e-5, 5e-6, 1e-5
HOST = Host(
    Topology(2, 2, NodeLink("made up", 2 * GB, HOP_S, CHUNK_S, ("Simple",)), launch_s=LAUNCH_S), CORES
)
SIZES = [2**12 * 4**k for k in range(7)]


def write(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        file.write("# tier cpu: made up\n")
        out = csv.DictWriter(file, list(table[0]))
        out.writeheader()
        out.writerows(table)


def made_up_collectives(folder: Path) -> None:
    write(
        folder / f"{COLLECTIVES}.csv",
        [
            {"op": op, "ranks": n, "payload_bytes": size, "cores": CORES, "time_s": HOST.seconds(op, size, n)}
            for op in ("all_reduce", "all_gather", "reduce_scatter")
            for n in (2, 4)
            for size in SIZES
        ],
    )


# What the package holds.


def of_kind(cells: Sequence[Scored], kind: str) -> list[Scored]:
    return [cell for cell in cells if cell.kind == kind]


def test_memory_of_real_runs() -> None:
    """No fit: what DDP and FSDP hold on 1, 2 and 4 processes. States to the byte, activations within 5%."""
    cells = [cell for cell in own_cases() if cell.family == MEMORY]
    states, activations, peaks = (of_kind(cells, kind) for kind in ("states", "activations", "peak"))
    assert len({cell.case for cell in cells}) == len(cells)
    assert len(states) == len(activations) == len(peaks) == len(rows(f"{MEMORY}.csv"))
    assert {row["ranks"] for row in rows(f"{MEMORY}.csv")} == {"1", "2", "4"}
    assert all(cell.predicted == cell.measured for cell in states)
    assert max(abs(cell.signed_error) for cell in activations) < 0.05
    errors = [abs(cell.signed_error) for cell in peaks]
    assert statistics.fmean(errors) < 0.02
    assert max(errors) < 0.10
    assert not any(cell.fitted for cell in cells)


def test_steps_recorded_on_a_gpu() -> None:
    """Nothing is fitted to them: memory within 5%; time within 10%, but where the launches of kernels bound it."""
    cells = [cell for cell in recorded_gpu_cases() if cell.family == "h200_steps"]
    assert len(of_kind(cells, "step")) == len(rows("h200_steps.csv"))
    assert max(abs(cell.signed_error) for cell in of_kind(cells, "peak")) < 0.05
    errors = [abs(cell.signed_error) for cell in of_kind(cells, "step")]
    assert statistics.median(errors) < 0.10
    assert max(errors) < 0.35


def test_products_recorded_on_a_gpu() -> None:
    """A product of 4096 and more reaches, in 16 and 32 bits, what the registry's best one does within 20%."""
    large = [row for row in rows("h200_products.csv") if min(int(row[side]) for side in "mnk") >= 4096]
    cells = {cell.case: cell for cell in recorded_gpu_cases() if cell.kind == "product"}
    assert len(cells) == len(rows("h200_products.csv"))
    for row in large:
        if row["dtype"] in ("bf16", "fp16", "tf32", "fp32"):
            cell = cells[f"{row['dtype']}: {row['m']} x {row['k']} with {row['k']} x {row['n']}"]
            assert abs(cell.signed_error) < 0.20, cell.case


@pytest.mark.parametrize(
    "name", [path.name for path in sorted(DATA.glob("own_*.csv")) + sorted(DATA.glob("h200_*.csv"))]
)
def test_each_file_says_where_it_comes_from(name: str) -> None:
    said = "\n".join(remarks(name))
    for part in ("tier ", "torch 2.", "command: python -m benchmarks.own_cases"):
        assert part in said
    assert re.search(r"; 20\d\d-\d\d-\d\dT", said)


# Made-up files.


def test_a_file_that_is_missing_has_no_cases(tmp_path: Path) -> None:
    assert own_cases(tmp_path) == recorded_gpu_cases(tmp_path) == []
    made_up_collectives(tmp_path)
    assert {cell.family for cell in own_cases(tmp_path)} == {COLLECTIVES}
    assert set(FAMILIES) == {COLLECTIVES, MEMORY, STEPS}


def test_noise_is_the_middle_spread_of_launches(tmp_path: Path) -> None:
    times = {"time_s": 2, "launches": 3}
    write(tmp_path / "a.csv", [{**times, "low_s": low, "high_s": 3} for low in (2, 1.5, 1)])
    assert noise("a.csv", tmp_path) == 0.75
    assert noise("b.csv", tmp_path) is None
    assert noise(f"{MEMORY}.csv") is None
    assert noise("h200_steps.csv") == pytest.approx(0.08, abs=0.06)


def test_collectives_are_fitted_to_every_other_size(tmp_path: Path) -> None:
    made_up_collectives(tmp_path)
    cells = own_cases(tmp_path)
    assert len(cells) == 3 * 2 * len(SIZES)
    for cell in cells:
        assert cell.kind == "collective"
        assert cell.fitted is not held_out(SIZES.index(int(cell.payload_bytes)))
        assert abs(cell.signed_error) < 0.03
    assert set(hosts(tmp_path)) == {"all_reduce", "all_gather", "reduce_scatter"}
    assert {cell.run for cell in cells} >= {("gloo all_reduce", 2, 2), ("gloo all_gather", 4, 4)}


def test_held_out_sizes_do_not_move_the_fit(tmp_path: Path) -> None:
    made_up_collectives(tmp_path)
    before = hosts(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    changed = [
        {
            **row,
            "time_s": float(row["time_s"]) * (3 if held_out(SIZES.index(int(row["payload_bytes"]))) else 1),
        }
        for row in rows(f"{COLLECTIVES}.csv", tmp_path)
    ]
    write(other / f"{COLLECTIVES}.csv", changed)
    assert hosts(other) == before


def test_processes_share_the_cores() -> None:
    assert [slowdown(n, 2) for n in (1, 2, 3, 4, 8)] == [1, 1, 1.5, 2, 4]
    with pytest.raises(ValueError, match="cores 0"):
        slowdown(1, 0)
    topology = HOST.topology.group(4, 4)
    assert HOST.seconds("all_reduce", MIB, 4) == 2 * predict_collective("all_reduce", MIB, topology).total_s
    samples = [
        Sample(n, n, float(size), HOST.seconds("all_reduce", size, n)) for n in (2, 4) for size in SIZES
    ]
    found = fit_host(samples, CORES)
    assert found.topology.inside.bandwidth_Bps == pytest.approx(2 * GB, rel=0.05)
    assert found.seconds("all_reduce", MIB, 4) == pytest.approx(HOST.seconds("all_reduce", MIB, 4), rel=0.02)


STEP = {"model": "gpt", "width": 128, "layers": 4, "heads": 4, "sequence": 64, "cores": CORES}


def test_steps_are_those_of_one_process_and_the_exchange(tmp_path: Path) -> None:
    made_up_collectives(tmp_path)
    alone_s = {8: 0.06, 4: 0.035, 2: 0.02}
    table = [
        {**STEP, "strategy": strategy, "ranks": n, "samples_per_rank": each, "time_s": alone_s[each]}
        for strategy in ("single", "ddp", "fsdp")
        for n, sizes in ((1, (8, 4, 2)), (2, (8, 4)), (4, (8, 2)))
        for each in sizes
    ]
    cnn = {**STEP, "model": "cnn", "strategy": "ddp", "samples_per_rank": 64, "time_s": 0.1}
    table += [{**cnn, "ranks": n} for n in (1, 2)]
    write(tmp_path / f"{STEPS}.csv", table)
    cells = {cell.case: cell for cell in own_cases(tmp_path) if cell.family == STEPS}
    assert len(cells) == sum(row["ranks"] != 1 for row in table)
    assert all(cell.kind == "scaling" and not cell.fitted for cell in cells.values())
    assert cells["gpt x 4, no exchange, 2 samples each"].predicted == 2 * alone_s[2]
    assert cells["gpt x 2, no exchange, 8 samples each"].predicted == alone_s[8]
    ddp, fsdp = (cells[f"gpt x 2, {s}, weak scaling, 8 samples each"].predicted for s in ("ddp", "fsdp"))
    bytes_each = sum(unit_bytes({name: str(value) for name, value in STEP.items()}))
    at_least_s = bytes_each / (2 * GB)  # over two ranks each sends all of it once
    assert ddp > alone_s[8] + at_least_s
    assert fsdp > alone_s[8] + 1.25 * at_least_s  # blocks are gathered twice, and dealt out: half each time
    assert "gpt x 4, ddp, strong scaling, 2 samples each" in cells
    assert "cnn x 2, ddp, weak scaling, 64 samples each" in cells


def test_sizes_of_the_trained_models() -> None:
    from distlab.train.config import ModelConfig
    from distlab.train.models import blocks, build_model, gradient_bytes

    for config, row in (
        (ModelConfig("gpt", 32, 3, 4), {**STEP, "width": 32, "layers": 3}),
        (ModelConfig("cnn", 24), {**STEP, "model": "cnn", "width": 24}),
    ):
        model = build_model(config, 0)
        units = [gradient_bytes(parent[name]) for parent, name in blocks(model)]
        found = unit_bytes({name: str(value) for name, value in row.items()})
        assert list(found) == [*units, gradient_bytes(model) - sum(units)]


def test_a_file_without_the_number_of_cores_is_refused(tmp_path: Path) -> None:
    made_up_collectives(tmp_path)
    path = tmp_path / f"{COLLECTIVES}.csv"
    path.write_text(path.read_text().replace("cores", "others"))
    with pytest.raises(SettingError, match="measure it again"):
        own_cases(tmp_path)


GPU_STEP = {
    "hidden": 1024, "layers": 2, "heads": 16, "vocabulary": 256, "sequence": 512, "micro_batch": 4, "precision": "bf16",
    "recompute": "none", "step_s": 0.01, "load_s": 0.002, "peak_allocated_bytes": 10**9,
}  # fmt: skip


def test_a_gpu_s_made_up_steps(tmp_path: Path) -> None:
    table = [GPU_STEP, {**GPU_STEP, "recompute": "full"}, {**GPU_STEP, "recompute": "selective"}]
    write(tmp_path / "h200_steps.csv", [*table, {**GPU_STEP, "precision": "fp32"}])
    cells = recorded_gpu_cases(tmp_path)
    assert [cell.kind for cell in cells] == ["step", "peak", "step", "peak", "step", "step", "peak"]
    none_s, full_s, selective_s, fp32_s = (cell.predicted for cell in cells if cell.kind == "step")
    assert none_s < selective_s < full_s < fp32_s
    assert all(cell.inputs is not None for cell in cells if cell.kind == "peak")
    write(tmp_path / "h200_steps.csv", [{**GPU_STEP, "precision": "fp8"}])
    with pytest.raises(SettingError, match="'fp8'"):
        recorded_gpu_cases(tmp_path)


def test_eager_traffic() -> None:
    """It grows with the values alone; autocast's casts cost more than 16-bit products save."""
    assert GPUS == ("h200",)
    half, full = eager_bytes(1, "bf16"), eager_bytes(1, "fp32")
    assert eager_bytes(1000, "bf16") == (1000 * half.forward, 1000 * half.backward)
    assert half.forward > full.forward
    run = gpu_memory_run({name: str(value) for name, value in GPU_STEP.items()})
    fast = device_for("h200", "bf16")
    elements_s = run.model.layers * sum(eager_bytes(4 * 512 * 1024, "bf16")) / fast.element_Bps
    assert eager_step_s(run.model, run.layout, fast, "bf16") > elements_s


# How the files are made.


def test_rows_of_a_recording_are_those_of_the_package(tmp_path: Path) -> None:
    from benchmarks.own_cases import main

    recording = Path(__file__).parents[2] / "recordings" / "nvidia-h200-x1"
    assert main(["gpu", str(recording), "--out", str(tmp_path)]) == 0
    for name in ("h200_steps.csv", "h200_products.csv"):
        assert rows(name, tmp_path) == rows(name)


def test_medians_of_launches() -> None:
    from benchmarks.own_cases import by_launch, spread

    assert by_launch([3, 1, 2, 9, 7, 4, 4], [3, 2, 2]) == [2, 8, 4]
    assert spread([2, 8, 4]) == {"time_s": 4, "low_s": 2, "high_s": 8, "launches": 3}


def test_what_a_rank_holds_is_measured_again() -> None:
    """One case, one rank, in this process: the row of the package, to the byte."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    from benchmarks.own_memory import _track, cases
    from distlab.machine import LOOPBACK

    store = TCPStore(LOOPBACK, 0, 1, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        measured = _track(cases()[0])
    finally:
        dist.destroy_process_group()
    row = next(row for row in rows(f"{MEMORY}.csv") if row["ranks"] == "1" and row["strategy"] == "ddp")
    assert measured == {name: int(row[name]) for name in measured}
