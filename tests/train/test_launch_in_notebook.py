"""`launch` as a learner meets it: functions defined in cells, a real kernel, output and errors in the notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

START_S = 120

SET_UP = """
import threading
import torch.distributed as dist
from distlab.train.launch import launch

def helper():
    raise ValueError("no luck")

def fail():
    if dist.get_rank() == 1:
        helper()
    dist.barrier()

def hello(x):
    print("hello from", dist.get_rank())
    return x + dist.get_rank()

def wait():
    dist.barrier()
    print("all here")
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager = KernelManager()
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=START_S)
    client.execute_interactive(SET_UP, timeout=START_S, output_hook=lambda message: None)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _run(client: BlockingKernelClient, code: str) -> tuple[str, dict[str, Any]]:
    """Everything the cell wrote to its streams, and the kernel's reply."""
    texts: list[str] = []

    def keep(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=START_S, output_hook=keep)
    return "".join(texts), reply["content"]


def test_functions_of_cells_run_and_print(kernel: tuple[KernelManager, BlockingKernelClient]) -> None:
    text, reply = _run(kernel[1], "print(launch(hello, 2, 5))")
    assert reply["status"] == "ok"
    assert sorted(text.splitlines()[:2]) == ["[rank 0] hello from 0", "[rank 1] hello from 1"]
    assert text.splitlines()[2:] == ["[5, 6]"]


def test_an_error_quotes_the_cell_and_nothing_else(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    text, reply = _run(kernel[1], "launch(fail, 2)")
    assert reply["ename"] == "LaunchError"
    assert reply["traceback"][0] == "Rank 1 of 2 failed: ValueError: no luck"
    shown = "\n".join(reply["traceback"])
    assert 'raise ValueError("no luck")' in shown
    assert "site-packages" not in shown
    assert text == ""


def test_an_interrupt_ends_the_ranks_and_the_next_launch_works(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    manager, client = kernel
    client.execute("launch(wait, 2)")
    _wait_for_output(client, "all here")
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=START_S)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert manager.provisioner is not None
    process = psutil.Process(manager.provisioner.pid)  # type: ignore[attr-defined]
    ranks = [child for child in process.children(recursive=True) if child.name().startswith("rank ")]
    assert ranks == []
    text, _ = _run(client, "print(launch(hello, 1, 1))")
    assert text.endswith("[1]\n")


def _wait_for_output(client: BlockingKernelClient, text: str) -> None:
    while True:
        message = client.get_iopub_msg(timeout=START_S)
        if message["msg_type"] == "stream" and text in message["content"]["text"]:
            return
