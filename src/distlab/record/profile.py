"""A short training run under torch's profiler, as a profile's folder that `distlab profile` reads.

python -m distlab.record.profile starved FOLDER --device gpu
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distlab.bench.device import choose_device
from distlab.observe.profile.analyze import analyze
from distlab.observe.profile.capture import CaptureOptions
from distlab.observe.profile.description import Description, claim, write_description
from distlab.record.runs import CASES, train_for

OPTIONS = CaptureOptions(steps=3, warmup=2, wait=4)
"""Few steps: a trace grows by a megabyte or more with each."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES[:3])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    asked: Any = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "distlab.record.profile", asked.case, "--device", asked.device])
    device = choose_device(asked.device)
    description = Description(command, OPTIONS)
    claim(asked.folder, description)
    os.environ |= OPTIONS.environment(asked.folder)
    # Steps after the profile, too: the profiler's own cost is measured against them.
    taken = train_for(asked.case, None, device, seconds=0.0, steps=OPTIONS.needed + 3)
    write_description(asked.folder, replace(description, exit_code=0))
    analysis = analyze(asked.folder)
    print(f"{asked.case}: {len(analysis.ranks)} rank profiled, {taken} steps")


if __name__ == "__main__":
    main()
