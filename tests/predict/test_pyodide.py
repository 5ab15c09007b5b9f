"""The wheel's models run in a page: Python in WebAssembly (Pyodide, under node) predicts what CPython does.

`scripts/setup` installs node's package; where it or node is missing, this fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPT = HERE / "pyodide" / "predictions.py"
PYODIDE = ROOT / "node_modules" / "pyodide"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this source, built as pip builds it, from a copy: setuptools writes into the tree that it builds."""
    tree = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tree / "src", ignore=ignore)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out)]
    ended = subprocess.run([*pip, str(tree)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (made,) = out.glob("distlab-*-py3-none-any.whl")
    return made


def test_a_page_predicts_what_cpython_does(wheel: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "node is missing; scripts/setup says which version is needed"
    assert PYODIDE.is_dir(), f"{PYODIDE} is missing; scripts/setup installs it"
    zipfile.ZipFile(wheel).extractall(tmp_path)
    native = _predictions([sys.executable, str(SCRIPT)], PYTHONPATH=str(tmp_path))
    page = _predictions([node, str(HERE / "pyodide" / "run.mjs"), str(PYODIDE), str(wheel), str(SCRIPT)])
    assert page.pop("python") != native.pop("python")
    assert page.pop("heavy") == native.pop("heavy") == []
    tables = page.pop("printed")
    assert tables == native.pop("printed")
    assert all(len(table) > 500 for table in tables)
    assert len(page) > 8
    # sum() of floats compensates from Python 3.12 on, and each C library rounds exp and log in its own way.
    assert _flat(page) == pytest.approx(_flat(native), rel=1e-12)


def _predictions(command: list[str], **environment: str) -> dict[str, Any]:
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _flat(found: dict[str, Any]) -> dict[str, float]:
    """`{"step": {"optimizer": 1.0}}` as `{"step: optimizer": 1.0}`."""
    flat: dict[str, float] = {}
    for name, value in found.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}: {part}": number for part, number in parts}
    return flat
