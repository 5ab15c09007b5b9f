"""The manifest that runs the first lab of MOD-202 on Kubernetes: the lab's own run, and what the lab asks of one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from distlab.cli import COMMANDS
from distlab.course.labsource import read_lab
from distlab.faults.drills.node_loss import NODES, RUN
from distlab.train.config import from_dict
from tests.book.test_ray_manifests import test_a_cluster as check_cluster

ROOT = Path(__file__).parents[2]
CONFIG, JOB = yaml.safe_load_all((ROOT / "helm/mod-202/lab-1.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]


def test_it_is_the_run_of_the_lab() -> None:
    settings: dict[str, Any] = yaml.safe_load(CONFIG["data"]["config.yaml"])
    given = from_dict(settings).as_dict()
    lab = from_dict(RUN).as_dict()
    differ = {name for name in lab if given[name] != lab[name]}
    assert differ == {"folder", "launcher", "faults"}
    [group] = CLUSTER["workerGroupSpecs"]
    assert group["replicas"] == given["world_size"] == NODES.most
    assert group["rayStartParams"]["num-cpus"] == str(NODES.cpus)


def test_it_starts_a_command_with_a_file_that_is_mounted_where_it_runs() -> None:
    program, command, option, path = shlex.split(JOB["spec"]["entrypoint"])
    assert (program, option) == ("distlab", "--config")
    assert command in COMMANDS
    head = CLUSTER["headGroupSpec"]["template"]["spec"]
    [config] = [volume["name"] for volume in head["volumes"] if "configMap" in volume]
    [mount] = [m["mountPath"] for m in head["containers"][0]["volumeMounts"] if m["name"] == config]
    assert path == f"{mount}/{next(iter(CONFIG['data']))}"


def test_checkpoints_lie_where_every_pod_writes() -> None:
    folder = yaml.safe_load(CONFIG["data"]["config.yaml"])["folder"]
    for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        [claim] = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == mounts[folder]
        ]
        assert claim == "runs"


def test_what_the_course_asks_of_a_cluster() -> None:
    check_cluster(CLUSTER)


@pytest.mark.skipif(not (ROOT / "solutions").is_dir(), reason="a learner's copy has no model answer")
def test_the_labs_own_check_finds_nothing_here_and_three_mistakes_in_its_manifest() -> None:
    cells = {
        cell.metadata.get("nbgrader", {}).get("grade_id"): cell.source
        for cell in read_lab(ROOT / "solutions/mod-202-lab-1/lab.md").cells
    }
    names: dict[str, Any] = {"yaml": yaml}
    exec(cells["manifest"] + "\n" + cells["mistakes"], names)
    assert names["mistakes"](JOB) == []
    assert names["mistakes"](names["RAYJOB"]) == names["three_mistakes"]
    assert names["RAYJOB"]["spec"]["rayClusterSpec"]["rayVersion"] == CLUSTER["rayVersion"]
