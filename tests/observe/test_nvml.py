"""The driver's source, over a library that can lose GPUs, deny, be old and be absent. nvidia-ml-py is the real one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distlab.observe.nvml import RESTART_S
from distlab.observe.sample import GpuSample, MigInstance, Xid
from distlab.observe.throttle import THROTTLE_BITS, throttle_mask, throttle_reasons
from tests.observe.nvml_rig import SOURCE, Driver, build_driver

GIB = 2**30


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    folder = tmp_path_factory.mktemp("driver")
    with Driver(build_driver(folder), folder / "control") as driver:
        yield driver


def test_a_gpu_tells_everything(driver: Driver) -> None:
    driver.start("reasons 36")
    driver.read(100.0)
    reading = driver.read(101.0)
    assert reading.problems == ()
    (sample,) = reading.samples
    assert sample == GpuSample(
        time=101.0,
        gpu=0,
        uuid="GPU-0",
        name="NVIDIA H100 80GB HBM3",
        tier="gpu",
        driver="580.65.06",
        utilization_percent=93,
        memory_utilization_percent=41,
        encoder_percent=3,
        decoder_percent=4,
        graphics_active=0.98,
        tensor_active=0.55,
        dram_active=None,  # this metric alone is refused
        memory_used_bytes=30 * GIB,
        memory_free_bytes=49 * GIB,
        memory_reserved_bytes=GIB,
        sm_clock_MHz=1755,
        sm_clock_max_MHz=1980,
        memory_clock_MHz=2619,
        power_W=pytest.approx(612.345),
        power_limit_W=pytest.approx(700),
        energy_J_total=pytest.approx(123456.789),
        temperature_C=67,
        memory_temperature_C=71,
        slowdown_temperature_C=92,
        throttle_reasons=("sw_power_cap", "sw_thermal_slowdown"),
        ecc_single_bit_total=12,
        ecc_double_bit_total=1,
        remapped_rows_correctable=5,
        remapped_rows_uncorrectable=1,
        row_remap_failed=True,
        pcie_tx_bytes_per_s=64 * 2**20,
        pcie_rx_bytes_per_s=64 * 2**20,
        pcie_replays_total=2,
        nvlink_bytes_total=2000 * 1024,  # over all links, not of link 0
        nvlink_errors_total=6,
        processes=sample.processes,
    )
    assert sample.processes
    (process,) = sample.processes
    assert (process.pid, process.memory_bytes) == (4000, 29 * GIB)
    assert process.name == "python?[2J", "nothing that a terminal obeys"


def test_activity_is_of_the_time_since_the_reading_before(driver: Driver) -> None:
    driver.start("")
    first, soon, later = driver.read(1.0), driver.read(1.05), driver.read(2.0)
    assert [r.samples[0].tensor_active for r in (first, soon, later)] == [None, None, 0.55]
    assert first.samples[0].pcie_rx_bytes_per_s == 5e6, "NVML's own measure until then"


def test_a_gpu_without_these_counters(driver: Driver) -> None:
    driver.start("gpm 0\nnvlink 0\nprocesses 0")
    driver.read(1.0)
    (sample,) = driver.read(2.0).samples
    assert (sample.tensor_active, sample.graphics_active) == (None, None)
    assert (sample.nvlink_bytes_total, sample.nvlink_errors_total) == (None, None)
    assert (sample.pcie_tx_bytes_per_s, sample.processes) == (1e6, ())


def test_a_gpu_that_tells_margins_in_place_of_temperatures(driver: Driver) -> None:
    """As an H100 does: 67 C, 20 degrees below its limit, and the hardware steps in 2 degrees above that."""
    driver.start("margins 1\nfail nvmlDeviceGetTemperatureThreshold 3")
    assert driver.read(1.0).samples[0].slowdown_temperature_C == 89
    driver.start("fail nvmlDeviceGetTemperatureThreshold 3")
    assert driver.read(1.0).samples[0].slowdown_temperature_C is None


def test_one_value_that_is_not_supported_costs_no_other(driver: Driver) -> None:
    driver.start("fail nvmlDeviceGetPowerUsage 3")
    reading = driver.read(1.0)
    assert reading.problems == ()
    assert (reading.samples[0].power_W, reading.samples[0].temperature_C) == (None, 67)


def test_one_value_that_fails_is_told(driver: Driver) -> None:
    driver.start("gpus 2\nfail nvmlDeviceGetPowerUsage@1 999")
    reading = driver.read(1.0)
    assert [sample.power_W is None for sample in reading.samples] == [False, True]
    assert [(p.gpu, p.what) for p in reading.problems] == [
        (1, "GPU 1 could not tell: power (Unknown Error).")
    ]


def test_what_this_user_may_not_read(driver: Driver) -> None:
    denied = (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceRegisterEvents",
    )
    driver.start("\n".join(f"fail {call} 4" for call in denied))
    reading = driver.read(1.0)
    assert reading.samples[0].processes is None
    assert reading.samples[0].utilization_percent == 93
    assert [p.what for p in reading.problems] == [
        "XIDs of GPU 0 are not told to this user; `dmesg` shows them.",
        "This user may not read of GPU 0: ECC errors, processes; root may.",
    ]


def test_no_failing_call_costs_the_reading(driver: Driver) -> None:
    """Every function of the library fails in its turn; the GPU is read or named, and the process goes on."""
    names = sorted(set(re.findall(r"\b(nvml[A-Z]\w+)[(,]", SOURCE.read_text())) - {"nvmlInitWithFlags"})
    assert len(names) > 35
    for name in names:
        for code in (4, 999):
            driver.start(f"fail {name} {code}").read(0.0)
            reading = driver.read(1.0)
            assert reading.samples or reading.problems, name
    both = "fail nvmlDeviceGetMemoryInfo_v2 4\nfail nvmlDeviceGetMemoryInfo 4"
    reading = driver.start(both).read(0.0)
    assert reading.samples[0].memory_used_bytes is None
    assert [p.what for p in reading.problems] == ["This user may not read of GPU 0: memory; root may."]


def test_a_gpu_falls_off_the_bus_and_returns(driver: Driver) -> None:
    driver.start("gpus 8")
    assert len(driver.read(0.0).samples) == 8
    driver.control("gpus 8\nlost 3\nxid 3 79")
    gone = driver.read(1.0)
    assert [sample.gpu for sample in gone.samples] == [0, 1, 2, 4, 5, 6, 7]
    (problem,) = gone.problems
    assert (problem.gpu, problem.xids) == (3, (Xid(time=1.0, code=79),))
    assert problem.what.startswith("GPU 3 has fallen off the bus: ")
    again = driver.read(2.0)
    assert (len(again.samples), again.problems[0].xids) == (7, ()), "an XID is told once"
    driver.control("gpus 8\nxid 3 79")
    assert len(driver.read(RESTART_S - 1).samples) == 7
    assert len(driver.read(RESTART_S).samples) == 8, "NVML was started anew"
    assert driver.read(RESTART_S + 1).problems == ()


def test_a_gpu_that_is_no_longer_listed_is_named(driver: Driver) -> None:
    driver.start("gpus 2")
    driver.read(0.0)
    driver.control("gpus 2\nlost 1")
    driver.read(1.0)
    driver.control("gpus 1")
    reading = driver.read(RESTART_S + 1)
    assert [sample.gpu for sample in reading.samples] == [0]
    assert [p.what for p in reading.problems] == [
        "GPU 1 (NVIDIA H100 80GB HBM3, GPU-1) was there and cannot be read now."
    ]
    driver.control("gpus 2")
    assert len(driver.read(2 * RESTART_S + 2).samples) == 2


def test_xids_come_with_their_gpu(driver: Driver) -> None:
    driver.start("gpus 2")
    driver.read(0.0)
    driver.control("gpus 2\nxid 1 48\nxid 1 63")
    reading = driver.read(5.0)
    assert [sample.xids for sample in reading.samples] == [
        (),
        (Xid(time=5.0, code=48), Xid(time=5.0, code=63)),
    ]
    assert driver.read(6.0).samples[1].xids == ()


def test_mig_instances_stand_in_place_of_utilization(driver: Driver) -> None:
    driver.start("gpus 2\nmig 1")
    driver.read(0.0)
    plain, sliced = driver.read(1.0).samples
    assert (plain.mig, plain.utilization_percent) == (None, 93)
    assert (sliced.utilization_percent, sliced.graphics_active, sliced.encoder_percent) == (None, None, None)
    assert sliced.memory_used_bytes == 30 * GIB
    common = {"compute_instance": 0, "memory_used_bytes": GIB, "memory_total_bytes": 80 * GIB}
    assert sliced.mig == (
        MigInstance(gpu_instance=7, profile="1g.10gb", uuid="MIG-1-0", **common),
        MigInstance(gpu_instance=8, profile="3g.40gb", uuid="MIG-1-1", **common),
    )


def test_mig_instances_that_this_user_may_not_see(driver: Driver) -> None:
    driver.start("mig 0\nfail nvmlDeviceGetMigDeviceHandleByIndex 4")
    reading = driver.read(0.0)
    assert reading.samples[0].mig == ()
    assert [p.what for p in reading.problems] == ["This user may not read of GPU 0: MIG instances; root may."]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "installed and not loaded"),
        (4, "check the rights of /dev/nvidia"),
        (18, "was updated and its old kernel module is still loaded: reboot"),
        (17, "--gpus all"),
        (999, "answers 'Unknown Error': look at `nvidia-smi` and `dmesg`"),
    ],
)
def test_a_driver_that_cannot_be_used_says_why_and_comes_back(driver: Driver, code: int, words: str) -> None:
    driver.start(f"fail nvmlInit {code}")
    (problem,) = driver.read(0.0).problems
    assert words in problem.what
    driver.control("")
    assert len(driver.read(1.0).samples) == 1


def test_a_driver_that_is_unloaded_in_mid_run(driver: Driver) -> None:
    driver.start("gpus 2")
    driver.read(0.0)
    driver.control("gpus 2\nlost 0\nlost 1\nfail nvmlInit 9")
    lost = driver.read(1.0)
    assert lost.samples == ()
    assert {p.gpu for p in lost.problems} == {0, 1}
    down = driver.read(RESTART_S + 1)
    assert "not loaded" in down.problems[0].what
    driver.control("gpus 2")
    assert len(driver.read(RESTART_S + 2).samples) == 2


def test_a_driver_without_gpus(driver: Driver) -> None:
    driver.start("gpus 0")
    (problem,) = driver.read(0.0).problems
    assert problem.what == "The NVIDIA driver lists no GPU: look at `nvidia-smi -L` and `dmesg`."


def test_an_old_driver_tells_what_it_can(tmp_path: Path) -> None:
    with Driver(build_driver(tmp_path / "old", "OLD"), tmp_path / "control") as driver:
        driver.start("reasons 4").read(0.0)
        reading = driver.read(1.0)
    (sample,) = reading.samples
    assert (sample.temperature_C, sample.throttle_reasons) == (66, ("sw_power_cap",)), "by their older names"
    assert (sample.memory_used_bytes, sample.memory_reserved_bytes) == (30 * GIB, None)
    assert sample.processes
    assert sample.tensor_active is None
    assert reading.problems == ()


def test_a_driver_that_lacks_a_function_is_called_too_old(driver: Driver) -> None:
    driver.start("fail nvmlDeviceGetRemappedRows 13")
    reading = driver.read(0.0)
    assert reading.samples[0].remapped_rows_correctable is None
    assert [p.what for p in reading.problems] == [
        "The driver 580.65.06 is too old to tell of GPU 0: remapped rows; 535 or later can."
    ]


def test_an_ancient_driver_is_one_sentence(tmp_path: Path) -> None:
    with Driver(build_driver(tmp_path / "old", "OLD", "ANCIENT"), tmp_path / "control") as driver:
        (problem,) = driver.start().read(0.0).problems
    assert "is too old for nvidia-ml-py: install driver 535 or later" in problem.what


def test_no_driver_is_one_sentence_with_the_next_step(tmp_path: Path) -> None:
    with Driver(None, tmp_path / "control") as driver:
        reading = driver.start().read(0.0)
    assert reading.samples == ()
    (problem,) = reading.problems
    assert problem.what.startswith("No NVIDIA driver is installed here (no libnvidia-ml.so.1): install one")


def test_throttle_reasons_are_nvmls_bits() -> None:
    import pynvml  # type: ignore[import-untyped]

    for reason, bit in THROTTLE_BITS.items():
        name = "".join(word.capitalize() for word in reason.split("_"))
        assert getattr(pynvml, f"nvmlClocksEventReason{name}") == bit
    assert throttle_reasons(0) == ()
    assert throttle_reasons(0x1000 | 0x60) == ("sw_thermal_slowdown", "hw_thermal_slowdown")
    assert throttle_mask(("sw_thermal_slowdown", "hw_thermal_slowdown")) == 0x60
