"""`distlab observe up`: the exporter, Prometheus and Alertmanager on this machine until Ctrl-C.

    distlab observe up                                              # the driver's GPUs, or simulated ones
    distlab observe up --follow runs/fsdp_2gpu --budget fsdp_2gpu=5
    distlab observe up --source simulated --scenario xid-79 --speed 10 --time-scale 0.0167    # 20 s of trouble

All of them end with this process, however it ends. `distlab observe validate` looks whether all is right.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import signal
import socket
from pathlib import Path

from rich.console import Console

from distlab.machine import LOOPBACK
from distlab.observe.open import SourceArgs
from distlab.observe.ports import ALERTMANAGER_PORT, EXPORTER_PORT, PROMETHEUS_PORT
from distlab.observe.rules import BOOK_URL, RUNBOOKS, SHORTEST_WINDOW_S, Receivers
from distlab.observe.scrape import fetch
from distlab.observe.stack import FOLDER, Addresses, Stack

INTERVAL_S = 5.0
USUAL_PORTS = {"exporter": EXPORTER_PORT, "prometheus": PROMETHEUS_PORT, "alertmanager": ALERTMANAGER_PORT}


def up(
    source: SourceArgs,
    folder: Path = FOLDER,
    port: int | None = None,
    prometheus_port: int | None = None,
    alertmanager_port: int | None = None,
    runs: Path | None = None,
    prices: Path | None = None,
    provider: str | None = None,
    budget: tuple[str, ...] = (),
    page_url: str | None = None,
    ticket_url: str | None = None,
    log_url: str | None = None,
    book_url: str = BOOK_URL,
    interval: float | None = None,
    time_scale: float = 1.0,
    json: bool = False,
) -> int:
    """Run the exporter, Prometheus with the rules, and Alertmanager on the loopback until Ctrl-C.

    Args:
        source: where GPUs are read.
        folder: keeps the time series and the logs; made where it is not there.
        port: of the exporter; without one 9400, or a free one where that is taken.
        prometheus_port: without one 9090, or a free one.
        alertmanager_port: without one 9093, or a free one.
        runs: folder whose runs are followed; this and the next three as in distlab observe export.
        prices: a table of prices in place of distlab's.
        provider: whose prices are taken.
        budget: what each run may cost: 50, or NAME=50 for one of them.
        page_url: webhook for critical alerts; without one they are seen in Prometheus alone.
        ticket_url: webhook for warnings.
        log_url: webhook for the rest.
        book_url: where the course's book is served, for the links to its runbooks.
        interval: seconds between two scrapes, and between two evaluations of the rules; without one 5, or what the
            time scale leaves room for.
        time_scale: what every window and wait of the rules is multiplied by: at 0.0167 a minute is a second.
        json: print the addresses as JSON once all answer.
    """
    named = {"runs": runs, "prices": prices, "provider": provider}
    given = source.words() + [f"--{name}={value}" for name, value in named.items() if value is not None]
    if budget:
        given += ["--budget", *budget]
    stack = Stack(
        folder,
        given,
        exporter_port=_port("exporter", port),
        prometheus_port=_port("prometheus", prometheus_port),
        alertmanager_port=_port("alertmanager", alertmanager_port),
        receivers=Receivers(page=page_url, ticket=ticket_url, log=log_url),
        book_url=book_url,
        interval_s=min(INTERVAL_S, SHORTEST_WINDOW_S / 2 * time_scale) if interval is None else interval,
        time_scale=time_scale,
    )
    for signum in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what runs by now is ended in order
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
            signal.signal(signum, signal.default_int_handler)
    console = Console(stderr=True)
    status = console.status("Starting the exporter, Alertmanager and Prometheus")
    status.start()
    try:
        with stack:
            status.stop()
            _say(stack.addresses, folder, book_url, json)
            stack.wait()
    finally:
        status.stop()
    return 0


def _port(name: str, wanted: int | None) -> int | None:
    """The port that was asked for; else the usual one, or None where that is taken."""
    if wanted is not None:
        return wanted
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, USUAL_PORTS[name]))
        except OSError:
            return None
    return USUAL_PORTS[name]


def _say(addresses: Addresses, folder: Path, book_url: str, json: bool) -> None:
    if json:
        print(jsonlib.dumps(dataclasses.asdict(addresses)), flush=True)
        return
    print(f"Prometheus     {addresses.prometheus}  (alerts: {addresses.prometheus}/alerts)")
    print(f"Exporter       {addresses.exporter}/metrics")
    print(f"Alertmanager   {addresses.alertmanager}")
    print(f"Runbooks       {book_url.rstrip('/')}{RUNBOOKS}  (while that site runs: `make up`)")
    if b'tier="simulated"' in fetch(f"{addresses.exporter}/metrics"):
        print("The GPUs are SIMULATED, computed by a model; training runs and their times are real.")
    option = "" if folder == FOLDER else f" --folder {folder}"
    print(
        f"Now, in another terminal: `distlab observe page{option}` shows all live, `distlab observe validate{option}` "
        f"checks it. Logs and time series are in {folder}; Ctrl-C ends it.",
        flush=True,
    )
