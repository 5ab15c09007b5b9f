"""What children do in tests: run code that is sent to them, and send back what it left in `answer`.

Mounted into the sandboxes of `children_rig.py`; its roles' functions.
"""

from __future__ import annotations

import contextlib

from distlab.course.grade.wire import Channel, Closed

MAX_BLOB_BYTES = 2**20


def prepare() -> None:
    """Nothing more to import."""


def serve(channel: Channel, *others: Channel) -> None:
    space: dict = {"channel": channel, "others": others}
    with contextlib.suppress(Closed):
        while True:
            message, _ = channel.receive(None)
            exec(message["run"], space)
            channel.send({"answer": space.pop("answer", None)})
