"""The set-up: locks hold what pyproject.toml asks for, missing packages are named, wheels are cached safely."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distlab.course.sandbox import Problem
from tests import conftest
from tests.programs import command

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "scripts"


def locked(profile: str) -> dict[str, str]:
    """Each pin of a lock with its hashes."""
    text = (REPOSITORY / "requirements" / f"{profile}.txt").read_text()
    pins = re.findall(r"^([a-z0-9._-]+==.*?)(?=\n    #)", text, re.MULTILINE | re.DOTALL)
    return {pin.split("==")[0]: pin for pin in pins}


@pytest.mark.parametrize(
    ("profile", "extras"),
    [("course", ["train", "course"]), ("dev", ["train", "course", "frameworks", "dev"])],
)
def test_a_lock_holds_its_extras(profile: str, extras: list[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [text for extra in extras for text in project["optional-dependencies"][extra]]
    wanted = map(Requirement, project["dependencies"] + asked)
    pins = locked(profile)
    for one in wanted:
        if one.name == "torch":
            assert (REPOSITORY / "requirements" / "torch.txt").read_text() == f"{one}\n"
            assert "torch" not in pins, "torch is pinned without a hash: two builds of it serve"
            continue
        pin = pins[canonicalize_name(one.name)]
        assert one.specifier.contains(re.search(r"==([^ ]+)", pin)[1]), pin  # type: ignore[index]
        assert "--hash=sha256:" in pin


def test_the_tests_run_with_the_course_s_own_pins() -> None:
    dev = locked("dev")
    assert {name: dev[name] for name in locked("course")} == locked("course")


def test_no_lock_names_a_registry() -> None:
    for file in (REPOSITORY / "requirements").glob("*.txt"):
        assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", file.read_text()), file


def test_shell_scripts_parse() -> None:
    shell = [
        file for file in SCRIPTS.iterdir() if file.is_file() and "bash" in file.read_text().split("\n")[0]
    ]
    assert {file.name for file in shell} >= {"setup", "check", "lint", "lock"}
    for file in shell:
        done = subprocess.run(["bash", "-n", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# --- a machine that lacks something ---


@pytest.mark.parametrize("uid", [1000, 0])
def test_a_missing_package_is_installed_by_root_and_named_to_everyone_else(uid: int, tmp_path: Path) -> None:
    """Every program that the set-up finds is in `bin`; bubblewrap and Node.js are not."""
    (tmp_path / "scripts").mkdir()
    setup = shutil.copy(SCRIPTS / "setup", tmp_path / "scripts" / "setup")
    log = tmp_path / "apt-get.log"
    command(tmp_path / "bin", "id", f"echo {uid}")
    command(tmp_path / "bin", "apt-get", f'echo "$@" >> {log}')
    for name in MONITORING:
        command(tmp_path / "bin", name, "true")
    for name in ("bash", "dirname", "setpriv"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [setup, "course"],
        env={"PATH": str(tmp_path / "bin"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    if uid == 0:
        install = "install -y -qq --no-install-recommends bubblewrap"
        assert log.read_text().splitlines() == ["update -qq", install]
        assert done.stderr.endswith(
            "Node.js is missing, and 20 or later is needed: see https://nodejs.org.\n"
        )
    else:
        line = "sudo apt-get install -y bubblewrap"
        assert done.stderr == f"setup: these packages are missing: bubblewrap. Install them with: {line}\n"
        assert not log.exists()
    assert not (tmp_path / ".venv").exists()


MONITORING = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")


@pytest.mark.parametrize("profile", ["course", "dev"])
@pytest.mark.parametrize("uid", [1000, 0])
@pytest.mark.parametrize("apt_works", [True, False])
def test_monitoring_is_wanted_by_the_site_and_needed_by_the_tests(
    profile: str, uid: int, apt_works: bool, tmp_path: Path
) -> None:
    """Every other Debian package is there, and no Node.js: a set-up that goes on stops at that."""
    (tmp_path / "scripts").mkdir()
    setup = shutil.copy(SCRIPTS / "setup", tmp_path / "scripts" / "setup")
    log, policy = tmp_path / "apt-get.log", tmp_path / "policy-rc.d"
    command(tmp_path / "bin", "id", f"echo {uid}")
    answer = f"$(sh {policy} && echo starts services || echo starts $?)"
    command(tmp_path / "bin", "apt-get", f'echo "$@" {answer} >> {log}; exit {int(not apt_works)}')
    for name in ("bwrap", "setpriv", "g++", "cmake", "make", "chromium", "git"):
        command(tmp_path / "bin", name, "true")
    for name in ("bash", "sh", "dirname", "chmod", "rm"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [setup, profile],
        env={"PATH": str(tmp_path / "bin"), "PYTHON": sys.executable, "POLICY_RC_D": str(policy)},
        capture_output=True,
        text=True,
    )
    both = "prometheus prometheus-alertmanager"
    goes_on = profile == "course" or (uid == 0 and apt_works)
    assert done.returncode == 1
    assert ("Node.js is missing" in done.stderr) == goes_on, done.stderr
    if uid == 0:
        install = f"install -y -qq --no-install-recommends {both} starts 101"
        assert log.read_text().splitlines() == ["update -qq starts 101", install]
    else:
        assert not log.exists()
    assert not policy.exists(), "what keeps services from starting is left behind"
    sudo = "" if uid == 0 else "sudo "
    assert (f"{both}. Install them with: {sudo}apt-get install -y {both}" in done.stderr) == (
        uid != 0 or not apt_works
    )


def test_as_root_the_suite_fails_where_isolation_cannot_be_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(*nodeids: str) -> None:
        items = [SimpleNamespace(nodeid=nodeid) for nodeid in nodeids]
        conftest.pytest_collection_finish(SimpleNamespace(items=items))  # type: ignore[arg-type]

    monkeypatch.delenv(conftest.ON_PURPOSE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(conftest, "availability", lambda: [Problem("bwrap is missing", "apt-get install it")])
    with pytest.raises(pytest.UsageError, match=r"bwrap is missing\. What helps: apt-get install it"):
        finish("tests/test_cli.py::test_help", "tests/course/test_box.py::test_a_server")
    finish("tests/train/test_loop.py::test_a_run")  # `make gpu`, in a container
    monkeypatch.setenv(conftest.ON_PURPOSE, "1")
    finish("tests/course/test_box.py::test_a_server")
    monkeypatch.delenv(conftest.ON_PURPOSE)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    finish("tests/course/test_box.py::test_a_server")


# --- the cache of wheels ---


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/wheel_cache.py with a cache of its own, whose builds take no time and are counted in `builds`."""
    spec = importlib.util.spec_from_file_location("wheel_cache", SCRIPTS / "wheel_cache.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wheel_cache", module)
    spec.loader.exec_module(module)
    module.builds = []  # type: ignore[attr-defined]

    def build(recipe: object, python: Path, scratch: Path) -> Path:
        module.builds.append(recipe)  # type: ignore[attr-defined]
        made = scratch / "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("tiny.py", f"answer = {40 + len(module.builds)}")  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(module, "CACHE", tmp_path / "cache" / "distlab" / "wheels")
    monkeypatch.setattr(module, "_build", build)
    return module


def unchanged(source: Path) -> None:
    """A patch for a source that needs none."""


def otherwise(source: Path) -> None:
    """Another one."""


def recipe(wheels: ModuleType, trial: str = "import tiny", **changes: object) -> object:
    settings = {
        "requirement": "tiny==1.0 --hash=sha256:00",
        "variant": "plain",
        "programs": (),
        "environment": {},
        "patch": unchanged,
        **changes,
    }
    return wheels.Recipe(trial=trial, **settings)


PYTHON = Path(sys.executable)


def test_a_wheel_is_built_once(wheels: ModuleType) -> None:
    first = wheels.wheel(recipe(wheels), PYTHON)
    assert wheels.wheel(recipe(wheels), PYTHON) == first
    assert len(wheels.builds) == 1
    assert wheels.wheel(recipe(wheels, variant="other"), PYTHON) != first
    assert wheels.wheel(recipe(wheels, requirement="tiny==1.0 --hash=sha256:11"), PYTHON) != first
    assert wheels.wheel(recipe(wheels, patch=otherwise), PYTHON) != first
    assert wheels.wheel(recipe(wheels, environment={"FLAG": "1"}), PYTHON) != first
    assert len(wheels.builds) == 5


def test_a_damaged_wheel_is_built_again(wheels: ModuleType) -> None:
    first = wheels.wheel(recipe(wheels), PYTHON)
    good = first.read_bytes()
    first.write_bytes(good[:-1])
    assert wheels.wheel(recipe(wheels), PYTHON) == first
    assert len(wheels.builds) == 2
    assert len(first.read_bytes()) == len(good)


def test_a_cached_wheel_that_fails_its_trial_is_built_again(wheels: ModuleType) -> None:
    first = wheels.wheel(recipe(wheels, trial="import tiny; assert tiny.answer == 41"), PYTHON)
    # As after a change of the system's libraries: the wheel is whole, and yet it no longer works.
    assert wheels.wheel(recipe(wheels, trial="import tiny; assert tiny.answer == 42"), PYTHON) == first
    assert len(wheels.builds) == 2


def test_a_wheel_that_never_works_is_not_kept(wheels: ModuleType) -> None:
    with pytest.raises(wheels.BuildError, match="ModuleNotFoundError: No module named 'huge'"):
        wheels.wheel(recipe(wheels, trial="import huge"), PYTHON)
    assert not list(wheels.CACHE.rglob("*.whl"))


def test_a_cache_that_others_may_write_is_refused(wheels: ModuleType) -> None:
    wheels.wheel(recipe(wheels), PYTHON)
    wheels.CACHE.chmod(0o777)
    with pytest.raises(wheels.BuildError, match="can be written by other users"):
        wheels.wheel(recipe(wheels), PYTHON)


def test_missing_tools_are_named(wheels: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(
        wheels.BuildError, match=r"no-such-compiler is missing, which tiny 1\.0 \(plain\) is compiled"
    ):
        wheels.wheel(recipe(wheels, programs=("no-such-compiler",)), PYTHON)
    with pytest.raises(wheels.BuildError, match="make one with scripts/setup"):
        wheels.wheel(recipe(wheels), tmp_path / "no" / "python")


def test_a_patch_for_another_source_is_refused(wheels: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "CMakeLists.txt"
    source.write_text("set(STANDARD 14)")
    wheels.replace(source, "14", "17")
    assert source.read_text() == "set(STANDARD 17)"
    with pytest.raises(wheels.BuildError, match="the source has changed"):
        wheels.replace(source, "14", "17")


def test_a_failed_command_shows_its_last_lines(
    wheels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels.tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(
        wheels.BuildError, match=r"compiling failed \(exit 3; all of it in .*:\nno such header"
    ):
        wheels._run("compiling", ["sh", "-c", "echo no such header; exit 3"], tmp_path)


def test_the_build_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "build_horovod", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "scripts/build_horovod" in done.stdout
