"""The hardware registry is complete, its relations hold, and each number has a source that the book can cite."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.predict.hardware import (
    ACCELERATORS,
    LINKS,
    NODES,
    STORAGE,
    Accelerator,
    accelerator,
    link,
    node,
    storage,
)
from distlab.predict.hardware.figures import Figure, Source, table
from distlab.predict.hardware.prices import read_prices
from distlab.predict.registry import REGISTRY, value
from distlab.predict.units import Bandwidth, ComputeRate, Size

BIBLIOGRAPHY = Path(__file__).parents[2] / "book" / "references.bib"
ROWS = [*ACCELERATORS.values(), *LINKS.values(), *NODES.values(), *STORAGE.values()]


def figures_of(row: object) -> Iterator[Figure[Any]]:
    """Every figure that a row holds, the ones that disagree included."""
    for held in vars(row).values():
        for part in held.values() if isinstance(held, Mapping) else [held]:
            if isinstance(part, Figure):
                yield from part.all


# --- Complete ---


def test_what_the_course_speaks_of_is_there() -> None:
    assert set(ACCELERATORS) >= {
        *(
            "p100",
            "v100_16gb",
            "v100_32gb",
            "a100_40gb",
            "a100_80gb",
            "h100_sxm",
            "h100_pcie",
            "h200",
            "b200",
        ),
        *("l4", "l40s", "a10", "t4", "mi300x", "tpu_v4", "tpu_v5e", "tpu_v5p"),
    }
    assert set(LINKS) >= {
        *(f"pcie{n}_x16" for n in range(3, 7)),
        *(f"nvlink{n}" for n in range(1, 6)),
        *(f"nvswitch{n}" for n in range(1, 5)),
        *(f"ib_{n}" for n in ("edr", "hdr", "ndr", "xdr")),
        *(f"roce_{n}" for n in (25, 100, 200, 400)),
        *(f"efa_v{n}" for n in range(1, 5)),
    }
    for name in (
        *(
            "dgx_a100",
            "hgx_a100",
            "dgx_h100",
            "hgx_h200",
            "DGX H200",
            "dgx_b200",
            "p4d.24xlarge",
            "p5.48xlarge",
        ),
        *(
            "a2-highgpu-8g",
            "a3-highgpu-8g",
            "a3-megagpu-8g",
            "ND96asr_v4",
            "ND96isr_H100_v5",
            "ND96isr_H200_v5",
        ),
    ):
        assert node(name).accelerators == 8
    for name in ("nvme", "nfs", "lustre", "s3"):
        assert storage(name).read is not None


def test_every_number_has_a_source_in_the_bibliography_a_page_and_a_day() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY.read_text(), re.M))
    sources = [figure.source for row in ROWS for figure in figures_of(row)]
    sources += [box.source for box in NODES.values()]
    assert len(sources) > 200
    for source in sources:
        assert source.key in keys
        assert source.url.startswith("https://")
        assert re.fullmatch(r"2026-\d\d-\d\d", source.checked)
        assert source.confidence in "VSCR"


def test_names_refer_to_rows_that_exist() -> None:
    for chip in ACCELERATORS.values():
        assert link(chip.host_link).kind == "pcie"
        assert link(chip.link)
    for box in NODES.values():
        assert box.chip.name == box.accelerator
        assert box.inside.name == box.link
        assert box.between.kind in ("infiniband", "roce", "ethernet", "efa")


def test_every_gpu_of_nvidia_has_a_price() -> None:
    prices = read_prices()
    for chip in ACCELERATORS.values():
        found = prices.of_accelerator(chip)
        assert (found is not None) == bool(chip.sold_as), chip.name
    assert prices.of("lambda").of_accelerator(accelerator("h100")) == prices.of("lambda").find(
        "NVIDIA H100 80GB HBM3"
    )


# --- What must hold between numbers ---


@pytest.mark.parametrize("chip", ACCELERATORS.values(), ids=lambda chip: chip.name)
def test_nothing_reaches_more_than_its_datasheet_promises(chip: Accelerator) -> None:
    for dtype, reached in chip.reached.items():
        for figure in reached.all:
            assert 0.4 * chip.peak(dtype) < figure.value <= chip.peak(dtype)
        assert chip.ceiling(dtype) is reached
    if chip.memory_bandwidth_reached:
        assert chip.memory_bandwidth_reached.value <= chip.memory_bandwidth.value


@pytest.mark.parametrize("chip", ACCELERATORS.values(), ids=lambda chip: chip.name)
def test_half_the_bits_twice_the_rate(chip: Accelerator) -> None:
    peaks = {dtype: figure.value for dtype, figure in chip.peaks.items()}
    half = peaks.get("bf16", peaks.get("fp16"))
    if half is None:
        assert chip.name == "p100", "the only one without matrix units"
        return
    if "fp8" in peaks:
        assert peaks["fp8"] / half == pytest.approx(2, rel=0.015)
    if "tf32" in peaks:
        assert half / peaks["tf32"] == pytest.approx(2, rel=0.02)
    if "fp4" in peaks:
        assert peaks["fp4"] / peaks["fp8"] == pytest.approx(2)
    if "int8" in peaks and chip.name != "tpu_v4":  # it has no faster path for int8
        assert peaks["int8"] / half == pytest.approx(2, rel=0.015)
    if "bf16" in peaks and "fp16" in peaks:
        assert peaks["bf16"] == peaks["fp16"]
    assert "fp32" not in peaks or peaks["fp32"] < half


@pytest.mark.parametrize("chip", ACCELERATORS.values(), ids=lambda chip: chip.name)
def test_what_programs_can_have_is_less_than_is_soldered_on(chip: Accelerator) -> None:
    """NVIDIA's HBM is sold in GB and counted in GiB: 80 "GB" are 80 GiB before ECC, tables and the driver."""
    assert chip.usable.value <= Size.gibibytes(chip.memory.value.in_gigabytes)
    assert chip.usable.value > 0.91 * chip.memory.value
    if chip.memory_usable is None:
        assert chip.usable is chip.memory


@pytest.mark.parametrize(
    ("name", "smi_mebibytes"),
    [
        ("h100", 81559),
        ("h100_pcie", 81559),
        ("a100", 81920),
        ("a100_40gb", 40960),
        ("h200", 143771),
        ("b200", 183359),
    ],
)
def test_cuda_gives_a_little_less_than_nvidia_smi_shows(name: str, smi_mebibytes: float) -> None:
    """modal-labs/modal-client#2797 for H100 and A100; a recording for H200; many listings for B200."""
    usable = accelerator(name).usable.value.in_gibibytes
    assert 0.96 * smi_mebibytes / 1024 < usable < smi_mebibytes / 1024


def test_an_h200_is_an_h100_with_more_and_faster_memory() -> None:
    h100, h200 = accelerator("h100"), accelerator("h200")
    assert h100.peaks == h200.peaks
    assert h200.memory.value > h100.memory.value
    assert h200.memory_bandwidth.value > h100.memory_bandwidth.value


@pytest.mark.parametrize("chip", ACCELERATORS.values(), ids=lambda chip: chip.name)
def test_magnitudes(chip: Accelerator) -> None:
    assert Size.gigabytes(16) <= chip.memory.value <= Size.gigabytes(192)
    assert Bandwidth.gigabytes_per_s(300) <= chip.memory_bandwidth.value <= Bandwidth.gigabytes_per_s(8000)
    assert link(chip.link).bandwidth.value < chip.memory_bandwidth.value
    if chip.power_W:
        assert 70 <= chip.power_W.value <= 1000
    for figure in figures_of(chip):
        # What disagrees does so by a mistake at most: a factor of 2, not of 8 or 1,000.
        assert all(0.5 <= _plain(other.value) / _plain(figure.value) <= 2 for other in figure.others), (
            chip.name,
            figure,
        )


def _plain(quantity: Bandwidth | Size | ComputeRate | float) -> float:
    match quantity:
        case Bandwidth():
            return quantity.bytes_per_s
        case Size():
            return quantity.bytes
        case ComputeRate():
            return quantity.flop_per_s
        case _:
            return quantity


def test_each_generation_is_faster_than_the_one_before() -> None:
    for family in (
        [f"pcie{n}_x16" for n in range(3, 7)],
        [f"nvlink{n}" for n in range(1, 6)],
        [f"nvswitch{n}" for n in range(1, 5)],
        ["ib_edr", "ib_hdr", "ib_ndr", "ib_xdr"],
        ["roce_25", "roce_100", "roce_200", "roce_400"],
    ):
        rates = [link(name).bandwidth.value for name in family]
        assert rates == sorted(rates)
        assert len(set(rates)) == len(rates)


def test_links_reach_no_more_than_they_have() -> None:
    for row in LINKS.values():
        if row.reached:
            assert 0.5 * row.bandwidth.value < row.reached.value <= row.bandwidth.value, row.name
        if row.peer:
            assert row.peer.value < row.bandwidth.value, row.name


@pytest.mark.parametrize("links", [("ici_v4", 6), ("ici_v5e", 4), ("ici_v5p", 6), ("xgmi_mi300x", 7)])
def test_a_chips_bandwidth_is_that_of_its_links_together(links: tuple[str, int]) -> None:
    row = link(links[0])
    assert row.peer is not None
    assert row.bandwidth.value / row.peer.value == pytest.approx(links[1])


def test_switches_give_each_gpu_the_rate_of_its_nvlink() -> None:
    for box in NODES.values():
        if box.inside.kind == "nvswitch":
            assert box.inside.bandwidth is link(box.chip.link).bandwidth


@pytest.mark.parametrize(
    ("name", "gigabits"),
    [
        ("dgx_2", 800),
        ("dgx_a100", 1600),
        ("dgx_h100", 3200),
        ("dgx_b200", 3200),
        ("p4d", 400),
        ("p5", 3200),
        ("p5e", 3200),
        ("p5en", 3200),
        ("p6_b200", 3200),
        ("a2_highgpu_8g", 100),
        ("a3_highgpu_8g", 800),
        ("a3_megagpu_8g", 1600),
        ("a3_ultragpu_8g", 3200),
        ("nd96asr_a100_v4", 1600),
        ("nd96isr_h100_v5", 3200),
    ],
)
def test_what_leaves_a_node(name: str, gigabits: float) -> None:
    assert node(name).network.in_gigabits_per_s == pytest.approx(gigabits)
    assert node(name).network_per_accelerator < node(name).inside.bandwidth.value


# --- Names ---


@pytest.mark.parametrize("name", ["H100 SXM", "h100-sxm", "h100_sxm", "H100", " h100  sxm "])
def test_a_name_may_be_written_as_people_do(name: str) -> None:
    assert accelerator(name) is ACCELERATORS["h100_sxm"]


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"no accelerator 'h1000'.*nearest are.*h100"):
        accelerator("h1000")
    with pytest.raises(SettingError, match=r"no link 'nvlink9'.*nvlink\d"):
        link("nvlink9")
    with pytest.raises(SettingError, match=r"no node 'toaster'.*there are dgx_2"):
        node("toaster")
    with pytest.raises(SettingError, match=r"no storage 'luster'.*lustre"):
        storage("luster")


def test_a_type_that_a_chip_does_not_multiply_is_an_error_with_those_that_it_does() -> None:
    with pytest.raises(SettingError, match=r"A100 SXM, 80 GB has no peak for 'fp8'; it has fp32, tf32"):
        accelerator("a100").ceiling("fp8")


def test_no_two_rows_share_a_name() -> None:
    with pytest.raises(ValueError, match="two rows are called 'a100'"):
        table([accelerator("a100"), Accelerator(**{**vars(accelerator("h100")), "name": "a100"})])


# --- One place per number ---


def test_the_plain_constants_are_the_registrys() -> None:
    for chip, short in (("a100_80gb", "a100"), ("h100_sxm", "h100"), ("h200", "h200"), ("b200", "b200")):
        row = accelerator(chip)
        assert value(f"{short}_bf16_flops") == row.peak("bf16").flop_per_s
        assert value(f"{short}_memory_Bps") == row.memory_bandwidth.value.bytes_per_s
    for row in LINKS.values():
        assert value(f"{row.name}_Bps") == row.bandwidth.value.bytes_per_s
    assert (
        value("h100_bf16_flops_reached") == accelerator("h100").ceiling("bf16").value.flop_per_s == 794.5e12
    )
    assert value("pcie4_x16_Bps") == 31e9
    assert REGISTRY["ib_hdr_Bps"].value == 25e9, "HDR has 200 Gb/s, not 100"


def test_a_figure_lists_itself_first() -> None:
    source = Source("key", "https://example.org", "R")
    other = Figure(2.0, source)
    assert Figure(1.0, source, others=(other,)).all[1] is other
