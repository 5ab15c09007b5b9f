"""Topology: NVIDIA's matrix read, and a made-up machine's sockets; what is not there is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from distlab.bench.topology import cpu_topology, gpu_links

FOUR = (
    "\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV4\tSYS\tSYS\tPXB\t0-31\t0\t\tN/A\n"
    "GPU1\tNV4\t X \tSYS\tSYS\tPXB\t0-31\t0\t\tN/A\n"
    "GPU2\tSYS\tSYS\t X \tNV4\tSYS\t32-63\t1\t\tN/A\n"
    "GPU3\tSYS\tSYS\tNV4\t X \tSYS\t32-63\t1\t\tN/A\n"
    "NIC0\tPXB\tPXB\tSYS\tSYS\t X \n"
    "\nLegend:\n\n  X    = Self\n  SYS  = Connection traversing PCIe ...\n"
)


def test_pairs_of_gpus_by_their_link() -> None:
    assert gpu_links(FOUR) == (
        "GPU0-GPU1, GPU2-GPU3: NV4 (4 bonded NVLinks)",
        "GPU0-GPU2, GPU0-GPU3, GPU1-GPU2, GPU1-GPU3: SYS (the interconnect between NUMA nodes)",
    )


def test_one_kind_of_link_and_one_gpu() -> None:
    two = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV18\t0-9\nGPU1\tNV18\t X \t0-9\n"
    assert gpu_links(two) == ("every pair: NV18 (18 bonded NVLinks)",)
    assert gpu_links("\tGPU0\tCPU Affinity\nGPU0\t X \t0-9\n") == ()
    assert gpu_links("\tGPU0\tGPU1\nGPU0\t X \tNEW\nGPU1\tNEW\t X\n") == ("every pair: NEW",)


@pytest.mark.parametrize("text", ["", "Failed to initialize NVML", "GPU0", "\tGPU0\tGPU1\nGPU0\t X \n"])
def test_anything_else_is_no_link(text: str) -> None:
    assert gpu_links(text) == ()


def test_sockets_cores_threads_and_nodes(tmp_path: Path) -> None:
    for cpu in range(8):  # two sockets of two cores of two threads
        folder = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{cpu // 4}\n")
        (folder / "core_id").write_text(f"{cpu % 2}\n")
    for node in range(2):
        folder = tmp_path / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{4 * node}-{4 * node + 3}\n")
    shape, numa = cpu_topology(tmp_path / "node", tmp_path / "cpu")
    assert shape.startswith("2 sockets, 4 cores, 8 hardware threads")
    assert numa == "2 NUMA nodes (node0: CPUs 0-3; node1: CPUs 4-7)"
    assert cpu_topology(tmp_path, tmp_path) == ()
