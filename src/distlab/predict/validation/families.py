"""What errors may be at most, and what is known of each family of cases: targets, sources, splits, as data.

    FAMILIES["all_reduce_dgx"].split, TARGETS["step"], WHY_MISSED

Targets hold for cells that no fit used. `WHY_MISSED` has a sentence for each group of the package's that misses one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distlab.predict.validation import Kind, Scored


@dataclass(frozen=True)
class Target:
    """What absolute errors may be at most: their mean, and each. Counts lie `inside` the interval of their prediction;
    shares in percent are off by `points` at most."""

    mean: float = math.inf
    each: float = math.inf
    points: float = math.inf
    inside: bool = False

    def missed_by(self, cell: Scored) -> bool:
        """Whether this one cell is beyond what each may be."""
        outside = self.inside and not (
            cell.interval and cell.interval[0] <= cell.measured <= cell.interval[1]
        )
        off = abs(cell.predicted - cell.measured)
        return outside or abs(cell.signed_error) > self.each or off > self.points

    def __str__(self) -> str:
        parts = [
            f"{what} {limit:.1%}"
            for what, limit in (("mean", self.mean), ("max", self.each))
            if limit < math.inf
        ]
        if self.each == 0:
            parts = ["exact"]
        if self.points < math.inf:
            parts.append(f"{self.points:g} points")
        if self.inside:
            parts.append("in the 95% interval")
        return ", ".join(parts) or "none"


NO_TARGET = Target()
INSIDE_MEAN, ACROSS_MEAN, OF_INTERPOLATION = 0.04, 0.10, 1.25
"""Of collectives over 1 MiB: inside a node, across nodes; or of what the line between neighbouring sizes is off, where
that is more."""

STEPS = Target(mean=0.035, each=0.09)
"""Calculon's own validation: 3.65% and 8.87%."""

TARGETS: dict[Kind, Target] = {
    "step": STEPS,
    "activations": Target(each=0.05),
    "states": Target(each=0.0),
    "failures": Target(inside=True),
    "goodput": Target(points=2.0),
}
"""By kind of cell; collectives: `INSIDE_MEAN`, `ACROSS_MEAN`. Others have none."""

KIND_NAMES: dict[Kind, str] = {
    "step": "step time",
    "activations": "activations",
    "states": "states",
    "peak": "peak of a step",
    "scaling": "steps on several ranks",
    "failures": "failures counted",
    "goodput": "goodput",
    "product": "matrix products",
}

Tier = Literal["published", "recorded", "this machine's own"]


@dataclass(frozen=True)
class Family:
    """What is known of a family of cases."""

    title: str
    tier: Tier
    machine: str
    source: str
    """A key of the book's bibliography, or words."""
    split: str
    """Which of its cases a fit used, and which not."""
    leaves_out: str
    """What the model does not know of."""
    target: Target | None = None
    """None: that of the kind of its cells."""


_ODD_SIZES = "Above 1 MiB every second size of a run was fitted, the others were held out."

FAMILIES: dict[str, Family] = {
    "all_reduce_dgx": Family(
        "All-reduce on DGX A100 and DGX H100",
        "published",
        "1 and 2 nodes of DGX A100, 1 node of DGX H100",
        "agrawal2024vidur",
        _ODD_SIZES,
        "What else the network carries, and which algorithm NCCL's version chose: the recording does not say.",
    ),
    "all_reduce_h200": Family(
        "All-reduce on 8 H200",
        "published",
        "8 H200 SXM, NVSwitch",
        "bekman_ml_engineering",
        _ODD_SIZES,
        "The clock's resolution and the jitter of a launch.",
    ),
    "published_bandwidths": Family(
        "Bus bandwidth of long payloads",
        "published",
        "8 A100, 8 H200, 4 nodes of 8 B200",
        "bekman_ml_engineering",
        "No fit used any. B200's links are NVLink 4's fit, scaled by the datasheets.",
        "That two machines with the same datasheet reach different rates.",
    ),
    "megatron_iteration_time": Family(
        "Iteration time, 22B and 175B",
        "published",
        "8 and 64 A100 80 GB",
        "korthikanti2022reducing",
        "All rows are in the fit of the two efficiencies.",
        "Jitter, loading of data, clocks that fall under load.",
    ),
    "megatron_weak_scaling": Family(
        "Weak scaling, 1.7B to 529.6B",
        "published",
        "32 to 2,520 A100 80 GB (Selene)",
        "narayanan2021megatron",
        "All rows are in the fit of the two efficiencies.",
        "Jitter, contention between jobs, stragglers.",
    ),
    "megatron_530b": Family(
        "530B on 2,240 GPUs",
        "published",
        "2,240 A100 80 GB",
        "korthikanti2022reducing",
        "In no fit. The paper's abstract gives GPUs and MFU; batch and layout are recalled.",
        "Stragglers of 280 nodes.",
    ),
    "megatron_left_out": Family(
        "The rows of both, each model left out in turn",
        "published",
        "8 to 2,520 A100 80 GB",
        "korthikanti2022reducing, narayanan2021megatron",
        "For each model the efficiencies are fitted to the other models' rows alone.",
        "The same as of both tables.",
    ),
    "activation_memory": Family(
        "Activations against none recomputed",
        "published",
        "22B and 175B, tensor parallel over 8",
        "korthikanti2022reducing",
        "Nothing is fitted.",
        "Buffers of libraries and fragmentation, which the paper's figure leaves out as well.",
    ),
    "convnet_images_per_s": Family(
        "Convolutional networks on one GPU",
        "published",
        "1 P100; 1 V100, 1 A100",
        "tables of tensorflow.org, Horovod and NVIDIA/DeepLearningExamples",
        "Two parameters are fitted to a DGX-1's P100; Horovod's machines, V100 and A100 are held out.",
        "Which of its algorithms cuDNN chose for a layer.",
        NO_TARGET,
    ),
    "convnet_efficiency": Family(
        "Scaling of convolutional networks",
        "published",
        "16 to 512 P100 over 25 Gb/s Ethernet; 256 P100",
        "sergeev2018horovod, goyal2017large",
        "Two parameters are fitted to figures for 16 GPUs; VGG-16 over RDMA and all larger sizes are held out.",
        "Congestion: VGG-16 on 512 GPUs got less of its network than on 128.",
        NO_TARGET,
    ),
    "failure_counts": Family(
        "Failures of large jobs",
        "published",
        "504 to 16,384 GPUs",
        "grattafiori2024llama3, and others",
        "Each site is predicted from the other sites alone.",
        "A site's age, its cooling, and what it counts as a failure: hence intervals of two orders of magnitude.",
    ),
    "goodput_published": Family(
        "Goodput of large jobs",
        "published",
        "2,048 to 100,000 GPUs, projected",
        "Kokolis et al., 2024 (arXiv 2410.21680)",
        "Nothing is fitted. The published values are an expression and projections, not measurements.",
        "Stragglers and elastic worlds; `distlab predict goodput --elastic` and its like simulate these.",
    ),
    "own_gloo_all_reduce": Family(
        "Collectives of gloo between processes",
        "this machine's own",
        "2 CPU cores, 2 and 4 processes",
        "own_gloo_all_reduce.csv",
        "Every second payload of an operation was fitted, the others were held out.",
        "Whatever else ran on these cores at the time.",
    ),
    "own_memory": Family(
        "Memory of real DDP and FSDP runs",
        "this machine's own",
        "1, 2 and 4 processes on a CPU",
        "own_memory.csv",
        "Nothing is fitted.",
        "Temporary tensors inside an operation of torch.",
    ),
    "own_step_scaling": Family(
        "Steps of the trainers on 1, 2 and 4 processes",
        "this machine's own",
        "2 CPU cores",
        "own_step_scaling.csv",
        "Nothing is fitted to them; the collectives in them are the fit to gloo's.",
        "Caches that processes share, and the scheduler that moves them.",
        NO_TARGET,
    ),
    "h200_steps": Family(
        "Training steps of GPTs on one H200",
        "recorded",
        "1 H200",
        "h200_steps.csv",
        "In no fit: the efficiencies are those fitted to A100s.",
        "Launches of kernels, which bound small models.",
        NO_TARGET,
    ),
    "h200_products": Family(
        "Matrix products on one H200",
        "recorded",
        "1 H200",
        "h200_products.csv",
        "In no fit: all types reach the share of their peak that the best 16-bit product did, on another H200.",
        "Clocks, tiles, and what a type of number costs beside its peak.",
        NO_TARGET,
    ),
}
"""By name of the family."""

ANY = "any"
"""Stands for all groups of a family."""

WHY_MISSED: dict[tuple[str, str], str] = {
    ("published_bandwidths", "a100_dgx, 1 x 8"): (
        "The model was fitted to a recording of slower A100 nodes. Machines with one datasheet differ by as much: "
        "calibrate yours with `distlab bench collectives`."
    ),
    ("published_bandwidths", "h200, 1 x 8"): (
        "NVLink 4 was fitted to 2 and 4 H100 up to 64 MiB; over long payloads rings of 8 H200 are a little faster."
    ),
    ("goodput_published", "goodput"): (
        "The projection for 100,000 GPUs is about 0.9, and does not give the time of a save: we take the one for "
        "which its interval is Young's."
    ),
    ("own_gloo_all_reduce", ANY): (
        "Processes share two cores with whatever else runs there: launches of the same program differ by as much."
    ),
}
"""By family and group."""
