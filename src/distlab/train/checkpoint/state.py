"""What a state holds: whether it can be saved, whose model it is, and all of it in one place.

A state is a tree of dictionaries with string keys; its leaves are tensors, DTensors and plain values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from distlab.errors import SettingError

State = dict[str, Any]
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.Size)
DEPTH = 100
"""Of dictionaries, lists and tuples in one another."""


def refuse_unsafe(state: Any, most: float = math.inf) -> None:
    """TypeError for a value that could be read back only by running what a pickle says.

    Also for one that is nested more than DEPTH times, or holds over `most` values: a few bytes of pickle, which
    names an object once and uses it many times, can stand for a tree without an end.

    SettingError for a tensor made of others, such as the state of an optimizer of 8 bits: it has no bytes of
    its own to save.
    """
    count = 0

    def name(path: tuple[str | int, ...]) -> str:
        return "state" + "".join(f"[{key!r}]" for key in path)

    def look(path: tuple[str | int, ...], value: Any) -> None:
        nonlocal count
        count += 1
        if len(path) > DEPTH:
            raise TypeError(f"a state is nested up to {DEPTH} times, and not more.")
        if count > most:
            raise TypeError(f"it comes to over {most:,} values.")
        if isinstance(value, dict):
            for key, child in value.items():
                if type(key) is not str:
                    raise TypeError(f"{name((*path, key))}: keys of a state are strings.")
                look((*path, key), child)
        elif type(value) in (list, tuple):
            for index, child in enumerate(value):
                look((*path, index), child)
        elif isinstance(value, Tensor):
            local = value.to_local() if isinstance(value, DTensor) else value
            if is_traceable_wrapper_subclass(local):
                raise SettingError(
                    f"{name(path)} is a {type(local).__module__}.{type(local).__name__}, which a checkpoint cannot "
                    "hold; choose an optimizer whose state is plain tensors (such as 'adamw' in place of "
                    "'adamw_8bit'), or set checkpoint.every_steps to 0."
                )
        elif type(value) not in PLAIN:
            raise TypeError(
                f"{name(path)} is a {type(value).__module__}.{type(value).__name__}; a checkpoint holds tensors, "
                "numbers, strings, bytes, None, and lists, tuples and dictionaries of them."
            )

    look((), state)


def describe_model(state: State, group: dist.ProcessGroup | None) -> dict[str, str]:
    """`{"head.weight": "float32[10, 512]"}` for all of state["model"]: two models are equal if these are.

    Shapes are those of whole tensors; what lies on other ranks alone (a pipeline's stages) is included. All
    ranks of `group` call it.
    """
    flat, _ = flatten_state_dict(state.get("model", {}))
    mine = {name: _describe(value) for name, value in flat.items() if isinstance(value, Tensor)}
    if group is None:
        return mine
    parts: list[Any] = [None] * group.size()
    dist.all_gather_object(parts, mine, group)
    return {name: text for part in parts for name, text in part.items()}


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """In words, the first parameter in which two models differ; "" where they do not.

    What the mark says of theirs is anyone's text: no control character of it may reach a terminal.
    """
    for name in [*ours, *theirs]:
        if name not in theirs:
            return f"it has no {name!r}, which is {ours[name]} here"
        if name not in ours:
            return f"it has {name!r:.80} ({theirs[name]!r:.80}), which this model has not"
        if theirs[name] != ours[name]:
            return f"{name!r} is {theirs[name]!r:.80} there and {ours[name]!r} here"
    return ""


def gather_state(state: State, group: dist.ProcessGroup | None) -> State:
    """The whole state, unsharded and on the CPU, on the first rank; nothing on the others.

    What several ranks have comes from the lowest of them. All ranks of `group` call it.
    """
    flat, paths = flatten_state_dict(state)
    rank = 0 if group is None else group.rank()
    owner = _owners(list(flat), group)
    mine = []
    for name, value in flat.items():
        if isinstance(value, DTensor):
            value = value.full_tensor()  # a collective: every rank of the mesh comes here
        if owner[name] == rank:
            mine.append((paths[name], value.detach().cpu() if isinstance(value, Tensor) else value))
    whole: State = {}
    for part in [mine] if group is None else _at_first_rank(mine, group):
        for path, value in part:
            set_element(whole, path, value)
    return whole


def _owners(names: list[str], group: dist.ProcessGroup | None) -> dict[str, int]:
    """The lowest rank that has each name."""
    if group is None:
        return dict.fromkeys(names, 0)
    names_by_rank: list[Any] = [None] * group.size()
    dist.all_gather_object(names_by_rank, names, group)
    owner: dict[str, int] = {}
    for rank in reversed(range(group.size())):
        owner |= dict.fromkeys(names_by_rank[rank], rank)
    return owner


def _at_first_rank(mine: list[Any], group: dist.ProcessGroup) -> list[Any]:
    if group.rank() != 0:
        dist.gather_object(mine, None, dst=0, group=group)
        return []
    parts: list[Any] = [None] * group.size()
    dist.gather_object([], parts, dst=0, group=group)  # its own part needs no trip
    return [mine, *parts[1:]]
