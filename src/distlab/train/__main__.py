"""`python -m distlab.train`, what torchrun and other launchers start on every rank."""

from __future__ import annotations

import sys

from distlab.errors import SettingError, WorkError
from distlab.train.run import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SettingError as error:
        print(f"distlab train: {error}", file=sys.stderr)
        sys.exit(2)
    except WorkError as error:
        print(f"distlab train: {error}", file=sys.stderr)
        sys.exit(1)
