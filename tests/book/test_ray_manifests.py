"""The manifests of the chapter on Ray: what the text says of them, and what an operator would refuse."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "helm/mod-202"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


CLUSTER = documents("ray-cluster.yaml")[0]
JOB = documents("ray-job.yaml")[0]
QUEUES = documents("queues.yaml")


@pytest.mark.parametrize("spec", [CLUSTER["spec"], JOB["spec"]["rayClusterSpec"]], ids=["cluster", "job"])
def test_a_cluster(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == importlib.metadata.version("ray")
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        for container in pod["containers"]:
            assert spec["rayVersion"] in container["image"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= {volume["name"] for volume in pod.get("volumes", [])}
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        memory = next(v["emptyDir"] for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
        assert memory["medium"] == "Memory"
        limit = group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        assert quantity(memory["sizeLimit"]) < quantity(limit) / 2, "tmpfs counts against the pod's memory"


def test_a_job_is_admitted_as_a_whole_and_gives_its_quota_back() -> None:
    labels = JOB["metadata"]["labels"]
    queues = {d["metadata"]["name"] for d in QUEUES if d["kind"] == "LocalQueue"}
    classes = {d["metadata"]["name"]: d["value"] for d in QUEUES if d["kind"] == "WorkloadPriorityClass"}
    assert labels["kueue.x-k8s.io/queue-name"] in queues
    assert labels["kueue.x-k8s.io/priority-class"] in classes
    assert classes["urgent"] > classes["batch"]
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert "enableInTreeAutoscaling" not in JOB["spec"]["rayClusterSpec"]


def test_the_job_fits_each_flavor_of_its_queue() -> None:
    spec = JOB["spec"]["rayClusterSpec"]
    wanted: dict[str, float] = {}
    pods = [(1, spec["headGroupSpec"]), *((g["replicas"], g) for g in spec["workerGroupSpecs"])]
    for count, group in pods:
        for container in group["template"]["spec"]["containers"]:
            for name, value in container["resources"]["requests"].items():
                wanted[name] = wanted.get(name, 0) + count * quantity(value)
    queue = next(d for d in QUEUES if d["kind"] == "ClusterQueue")
    flavors = {d["metadata"]["name"] for d in QUEUES if d["kind"] == "ResourceFlavor"}
    for group in queue["spec"]["resourceGroups"]:
        assert set(wanted) <= set(group["coveredResources"])
        for flavor in group["flavors"]:
            assert flavor["name"] in flavors
            for resource in flavor["resources"]:
                assert wanted[resource["name"]] <= quantity(resource["nominalQuota"])
