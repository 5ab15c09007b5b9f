"""Parts of a recording that misbehave, for test_record.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    what, where = arguments[0], Path(arguments[1])
    if what in ("deaf", "leaves"):
        if what == "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        where.write_text(str(child.pid))
        if what == "leaves":
            return
        threading.Event().wait()
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    (where / f"{where.name}.json").write_text("{}")
    if what == "raise":
        raise ValueError("nothing works")
    if what == "hang":
        threading.Event().wait()
