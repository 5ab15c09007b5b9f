"""Limits hold: against real control groups where this machine has writable ones, else on recorded texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distlab.course import cgroup
from distlab.course.cgroup import Limits, LimitsUnavailable, SystemdGroup, Usage, V1Group, V2Group
from distlab.course.processes import ProcessId
from tests.course.children_rig import processor_ticks

MIB = 2**20

V1_MOUNTS = """\
33 32 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 32 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 32 0:32 /docker/abc /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


@pytest.fixture
def group(request):
    """A real group of the kind that works here, gone after the test."""
    try:
        made = cgroup.create(f"test-{request.node.name}", Limits(128 * MIB, 0.5, 32))
    except LimitsUnavailable as error:
        pytest.skip(f"no writable control group: {error}")
    yield made
    made.kill()
    made.remove()


def run_in(group, code: str, **arguments) -> subprocess.CompletedProcess[str]:
    command = group.enter([sys.executable, "-c", code])
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **arguments)


def test_own_groups_are_found_below_their_mounts():
    own = {"memory": "/a/b", "cpu": "/", "cpuacct": "/", "pids": "/docker/abc/c", "": "/"}
    assert cgroup.find_groups(V1_MOUNTS, own) == {
        "memory": Path("/sys/fs/cgroup/memory/a/b"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "pids": Path("/sys/fs/cgroup/pids/c"),
        "": Path("/sys/fs/cgroup/unified"),
    }


def test_a_group_outside_what_is_mounted_is_not_used():
    assert "pids" not in cgroup.find_groups(V1_MOUNTS, {"pids": "/docker/other"})


def test_a_memory_hog_dies_and_a_modest_program_does_not(group):
    hog = run_in(group, f"b = bytearray({256 * MIB}); print('survived')")
    assert hog.returncode == -9
    assert "survived" not in hog.stdout
    modest = run_in(group, f"b = bytearray({32 * MIB}); print('survived')")
    assert (modest.returncode, modest.stdout) == (0, "survived\n")
    assert 32 * MIB < group.usage().memory_peak_bytes <= 128 * MIB


def test_a_fork_bomb_is_bounded_and_killed_whole(group):
    bomb = """
import os, sys, time
made = 0
for _ in range(200):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except BlockingIOError:
        break
    made += 1
print(made, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(group.enter([sys.executable, "-c", bomb]), stdout=subprocess.PIPE, text=True)
    assert int(process.stdout.readline()) == 31
    assert group.usage().processes == 32
    me = ProcessId.of(process.pid)
    group.kill()
    process.communicate(timeout=30)
    assert process.returncode == -9
    assert not me.alive()
    assert group.processes() == []


def test_a_running_process_is_added(group):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    group.add(process.pid)
    assert group.processes() == [process.pid]
    assert group.usage().processes == 1
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert (group.processes(), group.usage().memory_kills) == ([], 0)


BUSY = """
import os, signal, sys, threading, time
# What SIGSTOP would not hold: a thread, a child of its own, and a timer that sends SIGCONT.
import ctypes
libc = ctypes.CDLL(None)
event = (ctypes.c_int * 16)(0, 0, int(signal.SIGCONT), 0)  # SIGEV_SIGNAL
timer = ctypes.c_void_p()
assert libc.timer_create(1, ctypes.byref(event), ctypes.byref(timer)) == 0
assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 1_000_000, 0, 1_000_000), None) == 0
os.fork()
threading.Thread(target=lambda: [sum(range(1000)) for _ in iter(int, 1)], daemon=True).start()
os.write(1, b"busy\\n")  # whole, beside the other's
while True:
    sum(range(1000))
"""


def test_what_is_frozen_does_nothing_until_it_goes_on(group):
    command = group.enter([sys.executable, "-c", BUSY])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["busy\n"] * 2
        try:
            group.freeze(True)
        except OSError as error:
            group.kill()
            pytest.skip(f"no freezer: {error}")
        frozen = processor_ticks(group)
        assert len(frozen) == 2
        sum(range(20_000_000))  # 20 ticks and more of this process, and thousands of the timer
        assert processor_ticks(group) == frozen
        group.freeze(False)
        while processor_ticks(group) == frozen:
            pass
        group.freeze(True)
        group.kill()
        assert process.wait(timeout=30) == -9
    assert group.processes() == []


def test_processes_killed_or_refused_at_a_limit_are_counted(group):
    run_in(group, f"b = bytearray({256 * MIB})")
    assert group.usage().memory_kills == 1
    run_in(
        group,
        "import threading, time\nfor _ in range(40): threading.Thread(target=time.sleep, args=[1]).start()",
    )
    assert group.usage().processes_refused >= 1


def test_the_cpu_quota_is_what_the_kernel_holds(group):
    if not isinstance(group, V1Group):
        pytest.skip("reads cgroup v1's files")
    folder = Path(group.cpu)
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    assert quota / period == 0.5
    assert int((folder / "cpu.shares").read_text()) == 122


def test_another_process_can_load_kill_and_remove_a_group(group):
    command = group.enter(["/bin/sh", "-c", "echo inside; exec sleep 600"])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "inside\n"
    assert process.pid in group.processes()
    again = cgroup.load(group.to_dict())
    again.kill()
    process.communicate(timeout=30)
    assert process.returncode == -9
    again.remove()
    again.remove()
    if isinstance(group, V1Group):
        assert not any(
            Path(path).exists() for path in (group.memory, group.cpu, group.pids, group.freezer) if path
        )


def test_v1_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(cgroup, "own_groups", lambda: {"memory": Path("/nowhere")})
    with pytest.raises(LimitsUnavailable, match="no cgroup v1 tree for cpu, pids"):
        V1Group.create("x", Limits(MIB, 1, 1))


def test_v2_files_are_written_in_a_fake_tree(tmp_path):
    """A fake tree: this shows what is written, not that a kernel obeys it."""
    group = V2Group.create_in(tmp_path, "alice", Limits(512 * MIB, 1.5, 64))
    folder = tmp_path / "distlab-alice"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (folder / "memory.max").read_text() == str(512 * MIB)
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert (folder / "cpu.weight").read_text() == "12"
    assert (folder / "pids.max").read_text() == "64"
    assert group.enter(["/bin/true"])[-2:] == [f"{folder}/cgroup.procs", "/bin/true"]
    assert cgroup.load(group.to_dict()) == group
    for frozen in (True, False):
        (folder / "cgroup.events").write_text(f"populated 1\nfrozen {int(frozen)}\n")
        group.freeze(frozen)
        assert (folder / "cgroup.freeze").read_text() == str(int(frozen))


def test_v2_counts_what_died_of_memory_where_the_kernel_keeps_no_peak(tmp_path):
    """As before Linux 5.19, in a fake tree."""
    for name, text in {
        "memory.current": "4096\n",
        "memory.events": "low 0\noom 1\noom_kill 1\n",
        "pids.current": "2\n",
        "pids.events": "max 0\n",
    }.items():
        (tmp_path / name).write_text(text)
    group = V2Group(str(tmp_path))
    assert group.usage() == Usage(4096, 0, 2, 1, 0)
    (tmp_path / "memory.peak").write_text("8192\n")
    assert group.usage().memory_peak_bytes == 8192


@pytest.mark.parametrize(("user", "manager"), [(True, "--user"), (False, "--system")])
def test_the_systemd_scope_carries_every_limit(user, manager):
    """The command line alone, as a machine may have no systemd: not that one obeys it."""
    group = SystemdGroup("distlab-alice.scope", user, 512 * MIB, 1.5, 64)
    command = group.enter(["/bin/true", "x"])
    assert command[:3] == ["systemd-run", manager, "--scope"]
    assert command[-3:] == ["--", "/bin/true", "x"]
    assert {
        f"--property=MemoryMax={512 * MIB}",
        "--property=MemorySwapMax=0",
        "--property=CPUQuota=150%",
        "--property=CPUWeight=12",
        "--property=TasksMax=64",
        "--unit=distlab-alice.scope",
    } <= set(command)


def test_the_systemd_scope_of_a_running_process_carries_every_limit():
    command = SystemdGroup("distlab-alice.scope", True, 512 * MIB, 1.5, 64, 100).add_command(4711)
    assert command[:3] == ["busctl", "--user", "call"]
    at = command.index("StartTransientUnit")
    signature, unit, mode, count, *words = command[at + 1 :]
    assert (signature, unit, mode, words.pop()) == ("ssa(sv)a(sa(sv))", "distlab-alice.scope", "fail", "0")
    assert words[:4] == ["PIDs", "au", "1", "4711"]
    limits = {tuple(words[i : i + 3]) for i in range(4, len(words), 3)}
    assert len(limits) == int(count) - 1
    assert {
        ("MemoryMax", "t", str(512 * MIB)),
        ("MemorySwapMax", "t", "0"),
        ("CPUQuotaPerSecUSec", "t", "1500000"),
        ("CPUWeight", "t", "100"),
        ("TasksMax", "t", "64"),
    } <= limits


def test_delegated_controllers_are_read_from_the_users_manager(tmp_path):
    folder = tmp_path / "user.slice/user-1000.slice/user@1000.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("memory pids\n")
    assert cgroup._delegated_controllers(tmp_path, 1000) == ["memory", "pids"]
    assert cgroup._delegated_controllers(tmp_path, 1001) == []
