"""The learner's session as the trusted side sees it: `Learner` runs cells and fetches names; `Remote` is an
object that stays over there.

    learner = Learner(channel, deadline)
    learner.files(files); learner.run(source, show=False)
    train = learner.get("train")          # plain data, or a Remote
    train(3)                              # runs over there; what comes back is plain data, or a Remote

What the session answers is data of the learner's, whatever this module's counterpart meant to send: every answer
is checked, late, missing and senseless ones raise Stopped. No text of the session's is kept.
"""

from __future__ import annotations

import builtins
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distlab.course.grade import plain
from distlab.course.grade.wire import Channel, Closed, Malformed, TimedOut, TooLarge, WireError
from distlab.course.grade.work import Verdict

GRACE_S = 5.0
"""Seconds beyond its limit that a session has to say that its time was over."""

TOO_LONG = "Your code took too long."


class Stopped(BaseException):
    """The learner's session gave no answer. Not an Exception: no `except Exception` of a test may swallow it.

    After `lost` the session cannot be used any more.
    """

    def __init__(self, verdict: Verdict, message: str, lost: bool = True) -> None:
        super().__init__(message)
        self.verdict, self.message, self.lost = verdict, message, lost


class MissingName(NameError):  # noqa: N818
    """The notebook does not define a name."""


class NotPlain(TypeError):  # noqa: N818
    """A test hands the learner's code something that cannot cross: a function or an object of its own."""


class RemoteError(Exception):
    """The learner's code raised. An instance is also of the nearest builtin class: `except ValueError` catches it.

    There is no text of the learner's in it.
    """

    def __str__(self) -> str:
        return "the learner's code raised"


@dataclass(frozen=True)
class Ran:
    """What a cell came to. `outputs` is as the session sent it: to be cleaned before anyone sees it."""

    ok: bool
    interrupted: bool
    outputs: Any
    execution_count: Any


class Learner:
    """The session at the other end of `channel`. `deadline` (on `time.monotonic()`) ends whatever is asked."""

    def __init__(self, channel: Channel, deadline: float) -> None:
        self._channel = channel
        self._ids = itertools.count(1)
        self._remotes: dict[int, Remote] = {}
        self.deadline = deadline
        self.asking = False
        """Is an answer awaited? It comes or fails in time; what interrupts here leaves half a message behind."""
        self.stopped: Stopped | None = None
        """The last that was raised, should a test have swallowed it."""

    def files(self, files: Mapping[str, str], limit_s: float) -> None:
        """Write files (name to base64) beside the notebook. The first request waits for the session's start."""
        if self._ask({"op": "files", "files": dict(files)}, limit_s)[0].get("ok") is not True:
            raise self._violation()

    def run(self, source: str, show: bool, limit_s: float, keeps: Sequence[str] = ()) -> Ran:
        """Run a cell; `show` asks for its outputs. What it `keeps`, no later cell replaces for `get`."""
        request = {"op": "run", "source": source, "show": show, "keeps": list(keeps)}
        answer, _ = self._ask(request, limit_s)
        ok, interrupted = answer.get("ok"), answer.get("interrupted")
        if type(ok) is not bool or type(interrupted) is not bool:
            raise self._violation()
        return Ran(ok, interrupted, answer.get("outputs"), answer.get("execution_count"))

    def get(self, name: str) -> Any:
        """The value of a name in the notebook. Raises MissingName."""
        answer, blobs = self._ask({"op": "get", "name": name}, 0.0)
        if answer.get("missing") is True:
            raise MissingName(name)
        return self._value(answer, blobs)

    def call(self, function: Remote | str, *args: Any, **kwargs: Any) -> Any:
        """Call an object of the session's, or one of its functions; the limit is what is left of `deadline`."""
        try:
            tree, blobs = plain.encode((function, args, kwargs), _number_of)
        except TooLarge:
            raise self._too_large() from None
        answer, content = self._ask({"op": "call", "call": tree}, None, blobs)
        if answer.get("interrupted") is True:
            raise self._stop(Stopped(Verdict.TIMEOUT, TOO_LONG, lost=False))
        if "raised" in answer:
            error = self._error(answer["raised"])
            # Outside `next` it would end a `map` or a `zip` of the test's early, as if all had been looked at.
            if isinstance(error, StopIteration) and function != "next":
                error = ERRORS["RuntimeError"]()
            raise error
        return self._value(answer, content)

    def _ask(
        self, request: dict[str, Any], limit_s: float | None, blobs: Sequence[bytes] = ()
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and return its answer. `limit_s` None: until the deadline."""
        if self.stopped is not None and self.stopped.lost:
            raise self.stopped
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self._stop(Stopped(Verdict.TIMEOUT, TOO_LONG, lost=False))
        limit_s = max(left if limit_s is None else min(limit_s, left), 0.001)
        number = next(self._ids)
        until = time.monotonic() + limit_s + GRACE_S
        self.asking = True
        try:
            self._channel.send({**request, "id": number, "limit_s": limit_s}, blobs, until)
            answer, content = self._channel.receive(until)
        except TooLarge:
            raise self._too_large() from None
        except TimedOut:
            raise self._stop(Stopped(Verdict.TIMEOUT, TOO_LONG)) from None
        except Closed:
            raise self._stop(Stopped(Verdict.ERROR, "Your code's process ended.")) from None
        except WireError:
            raise self._violation() from None
        finally:
            self.asking = False
        if answer.get("id") != number:
            raise self._violation()
        if answer.get("too_large") is True:
            raise self._too_large()
        return answer, content

    def _too_large(self) -> Stopped:
        """Either way: what a test hands over is too large only if it came of what the learner's code gave."""
        return self._stop(Stopped(Verdict.OUTPUT, "Your code gave back too much data.", lost=False))

    def _value(self, answer: dict[str, Any], blobs: list[bytes]) -> Any:
        try:
            return plain.decode(answer["value"], blobs, self._remote)
        except (KeyError, Malformed):
            raise self._violation() from None

    def _remote(self, number: int) -> Remote:
        """The same Remote for the same object, so that `is` and `==` mean what they say."""
        return self._remotes.setdefault(number, Remote(self, number))

    def _error(self, names: Any) -> RemoteError:
        known = [name for name in names if name in ERRORS] if _are_names(names) else None
        if known is None:
            raise self._violation()
        return ERRORS[known[0]]() if known else RemoteError()

    def _violation(self) -> Stopped:
        return self._stop(Stopped(Verdict.VIOLATION, "Your code's process gave an answer that is none."))

    def _stop(self, stopped: Stopped) -> Stopped:
        self.stopped = stopped
        return stopped


class Remote:
    """An object that stays in the learner's session: call it, take its attributes, items and length, iterate.

    Equality is identity, and it has no truth value: what it would say about itself is not asked.
    """

    __slots__ = ("_learner", "_number")

    def __init__(self, learner: Learner, number: int) -> None:
        self._learner, self._number = learner, number

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._learner.call(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python, numpy and torch look for in any object
            raise AttributeError(name)
        return self._learner.call("getattr", self, name)

    def __len__(self) -> int:
        return self._learner.call("len", self)  # type: ignore[no-any-return]

    def __getitem__(self, key: Any) -> Any:
        return self._learner.call("getitem", self, key)

    def __contains__(self, item: Any) -> bool:
        return self._learner.call("contains", self, item) is True

    def __iter__(self) -> Iterator[Any]:
        iterator = self._learner.call("iter", self)
        if not isinstance(iterator, Remote):
            raise TypeError("not an iterator")
        while True:
            try:
                item = self._learner.call("next", iterator)
            except StopIteration:
                return
            yield item

    def __next__(self) -> Any:
        return self._learner.call("next", self)

    def __bool__(self) -> bool:
        raise TypeError("an object of the learner's has no truth value: compare something it returns")

    def __reduce__(self) -> str:
        raise TypeError("an object of the learner's can be neither copied nor pickled here")

    def __repr__(self) -> str:
        return f"<object {self._number} of the learner's>"


def _number_of(value: object) -> int:
    if type(value) is Remote:
        return value._number
    raise NotPlain(f"{type(value).__name__} cannot be handed to the learner's code: give it plain data")


def _are_names(names: Any) -> bool:
    return type(names) is list and len(names) < 50 and all(type(name) is str for name in names)


def _errors() -> dict[str, type[RemoteError]]:
    """For each builtin exception class the one that stands for it."""
    found: dict[str, type[RemoteError]] = {}
    for name, cls in vars(builtins).items():
        if not isinstance(cls, type) or not issubclass(cls, BaseException) or name != cls.__name__:
            continue
        if issubclass(cls, BaseExceptionGroup):
            continue  # cannot be made without the exceptions it holds
        bases = (RemoteError, cls) if issubclass(cls, Exception) else (RemoteError,)
        if cls in (Exception, BaseException):
            bases = (RemoteError,)
        found[name] = type("RemoteError", bases, {"__init__": Exception.__init__})
    return found


ERRORS = _errors()
