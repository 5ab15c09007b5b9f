"""What children do in tests: run code that is sent to them, and send back what it left in `answer`.

Mounted into the sandboxes of `children_rig.py`; its roles' functions.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time

from distlab.course.grade.wire import Channel, Closed

LEFT: list = []


def prepare() -> None:
    """Nothing more to import."""


def prepare_a_thread() -> None:
    LEFT.append(threading.Thread(target=time.sleep, args=[600], daemon=True))
    LEFT[0].start()


def prepare_shared_memory() -> None:
    LEFT.append(mmap.mmap(-1, 4096))


def serve(channel: Channel, *others: Channel) -> None:
    space: dict = {"channel": channel, "others": others}
    with contextlib.suppress(Closed):
        while True:
            message, _ = channel.receive(None)
            exec(message["run"], space)
            channel.send({"answer": space.pop("answer", None)})
