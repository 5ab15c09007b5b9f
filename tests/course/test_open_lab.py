"""*Open the lab*, in a real Jupyter server with the real exchange behind it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from distlab.course.exchange.bundle import find_files
from tests.course.exchange_rig import LAB, Rig, lab_folder, running, token

PASS = "the-servers-own-token"


class Learner:
    """Alice's Jupyter server, asked over HTTP."""

    def __init__(self, home: Path, base: str) -> None:
        self.home, self.base = home, base
        self.lab = home / LAB
        self.http = requests.Session()
        # The server names its port before it listens there.
        self.http.mount("http://", HTTPAdapter(max_retries=Retry(connect=8, backoff_factor=0.1)))

    def open(self, lab: str = LAB, signed_in: bool = True) -> requests.Response:
        headers = {"Authorization": f"token {PASS}"} if signed_in else {}
        self.http.cookies.clear()
        return self.http.get(
            f"{self.base}distlab/open", {"lab": lab}, headers=headers, allow_redirects=False, timeout=60
        )


@contextlib.contextmanager
def server(home: Path, rig: Rig) -> Iterator[Learner]:
    """A Jupyter server as in a sandbox; it chooses its own port and writes it into its runtime folder."""
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port=0"]
    extensions = {"distlab.course.open_lab": True, "distlab.course.exchange.assignment_list": True}
    stock = [
        "nbgrader.server_extensions.assignment_list",
        "nbgrader.server_extensions.course_list",
        "nbgrader.server_extensions.formgrader",
        "nbgrader.server_extensions.validate_assignment",
        *("jupyterlab", "notebook", "jupyter_lsp", "jupyter_server_terminals", "jupytext"),
    ]
    config = home / ".jupyter"
    config.mkdir(parents=True)
    settings = {
        "jpserver_extensions": {**extensions, **dict.fromkeys(stock, False)},
        "base_url": "/user/alice/",
    }
    (config / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": settings, "IdentityProvider": {"token": PASS}})
    )
    (config / "nbgrader_config.py").write_text(
        "from distlab.course.exchange import plugin\nplugin.configure(get_config())\n"
    )
    process = subprocess.Popen(
        command,
        cwd=home,
        env={
            **os.environ,
            "HOME": str(home),
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTERHUB_API_TOKEN": token("alice"),
            "JUPYTERHUB_USER": "alice",
            "DISTLAB_EXCHANGE_URL": rig.url,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if "is running at" in line:
                break
        address = next(line.split()[-1] for line in process.stderr if "http://" in line)
        yield Learner(home, address.partition("?")[0].removesuffix("tree"))
    except StopIteration:
        raise AssertionError("the server did not start:\n" + "".join(log)) from None
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("exchange")
    with running(folder) as rig:
        released = lab_folder(folder / "released", hint="predict first")
        rig.client("teacher").release(LAB, find_files(released)[0], replace=False)
        yield rig


@pytest.fixture(scope="module")
def started(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    with server(tmp_path_factory.mktemp("alice") / "home", rig) as learner:
        yield learner


@pytest.fixture
def alice(started: Learner) -> Iterator[Learner]:
    """Alice with an empty home."""
    yield started
    if started.lab.is_dir():
        for path in sorted(started.lab.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        started.lab.rmdir()
    else:
        started.lab.unlink(missing_ok=True)


def test_a_new_learner_lands_in_the_notebook(alice: Learner) -> None:
    answer = alice.open()
    assert answer.status_code == 302, answer.text
    assert answer.headers["Location"] == f"/user/alice/lab/tree/{LAB}/{LAB}.ipynb"
    assert sorted(os.listdir(alice.lab)) == ["hint", f"{LAB}.ipynb"]
    assert not [name for name in os.listdir(alice.home) if name.startswith(".exchange")]


def test_a_learner_who_is_not_signed_in_gets_no_lab(alice: Learner) -> None:
    assert "/login" in alice.open(signed_in=False).headers["Location"]
    assert not alice.lab.exists()


def test_work_is_never_overwritten(alice: Learner) -> None:
    alice.open()
    (alice.lab / f"{LAB}.ipynb").write_text("my work")
    (alice.lab / "hint").unlink()
    assert alice.open().status_code == 302
    assert (alice.lab / f"{LAB}.ipynb").read_text() == "my work"
    assert os.listdir(alice.lab) == [f"{LAB}.ipynb"]


def test_a_missing_notebook_is_restored_and_nothing_else(alice: Learner) -> None:
    alice.lab.mkdir()
    (alice.lab / "mine").write_text("my work")
    assert alice.open().status_code == 302
    assert sorted(os.listdir(alice.lab)) == ["mine", f"{LAB}.ipynb"]


def test_what_stands_in_the_way_is_named_and_kept(alice: Learner) -> None:
    alice.lab.write_text("a file of mine")
    answer = alice.open()
    assert answer.status_code == 503
    assert alice.lab.read_text() == "a file of mine"
    alice.lab.unlink()
    (alice.lab / f"{LAB}.ipynb").mkdir(parents=True)
    answer = alice.open()
    assert answer.status_code == 503
    assert "move what is there aside" in answer.text


def test_a_lab_that_is_not_released_is_said_with_a_way_to_retry(alice: Learner) -> None:
    answer = alice.open("mod-999-lab-9")
    assert answer.status_code == 404
    assert "&quot;mod-999-lab-9&quot; is not released." in answer.text
    assert '<a href="/user/alice/distlab/open?lab=mod-999-lab-9">Try again</a>' in answer.text
    assert '<html lang="en">' in answer.text
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize("lab", ["", "../x", "<script>alert(1)</script>", "mod-107-lab-3/.."])
def test_what_is_no_lab_is_refused_and_escaped(alice: Learner, lab: str) -> None:
    answer = alice.open(lab)
    assert answer.status_code == 400
    assert "<script>" not in answer.text
    assert "is no lab" in answer.text


def test_the_assignment_list_is_the_plain_one(alice: Learner) -> None:
    answer = requests.get(
        f"{alice.base}assignments",
        {"course_id": "distlab"},
        headers={"Authorization": f"token {PASS}"},
        timeout=60,
    ).json()
    assert [item["assignment_id"] for item in answer["value"]] == [LAB]
    refused = requests.post(
        f"{alice.base}assignments/submit",
        json={"course_id": "distlab", "assignment_id": LAB},
        headers={"Authorization": f"token {PASS}"},
        timeout=60,
    ).json()
    assert refused == {"success": False, "value": f"Assignment not found at: {alice.lab}"}


def test_an_exchange_that_is_away_is_said(alice: Learner, rig: Rig) -> None:
    alice.open()
    rig.stop()
    try:
        assert alice.open().status_code == 302  # what is there opens all the same
        (alice.lab / f"{LAB}.ipynb").unlink()
        answer = alice.open()
        assert answer.status_code == 503
        assert "The exchange cannot be reached" in answer.text
        assert "Try again" in answer.text
    finally:
        rig.start()
    assert alice.open().status_code == 302
