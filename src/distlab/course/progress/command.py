"""How far learners are, for a terminal.

distlab course progress                       CSV: a row for each learner and module
distlab course progress --learner ann         only of this learner
distlab course progress --json                all that the pages show

Works in an instructor's server, for an operator on the site's machine, and in a learner's own server, of that learner
alone.
"""

from __future__ import annotations

import csv
import json as jsonlib
import os
import sys
from contextlib import closing
from typing import Any

from distlab.course.site import Site
from distlab.errors import SettingError, WorkError

CONNECT_S, ANSWER_S = 5, 60

COLUMNS = ("learner", "module", "complete", "done", "asked", "missing")


def progress(learner: str | None = None, json: bool = False) -> int:
    """Write how far learners are, as CSV: a row for each learner and module, a column for each part.

    Args:
        learner: only of this one.
        json: print everything that the pages show, as JSON.
    """
    found = _ask_hub(learner) if "JUPYTERHUB_API_URL" in os.environ else _look(learner)
    if json:
        print(jsonlib.dumps(found, indent=1))
    else:
        write_csv(found)
    return 0


def write_csv(found: dict[str, list[dict[str, Any]]]) -> None:
    """Released points as percent, or the state of what has none; `missing` has the ids."""
    ids = dict.fromkeys(part["id"] for modules in found.values() for one in modules for part in one["parts"])
    writer = csv.DictWriter(sys.stdout, [*COLUMNS, *ids], lineterminator="\n")
    writer.writeheader()
    for name, modules in found.items():
        for one in modules:
            missing = [part["id"] for part in one["parts"] if part["gate"] != "nothing" and not part["done"]]
            writer.writerow(
                {
                    "learner": name,
                    "module": one["module"],
                    "complete": "yes" if one["complete"] else "no",
                    "done": one["done"],
                    "asked": one["asked"],
                    "missing": " ".join(missing),
                    **{part["id"]: _cell(part) for part in one["parts"]},
                }
            )


def _cell(part: dict[str, Any]) -> str:
    return str(part["state"]) if part["percent"] is None else f"{part['percent']:g}"


def _look(learner: str | None) -> dict[str, Any]:
    """As the Hub does, on its machine."""
    from distlab.course.accounts.store import Accounts
    from distlab.course.progress.record import standings

    site = Site.from_env()
    if not (site.hub / "accounts.sqlite").is_file():
        raise SettingError(f"{site.var} holds no site: `distlab course up` makes it.")
    with closing(Accounts(site)) as accounts:
        names = accounts.learners()
    if learner is not None:
        if learner not in names:
            raise SettingError(f"--learner names {learner!r}; there is no admitted learner of that name.")
        names = [learner]
    return {name: [one.to_json() for one in each] for name, each in standings(site, names).items()}


def _ask_hub(learner: str | None) -> dict[str, Any]:
    """In a server: the Hub decides by its token."""
    import requests

    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy, no .netrc: the token goes to the Hub alone
            answer = session.get(
                f"{os.environ['JUPYTERHUB_API_URL'].rstrip('/')}/progress",
                params={"learner": learner} if learner is not None else {},
                headers={"Authorization": f"token {os.environ.get('JUPYTERHUB_API_TOKEN', '')}"},
                timeout=(CONNECT_S, ANSWER_S),
            )
        told = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise WorkError("The Hub cannot be reached; try again in a minute.") from error
    if answer.ok:
        return dict(told)
    raise (SettingError if answer.status_code == 404 else WorkError)(str(told.get("message", answer.reason)))
