"""Ways of training one model on the ranks of a process group, a file each."""

from __future__ import annotations

from distlab.train.strategies.base import Strategy


def build_strategy(name: str) -> Strategy:
    """The strategy called `name`; its framework is imported only now."""
    if name == "single":
        from distlab.train.strategies.single import Single

        return Single()
    if name == "ddp":
        from distlab.train.strategies.ddp import DDP

        return DDP()
    raise ValueError(f"strategy is {name!r}; it must be 'single' or 'ddp'.")
