"""A bubblewrap sandbox: what a program of a learner's sees, and what it runs as.

Nothing of the host is there unless `mounts` names it: the system's libraries and programs, the Python
environment, the installed package, recordings of GPU machines, read-only; one writable home; fresh /proc,
/dev, /tmp and /dev/shm. The network is always a private loopback, so that no port and no abstract socket of
the host can be reached; a Unix socket can be reached only through a mounted folder. Started by root, the
program runs as `uid` of the host, without any capability; started by a normal user, as that user in a user
namespace of its own.

    Sandbox(argv=("/usr/bin/id",), user="alice", uid=FIRST_UID + 7).popen().wait()
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distlab
from distlab.course import cgroup, seccomp
from distlab.course.homes import FIRST_UID

MIB = 2**20

ETC_FILES = (
    "alternatives",
    "bash.bashrc",
    "fonts",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "protocols",
    "services",
)
"""Not `profile`: it would reset PATH in the login shells of Lab's terminals."""

GPU_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")
GPU_FILES = ("/sys/bus/pci", "/sys/devices", "/sys/module/nvidia")
"""NVML and NCCL read the topology there. Mounted only where there is a GPU."""

PREFIX_PARTS = ("bin", "lib", "lib64", "include", "share/jupyter", "share/jupyterhub", "etc/jupyter")
"""What of a Python's prefix a sandbox sees."""

BEGIN = """
fd=$1; echo >&$fd; read -r _ <&$fd || exit 125; exec {fd}>&-
ulimit -c 0; echo 500 > /proc/self/oom_score_adj
cd -- "$2" || exit 125; shift 2; exec "$@"
"""
"""The last step before the program: say that all is set up, and begin only if the parent still lives.

bubblewrap cannot see a parent that died before it asked the kernel to be told; such a sandbox would stay.
The working folder is entered here, as its user: nobody else may enter a home. A host that runs out of
memory shall kill a sandbox before the Hub.
"""

BEGIN_S = 60.0
"""Seconds that bubblewrap has for setting up; it takes a fraction of one."""


@dataclass(frozen=True)
class Mount:
    """A host file or folder and where it appears; read-only unless `writable`.

    `device` admits device nodes. A missing source is an error unless `optional`.
    """

    source: str
    target: str
    writable: bool = False
    device: bool = False
    optional: bool = False

    def options(self) -> list[str]:
        kind = "dev-bind" if self.device else "bind" if self.writable else "ro-bind"
        return [f"--{kind}{'-try' if self.optional else ''}", self.source, self.target]


@dataclass(frozen=True)
class Sandbox:
    """One program and its world. Paths are absolute; `env` is the whole environment.

    `user` and `uid` are what the program sees itself as. `inherited_fds` stay open under their own numbers;
    every other descriptor of the parent's is closed. With `capabilities`, which only root can give, the program
    stays root with those and without the filter: for a trusted program that makes sandboxes itself.
    """

    argv: tuple[str, ...]
    user: str
    uid: int
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    hostname: str = "distlab"
    cwd: str = "/"
    tmp_bytes: int = 1024 * MIB
    shm_bytes: int = 1024 * MIB
    inherited_fds: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()

    def popen(
        self, enter: Callable[[Sequence[str]], list[str]] = list, **arguments: Any
    ) -> subprocess.Popen[bytes]:
        """Start the sandbox, and return once its program runs; it dies with the calling thread.

        One that does not come to that in `BEGIN_S` seconds is killed: what is returned has ended then.

        `enter` is `cgroup.Group.enter`, if limited; `arguments` are those of `subprocess.Popen`.
        The options travel through a descriptor: environment and paths are not in the process list.
        """
        data = {name: _memory_file(name, text.encode()) for name, text in self._etc().items()}
        ours, theirs = socket.socketpair()
        fds = [*data.values(), filter_fd := seccomp.program_fd(), begin_fd := theirs.detach()]
        try:
            options = self._options(data)
            options += [] if self.capabilities else ["--seccomp", str(filter_fd)]
            fds.append(options_fd := _memory_file("options", b"\0".join(map(os.fsencode, options))))
            command = [_program("bwrap"), "--args", str(options_fd), "--", *self._begin(begin_fd)]
            process = subprocess.Popen(enter(command), pass_fds=(*fds, *self.inherited_fds), **arguments)
        finally:
            for fd in fds:
                os.close(fd)
        with ours, contextlib.suppress(ConnectionError):
            ours.settimeout(BEGIN_S)
            try:
                if ours.recv(1):  # nothing, if bubblewrap failed: its standard error says why
                    ours.sendall(b"\n")
            except TimeoutError:
                process.kill()
        return process

    def _options(self, data: Mapping[str, int]) -> list[str]:
        options = [
            "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup",
            "--hostname", self.hostname, "--die-with-parent", "--new-session", "--clearenv",
        ]  # fmt: skip
        if os.geteuid() == 0:
            # Only what setpriv needs to become the user; it drops these too.
            for capability in self.capabilities or ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                options += ["--cap-add", capability]
            options = ["--cap-drop", "ALL", *options]
        else:
            options += ["--unshare-user", "--disable-userns", "--uid", str(self.uid), "--gid", str(self.uid)]
        options += ["--proc", "/proc", "--dev", "/dev"]
        for folder, size in (("/dev/shm", self.shm_bytes), ("/tmp", self.tmp_bytes)):
            options += ["--perms", "1777", "--size", str(size), "--tmpfs", folder]
        options += ["--perms", "0755", "--dir", "/run"]
        made: set[str] = set()
        for mount in sorted({m.target: m for m in (*system_mounts(), *self.mounts)}.values(), key=_depth):
            options += [*_parents(mount.target, made), *mount.options()]
        for link in _root_links():
            options += ["--symlink", os.readlink(link), link]
        options += _parents("/etc/passwd", made)
        for name, fd in data.items():
            options += ["--perms", "0644", "--ro-bind-data", str(fd), f"/etc/{name}"]
        # Not even the times of folders can be changed: others have the same.
        options += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", "/"]
        for name, value in self.env.items():
            options += ["--setenv", name, value]
        return options

    def _begin(self, fd: int) -> list[str]:
        """From bubblewrap's rights to the program's."""
        program = ["/bin/bash", "-c", BEGIN, "begin", str(fd), self.cwd, *self.argv]
        if os.geteuid() != 0 or self.capabilities:
            return program
        ids = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        none = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        return [_program("setpriv"), *ids, *none, "--", *program]

    def _etc(self) -> dict[str, str]:
        home = self.env.get("HOME", "/")
        return {
            "passwd": f"{self.user}:x:{self.uid}:{self.uid}::{home}:/bin/bash\n",
            "group": f"{self.user}:x:{self.uid}:\n",
            "hosts": f"127.0.0.1 localhost {self.hostname}\n::1 localhost ip6-localhost\n",
            "hostname": f"{self.hostname}\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
        }


def _program(name: str) -> str:
    """The system's own program; never one that the environment's PATH puts before it."""
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if not found:
        raise FileNotFoundError(f"the program {name} is not installed in /usr/bin or /bin")
    return found


def _memory_file(name: str, content: bytes) -> int:
    """A descriptor on an anonymous file with `content`, to be read from its start."""
    fd = os.memfd_create(name)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _depth(mount: Mount) -> int:
    return mount.target.count("/")


def _parents(target: str, made: set[str]) -> list[str]:
    """Options that make the folders above `target` passable: bubblewrap's own are 0700."""
    options = []
    for parent in reversed(Path(target).parents):
        path = str(parent)
        if path not in made and path != "/":
            made.add(path)
            options += ["--perms", "0755", "--dir", path]
    return options


def _root_links() -> list[str]:
    """/bin, /lib and the like, where the host has them as links into /usr."""
    return sorted(str(path) for pattern in ("bin", "sbin", "lib*") for path in Path("/").glob(pattern)
                  if path.is_symlink())  # fmt: skip


def system_mounts() -> tuple[Mount, ...]:
    """Programs and libraries of the system, the named files of /etc, and the GPU's devices if there are."""
    folders = [Path("/usr")]
    folders += [path for pattern in ("bin", "sbin", "lib*") for path in Path("/").glob(pattern)
                if path.is_dir() and not path.is_symlink()]  # fmt: skip
    mounts = [Mount(str(path), str(path)) for path in folders]
    mounts += [Mount(f"/etc/{name}", f"/etc/{name}", optional=True) for name in ETC_FILES]
    # One folder and two files of the kernel's, without which torch cannot count the processors.
    mounts += [
        Mount(path, path, optional=True) for path in ("/sys/devices/system/cpu", "/sys/devices/system/node")
    ]
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    if devices:
        devices += [f"/dev/{name}" for name in GPU_DEVICES]
        mounts += [Mount(device, device, device=True, optional=True) for device in devices]
        mounts += [Mount(path, path, optional=True) for path in GPU_FILES]
    return tuple(mounts)


def python_mounts() -> tuple[Mount, ...]:
    """The running Python's environment, the Python below it, the installed package, recordings: nothing else.

    Paths inside equal those outside, as a virtual environment's do not move; what is reached through a link
    is mounted under its real path too. A prefix that is no virtual environment may be someone's home
    (`--prefix=$HOME`), so that only Python's own folders of it are taken. Of a package in its repository the
    recordings of GPU machines come along, where `distlab.record.recordings` finds them.
    """
    paths = [os.path.join(sys.base_prefix, part) for part in PREFIX_PARTS]
    paths += [sys.prefix] if sys.prefix != sys.base_prefix else []
    package = Path(distlab.__file__).parent
    paths += [str(package), str(package.parents[1] / "recordings")]
    interpreter = Path(sys.executable)
    while interpreter.is_symlink():
        interpreter = Path(os.path.normpath(interpreter.parent / os.readlink(interpreter)))
        paths.append(str(interpreter))
    wanted = {name for path in paths if os.path.exists(path) for name in (path, os.path.realpath(path))}
    folders = wanted | {"/usr"}
    needed = [path for path in sorted(wanted) if not any(_inside(path, folder) for folder in folders)]
    return tuple(Mount(os.path.realpath(path), path) for path in needed)


def _inside(path: str, folder: str) -> bool:
    return path != folder and Path(path).is_relative_to(folder)


def base_env(user: str, home: str) -> dict[str, str]:
    """The environment that every sandbox's Python starts from; nothing is taken from the host's."""
    return {
        "HOME": home,
        "LANG": "C.UTF-8",
        "LOGNAME": user,
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        # Ray takes a share of the whole host's memory, which /dev/shm here cannot hold; then it writes to disk.
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(256 * MIB),
        "SHELL": "/bin/bash",
        "TMPDIR": "/tmp",
        "USER": user,
        "VIRTUAL_ENV": sys.prefix,
    }


@dataclass(frozen=True)
class Problem:
    """Why learners cannot be kept apart on this machine, and the command that changes it."""

    what: str
    fix: str

    @property
    def advice(self) -> str:
        """Both in one line, for the operator."""
        return f"The operator can change that: {self.what}; {self.fix}"


def availability() -> list[Problem]:
    """What this machine lacks for sandboxes with limits; empty where all works. Tries the real thing."""
    return [problem for problem in (sandbox_problem(), limits_problem()) if problem]


def sandbox_problem() -> Problem | None:
    for program, package in (("bwrap", "bubblewrap"), ("setpriv", "util-linux")):
        try:
            _program(program)
        except FileNotFoundError as error:
            return Problem(str(error), f"sudo apt-get install -y {package}")
    try:
        os.close(seccomp.program_fd())
    except OSError as error:
        return Problem(f"system calls cannot be filtered: {error}", "sudo apt-get install -y libseccomp2")
    uid = os.geteuid() or FIRST_UID
    trial = Sandbox(argv=("/usr/bin/true",), user="trial", uid=uid)
    process = trial.popen(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=60)
    if process.returncode == 0:
        return None
    return Problem(
        f"bubblewrap cannot make a sandbox: {stderr.decode(errors='replace').strip()}", userns_fix()
    )


def userns_fix(settings: Path = Path("/proc/sys")) -> str:
    """The command that lets a normal user make the namespaces that bubblewrap needs."""

    def setting(name: str) -> str:
        path = settings / name
        return path.read_text().strip() if path.exists() else ""

    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        # Ubuntu 24.04: its own profile for bubblewrap lies ready, but not loaded.
        profile = "/usr/share/apparmor/extra-profiles/bwrap-userns-restrict"
        return (
            f"sudo apt-get install -y apparmor-profiles && sudo cp {profile} /etc/apparmor.d/ && "
            "sudo apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict"
        )
    if setting("kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if setting("user/max_user_namespaces") == "0":
        return "sudo sysctl -w user.max_user_namespaces=10000"
    return "run the site as root, on a machine (not in a container) that allows new namespaces"


def limits_problem() -> Problem | None:
    try:
        group = cgroup.create(f"trial-{uuid.uuid4().hex}", cgroup.Limits(256 * MIB, 1.0, 64))
        try:
            trial = subprocess.run(group.enter(["/usr/bin/true"]), capture_output=True, text=True, timeout=60)
        finally:
            group.remove()
        if trial.returncode:
            raise cgroup.LimitsUnavailable(trial.stderr.strip())
    except cgroup.LimitsUnavailable as error:
        # Debian 12 and Ubuntu 24.04 delegate memory and pids; cpu only on request.
        folder = "/etc/systemd/system/user@.service.d"
        delegate = (
            f"sudo mkdir -p {folder} && printf '[Service]\\nDelegate=cpu memory pids\\n' | "
            f"sudo tee {folder}/delegate.conf && sudo systemctl daemon-reload, then log in again"
        )
        fix = delegate if Path("/run/systemd/system").is_dir() else "run the site as root, or under systemd"
        return Problem(f"no control group here can hold limits: {error}", fix)
    return None
