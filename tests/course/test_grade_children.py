"""Children of the fork server: what they see, what works in them, how their end is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distlab.course import cgroup
from distlab.course.grade.children import Children, SandboxFailed
from distlab.course.grade.warm import NOBODYS_UID, UIDS
from distlab.course.grade.wire import Closed
from distlab.course.grade.work import Limits
from distlab.course.processes import ProcessId
from distlab.course.sandbox import Mount
from tests.course.children_rig import MIB, OWN_IN_TMP, Running, is_gone, probing, processes_of

WORK = """
import math, multiprocessing, os, numpy, torch
from multiprocessing import shared_memory
from distlab.train.launch import launch

torch.set_num_threads(2)
x = torch.ones(300, 300, requires_grad=True)
(x @ x).sum().backward()
gradient = x.grad[0, 0].item()
product = (numpy.ones((600, 600)) @ numpy.ones((600, 600)))[0, 0]

with multiprocessing.get_context("spawn").Pool(2) as pool:
    factorials = pool.map(math.factorial, [3, 4])
with multiprocessing.get_context("fork").Pool(2) as pool:
    roots = pool.map(math.isqrt, [9, 16])
block = shared_memory.SharedMemory(create=True, size=2**20)
block.close(), block.unlink()

def reduce_ranks():
    import torch.distributed as dist
    value = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(value)
    return value.item()

answer = {"gradient": gradient, "product": product, "factorials": factorials, "roots": roots,
          "reduced": launch(reduce_ranks, 2), "threads": torch.get_num_threads()}
"""

BENEATH = """
import os
def refused(path):
    try:
        open(path, "w")
    except OSError:
        return True
answer = [open("/tmp/deep/folder/file").read(), open("/tmp/deep/alone").read(),
          refused("/tmp/deep/folder/new"), refused("/tmp/deep/alone"), refused("/tmp/deep/new"), os.listdir("/tmp")]
"""

RAY = """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
square = ray.remote(lambda x: x * x)
answer = ray.get([square.remote(x) for x in range(4)])
ray.shutdown()
"""

LOOK = """
import getpass, os, pwd, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
         if os.path.lexists(f"/proc/self/fd/{fd}")}
def outcome(path):
    try:
        with open(path, "w"):
            return "written"
    except OSError as error:
        return type(error).__name__
answer = {
    "ids": sorted({*os.getresuid(), *os.getresgid(), *os.getgroups()}),
    "user": [getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name],
    "capabilities": [status[name].strip() for name in status if name.startswith("Cap")],
    "no_new_privs": status["NoNewPrivs"].strip(),
    "filtered": status["Seccomp"].strip(),
    "threads": status["Threads"].strip(),
    "descriptors": {fd: link.partition(":")[0] for fd, link in links.items()},
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "root": sorted(os.listdir("/")),
    "cwd": os.getcwd(),
    "environment": sorted(os.environ),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "written": {path: outcome(path) for path in PATHS},
    "scale": os.environ["DISTLAB_SCALE"],
    "groups": open("/proc/self/cgroup").read(),
    "arguments": __import__("sys").argv,
}
"""


@pytest.fixture(scope="module")
def children():
    with probing() as made:
        yield made


def test_a_child_has_what_it_needs_and_no_more(children):
    package = Path(cgroup.__file__).parent
    places = ["/", "/etc", "/run", "/dev", "/usr", "/proc/sys/kernel", str(package), "/opt/probe"]
    paths = [f"{place}/probe" for place in places]
    with Running(children) as running:
        seen = running.run(f"PATHS = {[*paths, '/tmp/x', '/dev/shm/x', '/etc/passwd']}\n{LOOK}")
        uid = running.child.uid
        assert os.stat(f"/proc/{running.child.pid}").st_uid != uid, "init is another user's"
    assert seen["ids"] == [uid]
    assert NOBODYS_UID < uid <= NOBODYS_UID + UIDS
    assert seen["user"] == ["grader", "grader"]
    assert set(seen["capabilities"]) == {"0" * 16}
    assert (seen["no_new_privs"], seen["filtered"], seen["threads"]) == ("1", "2", "1")
    assert seen["descriptors"] == {"0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket"}
    assert seen["processes"] == [2], "not even its own init"
    assert seen["cwd"] == "/tmp"
    assert seen["interfaces"] == ["lo"]
    assert seen["scale"] == "grading"
    assert seen["arguments"] == [""]
    assert "grade" not in seen["groups"], "nor the names of control groups"
    assert not {"solutions", "tests", "book", "root", "home", "var"} & set(seen["root"]) - {"root"}
    written = {path for path, outcome in seen["written"].items() if outcome == "written"}
    assert written == {"/tmp/x", "/dev/shm/x"}
    assert "TOKEN" not in " ".join(seen["environment"])


@pytest.mark.parametrize(
    ("code", "status", "signal"),
    [
        ("raise SystemExit(0)", 0, None),
        ("raise SystemExit(3)", 3, None),
        ("1 / 0", 1, None),
        ("import os; os._exit(7)", 7, None),
        ("import ctypes; ctypes.string_at(0)", None, 11),
        ("import os; os.abort()", None, 6),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, 9),
    ],
)
def test_its_own_end_is_told(children, code, status, signal):
    with Running(children) as running:
        running.begin(code)
        ended = running.child.ending(60)
        assert (ended.status, ended.signal) == (status, signal)
        assert {ended.memory, ended.output, ended.processes, ended.lost, ended.violation} == {False}
        assert is_gone(running.child)
        assert running.child.kill() == ended, "killed after its end, it has still ended so"
    assert (b"ZeroDivisionError" in ended.tail) == (code == "1 / 0")


def test_a_child_whose_channel_is_closed_returns(children):
    with Running(children) as running:
        running.channel.close()
        assert running.child.ending(60).status == 0


def test_a_child_counts_the_cores_of_its_quota(children):
    code = "import os, torch; answer = [len(os.sched_getaffinity(0)), torch.get_num_threads()]"
    with Running(children, cpus=0.5) as one, Running(children, cpus=1) as other:
        assert one.run(code) == other.run(code) == [1, 1]
        cores = len(os.sched_getaffinity(0))
        assert len({*one.child.cores, *other.child.cores}) == min(2, cores), "not both on the same"
    with Running(children, cpus=1000) as running:
        assert running.run(code)[0] == cores


def test_what_labs_do_works_in_a_child(children):
    with Running(children) as running:
        done = running.run(WORK, timeout_s=120)
    assert done == {
        "gradient": 600.0,
        "product": 600.0,
        "factorials": [6, 24],
        "roots": [3, 4],
        "reduced": [3.0, 3.0],
        "threads": 2,
    }
    assert is_gone(running.child)


def test_a_small_ray_cluster_runs_a_task_in_a_child(children):
    pytest.importorskip("ray")
    with Running(children) as running:
        assert running.run(RAY, timeout_s=120) == [0, 1, 4, 9]
    assert is_gone(running.child)


def test_two_children_know_nothing_of_each_other(children):
    with Running(children) as one, Running(children) as other:
        assert one.child.uid != other.child.uid
        one.run(
            "import os, socket; open('/tmp/mine', 'w'); open('/dev/shm/mine', 'w')\n"
            "server = socket.create_server(('127.0.0.1', 29511))\n"
            "unix = socket.socket(socket.AF_UNIX); unix.bind('\\0mine'); unix.listen()"
        )
        seen = other.run(
            "import os, socket\n"
            "server = socket.create_server(('127.0.0.1', 29511)); server.close()\n"
            "def reached(address):\n"
            "    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET\n"
            "    return socket.socket(family).connect_ex(address) == 0\n"
            "answer = [os.listdir('/tmp'), os.listdir('/dev/shm'), reached(('127.0.0.1', 29511)),\n"
            "          reached('\\0mine'), [n for n in os.listdir('/proc') if n.isdigit()]]"
        )
        assert set(seen.pop(0)) == OWN_IN_TMP
        assert seen == [[], False, False, ["2"]]
        outside = [one.child.pid, *processes_of(one.child.uid), os.getpid()]
        signalled = other.run(
            "import os\n"
            "def outcome(pid):\n"
            "    try:\n"
            "        os.kill(pid, 0)\n"
            "    except OSError as error:\n"
            "        return type(error).__name__\n"
            f"answer = [outcome(pid) for pid in {outside}]"
        )
        assert set(signalled) == {"ProcessLookupError"}
        other.child.kill()
        assert one.run("answer = 1") == 1


def test_what_a_child_reads_leaves_no_time_behind(children):
    """Folders that all children have: without a write to them, too, a first look would note its time."""
    code = """
import os
folders = ["/", "/dev", "/etc", "/usr", "/run"]
before = [os.stat(folder).st_atime_ns for folder in folders]
for folder in folders:
    os.listdir(folder)
answer = [before == [os.stat(folder).st_atime_ns for folder in folders], before]
"""
    with Running(children) as one, Running(children) as other:
        first, second = one.run(code), other.run(code)
    assert first == second
    assert first[0]


def test_two_children_talk_over_a_socket_of_their_own(children):
    left, right = socket.socketpair()
    with Running(children, left) as one, Running(children, right) as other:
        one.run("others[0].send({'number': 42})")
        assert other.run("answer = others[0].receive()[0]['number']") == 42
        one.child.kill()
        assert other.run("try: others[0].receive()\nexcept Closed as e: answer = str(e)".replace(
            "Closed", "Exception")) == "the other side is gone"  # fmt: skip


def test_many_threads_get_children_at_once(children):
    answers = []

    def work(number: int) -> None:
        for _ in range(3):
            with Running(children) as running:
                answers.append(running.run(f"answer = {number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted([0, 1, 2, 3] * 3)


def test_nothing_of_a_child_stays_with_its_maker(children):
    with Running(children) as running:
        running.run("answer = 1")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Running(children) as running:
            running.run("answer = 1")
        assert is_gone(running.child)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_limit_on_processor_time_ends_it(children):
    with Running(children, cpu_s=0.5) as running:
        running.begin("while True: pass")
        assert running.child.ending(60).processor


def test_when_the_server_dies_its_children_are_lost_and_the_next_has_a_new_one():
    with probing() as children:
        with Running(children) as running:
            running.run("import os; os.fork() or __import__('time').sleep(600)")
            server = children._server
            server.process.kill()
            with pytest.raises(Closed):
                running.channel.receive(time.monotonic() + 60)
            ended = running.child.kill()
            assert (ended.status, ended.signal, ended.lost) == (None, 9, True)
            assert is_gone(running.child)
        with Running(children) as running:
            assert running.run("answer = 1") == 1
        assert children._server is not server


def test_a_server_that_cannot_start_says_why():
    with (
        Children({}, "no_such_module:prepare") as children,
        pytest.raises(
            SandboxFailed,
            match=r"^the fork server did not start: .*No module named 'no_such_module'; try again, .*`distlab doctor`$",
        ),
    ):
        children.start("probe", Limits())


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        ("prepare_a_thread", "must have one thread, and has 2"),
        ("prepare_shared_memory", "memory that all its children would share"),
    ],
)
def test_a_server_that_children_would_not_be_safe_from_is_refused(prepare, reason):
    with probing(prepare) as children, pytest.raises(SandboxFailed, match=reason):
        children.start("probe", Limits())


MAKER = """
import sys
from tests.course.children_rig import Running, probing
children = probing().__enter__()
running = Running(children)
running.run("import os, time; os.fork() or time.sleep(600); answer = 1")
print(running.child.pid, running.child.uid, flush=True)
sys.stdin.read()
"""


def test_when_their_maker_is_killed_all_end(children):
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    pid, uid = map(int, maker.stdout.readline().split())
    init = ProcessId.of(pid)
    maker.kill()
    maker.communicate()
    assert init.wait(60)
    assert not processes_of(uid)
    with Children({}, "child_probe:prepare"):
        own = cgroup.own_groups()["memory"] if "memory" in cgroup.own_groups() else Path("/sys/fs/cgroup")
        assert not list(own.glob(f"distlab-grade-*-{maker.pid}-*")), "swept by the next"


NORMAL_USER = """
import os, sys
from pathlib import Path
from distlab.course import cgroup
from tests.course.children_rig import Running, probing

cgroup.own_groups = lambda: dict(zip(cgroup.CONTROLLERS, map(Path, sys.argv[1:])))
assert os.geteuid() == 1000
with probing() as children, Running(children) as running:
    print(running.run("import os; answer = [os.getuid(), len(os.listdir('/proc/self/fd'))]"))
    running.begin("import ctypes; ctypes.CDLL(None).unshare(0x10000000)")
    print(running.child.ending(60).violation)
"""


def test_a_normal_user_gets_children_too():
    """In a user namespace root is one, with root's files; and with a control group that is its own."""
    groups = cgroup.own_groups()
    if os.geteuid() != 0 or not set(cgroup.CONTROLLERS) <= set(groups):
        pytest.skip("needs root, and cgroup v1, to become a normal user with groups of its own")
    folders = [groups[name] / f"distlab-normal-{os.getpid()}" for name in cgroup.CONTROLLERS]
    for folder in folders:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    try:
        user = ["bwrap", "--unshare-user", "--uid", "1000", "--gid", "1000", "--dev-bind", "/", "/", "--"]
        done = subprocess.run(
            [*user, sys.executable, "-c", NORMAL_USER, *map(str, folders)],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=Path(__file__).parents[2],
            check=False,
        )
    finally:
        for folder in folders:
            folder.rmdir()
    assert done.stdout.splitlines() == ["[1000, 5]", "True"], done.stderr


def test_started_cold_a_child_is_the_same():
    with probing(warm=False) as children:
        with Running(children, tmp_bytes=32 * MIB) as running:
            seen = running.run(f"PATHS = ['/etc/passwd', '/opt/probe/x', '/tmp/x', '/dev/shm/x']\n{LOOK}")
            assert seen["ids"] == [running.child.uid]
            assert set(seen["capabilities"]) == {"0" * 16}
            assert seen["descriptors"] == {"0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket"}
            assert seen["interfaces"] == ["lo"]
            written = {path for path, outcome in seen["written"].items() if outcome == "written"}
            assert written == {"/tmp/x", "/dev/shm/x"}
            assert seen["user"] == ["grader", "grader"]
            daemon = "import os; os.fork() or os.setsid() and __import__('time').sleep(600)"
            running.begin(f"{daemon}\nos._exit(7)")
            assert running.child.ending(60).status == 7
            assert is_gone(running.child)
        with Running(children) as running:
            running.begin("import ctypes; ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None)")
            assert running.child.ending(60).violation


def test_groups_of_a_killed_maker_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "own_groups", lambda: {"memory": tmp_path})
    for name in ("distlab-grade-1-x", "distlab-grade-2-x", "distlab-other", "distlab-grade-3-full/inner"):
        (tmp_path / name).mkdir(parents=True)
    cgroup.sweep("grade-", lambda rest: rest.startswith("1-"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["distlab-grade-1-x", "distlab-grade-3-full", "distlab-other"]


def test_an_environment_below_tmp_is_there_for_children_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder/file", "alone"):
        (tmp_path / name).write_text(name)
    mounts = tuple(Mount(str(tmp_path / name), f"/tmp/deep/{name}") for name in ("folder", "alone"))
    with probing(mounts=mounts) as children, Running(children) as running:
        *answers, in_tmp = running.run(BENEATH)
    assert answers == ["folder/file", "alone", True, True, True]
    assert set(in_tmp) == {"deep", *OWN_IN_TMP}
