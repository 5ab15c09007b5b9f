"""The configuration of Prometheus and Alertmanager, with the rules, for one machine or for a cluster.

    distlab observe rules --out monitoring --exporter node1:9400 node2:9400 --page-url https://pager.example.org/hook

The files lie in `prometheus/` as they are in use, with the reasons for every number; what is written differs from
them in addresses alone. `time_scale` shortens every window and wait of rules and routes alike, as for a test that
has no hour: at 1/60 a minute is a second. The names of rules stay, so that `...:avg5m` is then a mean of 5 s.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tyro
import yaml

from distlab.errors import SettingError, printable
from distlab.observe.ports import ALERTMANAGER, EXPORTER

FOLDER = Path(__file__).with_name("prometheus")
BOOK_URL = "http://localhost:8000/hub/book"
"""Where `make up` serves the course's book: the links to the runbooks lead there."""
RUNBOOKS = "/resources/runbooks.html"

SHORTEST_WINDOW_S = 60
"""Of the rules: it has to hold a sample."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = r"(\d+)(ms|s|m|h|d)"
_RULE_TIMES = re.compile(rf"(?<=\[){_DURATION}(?=\])|(?<=\boffset ){_DURATION}\b|(?<=\bfor: ){_DURATION}\b")
_ROUTE_TIMES = re.compile(rf"(?<=\bgroup_wait: ){_DURATION}\b|(?<=_interval: ){_DURATION}\b")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]):(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Receivers:
    """Addresses that Alertmanager posts alerts to; without one, nobody is told."""

    page: str | None = None
    """Critical alerts: somebody is woken."""
    ticket: str | None = None
    """Warnings."""
    log: str | None = None
    """What is worth a line."""


def rule_files(time_scale: float = 1.0, book_url: str = BOOK_URL) -> dict[str, str]:
    """The text of each file of rules, by its name.

    time_scale: what every window, offset and `for:` is multiplied by. book_url: what stands before the runbooks' path.
    """
    if not 0 < time_scale <= 1:
        raise SettingError(
            f"time_scale is {time_scale}; give a number above 0 and at most 1, such as 0.0166."
        )
    link = _url("book_url", book_url).rstrip("/") + RUNBOOKS
    texts = {}
    for path in sorted((FOLDER / "rules").glob("*.yml")):
        text = _scaled(path.read_text(encoding="utf-8"), _RULE_TIMES, time_scale)
        texts[path.name] = text.replace(f"runbook_url: {RUNBOOKS}", f"runbook_url: {link}")
    return texts


def prometheus_config(
    exporters: Sequence[str] = (EXPORTER,),
    alertmanager: str = ALERTMANAGER,
    interval_s: float = 15,
    instance: str | None = None,
) -> str:
    """The text of prometheus.yml.

    exporters, alertmanager: as `host:port`; interval_s: of scrapes and of rules; instance: the label of that name on
    all series, in place of each exporter's address.
    """
    if not exporters:
        raise SettingError("No exporter is named; give one or more as host:port.")
    if not 0.1 <= interval_s <= SHORTEST_WINDOW_S:
        raise SettingError(f"The interval is {interval_s:g} s; give one from 0.1 to {SHORTEST_WINDOW_S}.")
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    text = re.sub(r"(?<=_interval: )15s", _text(round(interval_s * 1000)), text)
    text = text.replace(ALERTMANAGER, _address(alertmanager))
    targets = json.dumps([_address(one) for one in exporters])
    labels = f"\n        labels: {json.dumps({'instance': instance})}" if instance else ""
    return text.replace(f"[{EXPORTER}]", targets + labels)


def alertmanager_config(receivers: Receivers | None = None, time_scale: float = 1.0) -> str:
    """The text of alertmanager.yml."""
    text = _scaled((FOLDER / "alertmanager.yml").read_text(encoding="utf-8"), _ROUTE_TIMES, time_scale)
    for name, url in vars(receivers or Receivers()).items():
        hooks = [{"url": _url(f"{name}_url", url), "send_resolved": True}] if url else []
        text = text.replace(
            f"- name: {name}\n    webhook_configs: []",
            f"- name: {name}\n    webhook_configs: {json.dumps(hooks)}",
        )
    return text


@functools.cache
def alerts() -> dict[str, dict[str, Any]]:
    """Each alerting rule by its name, as the files have it."""
    return {rule["alert"]: rule for rule in _all_rules() if "alert" in rule}


@functools.cache
def recorded() -> dict[str, str]:
    """The expression of each recording rule, by the name of what it records."""
    return {rule["record"]: rule["expr"] for rule in _all_rules() if "record" in rule}


def _all_rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(text) for text in rule_files().values()]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def write_config(
    folder: Path,
    *,
    exporters: Sequence[str] = (EXPORTER,),
    alertmanager: str = ALERTMANAGER,
    receivers: Receivers | None = None,
    book_url: str = BOOK_URL,
    interval_s: float = 15,
    time_scale: float = 1.0,
    instance: str | None = None,
) -> list[Path]:
    """Write prometheus.yml, alertmanager.yml and rules/ into `folder`; returns the files.

    SettingError for addresses that are none, and where the folder cannot be written.
    """
    if interval_s > SHORTEST_WINDOW_S * time_scale:
        raise SettingError(
            f"The interval is {interval_s:g} s, and the rules' shortest window at this time_scale "
            f"{SHORTEST_WINDOW_S * time_scale:g} s: it would hold no sample; choose a shorter interval."
        )
    texts = {
        "prometheus.yml": prometheus_config(exporters, alertmanager, interval_s, instance),
        "alertmanager.yml": alertmanager_config(receivers, time_scale),
        **{f"rules/{name}": text for name, text in rule_files(time_scale, book_url).items()},
    }
    try:
        (folder / "rules").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"Cannot write into {folder}: {error.strerror}; name another folder.") from None
    return [folder / name for name in texts]


def rules(
    out: Path,
    exporter: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST:PORT")] = (EXPORTER,),
    alertmanager: str = ALERTMANAGER,
    book_url: str = BOOK_URL,
    page_url: str | None = None,
    ticket_url: str | None = None,
    log_url: str | None = None,
) -> int:
    """Write prometheus.yml, alertmanager.yml and the rules for a cluster.

    Check them with `promtool check config DIR/prometheus.yml` and `amtool check-config DIR/alertmanager.yml`. Where
    Prometheus runs already, take rules/ alone and name it under rule_files; the job that scrapes the exporters has to
    be called distlab, or the rule ExporterDown has to name yours.

    Args:
        out: the folder to write into; files of the same names are replaced.
        exporter: every exporter as host:port, of `distlab observe export` or of dcgm-exporter.
        alertmanager: host:port.
        book_url: where the course's book is served, for the links to its runbooks.
        page_url: webhook for critical alerts.
        ticket_url: webhook for warnings.
        log_url: webhook for the rest.
    """
    files = write_config(
        out,
        exporters=exporter,
        alertmanager=alertmanager,
        receivers=Receivers(page=page_url, ticket=ticket_url, log=log_url),
        book_url=book_url,
    )
    for file in files:
        print(file)
    return 0


def _scaled(text: str, times: re.Pattern[str], scale: float) -> str:
    if scale == 1:
        return text

    def shorter(match: re.Match[str]) -> str:
        amount, unit = (group for group in match.groups() if group)
        return _text(max(1, round(int(amount) * _UNITS_MS[unit] * scale)))

    return times.sub(shorter, text)


def _text(milliseconds: int) -> str:
    """A duration as Prometheus writes it."""
    unit = next(unit for unit in reversed(_UNITS_MS) if milliseconds % _UNITS_MS[unit] == 0)
    return f"{milliseconds // _UNITS_MS[unit]}{unit}"


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 65536:
        raise SettingError(f"{printable(text)!r} is no address; give host:port, such as {EXPORTER}.")
    return text


def _url(name: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and text.isprintable()
            and " " not in text
        )
    except ValueError:
        good = False
    if not good:
        raise SettingError(
            f"{name} is {printable(text)!r}; give an address that begins with http:// or https://."
        )
    return text
