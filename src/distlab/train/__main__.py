"""`python -m distlab.train`, what torchrun and other launchers start on every rank: `distlab train`."""

from __future__ import annotations

import sys

from distlab.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
