"""The kernel's own calls that wall a process in, where Python has none: namespaces, mounts, rights, filter.

All act on the calling process; all raise OSError with the name of the call.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterable

NEW_MOUNTS, NEW_CGROUP, NEW_HOST_NAME = 0x00020000, 0x02000000, 0x04000000
NEW_IPC, NEW_PIDS, NEW_NETWORK = 0x08000000, 0x20000000, 0x40000000

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18

_SET_PARENT_DEATH, _SET_DUMPABLE, _SET_FILTER, _DROP_BOUNDING, _NO_NEW_PRIVS = 1, 4, 22, 24, 38
_FILTER_MODE = 2
_CAPABILITY_VERSION = 0x20080522
_DETACH = 2
_IFF_UP = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def _check(result: int, call: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


def unshare(flags: int) -> None:
    """New namespaces of the kinds `flags` (for `NEW_PIDS`: for the next child alone)."""
    _check(_libc.unshare(flags), "unshare")


def enter(namespace_fd: int, kind: int) -> None:
    """Enter the namespace that the descriptor stands for."""
    _check(_libc.setns(namespace_fd, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    names = [text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*names, flags, options.encode() or None), f"mount {target}")


def mounts_beneath(folder: str) -> list[str]:
    """What is mounted somewhere in `folder`, outer ones first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
            if path.startswith(f"{folder}/"):
                found.append(path)
    return sorted(found, key=lambda path: path.count("/"))


def unmount(target: str) -> None:
    _check(_libc.umount2(target.encode(), _DETACH), f"umount {target}")


def die_with_parent(signal: int) -> None:
    """Get `signal` when the parent ends. A change of user forgets it."""
    _check(_libc.prctl(_SET_PARENT_DEATH, signal, 0, 0, 0), "prctl")


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may trace this one and read its memory; it also owns /proc/self."""
    _check(_libc.prctl(_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl")


def no_new_rights() -> None:
    """No program started from here on gains rights, and none is left to be gained."""
    _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    capability = 0
    while _libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0) == 0:
        capability += 1


def become(uid: int) -> None:
    """Become the user `uid` for good, without any capability."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # The change of user leaves those that programs may inherit, of no use but untidy.
    header, none = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _check(_libc.capset(header, none), "capset")


def apply_filter(program: bytes) -> None:
    """Filter this process's system calls, and its children's, by a compiled BPF program."""

    class Program(ctypes.Structure):
        """The kernel's `struct sock_fprog`."""

        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    wanted = Program(len(program) // 8, program)
    _check(_libc.prctl(_SET_FILTER, _FILTER_MODE, ctypes.addressof(wanted), 0, 0), "seccomp")


def loopback_up() -> None:
    """A new network namespace's only interface is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        _, flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor that is not named."""
    start = 0
    for fd in (*sorted(set(kept)), 2**31 - 1):
        if start < fd:  # an empty range from 0 would close all (CPython 3.11)
            os.closerange(start, fd)
        start = fd + 1


def number_descriptors(fds: Iterable[int]) -> None:
    """Give `fds` the numbers 0, 1, 2, ... in their order, and close every other descriptor.

    The first three are the standard streams, which programs that are started inherit; the others are not.
    """
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1000) for fd in fds]
    for number, fd in enumerate(above):
        os.dup2(fd, number, inheritable=number < 3)
    close_all_but(range(len(above)))
