"""What is looked for: a model, a cluster, a number of GPUs, a batch, and what is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from distlab.errors import SettingError
from distlab.predict.cluster import Cluster
from distlab.predict.kernels import Kernels
from distlab.predict.memory import RESERVE_BYTES
from distlab.predict.states import MemorySettings
from distlab.predict.step_time import Software
from distlab.predict.transformer import Layout, Transformer
from distlab.predict.units import DAY_S

Objective = Literal["time", "cost", "memory"]
"""time: the shortest step. cost: the cheapest training, of fewer GPUs, too. memory: the most headroom."""

MOST = {"gpus": 2**20, "global_batch": 2**24, "layers": 2**12, "experts": 2**12}
"""Of what is cut in every way there is: beyond these the ways are too many, and nobody trains so."""

AXES = tuple(part.name for part in fields(Layout) if part.name != "global_batch")
"""Fields of a layout that are searched."""


@dataclass(frozen=True)
class Query:
    """A search. SettingError for what cannot be."""

    model: Transformer
    cluster: Cluster
    gpus: int
    """All of them are used; the cost's objective tries fewer, too."""
    global_batch: int
    """Samples of a step. It decides how training goes, so that it is given and not searched."""
    objective: Objective = "time"
    tokens: float | None = None
    """Of the whole training; what costs are of."""
    days: float | None = None
    """At most, for `tokens`."""
    keep: int = 5
    """Layouts that are ranked."""
    reserve_bytes: float = RESERVE_BYTES
    settings: MemorySettings = field(default_factory=MemorySettings)
    software: Software | None = None
    """None: `Software` with the kernels that `settings` describe."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the layout that are not searched, such as {"tensor": 8}."""

    def __post_init__(self) -> None:
        for name in ("gpus", "global_batch", "keep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        for name, most in MOST.items():
            value = getattr(self if hasattr(self, name) else self.model, name)
            if value > most:
                raise SettingError(f"{name} is {value}; a search takes at most {most:,}.")
        if self.objective not in get_args(Objective):
            raise SettingError(
                f"objective is {self.objective!r}; it is one of {', '.join(get_args(Objective))}."
            )
        if self.objective == "cost":
            if self.tokens is None:
                raise SettingError(
                    "tokens is missing; the objective cost is that of training on so many: give it."
                )
            if self.cluster.price_per_gpu_hour is None:
                raise SettingError(
                    "price_per_gpu_hour is not set for this cluster; the objective cost needs it: give it."
                )
        if self.days is not None and self.tokens is None:
            raise SettingError("tokens is missing; days bounds the time to train on so many: give both.")
        for name in ("tokens", "days"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SettingError(f"{name} is {value}; it must be above 0.")
        if not self.reserve_bytes >= 0:
            raise SettingError(f"reserve_bytes is {self.reserve_bytes:g}; it must be 0 or more.")
        if self.usable_bytes <= 0:
            raise SettingError(
                f"memory_bytes is {self.cluster.device.memory_bytes:g}, of which reserve_bytes, "
                f"{self.reserve_bytes:g}, leaves nothing; take GPUs with more, or reserve less."
            )
        for name in self.fixed:
            if name not in AXES:
                raise SettingError(
                    f"{name!r} of fixed is no field that is searched; these are {', '.join(AXES)}."
                )
        self._agree()

    def _agree(self) -> None:
        """Memory and time must be of the same program."""
        kernels = self.program.kernels
        self.settings.agree(kernels.fused_attention, kernels.gradient_bytes)

    @cached_property
    def program(self) -> Software:
        """What runs."""
        if self.software is not None:
            return self.software
        return Software(Kernels(self.settings.attention == "flash", self.settings.bytes.gradient))

    @property
    def usable_bytes(self) -> float:
        """That the allocator may reserve on a GPU."""
        return self.cluster.device.memory_bytes - self.reserve_bytes

    @property
    def peak_bytes(self) -> float:
        """What tensors may take of it, beside fragmentation."""
        return self.usable_bytes * (1 - self.settings.fragmentation)

    @property
    def slowest_s(self) -> float:
        """The longest step with which `days` suffice."""
        if self.days is None or self.tokens is None:
            return float("inf")
        return self.days * DAY_S * self.global_batch * self.model.sequence / self.tokens

    @property
    def gpu_counts(self) -> tuple[int, ...]:
        """The numbers of GPUs that are tried: for the cost also a half, a quarter and so on, down to whole nodes."""
        counts = [self.gpus]
        if self.objective == "cost":
            while counts[-1] % 2 == 0 and counts[-1] // 2 % self.cluster.gpus_per_node == 0:
                counts.append(counts[-1] // 2)
        return tuple(counts)

    def cost(self, step_s: float, gpus: int) -> float:
        """Of `tokens`, without failures."""
        steps = (self.tokens or 0.0) / (self.global_batch * self.model.sequence)
        return steps * step_s / 3600 * gpus * (self.cluster.price_per_gpu_hour or 0.0)
