"""Every panel that distlab shows, once: what Grafana and distlab's own page draw, and what the tests run."""

from __future__ import annotations

from distlab.observe.panels.cost import COST
from distlab.observe.panels.fleet import FLEET
from distlab.observe.panels.health import HEALTH
from distlab.observe.panels.training import TRAINING

DASHBOARDS = (FLEET, TRAINING, COST, HEALTH)
