"""What Prometheus scrapes: DCGM's names and units, gaps where nothing is known, and an exporter that stays up."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from distlab.cli import main
from distlab.errors import SettingError
from distlab.machine import LOOPBACK
from distlab.observe import exporter as exporter_module
from distlab.observe.export_command import listen
from distlab.observe.exporter import Exporter, is_up
from distlab.observe.exposition import CONTENT_TYPE, Page
from distlab.observe.gpu_metrics import FIELDS, MOST_CODES, MOST_XID, GpuMetrics
from distlab.observe.metrics import DCGM, GPU_LABELS, METRICS, MIG_LABELS, OUR_LABELS
from distlab.observe.owners import find_owners, labels_of, shown_here
from distlab.observe.ports import EXPORTER_PORT
from distlab.observe.runs import Run, Runs
from distlab.observe.sample import (
    GpuProcess,
    GpuSample,
    MigInstance,
    Problem,
    Reading,
    SampleTier,
    Source,
    Xid,
)
from distlab.observe.simulated import SimulatedSource
from distlab.predict.hardware.prices import read_prices
from tests.observe.made_runs import MadeRun, write_info, write_lines
from tests.observe.nvml_rig import build_driver
from tests.observe.test_run_metrics import locked

DEADLINE_S = 60

FULL = GpuSample(
    time=1000.0,
    gpu=0,
    uuid="GPU-0",
    name='NVIDIA H100 80GB "HBM3"',
    tier="gpu",
    driver="580.1",
    utilization_percent=93,
    memory_utilization_percent=41,
    encoder_percent=1,
    decoder_percent=2,
    graphics_active=0.9,
    tensor_active=0.5,
    dram_active=0.4,
    memory_used_bytes=3 * 2**30,
    memory_free_bytes=5 * 2**30,
    memory_reserved_bytes=2**29,
    sm_clock_MHz=1980,
    sm_clock_max_MHz=1981,
    memory_clock_MHz=2619,
    power_W=612.5,
    power_limit_W=700.0,
    energy_J_total=12.5,
    temperature_C=61,
    memory_temperature_C=72,
    slowdown_temperature_C=92,
    throttle_reasons=("sw_power_cap", "hw_slowdown"),
    ecc_single_bit_total=7,
    ecc_double_bit_total=1,
    remapped_rows_correctable=2,
    remapped_rows_uncorrectable=3,
    row_remap_failed=False,
    pcie_tx_bytes_per_s=1e9,
    pcie_rx_bytes_per_s=2e9,
    pcie_replays_total=4,
    nvlink_bytes_total=10**12,
    nvlink_errors_total=5,
    processes=(GpuProcess(pid=77, name="python", memory_bytes=10**9),),
)
NOTHING = GpuSample(time=1000.0, gpu=1, uuid="GPU-1", name="NVIDIA T4", tier="gpu")


def parse(text: bytes) -> dict[str, Metric]:
    """By prometheus-client's parser, under the names that were written: it has each counter's end in `_total`."""
    families = {}
    for family in text_string_to_metric_families(text.decode()):
        for index, sample in enumerate(family.samples):
            name = sample.name if sample.name in METRICS else sample.name.removesuffix("_total")
            family.samples[index] = sample._replace(name=name)
        families[family.samples[0].name] = family
    return families


def samples(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """Value by name, then by the values of the labels in the metric's own order."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse(text).values():
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), "a series is there once"
            found[sample.name][labels] = sample.value
    return found


def of_gpus(*readings: Reading, runs: dict[str, dict[str, str]] | None = None) -> bytes:
    gpus, page = GpuMetrics(read_prices()), Page()
    for reading in readings:
        gpus.take(reading)
    gpus.write(page, readings[-1], runs or {})
    gpus.write_lost(page, readings[-1])
    return page.render()


def only(text: bytes, name: str) -> float:
    [value] = samples(text)[name].values()
    return value


# --- Names, units, labels ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SM_CLOCK", 1980),
        ("MEM_CLOCK", 2619),
        ("MEMORY_TEMP", 72),
        ("GPU_TEMP", 61),
        ("POWER_USAGE", 612.5),
        ("TOTAL_ENERGY_CONSUMPTION", 12_500),  # mJ
        ("PCIE_REPLAY_COUNTER", 4),
        ("GPU_UTIL", 93),  # %
        ("MEM_COPY_UTIL", 41),
        ("ENC_UTIL", 1),
        ("DEC_UTIL", 2),
        ("XID_ERRORS", 0),
        ("FB_FREE", 5 * 1024),  # MiB
        ("FB_USED", 3 * 1024),
        ("FB_RESERVED", 512),
        ("ECC_SBE_VOL_TOTAL", 7),
        ("ECC_DBE_VOL_TOTAL", 1),
        ("UNCORRECTABLE_REMAPPED_ROWS", 3),
        ("CORRECTABLE_REMAPPED_ROWS", 2),
        ("ROW_REMAP_FAILURE", 0),
        ("CLOCK_THROTTLE_REASONS", 0x4 | 0x8),
    ],
)
def test_units_are_dcgm_s(name: str, value: float) -> None:
    assert only(of_gpus(Reading((FULL,))), f"DCGM_FI_DEV_{name}") == value


def test_nvlink_is_a_rate_as_dcgm_gives_it() -> None:
    later = replace(FULL, time=1002.0, nvlink_bytes_total=10**12 + 2 * 1024 * 10**6)
    text = of_gpus(Reading((FULL,)), Reading((later,)))
    assert only(text, "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL") == pytest.approx(1000), "KiB/s over 1000"
    assert only(text, "distlab_gpu_nvlink_bytes_total") == later.nvlink_bytes_total
    for unknown in (replace(later, nvlink_bytes_total=None), replace(later, nvlink_bytes_total=0), FULL):
        assert "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL" not in samples(
            of_gpus(Reading((FULL,)), Reading((unknown,)))
        )


def test_every_metric_of_a_gpu_is_exported_with_its_help_kind_and_labels() -> None:
    gpu = replace(FULL, xids=(Xid(time=1.0, code=31),))
    later = replace(FULL, time=1001.0)
    text = of_gpus(Reading((gpu,)), Reading((later,)))
    families = parse(text)
    for metric in METRICS.values():
        if metric.name.startswith(("DCGM", "distlab_gpu_")) and metric.name != "distlab_gpu_lost":
            family = families[metric.name]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            for sample in family.samples:
                assert sample.name == metric.name
                assert set(sample.labels) == set(metric.labels), metric.name


def test_labels_are_dcgm_exporter_s() -> None:
    owners = {"GPU-0": {"run": "demo", "job_name": "team"}}
    [sample] = parse(of_gpus(Reading((FULL,)), runs=owners))["DCGM_FI_DEV_GPU_TEMP"].samples
    assert sample.labels == {
        "gpu": "0",
        "UUID": "GPU-0",
        "device": "nvidia0",
        "modelName": 'NVIDIA H100 80GB "HBM3"',
        "Hostname": os.uname().nodename,
        "DCGM_FI_DRIVER_VERSION": "580.1",
        "tier": "gpu",
        "run": "demo",
        "job_name": "team",
    }


PUBLIC = {
    "DCGM_FI_DEV_GPU_TEMP": {"Hostname", "gpu"},
    "DCGM_FI_DEV_POWER_USAGE": {"Hostname", "gpu"},
    "DCGM_FI_DEV_SM_CLOCK": {"Hostname", "UUID", "gpu"},
    "DCGM_FI_DEV_GPU_UTIL": {"gpu"},
    "DCGM_FI_DEV_FB_FREE": {"Hostname", "gpu"},
    "DCGM_FI_DEV_FB_USED": {"Hostname", "gpu", "GPU_I_ID", "GPU_I_PROFILE"},
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": {"Hostname", "gpu"},
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": {"Hostname", "gpu"},
}
"""The metrics and labels in the queries of Grafana's public dashboard 12239 (grafana/dcgm-exporter-dashboard.json in
NVIDIA/dcgm-exporter, and its revision at grafana.com). Its queries group by GPU_I_ID everywhere, which a GPU without
MIG has nowhere; `instance` is Prometheus' own."""


def test_the_public_dashboard_finds_its_metrics_and_labels() -> None:
    mig = replace(FULL, gpu=1, uuid="GPU-1", mig=(_instance(1),))
    families = parse(of_gpus(Reading((FULL, mig))))
    for name, labels in PUBLIC.items():
        assert any(labels <= set(sample.labels) for sample in families[name].samples), name


def _instance(number: int) -> MigInstance:
    return MigInstance(
        gpu_instance=number,
        compute_instance=0,
        profile="1g.10gb",
        uuid=f"MIG-{number}",
        memory_used_bytes=2**30,
        memory_total_bytes=10 * 2**30,
    )


def test_mig_instances_have_memory_of_their_own() -> None:
    mig = replace(FULL, mig=(_instance(1), _instance(9)), utilization_percent=None)
    families = parse(of_gpus(Reading((mig,)), runs={"MIG-9": {"run": "demo", "job_name": "team"}}))
    used = families["DCGM_FI_DEV_FB_USED"].samples
    assert {(s.labels["GPU_I_ID"], s.labels["GPU_I_PROFILE"], s.labels["run"], s.value) for s in used} == {
        ("1", "1g.10gb", "", 1024),
        ("9", "1g.10gb", "demo", 1024),
    }
    assert {sample.value for sample in families["DCGM_FI_DEV_FB_FREE"].samples} == {9 * 1024}
    assert set(used[0].labels) == {*GPU_LABELS, *OUR_LABELS, *MIG_LABELS}
    assert "DCGM_FI_DEV_GPU_UTIL" not in families


def test_no_series_comes_twice_where_compute_instances_share_a_gpu_instance() -> None:
    both = _instance(1), replace(_instance(1), compute_instance=1, uuid="MIG-1b")
    process = GpuProcess(pid=7, name="python", memory_bytes=2**20)
    mig = replace(FULL, mig=both, utilization_percent=None, processes=(process, process))
    families = parse(of_gpus(Reading((mig,)), runs={"MIG-1": {"run": "demo", "job_name": "team"}}))
    assert [(s.labels["run"], s.value) for s in families["DCGM_FI_DEV_FB_USED"].samples] == [("demo", 1024)]
    assert [s.value for s in families["distlab_gpu_process_memory_bytes"].samples] == [2**21]


def test_what_is_not_known_is_a_gap() -> None:
    names = set(samples(of_gpus(Reading((NOTHING,)))))
    assert names == {"DCGM_FI_DEV_XID_ERRORS", "distlab_gpu_price_per_hour"}


def test_the_contract_has_a_field_for_each_name() -> None:
    rest = {"DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_USED"}
    rest.add("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL")
    assert {metric.name for metric in DCGM} == {name for name in FIELDS if name.startswith("DCGM")} | rest


def test_xids_are_counted_by_code_and_the_last_one_stays() -> None:
    events = [(), (31, 31), (79,), ()]
    readings = [
        Reading((replace(FULL, xids=tuple(Xid(time=1.0, code=c) for c in codes)),)) for codes in events
    ]
    text = of_gpus(*readings)
    assert only(text, "DCGM_FI_DEV_XID_ERRORS") == 79
    counted = {s.labels["xid"]: s.value for s in parse(text)["distlab_gpu_xid_events_total"].samples}
    assert counted == {"31": 2, "79": 1}


def test_the_page_has_an_end_whatever_a_recording_says() -> None:
    def reading(number: int) -> Reading:
        codes = [-1, 0, 10**6, *range(1 + number, 4000)]
        xids = tuple(Xid(time=1.0, code=code) for code in codes)
        return Reading(
            tuple(
                replace(FULL, gpu=i, uuid=f"GPU-{number}-{i}", xids=xids if i < 2 else ()) for i in range(64)
            )
        )

    text = of_gpus(*(reading(number) for number in range(6)))
    events = parse(text)["distlab_gpu_xid_events_total"].samples
    by_gpu = Counter(sample.labels["UUID"] for sample in events)
    assert set(by_gpu.values()) == {MOST_CODES}
    assert all(0 < int(sample.labels["xid"]) <= MOST_XID for sample in events)
    lost = {sample.labels["UUID"] for sample in parse(text)["distlab_gpu_lost"].samples}
    assert lost == {f"GPU-4-{i}" for i in range(64)}, "those that were lost last"
    assert len(text) < 2 * 2**20


def test_a_lost_gpu_leaves_nothing_but_that_it_is_lost_and_why() -> None:
    other = replace(FULL, gpu=1, uuid="GPU-1")
    lost = Reading((other,), (Problem("GPU 0 is lost", 0, (Xid(time=1.0, code=79),)),))
    text = of_gpus(Reading((FULL, other)), lost)
    families = parse(text)
    assert {sample.labels["UUID"] for sample in families["DCGM_FI_DEV_GPU_TEMP"].samples} == {"GPU-1"}
    [sample] = families["distlab_gpu_lost"].samples
    assert (sample.value, sample.labels["UUID"]) == (1, "GPU-0")
    assert set(sample.labels) == {*GPU_LABELS, "tier"}
    [event] = families["distlab_gpu_xid_events_total"].samples
    assert (event.labels["xid"], event.labels["UUID"]) == ("79", "GPU-0")
    assert "distlab_gpu_lost" not in samples(of_gpus(Reading((FULL, other)), lost, Reading((FULL, other))))


def test_values_that_are_no_numbers_are_written_as_prometheus_reads_them() -> None:
    page = Page()
    for value in (float("nan"), float("inf"), -float("inf"), 1e300, 0.1, 2**62, None):
        page.add("distlab_train_loss", f'{{run="{value}"}}', value)
    values = [sample.value for sample in parse(page.render())["distlab_train_loss"].samples]
    assert [str(value) for value in values] == [
        "nan",
        "inf",
        "-inf",
        "1e+300",
        "0.1",
        str(2**62),
    ]


# --- Whose a GPU is ---


def running(folder: Path, places: list[dict[str, object]], attempts: int = 1) -> Run:
    made = MadeRun(now=time.time() - 20)
    made.attempt(0, 4)
    write_info(folder, ranks=places)
    write_lines(folder, made.kept)
    run = Run(folder)
    run.poll(time.time())
    return run


def place(rank: int, device: str, pid: int = 1, host: str | None = None) -> dict[str, object]:
    return {"rank": rank, "host": host or os.uname().nodename, "pid": pid, "device": device}


def test_a_gpu_belongs_to_the_run_whose_rank_has_it(tmp_path: Path) -> None:
    gpus = [replace(FULL, gpu=i, uuid=f"GPU-{i}", processes=None) for i in range(3)]
    gpus[2] = replace(gpus[2], mig=(_instance(1),))
    places = [place(0, "GPU-1", host="a-container"), place(1, "MIG-1"), place(2, "GPU-9"), place(3, "cpu")]
    with locked(tmp_path / "demo"):
        run = running(tmp_path / "demo", places)
        owners = find_owners(gpus, [run])
    assert owners == {"GPU-1": run, "MIG-1": run}
    assert labels_of(owners)["GPU-1"] == {"run": "demo", "job_name": "team"}
    run.poll(time.time())
    assert find_owners(gpus, [run]) == {}, "it has ended"


def test_a_run_that_claims_another_s_gpu_does_not_get_it(tmp_path: Path) -> None:
    with locked(tmp_path / "liar"), locked(tmp_path / "owner"):
        liar = running(tmp_path / "liar", [place(0, "GPU-0", pid=1)])
        owner = running(tmp_path / "owner", [place(0, "GPU-0", pid=77)])
        assert find_owners([FULL], [liar, owner]) == {"GPU-0": owner}


def test_machines_that_share_a_folder_show_each_run_once(tmp_path: Path) -> None:
    first, second, plain = (
        running(tmp_path / name, [place(0, device), place(1, "GPU-1")])
        for name, device in (("first", "GPU-0"), ("second", "MIG-1"), ("plain", "cpu"))
    )
    runs = [first, second, plain]
    gpus = [FULL, replace(FULL, gpu=1, uuid="GPU-1"), replace(FULL, gpu=2, uuid="GPU-2", mig=(_instance(1),))]
    assert shown_here(runs, gpus[:1]) == [first, plain]
    assert shown_here(runs, gpus[1:2]) == [plain]
    assert shown_here(runs, gpus[2:]) == [second, plain]
    assert shown_here(runs, []) == runs
    assert shown_here(runs, SimulatedSource(gpus=1).read().samples) == runs


def test_simulated_gpus_belong_to_the_run_that_they_follow(tmp_path: Path) -> None:
    gpus = SimulatedSource(gpus=3).read().samples
    with locked(tmp_path / "demo"):
        run = running(tmp_path / "demo", [place(0, "cpu"), place(1, "cpu")])
        assert find_owners(gpus, [run], tmp_path / "demo") == {gpus[0].uuid: run, gpus[1].uuid: run}
        assert find_owners(gpus, [run], tmp_path / "other") == {}


# --- The exporter while things fail ---


class Script(Source):
    """A source that does as it is told: a reading, or an error to raise."""

    tier: SampleTier = "gpu"

    def __init__(self) -> None:
        self.now: Reading | Exception = Reading((FULL,))
        self.reads = self.opened = 0
        self.hang = threading.Event()
        self.hang.set()

    def open(self) -> Source:
        self.opened += 1
        return self

    def read(self) -> Reading:
        self.hang.wait(DEADLINE_S)
        self.reads += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def close(self) -> None:
        pass


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setattr(exporter_module, "STALE_LEAST_S", 0.3)
    monkeypatch.setattr(exporter_module, "RETRY_S", 0.02)
    return Script()


@pytest.fixture
def exporter(script: Script, tmp_path: Path) -> Iterator[Exporter]:
    said: list[str] = []
    made = Exporter(
        script.open, "gpu", Runs(tmp_path / "runs"), read_prices(), period_s=0.02, say=said.append
    )
    made.said = said  # type: ignore[attr-defined]
    with made:
        wait_for(lambda: script.reads > 1)
        yield made
        script.hang.set()


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def up(exporter: Exporter) -> float:
    return only(exporter.page(), "distlab_source_up")


def test_a_source_that_raises_is_a_gap_and_comes_back(exporter: Exporter, script: Script) -> None:
    assert up(exporter) == 1
    script.now = RuntimeError("the driver\x1b[2J is gone")
    wait_for(lambda: up(exporter) == 0)
    names = set(samples(exporter.page()))
    assert not any(name.startswith("DCGM") for name in names)
    assert not names & {"distlab_gpu_lost", "distlab_source_gpus"}, "nothing is known of GPUs now"
    assert exporter.said == [  # type: ignore[attr-defined]
        "GPUs cannot be read, and it is tried again: the driver?[2J is gone"
    ]
    script.now = Reading((FULL,))
    wait_for(lambda: up(exporter) == 1)
    assert script.opened > 1


def test_a_source_that_hangs_is_a_gap(exporter: Exporter, script: Script) -> None:
    script.hang.clear()
    wait_for(lambda: up(exporter) == 0)
    assert "DCGM_FI_DEV_GPU_TEMP" not in samples(exporter.page())
    script.hang.set()
    wait_for(lambda: up(exporter) == 1)


def test_a_gap_is_no_one_s_cost(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Exporter(script.open, "gpu", Runs(tmp_path), read_prices())
    reading = Reading((replace(FULL, name="NVIDIA H100 80GB HBM3"),))
    seconds = []
    for now in (0.0, 1.0, 100.0, 101.0):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        exporter._take(reading)
        seconds.append(only(exporter.page(), "distlab_cost_spend_total") * 3600 / 6.88)
    assert seconds == pytest.approx([0, 1, 1, 2])


def test_a_driver_that_says_why_is_down_and_told_once(exporter: Exporter, script: Script) -> None:
    script.now = Reading((), (Problem("No driver is installed; install one."),))
    wait_for(lambda: up(exporter) == 0)
    wait_for(lambda: exporter.said)  # type: ignore[attr-defined]
    reads = script.reads
    wait_for(lambda: script.reads > reads + 3)
    assert exporter.said == ["No driver is installed; install one."]  # type: ignore[attr-defined]


def test_runs_go_on_where_gpus_cannot_be_read(exporter: Exporter, script: Script, tmp_path: Path) -> None:
    script.hang.clear()
    running(tmp_path / "runs" / "demo", [])
    exporter.runs._scanned_at = None
    wait_for(lambda: "distlab_train_step" in samples(exporter.page()))
    assert only(exporter.page(), "distlab_exporter_run_problems") == 0
    with (tmp_path / "runs/demo/log/rank_0.jsonl").open("a") as file:
        file.write("forged\n")
    exporter.runs._scanned_at = None
    wait_for(lambda: only(exporter.page(), "distlab_exporter_run_problems") == 1)


def test_every_gpu_lost_is_no_failure_of_the_source() -> None:
    assert is_up(Reading((), (Problem("GPU 0 is lost", 0),)))
    assert is_up(Reading((FULL,), (Problem("XIDs cannot be told"),)))
    assert not is_up(Reading((), (Problem("no driver"),)))


# --- The server and the command ---


def fetch(port: int, path: str = "/metrics") -> tuple[int, str, bytes]:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=DEADLINE_S) as answer:
        return answer.status, answer.headers["Content-Type"], answer.read()


def test_a_taken_port_and_a_wrong_address_are_one_sentence() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"Port {port} at 127.0.0.1 is taken: .* another with --port"):
            listen(LOOPBACK, port, lambda: b"")
    with pytest.raises(SettingError, match="--bind is 'everywhere'"):
        listen("everywhere", 0, lambda: b"")
    with pytest.raises(SettingError, match="is not of this machine"):
        listen("192.0.2.1", 0, lambda: b"")
    with pytest.raises(SettingError, match="--port is 70000"):
        listen(LOOPBACK, 70000, lambda: b"")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--every", "0"], "--every is 0"),
        (["--provider", "nobody"], "no price of the provider"),
        (["--prices", "nowhere.yml"], "Cannot read the prices"),
        (["--budget", "demo"], "no amount above 0"),
        (["--source", "simulated", "--scenario", "party"], "party"),
        (["--source", "recorded", "--recording", "nowhere"], "nowhere"),
        (["--bind", "0.0.0.0:80"], "--bind"),
    ],
)
def test_bad_options_end_the_command(
    capsys: pytest.CaptureFixture[str], args: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["observe", "export", "--port", "0", *args])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def start(folder: Path, *args: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
    """The real command, once it serves."""
    command = [sys.executable, "-m", "distlab.cli", "observe", "export", "--port", "0", *args]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", line)
    assert match, line + (folder / "stderr").read_text()
    return process, int(match[1])


def test_the_command_serves_simulated_gpus_and_a_run_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    with locked(folder):
        running(folder, [place(0, "cpu"), place(1, "cpu")])
        process, port = start(tmp_path, "--follow", "runs/demo", "--budget", "demo=3")
        try:
            wait_for(
                lambda: b'run="demo",currency' in fetch(port)[2].replace(b'job_name="team",tier="cpu",', b"")
            )
            status, kind, text = fetch(port)
            assert (status, kind) == (200, CONTENT_TYPE)
            found = samples(text)
            assert set(found) <= set(METRICS)
            families = parse(text)
            assert {s.labels["run"] for s in families["DCGM_FI_DEV_GPU_TEMP"].samples} == {"demo"}
            assert {s.labels["tier"] for s in families["DCGM_FI_DEV_GPU_TEMP"].samples} == {"simulated"}
            assert all(
                s.labels["modelName"].startswith("SIMULATED")
                for s in families["DCGM_FI_DEV_GPU_TEMP"].samples
            )
            assert only(text, "distlab_source_gpus") == 2
            [budget] = families["distlab_cost_budget"].samples
            assert (budget.value, budget.labels["run"]) == (3, "demo")
            assert fetch(port, "/")[:2] == (200, "text/html; charset=utf-8")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(port, "/secret")
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
            lint = [line for line in checked.stderr.decode().splitlines() if line.startswith("distlab")]
            assert not [line for line in lint if "camelCase" not in line], (
                "DCGM's label names alone are unusual"
            )
            modules = Path(f"/proc/{process.pid}/maps").read_text()
            assert "libtorch" not in modules
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == 0
    assert (tmp_path / "stderr").read_text() == ""


def test_a_gpu_falls_off_the_bus_in_mid_run(tmp_path: Path) -> None:
    """The real command, nvidia-ml-py and a driver's library of ours."""
    library, control = build_driver(tmp_path / "driver"), tmp_path / "control"
    control.write_text("gpus 2\n")
    folder = tmp_path / "runs" / "demo"
    with locked(folder):
        running(folder, [place(0, "GPU-0"), place(1, "GPU-1")])
        process, port = start(
            tmp_path,
            "--source",
            "nvml",
            "--every",
            "0.1",
            FAKE_NVML=str(control),
            LD_LIBRARY_PATH=str(library),
        )

        def gpus(name: str) -> dict[str, dict[str, str]]:
            family = parse(fetch(port)[2]).get(name)
            return {sample.labels["UUID"]: sample.labels for sample in family.samples} if family else {}

        try:
            wait_for(lambda: {labels["run"] for labels in gpus("DCGM_FI_DEV_GPU_TEMP").values()} == {"demo"})
            text = fetch(port)[2]
            assert set(gpus("DCGM_FI_DEV_GPU_TEMP")) == {"GPU-0", "GPU-1"}
            assert {labels["tier"] for labels in gpus("DCGM_FI_DEV_GPU_TEMP").values()} == {"gpu"}
            assert {value for value in samples(text)["DCGM_FI_DEV_FB_USED"].values()} == {30 * 1024}
            assert "distlab_gpu_lost" not in samples(text)
            fallen = tmp_path / "control.part"
            fallen.write_text("gpus 2\nlost 1\nxid 1 79\n")
            fallen.replace(control)
            wait_for(lambda: set(gpus("distlab_gpu_lost")) == {"GPU-1"})
            assert set(gpus("DCGM_FI_DEV_GPU_TEMP")) == {"GPU-0"}
            assert {labels["xid"] for labels in gpus("distlab_gpu_xid_events_total").values()} == {"79"}
            assert only(fetch(port)[2], "distlab_source_up") == 1
            assert gpus("DCGM_FI_DEV_GPU_TEMP")["GPU-0"]["run"] == "demo"
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
    assert "GPU 1" in (tmp_path / "stderr").read_text()


def test_without_a_driver_the_exporter_stays_up_says_so_and_goes_on_when_there_is_one(tmp_path: Path) -> None:
    library, control = build_driver(tmp_path / "driver"), tmp_path / "control"
    control.write_text("fail nvmlInit 9\n")
    process, port = start(
        tmp_path, "--source", "nvml", "--every", "0.1", FAKE_NVML=str(control), LD_LIBRARY_PATH=str(library)
    )
    try:
        wait_for(lambda: (tmp_path / "stderr").read_text())
        found = samples(fetch(port)[2])
        assert found["distlab_source_up"] == {("gpu",): 0}
        assert not any(name.startswith("DCGM") for name in found)
        assert "The NVIDIA driver is installed and not loaded" in (tmp_path / "stderr").read_text()
        control.write_text("gpus 1\n")
        wait_for(lambda: only(fetch(port)[2], "distlab_source_up") == 1)
        assert only(fetch(port)[2], "distlab_source_gpus") == 1
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def test_one_connection_serves_many_scrapes() -> None:
    with listen(LOOPBACK, 0, lambda: b"x 1\n") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection((LOOPBACK, server.server_address[1]), timeout=DEADLINE_S) as client:
            for _ in range(3):
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = b""
                while not answer.endswith(b"x 1\n"):
                    answer += client.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200")
        server.shutdown()


def asked_as(server: ThreadingHTTPServer, *hosts: str) -> str:
    """The status line of an answer to a request that gives these as its Host."""
    with socket.create_connection((LOOPBACK, server.server_address[1]), timeout=DEADLINE_S) as client:
        lines = ["GET /metrics HTTP/1.1", "Connection: close", *(f"Host: {host}" for host in hosts)]
        client.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        with client.makefile("rb") as answer:
            return answer.read().decode()


def test_on_the_loopback_a_foreign_name_is_refused() -> None:
    own = ["localhost", "LOCALHOST:9400", "127.0.0.1", "127.0.0.1:9400", "127.1.2.3:1", "[::1]:9400", "[::1]"]
    foreign = [
        "rebound.example.org:9400",
        "localhost.example.org",
        "192.0.2.1:9400",
        "",
        "127.0.0.1.nip.io",
        "1",
    ]
    with listen(LOOPBACK, 0, lambda: b"secret 1\n") as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        for host in own:
            assert asked_as(server, host).startswith("HTTP/1.1 200"), host
        assert asked_as(server).startswith("HTTP/1.1 200"), "a browser gives its Host always"
        for hosts in [*([host] for host in foreign), ["localhost", "rebound.example.org"]]:
            answer = asked_as(server, *hosts)
            assert answer.startswith("HTTP/1.1 403"), hosts
            assert "secret" not in answer
            assert "answers as localhost or 127.0.0.1 alone" in answer
        server.shutdown()
    with listen("0.0.0.0", 0, lambda: b"open 1\n") as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        assert asked_as(server, "gpu-node-7.cluster:9400").startswith("HTTP/1.1 200")
        server.shutdown()


def test_the_default_port_is_dcgm_exporter_s() -> None:
    assert EXPORTER_PORT == 9400
