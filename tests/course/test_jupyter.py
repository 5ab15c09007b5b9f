"""The configuration of learners' and instructors' servers, in real Jupyter servers and the real nbgrader."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup
from jupyter_client import BlockingKernelClient
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader import __version__ as nbgrader_version
from nbgrader.api import Gradebook
from nbgrader.apps import api, autogradeapp
from playwright.sync_api import Page, Route, expect, sync_playwright
from traitlets.config import Config

from distlab.course import spawner
from distlab.course.grade.autograde import Autograde
from distlab.course.grade.graders import UnixConnection
from distlab.course.jupyter import settings
from distlab.course.release import release_all
from distlab.course.sandbox import availability
from distlab.course.site import COURSE_ID, Site
from tests.course.grading_rig import auto_scores, grading_service, instructor_env
from tests.course.small_lab import LAB_ID, Submission, write_lab
from tests.course.test_grade import XSS_CODE, XSS_MARKDOWN
from tests.site.browser import CHROMIUM_FLAGS

TOKEN = "token-of-this-test"
PLANTED = "from pathlib import Path\nPath.home().joinpath('planted').touch()\n"


class Server:
    """A running Jupyter server, on a Unix socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], str]:
        connection = UnixConnection(str(self.socket))
        try:
            headers = {"Authorization": f"token {TOKEN}", "Host": "localhost"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.status("/api/status") == 200
        except OSError:
            return False

    def get(self, path: str) -> str:
        status, _, body = self.ask("GET", path)
        assert status == 200, (path, status, body[:500])
        return body

    def status(self, path: str) -> int:
        return self.ask("GET", path)[0]


@contextmanager
def jupyter_server(env: dict[str, str], folder: Path) -> Iterator[Server]:
    server = Server(folder / "jupyter.sock")
    options = [f"--ServerApp.sock={server.socket}", f"--IdentityProvider.token={TOKEN}", "--allow-root"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["jupyter", "server", *options, "--no-browser"], env=env, cwd=env["HOME"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not server.answers():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        assert "Traceback" not in (folder / "log").read_text()
        yield server
    finally:
        process.terminate()  # and not killed: it ends the telemetry page that it started
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with a released lab and a hostile submission."""
    site = Site(tmp_path_factory.mktemp("site"))
    write_lab(site.root)
    release_all(site)
    submission = Submission(site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb").honest()
    submission.add(XSS_CODE).answer("explain", XSS_MARKDOWN).add(XSS_MARKDOWN, cell_type="markdown")
    submission.submit(
        site.course,
        "mallory",
        evil_dot_html="<script>alert('XSS')</script>",
        ipykernel_launcher_dot_py=PLANTED,
        matplotlib_inline_dot_py=PLANTED,
    )
    return site


@pytest.fixture(scope="module")
def learner(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("learner")
    with jupyter_server(instructor_env(site, folder / "home", "learner"), folder) as server:
        yield server


@pytest.fixture(scope="module")
def instructor(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("instructor")
    with (
        grading_service(site),
        jupyter_server(instructor_env(site, folder / "home"), folder) as server,
    ):
        yield server


def page_config(server: Server) -> dict[str, Any]:
    page = BeautifulSoup(server.get("/lab"), "html.parser")
    config = page.find("script", id="jupyter-config-data")
    assert config is not None
    loaded: dict[str, Any] = json.loads(config.get_text())
    return loaded


def test_a_learners_server_has_the_learners_extensions_alone(learner: Server) -> None:
    assert json.loads(learner.get(f"/nbgrader_version?version={nbgrader_version}")) == {"success": True}
    assert learner.status("/distlab/open?lab=no-lab") == 400
    assert "success" in json.loads(learner.get(f"/assignments?course_id={COURSE_ID}"))
    for path in ("/formgrader", "/formgrader/api/status", "/formgraders"):
        assert learner.status(path) == 404


@pytest.mark.parametrize("kind", ["learner", "instructor"])
def test_jupyterlab_asks_no_other_host_and_shows_no_popups(kind: str, request: pytest.FixtureRequest) -> None:
    config = page_config(request.getfixturevalue(kind))
    assert config["news"] == {"disabled": True}
    disabled = config["disabledExtensions"]
    assert "@jupyterlab/apputils-extension:announcements" in disabled
    assert "@jupyterlab/extensionmanager-extension" in disabled
    assert config["extensionManager"]["can_install"] is False


def test_the_lab_shows_the_menus_of_its_user(learner: Server, instructor: Server) -> None:
    authoring = {"@jupyter/nbgrader:formgrader", "@jupyter/nbgrader:create-assignment"}
    assert authoring <= set(page_config(learner)["disabledExtensions"])
    assert not authoring & set(page_config(instructor)["disabledExtensions"])


def test_validate_does_not_take_a_warning_for_a_failure(learner: Server, site: Site) -> None:
    test = new_code_cell("import sys\nprint('a warning', file=sys.stderr)\nassert 1 == 1")
    meta = {"grade": True, "solution": False, "locked": True, "points": 1, "schema_version": 3, "task": False}
    test.metadata["nbgrader"] = {**meta, "grade_id": "t"}
    wrong = new_code_cell("assert 1 == 2, 'wrong'")
    wrong.metadata["nbgrader"] = {**meta, "grade_id": "w"}
    for name, cells, failed in (("right", [test], 0), ("wrong", [test, wrong], 1)):
        notebook = new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        model = {"type": "notebook", "format": "json", "content": notebook}
        assert learner.ask("PUT", f"/api/contents/{name}.ipynb", model)[0] == 201
        status, _, body = learner.ask("POST", "/assignments/validate", {"path": f"{name}.ipynb"})
        assert status == 200
        assert json.loads(body)["success"] is True
        result = json.loads(body)["value"]
        assert len(result.get("failed", [])) == failed, result


@pytest.mark.parametrize("page", ["manage_assignments", f"manage_submissions/{LAB_ID}", "manage_students"])
def test_formgraders_tables_are_quick_to_fill(instructor: Server, page: str) -> None:
    html = instructor.get(f"/formgrader/{page}")
    script = f"/formgrader/static/js/{page.partition('/')[0]}.js"
    # After the page's own script, whose row it copies, and after the tables' library.
    assert 0 < html.index("jquery.dataTables.js") < html.index(script) < html.index("autoWidth: false")
    assert "var insertRow = function (table)" in instructor.get(script), "what the pages' rows are made by"


@contextmanager
def browsing(server: Server, width: int) -> Iterator[Page]:
    """A page of a real browser in which `http://localhost` is the server on its socket."""

    def answer(route: Route) -> None:
        address = urlsplit(route.request.url)
        try:
            status, headers, body = server.ask("GET", f"{address.path}?{address.query}")
        except UnicodeDecodeError:  # a font
            route.abort()
        else:
            route.fulfill(status=status, headers=headers, body=body)

    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.route("**/*", answer)
        yield page
        chromium.close()


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")), reason="needs Chromium"
)
def test_formgraders_tables_name_everyone_and_fit_a_phone(instructor: Server, site: Site) -> None:
    with Gradebook(f"sqlite:///{site.course / 'gradebook.db'}", COURSE_ID) as gradebook:
        gradebook.update_or_create_student("mallory")
        gradebook.update_or_create_student("grace", last_name="Hopper", first_name="Grace")
    with browsing(instructor, width=390) as page:
        page.goto("http://localhost/formgrader/manage_students")
        names = page.locator("#main-table tr td:first-child")
        expect(names).to_have_text(["Hopper, Grace", "mallory"])
        for table in (f"manage_submissions/{LAB_ID}", "manage_assignments"):
            page.goto(f"http://localhost/formgrader/{table}")
            expect(page.locator("#main-table")).to_contain_text("mallory" if "sub" in table else LAB_ID)
            expect(page.locator("#main-table")).not_to_contain_text("None, None")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.locator("meta[name=viewport]").count() == 1


def test_formgrader_grades_in_the_sandbox_and_shows_no_script(instructor: Server, site: Site) -> None:
    if availability():
        pytest.skip("needs sandboxes with limits")
    assert [lab["name"] for lab in json.loads(instructor.get("/formgrader/api/assignments"))] == [LAB_ID]
    status, _, body = instructor.ask("POST", f"/formgrader/api/submission/{LAB_ID}/mallory/autograde")
    assert status == 200
    assert json.loads(body)["success"], json.loads(body)
    assert auto_scores(site, "mallory")["hidden_triple"] == 5

    with Gradebook(f"sqlite:///{site.course / 'gradebook.db'}", COURSE_ID) as gradebook:
        submission = gradebook.find_submission_notebook(LAB_ID, LAB_ID, "mallory").id
    status, headers, html = instructor.ask("GET", f"/formgrader/submissions/{submission}/")
    assert status == 200
    assert headers["Content-Security-Policy"] == settings.INSTRUCTOR_CSP
    page = BeautifulSoup(html, "html.parser")
    shown = page.find(id="notebook-container")
    assert shown is not None
    assert "hidden_double" in shown.get_text()
    assert not shown.find_all(["script", "iframe", "object", "embed", "form", "svg", "link", "base", "style"])
    for element in shown.find_all(True):
        assert not [name for name in element.attrs if name.startswith("on") or name == "srcdoc"]
        assert "url" not in element.attrs.get("style", "")
        assert not element.attrs.get("href", "").lower().startswith(("javascript:", "data:"))
    for element in page.find_all(["script", "link", "img", "iframe"]):
        assert not element.attrs.get("src", element.attrs.get("href", "")).startswith(
            ("http:", "https:", "//")
        )

    status, headers, _ = instructor.ask("GET", f"/formgrader/submissions/{submission}/evil.html")
    assert status == 200
    assert headers["Content-Disposition"] == "attachment"
    assert "sandbox" in headers["Content-Security-Policy"]
    for path in ("files", "nbconvert/html"):
        name = "evil.html" if path == "files" else f"{LAB_ID}.ipynb"
        _, headers, _ = instructor.ask("GET", f"/{path}/submitted/mallory/{LAB_ID}/{name}")
        assert "sandbox" in headers["Content-Security-Policy"], path


def test_opening_a_submission_runs_nothing_that_lies_beside_it(
    instructor: Server,
) -> None:
    session = {
        "path": f"submitted/mallory/{LAB_ID}/{LAB_ID}.ipynb",
        "name": LAB_ID,
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    status, _, body = instructor.ask("POST", "/api/sessions", session)
    assert status == 201, body
    kernel = json.loads(body)["kernel"]["id"]
    home = instructor.socket.parent / "home"
    (connection,) = home.rglob(f"kernel-{kernel}.json")
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        answer = client.execute_interactive("%matplotlib inline", timeout=60)
        assert answer["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        instructor.ask("DELETE", f"/api/kernels/{kernel}")
    assert not (home / "planted").exists()


def test_nbgraders_command_of_a_learner_speaks_to_the_exchange(site: Site, tmp_path: Path) -> None:
    env = instructor_env(site, tmp_path / "home", "learner")
    done = subprocess.run(
        ["nbgrader", "list"], env=env, cwd=env["HOME"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "DISTLAB_EXCHANGE_URL" in done.stderr


@pytest.mark.parametrize("kind", ["learner", "instructor"])
def test_the_page_of_telemetry_is_all_that_is_reached_through_the_server(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    (entry,) = json.loads(server.get("/server-proxy/servers-info"))["server_processes"]
    assert entry["launcher_entry"]["title"] == "Telemetry"
    assert server.get("/server-proxy/icon/telemetry").startswith("<svg")
    status, headers, page = server.ask("GET", "/telemetry/")
    assert status == 200, page
    assert "<h1>Telemetry</h1>" in page
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("", "127.0.0.1:", "localhost:", "absolute/", "absolute/localhost:"):
            assert server.status(f"/proxy/{host}{port}/metrics") == 404, host
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_broken_configuration_is_an_error(site: Site, tmp_path: Path) -> None:
    env = instructor_env(site, tmp_path / "home")
    broken = tmp_path / "config"
    broken.mkdir()
    (broken / "nbgrader_config.py").write_text("raise ValueError('broken on purpose')")
    env["JUPYTER_CONFIG_PATH"] = str(broken)
    done = subprocess.run(
        ["nbgrader", "list"], env=env, cwd=env["HOME"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "broken on purpose" in done.stderr


def test_nbgraders_autograde_is_the_coordinators(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (api, autogradeapp):
        monkeypatch.setattr(module, "Autograde", module.Autograde)  # put back afterwards
    settings.instructor_nbgrader(Config())
    assert api.Autograde is autogradeapp.Autograde is Autograde
    assert Path(settings.__file__).parent == spawner.CONFIGS
