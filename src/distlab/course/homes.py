"""Users' homes, and who owns what: safe against links that the owner planted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FIRST_UID = 1_900_000_000
"""As root, the server of the Hub's user N runs as uid FIRST_UID + N.

No account has these numbers, and none can become one: Linux gives each account a range of 65,536 further uids
from 100,000 on (/etc/subuid, up to 600,100,000), and systemd's containers end at 1,879,048,191.
"""

INSTRUCTOR_UID = FIRST_UID - 1
"""All instructors' servers run as this one, as they share the course directory."""


class HomeError(RuntimeError):
    """A home that cannot be used as it is; the message says what to do."""


def uid_for(user_id: int, instructor: bool) -> int:
    """The host's uid for a server: the Hub's own where the Hub is not root."""
    if os.geteuid() != 0:
        return os.geteuid()
    return INSTRUCTOR_UID if instructor else FIRST_UID + user_id


def prepare_home(home: Path, uid: int, user_id: int) -> None:
    """Make `home` (0700, owned by `uid`), or take it over from the same user's other role.

    Raises `HomeError` if it is no folder, or belongs to someone else.
    """
    home.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        status = home.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise HomeError(f"{home} is not a folder: move it away") from None
        if status.st_uid not in (uid, uid_for(user_id, True), uid_for(user_id, False)):
            raise HomeError(
                f"the home {home} belongs to uid {status.st_uid}, not to {uid}: it was another user's of the "
                f"same name. Move it away, or give it to this user with `chown -Rh {uid}:{uid} {home}`"
            ) from None
        if status.st_uid == uid:
            return
    give(home, uid)


def give(folder: Path, uid: int) -> None:
    """Make `uid` the owner of `folder` and all below it. Links change hands themselves, not their targets."""
    for _, names, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        os.fchown(descriptor, uid, uid)
        for name in (*names, *files):
            os.chown(name, uid, uid, dir_fd=descriptor, follow_symlinks=False)
