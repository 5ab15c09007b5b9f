"""What this machine can run, and what is missing.

    distlab doctor
    distlab doctor --json

Everything is read from files, package metadata and version commands: no framework is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json as jsonlib
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distlab.labs import LabTier, lab_tier, labs
from distlab.machine import Hardware, command_output, hardware, torch_cuda

PYTHON_NEEDED = (3, 11)
NODE_NEEDED = 20
MEMORY_WANTED_BYTES = 4 * 2**30
"""The Hub, its services and one learner with a two-process lab."""

SHOWN_PACKAGES = ("torch", "numpy", "scikit-learn", "jupyter-book", "jupyterhub", "jupyterlab", "nbgrader")

HOROVOD = Requirement("horovod==0.28.1")


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
class Framework:
    """A framework that only some strategies and labs import."""

    name: str
    version: str
    """Empty where it is not installed."""
    get: str
    """The command that installs it; empty where the version that distlab takes is there."""


@dataclass(frozen=True)
class Report:
    """All that `distlab doctor` knows."""

    hardware: Hardware
    versions: dict[str, str]
    frameworks: tuple[Framework, ...]
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
        frameworks=frameworks(root, packages),
        labs=tuple(lab_tier(lab, gpus=len(found.gpus), cuda=cuda, installed=packages) for lab in labs()),
        checks=(
            *base_checks(found, cuda, packages),
            *telemetry_checks(),
            *(site_checks(root) if (root / "_config.yml").is_file() else ()),
        ),
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
        "node": command_output("node", "--version").removeprefix("v"),
        "bubblewrap": command_output("bwrap", "--version").removeprefix("bubblewrap "),
        "configurable-http-proxy": _npm_version(root, "configurable-http-proxy"),
        "mathjax": _npm_version(root, "mathjax"),
    }
    return {name: version for name, version in found.items() if version}


def frameworks(root: Path, packages: dict[str, str]) -> tuple[Framework, ...]:
    """Each framework of distlab's extra of that name, and Horovod, which has to be built for the torch here."""
    here = (root / "scripts/setup").is_file()
    pip = f"{sys.executable} -m pip install"
    get = "scripts/setup dev" if here else f"{pip} 'distlab[frameworks]'"
    build = f'{pip} --no-deps "$(scripts/build_horovod gloo --python {sys.executable})"'
    horovod = build if here else f"in the course's repository: {build}"
    found = []
    for wanted, command in [*((one, get) for one in _required("frameworks")), (HOROVOD, horovod)]:
        version = packages.get(_normal(wanted.name), "")
        right = bool(version) and wanted.specifier.contains(version, prereleases=True)
        found.append(Framework(wanted.name, version, "" if right else command))
    return tuple(found)


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


def telemetry_checks() -> tuple[Check, ...]:
    """What `distlab observe up` starts; everything else goes without."""
    checks = []
    for name, commands, package in (
        ("Prometheus", ("prometheus",), "prometheus"),
        ("Alertmanager", ("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager"),
    ):
        path = next(filter(None, map(shutil.which, commands)), None)
        checks.append(Check(name, path or "missing", bool(path), False, "" if path else _apt(package)))
    return tuple(checks)


def site_checks(root: Path) -> tuple[Check, ...]:
    """What the site needs; `root` is the course's repository."""
    node = command_output("node", "--version").removeprefix("v")
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
    for requirement in _required(extra):
        version = packages.get(_normal(requirement.name))
        if version is None:
            wrong.append(f"{requirement.name} missing")
        elif not requirement.specifier.contains(Version(version), prereleases=True):
            wrong.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    fix = f"{sys.executable} -m pip install 'distlab[{extra}]'" if wrong else ""
    if wrong and Path("Makefile").is_file():
        fix = "make up"
    return Check(name, ", ".join(wrong) or "in order", not wrong, True, fix)


def _required(extra: str) -> list[Requirement]:
    """What one of distlab's extras asks for."""
    everything = map(Requirement, importlib.metadata.requires("distlab") or [])
    return [one for one in everything if one.marker and one.marker.evaluate({"extra": extra})]


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
    _show_frameworks(report.frameworks, console)
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


def _show_frameworks(found: tuple[Framework, ...], console: Console) -> None:
    table = Table("Framework", "Installed", title="Frameworks", title_justify="left")
    for one in found:
        table.add_row(one.name, one.version or "no")
    console.print(table)
    for command in dict.fromkeys(one.get for one in found if one.get):
        names = ", ".join(one.name for one in found if one.get == command)
        # Unwrapped: a command is there to be copied.
        console.print(f"To install [bold]{names}[/]: {escape(command)}", soft_wrap=True)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
