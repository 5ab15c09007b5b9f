"""Where a site is, and where it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.course.site import Site


def test_links_lead_to_the_address_that_the_running_site_has(tmp_path: Path) -> None:
    site = Site(root=tmp_path)
    assert site.address == "http://localhost:8000"
    site.run.mkdir(parents=True)
    (site.run / "hub.json").write_text(json.dumps({"url": "http://course.example.org:9000"}))
    assert site.address == "http://course.example.org:9000"


def test_another_process_finds_the_same_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(
        root=tmp_path, port=9001, bind="127.0.0.2", host="course.example.org", state=tmp_path / "state"
    )
    for name, value in site.env().items():
        monkeypatch.setenv(name, value)
    assert Site.from_env() == site
