"""Comparisons of tensors in tests are of the numbers that they hold.

torch first brings a Python number, or a tensor without dimensions, to the type of the tensor beside it. In a narrow
type much is the same then: all above 65,504 is infinity in float16, all above 464 is not finite in float8_e4m3fn and
yet equal to itself, 260 is 4 in uint8. A learner's function that gives such a tensor would be right for every large
number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

COMPARISONS = {name for kind in ("eq", "ne", "lt", "le", "gt", "ge") for name in (kind, f"__{kind}__")}
NARROW_BYTES = 2
"""float32 is left as torch has it: 0.1 is to be equal to its own tensor."""


class Exact(TorchFunctionMode):
    """Inside, narrow tensors are compared as float64 or int64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in COMPARISONS:
            args = tuple(map(_wide, args))
        return func(*args, **(kwargs or {}))


def _wide(value: Any) -> Any:
    if (
        not isinstance(value, torch.Tensor)
        or value.dtype.itemsize > NARROW_BYTES
        or value.dtype == torch.bool
    ):
        return value
    return value.double() if value.is_floating_point() else value.long()
