"""The learner's session: cells as in a notebook, values and calls by request, limits kept."""

import base64
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distlab.course.grade import remote
from distlab.course.grade.remote import Learner, Ran, RemoteError, Stopped
from distlab.course.grade.wire import Channel, Closed
from distlab.course.grade.work import Verdict
from tests.course import forks_rig

PNG = b"\x89PNG\r\n\x1a\n"
LIMIT_S = 120.0
"""More than any cell here needs on a slow machine."""
SHORT_S = 0.1


@contextlib.contextmanager
def learner(folder: Path) -> Iterator[Learner]:
    with forks_rig.session(folder) as channel:
        yield Learner(channel, time.monotonic() + 1000)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    """One notebook for all tests that leave it as they found it."""
    with learner(tmp_path_factory.mktemp("work")) as found:
        yield found


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Learner]:
    with learner(tmp_path) as found:
        yield found


def shown(learner: Learner, source: str, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    ran = learner.run(source, True, limit_s)
    assert isinstance(ran.outputs, list)
    return ran.outputs


def run(learner: Learner, source: str, limit_s: float = LIMIT_S) -> Ran:
    return learner.run(source, False, limit_s)


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def test_what_a_cell_prints_is_there_in_order(shared: Learner) -> None:
    outputs = shown(
        shared,
        "import sys\nprint('a'); print('b')\nprint('c', file=sys.stderr)\nprint('d', end='')\ndisplay('e')\n'f'",
    )
    count = outputs[-1].pop("execution_count")
    assert isinstance(count, int)
    assert outputs == [
        stream("a\nb\n"),
        stream("c\n", "stderr"),
        stream("d"),
        {"output_type": "display_data", "data": {"text/plain": "'e'"}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": "'f'"}, "metadata": {}},
    ]


def test_execution_counts_go_on_by_one(fresh: Learner) -> None:
    assert [run(fresh, source).execution_count for source in ("1", "1/0", "x = 1", "")] == [1, 2, 3, 3]


def test_the_value_of_the_last_expression(shared: Learner) -> None:
    assert shown(shared, "3;") == []
    assert shown(shared, "None") == []
    [output] = shown(shared, "[1, 2]\n{'a': 1}")
    assert output["data"] == {"text/plain": "{'a': 1}"}
    [output] = shown(shared, "_['a']")
    assert output["data"] == {"text/plain": "1"}


def test_an_error_is_shown_without_terminal_sequences(shared: Learner) -> None:
    ran = shared.run(
        "def f():\n    raise ValueError('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07x')\nf()", True, LIMIT_S
    )
    assert (ran.ok, ran.interrupted) == (False, False)
    [output] = ran.outputs
    assert (output["ename"], output["evalue"]) == ("ValueError", "red x")
    assert "----> 3 f()" in output["traceback"]
    assert "\x1b" not in "".join(output["traceback"])
    assert os.path.dirname(forks_rig.__file__) not in "".join(output["traceback"])


def test_a_deep_recursion_is_shown_by_its_ends(shared: Learner) -> None:
    [output] = shown(shared, "def deeper(n):\n    deeper(n + 1)\ndeeper(0)")
    text = "\n".join(output["traceback"])
    assert output["ename"] == "RecursionError"
    assert "----> 3 deeper(0)" in text
    assert len(text) < 10_000
    assert run(shared, "deeper(0)").outputs == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def (:", "SyntaxError"),
        ("x = = 1", "SyntaxError"),
        ("if True:\npass", "IndentationError"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "E"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import sys; sys.exit()", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise BaseException", "BaseException"),
        ("raise ExceptionGroup('g', [ValueError()])", "ExceptionGroup"),
        ("def f(): f()\nf()", "RecursionError"),
        ("%no_magic", "UsageError"),
        ("input()", "EOFError"),
        ("class B:\n    def __repr__(self): raise ValueError\nB()", "ValueError"),
    ],
)
def test_after_any_error_the_notebook_goes_on(shared: Learner, source: str, name: str) -> None:
    outputs = shown(shared, source)
    errors = [output["ename"] for output in outputs if output["output_type"] == "error"]
    said = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert name in errors or name in said
    assert shown(shared, "print(1)") == [stream("1\n")]


def test_a_cell_that_says_exit_ends_the_process(fresh: Learner) -> None:
    assert run(fresh, "exit()").ok
    with pytest.raises(Stopped, match="process ended") as ended:
        run(fresh, "1")
    assert ended.value.verdict == Verdict.ERROR
    assert ended.value.lost


@pytest.mark.parametrize(
    "source", ["import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)", "quit()\n1"]
)
def test_a_process_that_ends_itself(fresh: Learner, source: str) -> None:
    with contextlib.suppress(Stopped):
        run(fresh, source)
    with pytest.raises(Stopped, match="process ended"):
        run(fresh, "1")


def test_magics_and_shell_commands(shared: Learner) -> None:
    assert "Wall time" in shown(shared, "%time 1")[0]["text"]
    assert shown(shared, "%%capture x\nprint('hidden')") == []
    assert shown(shared, "x.stdout")[0]["data"]["text/plain"] == r"'hidden\n'"
    assert "hi" in shown(shared, "!echo hi")[0]["text"]
    assert shown(shared, "%matplotlib inline") == []
    assert shown(shared, "get_ipython() is not None")[0]["data"]["text/plain"] == "True"


def test_top_level_await(shared: Learner) -> None:
    [output] = shown(shared, "import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 5)")
    assert output["data"]["text/plain"] == "5"


def test_figures_are_shown_where_they_are_drawn(shared: Learner) -> None:
    outputs = shown(
        shared,
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show(); print('between')\nfig, ax = plt.subplots()",
    )
    assert [output["output_type"] for output in outputs] == ["display_data", "stream", "display_data"]
    for output in (outputs[0], outputs[2]):
        assert base64.b64decode(output["data"]["image/png"]).startswith(PNG)
    [output] = shown(shared, "fig")
    assert output["output_type"] == "execute_result"
    assert base64.b64decode(output["data"]["image/png"]).startswith(PNG)


def test_a_run_that_nobody_sees_draws_nothing(shared: Learner) -> None:
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('x')\ndisplay('y')\n1/0"
    ran = run(shared, source)
    assert ran.outputs == []
    assert not ran.ok
    source = "from matplotlib.figure import Figure\nFigure.print_png = None\nplt.plot([1]);"
    assert run(shared, source).ok


def test_displays_can_be_updated_and_cleared(shared: Learner) -> None:
    source = "h = display('a', display_id=True)\nprint('x')\nh.update('b')"
    outputs = shown(shared, source)
    assert [output.get("data", {}).get("text/plain") for output in outputs] == ["'b'", None]
    clear = "from IPython.display import clear_output\nprint('a')\nclear_output({})\n{}"
    assert shown(shared, clear.format("", "print('b')")) == [stream("b\n")]
    assert shown(shared, clear.format("wait=True", "print('b')")) == [stream("b\n")]
    assert shown(shared, clear.format("wait=True", "")) == [stream("a\n")]


def test_only_text_and_pixels_are_kept(shared: Learner) -> None:
    source = "class C:\n    def _repr_html_(self): return '<b>'\n    def __repr__(self): return 'c'\nC()"
    assert shown(shared, source)[0]["data"] == {"text/plain": "c"}
    source = (
        "from IPython.display import publish_display_data as p\n"
        "p({'text/html': '<b>'}); p({'text/plain': 3, 'image/png': 3})\n"
        "p({'image/svg+xml': '<svg>', 'text/plain': 's'})"
    )
    assert [output["data"] for output in shown(shared, source)] == [{"text/plain": "s"}]


def test_outputs_are_bounded_and_the_rest_goes_to_the_descriptor(fresh: Learner) -> None:
    source = (
        "import os, sys\n"
        "fd = os.open('over', os.O_CREAT | os.O_RDWR)\nkept = os.dup(1); os.dup2(fd, 1)\n"
        "for i in range(1000): print('x' * 999)\n"
        "display('y' * 10)\n'z' * 10"
    )
    outputs = shown(fresh, source)
    assert sum(len(str(output)) for output in outputs) < 210_000
    assert run(fresh, "os.dup2(kept, 1); size = os.path.getsize('over')").ok
    assert sum(len(output.get("text", "")) for output in outputs) + fresh.get("size") == 1_000_000
    outputs = shown(fresh, "for i in range(1000): display(i)")
    assert len(outputs) == 200
    picture = "from IPython.display import Image\nfor i in range(9): display(Image(data=b'\\x89PNG' + bytes(2**20)))"
    assert 3 < sum("image/png" in output["data"] for output in shown(fresh, picture)) < 9
    outputs = shown(fresh, "raise ValueError('x' * 10**7)")
    assert len(str(outputs)) < 300_000


def test_a_cell_over_its_time_is_interrupted_and_the_notebook_goes_on(shared: Learner) -> None:
    for source in (
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "while True:\n    try: time.sleep(1000)\n    except Exception: pass",
        "try: time.sleep(1000)\nexcept KeyboardInterrupt: pass",
        "import subprocess\nsubprocess.run(['sleep', '1000'])",
        "import asyncio\nawait asyncio.sleep(1000)",
    ):
        ran = shared.run("print('begun')\n" + source, True, SHORT_S)
        assert ran.interrupted, source
        assert shown(shared, "print(1)") == [stream("1\n")]
    ran = shared.run("while True: pass", True, 10 * SHORT_S)
    assert ran.outputs[0]["ename"] == "KeyboardInterrupt"
    assert "longer than it may" in ran.outputs[0]["evalue"]


def test_a_call_over_its_time_is_interrupted_and_the_notebook_goes_on(shared: Learner) -> None:
    assert run(shared, "def slow(x=0):\n    while True: x += 1").ok
    slow, deadline = shared.get("slow"), shared.deadline
    shared.deadline = time.monotonic() + SHORT_S
    with pytest.raises(Stopped, match="too long") as over:
        slow()
    shared.deadline = deadline
    assert over.value.verdict == Verdict.TIMEOUT
    assert not over.value.lost
    assert shown(shared, "1")[0]["data"]["text/plain"] == "1"


def test_code_that_lets_no_alarm_through_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GRACE_S", 0.2)
    with forks_rig.session(tmp_path) as channel:
        found = Learner(channel, time.monotonic() + 1000)
        found.files({}, LIMIT_S)
        block = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\nwhile True: pass"
        with pytest.raises(Stopped, match="too long") as stopped:
            run(found, block, SHORT_S)
        assert stopped.value.lost


def test_functions_of_the_notebook_run_on_ranks(shared: Learner) -> None:
    """Where functions travel by value: `__main__` is the notebook."""
    source = (
        "import torch.distributed as dist\nfrom distlab.train.launch import launch\n"
        "SCALE = 10\nclass Got:\n    def __init__(self, x): self.x = x\n"
        "def on_rank(y):\n    print('rank', dist.get_rank())\n    return Got(SCALE * dist.get_rank() + y).x\n"
        "launch(on_rank, 2, 1)"
    )
    ran = shared.run(source, True, LIMIT_S)
    assert ran.ok, ran.outputs
    assert ran.outputs[-1]["data"]["text/plain"] == "[1, 11]"
    assert sorted(ran.outputs[0]["text"].splitlines()) == ["[rank 0] rank 0", "[rank 1] rank 1"]


def test_classes_of_the_notebook_pickle_and_its_module_is_main(shared: Learner) -> None:
    assert run(
        shared, "import pickle, sys\nclass P: pass\nassert type(pickle.loads(pickle.dumps(P()))) is P"
    ).ok
    assert run(shared, "assert sys.modules['__main__'].P is P and __name__ == '__main__'").ok
    assert run(
        shared, "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: 'int'\nassert D(1).x == 1"
    ).ok


def test_processes_that_the_notebook_forks(shared: Learner) -> None:
    source = (
        "import multiprocessing as mp\ndef put(q): print('child'); q.put(5)\n"
        "q = mp.get_context('fork').Queue(); p = mp.get_context('fork').Process(target=put, args=(q,)); p.start()\n"
        "got = q.get(); p.join(); got"
    )
    assert shown(shared, source)[-1]["data"]["text/plain"] == "5"
    # A child that comes back from the cell is no second notebook.
    assert run(shared, "import os\nchild = os.fork()").ok
    assert run(shared, "os.waitpid(child, 0)[1]").ok
    assert shown(shared, "print(1)") == [stream("1\n")]


def test_each_notebook_draws_its_own_numbers(shared: Learner, fresh: Learner) -> None:
    draw = (
        "import numpy as np, random\n(random.random(), np.random.random(), np.random.default_rng().random())"
    )
    texts = [shown(one, draw)[-1]["data"]["text/plain"].strip("()").split(", ") for one in (shared, fresh)]
    assert all(ours != theirs for ours, theirs in zip(*texts, strict=True))


def test_files_lie_beside_the_notebook(fresh: Learner, tmp_path: Path) -> None:
    encoded = base64.b64encode(b"value = 41\n").decode()
    fresh.files({"helper.py": encoded, "data/x.txt": encoded}, LIMIT_S)
    assert (tmp_path / "data" / "x.txt").read_bytes() == b"value = 41\n"
    assert shown(fresh, "import helper\nhelper.value")[0]["data"]["text/plain"] == "41"
    assert shown(fresh, "open('data/x.txt').read()")[0]["data"]["text/plain"] == r"'value = 41\n'"


def test_what_is_printed_between_cells_is_not_the_next_cells(shared: Learner) -> None:
    """A hidden test's argument, printed by the function that it calls, must not be shown by a later cell."""
    source = (
        "seen = []\ndef tell(x):\n    print('secret', x)\n    display(x)\n    seen.append(x)\n    return x"
    )
    assert run(shared, source).ok
    assert shared.get("tell")(77) == 77
    assert shown(shared, "print('later')") == [stream("later\n")]


def test_no_program_that_a_cell_starts_gets_the_channel(shared: Learner) -> None:
    source = "import os\nos.system('ls -l /proc/self/fd > fds.txt')\nfds = open('fds.txt').read()"
    assert run(shared, source).ok
    assert "socket:" not in shared.get("fds")


def test_requests_that_make_no_sense_are_refused(fresh: Learner) -> None:
    assert run(fresh, "x = object()").ok
    channel = fresh._channel
    for request in (
        {},
        {"op": "eval"},
        {"op": "call", "call": 3, "limit_s": 1},
        {"op": "call", "call": {"tuple": [{"handle": 999}, {"tuple": []}, {"dict": []}]}, "limit_s": 1},
    ):
        channel.send({**request, "id": 5})
        answer, _ = channel.receive(time.monotonic() + 60)
        assert answer == {"refused": True, "id": 5}


def test_the_session_ends_with_its_channel(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Channel(ours) as channel, forks_rig.forked("session", theirs, work=tmp_path):
        found = Learner(channel, time.monotonic() + 100)
        assert run(found, "import os\nfd = os.open('fifo', os.O_RDWR)").ok
        with fifo.open("rb") as reader:
            channel.close()
            assert reader.read() == b""  # once the last that could write is gone


def test_the_names_of_an_exception_are_the_builtin_ones(shared: Learner) -> None:
    source = "class E(KeyError):\n    pass\ndef raises(): raise E('secret')\nV = type('ValueError', (Exception,), {})\n"
    assert run(shared, source + "def forged(): raise V()").ok
    with pytest.raises(KeyError) as caught:
        shared.get("raises")()
    assert isinstance(caught.value, RemoteError)
    with pytest.raises(RemoteError) as forged:
        shared.get("forged")()
    assert not isinstance(forged.value, ValueError)


def test_a_closed_channel_is_an_error_of_the_wire(tmp_path: Path) -> None:
    with forks_rig.session(tmp_path) as channel:
        channel.send(
            {"op": "run", "id": 1, "source": "import os\nos._exit(1)", "show": False, "limit_s": 5.0}
        )
        with pytest.raises(Closed):
            channel.receive(time.monotonic() + 60)
