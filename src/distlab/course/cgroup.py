"""Limits on memory, CPU and processes for everything that one sandbox starts, by Linux control groups.

Three kinds, the first that works here: cgroup v1 written directly (root, v1 controllers mounted), a
systemd scope (v2 with systemd, as root or as a user with delegated controllers), cgroup v2 written
directly (root without systemd). Each offers the same seven verbs: `create`, `enter` (a command line that
puts itself into the group, then becomes the given program), `add` (a process that runs already), `freeze`,
`kill`, `remove`, `usage`. A group survives the process that made it: `Group.to_dict` and `load` carry it across.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

CONTROLLERS = ("memory", "cpu", "pids")
CFS_PERIOD_US = 100_000
CPU_WEIGHT = 12
"""A learner's share where all want the processors, in percent of the Hub's own (the kernel's default is 100)."""
KILL_TIMEOUT_S = 10.0

ENTER = 'for procs in $1; do echo $$ > "$procs" || exit 125; done; shift; exec "$@"'
"""A shell that joins the groups whose `cgroup.procs` files it is given, then becomes the program."""


@dataclass(frozen=True)
class Limits:
    """What one group may use at most. `processes` counts threads too, as the kernel does.

    `cpu_weight` is its share of the processors where all want them, in percent of an ordinary process group's.
    """

    memory_bytes: int
    cpus: float
    processes: int
    cpu_weight: int = CPU_WEIGHT


@dataclass(frozen=True)
class Usage:
    """What a group uses now (`memory_bytes` includes its tmpfs files), and its highest memory so far.

    `memory_kills` counts processes that were killed at the limit on memory, `processes_refused` those that
    could not start at the limit on processes.
    """

    memory_bytes: int
    memory_peak_bytes: int
    processes: int
    memory_kills: int
    processes_refused: int


class LimitsUnavailable(RuntimeError):  # noqa: N818 - a state of the machine, told to people
    """No control group here can hold limits; the message says why."""


@dataclass(frozen=True)
class Group(ABC):
    """One control group that holds a sandbox."""

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def create(cls, name: str, limits: Limits) -> Group:
        """Make the group `name` with `limits`; raise `LimitsUnavailable` where this kind cannot."""

    @abstractmethod
    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the group, in the same process."""

    @abstractmethod
    def add(self, pid: int) -> None:
        """Move a running process, which has started none, into the group; OSError where that fails."""

    @abstractmethod
    def processes(self) -> list[int]:
        """The ids of the living processes in the group."""

    @abstractmethod
    def freeze(self, frozen: bool) -> None:
        """Stop every process in the group, or let all go on, and wait until that is so; OSError where it fails."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL every process in the group, and wait until none is left."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the group, with whatever is in it; one that is gone already is no error."""

    @abstractmethod
    def usage(self) -> Usage:
        """Read the kernel's counters."""

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **dataclasses.asdict(self)}


def own_groups() -> dict[str, Path]:
    """Where this process's groups lie: a controller's name, or `""` for v2, to a folder in a mounted tree."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return find_groups(Path("/proc/self/mountinfo").read_text(), own)


def find_groups(mountinfo: str, own: dict[str, str]) -> dict[str, Path]:
    """Join the mounted cgroup trees of `mountinfo` (proc(5)) with this process's paths in each of them."""
    found: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        fs_type, _, options = after.split(" ", 2)
        names = {"cgroup": options.split(","), "cgroup2": [""]}.get(fs_type, [])
        for name in names:
            relative = os.path.relpath(own[name], root) if name in own else ".."
            if name not in found and not relative.startswith(".."):
                found[name] = Path(mount_point) / relative
    return found


def _poll_until(done: Callable[[], bool], what: str) -> None:
    """The kernel empties a group asynchronously and tells nobody; ask until it has."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} still not done after {KILL_TIMEOUT_S:g} s")
        time.sleep(0.01)


def _processes(folders: Sequence[Path]) -> list[int]:
    """The living processes of the groups, each once."""
    found: set[int] = set()
    for folder in folders:
        with contextlib.suppress(OSError):  # the group is gone
            found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
    return sorted(found)


def _add(folders: Sequence[Path], pid: int) -> None:
    for folder in folders:
        (folder / "cgroup.procs").write_text(str(pid))


def _freeze_v2(folder: Path, frozen: bool) -> None:
    (folder / "cgroup.freeze").write_text(str(int(frozen)))
    _poll_until(
        lambda: _count(folder / "cgroup.events", "frozen") == frozen, f"freezing, {frozen}, of {folder}"
    )


def _count(events: Path, name: str) -> int:
    """The counter `name` in a file of lines `name value`; 0 where this kernel does not keep it."""
    with contextlib.suppress(FileNotFoundError):
        return int(dict(line.split() for line in events.read_text().splitlines()).get(name, 0))
    return 0


def _kill(folders: Sequence[Path], pids_folder: Path) -> None:
    """Kill by process id, with new processes forbidden first so that a fork bomb cannot outrun it."""
    with contextlib.suppress(OSError):
        (pids_folder / "pids.max").write_text("0")

    def nobody_left() -> bool:
        pids = _processes(folders)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    _poll_until(nobody_left, f"killing the processes of {pids_folder}")


def _remove(folders: Sequence[Path], pids_folder: Path) -> None:
    """Remove the groups, killing also what enters them meanwhile; whoever comes later cannot enter."""

    def removed() -> bool:
        for folder in folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                _kill(folders, pids_folder)
                return False
        return True

    _poll_until(removed, f"removing {pids_folder}")


@dataclass(frozen=True)
class V1Group(Group):
    """cgroup v1: a folder in each controller's own tree, written directly. Not everywhere is there a `freezer`."""

    memory: str
    cpu: str
    pids: str
    freezer: str = ""

    kind: ClassVar[str] = "v1"

    @classmethod
    def create(cls, name: str, limits: Limits) -> V1Group:
        own = own_groups()
        missing = [c for c in CONTROLLERS if c not in own]
        if missing:
            raise LimitsUnavailable(f"no cgroup v1 tree for {', '.join(missing)}")
        group = cls(**{c: str(own[c] / f"distlab-{name}") for c in (*CONTROLLERS, "freezer") if c in own})
        try:
            for folder in group._folders():
                folder.mkdir(exist_ok=True)
            group._write(limits)
        except OSError as error:
            group.remove()
            raise LimitsUnavailable(f"cgroup v1 cannot be written: {error}") from error
        return group

    def _write(self, limits: Limits) -> None:
        memory, cpu, pids, *_ = self._folders()
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        memory_and_swap = memory / "memory.memsw.limit_in_bytes"
        if memory_and_swap.exists():
            memory_and_swap.write_text(str(limits.memory_bytes))
        (cpu / "cpu.cfs_period_us").write_text(str(CFS_PERIOD_US))
        (cpu / "cpu.cfs_quota_us").write_text(str(round(limits.cpus * CFS_PERIOD_US)))
        (cpu / "cpu.shares").write_text(str(1024 * limits.cpu_weight // 100))
        (pids / "pids.max").write_text(str(limits.processes))

    def _folders(self) -> list[Path]:
        return [Path(folder) for folder in (self.memory, self.cpu, self.pids, self.freezer) if folder]

    def enter(self, argv: Sequence[str]) -> list[str]:
        procs = " ".join(f"{folder}/cgroup.procs" for folder in self._folders())
        return ["/bin/sh", "-c", ENTER, "enter", procs, *argv]

    def add(self, pid: int) -> None:
        _add(self._folders(), pid)

    def processes(self) -> list[int]:
        return _processes(self._folders())

    def freeze(self, frozen: bool) -> None:
        state, wanted = Path(self.freezer or "/nowhere") / "freezer.state", "FROZEN" if frozen else "THAWED"
        state.write_text(wanted)
        _poll_until(lambda: state.read_text().strip() == wanted, f"making {self.freezer} {wanted}")

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # what is frozen here cannot die
            self.freeze(False)
        _kill(self._folders(), Path(self.pids))

    def remove(self) -> None:
        _remove(self._folders(), Path(self.pids))

    def usage(self) -> Usage:
        memory, _, pids, *_ = self._folders()
        return Usage(
            memory_bytes=int((memory / "memory.usage_in_bytes").read_text()),
            memory_peak_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
            processes=int((pids / "pids.current").read_text()),
            memory_kills=_count(memory / "memory.oom_control", "oom_kill"),
            processes_refused=_count(pids / "pids.events", "max"),
        )


@dataclass(frozen=True)
class V2Group(Group):
    """cgroup v2 written directly: root, no systemd. A folder at the top of the mounted tree."""

    path: str

    kind: ClassVar[str] = "v2"

    @classmethod
    def create(cls, name: str, limits: Limits) -> V2Group:
        return cls.create_in(_v2_mount(), name, limits)

    @classmethod
    def create_in(cls, top: Path, name: str, limits: Limits) -> V2Group:
        """As `create`, below `top`: a group that holds no processes, or the root of the whole tree."""
        group = cls(str(top / f"distlab-{name}"))
        folder = Path(group.path)
        try:
            (top / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in CONTROLLERS))
            folder.mkdir(exist_ok=True)
            (folder / "memory.max").write_text(str(limits.memory_bytes))
            swap = folder / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
            (folder / "cpu.max").write_text(f"{round(limits.cpus * CFS_PERIOD_US)} {CFS_PERIOD_US}")
            (folder / "cpu.weight").write_text(str(limits.cpu_weight))
            (folder / "pids.max").write_text(str(limits.processes))
        except OSError as error:
            if folder.exists():
                group.remove()
            raise LimitsUnavailable(f"cgroup v2 cannot be written: {error}") from error
        return group

    def enter(self, argv: Sequence[str]) -> list[str]:
        return ["/bin/sh", "-c", ENTER, "enter", f"{self.path}/cgroup.procs", *argv]

    def add(self, pid: int) -> None:
        _add([Path(self.path)], pid)

    def processes(self) -> list[int]:
        return _processes([Path(self.path)])

    def freeze(self, frozen: bool) -> None:
        _freeze_v2(Path(self.path), frozen)

    def kill(self) -> None:
        _kill([Path(self.path)], Path(self.path))

    def remove(self) -> None:
        _remove([Path(self.path)], Path(self.path))

    def usage(self) -> Usage:
        folder = Path(self.path)
        peak = folder / "memory.peak"  # since Linux 5.19
        return Usage(
            memory_bytes=int((folder / "memory.current").read_text()),
            memory_peak_bytes=int(peak.read_text()) if peak.exists() else 0,
            processes=int((folder / "pids.current").read_text()),
            memory_kills=_count(folder / "memory.events", "oom_kill"),
            processes_refused=_count(folder / "pids.events", "max"),
        )


@dataclass(frozen=True)
class SystemdGroup(Group):
    """A transient systemd scope: cgroup v2 with systemd, the system's manager as root, else the user's."""

    unit: str
    user: bool
    memory_bytes: int
    cpus: float
    tasks: int
    weight: int = CPU_WEIGHT

    kind: ClassVar[str] = "systemd"

    @classmethod
    def create(cls, name: str, limits: Limits) -> SystemdGroup:
        """The scope itself comes to be when `enter`'s command starts; here its conditions are checked."""
        if not Path("/run/systemd/system").is_dir() or not shutil.which("systemd-run"):
            raise LimitsUnavailable("systemd does not run here")
        user = os.geteuid() != 0
        if user:
            delegated = _delegated_controllers(_v2_mount(), os.geteuid())
            missing = [c for c in CONTROLLERS if c not in delegated]
            if missing:
                raise LimitsUnavailable(f"systemd does not delegate {', '.join(missing)} to this user")
        wanted = (limits.memory_bytes, limits.cpus, limits.processes, limits.cpu_weight)
        return cls(f"distlab-{name}.scope", user, *wanted)

    def _manager(self) -> str:
        return "--user" if self.user else "--system"

    def enter(self, argv: Sequence[str]) -> list[str]:
        properties = {
            "MemoryMax": str(self.memory_bytes),
            "MemorySwapMax": "0",
            "CPUQuota": f"{round(self.cpus * 100)}%",
            "CPUWeight": str(self.weight),
            "TasksMax": str(self.tasks),
        }
        settings = [f"--property={name}={value}" for name, value in properties.items()]
        scope = ["systemd-run", self._manager(), "--scope", "--quiet", "--collect", f"--unit={self.unit}"]
        return [*scope, *settings, "--", *argv]

    def add(self, pid: int) -> None:
        done = subprocess.run(self.add_command(pid), capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"systemd made no scope for process {pid}: {done.stderr.strip()}")
        # The call is answered before the scope has its process.
        _poll_until(lambda: pid in self.processes(), f"moving process {pid} into {self.unit}")

    def add_command(self, pid: int) -> list[str]:
        """Makes the scope with the process in it; systemd-run can only start one."""
        properties = [
            ("PIDs", "au", "1", str(pid)),
            ("MemoryMax", "t", str(self.memory_bytes)),
            ("MemorySwapMax", "t", "0"),
            ("CPUQuotaPerSecUSec", "t", str(round(self.cpus * 1_000_000))),
            ("CPUWeight", "t", str(self.weight)),
            ("TasksMax", "t", str(self.tasks)),
            ("CollectMode", "s", "inactive-or-failed"),
        ]
        manager = "org.freedesktop.systemd1"
        call = ["busctl", self._manager(), "call", manager, "/org/freedesktop/systemd1", f"{manager}.Manager"]
        call += ["StartTransientUnit", "ssa(sv)a(sa(sv))", self.unit, "fail", str(len(properties))]
        call += [word for setting in properties for word in setting]
        return [*call, "0"]

    def _control_group(self) -> Path | None:
        path = self._systemctl("show", "--property=ControlGroup", "--value", self.unit).strip()
        return _v2_mount() / path.lstrip("/") if path else None

    def _systemctl(self, *arguments: str) -> str:
        command = ["systemctl", self._manager(), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def processes(self) -> list[int]:
        folder = self._control_group()
        return _processes([folder]) if folder else []

    def freeze(self, frozen: bool) -> None:
        _freeze_v2(self._control_group() or Path("/nowhere"), frozen)

    def kill(self) -> None:
        self._systemctl("kill", "--signal=KILL", self.unit)
        _poll_until(lambda: not self.processes(), f"killing the processes of {self.unit}")

    def remove(self) -> None:
        # A stopped scope is forgotten; its limits were properties of its own.
        self.kill()
        self._systemctl("stop", self.unit)

    def usage(self) -> Usage:
        shown = self._systemctl("show", "--property=MemoryCurrent,MemoryPeak,TasksCurrent", self.unit)
        values = dict(line.split("=", 1) for line in shown.splitlines())

        def number(name: str) -> int:
            # A property that this systemd lacks, or of a scope that ended, reads "[not set]".
            text = values.get(name, "")
            return int(text) if text.isdigit() else 0

        folder = self._control_group() or Path("/nowhere")
        return Usage(
            memory_bytes=number("MemoryCurrent"),
            memory_peak_bytes=number("MemoryPeak"),
            processes=number("TasksCurrent"),
            memory_kills=_count(folder / "memory.events", "oom_kill"),
            processes_refused=_count(folder / "pids.events", "max"),
        )


def _v2_mount() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    raise LimitsUnavailable("no cgroup v2 tree is mounted")


def _delegated_controllers(top: Path, uid: int) -> list[str]:
    path = top / f"user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers"
    return path.read_text().split() if path.exists() else []


KINDS: tuple[type[Group], ...] = (V1Group, SystemdGroup, V2Group)


def create(name: str, limits: Limits) -> Group:
    """A new group of the first kind that works on this machine.

    Raises `LimitsUnavailable`, naming what each kind lacks.
    """
    reasons = []
    for kind in KINDS:
        try:
            return kind.create(name, limits)
        except LimitsUnavailable as error:
            reasons.append(str(error))
    raise LimitsUnavailable("; ".join(reasons))


def sweep(prefix: str, in_use: Callable[[str], bool]) -> None:
    """Remove the empty groups named `prefix` and more, but those whose rest of the name is `in_use`.

    A process that was killed leaves its groups behind; systemd removes its scopes itself.
    """
    tops = set(own_groups().values())
    with contextlib.suppress(LimitsUnavailable):
        tops.add(_v2_mount())
    for top in tops:
        for folder in top.glob(f"distlab-{prefix}*"):
            if not in_use(folder.name.removeprefix(f"distlab-{prefix}")):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def load(description: dict[str, Any]) -> Group:
    """The group that `Group.to_dict` described, made by this process or by another."""
    fields = dict(description)
    kind = fields.pop("kind")
    return next(k for k in KINDS if k.kind == kind)(**fields)
