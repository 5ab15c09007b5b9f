"""Dashboards stay within the run's folder, whatever lies there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.train.config import LogConfig, TrainConfig
from distlab.train.dashboards import build_dashboards


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_link_in_place_of_a_dashboards_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "outside")
    log: Any = replace(LogConfig(), **{name: True})
    with pytest.raises(SettingError, match=rf"{name} is a link, .* or switch log\.{name} off"):
        build_dashboards(TrainConfig(log=log, folder=str(tmp_path)), tmp_path, 0)
    assert list((tmp_path / "outside").iterdir()) == []
