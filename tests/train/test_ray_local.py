"""A local Ray that does not start: tried again where that may help, one sentence, and nothing left."""

from __future__ import annotations

import os
from typing import Any

import pytest

from distlab.errors import LaunchError
from distlab.train.ray_local import START_ATTEMPTS, TIMED_OUT, local_ray

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'distlab[frameworks]'")


@pytest.mark.parametrize(
    ("said", "times", "message"),
    [
        (
            f"The node {TIMED_OUT}.",
            START_ATTEMPTS,
            "^Ray did not start within its 30 s, 3 times; end what else",
        ),
        ("No port is free", 1, "^Ray did not start; mend what it says, and start again: No port is free$"),
    ],
)
def test_a_ray_that_does_not_start(
    said: str, times: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def refuse(*, _temp_dir: str, **options: Any) -> None:
        assert os.path.isdir(_temp_dir)
        folders.append(_temp_dir)
        raise RuntimeError(said)

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(LaunchError, match=message), local_ray(2):
        pass
    assert len(folders) == times
    assert not any(map(os.path.exists, folders))
