"""The learner's and the instructor's side of the exchange: the calls behind nbgrader's commands and buttons.

Every failure is a `ClientError` whose message is one sentence for a person.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from distlab.course.atomic import replacing
from distlab.course.exchange.bundle import (
    CHUNK_BYTES,
    NO_LIMITS,
    Bundle,
    Receiver,
    RefusedError,
    UploadLimits,
    content_sha256,
    find_files,
)

CONNECT_S, ANSWER_S = 5, 150


class ClientError(Exception):
    """What went wrong, for a person; `status` is the exchange's HTTP status, 0 if it did not answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Speaks to the exchange at `url` with a Hub token; one client serves one thread."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc: the token goes to the exchange alone
        self._session.headers["Authorization"] = f"token {token}"

    @classmethod
    def from_env(cls) -> Client:
        """The exchange and token that the Hub gave this server."""
        try:
            return cls(os.environ["DISTLAB_EXCHANGE_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
        except KeyError as missing:
            raise ClientError(
                f"{missing.args[0]} is not set, so the exchange cannot be reached; "
                "start your server from the course site."
            ) from None

    def _ask(self, method: str, *path: str, **options: Any) -> requests.Response:
        address = "/".join([self.url, "api", *(quote(part, safe="") for part in path)])
        try:
            answer = self._session.request(
                method, address, timeout=(CONNECT_S, ANSWER_S), allow_redirects=False, **options
            )
        except requests.RequestException as error:
            raise _away(error) from error
        if answer.ok:
            return answer
        try:
            message = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            message = f"The exchange answered {answer.status_code} without saying why; try again soon."
        raise ClientError(message, answer.status_code)

    def limits(self) -> UploadLimits:
        return UploadLimits(**self._ask("GET", "limits").json())

    def assignments(self) -> list[dict[str, Any]]:
        """What is released: `assignment_id` and the names of its `notebooks`."""
        found: list[dict[str, Any]] = self._ask("GET", "assignments").json()
        return found

    def quiz_cells(self, quiz_id: str, user: str) -> dict[str, str]:
        """For who teaches: by grade id, the texts and the hidden tests of a learner's own quiz."""
        cells: dict[str, str] = self._ask("GET", "quizzes", quiz_id, user).json()
        return cells

    def submissions(self, user: str | None = None, assignment: str | None = None) -> list[dict[str, Any]]:
        """Receipts, oldest first, each with `feedback`: notebook -> SHA-256 of what can be fetched."""
        asked = {"user": user, "assignment": assignment}
        found: list[dict[str, Any]] = self._ask("GET", "submissions", params=asked).json()
        return found

    def submit(self, assignment: str, files: list[tuple[str, Path]], user: str | None) -> dict[str, Any]:
        """Hand in files as oneself (`user` is only checked to be that); the receipt."""
        with self._pack(files) as bundle:
            answer = self._ask("POST", "submissions", assignment, params={"user": user}, data=bundle)
            receipt: dict[str, Any] = answer.json()
            if receipt["sha256"] != content_sha256(bundle.entries):
                raise ClientError("The exchange's receipt does not match what was sent; submit again.")
        return receipt

    def release(self, assignment: str, files: list[tuple[str, Path]], *, replace: bool) -> None:
        with self._pack(files) as bundle:
            self._ask("PUT", "assignments", assignment, params={"replace": int(replace)}, data=bundle)

    def unrelease(self, assignment: str) -> None:
        self._ask("DELETE", "assignments", assignment)

    def put_feedback(self, assignment: str, user: str, timestamp: str, notebook: str, html: Path) -> None:
        with self._pack([("feedback.html", html)]) as bundle:
            self._ask("PUT", "feedback", assignment, user, timestamp, notebook, data=bundle)

    def fetch_feedback(self, receipt: dict[str, Any], notebook: str, target: Path) -> None:
        """Write the feedback on one notebook of one's own submission to `target`."""
        of = (receipt["assignment"], receipt["user"], receipt["timestamp"], notebook)
        with self._ask("GET", "feedback", *of, stream=True) as answer, replacing(target) as stream:
            for chunk in _chunks(answer):
                stream.write(chunk)

    def fetch_assignment(
        self, assignment: str, root: Path, *, restore: Collection[str] | None = None
    ) -> bool:
        """Put the released files at `root/assignment`, whole or not at all; was anything written?

        If the folder exists already, nothing that it holds is touched: only files that are missing from it
        are added, and of these only the ones named in `restore` (None: all of them).
        """
        with self._fetched(root, "assignments", assignment) as (folder, _):
            target = root / assignment
            if not os.path.lexists(target):
                os.rename(folder, target)
                return True
            written = False
            for path, source in find_files(folder)[0]:
                if (restore is None or path in restore) and not os.path.lexists(target / path):
                    (target / path).parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(FileExistsError):
                        os.link(source, target / path)
                        written = True
            return written

    def collect(self, receipt: dict[str, Any], target: Path) -> None:
        """Put one submission at `target`, in place of an older one that lies there."""
        of = (receipt["assignment"], receipt["user"], receipt["timestamp"])
        with self._fetched(target.parent, "submissions", *of) as (folder, sha256):
            if sha256 != receipt["sha256"]:
                raise ClientError(f"The submission of {receipt['user']} does not match its receipt.")
            (folder / "timestamp.txt").write_text(receipt["timestamp"])
            if target.is_dir():
                os.rename(target, folder.parent / "old")
            os.rename(folder, target)

    def _pack(self, files: list[tuple[str, Path]]) -> Bundle:
        try:
            return Bundle(files, self.limits())
        except RefusedError as refused:
            raise ClientError(str(refused), refused.status) from None

    @contextlib.contextmanager
    def _fetched(self, beside: Path, *path: str) -> Iterator[tuple[Path, str]]:
        """A folder in a hidden one below `beside`, with the content of a bundle, and its SHA-256."""
        beside.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".exchange-", dir=beside))
        try:
            folder = hidden / "content"
            folder.mkdir()
            receiver = Receiver(folder, NO_LIMITS)
            with contextlib.closing(receiver), self._ask("GET", *path, stream=True) as answer:
                for chunk in _chunks(answer):
                    receiver.feed(chunk)
                entries = receiver.finish()
            yield folder, content_sha256(entries)
        except RefusedError as refused:
            raise ClientError(f"What the exchange sent is broken: {refused}") from None
        except OSError as error:
            raise ClientError(f"{beside} cannot be written: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    try:
        yield from answer.iter_content(CHUNK_BYTES)
    except requests.RequestException as error:
        raise _away(error) from error


def _away(error: requests.RequestException) -> ClientError:
    why = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
    return ClientError(f"The exchange {why}; try again in a minute, and tell the instructor if it stays so.")
