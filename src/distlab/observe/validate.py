"""Is the monitoring right? The validation script of MOD-107, Lab 1.

    distlab observe validate                                          # after `distlab observe up`
    distlab observe validate --exporter-url http://node1:9400 --prometheus-url http://prometheus:9090
    distlab observe validate --exporter-only --require-tier gpu

It scrapes the exporter twice, asks Prometheus for its target, samples and rules and Alertmanager for its routes, and
names the next step for all that is not in order. Nothing is written or changed.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import time
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distlab.errors import SettingError
from distlab.observe.check_exporter import Check, check_exporter, uuids
from distlab.observe.check_prometheus import check_prometheus
from distlab.observe.ports import EXPORTER_URL, PROMETHEUS_URL
from distlab.observe.sample import SampleTier
from distlab.observe.scrape import NoAnswerError, scrape
from distlab.observe.stack import FOLDER, addresses_in


def validate(
    exporter_url: str | None = None,
    prometheus_url: str | None = None,
    folder: Path = FOLDER,
    exporter_only: bool = False,
    require_tier: SampleTier | None = None,
    seconds: float = 2.0,
    json: bool = False,
) -> int:
    """Check the exporter's metrics, Prometheus' scrapes and rules, and where alerts go; exits with 1 on a failure.

    Args:
        exporter_url: with or without /metrics; without it, that of the stack in the folder, else port 9400 here.
        prometheus_url: where Prometheus answers; without it, that of the stack in the folder, else port 9090 here.
        folder: of `distlab observe up`.
        exporter_only: ask no Prometheus.
        require_tier: fail unless all data is of this tier, such as gpu.
        seconds: between the two scrapes of the exporter.
        json: print the checks as JSON.
    """
    if not 0 < seconds <= 600:
        raise SettingError(f"--seconds is {seconds:g}; give more than 0 and at most 600.")
    stack = addresses_in(folder)
    exporter_url = exporter_url or (stack.exporter if stack else EXPORTER_URL)
    prometheus_url = prometheus_url or (stack.prometheus if stack else PROMETHEUS_URL)
    for name, url in (("exporter-url", exporter_url), ("prometheus-url", prometheus_url)):
        if not url.startswith(("http://", "https://")):
            raise SettingError(f"--{name} is {url!r}; give an address that begins with http:// or https://.")
    with Console(stderr=True).status("Scraping twice"):
        checks = examine(exporter_url, None if exporter_only else prometheus_url, seconds, require_tier)
    failed = [check for check in checks if check.state == "fail"]
    if json:
        report = {"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]}
        print(jsonlib.dumps(report, indent=2))
    else:
        show(checks, Console())
    return 1 if failed else 0


def examine(
    exporter: str, prometheus: str | None, seconds: float = 2.0, tier: SampleTier | None = None
) -> list[Check]:
    """All checks. exporter: with or without /metrics; prometheus: None to leave it out."""
    page = exporter if exporter.rstrip("/").endswith("/metrics") else exporter.rstrip("/") + "/metrics"
    checks: list[Check] = []
    gpus = 0
    try:
        first = scrape(page)
        time.sleep(seconds)
        second = scrape(page)
    except NoAnswerError as error:
        fix = "start it (`distlab observe export`), or name it with --exporter-url"
        checks.append(Check("Exporter", "fail", str(error), fix))
    else:
        checks.append(Check("Exporter", "ok", f"{len(second.series)} series at {page}"))
        checks += check_exporter(first, second)
        gpus = len(uuids(second))
        tiers = sorted(
            {one.labels["tier"] for one in second.series if "tier" in one.labels and "UUID" in one.labels}
        )
        if tier is not None:
            right = tiers == [tier]
            state: Literal["ok", "fail"] = "ok" if right else "fail"
            fix = "" if right else "run the exporter on a machine with GPUs, with --source nvml"
            checks.append(Check("Tier required", state, f"{tier}; found {', '.join(tiers) or 'none'}", fix))
    if prometheus is not None:
        checks += check_prometheus(prometheus, page, gpus)
    return checks


def show(checks: list[Check], console: Console) -> None:
    """Print the checks as a table, then the next steps."""
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]note[/]", "fail": "[red]failed[/]"}
    table = Table("", "What", "Found", title="Monitoring", title_justify="left")
    for check in checks:
        table.add_row(marks[check.state], check.name, escape(check.found))
    console.print(table)
    for check in checks:
        if check.state != "ok":
            # Unwrapped: a command is there to be copied.
            console.print(f"{marks[check.state]} {check.name}: {escape(check.fix)}", soft_wrap=True)
    failed = sum(check.state == "fail" for check in checks)
    verdict = (
        f"[red]{failed} of {len(checks)} checks failed.[/]"
        if failed
        else "[green]The monitoring is valid.[/]"
    )
    console.print(verdict)
