"""What this machine can run, and what is missing.

    distlab doctor
    distlab doctor --json

Everything is read from files, package metadata and version commands: no framework is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json as jsonlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import psutil
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distlab.machine import cores, cpu_model

Tier = Literal["gpu", "cpu", "none"]

PYTHON_NEEDED = (3, 11)
NODE_NEEDED = 20
MEMORY_WANTED_BYTES = 4 * 2**30
"""The Hub, its services and one learner with a two-process lab."""

SHOWN_PACKAGES = ("torch", "numpy", "scikit-learn", "jupyter-book", "jupyterhub", "jupyterlab", "nbgrader")
COMMAND_TIMEOUT_S = 20


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as the driver reports it."""

    index: int
    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class Hardware:
    """The machine as this process may use it."""

    cpu: str
    cores: int
    """Cores this process may run on."""
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    """GPUs visible to this process (CUDA_VISIBLE_DEVICES applied)."""


@dataclass(frozen=True)
class Lab:
    """What a lab needs (`labs.yml`)."""

    id: str
    title: str
    processes: int
    packages: tuple[str, ...]


@dataclass(frozen=True)
class LabTier:
    """In which tier a lab would run, and why."""

    lab: str
    title: str
    tier: Tier
    why: str


@dataclass(frozen=True)
class Check:
    """One thing that the course needs or wants."""

    name: str
    found: str
    ok: bool
    needed: bool
    """False: the course runs without it, with less."""
    fix: str = ""
    """The command or step that mends it; empty where it is in order."""


@dataclass(frozen=True)
class Report:
    """All that `distlab doctor` knows."""

    hardware: Hardware
    versions: dict[str, str]
    labs: tuple[LabTier, ...]
    checks: tuple[Check, ...]

    @property
    def can_run(self) -> bool:
        """Does the machine have everything that the course cannot do without?"""
        return all(check.ok for check in self.checks if check.needed)


def doctor(json: bool = False, require_gpu: bool = False) -> int:
    """Print hardware, versions, the tier of each lab, and what is missing with the command that fixes it.

    Exits with 0 where the course can run, with 1 where something that it needs is missing.

    Args:
        json: print the report as JSON.
        require_gpu: also exit with 1 unless every lab would run in the GPU tier.
    """
    report = examine(Path(os.environ.get("DISTLAB_ROOT", ".")).resolve())
    gpu_ok = all(lab.tier == "gpu" for lab in report.labs)
    if json:
        print(jsonlib.dumps({**dataclasses.asdict(report), "can_run": report.can_run}, indent=2))
    else:
        show(report, Console())
    if require_gpu and not gpu_ok:
        without = ", ".join(f"{lab.lab} ({lab.why})" for lab in report.labs if lab.tier != "gpu")
        print(
            f"distlab doctor: the GPU tier was required, and these labs would not run in it: {without}",
            file=sys.stderr,
        )
    return 0 if report.can_run and (gpu_ok or not require_gpu) else 1


def examine(root: Path) -> Report:
    """Look at this machine; `root` is the course's repository, where the site's parts lie."""
    found = hardware()
    cuda = torch_cuda()
    packages = installed()
    return Report(
        hardware=found,
        versions=versions(root, packages),
        labs=tuple(lab_tier(lab, gpus=len(found.gpus), cuda=cuda, installed=packages) for lab in labs()),
        checks=(
            *base_checks(found, cuda, packages),
            *(site_checks(root) if (root / "_config.yml").is_file() else ()),
        ),
    )


# --- the machine ---


def hardware() -> Hardware:
    """The machine's CPU, memory and visible GPUs."""
    return Hardware(
        cpu=cpu_model(),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus(),
    )


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that `nvidia-smi` lists, less those that CUDA_VISIBLE_DEVICES hides; none without a driver."""
    out = _output(
        "nvidia-smi",
        "--query-gpu=index,uuid,name,memory.total,driver_version",
        "--format=csv,noheader,nounits",
    )
    found = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for line in out.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5 or not fields[3].isdigit():
            continue
        index, uuid, name, memory_mib, driver = fields
        if visible is None or any(
            v.strip() and (v.strip() == index or uuid.startswith(v.strip())) for v in visible.split(",")
        ):
            found.append(Gpu(int(index), name, int(memory_mib) * 2**20, driver))
    return tuple(found)


def torch_cuda() -> str:
    """The CUDA version that the installed torch was built for, or an empty string (also without torch)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else ""


def _output(*command: str) -> str:
    """What a command prints, or an empty string where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- labs ---


def labs() -> tuple[Lab, ...]:
    """The course's labs, in order."""
    text = resources.files("distlab").joinpath("labs.yml").read_text(encoding="utf-8")
    return tuple(
        Lab(row["id"], row["title"], int(row["processes"]), tuple(row["packages"]))
        for row in yaml.safe_load(text)
    )


def lab_tier(lab: Lab, *, gpus: int, cuda: str, installed: dict[str, str]) -> LabTier:
    """In which tier `lab` runs with so many visible GPUs.

    Args:
        lab: what it needs.
        gpus: visible GPUs.
        cuda: the CUDA version of the installed torch, or an empty string.
        installed: installed packages and their versions.
    """

    def verdict(tier: Tier, why: str) -> LabTier:
        return LabTier(lab.id, lab.title, tier, why)

    missing = [name for name in lab.packages if name not in installed]
    if missing:
        return verdict("none", f"not installed: {', '.join(missing)}")
    if gpus >= lab.processes and cuda:
        return verdict("gpu", f"{lab.processes} processes, a GPU each")
    if gpus >= lab.processes:
        return verdict("cpu", "this torch is built without CUDA")
    has = "no GPU is visible" if gpus == 0 else f"{gpus} GPU visible" if gpus == 1 else f"{gpus} GPUs visible"
    return verdict(
        "cpu", f"{lab.processes} processes on CPU cores; {has}, {lab.processes} needed for the GPU tier"
    )


# --- versions and checks ---


def installed() -> dict[str, str]:
    """Installed distributions by normalised name."""
    return {_normal(dist.name): dist.version for dist in importlib.metadata.distributions()}


def versions(root: Path, packages: dict[str, str]) -> dict[str, str]:
    """The versions of what the course uses; what is not there is left out."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    found |= {name: packages[name] for name in SHOWN_PACKAGES if name in packages}
    if cuda := torch_cuda():
        found["torch's CUDA"] = cuda
    found |= {
        "node": _output("node", "--version").removeprefix("v"),
        "bubblewrap": _output("bwrap", "--version").removeprefix("bubblewrap "),
        "configurable-http-proxy": _npm_version(root, "configurable-http-proxy"),
        "mathjax": _npm_version(root, "mathjax"),
    }
    return {name: version for name, version in found.items() if version}


def base_checks(found: Hardware, cuda: str, packages: dict[str, str]) -> tuple[Check, ...]:
    """What the labs need anywhere."""
    python = sys.version_info[:2]
    memory = found.memory_bytes >= MEMORY_WANTED_BYTES
    checks = [
        Check(
            name="Python",
            found=platform.python_version(),
            ok=python >= PYTHON_NEEDED,
            needed=True,
            fix=""
            if python >= PYTHON_NEEDED
            else "install Python 3.11 or later and name it: make up PYTHON=/path/to/it",
        ),
        _packages_check("Lab packages", "train", packages),
        Check(
            name="Memory",
            found=_gib(found.memory_bytes),
            ok=memory,
            needed=False,
            fix="" if memory else f"run on a machine with {_gib(MEMORY_WANTED_BYTES)} or more",
        ),
    ]
    if found.gpus and "torch" in packages:
        fix = f"{sys.executable} -m pip install --force-reinstall torch=={packages['torch'].split('+')[0]}"
        checks.append(
            Check(
                name="torch for the GPUs",
                found=f"built for CUDA {cuda}" if cuda else "built without CUDA",
                ok=bool(cuda),
                needed=False,
                fix="" if cuda else fix,
            )
        )
    return tuple(checks)


def site_checks(root: Path) -> tuple[Check, ...]:
    """What the site needs; `root` is the course's repository."""
    node = _output("node", "--version").removeprefix("v")
    node_ok = bool(node) and int(node.split(".")[0]) >= NODE_NEEDED
    checks = [
        _packages_check("Site packages", "course", installed()),
        Check(
            "Node.js",
            node or "missing",
            node_ok,
            True,
            "" if node_ok else "install Node.js 20 or later: https://nodejs.org",
        ),
    ]
    for name in ("configurable-http-proxy", "mathjax"):
        version = _npm_version(root, name)
        checks.append(Check(name, version or "missing", bool(version), True, "" if version else "npm ci"))
    for command, package in (("bwrap", "bubblewrap"), ("setpriv", "util-linux")):
        path = shutil.which(command)
        checks.append(Check(command, path or "missing", bool(path), True, "" if path else _apt(package)))
    if all(check.ok for check in checks):
        checks += _sandbox_checks()
    return tuple(checks)


def _sandbox_checks() -> list[Check]:
    """Can learners be kept apart here? Tries a real sandbox and a real control group."""
    # The one look into the site's code from outside it, and only where the site is installed.
    from distlab.course.sandbox import limits_problem, sandbox_problem

    checks = []
    root = os.geteuid() == 0
    # Root runs no server without a sandbox; else one learner, always the same, is served without protection.
    for name, problem, needed in (("Sandbox", sandbox_problem(), root), ("Limits", limits_problem(), False)):
        served = "nobody" if needed else "one learner alone"
        found = f"{served} is served: {problem.what}" if problem else "works"
        checks.append(Check(name, found, problem is None, needed, problem.fix if problem else ""))
    return checks


def _packages_check(name: str, extra: str, packages: dict[str, str]) -> Check:
    """Are the packages of one of distlab's extras installed, in versions that it accepts?"""
    wrong = []
    for text in importlib.metadata.requires("distlab") or []:
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        version = packages.get(_normal(requirement.name))
        if version is None:
            wrong.append(f"{requirement.name} missing")
        elif not requirement.specifier.contains(Version(version), prereleases=True):
            wrong.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    fix = f"{sys.executable} -m pip install 'distlab[{extra}]'" if wrong else ""
    if wrong and Path("Makefile").is_file():
        fix = "make up"
    return Check(name, ", ".join(wrong) or "in order", not wrong, True, fix)


def _apt(package: str) -> str:
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install -y {package}"


def _npm_version(root: Path, name: str) -> str:
    try:
        text = (root / "node_modules" / name / "package.json").read_text(encoding="utf-8")
        return str(jsonlib.loads(text)["version"])
    except (OSError, ValueError, KeyError):
        return ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- tables ---


def show(report: Report, console: Console) -> None:
    """Print the report as tables."""
    machine = report.hardware
    console.print(f"[bold]{machine.cpu}[/], {machine.cores} cores, {_gib(machine.memory_bytes)} memory")
    for gpu in machine.gpus:
        console.print(f"GPU {gpu.index}: [bold]{gpu.name}[/], {_gib(gpu.memory_bytes)}, driver {gpu.driver}")
    if not machine.gpus:
        console.print("No NVIDIA GPU is visible.")
    console.print(", ".join(f"{name} {version}" for name, version in report.versions.items()), style="dim")
    tiers = Table("Lab", "Title", "Tier here", "Why", title="Labs", title_justify="left")
    for lab in report.labs:
        tiers.add_row(lab.lab, lab.title, lab.tier, lab.why)
    console.print(tiers)
    checks = Table("", "What", "Found", title="Checks", title_justify="left")
    for check in report.checks:
        mark = "[green]ok[/]" if check.ok else "[red]missing[/]" if check.needed else "[yellow]limits[/]"
        checks.add_row(mark, check.name, escape(check.found))
    console.print(checks)
    for check in report.checks:
        if not check.ok:
            # Unwrapped: a command is there to be copied.
            console.print(f"To mend [bold]{check.name}[/]: {escape(check.fix)}", soft_wrap=True)
    if report.can_run:
        console.print("[green]The course can run on this machine.[/]")
    else:
        console.print("[red]The course cannot run yet:[/] mend what is marked as missing.")


def tiers_by_machine() -> list[dict[str, str]]:
    """Which tier each lab runs in on which kind of machine, as rows for a table."""
    machines = {"Laptop or CPU server": 0, "One GPU": 1, "Two GPUs or more": 2}
    rows = []
    for lab in labs():
        have = dict.fromkeys(lab.packages, "")
        tiers = {
            name: lab_tier(lab, gpus=gpus, cuda="any", installed=have).tier for name, gpus in machines.items()
        }
        rows.append({"Lab": lab.id, "Title": lab.title, **tiers})
    return rows


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
