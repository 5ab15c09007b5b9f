"""Ask the peers about every case of the package, and keep their answers in data/peers.json for the book.

    python -m distlab.predict.peers

Run it where all of them are installed (scripts/setup dev), when cases or their versions change. Most of its minutes are
torch's tracker.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from distlab.files import write_whole
from distlab.predict.peers import RECORDED, as_record, ask
from distlab.predict.validation.shipped import score_shipped

if __name__ == "__main__":
    answers, missing = ask(score_shipped())
    if missing:
        sys.exit("\n".join(missing))
    path = Path(str(resources.files("distlab.predict").joinpath("data", RECORDED)))
    write_whole(path, as_record(answers).encode())
    print(f"{path}: {len(answers)} answers")
