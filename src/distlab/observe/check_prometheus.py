"""Does Prometheus scrape the exporter, hold its samples, evaluate every rule, and reach somebody with its alerts?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from distlab.errors import printable
from distlab.observe.check_exporter import Check, some
from distlab.observe.rules import alerts, recorded
from distlab.observe.scrape import NoAnswerError, fetch_json

JOB = "distlab"
STALE_SCRAPES = 3
"""Scrapes after which a sample is old."""
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, yaml.YAMLError, re.error)
"""What reading an answer raises that is none of Prometheus' or Alertmanager's."""
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MATCHER = re.compile(r"\s*([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*(.*?)\s*")


def check_prometheus(url: str, exporter_url: str, gpus: int) -> list[Check]:
    """All checks of a Prometheus. gpus: how many the exporter shows."""
    url = url.rstrip("/")
    try:
        version = fetch_json(f"{url}/api/v1/status/buildinfo")["data"]["version"]
        checks = [Check("Prometheus", "ok", f"version {printable(str(version))} at {url}")]
    except (NoAnswerError, *MALFORMED) as error:
        fix = "start it (`distlab observe up` starts all), or name it with --prometheus-url"
        return [Check("Prometheus", "fail", str(error), fix)]
    looks: tuple[Callable[[], Check], ...] = (
        lambda: target_up(_data(url, "targets?state=active"), exporter_url),
        lambda: samples_fresh(url, gpus),
        lambda: rules_loaded(_data(url, "rules")),
        lambda: alerts_routed(_alertmanagers(url)),
        lambda: alerts_now(_data(url, "alerts")),
    )
    for look in looks:
        try:
            checks.append(look())
        except (NoAnswerError, *MALFORMED) as error:
            checks.append(
                Check("Prometheus", "fail", printable(str(error))[:300], "is this address a Prometheus?")
            )
            break
    return checks


def target_up(targets: Mapping[str, Any], exporter_url: str) -> Check:
    """The job distlab has targets, the exporter is one, and each answers."""
    name = "Target"
    ours = [one for one in targets["activeTargets"] if one["labels"].get("job") == JOB]
    if not ours:
        return Check(
            name, "fail", f"no job {JOB} is scraped", "add it: `distlab observe rules --out DIR` shows how"
        )
    down = [
        f"{one['scrapeUrl']}: {one['lastError'] or one['health']}" for one in ours if one["health"] != "up"
    ]
    if down and all(one["health"] == "unknown" for one in ours):
        return Check(name, "fail", "not scraped yet", "wait for the first scrape and validate again")
    if down:
        fix = "start the exporter, or mend its address in prometheus.yml; a new one is scraped within its interval"
        return Check(name, "fail", some(down), fix)
    if not any(_same_place(one["scrapeUrl"], exporter_url) for one in ours):
        found = f"{some(one['scrapeUrl'] for one in ours)}, not {exporter_url}"
        return Check(name, "fail", found, "validate the exporter that is scraped, with --exporter-url")
    return Check(name, "ok", f"{some(one['scrapeUrl'] for one in ours)}: up")


def samples_fresh(url: str, gpus: int) -> Check:
    """As many GPUs as the exporter shows, with samples of the last scrapes."""
    name = "Samples"
    metric = f'DCGM_FI_DEV_GPU_TEMP{{job="{JOB}"}}'
    ages = [
        float(one["value"][1])
        for one in _query(url, f"max by (instance, UUID) (time() - timestamp({metric}))")
    ]
    targets = _data(url, "targets?state=active")["activeTargets"]
    intervals = [
        _seconds(one.get("scrapeInterval", "15s")) for one in targets if one["labels"].get("job") == JOB
    ]
    allowed_s = STALE_SCRAPES * max(intervals, default=15)
    if len(ages) < gpus:
        return Check(
            name, "fail", f"of {len(ages)} GPUs, and the exporter has {gpus}", "wait for the next scrape"
        )
    if max(ages, default=0) > allowed_s:
        found = f"the oldest is {max(ages):.0f} s old, and scrapes are {allowed_s / STALE_SCRAPES:g} s apart"
        return Check(name, "fail", found, "look at the target's page in Prometheus")
    return Check(name, "ok", f"of {len(ages)} GPUs, at most {max(ages, default=0):.1f} s old")


def rules_loaded(data: Mapping[str, Any]) -> Check:
    """Every rule of distlab is there, and each was evaluated without an error."""
    name = "Rules"
    have: set[str] = set()
    sick = []
    for group in data["groups"]:
        for rule in group["rules"]:
            have.add(rule["name"])
            if rule["health"] == "err":
                sick.append(f"{rule['name']}: {rule.get('lastError', '')}")
    wanted = {*alerts(), *recorded()}
    if missing := sorted(wanted - have):
        return Check(
            name,
            "fail",
            f"{len(missing)} are not loaded: {some(missing)}",
            "`distlab observe rules --out DIR`, name them under rule_files, and reload Prometheus",
        )
    if sick:
        return Check(name, "fail", some(sick), "mend the rule; `promtool check rules FILE`")
    return Check(name, "ok", f"{len(recorded())} recording and {len(alerts())} alerting ones, without errors")


def alerts_routed(found: tuple[str, str] | None) -> Check:
    """Does each alert come to a receiver that tells somebody? found: Alertmanager's address and configuration."""
    name = "Alerting"
    if found is None:
        fix = "start Alertmanager and name it under `alerting` in prometheus.yml"
        return Check(name, "fail", "Prometheus knows no Alertmanager: alerts go nowhere", fix)
    url, text = found
    config = yaml.safe_load(text)
    receivers = {one["name"]: one for one in config["receivers"]}
    silent: dict[str, list[str]] = {}
    for alert, rule in alerts().items():
        for receiver in routes(config["route"], {"alertname": alert, **rule["labels"]}):
            if not any(value for key, value in receivers[receiver].items() if key.endswith("_configs")):
                silent.setdefault(receiver, []).append(alert)
    if silent:
        names = ", ".join(f"{receiver} ({len(found)} alerts)" for receiver, found in silent.items())
        fix = "give the receivers addresses: --page-url, --ticket-url, --log-url"
        return Check(name, "warn", f"Alertmanager at {url}; nobody is told by the receivers {names}", fix)
    return Check(name, "ok", f"Alertmanager at {url}; each of {len(alerts())} alerts has a receiver")


def alerts_now(data: Mapping[str, Any]) -> Check:
    """What fires while this is read: the monitoring works, and a critical alert is not in order all the same."""
    firing = [one["labels"] for one in data["alerts"] if one["state"] == "firing"]
    found = {f"{one.get('alertname')} ({one.get('severity', 'no severity')})" for one in firing}
    # Critical ones first: those at the end may be left out.
    names = sorted(found, key=lambda name: (not name.endswith("(critical)"), name))
    if any(one.get("severity") == "critical" for one in firing):
        fix = "a critical alert asks for somebody now: its runbook is in the book, at resources/runbooks.html"
        return Check("Firing now", "warn", some(names), fix)
    return Check("Firing now", "ok", some(names) if names else "nothing")


def routes(route: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """The receivers that Alertmanager's routing tree leads an alert to."""
    return _routes(route, labels, str(route["receiver"]))


def _routes(route: Mapping[str, Any], labels: Mapping[str, str], inherited: str) -> list[str]:
    receiver = str(route.get("receiver") or inherited)
    found: list[str] = []
    for child in route.get("routes") or ():
        matchers = [*(child.get("matchers") or ())]
        matchers += [f"{key}={value}" for key, value in (child.get("match") or {}).items()]
        matchers += [f"{key}=~{value}" for key, value in (child.get("match_re") or {}).items()]
        if all(_matches(str(matcher), labels) for matcher in matchers):
            found += _routes(child, labels, receiver)
            if not child.get("continue"):
                break
    return found or [receiver]


def _matches(matcher: str, labels: Mapping[str, str]) -> bool:
    parts = _MATCHER.fullmatch(matcher)
    if parts is None:
        raise ValueError(f"Alertmanager's configuration has a matcher {matcher!r}")
    name, operator, value = parts[1], parts[2], parts[3].strip('"')
    have = labels.get(name, "")
    same = re.fullmatch(value, have) is not None if operator.endswith("~") else have == value
    return same is not operator.startswith("!")


def _alertmanagers(url: str) -> tuple[str, str] | None:
    active = _data(url, "alertmanagers")["activeAlertmanagers"]
    if not active:
        return None
    parts = urlsplit(active[0]["url"])
    base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/api/v2/alerts')}"
    return base, str(fetch_json(f"{base}/api/v2/status")["config"]["original"])


def _data(url: str, what: str) -> Any:
    return fetch_json(f"{url}/api/v1/{what}")["data"]


def _query(url: str, expr: str) -> list[dict[str, Any]]:
    return list(_data(url, f"query?query={quote(expr)}")["result"])


def _seconds(duration: str) -> float:
    parts = re.findall(r"(\d+)(ms|s|m|h|d)", duration)
    return sum(int(amount) * _SECONDS[unit] for amount, unit in parts)


def _same_place(one: str, other: str) -> bool:
    def place(url: str) -> tuple[str, int | None]:
        parts = urlsplit(url)
        return (parts.hostname or "").replace("localhost", "127.0.0.1"), parts.port

    return place(one) == place(other)
