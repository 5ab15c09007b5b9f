"""Whose a GPU is: the run whose log says that one of its ranks has it.

A run's `log/run.json` names the process and the GPU of each rank, by its UUID, which no other GPU in the world has. It
is the run's own word, and a run's folder is its learner's: where two running runs claim a GPU, the one whose process
the driver shows on it has it, else the one that was found first.

Simulated GPUs belong to the run that they follow, GPU N to rank N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from distlab.observe.gpu_metrics import Owner
from distlab.observe.runs import Run
from distlab.observe.sample import GpuSample


def find_owners(
    samples: Iterable[GpuSample], runs: Iterable[Run], follow: Path | None = None
) -> dict[str, Run]:
    """The running run that has each GPU or MIG instance, by UUID. Nobody's are not in it."""
    running = [run for run in runs if run.running]
    if follow is not None:
        followed = next((run for run in running if run.files.path.resolve() == follow.resolve()), None)
        size = followed.newest.world_size if followed and followed.newest else 0
        return {gpu.uuid: followed for gpu in samples if followed and gpu.gpu < size}
    claims: dict[str, list[tuple[Run, int]]] = {}
    for run in running:
        for place in run.places:
            claims.setdefault(place.device, []).append((run, place.pid))
    owners = {}
    for gpu in samples:
        present = {process.pid for process in gpu.processes or ()}
        for uuid in _names(gpu):
            claimed = claims.get(uuid)
            if claimed:
                owners[uuid] = next((run for run, pid in claimed if pid in present), claimed[0][0])
    return owners


def shown_here(runs: Iterable[Run], known: Iterable[GpuSample]) -> list[Run]:
    """The runs that an exporter with these GPUs shows: where machines share a folder, each run is one exporter's.

    That is the one that has the first rank's GPU. Runs on CPUs, and any run where no real GPU is known, are shown by
    everybody.
    """
    own = {uuid for gpu in known if gpu.tier == "gpu" for uuid in _names(gpu)}
    return [run for run in runs if not own or _first_gpu(run) in own | {None}]


def _first_gpu(run: Run) -> str | None:
    return next((p.device for p in run.places if p.rank == 0 and p.device != "cpu"), None)


def labels_of(owners: dict[str, Run]) -> dict[str, Owner]:
    """`run` and `job_name` by UUID."""
    return {uuid: {"job_name": run.job, "run": run.name} for uuid, run in owners.items()}


def _names(gpu: GpuSample) -> Iterator[str]:
    yield gpu.uuid
    for instance in gpu.mig or ():
        yield instance.uuid
