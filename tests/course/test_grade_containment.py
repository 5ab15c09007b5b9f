"""What hostile code comes to: each attack ends in its ending, and leaves nothing behind it."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest

from distlab.course.grade.warm import MAX_FILES
from distlab.course.grade.wire import Closed, TimedOut
from tests.course.children_rig import MIB, OWN_IN_TMP, Running, is_gone, probing

OUTCOME = """
import ctypes, errno, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
def outcome(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
"""

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except BlockingIOError:
        pass
"""

DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
answer = [name for name in os.listdir("/proc") if name.isdigit()]
"""

SYSTEM_CALLS = {
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "unmount": "libc.umount2(b'/proc', 2)",
    "pivot_root": "libc.syscall(155, b'/tmp', b'/tmp')",
    "chroot through a new mount namespace": "libc.unshare(0x00020000)",
    "user namespace": "libc.unshare(0x10000000)",
    "user namespace by clone": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "its init's namespaces": "libc.setns(os.open('/proc/self/ns/net', 0), 0)",
    "tracing init": "libc.ptrace(16, 1, 0, 0)",
    "seizing a process": "libc.ptrace(0x4206, 2, 0, 0)",
    "kernel programs": "libc.syscall(321, 0, 0, 0)",
    "kernel modules": "libc.syscall(175, b'', 0, b'')",
    "another kernel": "libc.syscall(246, 0, 0, 0, 0)",
    "files by handle": "libc.syscall(304, -1, b'', 0)",
}
"""By their numbers on x86_64, where glibc has no name."""


@pytest.fixture(scope="module")
def children():
    with probing() as made:
        yield made


@pytest.fixture
def attack(children):
    """Start children with limits for hostile code; afterwards nothing is left, and the next one is well."""
    started = []

    def start(**limits) -> Running:
        started.append(Running(children, **limits))
        return started[-1]

    yield start
    for running in started:
        running.child.kill()
        running.channel.close()
        assert is_gone(running.child)
    with Running(children) as after:
        total, in_tmp = after.run("import os; answer = [sum(range(10)), os.listdir('/tmp')]")
    assert total == 45
    assert set(in_tmp) == OWN_IN_TMP


def test_a_fork_bomb_stays_in_its_limit_and_ends_whole(attack):
    running = attack(processes=24)
    running.begin(FORK_BOMB)
    wait_until(lambda: running.child.group.usage().processes_refused > 10)
    assert running.child.group.usage().processes <= 24
    ended = running.child.kill()
    assert (ended.signal, ended.processes, ended.lost) == (9, True, False)


def test_a_memory_bomb_ends_at_its_limit(attack):
    running = attack(memory_bytes=192 * MIB)
    running.begin(f"hog = []\nwhile True: hog.append(bytearray({MIB}))")
    ended = running.child.ending(60)
    assert (ended.status, ended.signal, ended.memory) == (None, 9, True)
    assert ended.memory_peak_bytes <= 192 * MIB


def test_memory_that_many_processes_take_counts_together(attack):
    running = attack(memory_bytes=192 * MIB)
    running.begin(
        "import os, time\n"
        f"while os.fork() == 0:\n    hog = bytearray(os.urandom({MIB}) * 32)\n"
        "while True:\n    try:\n        os.wait()\n    except ChildProcessError:\n        os._exit(0)"
    )
    assert running.child.ending(60).memory


def test_what_is_stored_is_bounded(attack):
    running = attack(tmp_bytes=8 * MIB, file_bytes=4 * MIB)
    code = """
def fill(folder):
    for number in range(100):
        with open(f"{folder}/{number}", "wb", buffering=0) as file:
            for _ in range(3):
                file.write(bytes(2**20))
def large():
    with open("/tmp/large", "wb", buffering=0) as file:
        for _ in range(5):
            file.write(bytes(2**20))
answer = [outcome(large), outcome(fill, "/tmp"), outcome(fill, "/dev/shm"), os.statvfs("/tmp").f_files]
"""
    assert running.run(OUTCOME + code) == ["EFBIG", "ENOSPC", "ENOSPC", MAX_FILES]
    assert running.run("answer = 'still here'") == "still here"


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 10_000)",
        "import os\nwhile True: os.write(2, bytes(65536))",
        "import subprocess; subprocess.run(['yes'])",
        "import os\nos.fork() and os._exit(0)\nwhile True: os.write(1, bytes(65536))",
    ],
    ids=["print", "standard error", "another program", "after its own end"],
)
def test_endless_output_ends_at_its_limit(attack, code):
    running = attack(output_bytes=MIB)
    running.begin(code)
    ended = running.child.ending(60)
    assert ended.output or ended.status == 0, "what is left when it ends is ended with it"
    assert len(ended.tail) <= 4096


def test_an_endless_loop_is_ended_from_outside(attack):
    running = attack()
    code = "import signal\nfor n in (2, 14, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    with pytest.raises(TimedOut):
        running.run(code, timeout_s=0.2)
    with pytest.raises(TimeoutError, match="still runs after"):
        running.child.ending(0.01)
    ended = running.child.kill()
    assert (ended.status, ended.signal, ended.lost) == (None, 9, False)


@pytest.mark.parametrize("end", ["os._exit(0)", "while True: pass"], ids=["ends", "killed"])
def test_a_daemon_ends_with_its_child(attack, end):
    running = attack()
    assert len(running.run(DAEMON)) == 2, "the child and its daemon"
    running.begin(end)
    if "exit" in end:
        assert running.child.ending(60).status == 0
    else:
        running.child.kill()


def test_signals_reach_no_one_outside_and_not_init(attack):
    running = attack()
    pids = [1, os.getppid(), os.getpid(), running.child.pid]
    code = f"""
answer = {{f"{{pid}} {{number}}": outcome(os.kill, pid, number) for pid in {pids} for number in (0, 9, 19)}}
outcome(os.kill, -1, 9), outcome(os.killpg, 1, 9)
answer["parent"] = outcome(os.kill, os.getppid(), 9)
"""
    seen = running.run(OUTCOME + code)
    assert seen.pop("parent") == "EPERM"
    assert {outcome for case, outcome in seen.items() if case.startswith("1 ")} == {"EPERM"}
    assert {outcome for case, outcome in seen.items() if not case.startswith("1 ")} == {"ESRCH"}
    assert running.run("answer = os.getppid()") == 1


def test_no_network_but_its_own_loopback(attack):
    host = socket.gethostbyname(socket.gethostname())
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0distlab-children-{os.getpid()}")
        abstract.listen()
        port = server.getsockname()[1]
        code = f"""
def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
inet = [(host, {port}) for host in ("127.0.0.1", {host!r}, "192.0.2.1", "10.0.0.1")]
answer = [outcome(connect, socket.AF_INET, address) for address in inet]
answer += [outcome(connect, socket.AF_UNIX, "\\0distlab-children-{os.getpid()}"),
           outcome(socket.socket, socket.AF_VSOCK), outcome(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
           outcome(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)]
"""
        seen = attack().run(OUTCOME + code)
    own, others, rest = seen[0], seen[1:4], seen[4:]
    assert own == "ECONNREFUSED", "its own loopback, where nobody listens"
    assert set(others) <= {"ENETUNREACH", "ECONNREFUSED"}
    assert rest == ["ECONNREFUSED", "EAFNOSUPPORT", "EAFNOSUPPORT", "EPERM"]


def test_deep_recursion_is_its_own_end(attack):
    running = attack()
    running.begin(
        "import sys; sys.setrecursionlimit(10**9)\n"
        "def down(): return sorted([1, 2], key=lambda x: down())\ndown()"  # through C, on the C stack
    )
    ended = running.child.ending(60)
    assert (ended.signal, ended.lost) == (11, False)


def test_the_memory_of_its_server_and_of_init_cannot_be_read(attack):
    running = attack()
    code = """
def read_memory(pid):
    with open(f"/proc/{pid}/mem", "rb"):
        pass
def read_vm(pid):
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
    here = ctypes.create_string_buffer(8)
    mine, theirs = Vector(ctypes.addressof(here), 8), Vector(id(outcome), 8)
    if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
pids = [1, os.getppid(), *range(3, 40)]
answer = [sorted({outcome(read, pid) for pid in pids}) for read in (read_memory, read_vm)]
answer += [outcome(os.listdir, "/proc/1/fd"), outcome(read_vm, os.getpid()), outcome(os.pidfd_open, 3)]
"""
    memory, vm, descriptors, own, handle = running.run(OUTCOME + code)
    assert memory == ["ENOENT"]
    assert vm == ["EPERM", "ESRCH"], "not init's, and there is nobody else"
    assert (descriptors, own, handle) == ("ENOENT", "ok", "ESRCH")


def test_nothing_secret_is_left_in_the_forked_memory(attack):
    """What one child was sent is in no child that is forked later."""
    canary = f"canary-{os.getpid()}-{time.monotonic_ns()}"
    attack().run(f"secret = {canary!r} * 1000")
    code = f"""
import gc
found = 0
wanted = {canary[:8]!r} + {canary[8:]!r}
for line in open("/proc/self/maps"):
    span, rights = line.split()[:2]
    if rights.startswith("rw") and "[v" not in line:
        start, end = (int(part, 16) for part in span.split("-"))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            found += memory.read(end - start).count(("secret = '" + wanted).encode())
answer = found
"""
    assert attack().run(code) == 0


@pytest.mark.parametrize("call", SYSTEM_CALLS.values(), ids=SYSTEM_CALLS)
def test_a_call_that_only_an_escape_makes_is_a_violation(attack, call):
    if os.uname().machine != "x86_64" and "syscall" in call:
        pytest.skip("system call numbers of x86_64")
    running = attack()
    running.begin(OUTCOME + call)
    ended = running.child.ending(60)
    assert ended.violation, ended


def test_how_it_ended_is_known_to_who_kills_it_at_the_first_sign(attack):
    """Its channel closes a moment before its end is complete."""
    for _ in range(5):
        running = attack()
        running.begin(OUTCOME + SYSTEM_CALLS["mount"])
        with pytest.raises(Closed):
            running.channel.receive(time.monotonic() + 60)
        assert running.child.kill().violation


def test_a_call_in_the_other_dialect_of_the_processor_is_no_way_out(attack):
    """Instructions of 32-bit programs have numbers of their own: 21 is mount there."""
    if os.uname().machine != "x86_64":
        pytest.skip("instructions of x86_64")
    running = attack()
    running.begin(
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b815000000cd80c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
    )
    assert running.child.ending(60).signal in (31, 11), "filtered, or not known to this kernel"


def test_a_descriptor_in_flight_holds_up_nobody(attack):
    """Its standard output, sent and never received, outlives it."""
    running = attack()
    running.begin(
        "import os, socket; s = socket.socket(fileno=3); socket.send_fds(s, [b'x'], [1, 2]); os._exit(5)"
    )
    assert running.child.ending(60).status == 5


def test_a_call_that_libraries_try_is_refused_and_no_violation(attack):
    code = """
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
answer = [outcome(call, number, 0, 0, 0, 0) for number in (425, 298, 323, 250)]
"""
    if os.uname().machine != "x86_64":
        pytest.skip("system call numbers of x86_64")
    assert attack().run(OUTCOME + code) == ["EPERM"] * 4, "io_uring, perf, userfaultfd, keyrings"


def test_nobody_is_told_what_others_read(attack):
    """All sandboxes share the system's files: which of them another opens, or has opened, would be a message."""
    code = """
import fcntl
def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
folder, file = os.open("/usr/bin", os.O_RDONLY), os.open("/usr/bin/env", os.O_RDONLY)
room, number = ctypes.create_string_buffer(4096), {"x86_64": 72, "aarch64": 25}[os.uname().machine]
answer = {
    "inotify": outcome(call, libc.inotify_init1, 0),
    "fanotify": outcome(call, libc.fanotify_init, 0x200, 0),
    "dnotify": outcome(fcntl.fcntl, folder, fcntl.F_NOTIFY, fcntl.DN_ACCESS),
    "lease": outcome(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_RDLCK),
    "a number beside the command": outcome(call, libc.syscall, number, file, ctypes.c_long(2**32 + fcntl.F_NOTIFY), 1),
    "pages in memory": outcome(call, libc.mincore, ctypes.c_void_p(id(libc) & ~4095), 4096, room),
    "pages of a file": outcome(call, libc.syscall, 451, file, room, room, 0),
    "what needs no wait": outcome(os.preadv, file, [bytearray(1)], 0, os.RWF_NOWAIT),
    "the kernel's log": outcome(call, libc.klogctl, 3, room, 4096),
}
with open("/tmp/own", "w") as own:
    answer["locks"] = [outcome(fcntl.flock, own, fcntl.LOCK_EX), outcome(fcntl.lockf, own, fcntl.LOCK_EX)]
"""
    assert attack().run(OUTCOME + code) == {
        **dict.fromkeys(["inotify", "fanotify", "pages in memory", "pages of a file"], "ENOSYS"),
        **dict.fromkeys(["dnotify", "lease", "a number beside the command"], "EINVAL"),
        "what needs no wait": "ENOTSUP",
        "the kernel's log": "EPERM",
        "locks": ["ok", "ok"],
    }


def test_links_and_paths_in_tmp_lead_nowhere(attack, tmp_path):
    (tmp_path / "secret").write_text("secret")
    code = f"""
def follow(target):
    link = "/tmp/link"
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(target, link)
    with open(link):
        pass
targets = ["/etc/shadow", {str(tmp_path / "secret")!r}, "/proc/1/root/etc/shadow", "/proc/self/root/etc/shadow",
           "/proc/1/fd/3", {"../../../../../.." + str(Path.home() / ".bashrc")!r}, "/dev/vda", "/proc/kcore"]
answer = [outcome(follow, target) for target in targets]
answer += [outcome(os.mknod, "/tmp/disk", 0o600 | 0o060000, os.makedev(254, 0)),
           outcome(os.chroot, "/tmp"), outcome(os.link, "/etc/passwd", "/tmp/passwd")]
os.mkdir("/tmp/lab"); os.rmdir("/tmp/lab"); os.symlink("/etc", "/tmp/lab")
"""
    seen = attack().run(OUTCOME + code)
    assert "ok" not in seen
    assert seen[-3:] == ["EPERM", "EPERM", "EXDEV"]


def wait_until(done) -> None:
    """The kernel's counters tell nobody when they change."""
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


SETUID = [f"/usr/bin/{name}" for name in ("su", "passwd", "mount", "chsh")]


def test_setuid_programs_give_no_rights(attack):
    programs = [path for path in SETUID if os.path.exists(path) and os.stat(path).st_mode & stat.S_ISUID]
    if not programs:
        pytest.skip("this machine has no program with a setuid bit")
    code = f"""
import subprocess
def uids(program):
    process = subprocess.Popen([program, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = open(f"/proc/{{process.pid}}/status").read()  # also of one that ended: nobody has waited for it
    process.wait()
    return status.partition("Uid:")[2].split()[:4]
answer = [{{program: uids(program) for program in {programs}}}, outcome(os.setuid, 0), outcome(os.setgroups, [0])]
"""
    running = attack()
    seen, setuid, setgroups = running.run(OUTCOME + code)
    assert seen == {program: [str(running.child.uid)] * 4 for program in programs}
    assert (setuid, setgroups) == ("EPERM", "EPERM")
