"""The exchange service: who may do what, what it keeps, and what an attack or a full disk leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from distlab.course.exchange.bundle import Bundle, RefusedError, UploadLimits, find_files
from distlab.course.exchange.client import Client, ClientError
from distlab.course.exchange.store import publish
from distlab.course.processes import ProcessId
from distlab.course.site import Site
from tests.course.exchange_rig import LAB, Rig, lab_folder, running, token
from tests.course.test_exchange_bundle import EVIL, message

NOTEBOOK = f"{LAB}.ipynb"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running(tmp_path_factory.mktemp("exchange")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig, tmp_path: Path) -> Rig:
    """A running exchange with one lab released and nothing handed in."""
    shared.reset()
    release(shared, tmp_path)
    return shared


def release(rig: Rig, tmp_path: Path, **files: str) -> None:
    folder = lab_folder(tmp_path / "released", **files)
    rig.client("teacher").release(LAB, find_files(folder)[0], replace=True)


def submit(rig: Rig, user: str, tmp_path: Path, **files: str) -> dict[str, object]:
    folder = lab_folder(tmp_path / user, **files)
    return rig.client(user).submit(LAB, find_files(folder)[0], None)


def body(folder: Path) -> bytes:
    with Bundle(find_files(folder)[0], UploadLimits()) as bundle:
        return b"".join(bundle)


def put_feedback(rig: Rig, tmp_path: Path, receipt: dict[str, object], text: str) -> None:
    html = tmp_path / "feedback.html"
    html.write_text(text)
    of = (str(receipt["user"]), str(receipt["timestamp"]))
    rig.client("teacher").put_feedback(LAB, *of, LAB, html)


# Who may do what


def test_without_a_known_token_nothing_is_said(rig: Rig) -> None:
    for path in ("/api/limits", "/api/assignments", f"/api/assignments/{LAB}", "/api/submissions", "/x"):
        status, text = rig.ask("nobody", "GET", path)
        assert (status, text) == (
            401,
            "The Hub does not know your server's token; restart your server.",
        ), path
    connection = rig.connection()
    with contextlib.closing(connection):
        connection.request("GET", f"/api/assignments?token={token('alice')}")
        assert connection.getresponse().status == 401


def test_the_token_must_carry_the_scopes(rig: Rig) -> None:
    assert rig.ask("stranger", "GET", "/api/assignments")[0] == 403
    assert rig.ask("guest", "GET", "/api/assignments")[0] == 403
    assert rig.ask("guest", "POST", f"/api/submissions/{LAB}", b"")[0] == 403


def test_a_learner_neither_releases_nor_withdraws_nor_grades(rig: Rig, tmp_path: Path) -> None:
    receipt = submit(rig, "alice", tmp_path)
    before = rig.tree()
    time = quote(str(receipt["timestamp"]))
    evil = body(lab_folder(tmp_path / "evil", note="mine now"))
    assert rig.ask("alice", "PUT", f"/api/assignments/{LAB}?replace=1", evil)[0] == 403
    assert rig.ask("alice", "DELETE", f"/api/assignments/{LAB}")[0] == 403
    assert rig.ask("alice", "PUT", f"/api/feedback/{LAB}/alice/{time}/{LAB}", evil)[0] == 403
    assert rig.tree() == before


def test_a_learner_sees_only_their_own_submissions(rig: Rig, tmp_path: Path) -> None:
    receipt = submit(rig, "bob", tmp_path, answer="bob's own")
    time = quote(str(receipt["timestamp"]))
    assert rig.client("alice").submissions() == []
    assert rig.ask("alice", "GET", "/api/submissions?user=bob")[0] == 403
    status, text = rig.ask("alice", "GET", f"/api/submissions/{LAB}/bob/{time}")
    assert (status, text) == (403, "alice may see only their own submissions.")
    assert rig.ask("bob", "GET", f"/api/submissions/{LAB}/bob/{time}")[0] == 200
    assert [found["user"] for found in rig.client("teacher").submissions()] == ["bob"]


def test_a_learner_submits_only_as_themselves(rig: Rig, tmp_path: Path) -> None:
    before = rig.tree()
    data = body(lab_folder(tmp_path / "alice"))
    status, text = rig.ask("alice", "POST", f"/api/submissions/{LAB}?user=bob", data)
    assert (status, text) == (403, "alice may not submit as 'bob'.")
    assert rig.tree() == before


def test_feedback_is_its_owners_alone(rig: Rig, tmp_path: Path) -> None:
    receipt = submit(rig, "alice", tmp_path)
    put_feedback(rig, tmp_path, receipt, "<p>well done")
    place = f"/api/feedback/{LAB}/alice/{quote(str(receipt['timestamp']))}/{LAB}"
    assert rig.ask("alice", "GET", place) == (200, "<p>well done")
    for other in ("bob", "teacher"):
        assert rig.ask(other, "GET", place) == (403, f"{other} may see only their own feedback.")
    put_feedback(rig, tmp_path, receipt, "<p>even better")
    assert rig.ask("alice", "GET", place) == (200, "<p>even better")
    assert len(os.listdir(rig.store / "feedback")) == 1


def test_no_browser_renders_what_learners_sent(rig: Rig, tmp_path: Path) -> None:
    receipt = submit(rig, "alice", tmp_path)
    put_feedback(rig, tmp_path, receipt, "<script>alert(1)</script>")
    connection = rig.connection()
    place = f"/api/feedback/{LAB}/alice/{quote(str(receipt['timestamp']))}/{LAB}"
    with contextlib.closing(connection):
        connection.request("GET", place, headers={"Authorization": f"token {token('alice')}"})
        headers = connection.getresponse().headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == "attachment"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]


def test_no_token_is_logged(rig: Rig, tmp_path: Path) -> None:
    submit(rig, "alice", tmp_path)
    rig.ask("nobody", "GET", "/api/assignments")
    rig.stop()
    log = rig.log.read_text()
    assert "alice submitted" in log
    assert "secret-token" not in log


# What is kept


def test_every_submission_is_kept_with_its_receipt(rig: Rig, tmp_path: Path) -> None:
    first = submit(rig, "alice", tmp_path, answer="1")
    second = submit(rig, "alice", tmp_path, answer="2")
    again = submit(rig, "alice", tmp_path, answer="2")
    assert first["timestamp"] < second["timestamp"] < again["timestamp"]  # type: ignore[operator]
    assert first["sha256"] != second["sha256"] == again["sha256"]
    kept = rig.client("alice").submissions()
    assert [item["timestamp"] for item in kept] == [
        first["timestamp"],
        second["timestamp"],
        again["timestamp"],
    ]
    for item, answer in zip(kept, "122", strict=True):
        target = tmp_path / f"collected {item['timestamp']}"
        rig.client("teacher").collect(item, target)
        assert (target / "answer").read_text() == answer
        assert (target / "timestamp.txt").read_text() == item["timestamp"]
    assert (first["files"], first["notebooks"]) == (2, [LAB])
    for folder in (rig.store / "inbound").iterdir():
        assert len(json.loads((folder / "receipt.json").read_text())["sha256"]) == 64


def test_the_layout_is_nbgraders(rig: Rig, tmp_path: Path) -> None:
    receipt = submit(rig, "alice", tmp_path)
    put_feedback(rig, tmp_path, receipt, "good")
    assert (rig.store / "outbound" / LAB / NOTEBOOK).is_file()
    (folder,) = (rig.store / "inbound").iterdir()
    user, assignment, time, _ = folder.name.split("+")
    assert (user, assignment, time) == ("alice", LAB, receipt["timestamp"])
    assert (folder / "timestamp.txt").read_text() == time
    secret = (folder / "submission_secret.txt").read_text()
    name = hashlib.md5((secret + LAB).encode()).hexdigest()
    assert (rig.store / "feedback" / f"{name}.html").read_text() == "good"
    assert oct(rig.store.stat().st_mode & 0o777) == "0o700"


def test_withdrawing_keeps_what_was_handed_in(rig: Rig, tmp_path: Path) -> None:
    submit(rig, "alice", tmp_path)
    rig.client("teacher").unrelease(LAB)
    assert rig.client("alice").assignments() == []
    with pytest.raises(ClientError, match=f'"{LAB}" is not released'):
        submit(rig, "alice", tmp_path)
    assert len(rig.client("alice").submissions()) == 1
    release(rig, tmp_path)
    assert [item["assignment_id"] for item in rig.client("alice").assignments()] == [LAB]


def test_a_new_release_replaces_the_old_one_whole(rig: Rig, tmp_path: Path) -> None:
    release(rig, tmp_path, old="1")
    release(rig, tmp_path, new="2")
    rig.client("alice").fetch_assignment(LAB, tmp_path / "home")
    assert sorted(os.listdir(tmp_path / "home" / LAB)) == [NOTEBOOK, "new"]
    assert len(os.listdir(rig.store / "releases" / LAB)) == 3
    with pytest.raises(ClientError, match="already released"):
        rig.client("teacher").release(LAB, find_files(tmp_path / "released" / LAB)[0], replace=False)


def test_publish_writes_only_what_changed(tmp_path: Path) -> None:
    site = Site(root=tmp_path)
    folder = lab_folder(tmp_path / "made")
    assert publish(site, LAB, folder) is True
    assert publish(site, LAB, folder) is False
    (folder / "data.csv").write_text("1")
    assert publish(site, LAB, folder) is True
    assert sorted(os.listdir(site.exchange / "outbound" / LAB)) == ["data.csv", NOTEBOOK]
    (folder / "leak").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError, match="is no ordinary file"):
        publish(site, LAB, folder)
    assert sorted(os.listdir(site.exchange / "outbound" / LAB)) == ["data.csv", NOTEBOOK]
    assert os.listdir(site.exchange / "stage") == ["lock"]


# Attacks


@pytest.mark.parametrize(
    "path", [*EVIL, "timestamp.txt", "RECEIPT.json", "submission_secret.txt", "a.ipynb/b"]
)
def test_an_upload_with_a_bad_name_leaves_nothing(path: str, rig: Rig, tmp_path: Path) -> None:
    before = rig.tree()
    data = message((NOTEBOOK, b"{}"), (path, b"x"))
    status, text = rig.ask("alice", "POST", f"/api/submissions/{LAB}", data)
    assert status == 400
    assert "rename" in text
    assert rig.tree() == before


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", "..%2finbound", "mod-1-lab-1%00", "MOD-107-LAB-3", "mod-107-lab-3%0a", "a" * 5000],
)
def test_an_address_reaches_only_labs(name: str, rig: Rig) -> None:
    for method, path in (
        ("GET", f"/api/assignments/{name}"),
        ("POST", f"/api/submissions/{name}"),
        ("GET", f"/api/submissions/{LAB}/{name}/x"),
        ("GET", f"/api/submissions/{LAB}/alice/{name}"),
        ("PUT", f"/api/feedback/{LAB}/alice/{name}/x"),
    ):
        before = rig.tree()
        status, _ = rig.ask("teacher", method, path, message() if method != "GET" else None)
        assert status in (400, 404), (method, path)
        assert rig.tree() == before


def test_an_upload_over_a_limit_is_refused_by_name(rig: Rig, tmp_path: Path) -> None:
    limits = rig.client("alice").limits()
    folder = lab_folder(tmp_path)
    with (folder / "weights.pt").open("wb") as stream:
        stream.truncate(limits.file_bytes + 1)
    with pytest.raises(ClientError, match=r'"weights\.pt" has 32\.00 MiB; at most 32\.00 MiB'):
        rig.client("alice").submit(LAB, find_files(folder)[0], None)


def test_the_service_itself_enforces_the_limits_while_it_reads(tmp_path: Path) -> None:
    with running(tmp_path, "--limits.upload-bytes", "100000", "--limits.file-bytes", "50000") as rig:
        release(rig, tmp_path)
        before = rig.tree()
        ask = (rig.ask, "alice", "POST", f"/api/submissions/{LAB}")
        status, text = ask[0](*ask[1:], message((NOTEBOOK, b"{}"), ("big", b"x" * 50001)))
        assert (status, text.split(";")[0]) == (413, '"big" has 50,001 bytes')
        status, text = ask[0](*ask[1:], b"x" * (2 << 20))  # says so in its Content-Length
        assert (status, text) == (413, "The upload has more than 100,000 bytes.")
        # A sender that gives no length, and a list that promises less than comes.
        listing = message((NOTEBOOK, b"{}"))
        connection = rig.connection()
        with contextlib.closing(connection):
            headers = {"Authorization": f"token {token('alice')}"}
            chunks = iter([listing, *[b"x" * 10_000] * 40])
            connection.request("POST", f"/api/submissions/{LAB}", chunks, headers, encode_chunked=True)
            answer = connection.getresponse()
            assert answer.status == 400
            assert b"longer than its list" in answer.read()
        assert rig.tree() == before


def test_a_users_quota_and_count_hold(tmp_path: Path) -> None:
    with running(tmp_path, "--limits.submissions", "3", "--limits.user-bytes", "1000") as rig:
        release(rig, tmp_path)
        for _ in range(2):
            submit(rig, "alice", tmp_path)
        with pytest.raises(ClientError, match="Your submissions together may have"):
            submit(rig, "alice", tmp_path, big="x" * 900)
        submit(rig, "alice", tmp_path)
        with pytest.raises(ClientError, match=f'You have submitted "{LAB}" 3 times, which is the limit'):
            submit(rig, "alice", tmp_path)
        submit(rig, "bob", tmp_path)
        assert len(rig.client("alice").submissions()) == 3


def half_an_upload(rig: Rig) -> socket.socket:
    """A sender that stops in the middle of its notebook, half of which the service has stored."""
    data = message((NOTEBOOK, b"n" * 200_000))
    sender = socket.socket(socket.AF_UNIX)
    sender.connect(str(rig.socket))
    head = f"POST /api/submissions/{LAB} HTTP/1.1\r\nHost: x\r\nAuthorization: token {token('alice')}\r\n"
    sender.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:100_000])
    while not any(path.stat().st_size > 90_000 for path in rig.store.glob(f"stage/*/content/{NOTEBOOK}")):
        assert rig.process is not None
        assert rig.process.poll() is None
    return sender


def test_a_killed_upload_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    before = rig.tree()
    half_an_upload(rig).close()
    while rig.tree() != before:  # until the service has seen the end of the connection
        assert rig.client("alice").submissions() == []
    submit(rig, "alice", tmp_path)


def test_a_killed_service_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    kept = submit(rig, "alice", tmp_path)
    before = rig.tree()
    sender = half_an_upload(rig)
    rig.stop(signal.SIGKILL)
    sender.close()
    assert rig.tree() > before
    rig.start()  # over the stale socket
    assert rig.tree() == before
    assert [item["sha256"] for item in rig.client("alice").submissions()] == [kept["sha256"]]


def test_many_uploads_of_one_user_do_not_hold_up_others(rig: Rig, tmp_path: Path) -> None:
    senders = [half_an_upload(rig) for _ in range(2)]
    with pytest.raises(ClientError, match="Your other uploads are still under way"):
        submit(rig, "alice", tmp_path)
    submit(rig, "bob", tmp_path)
    for sender in senders:
        sender.close()


def test_more_uploads_than_places_wait_their_turn(tmp_path: Path) -> None:
    users = [f"learner-{number}" for number in range(20)]
    with running(tmp_path, "--limits.uploads", "2") as rig:
        release(rig, tmp_path)
        with ThreadPoolExecutor(len(users)) as pool:
            receipts = list(pool.map(lambda user: submit(rig, user, tmp_path, answer=user), users))
        kept = {item["user"]: item["sha256"] for item in rig.client("teacher").submissions()}
        assert kept == {receipt["user"]: receipt["sha256"] for receipt in receipts}
        assert len(set(kept.values())) == len(users)


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs a mount namespace for a small file system",
)
def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "exchange").mkdir()
    mount = 'mount -t tmpfs -o size=1m,mode=700 tmpfs "$0" && exec "$@"'
    wrap = ("unshare", "-rm", "sh", "-c", mount, str(tmp_path / "exchange"))
    with running(tmp_path, wrap=wrap) as rig:
        assert rig.process is not None
        rig.store = Path(f"/proc/{rig.process.pid}/root{rig.store}")
        release(rig, tmp_path)
        kept = submit(rig, "alice", tmp_path, answer="kept")
        before = rig.tree()
        with pytest.raises(ClientError, match="The exchange's disk is full") as error:
            submit(rig, "alice", tmp_path, big="x" * 2_000_000)
        assert error.value.status == 507
        assert rig.tree() == before
        assert [item["sha256"] for item in rig.client("alice").submissions()] == [kept["sha256"]]
        with pytest.raises(ClientError, match="The exchange's disk is full"):
            release(rig, tmp_path, big="x" * 2_000_000)
        rig.client("bob").fetch_assignment(LAB, tmp_path / "bob-home")
        assert os.listdir(tmp_path / "bob-home" / LAB) == [NOTEBOOK]
        submit(rig, "alice", tmp_path, answer="there is room for this")


def test_a_file_size_limit_counts_as_a_full_disk(tmp_path: Path) -> None:
    with running(tmp_path, wrap=("prlimit", "--fsize=100000")) as rig:
        release(rig, tmp_path)
        before = rig.tree()
        with pytest.raises(ClientError, match="The exchange's disk is full"):
            submit(rig, "alice", tmp_path, big="x" * 200_000)
        assert rig.tree() == before


# Coming and going


def test_the_service_ends_with_its_parent(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)\n"
        "print(child.pid, next(line for line in child.stderr if 'listening' in line), flush=True)\n"
        "sys.stdin.read()\n"
    )
    service = [sys.executable, "-m", "distlab.course.exchange", "--folder", str(tmp_path / "exchange")]
    with subprocess.Popen(
        [sys.executable, "-c", starter, *service, "--socket", str(tmp_path / "exchange.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JUPYTERHUB_API_TOKEN": "x", "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api"},
    ) as parent:
        assert parent.stdout is not None
        child = ProcessId.of(int(parent.stdout.readline().split()[0]))
        assert child is not None
        parent.kill()
    assert child.wait(30)
    assert not (tmp_path / "exchange.sock").exists()


def test_an_ended_service_leaves_no_socket_and_the_client_says_so(rig: Rig) -> None:
    rig.stop()
    assert not rig.socket.exists()
    with pytest.raises(ClientError, match="The exchange cannot be reached; try again in a minute"):
        rig.client("alice").assignments()


def test_a_hub_that_is_away_is_said(tmp_path: Path) -> None:
    with running(tmp_path) as rig:
        rig.stop()
        rig.hub_url = "http://127.0.0.1:1/hub/api"
        rig.start()
        with pytest.raises(ClientError, match="cannot ask the Hub who you are") as error:
            rig.client("alice").assignments()
        assert error.value.status == 503


def test_the_client_says_what_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTLAB_EXCHANGE_URL", raising=False)
    with pytest.raises(ClientError, match="DISTLAB_EXCHANGE_URL is not set"):
        Client.from_env()


def test_answers_are_json(rig: Rig) -> None:
    connection = rig.connection()
    with contextlib.closing(connection):
        connection.request("GET", "/nowhere", headers={"Authorization": f"token {token('alice')}"})
        answer = connection.getresponse()
        assert answer.status == 404
        assert json.loads(answer.read()) == {"message": "The exchange has nothing at /nowhere."}


def test_it_can_listen_on_a_port_too(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(tmp_path, "--tcp", f"127.0.0.1:{port}") as rig:
        assert Client(f"http://127.0.0.1:{port}", token("alice")).assignments() == []
        assert rig.client("alice").assignments() == []
