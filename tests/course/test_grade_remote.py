"""The trusted side of the learner's session: objects that stay there, and answers that are none."""

import collections
import contextlib
import copy
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.course.grade import remote
from distlab.course.grade.remote import ERRORS, Learner, MissingName, NotPlain, Remote, RemoteError, Stopped
from distlab.course.grade.wire import PREFIX, Channel, WireError
from distlab.course.grade.work import Verdict
from tests.course import forks_rig

NOTEBOOK = """
import collections, enum
import numpy as np
import torch
from torch import nn
Pair = collections.namedtuple("Pair", "a b")
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
    def forward(self, x):
        return self.linear(x)
    def __eq__(self, other): return True
    def __bool__(self): return True
    __hash__ = nn.Module.__hash__
class Row:
    def __init__(self): self.values = list(range(10))
    def __len__(self): return len(self.values)
    def __getitem__(self, at): return self.values[at]
    def __contains__(self, x): return x in self.values
class Wrong:
    def __len__(self): return 2**62
    def __iter__(self): return self
    def __next__(self): raise KeyError("secret")
    @property
    def broken(self): raise ZeroDivisionError("secret")
    @property
    def gone(self): raise AttributeError("secret")
model, row, wrong = Model(), Row(), Wrong()
pair = Pair(1, [2])
def echo(*args, **kwargs): return args, kwargs
def kind(x): return type(x).__name__
def same(a, b): return a is b
def raises(name): raise getattr(__builtins__, name, None) or __builtins__[name]
def count():
    n = 0
    while True:
        yield n
        n += 1
def some(n): yield from range(n)
def much(n): return "x" * n
def mutate(x): x.append(1)
def keep(x, kept=[]): kept.append(x); return kept
"""


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    with forks_rig.session(tmp_path_factory.mktemp("work")) as channel:
        found = Learner(channel, time.monotonic() + 1000)
        assert found.run(NOTEBOOK, False, 120.0).ok
        yield found


def test_values_cross_both_ways(learner: Learner) -> None:
    echo = learner.get("echo")
    args, kwargs = echo(
        1, (2, {3: [None]}), {4.5}, b"x", y=np.arange(3), z=torch.ones(2, dtype=torch.bfloat16)
    )
    assert args == (1, (2, {3: [None]}), {4.5}, b"x")
    np.testing.assert_array_equal(kwargs["y"], np.arange(3))
    assert torch.equal(kwargs["z"], torch.ones(2, dtype=torch.bfloat16))
    assert learner.get("pair") == (1, [2])
    assert type(learner.get("pair")) is tuple


def test_a_changed_argument_stays_over_there(learner: Learner) -> None:
    values = [0]
    assert learner.get("mutate")(values) is None
    assert values == [0]


def test_objects_go_back_as_they_are(learner: Learner) -> None:
    model, same = learner.get("model"), learner.get("same")
    assert type(model) is Remote
    assert same(model, model) is True
    assert same([model], model) is False
    assert learner.get("kind")(model) == "Model"
    assert learner.get("kind")({"a": 1}) == "dict"


def test_a_module_can_be_used(learner: Learner) -> None:
    model = learner.get("model")
    x = torch.tensor([[1.0, 2.0]])
    weight, bias = model.linear.weight, model.linear.bias
    assert weight.requires_grad
    assert torch.allclose(model(x), x @ weight.T + bias)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(1, 2), (1,)]
    assert sorted(model.state_dict()) == ["linear.bias", "linear.weight"]
    assert model.training is True


def test_equality_is_identity_and_nothing_is_true(learner: Learner) -> None:
    model, row = learner.get("model"), learner.get("row")
    assert model == learner.get("model")
    assert model is learner.get("model")
    assert model != row
    assert model != 3
    assert not (model == 3)  # noqa: SIM201 - another method
    assert model not in [1, row]
    assert {model: 1}[learner.get("model")] == 1
    with pytest.raises(TypeError, match="no truth value"):
        bool(model)
    with pytest.raises(TypeError):
        model < 3  # noqa: B015
    assert "Model" not in repr(model)


def test_items_length_and_iteration(learner: Learner) -> None:
    row = learner.get("row")
    assert (len(row), row[3], row[-1], row[2:4], 3 in row, 30 in row) == (10, 3, 9, [2, 3], True, False)
    assert list(row) == list(range(10))
    assert list(learner.get("some")(3)) == [0, 1, 2]
    counting = learner.get("count")()
    assert [next(counting), next(counting)] == [0, 1]
    assert [value for value, _ in zip(counting, range(3), strict=False)] == [2, 3, 4]
    assert sorted(learner.get("model").state_dict().keys()) == ["linear.bias", "linear.weight"]
    with pytest.raises(IndexError):
        row[10]
    with pytest.raises(TypeError):
        len(learner.get("echo"))
    with pytest.raises(TypeError):
        iter(learner.get("echo")).__next__()


def test_what_an_object_says_can_be_wrong_but_no_more(learner: Learner) -> None:
    wrong = learner.get("wrong")
    with pytest.raises(MemoryError):
        list(wrong)
    with pytest.raises(KeyError):
        next(wrong)
    with pytest.raises(ZeroDivisionError):
        _ = wrong.broken
    assert not hasattr(wrong, "gone")
    assert not hasattr(wrong, "nothing")
    assert getattr(wrong, "nothing", 3) == 3


def test_what_python_looks_for_in_any_object_is_not_asked(learner: Learner) -> None:
    model = learner.get("model")
    for name in ("__array__", "__array_interface__", "__torch_function__", "__class_getitem__", "__dict__"):
        with pytest.raises(AttributeError):
            getattr(model, name)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copied(model)
    with pytest.raises(AttributeError):
        model.x = 3


def test_exceptions_are_also_of_their_builtin_class(learner: Learner) -> None:
    raises = learner.get("raises")
    for cls in (ValueError, KeyError, FileNotFoundError, UnicodeError, RemoteError):
        with pytest.raises(cls) as caught:
            raises(cls.__name__ if cls is not RemoteError else "Exception")
        assert isinstance(caught.value, RemoteError)
    for name in ("KeyboardInterrupt", "SystemExit", "GeneratorExit"):
        with pytest.raises(RemoteError):
            raises(name)
    with pytest.raises(RuntimeError):  # else `all(map(...))` were true
        list(map(raises, ["StopIteration"]))
    with pytest.raises(TypeError) as missing:
        raises()
    assert "raises()" not in str(missing.value)


def test_every_exception_that_is_named_can_be_made() -> None:
    for cls in ERRORS.values():
        error = cls()
        assert isinstance(error, RemoteError)
        assert str(error).startswith("the learner's code raised")


def test_a_name_that_is_not_there(learner: Learner) -> None:
    with pytest.raises(MissingName):
        learner.get("nothing")


def test_what_cannot_cross_is_refused_before_it_is_sent(learner: Learner) -> None:
    echo = learner.get("echo")
    for value in (print, object(), lambda: 0, torch.nn.Linear(1, 1), collections.deque()):
        with pytest.raises(NotPlain, match="give it plain data"):
            echo(value)
    assert echo(1) == ((1,), {})


def test_too_much_is_a_verdict_and_the_session_stays(learner: Learner) -> None:
    much, echo = learner.get("much"), learner.get("echo")
    for call in (
        lambda: much(70 * 2**20),
        lambda: echo(bytes(70 * 2**20)),
        lambda: echo(*[bytes(1)] * 70_000),
    ):
        with pytest.raises(Stopped) as stopped:
            call()
        assert stopped.value.verdict == Verdict.OUTPUT
        assert not stopped.value.lost
    assert len(much(10)) == 10


# A peer that answers whatever it likes.


class Peer:
    """The other end of a Learner, which reads a request and sends `data`."""

    def __init__(self, make: Any) -> None:
        ours, self.theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.learner = Learner(self.channel, time.monotonic() + 100)
        self.thread = threading.Thread(target=self.answer, args=(make,))
        self.thread.start()

    def answer(self, make: Any) -> None:
        with Channel(self.theirs) as channel:
            while True:
                try:
                    request, _ = channel.receive(time.monotonic() + 60)
                    made = make(request)
                except WireError:
                    return
                if isinstance(made, bytes):
                    channel._socket.sendall(made)
                elif made is not None:
                    message, *blobs = made if isinstance(made, tuple) else (made,)
                    channel.send({"id": request["id"], **message}, blobs)

    def __enter__(self) -> Learner:
        return self.learner

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"ok": 1},
        {"missing": 1},
        {"value": {"pickle": 0}},
        {"value": {"handle": -1}},
        {"value": {"bytes": 0}},
        ({"value": 1}, b"x"),
        {"value": 1, "id": 2},
        {"value": 1, "id": None},
        {"value": 1, "id": "1"},
        {"value": 1, "id": 1.5},
        {"value": 1, "id": [1]},
        {"refused": True},
        b"\xff" * 100,
        PREFIX.pack(1, 0) + b"{",
        PREFIX.pack(2**31, 0),
        PREFIX.pack(5, 0) + b"[1,2]",
        PREFIX.pack(200_000, 0) + b'{"value":' + b"[" * 99_995 + b"]" * 99_995 + b"}",
    ],
    ids=lambda answer: str(answer)[:40],
)
def test_an_answer_that_is_none_is_a_violation(answer: Any) -> None:
    with Peer(lambda _: answer) as learner:
        with pytest.raises(Stopped) as stopped:
            learner.get("x")
        assert (stopped.value.verdict, stopped.value.lost) == (Verdict.VIOLATION, True)
        with pytest.raises(Stopped) as again:  # without another word to the session
            learner.run("1", False, 1.0)
        assert again.value.verdict == Verdict.VIOLATION


@pytest.mark.parametrize(
    "raised",
    [None, "ValueError", {"a": 1}, [1], [["ValueError"]], ["ValueError"] * 100, True, [None]],
    ids=str,
)
def test_exceptions_that_are_none(raised: Any) -> None:
    with Peer(
        lambda request: {"value": {"handle": 1}} if request["op"] == "get" else {"raised": raised}
    ) as learner:
        function = learner.get("f")
        with pytest.raises(Stopped) as stopped:
            function()
        assert stopped.value.verdict == Verdict.VIOLATION


@pytest.mark.parametrize(
    "names",
    [[], ["object"], ["exec", "Exception"], ["BaseExceptionGroup"], ["__class__"], ["x" * 10**5], ["print"]],
)
def test_exceptions_without_a_known_name(names: list[str]) -> None:
    with Peer(
        lambda request: {"value": {"handle": 1}} if request["op"] == "get" else {"raised": names}
    ) as learner:
        function = learner.get("f")
        with pytest.raises(RemoteError) as raised:
            function()
        assert type(raised.value).__bases__ in ((Exception,), (RemoteError,)), "of no other class"


@pytest.mark.parametrize(
    "answer", [{"ok": 1, "interrupted": False}, {"ok": True}, {"ok": True, "interrupted": None}]
)
def test_a_run_that_came_to_nothing_known(answer: Any) -> None:
    with Peer(lambda _: answer) as learner, pytest.raises(Stopped) as stopped:
        learner.run("1", True, 1.0)
    assert stopped.value.verdict == Verdict.VIOLATION


def test_a_late_answer_is_a_timeout_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GRACE_S", 0.05)
    with Peer(lambda _: None) as learner:
        with pytest.raises(Stopped, match="too long") as stopped:
            learner.run("1", False, 0.01)
        assert (stopped.value.verdict, stopped.value.lost) == (Verdict.TIMEOUT, True)
        with pytest.raises(Stopped, match="too long"):
            learner.get("x")


def test_an_answer_byte_by_byte_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GRACE_S", 0.05)
    with Peer(lambda _: PREFIX.pack(100, 0) + b"{") as learner, pytest.raises(Stopped, match="too long"):
        learner.run("1", False, 0.01)


def test_a_peer_that_is_gone_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with Channel(ours) as channel, pytest.raises(Stopped, match="process ended") as stopped:
        Learner(channel, time.monotonic() + 10).get("x")
    assert stopped.value.verdict == Verdict.ERROR


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["id", "ok", "value", "raised", "missing", "interrupted", "too_large", "outputs"])


def test_whatever_a_session_answers_is_a_value_or_stopped() -> None:
    answers: list[dict[str, Any]] = [{}]
    with Peer(lambda _: answers[0]) as learner:

        @settings(deadline=None, derandomize=True, max_examples=300)
        @given(st.dictionaries(FIELDS, JSON, max_size=4), st.sampled_from(["get", "call", "run", "files"]))
        def check(answer: dict[str, Any], op: str) -> None:
            learner.stopped = None
            answers[0] = answer
            function = Remote(learner, 1)
            asked = {
                "get": lambda: learner.get("x"),
                "call": lambda: function(1),
                "run": lambda: learner.run("1", True, 1.0),
                "files": lambda: learner.files({}, 1.0),
            }
            with contextlib.suppress(Stopped, MissingName, RemoteError):
                asked[op]()

        check()


def test_a_session_over_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    with forks_rig.session(tmp_path / "a" / "b") as channel:
        found = Learner(channel, time.monotonic() + 100)
        found.files({"x": ""}, 60.0)
        assert (tmp_path / "a" / "b" / "x").exists()
