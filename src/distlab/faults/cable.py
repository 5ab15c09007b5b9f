"""Cables in user space, which hold back what is sent: a delay on any kernel with tun, also without netem.

    python -m distlab.faults.cable 5.0 net-0:eth0 net-switch:port0 net-1:eth0 net-switch:port1

makes both ends of each cable (a TAP device in the namespace that is named) and carries packets between them until it is
ended: from the first end to the second 5 ms late, back at once. Packets are as long as TAP devices take, so that their
number stays small: one process carries some Gbit/s. On a busy machine they come later than asked for, by tenths of
milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 65000
FRAME_MOST = 65536
AT_ONCE = 64
"""Packets of one end before the others have their turn."""
QUEUE_MOST = 200_000
"""Packets under way; what comes then is dropped, as by any network."""
READY = "ready"


def missing() -> str | None:
    """Why no such cable can be made here, in a sentence; None where one can."""
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        return f"No delay can be had here: {TUN} cannot be opened ({error.strerror}); load it with `modprobe tun`."
    return None


def end(namespace: str, device: str) -> int:
    """Make one end: a TAP device in a namespace. This process then is in that namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(home, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
    finally:
        os.close(home)
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def carry(cables: Sequence[tuple[int, int]], delay_s: float) -> None:
    """Carry packets between the ends of each cable, for ever."""
    other = dict(cables) | {second: first for first, second in cables}
    firsts = {first for first, _ in cables}
    late: deque[tuple[float, int, bytes]] = deque()  # all are equally late: the first in is the first out
    while True:
        wait_s = max(0.0, late[0][0] - time.monotonic()) if late else None
        ready, _, _ = select.select(list(other), [], [], wait_s)
        for descriptor in ready:
            for _ in range(AT_ONCE):
                try:
                    frame = os.read(descriptor, FRAME_MOST)
                except OSError:  # nothing more, or the end is down
                    break
                if descriptor not in firsts:
                    _put(other[descriptor], frame)
                elif len(late) < QUEUE_MOST:
                    late.append((time.monotonic() + delay_s, other[descriptor], frame))
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, descriptor, frame = late.popleft()
            _put(descriptor, frame)


def _put(descriptor: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # down, or full: lost, as in any network
        os.write(descriptor, frame)


def main(args: Sequence[str]) -> None:
    delay_ms, *names = args
    ends = []
    for name in names:
        namespace, _, device = name.partition(":")
        ends.append(end(namespace, device))
    print(READY, flush=True)
    carry(list(zip(ends[::2], ends[1::2], strict=True)), float(delay_ms) / 1e3)


if __name__ == "__main__":
    main(sys.argv[1:])
