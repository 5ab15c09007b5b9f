"""Which fault happens to which rank at which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from distlab.errors import SettingError

MOST = 2**31
"""Above every number that a setting could mean; it keeps out infinity, and NaN is in no range."""
EXAMPLE = "{kind: slow, step: 2, rank: 1, seconds: 0.2}"
"""A fault in a run's YAML file."""


@dataclass(frozen=True)
class Fault:
    """One fault of a training run. It strikes once: a run that resumes after it is spared.

    kill: the rank gets SIGKILL. raise: it raises `InjectedError`. hang: it never returns. slow: every following
    step takes `seconds` longer, in its compute_s. out_of_memory: an allocation fails. fill_disk: no space is left for
    the run's files. stall_storage: for `seconds`, nothing that the rank opens in the run's folder answers.
    damage_checkpoint, truncate_checkpoint: the newest complete checkpoint loses a bit, or half a file.
    slow_network: the rank's cable has `rate_Mbits` from then on. drop_network: for `seconds`, every packet from and
    to the rank vanishes. These two need ranks in a network of namespaces (see faults/network.py).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    kind: Literal[
        "kill",
        "raise",
        "hang",
        "slow",
        "out_of_memory",
        "fill_disk",
        "stall_storage",
        "damage_checkpoint",
        "truncate_checkpoint",
        "slow_network",
        "drop_network",
    ]
    step: int
    """After this many optimizer steps, and after the checkpoint that is due then."""
    rank: int = 0
    seconds: float = 1.0
    """Delay of every following step (slow); how long packets vanish (drop_network) or storage is silent
    (stall_storage)."""
    rate_Mbits: float = 100.0  # noqa: N815 - units keep their case
    """Bandwidth in each direction (slow_network), in 10^6 bits/s."""

    def __post_init__(self) -> None:
        for name, least in (("step", 1), ("rank", 0), ("seconds", 0), ("rate_Mbits", 0.001)):
            if not least <= getattr(self, name) < MOST:
                raise SettingError(
                    f"A fault's {name} is {getattr(self, name)}; it must be {least} or more, and below {MOST}."
                )
