"""What lies between the ranks of one machine: the links of its GPUs, or the sockets and NUMA nodes of its CPU."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from distlab.machine import command_output, cores

NODES = Path("/sys/devices/system/node")
CPUS = Path("/sys/devices/system/cpu")

LINKS = {
    "NV": "bonded NVLinks",
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "a PCIe host bridge",
    "NODE": "PCIe host bridges of one NUMA node",
    "SYS": "the interconnect between NUMA nodes",
}
"""Kinds of links by the words of `nvidia-smi topo -m` (its own legend)."""


def gpu_topology() -> tuple[str, ...]:
    """The machine's GPUs and what joins each pair of them; empty without a driver."""
    slots = command_output(
        "nvidia-smi", "--query-gpu=name,pcie.link.gen.max,pcie.link.width.max", "--format=csv,noheader"
    )
    return (*_slots(slots), *gpu_links(command_output("nvidia-smi", "topo", "-m")))


def _slots(text: str) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for line in text.splitlines():
        counts[line] += 1
    found = []
    for line, count in counts.items():
        match = re.fullmatch(r"(.+), (\d+), (\d+)", line.strip())
        if match:
            found.append(f"{count} x {match[1]}, PCIe {match[2]} x{match[3]}")
    return found


def gpu_links(matrix: str) -> tuple[str, ...]:
    """The pairs of GPUs by the kind of their link, from what `nvidia-smi topo -m` prints."""
    lines = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", matrix).splitlines()]
    header = next((words for words in lines if words[:1] == ["GPU0"] and "X" not in words), [])
    names = [name for name in header if re.fullmatch(r"GPU\d+", name)]
    pairs: dict[str, list[str]] = defaultdict(list)
    for words in lines:
        if words is header or not words or words[0] not in names or len(words) <= len(names):
            continue
        row = names.index(words[0])
        for column in range(row + 1, len(names)):  # NICs stand behind the GPUs
            pairs[words[1 + column]].append(f"{words[0]}-{names[column]}")
    return tuple(
        f"{'every pair' if len(pairs) == 1 else ', '.join(found)}: {_link(kind)}"
        for kind, found in pairs.items()
    )


def _link(kind: str) -> str:
    nvlinks = re.fullmatch(r"NV(\d+)", kind)
    what = f"{nvlinks[1]} {LINKS['NV']}" if nvlinks else LINKS.get(kind)
    return f"{kind} ({what})" if what else kind


def cpu_topology(nodes: Path = NODES, cpus: Path = CPUS) -> tuple[str, ...]:
    """Sockets, cores, hardware threads and NUMA nodes as the system lists them; empty where it does not."""
    places = set()
    threads = 0
    for folder in cpus.glob("cpu[0-9]*/topology"):
        place = tuple(_read(folder / name) for name in ("physical_package_id", "die_id", "core_id"))
        places.add(place)
        threads += 1
    if not places:
        return ()
    sockets = len({socket for socket, *_ in places})
    listed = sorted(nodes.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:]))
    numa = [f"{path.parent.name}: CPUs {_read(path)}" for path in listed]
    allowed = f", {cores()} of them for this process" if cores() < threads else ""
    return (
        f"{sockets} socket{'s' * (sockets > 1)}, {len(places)} cores, {threads} hardware threads{allowed}",
        *([f"{len(numa)} NUMA node{'s' * (len(numa) > 1)} ({'; '.join(numa)})"] if numa else []),
    )


def interface(name: str) -> str:
    """A network interface with its largest packet."""
    mtu = _read(Path("/sys/class/net", name, "mtu"))
    return f"{name}, MTU {mtu}" if mtu else name


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
