"""What a recording consists of: each part's call, its time box, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distlab.record.process import Call

LIMIT_S = 470.0
"""Of all parts together: a command on the course's GPU machine may take 10 minutes, and has to start, too."""

MERGED = "merged.trace.json.gz"
"""Of one rank it is that rank's trace again."""

QUICK = ("--sizes", "64", "128", "--budget-s", "0.01", "--heat-s", "0.1")
"""Of `distlab bench gpu`, where it is as short as can be."""


@dataclass(frozen=True)
class Mode:
    """Where and how long."""

    device: Literal["gpu", "cpu"]
    gpus: int
    short: bool = False
    """As short as a test can bear."""

    @property
    def train_s(self) -> float:
        """Seconds of each training run whose telemetry is recorded."""
        return 0.5 if self.short else 20.0 if self.device == "gpu" else 8.0

    @property
    def steps_s(self) -> float:
        """Seconds after which no further size of model is begun."""
        return 110.0 if self.device == "gpu" else 10.0

    @property
    def heat_s(self) -> float:
        """Seconds of products without a pause."""
        return 0.5 if self.short else 40.0 if self.device == "gpu" else 8.0

    @property
    def oom_limit_gib(self) -> float:
        """Memory in GiB that the part which runs out of it may have."""
        return 16.0 if self.device == "gpu" else 0.25 if self.short else 0.5

    @property
    def ranks(self) -> int:
        """Of the collectives; a CPU rehearses with two."""
        return self.gpus if self.device == "gpu" else 2


@dataclass(frozen=True)
class Found:
    """A file that a part left."""

    path: Path
    name: str
    """In the recording."""
    kind: str
    about: str


@dataclass(frozen=True)
class PartPlan:
    """One part."""

    name: str
    about: str
    box_s: float
    call: Call
    telemetry: bool
    scratch: Path
    run: str = ""
    """Of a training run: the name of its folder in `scratch`."""

    def found(self) -> Iterator[Found]:
        """The files that are there now, however the part ended."""
        for source, name, kind, about in self._wanted():
            if source.is_file() and not source.is_symlink() and source.stat().st_size:
                yield Found(source, name, kind, about)

    def _wanted(self) -> Iterator[tuple[Path, str, str, str]]:
        yield self.scratch / f"{self.name}.json", f"{self.name}.json", "results", self.about
        if self.run:
            log = self.scratch / self.run / "log"
            yield log / "run.json", f"{self.name}.run.json", "run", f"{self.about}: what ran"
            yield (
                log / "rank_0.jsonl",
                f"{self.name}.rank_0.jsonl.gz",
                "run",
                f"{self.about}: its log, step by step",
            )
        if self.name == "oom":
            yield (
                self.scratch / "oom.snapshot.pickle",
                "oom.snapshot.pickle.gz",
                "memory",
                f"{self.about}: snapshot",
            )
        profile = self.scratch / "profile"
        for path in sorted(profile.iterdir()) if profile.is_dir() else []:
            if path.name != MERGED:
                yield path, f"{self.name}/{path.name}", "profile", f"{self.about}: {path.name}"


def parts(mode: Mode, scratch: Path) -> list[PartPlan]:
    """In the order in which they are recorded: what matters most comes first."""
    device, runs = ("--device", mode.device), "distlab.record.runs"

    def plan(
        name: str,
        about: str,
        box_s: float,
        module: str,
        *arguments: str,
        telemetry: bool = True,
        run: str = "",
    ) -> PartPlan:
        own = scratch / name
        filled = tuple(argument.replace("{}", str(own)) for argument in arguments)
        return PartPlan(name, about, box_s, Call(module, filled), telemetry, own, run)

    def training(name: str, about: str) -> PartPlan:
        asked = (name, "{}", "--seconds", f"{mode.train_s:g}", *device)
        return plan(name, f"Training with {about}", mode.train_s + 40, runs, *asked, run=name)

    def profiled(case: str) -> PartPlan:
        asked = (case, "{}/profile", *device)
        about = f"Profile of the {case} run"
        return plan(f"profile_{case}", about, 60, "distlab.record.profile", *asked, telemetry=False)

    bench = "What the device reaches: products, copies, latency, kernels"
    collectives = f"Collectives between {mode.ranks} ranks"
    zeros = "Products of zeros, whose clock no real data reaches"
    hot = ("hot", "{}", "--seconds", f"{mode.heat_s:g}", *device)
    steps = ("{}/steps.json", "--seconds", f"{mode.steps_s:g}", *device, *(["--short"] if mode.short else []))
    oom = ("{}", "--limit-gib", f"{mode.oom_limit_gib:g}", *device)
    listed = [
        plan("bench", bench, 120, "distlab.cli", *_bench(mode)),
        plan("collectives", collectives, 90, "distlab.cli", *_collectives(mode)),
        training("good", "a batch that fills the device"),
        plan(
            "steps",
            "Training steps by size: time and memory",
            mode.steps_s + 50,
            "distlab.record.steps",
            *steps,
        ),
        training("starved", "a loader that is slower than the device"),
        training("small_batch", "one sample a step"),
        profiled("good"),
        profiled("starved"),
        plan("oom", "Out of memory, with its post-mortem", 45, "distlab.record.oom", *oom),
        plan("hot", "Products without a pause: as warm as it gets by itself", mode.heat_s + 30, runs, *hot),
        plan("zeros", zeros, 60, "distlab.cli", *_zeros(mode)),
    ]
    return [one for one in listed if one.name != "collectives" or mode.ranks > 1]


def _bench(mode: Mode) -> list[str]:
    words = ["bench", "gpu", "--device", mode.device, "--out", "{}/bench.json"]
    return [*words, *QUICK, "--payload-bytes", "1048576"] if mode.short else words


def _zeros(mode: Mode) -> list[str]:
    words = ["bench", "gpu", "--device", mode.device, "--parts", "product", "--data", "zeros"]
    words += ["--out", "{}/zeros.json", "--dtypes", "bf16" if mode.device == "gpu" else "fp32"]
    return [*words, *QUICK] if mode.short else words


def _collectives(mode: Mode) -> list[str]:
    words = ["bench", "collectives", "--world-size", str(mode.ranks), "--out", "{}/collectives.json"]
    if not mode.short:
        return [*words, "--budget-s", "0.1"]
    few = ["--sizes-bytes", "1024", "--operations", "all_reduce", "--iterations", "8"]
    return [*words, "--budget-s", "0.01", *few]
