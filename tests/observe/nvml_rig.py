"""The real nvidia-ml-py in a process of its own, over a driver's library made of C for the test (fake_nvml.c)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from distlab.observe.encoding import decode
from distlab.observe.sample import Reading

SOURCE = Path(__file__).with_name("fake_nvml.c")
READER = """
import json, sys
from distlab.observe.encoding import encode
from distlab.observe.nvml import NvmlSource
source = None
for line in sys.stdin:
    if line == "new\\n":
        if source: source.close()
        source = NvmlSource(clock=lambda: now)
    else:
        now = float(line)
        print(json.dumps({"time": now} | encode(source.read())), flush=True)
source.close()
"""


def build_driver(folder: Path, *defines: str) -> Path:
    """Compile the library into the folder; a compiler that is missing fails the test."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-w",
        *(f"-D{name}" for name in defines),
        "-o",
        str(library),
        str(SOURCE),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class Driver:
    """A process that reads GPUs. `control` says what they are like from now on."""

    def __init__(self, library: Path | None, control: Path) -> None:
        self._control = control
        environment = os.environ | {"FAKE_NVML": str(control), "LD_LIBRARY_PATH": str(library or "")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, text: str = "") -> Driver:
        """A new source, of GPUs that are like that."""
        self.control(text)
        self._send("new")
        return self

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def control(self, text: str) -> None:
        part = self._control.with_suffix(".part")
        part.write_text(text + "\n")
        part.replace(self._control)

    def read(self, at: float) -> Reading:
        """A reading at that time of its clock."""
        self._send(str(at))
        assert self._process.stdout
        return decode(self._process.stdout.readline())[1]

    def _send(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
