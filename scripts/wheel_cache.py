"""Builds a wheel from its source once per machine, and keeps it under ~/.cache/distlab/wheels.

Used by `scripts/build_horovod`; needs nothing beside Python's own library.

A wheel that holds machine code fits one torch, one Python and one way of building: it lies in a folder named
by a hash of them all, so that it is never used with others. It is used only if the cache belongs to this user
alone, its checksum is the one written down when it was built, and it passes the same trial as a fresh one.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
CACHE = Path.home() / ".cache" / "distlab" / "wheels"

TRIAL_LIMIT_S = 120
BUILT_WITH = ("torch", "setuptools", "wheel")
"""What must be in the environment: the build sees no other."""


class BuildError(Exception):
    """A wheel that cannot be had; the message is for the person who asked for it."""


@dataclass(frozen=True)
class Recipe:
    """How one variant of a framework is built.

    `requirement` is a line for pip with the version and the sha256 of the source. `programs` are what compiles
    it. `environment` is added to the build's. `patch` changes the unpacked source. `trial` is a Python program
    that fails where the wheel does not work.
    """

    requirement: str
    variant: str
    programs: tuple[str, ...]
    environment: Mapping[str, str]
    patch: Callable[[Path], None]
    trial: str

    @property
    def name(self) -> str:
        return re.split(r"[=\s]", self.requirement)[0]

    @property
    def title(self) -> str:
        version = re.split(r"[=\s]+", self.requirement)[1]
        return f"{self.name} {version} ({self.variant})"


def wheel(recipe: Recipe, python: Path) -> Path:
    """The wheel of `recipe` for the environment of `python`: from the cache, or built now."""
    folder = _private(CACHE) / f"{recipe.name}-{_key(recipe, python)}"
    found = _cached(folder)
    if found:
        try:
            _try(recipe, found, python)
        except BuildError as error:
            _say(f"{recipe.title}: the cached wheel is dropped: {error}")
        else:
            _say(f"{recipe.title}: from the cache")
            return found
    for program in recipe.programs:
        if not shutil.which(program):
            raise BuildError(
                f"{program} is missing, which {recipe.title} is compiled with: scripts/setup names it."
            )
    with tempfile.TemporaryDirectory(prefix="distlab-build-") as scratch:
        built = _build(recipe, python, Path(scratch))
        _try(recipe, built, python)
        return _keep(built, folder)


def replace(file: Path, old: str, new: str) -> None:
    """Change a source file; that `old` is not there means that this is not the version the patch is for."""
    text = file.read_text(encoding="utf-8")
    if old not in text:
        raise BuildError(f"the source has changed: {file.name} does not contain {old!r}.")
    file.write_text(text.replace(old, new), encoding="utf-8")


def main(make: Callable[[str, Path], Recipe], variants: tuple[str, ...], purpose: str) -> None:
    """The command line: a variant, and the Python to build for."""
    parser = argparse.ArgumentParser(
        description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", nargs="?", choices=variants, default=variants[0])
    parser.add_argument(
        "--python", type=Path, default=ROOT / ".venv/bin/python", help="the environment to build for"
    )
    arguments = parser.parse_args()
    python = arguments.python.absolute()
    try:
        print(wheel(make(arguments.variant, python), python))
    except BuildError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


# --- the cache ---


def _private(folder: Path) -> Path:
    """The cache's folder, if nobody else can put a wheel there: what is in it gets installed, maybe by root."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        path.mkdir(exist_ok=True, mode=0o700)
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise BuildError(
                f"{path} can be written by other users; remove it, or make it yours with mode 700."
            )
    return folder


def _key(recipe: Recipe, python: Path) -> str:
    """A hash of all that the wheel depends on."""
    versions = (
        "import importlib.metadata as m, json, sys; "
        f"print(json.dumps([sys.implementation.cache_tag, *(m.version(n) for n in {BUILT_WITH!r})]))"
    )
    try:
        done = subprocess.run([python, "-c", versions], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise BuildError(
            f"{python} is no environment with {', '.join(BUILT_WITH)} ({reason}); make one with scripts/setup."
        ) from error
    python_and_torch = json.loads(done.stdout)[:2]
    parts = [recipe.requirement, recipe.variant, *python_and_torch, platform.machine(), *platform.libc_ver()]
    parts += [
        inspect.getsource(recipe.patch),
        inspect.getsource(_build),
        json.dumps(dict(recipe.environment)),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _cached(folder: Path) -> Path | None:
    """The wheel in `folder`, if it is the one that was put there."""
    for file in folder.glob("*.whl"):
        written = file.with_suffix(".sha256")
        if written.is_file() and written.read_text().strip() == _sha256(file):
            return file
        _say(f"{file} is damaged: it is built again")
    return None


def _keep(built: Path, folder: Path) -> Path:
    """Move a wheel into the cache; a folder is there whole or not at all."""
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
    shutil.copy2(built, staged)
    (staged / built.name).with_suffix(".sha256").write_text(_sha256(built))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        staged.rename(folder)
    except OSError:  # another build was faster
        shutil.rmtree(staged)
    return folder / built.name


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- building ---


def _build(recipe: Recipe, python: Path, scratch: Path) -> Path:
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation"]
    wanted = scratch / "requirement.txt"
    wanted.write_text(recipe.requirement + "\n", encoding="utf-8")
    download = [
        "download",
        *options,
        "--no-binary",
        recipe.name,
        "--require-hashes",
        "-r",
        wanted,
        "-d",
        scratch,
    ]
    _run(f"{recipe.title}: fetching the source", [*pip, *map(str, download)], scratch)
    (archive,) = scratch.glob("*.tar.gz")
    shutil.unpack_archive(archive, scratch)  # as its maker packed it: pip has checked the sha256
    source = scratch / archive.name.removesuffix(".tar.gz")
    recipe.patch(source)
    environment = {
        **os.environ,
        # Programs that pip installed: ninja.
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "MAX_JOBS": str(_jobs()),
        "MAKEFLAGS": f"-j{_jobs()}",
        # No debugging symbols: two thirds of the time, a tenth of the size.
        "CFLAGS": "-g0",
        "LDFLAGS": "-Wl,-s",
        **recipe.environment,
    }
    command = [*pip, "wheel", "-v", *options, "-w", str(scratch / "wheels"), str(source)]
    _run(f"{recipe.title}: compiling", command, scratch, environment)
    (built,) = (scratch / "wheels").glob("*.whl")
    return built


def _jobs() -> int:
    """Compilers at once: one per core, as long as each has its 1.5 GiB of memory."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), int(memory_bytes // (1.5 * 2**30))))


def _try(recipe: Recipe, built: Path, python: Path) -> None:
    """Run the recipe's trial with the wheel before anything that is installed."""
    with tempfile.TemporaryDirectory(prefix="distlab-trial-") as unpacked:
        with zipfile.ZipFile(built) as archive:
            archive.extractall(unpacked)
        environment = {**os.environ, "PYTHONPATH": unpacked}
        try:
            done = subprocess.run(
                [python, "-c", recipe.trial],
                cwd=unpacked, env=environment, capture_output=True, text=True, timeout=TRIAL_LIMIT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{recipe.title}: its trial run hung for {TRIAL_LIMIT_S} s.") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise BuildError(f"{recipe.title} does not work here: {last}")


def _run(what: str, command: list[str], scratch: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command and show how far it is; its output is shown only where it fails."""
    log = scratch / "log"
    began = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        while (status := _wait(process)) is None:
            now = time.monotonic()
            if terminal:
                print(f"\r{what} {_progress(log)}{now - began:.0f} s ", end="", file=sys.stderr, flush=True)
            elif now - shown > 20:
                shown = now
                _say(f"{what} {_progress(log)}{now - began:.0f} s")
    except KeyboardInterrupt:  # the terminal told the compilers too
        process.wait()
        raise
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr)
    if status:
        kept = Path(tempfile.gettempdir()) / f"distlab-build-{os.getpid()}.log"
        shutil.copy(log, kept)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{what} failed (exit {status}; all of it in {kept}):\n{tail}")
    if (seconds := time.monotonic() - began) > 2:
        _say(f"{what}: done in {seconds:.0f} s")


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """A second's wait: the exit status, or None."""
    try:
        return process.wait(1)
    except subprocess.TimeoutExpired:
        return None


def _progress(log: Path) -> str:
    """The last "[ 42%]" (CMake) or "[3/6]" (ninja) of a build's output."""
    marks = re.findall(r"\[ *(\d+%|\d+/\d+)\]", log.read_text(errors="replace"))
    return f"{marks[-1]}, " if marks else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
