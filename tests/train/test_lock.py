"""Who looks whether a run goes on does not keep one from starting."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.train import lock
from distlab.train.config import TrainConfig
from distlab.train.lock import only_run
from distlab.train.records import LOCK


def test_a_glance_at_the_lock_refuses_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "GLANCE_S", 60.0)  # however slow this machine is
    config = TrainConfig(name="demo", folder=str(tmp_path))
    (tmp_path / "demo").mkdir()
    with (tmp_path / "demo" / LOCK).open("w") as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (glance, fcntl.LOCK_UN)).start()
        with only_run(config):
            pass


def test_a_run_that_goes_on_refuses_another(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(name="demo", folder=str(tmp_path))
    with (
        only_run(config),
        pytest.raises(SettingError, match=r"is writing a run into .*demo"),
        only_run(config),
    ):
        pass
    assert capfd.readouterr().err == "", "a fraction of a second is no wait to speak of"
