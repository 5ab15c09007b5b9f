"""States to save, and whether two of them are equal bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distlab.train.checkpoint.folder import Folder
from distlab.train.checkpoint.record import read_marks

ROWS, COLUMNS = 96, 256
"""Of the matrix: 98,304 bytes, which is enough for files of its own."""


def make_state(step: int, frozen: int = 0) -> dict[str, Any]:
    """Every kind of value that a checkpoint holds, different at each step but for `model.frozen`."""
    random = torch.Generator().manual_seed(step)
    matrix = torch.randn(ROWS, COLUMNS, generator=random)
    return {
        "model": {
            "matrix": matrix,
            "frozen": torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(frozen)),
            "bias": torch.randn(7, generator=random).bfloat16(),
            "scale": torch.randn((), generator=random).double(),
            "empty": torch.empty(0, 3),
            "mask": torch.rand(5, generator=random) < 0.5,
        },
        "optimizer": {
            "state": {"matrix": {"exp_avg": torch.randn(COLUMNS, ROWS, generator=random).t()}},
            "param_groups": [{"lr": 0.1 / (step + 1), "betas": (0.9, 0.999), "params": ["matrix"]}],
        },
        "progress": {
            "step": step,
            "random": {"python": (3, (1, 2, step), None)},
            "generator": random.get_state(),
        },
    }


def blank_like(state: Any) -> Any:
    """The same tree with other values, to load into."""
    if isinstance(state, dict):
        return {key: blank_like(value) for key, value in state.items()}
    if isinstance(state, list):
        return [blank_like(value) for value in state]
    return torch.zeros_like(state) if isinstance(state, Tensor) else None


def equal(a: Any, b: Any) -> bool:
    """Equal values of equal types, and tensors to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return same and torch.equal(
            a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
        )
    return bool(a == b)


def leftovers(folder: Folder) -> set[str]:
    """Files that no mark refers to."""
    names = set(folder.names())
    checkpoints, damaged = read_marks(folder, sorted(names))
    assert not damaged
    return names - {f for c in checkpoints for f in [*c.files, f"{c.name}.json"]}
