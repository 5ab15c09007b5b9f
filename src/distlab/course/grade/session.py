"""The learner's side of grading: runs the notebook's cells, and calls what they define, as it is asked to.

    prepare()              # once, before the fork: imports, and the shell
    serve(channel)         # in the sandbox: until the channel is closed, or a cell says exit()
    serve_shown(channel)   # the same, where outputs are shown

Code runs as in a notebook: in an IPython shell whose namespace is `__main__`, with magics, `display`, top-level
`await`, inline figures. What it prints through Python is a cell's output; where outputs are shown, so is what goes
to descriptors 1 and 2 past Python, from C code and from processes that it starts. All else of that, and what
exceeds MAX_TEXT, stays on those descriptors, so that whoever reads them counts it.

Everything here runs in the learner's own process and can be changed by the learner: the other side
(`remote.py`) believes none of it. No test, score or token ever gets here.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import base64
import builtins
import contextlib
import ctypes
import importlib
import io
import itertools
import operator
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from distlab.course.grade import plain
from distlab.course.grade.descriptors import Caught, write_all
from distlab.course.grade.wire import Channel, Closed, Malformed, TooLarge
from distlab.train import warm

WORK = Path("/tmp/lab")
"""Where the notebook runs, beside its own files."""
MAX_OUTPUTS = 200
MAX_TEXT = 200_000
"""Characters of all text kept of one cell."""
MAX_IMAGES = 8 * 2**20
"""Characters of all encoded images kept of one cell."""
MAX_FRAMES = 40
"""Of a traceback."""
TEXT, IMAGES = "text/plain", ("image/png", "image/jpeg")
INLINE = "module://matplotlib_inline.backend_inline"
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)?", re.DOTALL)
"""Terminal sequences: colours, cursor movements, titles."""

_libc = ctypes.CDLL(None)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "iter": iter,
    "next": next,
    "len": len,
    "getitem": operator.getitem,
    "contains": operator.contains,
    "getattr": getattr,
}
"""What can be done with an object, apart from calling it."""


class OutOfTime(KeyboardInterrupt):
    """The time of a cell or call is over. Not an Exception: `except Exception` in a loop must not swallow it."""


class _Outputs:
    """What the running cell has shown, in order, as nbformat has it; nothing while `show` is off."""

    def __init__(self) -> None:
        self.caught: Caught | None = None
        self.begin(show=False)

    def begin(self, show: bool) -> None:
        self.show = show
        self.items: list[dict[str, Any]] = []
        self.text_left = MAX_TEXT
        self.images_left = MAX_IMAGES
        self.clear_at_next = False
        self.displays: dict[str, dict[str, Any]] = {}
        """Outputs that can be updated, by display id."""
        if self.caught:
            self.caught.begin(MAX_TEXT if show else 0)

    def catch_up(self) -> None:
        """What was written past Python up to now comes before what Python shows next."""
        for name, text in self.caught.take() if self.caught else ():
            self.stream(name, text)

    def clear(self, wait: bool) -> None:
        self.catch_up()
        if wait:
            self.clear_at_next = True
        else:
            self.items.clear()

    def stream(self, name: str, text: str) -> None:
        kept = text[: self.text_left] if self.show else ""
        over = text[len(kept) :]
        self.text_left -= len(kept)
        if over:
            past = self.caught.past if self.caught else {"stdout": 1, "stderr": 2}
            write_all(past[name], over.encode("utf-8", "replace"))
        if not kept:
            return
        last = None if self.clear_at_next or not self.items else self.items[-1]
        if last and last["output_type"] == "stream" and last["name"] == name:
            last["text"].append(kept)
        else:
            self.add({"output_type": "stream", "name": name, "text": [kept]})

    def data(self, kind: str, data: dict[str, Any], **more: Any) -> None:
        self.catch_up()
        kept = self.bundle(data)
        if kept:
            self.add({"output_type": kind, "data": kept, "metadata": {}, **more})

    def display(self, data: dict[str, Any], display_id: str | None, update: bool) -> None:
        if update:
            if display_id in self.displays:
                self.displays[display_id]["data"] = self.bundle(data)
            return
        before = len(self.items)
        self.data("display_data", data)
        if display_id is not None and len(self.items) > before:
            self.displays[display_id] = self.items[-1]

    def bundle(self, data: dict[str, Any]) -> dict[str, Any]:
        """What is kept of an object's forms: text and pixels."""
        kept: dict[str, Any] = {}
        for mime in IMAGES:
            if isinstance(image := data.get(mime), bytes):
                image = base64.b64encode(image).decode()
            if isinstance(image, str) and len(image) <= self.images_left:
                self.images_left -= len(image)
                kept[mime] = image
        if isinstance(data.get(TEXT), str):
            kept[TEXT] = self.take(data[TEXT])
        return kept

    def error(self, name: str, value: str, traceback: list[str]) -> None:
        self.catch_up()
        lines = [self.take(ESCAPES.sub("", line)) for line in traceback[:100]]
        self.add(
            {
                "output_type": "error",
                "ename": ESCAPES.sub("", name)[:200],
                "evalue": ESCAPES.sub("", value)[:2000],
                "traceback": lines,
            }
        )

    def take(self, text: str) -> str:
        kept = text[: self.text_left]
        self.text_left -= len(kept)
        return kept

    def add(self, output: dict[str, Any]) -> None:
        if self.clear_at_next:
            self.items.clear()
            self.clear_at_next = False
        if self.show and len(self.items) < MAX_OUTPUTS:
            self.items.append(output)

    def finished(self) -> list[dict[str, Any]]:
        if self.caught:
            _libc.fflush(None)  # what C code has printed is still with the C library
            self.catch_up()
        return [
            {**item, "text": "".join(item["text"])} if item["output_type"] == "stream" else item
            for item in self.items
        ]


class _Stream(io.TextIOBase):
    """sys.stdout or sys.stderr of the notebook."""

    encoding = "UTF-8"
    errors = "strict"

    def __init__(self, name: str, outputs: _Outputs) -> None:
        super().__init__()
        self.name = name
        self._outputs = outputs
        self._pid = os.getpid()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if os.getpid() == self._pid:
            self._outputs.catch_up()
            self._outputs.stream(self.name, text)
        else:  # a process that the notebook forked: its memory is its own
            write_all(self.fileno(), text.encode("utf-8", "replace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self.name == "stdout" else 2


class _Publisher(DisplayPublisher):
    def publish(
        self, data: Any, metadata: Any = None, *_: Any, transient: Any = None, update: bool = False, **__: Any
    ) -> None:
        self.shell.outputs.display(data, (transient or {}).get("display_id"), update)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.outputs.clear(wait)


class _Hook(DisplayHook):
    def write_output_prompt(self) -> None:
        """The number stands in the output itself."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        assert isinstance(self.shell, Shell)
        count = self.shell.execution_count - 1  # counted on already
        self.shell.outputs.data("execute_result", format_dict, execution_count=count)

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Nothing is kept: there is no history."""

    def finish_displayhook(self) -> None:
        self._is_active = False


class Shell(InteractiveShell):
    """IPython without a terminal, without a history and its thread, with its outputs in a list."""

    displayhook_class = Type(_Hook)
    display_pub_class = Type(_Publisher)

    def __init__(self, **arguments: Any) -> None:
        self.outputs = _Outputs()
        self.asked_to_exit = False
        super().__init__(**arguments)

    def showtraceback(self, exc_tuple: Any = None, *arguments: Any, **more: Any) -> None:
        """Costly, in the number of frames and of modules: only where someone sees it, and not of all frames."""
        if not self.outputs.show:
            return
        error, value, traceback = self._get_exc_info(exc_tuple)
        super().showtraceback((error, value, _shortened(traceback)), *arguments, **more)

    def _showtraceback(self, etype: type, evalue: Any, stb: list[str]) -> None:
        self._last_traceback = stb
        if etype is OutOfTime:  # with this module's own frames
            said = "This cell took longer than it may."
            self.outputs.error("KeyboardInterrupt", said, [f"KeyboardInterrupt: {said}"])
            return
        try:
            said = str(evalue)
        except Exception:
            said = ""
        self.outputs.error(etype.__name__, said, "\n".join(stb).split("\n"))

    def _format_exception_for_storage(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing is stored: there is no history. IPython would format every traceback a second time for it."""
        return {}

    def enable_gui(self, gui: str | None = None) -> None:
        """There is no event loop of a window system."""

    def ask_exit(self) -> None:
        """What `exit` and `quit` call: the notebook's process ends after this cell."""
        self.asked_to_exit = True


def _shortened(traceback: TracebackType | None) -> TracebackType | None:
    """Of a deep recursion its beginning and its end."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    if len(frames) > MAX_FRAMES:
        frames[MAX_FRAMES // 2 - 1].tb_next = frames[-MAX_FRAMES // 2]
    return frames[0] if frames else None


def prepare() -> Shell:
    """Make the shell, and import what cells mostly need, before the fork. Starts no thread."""
    if Shell.initialized():
        return Shell.instance()
    os.environ["MPLBACKEND"] = INLINE
    for name in warm.IMPORTS:
        importlib.import_module(name)
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    with tempfile.TemporaryDirectory(prefix="ipython-") as folder:  # its profile; nothing is read from it
        config.InteractiveShell.ipython_dir = folder
        shell: Shell = Shell.instance(config=config)
    with contextlib.suppress(ImportError):
        import matplotlib.pyplot as plt

        plt.figure()
        shell.run_cell("pass", store_history=False)
        plt.close("all")
    assert shell.display_formatter
    shell.display_formatter.format(0)
    shell.outputs.begin(show=True)
    shell.run_cell("1 / 0", store_history=False)  # what tracebacks need
    shell.outputs.begin(show=False)
    np.random.seed()  # imports what draws
    torch.manual_seed(torch.initial_seed())  # reads the source of what it calls; its state is as before
    return shell


def serve(channel: Channel, work: Path = WORK, shown: bool = False) -> None:
    """Do what comes over `channel` until its other end is closed."""
    np.random.seed()  # else all children would draw the same
    session = _Session(channel)
    if shown:
        session.shell.outputs.caught = Caught()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    sys.path.insert(0, "")  # as a notebook has it: a module beside it can be imported
    with contextlib.suppress(Closed):
        session.run()


def serve_shown(channel: Channel, work: Path = WORK) -> None:
    """`serve`, and what is written past Python is shown, too."""
    serve(channel, work, shown=True)


def serve_launching(channel: Channel) -> None:
    """`serve` for a notebook whose `launch` shall not import torch again."""
    warm.prefork()
    serve(channel)


def serve_shown_launching(channel: Channel) -> None:
    """`serve_shown` for such a notebook."""
    warm.prefork()
    serve_shown(channel)


class _Session:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.shell = prepare()
        self.pid = os.getpid()
        self.numbers = itertools.count(1)
        self.objects: dict[int, Any] = {}
        self.number_of_id: dict[int, int] = {}
        self.kept: dict[str, Any] = {}
        """What cells of the course's define for tests, as it was then."""
        self.in_time = False
        self.out_of_time = False
        sys.stdin = open(os.devnull)  # noqa: SIM115 - nobody answers; lives as long as the process
        sys.stdout = _Stream("stdout", self.shell.outputs)
        sys.stderr = _Stream("stderr", self.shell.outputs)

    def run(self) -> None:
        while not self.shell.asked_to_exit:
            request, blobs = self.channel.receive()
            try:
                answer, content = self.answer(request, blobs)
                if os.getpid() != self.pid:  # a process that a cell forked, and that came back from it
                    os._exit(0)
                self.channel.send({**answer, "id": request.get("id")}, content)
            except TooLarge:
                self.channel.send({"too_large": True, "id": request.get("id")})

    def answer(self, request: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        match request.get("op"):
            case "files":
                return self.files(request["files"]), []
            case "run":
                answer = self.cell(request["source"], request["show"], request["limit_s"])
                names = self.shell.user_ns
                self.kept |= {name: names[name] for name in request["keeps"] if name in names}
                return answer, []
            case "get":
                self.shell.user_ns.update(self.kept)
                if request["name"] not in self.shell.user_ns:
                    return {"missing": True}, []
                return self.value(self.shell.user_ns[request["name"]])
            case "call":
                return self.call(request, blobs)
        return {"refused": True}, []

    def files(self, files: dict[str, str]) -> dict[str, Any]:
        for name, content in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
        return {"ok": True}

    def cell(self, source: str, show: bool, limit_s: float) -> dict[str, Any]:
        shell = self.shell
        shell.outputs.begin(show)
        # Pictures that nobody will see are not drawn.
        assert shell.display_formatter
        shell.display_formatter.active_types = [TEXT, *IMAGES] if show else [TEXT]
        success = False
        with contextlib.suppress(OutOfTime), self.limit(limit_s):
            success = shell.run_cell(source, store_history=True).success
        answer = {
            "ok": success,
            "interrupted": self.out_of_time,
            "outputs": shell.outputs.finished(),
            "execution_count": shell.execution_count - 1,
        }
        shell.outputs.begin(show=False)
        return answer

    def call(self, request: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        try:
            function, args, kwargs = plain.decode(request["call"], blobs, self.objects.__getitem__)
            if type(function) is str:
                function = FUNCTIONS[function]
        except (Malformed, TypeError, ValueError, KeyError):
            return {"refused": True}, []
        result, error = None, None
        try:
            with self.limit(request["limit_s"]):
                result = function(*args, **kwargs)
        except BaseException as raised:
            error = raised
        if self.out_of_time:
            return {"interrupted": True}, []
        return self.value(result) if error is None else ({"raised": _builtin_classes(error)}, [])

    def value(self, value: Any) -> tuple[dict[str, Any], list[bytes]]:
        tree, blobs = plain.encode(value, self.number_of)
        return {"value": tree}, blobs

    def number_of(self, value: object) -> int:
        """The handle of an object, the same at every look; the object is kept, so that no other gets its id."""
        number = self.number_of_id.get(id(value))
        if number is None:
            number = self.number_of_id[id(value)] = next(self.numbers)
            self.objects[number] = value
        return number

    @contextlib.contextmanager
    def limit(self, limit_s: float) -> Iterator[None]:
        """Raise OutOfTime once in what runs inside when its time is over; `out_of_time` says that it was."""
        signal.signal(signal.SIGALRM, self._over)
        self.in_time, self.out_of_time = True, False
        signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.001))
        try:
            yield
        finally:
            self.in_time = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _over(self, _: int, __: FrameType | None) -> None:
        if self.in_time:
            self.in_time, self.out_of_time = False, True
            raise OutOfTime


def _builtin_classes(error: BaseException) -> list[str]:
    """The names of the exception's classes that are Python's own, the most special first."""
    mro = type(error).__mro__
    return [cls.__name__ for cls in mro if getattr(builtins, cls.__name__, None) is cls and cls is not object]
