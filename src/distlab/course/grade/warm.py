"""The fork server: imports once what every sandbox needs, then forks a walled-in child for each request.

python -P -m distlab.course.grade.warm FD SETUP

It runs inside a bubblewrap sandbox of its own, with the rights to make namespaces and with nothing of the course;
`children.py` starts it and talks to it over the socket FD. SETUP is JSON: `roles` maps a role to the function
(`module:name`) that its children run, `prepare` names one that is called once before the first child.

A request is one message: JSON `{"role": ..., "limits": {...}, "cores": [...]}` and descriptors: the control
socket, the pipe for what is printed, then the role's channels. Each child is two processes:

- *init*, process 1 of new namespaces. It tells the host who it is, builds the walls while the host moves it into
  its control group, starts the other, gives up every right, and reports how the other ended;
- the *child* proper, a user of its own, without rights, filtered. It says "started" and runs the role's function.

With `--walled` the sandbox around this program has the walls already (a normal user's, made by bubblewrap):
it serves one request, as that child's init. On the control socket init sends `{"hello": 1}`, the host
`{"uid": N}`, the child `{"started": 1}`, the host `{"go": 1}`, in the end init `{"status": N}` (as of waitpid); or
one of them `{"failed": why}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import resource
import signal
import socket
import stat
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from distlab.course import seccomp
from distlab.course.grade import namespaces
from distlab.course.grade.wire import Channel
from distlab.course.grade.work import Limits

IMPORTS = (
    "numpy", "numpy.testing", "torch.distributed", "torch.testing",
    "IPython.core.interactiveshell", "distlab.predict.scorecard", "distlab.train.launch", "distlab.train.loop",
)  # fmt: skip
"""What labs import, and what takes long of it."""
FOR_ALL = ("torch._dynamo",)
"""What a child's first optimizer imports: half a second, and 24 MiB that all children of a server share."""
MAX_MESSAGE_BYTES = 1 << 16
MAX_CHANNELS = 4

NOBODYS_UID = 1_890_000_000
"""The uid of every init. No account has it or those after it, and no learner's server:
see `distlab.course.homes.FIRST_UID`."""
UIDS = 2**22 - 1
"""So many numbers after that one are children's. Each draws its own: a count would tell how many processes others
have started. Two that draw the same have the kernel's limits of one user together, and nothing else."""

OPEN_FILES = 4096
MAX_FILES = 200_000
"""In /tmp, and in /dev/shm: as many as are forgotten quickly when a child ends."""
MAX_TERMINALS = 64
"""Pseudo-terminals of one child; the machine has 4,096 for all that runs on it."""
LARGE_PAGE = 2 * 2**20
MADV_COLLAPSE = 25
OOM_SCORE = "900"
"""A machine, or a control group, without memory kills the learner's process before its init or anything else."""


@dataclass(frozen=True)
class Request:
    """What one child is to be, with its descriptors."""

    run: Callable[..., object]
    limits: Limits
    cores: tuple[int, ...]
    control: socket.socket
    output: int
    channels: tuple[int, ...]
    walled: bool
    filter: bytes


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    setup, walled = json.loads(sys.argv[2]), "--walled" in sys.argv[3:]
    # What learners' code knows as __main__, and as its arguments, is not this program's.
    sys.argv = [""]
    sys.modules["__main__"] = types.ModuleType("__main__")
    for name in IMPORTS if walled else (*IMPORTS, *FOR_ALL):
        importlib.import_module(name)
    roles = {role: _function(name) for role, name in setup["roles"].items()}
    _function(setup["prepare"])()
    _settle()
    with open(seccomp.program_fd(grading=True), "rb") as file:
        program = file.read()
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    requests.send(b"ready")
    while True:
        message, fds, _, _ = socket.recv_fds(requests, MAX_MESSAGE_BYTES, 2 + MAX_CHANNELS)
        if not message:
            return
        asked = json.loads(message)
        request = Request(
            run=roles[asked["role"]],
            limits=Limits(**asked["limits"]),
            cores=tuple(asked["cores"]),
            control=socket.socket(fileno=fds[0]),
            output=fds[1],
            channels=tuple(fds[2:]),
            walled=walled,
            filter=program,
        )
        try:
            forked = 0 if walled else _fork_into_new_pids(own_pids)
        except OSError as error:
            _send(request.control, {"failed": f"no process could be made: {error}"})
        else:
            if not forked:
                requests.detach()
                _be_init(request)
        request.control.close()
        for fd in fds[1:]:
            os.close(fd)


def _function(name: str) -> Callable[..., object]:
    """What `module:function` names."""
    module, _, attribute = name.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    return found


def _settle() -> None:
    """Leave a state that is safe and cheap to fork: one thread, no garbage, no children to wait for."""
    # OpenBLAS starts threads when it is imported, and ends them itself before a fork; each child has its own.
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        names = [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in threads]
        raise RuntimeError(
            f"the fork server must have one thread, and has {len(threads)}: {', '.join(names)}"
        )
    mapped = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    shared = [" ".join(line) for line in mapped if line[1].endswith("s") and "w" in line[1]]
    if shared:
        raise RuntimeError(f"the fork server has memory that all its children would share: {shared[0]}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets ended inits by itself
    gc.collect()
    gc.freeze()
    _use_large_pages()


def _use_large_pages() -> None:
    """Have the kernel put this process's memory into pages of 2 MiB, where it can (Linux 6.1).

    To fork is to copy the table of pages: four times faster when it is short. A child that writes gets small
    pages of its own.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, _, *name = line.split()
        if rights == "rw-p" and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in span.split("-"))
            for page in range(-(-start // LARGE_PAGE) * LARGE_PAGE, end - LARGE_PAGE + 1, LARGE_PAGE):
                madvise(page, LARGE_PAGE, MADV_COLLAPSE)  # one that it cannot stays as it is


def _fork_into_new_pids(own_pids: int) -> int:
    """Fork a process 1; 0 in it, its id in this process."""
    namespaces.unshare(namespaces.NEW_PIDS)
    try:
        pid = os.fork()
    except OSError:
        namespaces.enter(own_pids, namespaces.NEW_PIDS)
        raise
    if pid:
        namespaces.enter(own_pids, namespaces.NEW_PIDS)
    return pid


def _be_init(request: Request) -> NoReturn:
    """The life of one child's init."""
    control = request.control
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        namespaces.close_all_but([0, 1, 2, control.fileno(), request.output, *request.channels])
        control.send(b'{"hello": 1}')
        if not request.walled:
            _build_walls(request.limits)
        answer = control.recv(MAX_MESSAGE_BYTES)  # now in its control group
        if not answer:
            os._exit(1)
        uid = json.loads(answer)["uid"]
        if not request.walled:
            namespaces.unshare(namespaces.NEW_CGROUP)
            _name_user(uid)
        namespaces.no_new_rights()
        child = os.fork()
        if child == 0:
            _be_child(request, uid)
        for fd in (request.output, *request.channels):
            os.close(fd)
        if not request.walled:
            namespaces.become(NOBODYS_UID)
        namespaces.set_dumpable(False)
        namespaces.die_with_parent(signal.SIGKILL)
        namespaces.apply_filter(request.filter)
        while True:
            pid, status = os.wait()
            if pid == child:
                _send(control, {"status": status})
                control.recv(1)  # the host ends this process, and all with it, when it has read its counters
                os._exit(0)
    except BaseException as error:
        _send(control, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)


def _build_walls(limits: Limits) -> None:
    """New namespaces around this process, with file systems and a loopback of their own."""
    kinds = namespaces.NEW_MOUNTS | namespaces.NEW_NETWORK | namespaces.NEW_IPC | namespaces.NEW_HOST_NAME
    namespaces.unshare(kinds)
    no_programs = namespaces.NO_SUID | namespaces.NO_DEVICES
    namespaces.mount("none", "/", flags=namespaces.PRIVATE | namespaces.RECURSIVE)
    # Of the other users' processes, as its init, a child sees nothing.
    namespaces.mount("proc", "/proc", "proc", no_programs | namespaces.NO_EXEC, "hidepid=2")
    options = f"mode=1777,size={limits.tmp_bytes},nr_inodes={MAX_FILES}"
    for folder in ("/tmp", "/dev/shm"):
        _empty(folder, no_programs, options)
    terminals = f"newinstance,ptmxmode=0666,mode=620,max={MAX_TERMINALS}"
    namespaces.mount("devpts", "/dev/pts", "devpts", namespaces.NO_SUID | namespaces.NO_EXEC, terminals)
    namespaces.loopback_up()


def _empty(folder: str, flags: int, options: str) -> None:
    """Mount an empty `folder`; what is mounted beneath it stays, such as an environment below /tmp."""
    kept = [(path, os.open(path, os.O_PATH)) for path in namespaces.mounts_beneath(folder)]
    namespaces.mount("tmpfs", folder, "tmpfs", flags, options)
    for path, fd in kept:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).touch()
        namespaces.mount(f"/proc/self/fd/{fd}", path, flags=namespaces.BIND)
        os.close(fd)


def _name_user(uid: int) -> None:
    """Give `uid` its line in /etc/passwd, in this mount namespace."""
    made = "/tmp/.passwd"
    with open(made, "w") as file:
        file.write(f"grader:x:{uid}:{uid}::/tmp:/bin/bash\n")
    os.chmod(made, 0o644)
    # bubblewrap's own file there has no name any more, and nothing can be mounted on such a one.
    namespaces.unmount("/etc/passwd")
    namespaces.mount(made, "/etc/passwd", flags=namespaces.BIND)
    flags = namespaces.REMOUNT | namespaces.BIND | namespaces.READ_ONLY
    namespaces.mount("none", "/etc/passwd", flags=flags | namespaces.NO_SUID | namespaces.NO_DEVICES)
    os.unlink(made)


def _be_child(request: Request, uid: int) -> NoReturn:
    """Give up every right, then run the role's function: from here on the learner's code may be here."""
    control = request.control
    try:
        os.setsid()
        if not request.walled:
            namespaces.become(uid)
        namespaces.set_dumpable(True)  # else it would not own its own /proc/self
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        _limit(request.limits)
        # Whoever counts cores, to start as many threads, counts those of the quota and not all of the machine's.
        os.sched_setaffinity(0, request.cores)
        null = os.open("/dev/null", os.O_RDONLY)
        fds = [null, request.output, request.output, *request.channels, control.detach()]
        namespaces.number_descriptors(fds)
        control = socket.socket(fileno=len(fds) - 1)
        os.chdir("/tmp")
        namespaces.apply_filter(request.filter)
        # From here on threads can be made: each is filtered as the one that makes it.
        if torch.get_num_threads() > len(request.cores):
            torch.set_num_threads(len(request.cores))
        channels = [Channel(socket.socket(fileno=3 + i)) for i in range(len(request.channels))]
        control.send(b'{"started": 1}')
        if not control.recv(MAX_MESSAGE_BYTES):  # now the host has a hold on this process
            os._exit(1)
        control.close()
    except BaseException as error:
        _send(control, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _run(request.run, channels)


def _limit(limits: Limits) -> None:
    cpu_s = math.ceil(limits.cpu_s)
    for kind, soft, hard in (
        (resource.RLIMIT_CORE, 1, 1),  # no file, and unlike 0 nothing for a program that collects crashes
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
    ):
        most = resource.getrlimit(kind)[1]
        wanted = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        resource.setrlimit(kind, wanted)
    # Ray keeps its objects in one file, and its process dies where that may not be as large.
    os.environ["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] = str(limits.file_bytes // 2)


def _run(function: Callable[..., object], channels: list[Any]) -> NoReturn:
    status = 1
    try:
        function(*channels)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
