"""What children do in tests: run code that is sent to them, and send back what it left in `answer`.

Mounted into the sandboxes of `test_grade_children.py`; the roles' functions there.
"""

from __future__ import annotations


def prepare() -> None:
    """Nothing more to import."""


def serve(channel, *others) -> None:
    while True:
        message, _ = channel.receive(None)
        space = {"channel": channel, "others": others, "answer": None}
        exec(message["run"], space)
        channel.send({"answer": space["answer"]})
