"""Two ranks: what one strategy saved another loads, at another world size too; and ranks fail together.

Everything runs in one launch, since starting two ranks takes longer than all that they do here.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from distlab.errors import SettingError
from distlab.train.checkpoint import CheckpointError, Checkpoints
from distlab.train.checkpoint.folder import Folder
from distlab.train.launch import device, launch
from tests.train.checkpoint.states import blank_like, equal, leftovers, make_state

STRATEGIES = ["ddp", "fsdp", "tensor_parallel"]
OPTIONS: list[dict[str, Any]] = [
    {"kind": "sharded"},
    {"kind": "sharded", "incremental": True, "asynchronous": True},
    {"kind": "full", "asynchronous": True},
]
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def build(strategy: str, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of which FSDP gives the ranks unequal shares, after two steps of Adam that depend on the seed alone."""
    torch.manual_seed(seed)
    model: nn.Module = nn.Sequential(nn.Linear(10, 302), nn.GELU(), nn.Linear(302, 3)).to(device())
    if strategy == "ddp":
        model = DistributedDataParallel(model)
    elif strategy == "fsdp":
        for layer in list(model.children()):
            fully_shard(layer)
        fully_shard(model)
    elif strategy == "tensor_parallel":
        mesh = init_device_mesh(device().type, (dist.get_world_size(),))
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01 * (seed + 1))
    for _ in range(2):
        model(torch.ones(4, 10, device=device())).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def sharded_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything, on the first rank; torch's own way, which is the reference here."""
    weights, moments = get_state_dict(model, optimizer, options=WHOLE)
    return {"model": weights, "optimizer": moments}


def reload(checkpoints: Checkpoints, strategy: str) -> dict[str, Any]:
    """What a model of other weights holds after loading the last checkpoint."""
    model, optimizer = build(strategy, seed=99)
    state = sharded_state(model, optimizer)
    found = checkpoints.find("latest")
    assert found is not None
    checkpoints.load(found, state)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return whole_state(model, optimizer)


def every_strategy_loads_every_other(root: Path) -> dict[str, Any]:
    """Returns what each strategy saved, whole."""
    saved: dict[str, Any] = {}
    for seed, (strategy, options) in enumerate(itertools.product(STRATEGIES, OPTIONS)):
        name = f"{strategy}-{seed}"
        model, optimizer = build(strategy, seed)
        checkpoints = Checkpoints(root / name, **options)
        checkpoints.save(seed, sharded_state(model, optimizer), {"strategy": strategy})
        saved[name] = whole_state(model, optimizer)
        checkpoints.wait()
        for other in STRATEGIES:
            expect(reload(checkpoints, other), saved[name], f"{name} loaded by {other}")
    for strategy in STRATEGIES:
        single = torch.load(root / "single.pt", weights_only=True)
        expect(reload(Checkpoints(root / "single"), strategy), single, f"one process, loaded by {strategy}")
    return saved


def expect(got: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    if dist.get_rank() == 0:  # the others have nothing of a whole state
        assert equal(got, wanted), f"{what}: not the same bits"


@contextmanager
def failing(rank: int, after: int) -> Iterator[None]:
    """On this rank, every write from the one numbered `after` on finds the disk full."""
    real, calls = Folder.write, itertools.count()

    def write(self: Folder, name: str, content: bytes | memoryview) -> None:
        if next(calls) >= after:
            raise OSError(28, "No space left on device", name)
        real(self, name, content)

    with mock.patch.object(Folder, "write", write) if dist.get_rank() == rank else mock.MagicMock():
        yield


def a_rank_that_fails_fails_the_save_on_all(root: Path) -> None:
    rank = dist.get_rank()
    for options, (failing_rank, after) in itertools.product(OPTIONS, [(0, 0), (0, 1), (1, 0)]):
        if options["kind"] == "full" and failing_rank == 1:
            continue  # it writes nothing
        folder = root / f"failing-{failing_rank}-{after}-{OPTIONS.index(options)}"
        checkpoints = Checkpoints(folder, **options)
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        on_disk_full = pytest.raises(CheckpointError, match=f"on rank {failing_rank}, OSError")
        with failing(failing_rank, after), on_disk_full:
            save_and_wait(checkpoints, 2)
        holds(checkpoints, 1)
        checkpoints.save(3, make_state(3))
        holds(checkpoints, 3)
        if rank == 0:
            assert not leftovers(Folder(folder))


def save_and_wait(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, make_state(step))
    checkpoints.wait()


def holds(checkpoints: Checkpoints, step: int) -> None:
    """The last checkpoint is of this step, and every rank can load it."""
    found = checkpoints.find("latest")
    assert found is not None
    assert found.step == step
    state = blank_like(make_state(0))
    checkpoints.load(found, state)
    assert equal(state, make_state(step))


def ranks_agree_on_what_is_damaged(root: Path) -> None:
    checkpoints = Checkpoints(root / "damaged")
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    if dist.get_rank() == 0:
        for step in (2, 3):  # one file each, which one rank alone reads
            victim = sorted((root / "damaged" / f"step_{step}.ckpt").iterdir())[step % 2]
            victim.write_bytes(b"?" * victim.stat().st_size)
    dist.barrier()
    holds(checkpoints, 1)
    with pytest.raises(SettingError, match=r"step_3\.ckpt is damaged"):
        checkpoints.find("step_3")


def settings_are_refused_on_all_ranks(root: Path) -> None:
    if dist.get_rank() == 0:
        (root / "file").write_text("in the way")
    dist.barrier()
    with pytest.raises(SettingError, match="cannot be written"):
        Checkpoints(root / "file" / "run")
    checkpoints = Checkpoints(root / "other-model")
    checkpoints.save(1, make_state(1))
    other = make_state(1)
    other["model"]["bias"] = torch.ones(8)
    with pytest.raises(SettingError, match="another model"):
        Checkpoints(root / "other-model").save(2, other)
    found = checkpoints.find()
    assert found is not None
    with pytest.raises(SettingError, match="another model"):
        checkpoints.load(found, other)
    lacking = make_state(1) | {"extra": {f"rank_{dist.get_rank()}": 1}}
    with pytest.raises(SettingError, match=r"no 'extra\.rank_0'"):
        checkpoints.load(found, lacking)


def stages(value: int) -> dict[str, Any]:
    """What the ranks of a pipeline have: other layers on each, and random numbers of each."""
    rank = dist.get_rank()
    return {
        "model": {"shared": torch.full((5,), value), f"{rank}.weight": torch.full((200, 100), value + rank)},
        "progress": {"step": value, "random": {f"rank_{rank}": [rank, value]}},
    }


def what_lies_on_one_rank_alone_is_saved(root: Path) -> None:
    for options in OPTIONS:
        checkpoints = Checkpoints(root / f"stages-{OPTIONS.index(options)}", **options)
        checkpoints.save(7, stages(7))
        state = stages(0)
        found = checkpoints.find()
        assert found is not None
        assert set(found.model) == {"shared", "0.weight", "1.weight"}
        checkpoints.load(found, state)
        assert equal(state, stages(7))
        if found.full_file:
            whole = torch.load(Path(found.folder_url, found.full_file), weights_only=True)
            assert whole["progress"]["random"] == {"rank_0": [0, 7], "rank_1": [1, 7]}
            assert torch.equal(whole["model"]["1.weight"], torch.full((200, 100), 8))


def ranks_share_the_writing(root: Path) -> None:
    """What all ranks hold is written once, part by one rank and part by the other."""
    written: list[int] = []
    real = Folder.write

    def write(self: Folder, name: str, content: bytes | memoryview) -> None:
        written.append(len(content))
        real(self, name, content)

    checkpoints = Checkpoints(root / "shared")
    with mock.patch.object(Folder, "write", write):
        checkpoints.save(1, {"model": {f"layer{n}": torch.full((100, 200), n) for n in range(8)}})
    matrix = 100 * 200 * 8
    assert written.count(matrix) == 4


CASES = [
    a_rank_that_fails_fails_the_save_on_all,
    ranks_agree_on_what_is_damaged,
    settings_are_refused_on_all_ranks,
    what_lies_on_one_rank_alone_is_saved,
    ranks_share_the_writing,
]


def rank(root: Path) -> dict[str, Any]:
    saved = every_strategy_loads_every_other(root)
    for case in CASES:
        case(root)
    return saved


def to_plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: to_plain(value) for key, value in tree.items()}
    return tree.clone() if isinstance(tree, Tensor) else tree


def test_two_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single, optimizer = build("single", seed=50)
    Checkpoints(tmp_path / "single").save(1, sharded_state(single, optimizer))
    torch.save(to_plain(whole_state(single, optimizer)), tmp_path / "single.pt")

    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    saved = launch(rank, 2, tmp_path, timeout_s=120)[0]

    # And back to one process, without a process group.
    assert len(saved) == len(STRATEGIES) * len(OPTIONS)
    for name, whole in saved.items():
        assert equal(reload(Checkpoints(tmp_path / name), "single"), whole), name
