"""What injected faults have left is found, and nothing else is."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distlab.errors import SettingError
from distlab.faults import leftovers as module
from distlab.faults.leftovers import left_behind, leftovers
from distlab.faults.network import owner
from distlab.train.records import LOCK


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is left: its folders of namespaces and of mounts."""
    (tmp_path / "netns").mkdir()
    (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n")
    monkeypatch.setattr(module, "NAMESPACES", tmp_path / "netns")
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "mounts")
    return tmp_path


def test_nothing_is_left_of_nothing(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (machine / "run").mkdir()
    (machine / "run" / LOCK).touch()
    (machine / "netns" / "theirs").touch()
    mine = owner(psutil.Process())  # in use, as this process lives
    (machine / "netns" / f"{mine}-switch").touch()
    (machine / "mounts").write_text(f"{mine} /tmp/distlab-disk-x tmpfs rw 0 0\n")
    assert left_behind((machine / "run",)) == []
    assert leftovers((machine / "run",)) == 0
    assert capsys.readouterr().out == "Nothing is left of injected faults.\n"


def test_each_thing_that_is_left_says_how_it_goes(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = machine / "run"
    run.mkdir()
    (run / "ballast").write_bytes(b"1234")
    (machine / "netns" / "distlab-12-34-switch").touch()
    (machine / "mounts").write_text("distlab-12-34 /tmp/distlab-disk-x tmpfs rw,size=8192k 0 0\n")
    with (run / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert leftovers((run,), json=True) == 1
    held, ballast, namespace, mount = json.loads(capsys.readouterr().out)
    assert f"A process holds {run}/{LOCK}" in held
    assert f"{run}/ballast takes 4 bytes: remove it." == ballast
    assert "`ip netns delete distlab-12-34-switch`" in namespace
    assert "`umount /tmp/distlab-disk-x`" in mount


def test_a_small_disk_that_a_killed_process_leaves_is_found() -> None:
    code = (
        "import os; from distlab.faults.storage import small_disk\n"
        "with small_disk(1) as disk: print(disk, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "Cannot mount" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    disk = done.stdout.strip()
    assert f"A small file system is still mounted at {disk}: `umount {disk}`." in left_behind()
    subprocess.run(["umount", disk], check=True)
    Path(disk).rmdir()
    assert not any(disk in sentence for sentence in left_behind())


def test_a_folder_that_is_none_is_bad_input(machine: Path) -> None:
    with pytest.raises(SettingError, match="is no folder"):
        leftovers((machine / "missing",))
