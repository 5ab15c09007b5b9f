"""Where data sets are read from and checkpoints go: bandwidth and latency, each with what it is counted for.

    disk = storage("nvme_raid_p4d")
    Size.gigabytes(100).seconds_at(disk.read.value)          # 6.25

A figure counts for `per`: a client (one node), a whole system, or a TiB of capacity that is paid for. Shared storage
serves all nodes of a job at once: its client's rate holds only until the system's own is used up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distlab.predict.hardware.figures import Figure, Source, find, table
from distlab.predict.units import MIB, Bandwidth

Per = Literal["client", "system", "TiB", "connection"]


@dataclass(frozen=True)
class Storage:
    """One kind."""

    name: str
    title: str
    shared: bool
    """All nodes see the same files."""
    per: Per
    read: Figure[Bandwidth] | None
    """Large files; None where no source says."""
    write: Figure[Bandwidth] | None
    latency_s: Figure[float] | None = None
    """Until the first byte of a read."""
    write_latency_s: Figure[float] | None = None
    aliases: tuple[str, ...] = ()


_ML_ENG = Source("bekman_ml_engineering", "https://github.com/stas00/ml-engineering/tree/master/storage", "V")
_ML_ENG_C = Source(_ML_ENG.key, _ML_ENG.url, "C")
_P4D = Source("aws_efa", "https://aws.amazon.com/blogs/compute/amazon-ec2-p4d-instances-deep-dive/", "S")
_EFS = Source("aws_storage", "https://docs.aws.amazon.com/efs/latest/ug/performance.html", "V")
_LUSTRE = Source(
    "aws_storage", "https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_FSxLustreConfig.html", "V"
)
_LUSTRE_LATENCY = Source("aws_storage", "https://aws.amazon.com/fsx/lustre/", "S")
_S3 = Source("vassallo2019s3", "https://github.com/dvassallo/s3-benchmark", "V")
_S3_PATTERNS = (
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-design-patterns.html"
)
_S3_RATE = Source("aws_storage", _S3_PATTERNS, "S")
_S3_GUIDE = Source("aws_storage", _S3_PATTERNS, "R")


def _MiBps(value: float, source: Source, note: str = "") -> Figure[Bandwidth]:  # noqa: N802
    return Figure(Bandwidth.of_bytes_per_s(value * MIB), source, note)


def _GBps(value: float, source: Source, note: str = "") -> Figure[Bandwidth]:  # noqa: N802
    return Figure(Bandwidth.gigabytes_per_s(value), source, note)


_FIO = "fio, files of 1 GB in blocks of 4 KiB, 16 jobs"

_STORAGE = [
    Storage(
        "nvme",
        "A local NVMe drive (Samsung 980 PRO, 2 TB)",
        False,
        "client",
        _MiBps(2762.0, _ML_ENG, _FIO),
        _MiBps(1943.9, _ML_ENG, _FIO),
        Figure(1.4e-3, _ML_ENG, "under that load, with 1,024 requests waiting"),
        Figure(2.1e-3, _ML_ENG, "under that load, with 1,024 requests waiting"),
    ),
    Storage(
        "nvme_raid_p4d",
        "Local NVMe of an AWS p4d, eight drives striped",
        False,
        "client",
        _GBps(16, _P4D, "2.7 GB/s a drive"),
        None,
        aliases=("nvme_raid",),
    ),
    Storage(
        "nfs_efs",
        "NFS (Amazon EFS, elastic throughput)",
        True,
        "client",
        _MiBps(1500, _EFS),
        _MiBps(1500, _EFS),
        Figure(1e-3, _EFS),
        Figure(2.7e-3, _EFS),
        aliases=("nfs", "efs"),
    ),
    *(
        Storage(
            f"lustre_{rate}",
            f"Lustre (Amazon FSx, {rate} MB/s for each TiB)",
            True,
            "TiB",
            _GBps(rate / 1000, _LUSTRE),
            _GBps(rate / 1000, _LUSTRE),
            Figure(1e-3, _LUSTRE_LATENCY, "below a millisecond"),
            aliases=("lustre",) if rate == 1000 else (),
        )
        for rate in (125, 250, 500, 1000)
    ),
    Storage(
        "gpfs_jean_zay",
        "GPFS over NVMe (Jean Zay, 2021), seen by 384 processes at once",
        True,
        "system",
        None,
        _GBps(2300 / 40, _ML_ENG_C, "2.3 TB in 40 s"),
        aliases=("gpfs",),
    ),
    Storage(
        "s3",
        "S3, many connections of one instance (c5n.18xlarge, 100 Gb/s)",
        True,
        "client",
        _GBps(8.003, _S3, "downloads, 2019"),
        None,
        Figure(0.15, _S3_GUIDE, "100 to 200 ms for small objects"),
    ),
    Storage(
        "s3_connection",
        "S3, one connection",
        True,
        "connection",
        _GBps(0.085, _S3_RATE, "85 to 90 MB/s"),
        None,
        Figure(0.15, _S3_GUIDE, "100 to 200 ms for small objects"),
    ),
]

STORAGE = table(_STORAGE)


def storage(name: str) -> Storage:
    """The storage of that name (`nvme`, `lustre`, `s3`); SettingError names the nearest."""
    return find(STORAGE, name, "storage")
