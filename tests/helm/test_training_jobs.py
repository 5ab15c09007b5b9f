"""The Kubernetes manifests of one training job: each says the same as the others, and says what its launcher needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distlab.train.config import TrainConfig
from distlab.train.run import parse

FOLDER = Path(__file__).parents[2] / "helm/mod-202"
NODES, GPUS = 2, 8


def load(name: str) -> dict[str, Any]:
    (manifest,) = list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
    assert isinstance(manifest, dict)
    return manifest


def worker(name: str) -> dict[str, Any]:
    """What each manifest says of a node that computes: nodes, processes, container, volumes, command line."""
    spec = load(name)["spec"]
    if name == "trainjob":
        trainer, patch = spec["trainer"], spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
        (node,) = patch["replicatedJobs"]
        pod = node["template"]["spec"]["template"]["spec"]
        container = pod["containers"][0] | {
            "resources": trainer["resourcesPerNode"],
            "image": trainer["image"],
        }
        line = trainer["command"] + trainer["args"]
        return _worker(trainer["numNodes"], trainer["numProcPerNode"], container, pod, line)
    if name == "pytorchjob":
        replica = spec["pytorchReplicaSpecs"]["Worker"]
        processes = int(spec["nprocPerNode"])
    else:
        replica, processes = spec["mpiReplicaSpecs"]["Worker"], spec["slotsPerWorker"]
    pod = replica["template"]["spec"]
    (container,) = pod["containers"]
    starter = (
        spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        if name == "mpijob"
        else container
    )
    return _worker(replica["replicas"], processes, container, pod, starter["command"] + starter["args"])


def _worker(
    nodes: int, processes: int, container: dict[str, Any], pod: dict[str, Any], line: list[str]
) -> dict[str, Any]:
    return {"nodes": nodes, "processes": processes, "container": container, "pod": pod, "line": line}


KINDS = {
    "trainjob": ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    "pytorchjob": ("kubeflow.org/v1", "PyTorchJob"),
    "mpijob": ("kubeflow.org/v2beta1", "MPIJob"),
}
every_manifest = pytest.mark.parametrize("name", KINDS)


@every_manifest
def test_it_is_what_its_operator_reads(name: str) -> None:
    manifest = load(name)
    assert (manifest["apiVersion"], manifest["kind"]) == KINDS[name]
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]


@every_manifest
def test_every_process_has_a_gpu(name: str) -> None:
    found = worker(name)
    assert (found["nodes"], found["processes"]) == (NODES, GPUS)
    resources = found["container"]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == str(GPUS)
    assert found["container"]["image"] == "distlab:latest"


@every_manifest
def test_shared_memory_and_checkpoints_have_a_place(name: str) -> None:
    found = worker(name)
    volumes = {volume["name"]: volume for volume in found["pod"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in found["container"]["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in volumes[mounts["/runs"]]


def trained(name: str) -> TrainConfig:
    """The configuration that the command line of a manifest asks for."""
    line = worker(name)["line"]
    config, _ = parse(line[line.index("distlab.train") + 1 :])
    return config


@every_manifest
def test_the_command_line_is_one_that_distlab_takes(name: str) -> None:
    config = trained(name)
    assert config.strategy == ("horovod" if name == "mpijob" else "ddp")
    assert config.run_folder == "/runs/run"
    assert config.checkpoint.every_steps  # else a restarted pod would begin again
    assert config.resume_from_checkpoint == "latest"


def test_all_train_alike() -> None:
    configs = [trained(name).as_dict() | {"strategy": None} for name in KINDS]
    assert configs[0] == configs[1] == configs[2]


def test_mpirun_starts_one_process_a_slot() -> None:
    line = worker("mpijob")["line"]
    assert line[: line.index("-np") + 2] == ["mpirun", "-np", str(NODES * GPUS)]
    launcher = load("mpijob")["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in launcher["resources"]["limits"]  # it would hold a GPU and never use it


def test_torchrun_learns_its_group_from_the_operator() -> None:
    for name in ("trainjob", "pytorchjob"):
        line = worker(name)["line"]
        assert line[: line.index("distlab.train")] == ["torchrun", "-m"]
