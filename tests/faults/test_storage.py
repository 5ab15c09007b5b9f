from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from distlab.errors import SettingError
from distlab.faults.storage import (
    LEFT_BYTES,
    answer_again,
    damage,
    fill_disk,
    is_stalled,
    newest_checkpoint,
    small_disk,
    stall,
    truncate,
)


def _write(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        while file.tell() < size:
            file.write(b"0123")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step_2.ckpt"
    folder.mkdir()
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(bytes(range(200)))
    return folder


def test_damage_is_one_bit_of_the_largest_file(checkpoint: Path) -> None:
    before = _files(checkpoint)
    assert damage(checkpoint) == str(checkpoint / "large")
    after = _files(checkpoint)
    assert after["small"] == before["small"]
    differs = [a ^ b for a, b in zip(before["large"], after["large"], strict=True) if a != b]
    assert [bits.bit_count() for bits in differs] == [1]


def test_truncation_takes_the_second_half_of_the_largest_file(checkpoint: Path) -> None:
    assert truncate(checkpoint) == str(checkpoint / "large")
    assert _files(checkpoint) == {"small": b"small", "large": bytes(range(100))}


def test_a_single_file_and_a_store_will_do_as_well(checkpoint: Path) -> None:
    damage(checkpoint / "small")
    assert (checkpoint / "small").read_bytes() != b"small"
    with fsspec.open("memory://runs/step_1.ckpt/part", "wb") as file:
        file.write(b"0123456789")
    truncate("memory://runs/step_1.ckpt")
    with fsspec.open("memory://runs/step_1.ckpt/part") as file:
        assert file.read() == b"01234"


def test_nothing_to_damage(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SettingError, match="holds no file with anything in it"):
            damage(folder)


def test_the_newest_checkpoint_is_a_complete_one(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        (tmp_path / f"step_{step}.ckpt").mkdir()
    with pytest.raises(SettingError, match="no complete checkpoint"):
        newest_checkpoint(str(tmp_path))
    for step in (5, 10):
        (tmp_path / f"step_{step}.json").touch()
    assert newest_checkpoint(str(tmp_path)) == f"{tmp_path}/step_10.ckpt"


def test_a_small_disk_is_full_for_whoever_writes_and_gone_afterwards() -> None:
    try:
        disk = small_disk(2)
        with disk as folder:
            assert "ENOSPC" in fill_disk(folder / "run")
            with pytest.raises(OSError, match="No space left") as error:
                _write(folder / "more", LEFT_BYTES + 1)
            assert error.value.errno == errno.ENOSPC
    except SettingError as error_:
        pytest.skip(str(error_))
    assert not folder.exists()


def test_without_rights_there_is_no_small_disk() -> None:
    code = "from distlab.faults.storage import small_disk\nwith small_disk(1): pass"
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    if "setpriv" in done.stderr:
        pytest.skip("only root may give up rights")
    assert "SettingError: Cannot mount a file system of 1 MiB" in done.stderr
    assert "run as root" in done.stderr


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "open": lambda folder: (folder / "new").write_bytes(b"1"),
    "read": lambda folder: (folder / "old").read_bytes(),
    "list": os.listdir,
    "make": lambda folder: (folder / "below").mkdir(),
    "rename": lambda folder: (folder.parent / "outside").rename(folder / "inside"),
    "remove": lambda folder: (folder / "old").unlink(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_silent_folder_holds_whoever_needs_it_until_it_answers(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "old").write_bytes(b"0")
    (tmp_path / "outside").write_bytes(b"0")
    log = (run / "log").open("w")
    stall(run, 3600)
    done = threading.Event()

    def work() -> None:
        OPERATIONS[name](run)
        done.set()

    thread = threading.Thread(target=work)
    try:
        thread.start()
        assert is_stalled(run)
        with log:
            log.write("what is open goes on")
        (tmp_path / "runs").mkdir()  # the name begins alike, and is another folder
        assert (tmp_path / "outside").read_bytes() == b"0"
        assert not done.is_set()
    finally:
        answer_again(run)
    thread.join()
    assert done.is_set()
    assert not is_stalled(run)
    assert (run / "log").read_text() == "what is open goes on"


def test_silence_has_an_end_and_a_link_leads_into_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    stall(tmp_path / "link", 0.05)
    (tmp_path / "run" / "file").touch()
    assert not is_stalled(tmp_path / "run"), "what waited went on when its time was over"
    answer_again(tmp_path / "run")  # nothing is to be ended
