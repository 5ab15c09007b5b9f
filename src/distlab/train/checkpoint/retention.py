"""What stays in a run's folder after a save, and what goes."""

from __future__ import annotations

import re

from distlab.train.checkpoint.folder import Folder
from distlab.train.checkpoint.record import FILE, read_marks

PART = re.compile(r"((step_[0-9]+\.ckpt|objects)/)?\.[0-9a-f]{32}\.part|\.probe\.part")
"""Files that a crash left half written. These and FILE are what checkpoints alone write: whatever else lies in
the folder, or in the folders in it, is left alone."""


def prune(folder: Folder, keep: int, damaged: set[str]) -> None:
    """Remove what is older than the `keep` last checkpoints, and every file that no mark refers to.

    damaged: the marks of checkpoints that are known to be damaged; they do not count, but are left for
        inspection until they are older than those that are kept.

    Only to be called while no rank is saving: files of a save in progress have no mark yet.
    """
    names = folder.names()
    checkpoints, unreadable = read_marks(folder, names)
    kept = [c for c in checkpoints if c.url not in damaged][:keep]
    oldest = min((c.serial for c in kept), default=0)
    first_step = min((c.step for c in kept), default=0)
    outdated = [c.step for c in checkpoints if c.serial < oldest] + [
        # Without files beside it, it may be anyone's.
        s
        for s in unreadable
        if s < first_step and any(n.startswith(f"step_{s}.ckpt/") for n in names)
    ]

    # Marks first: a crash from here on leaves files without a mark, which the next save removes.
    folder.remove([f"step_{step}.json" for step in outdated])
    folder.sync()
    wanted = {file for c in checkpoints if c.serial >= oldest for file in c.files}
    spared = tuple(f"step_{step}.ckpt/" for step in unreadable if step >= first_step)
    ours = [n for n in names if FILE.fullmatch(n) or PART.fullmatch(n)]
    unwanted = [n for n in ours if n not in wanted and not n.startswith(spared)]
    folder.remove(unwanted)
    folder.sync()
