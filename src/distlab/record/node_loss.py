"""Record an elastic run that loses a node, for readers without Ray.

    python -m distlab.record.node_loss --out src/distlab/record/node_loss.json      # some minutes

It comes with the package: learners' servers have that, and no other file of the repository.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distlab.faults.drills.node_loss import RUN, Story, lose_a_node
from distlab.record.one_file import exit_as, read_from_file, record_into_file
from distlab.train.config import from_dict

FORMAT = "distlab node loss"
RECORDED = Path(__file__).with_name("node_loss.json")
TOLD = ("autoscaler_active_nodes{", "autoscaler_pending_nodes{", "autoscaler_cluster_resources{")
"""What is kept of the autoscaler's pages."""


def read(path: Path = RECORDED) -> Story:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recorded loss of a node")
    texts = found.pop("texts")
    found["pages"] = [(at, texts[number]) for at, number in found["pages"]]
    return Story(**found)


def record() -> dict[str, Any]:
    """Run it, and keep what is read: of a page what tells of nodes, and each text once."""
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="distlab-") as folder:
        story = lose_a_node(from_dict(RUN | {"folder": folder}))
    told = [
        (at, "".join(f"{line}\n" for line in text.splitlines() if line.startswith(TOLD)))
        for at, text in story.pages
    ]
    texts = list(dict.fromkeys(text for _, text in told))
    found = {
        "format": FORMAT,
        **dataclasses.asdict(story),
        "moments": turns(story.moments),
        "texts": texts,
        "pages": [(at, texts.index(text)) for at, text in told],
        "stamp": f"{story.stamp} · load average {load_average:.1f} as it began",
    }
    rounded: dict[str, Any] = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 4))
    return rounded


def turns(moments: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The first and the last of moments that follow each other and differ in nothing but their time."""

    def same(a: dict[str, float], b: dict[str, float]) -> bool:
        return {**a, "time": 0} == {**b, "time": 0}

    inner = range(1, len(moments) - 1)
    within = {i for i in inner if same(moments[i - 1], moments[i]) and same(moments[i], moments[i + 1])}
    return [moment for i, moment in enumerate(moments) if i not in within]


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("node_loss", record, args, indent=None)


if __name__ == "__main__":
    exit_as(main)
