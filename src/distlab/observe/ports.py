"""Where the parts of the monitoring answer unless told otherwise: each program's usual port, on this machine."""

from __future__ import annotations

from distlab.machine import LOOPBACK

EXPORTER_PORT = 9400
"""dcgm-exporter's, in whose place distlab's stands."""
PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093

EXPORTER = f"{LOOPBACK}:{EXPORTER_PORT}"
ALERTMANAGER = f"{LOOPBACK}:{ALERTMANAGER_PORT}"
EXPORTER_URL = f"http://{EXPORTER}"
PROMETHEUS_URL = f"http://{LOOPBACK}:{PROMETHEUS_PORT}"
