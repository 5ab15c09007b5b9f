"""What one accelerator can do: what its datasheet promises, and, kept apart, what was reached.

    chip = accelerator("h100_sxm")                    # or "H100 SXM", or "h100"
    chip.peak("bf16").in_tera                         # 989: dense, as the datasheet has it
    chip.reached["bf16"].value.in_tera                # 794.5: the best product that somebody measured
    chip.memory.value, chip.memory_bandwidth.value, chip.link
    chip.usable.value.in_gibibytes                    # 79.11: of the 80 "GB", which are GiB before ECC and the driver

Peaks are dense: the numbers in large print on datasheets are twice as high and hold for weights of which every second
one is zero. fp16 and bf16 are those of matrix units with accumulation in fp32; fp32 is that of the ordinary units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from distlab.errors import SettingError
from distlab.predict.hardware.figures import Figure, Source, find, table
from distlab.predict.units import Bandwidth, ComputeRate, Size

Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4"]

Rates = Mapping[Dtype, Figure[ComputeRate]]


@dataclass(frozen=True)
class Accelerator:
    """One model of one maker."""

    name: str
    title: str
    peaks: Rates
    """Dense, by type of the factors, from the datasheet; what is not there the chip has no unit for."""
    memory: Figure[Size]
    memory_bandwidth: Figure[Bandwidth]
    power_W: Figure[float] | None  # noqa: N815 - the unit is part of the name
    """Its limit under load; None where the maker gives none."""
    link: str
    """In `links`: to the accelerators of its node."""
    host_link: str
    """In `links`: to the host."""
    reached: Rates = field(default_factory=dict)
    """The best products measured; the ceiling that a model should take where there is one."""
    memory_bandwidth_reached: Figure[Bandwidth] | None = None
    multiprocessors: Figure[int] | None = None
    """AMD's compute units; None where no source was read."""
    memory_usable: Figure[Size] | None = None
    """What CUDA gives out as the whole: `total capacity` in its messages, a little less than nvidia-smi shows. Of it a
    process has all but its own context (about half a GiB)."""
    sold_as: str = ""
    """In the table of prices."""
    aliases: tuple[str, ...] = ()

    def peak(self, dtype: Dtype) -> ComputeRate:
        """The datasheet's. SettingError for a type that the chip does not multiply."""
        if dtype not in self.peaks:
            raise SettingError(f"{self.title} has no peak for {dtype!r}; it has {', '.join(self.peaks)}.")
        return self.peaks[dtype].value

    @property
    def usable(self) -> Figure[Size]:
        """What programs can have; the datasheet's memory where nobody has told."""
        return self.memory_usable or self.memory

    def ceiling(self, dtype: Dtype) -> Figure[ComputeRate]:
        """The best that was measured; the datasheet's peak, which nobody reaches, where nothing was."""
        self.peak(dtype)
        return self.reached.get(dtype, self.peaks[dtype])


_ML_ENG = Source(
    "bekman_ml_engineering", "https://github.com/stas00/ml-engineering/tree/master/compute/accelerator", "V"
)
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_SCALING = Source("austin2025scaling", "https://jax-ml.github.io/scaling-book/tpus/", "V")

_OWN = Source("distlab_h200", "https://www.nvidia.com/en-us/data-center/h200/", "S")
_RECORDED = Source("distlab_h200", "https://www.nvidia.com/en-us/data-center/h200/", "V")
"""In recordings/nvidia-h200-x1, of this repository."""


def _datasheet(page: str, confidence: Literal["S", "R"] = "S") -> Source:
    """Of NVIDIA: S where a copy of it was read."""
    return Source("nvidia_datasheets", _NVIDIA + page, confidence)


def _tpu(version: str) -> Source:
    return Source("google_tpu", f"https://cloud.google.com/tpu/docs/{version}", "V")


def _tera(
    value: float, source: Source = _ML_ENG, note: str = "", *others: Figure[ComputeRate]
) -> Figure[ComputeRate]:
    return Figure(ComputeRate.tera(value), source, note, others)


def _rates(source: Source = _ML_ENG, half: float | None = None, **tera: float) -> Rates:
    """By type, in TFLOP/s; `half` is both fp16 and bf16."""
    made = {dtype: _tera(value, source) for dtype, value in tera.items()}
    if half is not None:
        made["fp16"] = made["bf16"] = _tera(half, source)
    return MappingProxyType(made)  # type: ignore[arg-type]


def _GB(value: float, source: Source = _ML_ENG, note: str = "", *others: Figure[Size]) -> Figure[Size]:  # noqa: N802
    return Figure(Size.gigabytes(value), source, note, others)


def _GBps(  # noqa: N802
    value: float, source: Source = _ML_ENG, note: str = "", *others: Figure[Bandwidth]
) -> Figure[Bandwidth]:
    return Figure(Bandwidth.gigabytes_per_s(value), source, note, others)


_ISSUES = "https://github.com/"


def _GiB(  # noqa: N802
    value: float, thread: str, confidence: Literal["V", "R"] = "V", note: str = "", *others: Figure[Size]
) -> Figure[Size]:
    """The `total capacity` that a message in that thread gives."""
    source = Source("cuda_total_capacity", _ISSUES + thread, confidence)
    return Figure(Size.gibibytes(value), source, note, others)


_DEVICE_QUERY = Source(
    "cuda_total_capacity", "https://gist.github.com/gengwg/3520df2ebf8872e5ee4818367e3a4122", "C"
)

_MAMF = "best of many shapes, mean of 100 runs (mamf-finder)"
_P100 = _datasheet("tesla-p100/")
_V100, _T4, _A10, _A100 = (_datasheet(page) for page in ("v100/", "tesla-t4/", "products/a10-gpu/", "a100/"))
_L4, _L40S, _H100 = (_datasheet(page) for page in ("l4/", "l40s/", "h100/"))
_AMPERE = _rates(half=312, fp32=19.5, tf32=156, int8=624)
_HOPPER = _rates(half=989, fp32=67, tf32=494.5, fp8=1979, int8=1979)
_V100_RATES: Rates = {
    "fp32": _tera(15.7, _V100),
    "fp16": _tera(
        125,
        Source(
            "nvidia_tensor_cores", "https://developer.nvidia.com/blog/programming-tensor-cores-cuda-9/", "V"
        ),
        "",
        _tera(120, _V100, "at its announcement, with a lower clock"),
        _tera(112, _V100, "the PCIe card"),
    ),
}
_V100_BANDWIDTH, _V100_POWER = _GBps(900, _V100), Figure(300.0, _V100, "the PCIe card: 250 W")

_A100_SMS = Figure(108, replace(_DEVICE_QUERY, confidence="V"))
_B200_DRIVER = Source("cuda_total_capacity", _ISSUES + "pytorch/ao/pull/4002", "V")
_A100_USABLE = _GiB(
    79.25,
    "HiDream-ai/VAREdit/issues/6",
    "V",
    "nvidia-smi: 81,920 MiB, 80 GiB (modal-labs/modal-client/pull/2797, V)",
    _GiB(79.15, "meta-pytorch/torchrec/pull/3580", "V", "81,050 MiB, PG509-210"),
    Figure(Size.of_bytes(85_198_045_184), _DEVICE_QUERY, "81,251 MiB with driver 470"),
)
_H100_USABLE = _GiB(
    79.11,
    "vllm-project/vllm/issues/27508",
    "V",
    "nvidia-smi: 81,559 MiB (modal-labs/modal-client/pull/2797, V); 79.10 to 79.19 GiB with other drivers",
)
_V100_USABLE = {
    16: _GiB(15.77, "pytorch/pytorch/issues", "R"),
    32: _GiB(
        31.74,
        "liucongg/ChatGLM-Finetuning/issues/73",
        "V",
        "",
        _GiB(31.75, "hiyouga/LlamaFactory/issues/182"),
    ),
}

_ACCELERATORS = [
    Accelerator(
        "p100",
        "NVIDIA P100 SXM2, 16 GB",
        {"fp32": _tera(10.6, _P100, "", _tera(9.3, _P100, "the PCIe card"))},
        _GB(16, _P100),
        _GBps(732, _P100, "", _GBps(720, _P100, "at its announcement")),
        Figure(300.0, _P100, "the PCIe card: 250 W"),
        "nvlink1",
        "pcie3_x16",
        memory_usable=_GiB(15.90, "pytorch/pytorch/issues", "R"),
    ),
    *(
        Accelerator(
            f"v100_{size}gb",
            f"NVIDIA V100 SXM2, {size} GB",
            _V100_RATES,
            _GB(size, _V100),
            _V100_BANDWIDTH,
            _V100_POWER,
            "nvlink2",
            "pcie3_x16",
            multiprocessors=Figure(80, _V100),
            memory_usable=_V100_USABLE[size],
            sold_as="V100 SXM2 16GB" if size == 16 else "",
            aliases=("v100",) if size == 32 else (),
        )
        for size in (16, 32)
    ),
    Accelerator(
        "a100_40gb",
        "NVIDIA A100 SXM, 40 GB",
        _AMPERE,
        _GB(40, _A100),
        _GBps(1555, _A100, "", _GBps(1600, _ML_ENG)),
        Figure(400.0, _A100),
        "nvlink3",
        "pcie4_x16",
        sold_as="A100 SXM 40GB",
        multiprocessors=_A100_SMS,
        memory_usable=_GiB(39.50, "TianheWu/CoSeR/issues/10", "V", "nvidia-smi: 40,960 MiB"),
    ),
    Accelerator(
        "a100_80gb",
        "NVIDIA A100 SXM, 80 GB",
        _AMPERE,
        _GB(80),
        _GBps(
            2000,
            _ML_ENG,
            "",
            _GBps(2039, _DEVICE_QUERY, "2 x 1,593 MHz x 5,120 bits, as deviceQuery shows them"),
        ),
        Figure(400.0, _ML_ENG, "some boards allow 500 W"),
        "nvlink3",
        "pcie4_x16",
        reached={
            "bf16": _tera(271.2, _ML_ENG, _MAMF, _tera(267.9, _ML_ENG, "an earlier version of the tool"))
        },
        sold_as="A100 SXM 80GB",
        multiprocessors=_A100_SMS,
        aliases=("a100", "a100_sxm"),
        memory_usable=_A100_USABLE,
    ),
    Accelerator(
        "a100_pcie",
        "NVIDIA A100 PCIe, 80 GB",
        _AMPERE,
        _GB(80),
        _GBps(1940),
        Figure(300.0, _ML_ENG),
        "pcie4_x16",
        "pcie4_x16",
        reached={
            "bf16": _tera(252.9, _ML_ENG, _MAMF, _tera(256.4, _ML_ENG, "an earlier version of the tool"))
        },
        sold_as="A100 PCIe 80GB",
        memory_usable=_A100_USABLE,
    ),
    Accelerator(
        "h100_sxm",
        "NVIDIA H100 SXM, 80 GB",
        _HOPPER,
        _GB(80),
        _GBps(3350),
        Figure(700.0, _ML_ENG),
        "nvlink4",
        "pcie5_x16",
        reached={
            "bf16": _tera(794.5, _ML_ENG, _MAMF, _tera(792.1, _ML_ENG, "an earlier version of the tool")),
            "fp8": _tera(1402.6, _ML_ENG, _MAMF),
        },
        sold_as="H100 SXM 80GB",
        multiprocessors=Figure(132, replace(_RECORDED, confidence="C"), "those of the H200"),
        aliases=("h100",),
        memory_usable=_H100_USABLE,
    ),
    Accelerator(
        "h100_pcie",
        "NVIDIA H100 PCIe, 80 GB",
        _rates(half=756, fp32=51, tf32=378, fp8=1513, int8=1513),
        _GB(80),
        _GBps(2000),
        Figure(350.0, _H100),
        "pcie5_x16",
        "pcie5_x16",
        sold_as="H100 PCIe 80GB",
        memory_usable=_H100_USABLE,
    ),
    Accelerator(
        "h200",
        "NVIDIA H200 SXM, 141 GB",
        _HOPPER,
        _GB(141),
        _GBps(4800),
        Figure(700.0, _ML_ENG),
        "nvlink4",
        "pcie5_x16",
        reached={"bf16": _tera(798, _OWN, "8192^3 on random numbers, the best of 769 to 798")},
        memory_bandwidth_reached=_GBps(4300, _OWN, "a copy within the memory, read and write counted"),
        sold_as="H200 SXM 141GB",
        multiprocessors=Figure(132, _RECORDED),
        aliases=("h200_sxm",),
        memory_usable=Figure(Size.gibibytes(139.80), _RECORDED, "nvidia-smi: 143,771 MiB"),
    ),
    Accelerator(
        "b200",
        "NVIDIA B200 SXM, 180 GB",
        _rates(half=2250, fp32=80, tf32=1125, fp8=4500, int8=4500, fp4=9000),
        _GB(
            180,
            Source("nvidia_dgx_guides", "https://docs.nvidia.com/dgx/dgxb200-user-guide/", "V"),
            "1,440 GB in eight",
            _GB(192, _ML_ENG, "what is soldered on"),
        ),
        _GBps(
            8000,
            _ML_ENG,
            "",
            _GBps(7672, _B200_DRIVER, "2 x 3,996 MHz x 7,680 bits, as the driver of 2026 shows them"),
        ),
        Figure(1000.0, _ML_ENG),
        "nvlink5",
        "pcie5_x16",
        reached={"bf16": _tera(1745, _ML_ENG, _MAMF)},
        sold_as="B200 SXM 180GB",
        multiprocessors=Figure(148, _B200_DRIVER),
        aliases=("b200_sxm",),
        memory_usable=_GiB(178.35, "pytorch/ao/pull/4002", "V", "nvidia-smi: 183,359 MiB"),
    ),
    Accelerator(
        "l4",
        "NVIDIA L4, 24 GB",
        _rates(_L4, half=121, fp32=30.3, tf32=60, fp8=242.5, int8=242.5),
        _GB(24, _L4),
        _GBps(300, _L4),
        Figure(72.0, _L4),
        "pcie4_x16",
        "pcie4_x16",
        sold_as="L4 24GB",
        memory_usable=_GiB(22.17, "pytorch/pytorch/issues", "R", "nvidia-smi: 23,034 MiB"),
    ),
    Accelerator(
        "l40s",
        "NVIDIA L40S, 48 GB",
        _rates(half=362, fp32=91.6, tf32=183, fp8=733, int8=733),
        _GB(48),
        _GBps(864, _L40S, "", _GBps(860)),
        Figure(350.0, _L40S, others=(Figure(300.0, _L40S, "some sellers; the L40 has 300 W"),)),
        "pcie4_x16",
        "pcie4_x16",
        sold_as="L40S 48GB",
        memory_usable=_GiB(44.42, "stepfun-ai/Step-Video-T2V/issues/8", "V", "nvidia-smi: 46,068 MiB"),
    ),
    Accelerator(
        "a10",
        "NVIDIA A10, 24 GB",
        _rates(_A10, half=125, fp32=31.2, tf32=62.5, int8=250),
        _GB(24, _A10),
        _GBps(600, _A10),
        Figure(150.0, _A10),
        "pcie4_x16",
        "pcie4_x16",
        sold_as="A10 24GB",
        memory_usable=_GiB(21.99, "zai-org/CogVLM/issues/236", "V", "nvidia-smi: 23,028 MiB"),
    ),
    Accelerator(
        "t4",
        "NVIDIA T4, 16 GB",
        _rates(_T4, fp32=8.1, fp16=65, int8=130),
        _GB(16, _T4),
        _GBps(320, _T4, "", _GBps(300, _T4, "some pages")),
        Figure(70.0, _T4, others=(Figure(75.0, _T4, "at its announcement"),)),
        "pcie3_x16",
        "pcie3_x16",
        sold_as="T4 16GB",
        memory_usable=_GiB(14.75, "hpcaitech/Open-Sora/issues/697", "V", "nvidia-smi: 15,360 MiB"),
    ),
    Accelerator(
        "mi300x",
        "AMD MI300X, 192 GB",
        {
            **_rates(half=1300, fp32=163.4, tf32=653.7, fp8=2600, int8=2600),
            "bf16": _tera(
                1300,
                _ML_ENG,
                "rounded",
                _tera(
                    1307.4,
                    Source(
                        "amd_mi300x",
                        "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
                        "S",
                    ),
                ),
            ),
        },
        _GB(192),
        _GBps(5300),
        Figure(750.0, _ML_ENG),
        "xgmi_mi300x",
        "pcie5_x16",
        multiprocessors=Figure(304, Source("amd_mi300x", _ISSUES + "ROCm/hip/issues/3716", "V"), "rocminfo"),
        reached={
            "bf16": _tera(
                668.4,
                _ML_ENG,
                _MAMF,
                _tera(781.9, _ML_ENG, "an earlier version of the tool, which kept the cache warm"),
            )
        },
    ),
    Accelerator(
        "tpu_v4",
        "Google TPU v4",
        _rates(_tpu("v4"), bf16=275, int8=275),
        Figure(Size.gibibytes(32), _tpu("v4")),
        _GBps(1200, _tpu("v4")),
        Figure(192.0, _tpu("v4"), "the most measured; 170 W on average"),
        "ici_v4",
        "pcie3_x16",
    ),
    Accelerator(
        "tpu_v5e",
        "Google TPU v5e",
        {
            "bf16": _tera(197, _tpu("v5e")),
            "int8": _tera(394, _SCALING, "", _tera(393, _tpu("v5e"), "an earlier state of the page")),
        },
        _GB(16, _tpu("v5e")),
        _GBps(
            819,
            _tpu("v5e"),
            "",
            Figure(Bandwidth.of_bytes_per_s(800 * 2**30), _tpu("v5e"), "an earlier state of the page"),
            _GBps(810, _SCALING),
            _GBps(1600, _ML_ENG, "the links' 1,600 Gb/s, it seems"),
        ),
        None,
        "ici_v5e",
        "pcie3_x16",
    ),
    Accelerator(
        "tpu_v5p",
        "Google TPU v5p",
        {"bf16": _tera(459, _tpu("v5p")), "int8": _tera(918, _SCALING)},
        _GB(95, _tpu("v5p"), "", _GB(96, _SCALING)),
        _GBps(
            2765,
            _tpu("v5p"),
            "",
            _GBps(2800, _SCALING),
            _GBps(4800, _ML_ENG, "the links' 4,800 Gb/s, it seems"),
        ),
        None,
        "ici_v5p",
        "pcie3_x16",
    ),
]

ACCELERATORS = table(_ACCELERATORS)


def accelerator(name: str) -> Accelerator:
    """The accelerator called so (`h100_sxm`, `H100 SXM`, `h100`); SettingError names the nearest."""
    return find(ACCELERATORS, name, "accelerator")
