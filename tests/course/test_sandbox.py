"""From inside a real sandbox: what can be reached, and what cannot."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from distlab.course import sandbox as sandbox_module
from distlab.course.homes import FIRST_UID
from distlab.course.processes import ProcessId
from distlab.course.sandbox import (
    MIB,
    Mount,
    Problem,
    Sandbox,
    base_env,
    python_mounts,
    sandbox_problem,
)

PROBE = Path(__file__).with_name("sandbox_probe.py").read_text()
SYSTEM_CALLS = {
    "x86_64": {"unshare": 272, "keyctl": 250},
    "aarch64": {"unshare": 97, "keyctl": 219},
}
UID = os.geteuid() or FIRST_UID + 1


@pytest.fixture(autouse=True)
def _possible():
    problem = sandbox_problem()
    if problem:
        pytest.skip(f"no sandbox can be made here: {problem.what}")


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "homes/alice"
    folder.mkdir(parents=True, mode=0o700)
    os.chown(folder, UID, UID)
    return folder


@contextmanager
def started(argv, home: Path | None = None, **fields):
    """A sandbox as learners have it, running `argv`; it is gone afterwards."""
    mounts = (*python_mounts(), *([Mount(str(home), "/home/alice", writable=True)] if home else []))
    arguments = {
        "user": "alice",
        "uid": UID,
        "env": base_env("alice", "/home/alice" if home else "/tmp"),
        "cwd": "/home/alice" if home else "/",
        **fields,
        "mounts": (*mounts, *fields.get("mounts", ())),
    }
    process = Sandbox(argv=tuple(argv), **arguments).popen(
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run_python(
    code: str, *arguments: str, timeout: float = 120, **fields
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", code, *arguments]
    with started(argv, **fields) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def probe(plan: dict, **fields) -> dict:
    plan = {**SYSTEM_CALLS[platform.machine()], **plan}
    result = run_python(PROBE, json.dumps(plan), **fields)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def listen(family: int, address) -> socket.socket:
    server = socket.socket(family)
    server.bind(address)
    server.listen()
    return server


def test_files_of_the_site_and_of_others_are_not_there(home, tmp_path):
    secrets = {
        name: tmp_path / name
        for name in (
            "homes/bob/answer-canary",
            "course/gradebook.db",
            "hub/jupyterhub.sqlite",
            "hub/cookie_secret",
            "secrets/proxy-token",
        )
    }
    for path in secrets.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    (home / "mine").write_text("mine")
    os.chown(home / "mine", UID, UID)
    repository = Path(__file__).parents[2]
    hidden = [repository / name for name in ("solutions", "tests", "var", ".git", "pyproject.toml")]
    hidden += [Path.home() / ".bashrc", Path("/etc/shadow"), Path("/var/lib"), tmp_path]
    paths = [str(path) for path in (*secrets.values(), *hidden)]

    seen = probe({"read": [*paths, "/home/alice/mine"]}, home=home)

    assert seen["read"].pop("/home/alice/mine") == "ok"
    assert set(seen["read"].values()) == {"FileNotFoundError"}
    # Nor under another name: what is mounted holds none of them. (`/` is the root of a file system made new.)
    for mounted in set(seen["mounted"]) - {"/"}:
        assert not any(Path(path).is_relative_to(mounted) for path in paths), mounted


def test_only_home_and_temporary_folders_can_be_written(home):
    package = Path(sandbox_module.__file__).parent
    places = ["/", "/etc", "/usr", "/run", "/home", "/proc/sys/kernel", "/sys/devices/system/cpu"]
    places += [sys.prefix, str(package), str(package.parents[1]), str(package.parents[2] / "recordings")]
    writable = ["/home/alice", "/tmp", "/dev/shm"]
    seen = probe({"write": [f"{place}/probe" for place in places + writable]}, home=home)["write"]
    assert {place: seen[f"{place}/probe"] for place in writable} == dict.fromkeys(writable, "ok")
    assert "ok" not in [seen[f"{place}/probe"] for place in places]
    assert (home / "probe").stat().st_uid == UID


def test_the_program_has_no_rights(home, monkeypatch):
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "secret")
    leaked = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        seen = probe({}, home=home, env={"HOME": "/home/alice", "TOKEN": "own"})
    finally:
        os.close(leaked)
    assert set(seen["ids"]) == {UID}
    assert set(seen["capabilities"].values()) == {0}
    assert (seen["no_new_privs"], seen["seccomp"]) == ("1", "2")
    assert seen["unshare"] == seen["keyctl"] == "PermissionError"
    # Standard streams, and the one that lists the folder.
    assert seen["descriptors"] == ["0", "1", "2", "3"]
    assert {name: seen["environment"].get(name) for name in ("TOKEN", "CONFIGPROXY_AUTH_TOKEN")} == {
        "TOKEN": "own",
        "CONFIGPROXY_AUTH_TOKEN": None,
    }
    assert seen["new_session_tty"] != "ok"


def test_no_port_and_no_socket_of_the_host_can_be_reached(home, tmp_path):
    shared = Path(tempfile.mkdtemp(dir="/tmp"))
    host_address = socket.gethostbyname(socket.gethostname())
    servers = [
        listen(socket.AF_INET, ("127.0.0.1", 0)),
        listen(socket.AF_INET, ("0.0.0.0", 0)),
        listen(socket.AF_UNIX, str(shared / "mounted.sock")),
        listen(socket.AF_UNIX, f"/tmp/distlab-test-{os.getpid()}.sock"),
        listen(socket.AF_UNIX, f"\0distlab-test-{os.getpid()}"),
    ]
    try:
        os.chmod(shared, 0o711)
        os.chmod(shared / "mounted.sock", 0o666)
        loopback, everywhere = (server.getsockname()[1] for server in servers[:2])
        tcp = [("127.0.0.1", loopback), ("127.0.0.1", everywhere), (host_address, everywhere)]
        unix = [f"/tmp/distlab-test-{os.getpid()}.sock", f"@distlab-test-{os.getpid()}"]
        for address in tcp:
            socket.create_connection(address).close()
        mount = Mount(str(shared), "/run/distlab")
        seen = probe({"tcp": tcp, "unix": [*unix, "/run/distlab/mounted.sock"]}, home=home, mounts=(mount,))
    finally:
        for server in servers:
            server.close()
        os.unlink(f"/tmp/distlab-test-{os.getpid()}.sock")
        shutil.rmtree(shared)
    assert seen["unix"].pop("/run/distlab/mounted.sock") == "ok"
    assert "ok" not in seen["tcp"].values()
    assert "ok" not in seen["unix"].values()
    assert seen["interfaces"] == ["lo"]
    assert not any("distlab-test" in name for name in seen["unix_sockets"])


def test_sockets_that_no_network_namespace_holds_back_cannot_be_opened():
    """AF_VSOCK leads to the hypervisor of a virtual machine, whatever the namespace."""
    kinds = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    assert {socket.AF_UNIX, socket.AF_INET} <= set(probe({})["families"]) <= kinds


def test_an_inherited_listener_gives_no_way_into_the_hosts_network(tmp_path):
    """The learner's server gets a listening Unix socket of the host's: it must stay one."""
    abstract = listen(socket.AF_UNIX, f"\0distlab-test-{os.getpid()}")
    inherited = listen(socket.AF_UNIX, str(tmp_path / "server.sock"))
    code = """
import socket, sys
given = socket.socket(fileno=int(sys.argv[1]))
for prepare in (lambda: None, lambda: given.shutdown(socket.SHUT_RDWR), lambda: given.listen(0)):
    for target in ("\\0" + sys.argv[2], "\\0"):
        try:
            prepare()
            given.connect(target)
        except OSError as error:
            print(type(error).__name__)
        else:
            print("connected")
"""
    fd = inherited.fileno()
    try:
        result = run_python(code, str(fd), f"distlab-test-{os.getpid()}", inherited_fds=(fd,))
    finally:
        abstract.close()
        inherited.close()
    assert len(result.stdout.split()) == 6, result
    assert "connected" not in result.stdout


def test_two_sandboxes_share_neither_loopback_nor_processes():
    serve = """
import socket, sys
server = socket.create_server(("127.0.0.1", 29500))
print("ready", flush=True)
sys.stdin.readline()
print("still here")
"""
    with started([sys.executable, "-c", serve]) as other:
        assert other.stdout.readline() == "ready\n"
        host_pids = [other.pid, *child_pids(other.pid)]
        assert len(host_pids) >= 3
        seen = probe({"tcp": [("127.0.0.1", 29500)], "signal": host_pids})
        assert seen["tcp"] == {"['127.0.0.1', 29500]": "ConnectionRefusedError"}
        # Its own few processes have small numbers; none of the other's is among them.
        assert max(seen["pids"]) < min(host_pids)
        assert set(seen["signal"].values()) == {"ProcessLookupError"}
        run_python("import os, signal; os.fork(); os.kill(-1, signal.SIGKILL)")
        # The other one could bind the same port, and nothing stopped it.
        assert other.poll() is None
        assert other.communicate("\n", timeout=60)[0] == "still here\n"


def child_pids(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in children for found in (int(child), *child_pids(int(child)))]


def test_options_and_tokens_are_not_in_the_process_list():
    with started(["/bin/sleep", "600"], env={"JUPYTERHUB_API_TOKEN": "tok-canary"}) as process:
        for pid in (process.pid, *child_pids(process.pid)):
            assert b"tok-canary" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_it_dies_with_whoever_started_it(tmp_path):
    starter = f"""
import subprocess, time
from distlab.course.sandbox import Sandbox
Sandbox(argv=("/bin/sh", "-c", "sleep 601 & echo ready; exec sleep 602"), user="alice", uid={UID}).popen()
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    inside = [ProcessId.of(pid) for pid in child_pids(parent.pid)]
    assert len(inside) >= 3
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert all(process.wait(30) for process in inside if process)


def test_one_that_never_begins_is_killed(tmp_path, monkeypatch):
    hangs = tmp_path / "bwrap"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(sandbox_module, "_program", lambda name: str(hangs))
    monkeypatch.setattr(sandbox_module, "BEGIN_S", 0.2)
    assert Sandbox(argv=("/bin/true",), user="alice", uid=FIRST_UID).popen().wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 15, 20, 30])
def test_it_dies_with_a_parent_killed_at_any_moment_of_the_start(delay_ms):
    starter = f"""
from distlab.course.sandbox import Sandbox
sandbox = Sandbox(argv=("/bin/sleep", "600"), user="alice", uid={UID})
print("starting", flush=True)
sandbox.popen().wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "starting\n"
    time.sleep(delay_ms / 1000)  # where in the start the signal falls, not a wait for anything
    parent.kill()
    # The end of the pipe comes when the last process that holds it is gone.
    assert parent.communicate(timeout=30)[0] == ""


def test_temporary_folders_are_bounded():
    code = """
for folder in ("/tmp", "/dev/shm"):
    try:
        with open(folder + "/big", "wb") as file:
            for _ in range(16):
                file.write(bytes(2**20))
        print("stored")
    except OSError as error:
        print(error.strerror)
"""
    result = run_python(code, tmp_bytes=8 * MIB, shm_bytes=32 * MIB)
    assert result.stdout.splitlines() == ["No space left on device", "stored"]


def test_two_gloo_ranks_reduce_inside(home):
    (home / "ranks.py").write_text(
        "import os, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "x = torch.tensor([dist.get_rank() + 1.0])\n"
        "dist.all_reduce(x)\n"
        # One write: torchrun runs ranks unbuffered, and both share a pipe.
        "os.write(1, f'sum {x.item()} of {dist.get_world_size()}\\n'.encode())\n"
        "dist.destroy_process_group()\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "ranks.py",
    ]
    os.chmod(home / "ranks.py", 0o644)
    with started(command, home=home) as process:
        out, err = process.communicate(timeout=120)
    assert sorted(out.splitlines()) == ["sum 3.0 of 2"] * 2, err


def test_a_small_ray_cluster_runs_a_task_inside(home):
    pytest.importorskip("ray")
    code = """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
square = ray.remote(lambda x: x * x)
print("squares", ray.get([square.remote(x) for x in range(4)]))
ray.shutdown()
"""
    result = run_python(code, home=home)
    assert "squares [0, 1, 4, 9]" in result.stdout, result.stderr


def test_a_normal_user_gets_the_same_walls(tmp_path_factory):
    """As root, started by a user without rights, with the system's Python: a user namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("the other tests ran as a normal user already")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.copytree(Path(sandbox_module.__file__).parents[1], folder / "distlab")
        (folder / "start.py").write_text(
            "import json, os, subprocess, sys\n"
            "from distlab.course.sandbox import Sandbox, sandbox_problem\n"
            "problem = sandbox_problem()\n"
            "if problem:\n"
            "    sys.exit(f'no sandbox: {problem}')\n"
            "argv = ('/usr/bin/python3', '-c', *sys.argv[1:])\n"
            "sys.exit(Sandbox(argv=argv, user='alice', uid=os.geteuid()).popen().wait())\n"
        )
        (folder / "secret").write_text("secret")
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        server = listen(socket.AF_INET, ("127.0.0.1", 0))
        plan = {
            **SYSTEM_CALLS[platform.machine()],
            "read": [str(folder / "secret"), "/etc/shadow", "/root"],
            "write": ["/probe", "/etc/probe", "/usr/probe", "/tmp/probe"],
            "tcp": [server.getsockname()],
            "signal": [os.getpid()],
        }
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3"]
        result = subprocess.run(
            [*command, folder / "start.py", PROBE, json.dumps(plan)],
            env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        server.close()
    finally:
        shutil.rmtree(folder)
    if "no sandbox" in result.stderr:
        pytest.skip(f"normal users can make no sandbox here: {result.stderr}")
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert set(seen["read"].values()) == {"FileNotFoundError"}
    assert [seen["write"][path] for path in plan["write"]][:3].count("ok") == 0
    assert seen["write"]["/tmp/probe"] == "ok"
    assert list(seen["tcp"].values()) == ["ConnectionRefusedError"]
    assert list(seen["signal"].values()) == ["ProcessLookupError"]
    assert set(seen["ids"]) == {65534}
    assert set(seen["capabilities"].values()) == {0}
    assert seen["unshare"] == seen["keyctl"] == "PermissionError"


def test_a_python_in_someones_home_brings_no_more_than_itself(tmp_path, monkeypatch):
    """`--prefix=$HOME` installs: the rest of that home must not come along."""
    for name in ("bin/python3", "lib/python3.11/os.py", ".ssh/id_ed25519", "notes/diary"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python3"))
    package = Path(sandbox_module.__file__).parents[1]
    assert {mount.target for mount in python_mounts()} == {
        f"{tmp_path}/bin",
        f"{tmp_path}/lib",
        str(package),
        str(package.parents[1] / "recordings"),
    }


def test_recordings_are_mounted_only_where_a_repository_has_them(tmp_path, monkeypatch):
    package = tmp_path / "src/distlab"
    package.mkdir(parents=True)
    (tmp_path / "solutions").mkdir()
    monkeypatch.setattr(sandbox_module.distlab, "__file__", str(package / "__init__.py"))

    def mounted() -> set[Mount]:
        return {mount for mount in python_mounts() if mount.target.startswith(f"{tmp_path}/")}

    assert mounted() == {Mount(str(package), str(package))}
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    assert mounted() == {Mount(str(package), str(package)), Mount(str(recordings), str(recordings))}


def test_recordings_of_gpu_machines_can_be_read_and_not_written(home):
    code = """
from distlab.record.recordings import recorded_tier, recordings_folder
folder = recordings_folder()
assert "recorded tier" in recorded_tier()
print((folder / "README.md").read_text())
print(sorted(path.name for path in folder.parent.iterdir()))
(folder / "probe").touch()
"""
    result = run_python(code, home=home)
    repository = Path(sandbox_module.__file__).parents[3]
    readme, beside = result.stdout.rstrip().rsplit("\n", 1)
    assert readme.rstrip() == (repository / "recordings/README.md").read_text().rstrip()
    own = [name for name in (".venv",) if Path(sys.prefix) == repository / name]
    assert beside == str([*own, "recordings", "src"]), "and nothing else of the repository"
    assert "Read-only file system" in result.stderr


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    def missing(name: str) -> str:
        raise FileNotFoundError(f"the program {name} is not installed in /usr/bin or /bin")

    monkeypatch.setattr(sandbox_module, "_program", missing)
    assert sandbox_problem() == Problem(
        "the program bwrap is not installed in /usr/bin or /bin", "sudo apt-get install -y bubblewrap"
    )


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_parser -r"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces="),
    ],
)
def test_refused_user_namespaces_are_explained(tmp_path, setting, value, fix):
    (tmp_path / setting).parent.mkdir()
    (tmp_path / setting).write_text(value + "\n")
    assert fix in sandbox_module.userns_fix(tmp_path)
