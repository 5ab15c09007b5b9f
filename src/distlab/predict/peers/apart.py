"""Packages that stand beside the environment, because their pins contradict the lock's: .venv/peers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix) / "peers"


def module(name: str) -> ModuleType:
    """Import it from the environment, or from FOLDER. ImportError where it is in neither."""
    with quiet():
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            with _importable():
                return importlib.import_module(name)
        return importlib.import_module(name)


def version(distribution: str) -> str:
    """Of a package in FOLDER; metadata.PackageNotFoundError where it is not there."""
    for found in metadata.distributions(name=distribution, path=[str(FOLDER)]):
        return str(found.version)
    raise metadata.PackageNotFoundError(distribution)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what they log: warnings that speak to somebody who chose their settings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    sys.path.append(str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
