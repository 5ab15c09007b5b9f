"""The system calls that no sandbox may make, as a BPF program compiled by libseccomp.

A deny-list, on purpose short: what opens kernel surface that no lab needs, or reaches what namespaces do
not separate (the keyrings, the sockets between a virtual machine and its host, who reads which file of those that
all sandboxes share). New user namespaces are
refused here, because bubblewrap can forbid them only where it made one itself. Where code is graded, calls
that only an escape would make end the process (SIGSYS). libseccomp belongs to the base of Debian and Ubuntu
(apt depends on it).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Protocol

LIBRARY = "libseccomp.so.2"

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
KILL_PROCESS = 0x80000000
EQUAL = 4
GREATER = 6
MASKED_EQUAL = 7
CLONE_NEWUSER = 0x10000000
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, CLONE_NEWUSER, 0x20000000, 0x40000000)
"""The flags of mount, cgroup, uts, ipc, user, pid and network namespaces."""

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""The only sockets there are: AF_VSOCK leads past the network namespace, to the machine's hypervisor and to
whatever on the machine listens for it, and the rest is kernel surface."""

REFUSED = (
    # Keyrings are one per user id, and sandboxes of a normal user share it.
    "add_key", "keyctl", "request_key",
    # Kernel surface with a history of escalations, that libraries try and do without.
    "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register",
    # The kernel's log is of all: it has the name, which is free text, of each process that crashed.
    "syslog",
)  # fmt: skip

ABSENT = (
    # Tell of each look at a file, whoever's. `tail -f` looks itself, where there is none.
    "inotify_init", "inotify_init1", "fanotify_init",
    # Tell which pages of a file are in memory: what others have read.
    "mincore", "cachestat",
)  # fmt: skip
"""Refused as by a kernel that does not have them (ENOSYS), for which libraries are prepared."""

NUMBERS = {"cachestat": 451}
"""Of calls that libseccomp 2.5 does not know; they have one number on all processors."""

INT = 0xFFFFFFFF
F_SETLEASE, F_NOTIFY = 1024, 1026
"""Commands of fcntl by which a process is told of others' access to a file or folder."""
RWF_NOWAIT = 0x8
"""A flag of preadv2: read only what is in memory, which is to tell what is."""

ESCAPES = (
    "bpf", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "open_by_handle_at",
    # Namespaces and mounts: nothing inside may rearrange them.
    "setns", "mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig",
    "mount_setattr",
)  # fmt: skip
"""What no library calls: refused to learners' servers, the end of a process that is graded."""


class _Compare(ctypes.Structure):
    """libseccomp's `struct scmp_arg_cmp`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Answer(Protocol):
    """Adds a rule: calls of `name` whose arguments meet all conditions come to `action`."""

    def __call__(self, action: int, name: str, *conditions: _Compare) -> None: ...


def program_fd(grading: bool = False) -> int:
    """A new descriptor on the compiled filter, read from its start, for `bwrap --seccomp`.

    For `grading`, attempts to escape or to trace another process are the end of the process (SIGSYS).
    Raises OSError where libseccomp is missing or refuses a rule.
    """
    library = _library()
    context = library.seccomp_init(ALLOW)
    if not context:
        raise OSError("libseccomp could not start a filter")

    def answer(action: int, name: str, *conditions: _Compare) -> None:
        number = NUMBERS.get(name) or library.seccomp_syscall_resolve_name(name.encode())
        array = (_Compare * len(conditions))(*conditions)
        code = library.seccomp_rule_add_array(context, action, number, len(conditions), array)
        if code:
            raise OSError(-code, f"libseccomp refused the rule for {name}")

    try:
        _refusals(answer)
        _sockets(answer)
        _escapes(answer, grading)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    """libseccomp, with the types of what is called of it that are not `int`."""
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare),
    ]  # fmt: skip
    return library


def _refusals(answer: Answer) -> None:
    """Rules for calls that fail with an error that libraries know."""
    for name in REFUSED:
        answer(ERRNO | errno.EPERM, name)
    for name in ABSENT:
        answer(ERRNO | errno.ENOSYS, name)
    for command in (F_SETLEASE, F_NOTIFY):
        # The kernel takes the lower half of the argument: a number in the upper one is no way around.
        answer(ERRNO | errno.EINVAL, "fcntl", _Compare(1, MASKED_EQUAL, INT, command))
    no_wait = _Compare(5, MASKED_EQUAL, RWF_NOWAIT, RWF_NOWAIT)
    answer(ERRNO | errno.EOPNOTSUPP, "preadv2", no_wait)
    # clone3 keeps its flags in memory, where a filter cannot look: with ENOSYS glibc falls back to clone.
    answer(ERRNO | errno.ENOSYS, "clone3")


def _sockets(answer: Answer) -> None:
    """Rules that leave sockets of `FAMILIES` alone."""
    refused = ERRNO | errno.EAFNOSUPPORT
    for family in set(range(max(FAMILIES))).difference(FAMILIES):
        answer(refused, "socket", _Compare(0, EQUAL, family))
    answer(refused, "socket", _Compare(0, GREATER, max(FAMILIES)))


def _escapes(answer: Answer, grading: bool) -> None:
    """Rules for what only an escape would call: refused to a learner's server, the end of what is graded."""
    action = KILL_PROCESS if grading else ERRNO | errno.EPERM
    for name in ESCAPES:
        answer(action, name)
    for name in ("clone", "unshare"):
        for flag in NAMESPACES if grading else (CLONE_NEWUSER,):
            answer(action, name, _Compare(0, MASKED_EQUAL, flag, flag))
    if grading:
        # Every request but PTRACE_TRACEME (0) is about another process.
        answer(action, "ptrace", _Compare(0, GREATER, 0))


def _exported(library: ctypes.CDLL, context: int) -> int:
    """A new descriptor on the filter as a BPF program, at its start."""
    descriptor = os.memfd_create("seccomp")
    code = library.seccomp_export_bpf(context, descriptor)
    if code:
        os.close(descriptor)
        raise OSError(-code, "libseccomp could not export the filter")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
