"""What the exchange keeps on its disk, in nbgrader's own layout.

    outbound/<assignment>            link to the version that is released now
    releases/<assignment>/<time>/    every version that ever was
    inbound/<user>+<assignment>+<time>+<random>/   one submission: its files, receipt.json, timestamp.txt,
                                     submission_secret.txt
    feedback/<hash>.html             hash of the submission's secret and the notebook's name
    stage/                           what is still arriving

Everything is written below `stage/`, synced, and renamed into place: whoever looks sees the whole thing
or nothing, whenever the power goes. What a killed process left in `stage/` is removed at the next start.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from distlab.course.atomic import sync
from distlab.course.exchange.bundle import (
    NO_LIMITS,
    Bundle,
    Entry,
    RefusedError,
    UploadLimits,
    content_sha256,
    find_files,
    size,
    sync_folder,
)
from distlab.course.site import ASSIGNMENT_ID, USERNAME, Site

log = logging.getLogger(__name__)

TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f UTC"
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} UTC")
RECEIPT, TIMESTAMP, SECRET = "receipt.json", "timestamp.txt", "submission_secret.txt"
OWN_FILES = frozenset({RECEIPT, TIMESTAMP, SECRET})
"""Files that the exchange adds to a submission."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Receipt:
    """What the exchange took: whose, for what, when (UTC, by the exchange's clock), and exactly which bytes.

    `sha256` is `content_sha256` of its `files`, `bytes` their sum, `notebooks` the names, without ending, of
    those at its top.
    """

    user: str
    assignment: str
    timestamp: str
    sha256: str
    bytes: int
    files: int
    notebooks: tuple[str, ...]


def notebooks(entries: Sequence[Entry]) -> list[str]:
    """The names, without ending, of the notebooks at the top of a folder."""
    paths = sorted(entry.path for entry in entries)
    return [path.removesuffix(".ipynb") for path in paths if path.endswith(".ipynb") and "/" not in path]


@contextlib.contextmanager
def disk_may_be_full(what: str) -> Iterator[None]:
    """Turn the system's word for a full disk into one for people; status 507."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RefusedError(
            f"The exchange's disk is full, so {what} was not stored; all that was stored before is still "
            "there. Tell the instructor, and try again when there is space.",
            507,
        ) from error


class Stage:
    """A place below `stage/` where one arrival takes shape; `content` becomes the stored folder.

    Its lock tells a later start whether the process that made it still lives.
    """

    def __init__(self, parent: Path) -> None:
        with _only_one(parent):
            self.folder = Path(tempfile.mkdtemp(dir=parent))
            self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 (held until close)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.content = self.folder / "content"
        self.content.mkdir()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


@contextlib.contextmanager
def _only_one(parent: Path) -> Iterator[None]:
    """Keeps one process from clearing a stage that another has made and not yet locked."""
    with open(parent / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Store:
    """The exchange's files. Methods block on the disk and may be called from several threads."""

    def __init__(self, root: Path, limits: UploadLimits | None = None) -> None:
        self.root = root
        self.limits = limits or UploadLimits()
        self.outbound, self.releases = root / "outbound", root / "releases"
        self.inbound, self.feedback, self.staging = root / "inbound", root / "feedback", root / "stage"
        self._commit = threading.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.outbound, self.releases, self.inbound, self.feedback, self.staging):
            folder.mkdir(mode=0o700, exist_ok=True)

    def stage(self) -> Stage:
        return Stage(self.staging)

    def clear_stale(self) -> int:
        """Remove the stages whose process is gone; how many there were."""
        removed = 0
        with _only_one(self.staging):
            for folder in self.staging.glob("*/"):
                # A stage without its lock was cut off while it was made.
                with open(folder / "lock", "a") as lock, contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    # Assignments

    def released(self) -> list[str]:
        """The ids of the released assignments."""
        return sorted(path.name for path in self.outbound.iterdir() if ASSIGNMENT_ID.fullmatch(path.name))

    def assignment(self, assignment: str) -> Path:
        """The folder of the released version (which never changes; a new release is a new folder)."""
        check_assignment(assignment)
        try:
            return (self.outbound / assignment).resolve(strict=True)
        except FileNotFoundError:
            raise RefusedError(f'"{assignment}" is not released.', 404) from None

    def release(self, stage: Stage, assignment: str, entries: Sequence[Entry], *, replace: bool) -> None:
        """Make the stage's content the released version of `assignment`."""
        check_assignment(assignment)
        check_content(entries, self.limits)
        with disk_may_be_full(f'the release of "{assignment}"'), self._commit:
            link = self.outbound / assignment
            if link.is_symlink() and not replace:
                raise RefusedError(f'"{assignment}" is already released; use --force to replace it.', 409)
            sync_folder(stage.content)
            versions = self.releases / assignment
            versions.mkdir(exist_ok=True)
            version = versions / self._time_after(os.listdir(versions))
            os.rename(stage.content, version)
            sync(versions)
            new_link = stage.folder / "link"
            new_link.symlink_to(os.path.relpath(version, self.outbound))
            os.replace(new_link, link)
            sync(self.outbound)

    def unrelease(self, assignment: str) -> None:
        """Stop giving out `assignment`; its versions, submissions and feedback stay."""
        self.assignment(assignment)
        (self.outbound / assignment).unlink()
        sync(self.outbound)

    # Submissions

    def check_may_submit(self, user: str, assignment: str) -> None:
        """Refuse early what `submit` would refuse whatever the files."""
        check_user(user)
        self.assignment(assignment)
        kept = self.submissions(user).values()
        if sum(receipt.assignment == assignment for receipt in kept) >= self.limits.submissions:
            raise RefusedError(
                f'You have submitted "{assignment}" {self.limits.submissions} times, which is the limit. '
                "Ask the instructor.",
                409,
            )
        if sum(receipt.bytes for receipt in kept) >= self.limits.user_bytes:
            raise self._quota(0)

    def _quota(self, more_bytes: int) -> RefusedError:
        return RefusedError(
            f"Your submissions together may have {size(self.limits.user_bytes)}"
            + (f", and this one has {size(more_bytes)}. " if more_bytes else ". ")
            + "Remove large outputs, or ask the instructor.",
            413,
        )

    def submit(self, stage: Stage, user: str, assignment: str, entries: Sequence[Entry]) -> Receipt:
        """Keep the stage's content as one more submission of `user`."""
        check_content(entries, self.limits)
        with disk_may_be_full("your submission"):
            sync_folder(stage.content)  # the slow part, before the lock
            with self._commit:
                return self._commit_submission(stage, user, assignment, entries)

    def _commit_submission(
        self, stage: Stage, user: str, assignment: str, entries: Sequence[Entry]
    ) -> Receipt:
        self.check_may_submit(user, assignment)
        kept = self.submissions(user).values()
        total = sum(entry.bytes for entry in entries)
        if total + sum(receipt.bytes for receipt in kept) > self.limits.user_bytes:
            raise self._quota(total)
        time = self._time_after(r.timestamp for r in kept if r.assignment == assignment)
        names = tuple(notebooks(entries))
        receipt = Receipt(user, assignment, time, content_sha256(entries), total, len(entries), names)
        written = {
            RECEIPT: json.dumps(asdict(receipt), indent=1, ensure_ascii=False),
            TIMESTAMP: time,
            SECRET: secrets.token_hex(64),
        }
        for name, text in written.items():
            with open(stage.content / name, "x", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        sync(stage.content)
        random = base64.urlsafe_b64encode(os.urandom(9)).decode()
        os.rename(stage.content, self.inbound / f"{user}+{assignment}+{time}+{random}")
        sync(self.inbound)
        return receipt

    @staticmethod
    def _time_after(earlier: Iterable[str]) -> str:
        """Now, or a microsecond after the latest of `earlier` where the clock was set back."""
        now = datetime.now(UTC).replace(tzinfo=None)
        latest = max(earlier, default="")
        if TIME.fullmatch(latest):
            now = max(now, datetime.strptime(latest, TIME_FORMAT) + timedelta(microseconds=1))
        return now.strftime(TIME_FORMAT)

    def submissions(self, user: str | None = None, assignment: str | None = None) -> dict[Path, Receipt]:
        """Folder and receipt of all submissions, or of one user's, or to one assignment; oldest first."""
        found = []
        for name in os.listdir(self.inbound):
            owner, lab, *_ = [*name.split("+"), ""]  # what stands beside the submissions may have any name
            if user in (None, owner) and assignment in (None, lab):
                try:
                    receipt = read_receipt(self.inbound / name)
                    if not name.startswith(f"{receipt.user}+{receipt.assignment}+{receipt.timestamp}+"):
                        raise ValueError("the receipt is of another submission")
                    found.append((self.inbound / name, receipt))
                except (OSError, ValueError, TypeError, KeyError):
                    log.warning("Submission %r has no readable receipt; it is not listed.", name)
        return dict(sorted(found, key=lambda item: (item[1].timestamp, item[0])))

    def submission(self, user: str, assignment: str, timestamp: str) -> Path:
        """The folder of one submission."""
        check_user(user)
        check_assignment(assignment)
        if TIME.fullmatch(timestamp):
            start = f"{user}+{assignment}+{timestamp}+"
            for name in os.listdir(self.inbound):
                if name.startswith(start):
                    return self.inbound / name
        raise RefusedError(f'{user} has no submission of "{assignment}" at {ascii(timestamp)[:60]}.', 404)

    def content(self, folder: Path, instead: Mapping[str, bytes] = MappingProxyType({})) -> Bundle:
        """A stored folder's own files, ready to send; what `instead` holds takes the place of files so named."""
        files, _ = find_files(folder, lambda directory, _: OWN_FILES if directory == str(folder) else ())
        with tempfile.TemporaryDirectory(dir=self.staging) as made:
            for number, (path, content) in enumerate(instead.items()):
                Path(made, str(number)).write_bytes(content)
                files = [(name, Path(made, str(number)) if name == path else at) for name, at in files]
            return Bundle(files, NO_LIMITS)

    # Feedback

    def feedback_file(self, submission: Path, notebook: str) -> Path:
        """Where the feedback on one notebook of a submission (its folder) lies; it need not be there yet."""
        if notebook not in read_receipt(submission).notebooks:
            raise RefusedError(f"That submission has no notebook {ascii(notebook)[:80]}.", 404)
        secret = (submission / SECRET).read_text(encoding="ascii")
        # nbgrader's own naming (nbgrader.utils.notebook_hash); MD5 guards nothing here.
        digest = hashlib.md5((secret + notebook).encode(), usedforsecurity=False).hexdigest()
        return self.feedback / f"{digest}.html"

    def put_feedback(self, stage: Stage, name: str, submission: Path, notebook: str) -> None:
        """Make the stage's file `name` the feedback on a notebook, in place of an older one."""
        path = self.feedback_file(submission, notebook)
        with disk_may_be_full("the feedback"):
            sync(stage.content / name)
            os.replace(stage.content / name, path)
            sync(self.feedback)

    def feedback_sha256(self, submission: Path) -> dict[str, str]:
        """For each notebook of a submission that has feedback, the feedback's SHA-256."""
        found = {}
        for notebook in read_receipt(submission).notebooks:
            path = self.feedback_file(submission, notebook)
            with contextlib.suppress(FileNotFoundError):
                found[notebook] = _file_sha256(path, path.stat().st_mtime_ns)
        return found


@functools.lru_cache(maxsize=20_000)
def read_receipt(submission: Path) -> Receipt:
    """A submission's receipt, which never changes once stored."""
    data = json.loads((submission / RECEIPT).read_text(encoding="utf-8"))
    return Receipt(**{**data, "notebooks": tuple(data["notebooks"])})


@functools.lru_cache(maxsize=10_000)
def _file_sha256(path: Path, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_content(entries: Sequence[Entry], limits: UploadLimits) -> None:
    """Refuse a folder that is no lab's, or that has a file which the exchange itself writes."""
    count = len(notebooks(entries))
    if count == 0:
        raise RefusedError("The folder has no notebook at its top, so nothing was stored.")
    if count > limits.notebooks:
        raise RefusedError(f"The folder has {count} notebooks; at most {limits.notebooks} can be sent.", 413)
    for entry in entries:
        if entry.path.split("/")[0].casefold() in OWN_FILES:
            raise RefusedError(f'The exchange itself writes a file named "{entry.path}"; rename yours.')
        if any(part.endswith(".ipynb") for part in entry.path.split("/")[:-1]):
            raise RefusedError(f'A folder is named like a notebook, in "{entry.path}"; rename the folder.')


def check_assignment(assignment: str) -> None:
    if not ASSIGNMENT_ID.fullmatch(assignment):
        raise RefusedError(f"{ascii(assignment)[:80]} is no lab; a lab's id looks like mod-107-lab-3.", 404)


def check_user(user: str) -> None:
    if not USERNAME.fullmatch(user):
        raise RefusedError(f"{ascii(user)[:80]} is no user name of this site.", 404)


def publish(site: Site, lab_id: str, folder: Path) -> bool:
    """Release `folder` as `lab_id` on this machine, beside or before a running service.

    Returns False, and changes nothing, if exactly these files are released already. Raises RefusedError for
    a folder that a release may not have (no notebook, a file too large).
    """
    store = Store(site.exchange)
    files, left_out = find_files(folder)
    if left_out:
        raise RefusedError(f'"{left_out[0]}" in {folder} is no ordinary file; a lab has ordinary files only.')
    with Bundle(files, store.limits) as bundle:
        if lab_id in store.released():
            with store.content(store.assignment(lab_id)) as current:
                if content_sha256(current.entries) == content_sha256(bundle.entries):
                    return False
    with store.stage() as stage:
        shutil.copytree(folder, stage.content, dirs_exist_ok=True)
        store.release(stage, lab_id, bundle.entries, replace=True)
    return True
