"""Run inside a sandbox: tries to get out, and prints what it reached as JSON.

`python sandbox_probe.py PLAN`, the plan being JSON: host paths, ports, sockets and process ids to try.
Standard library alone, so that any Python can run it.
"""

import ctypes
import json
import os
import signal
import socket
import sys

PLAN = json.loads(sys.argv[1])
CLONE_NEWUSER = 0x10000000


def outcome(attempt) -> str:
    """`"ok"`, or the name of the system's error."""
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "ok"


def read(path: str):
    return lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)


def write(path: str):
    return lambda: open(path, "w").write("x")


def connect(family: int, address) -> object:
    def attempt() -> None:
        with socket.socket(family) as client:
            client.settimeout(5)
            client.connect(address)

    return attempt


def system_call(number: int, *arguments: int):
    def attempt() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "")

    return attempt


def open_socket(family: int):
    def attempt() -> None:
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except OSError:
            socket.socket(family, socket.SOCK_DGRAM).close()

    return attempt


def lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()


STATUS = dict(line.split(":\t", 1) for line in lines("/proc/self/status") if ":\t" in line)
print(
    json.dumps(
        {
            "read": {path: outcome(read(path)) for path in PLAN.get("read", [])},
            "write": {path: outcome(write(path)) for path in PLAN.get("write", [])},
            "tcp": {str(a): outcome(connect(socket.AF_INET, tuple(a))) for a in PLAN.get("tcp", [])},
            "unix": {a: outcome(connect(socket.AF_UNIX, a.replace("@", "\0"))) for a in PLAN.get("unix", [])},
            "signal": {str(pid): outcome(lambda pid=pid: os.kill(pid, 0)) for pid in PLAN.get("signal", [])},
            "mounted": [line.split()[3] for line in lines("/proc/self/mountinfo")],
            "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
            "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
            "capabilities": {name: int(STATUS[name], 16) for name in STATUS if name.startswith("Cap")},
            "no_new_privs": STATUS["NoNewPrivs"],
            "seccomp": STATUS["Seccomp"],
            "descriptors": sorted(os.listdir("/proc/self/fd")),
            "environment": dict(os.environ),
            "families": [family for family in range(64) if outcome(open_socket(family)) == "ok"],
            "interfaces": [name for _, name in socket.if_nameindex()],
            "unix_sockets": [line.split()[-1] for line in lines("/proc/net/unix")[1:]],
            "unshare": outcome(lambda: system_call(PLAN["unshare"], CLONE_NEWUSER)()),
            "keyctl": outcome(lambda: system_call(PLAN["keyctl"], 0, -3, 0)()),
            "new_session_tty": outcome(read("/dev/tty")),
            "kill_all": outcome(lambda: os.kill(-1, signal.SIGCONT)),
        }
    )
)
