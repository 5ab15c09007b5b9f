"""One real site for the tests that share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distlab.course.site import Site
from tests.site.running import fresh_site, running


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    with running(fresh_site(folder)) as started:
        yield started
