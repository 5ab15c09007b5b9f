"""Saving, finding and loading on one process: what comes back, what is kept, what is refused."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from distlab.errors import SettingError
from distlab.faults.storage import answer_again, stall
from distlab.train.checkpoint import Checkpoint, CheckpointError, Checkpoints
from distlab.train.checkpoint.folder import Folder
from distlab.train.checkpoint.record import MARK_BYTES, _checksum
from distlab.train.checkpoint.storage import Extent
from tests.train.checkpoint.states import COLUMNS, ROWS, blank_like, equal, leftovers, make_state

ALL_OPTIONS = [
    {"kind": "sharded"},
    {"kind": "sharded", "asynchronous": True},
    {"kind": "sharded", "incremental": True},
    {"kind": "sharded", "incremental": True, "asynchronous": True},
    {"kind": "full"},
    {"kind": "full", "asynchronous": True},
]


def loaded(checkpoints: Checkpoints, checkpoint: Checkpoint | None) -> dict[str, Any]:
    assert checkpoint is not None
    state: dict[str, Any] = blank_like(make_state(0))
    checkpoints.load(checkpoint, state)
    return state


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_what_was_saved_comes_back_to_the_bit(tmp_path: Path, options: dict[str, Any], where: str) -> None:
    folder = str(tmp_path) if where == "disk" else f"memory://{tmp_path}"
    checkpoints = Checkpoints(folder, **options)
    assert checkpoints.find() is None
    for step in (10, 20):
        checkpoints.save(step, make_state(step), {"loss": 0.5, "epoch": 3, "config": {"names": ("a", "b")}})
    checkpoints.wait()

    found = Checkpoints(folder).find("latest")
    assert found is not None
    assert (found.step, found.url) == (20, f"{folder}/step_20.ckpt")
    assert found.info == {"step": 20, "loss": 0.5, "epoch": 3, "config": {"names": ["a", "b"]}}
    assert equal(loaded(checkpoints, found), make_state(20))
    assert equal(loaded(checkpoints, checkpoints.find("step_10")), make_state(10))
    assert not leftovers(Folder(folder))
    if found.full_file:
        with fsspec.open(f"{folder}/{found.full_file}", "rb") as file:
            assert equal(torch.load(file, weights_only=True), make_state(20))


@pytest.mark.parametrize("kind", ["sharded", "full"])
def test_an_asynchronous_save_writes_what_a_synchronous_one_does(tmp_path: Path, kind: Any) -> None:
    for folder, asynchronous in (("now", False), ("later", True)):
        checkpoints = Checkpoints(tmp_path / folder, kind=kind, asynchronous=asynchronous)
        for step in (1, 2):
            state = make_state(step)
            checkpoints.save(step, state)
            change_in_place(state)  # what the next optimizer step does
        checkpoints.wait()
    for step in (1, 2):
        assert names(tmp_path / "now" / f"step_{step}.ckpt") == names(
            tmp_path / "later" / f"step_{step}.ckpt"
        )
    assert equal(loaded(checkpoints, checkpoints.find()), make_state(2))


def change_in_place(tree: Any) -> None:
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []:
        if isinstance(value, Tensor):
            value.zero_()
        change_in_place(value)


def test_an_incremental_save_writes_what_has_changed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, incremental=True, keep=10)
    state = make_state(1)
    sizes = []
    for step in range(1, 4):
        checkpoints.save(step, state)
        sizes.append(sum(p.stat().st_size for p in (tmp_path / "objects").iterdir()))
        state["model"]["matrix"] += 1  # the frozen matrix and the optimizer's stay as they are
    matrix = ROWS * COLUMNS * 4
    assert sizes[0] >= 3 * matrix
    assert [b - a for a, b in itertools.pairwise(sizes)] == [matrix, matrix]

    # Retention keeps what two checkpoints share until the last of them goes.
    checkpoints = Checkpoints(tmp_path, incremental=True, keep=1)
    checkpoints.save(4, make_state(4))
    assert names(tmp_path) == ["objects", "step_4.ckpt", "step_4.json"]
    assert not leftovers(Folder(tmp_path))
    assert equal(loaded(checkpoints, checkpoints.find()), make_state(4))


def test_the_last_ones_saved_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("a log")
    (tmp_path / "step_1.ckpt").mkdir()
    (tmp_path / "step_1.ckpt" / f".{'0' * 32}.part").write_text("of a save that was cut")
    (tmp_path / "step_one.json").write_text("not ours")
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30):
        checkpoints.save(step, make_state(step))
    ours = ["step_20.ckpt", "step_20.json", "step_30.ckpt", "step_30.json"]
    assert names(tmp_path) == sorted([*ours, "log.jsonl", "step_one.json"])

    # Back to step 20, and on from there in another way: "latest" is the last one saved.
    for step in (15, 20):
        checkpoints.save(step, make_state(step + 1))
    found = checkpoints.find("latest")
    assert found is not None
    assert found.step == 20
    assert equal(loaded(checkpoints, found), make_state(21))
    assert names(tmp_path)[1:] == [
        "step_15.ckpt",
        "step_15.json",
        "step_20.ckpt",
        "step_20.json",
        "step_one.json",
    ]
    assert not leftovers(Folder(tmp_path)) - {"log.jsonl", "step_one.json"}


def test_files_of_other_names_in_our_folders_are_not_ours(tmp_path: Path) -> None:
    theirs = ["step_1.ckpt/notes.txt", "step_1.ckpt/sub/a", "objects/mine", ".mine.part", "step_1.json"]
    for name in theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    theirs.remove("step_1.json")
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (2, 3):
        checkpoints.save(step, make_state(step))
    for name in theirs:
        assert (tmp_path / name).read_text() == "mine"


def reforge(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a mark says, and make its checksum right again."""
    document = json.loads(path.read_text())
    change(document)
    del document["sha256"]
    path.write_text(json.dumps(document | {"sha256": _checksum(document)}))


@pytest.mark.parametrize(
    "ours",
    [
        *[{"serial": value} for value in ("x", None, True, -1)],
        *[{"files": value} for value in ({}, 5, ["a"], {"../x": 1}, {"step_2.ckpt/x.metadata": 1})],
        *[{"kind": value} for value in ("full", "other", [])],
        *[{"model": 5}, {"model": {"a": 1}}, {"world_size": "x"}, {"torch": 2}, {"extra": 1}, 5, None],
    ],
    ids=str,
)
def test_a_mark_that_no_save_writes_is_passed_over(tmp_path: Path, ours: Any) -> None:
    small: dict[str, Any] = {"model": {"a": torch.ones(1)}}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, small)

    def change(mark: dict[str, Any]) -> None:
        mark["checkpoint"] = mark["checkpoint"] | ours if isinstance(ours, dict) else ours

    reforge(tmp_path / "step_2.json", change)
    found = checkpoints.find("latest")
    assert found is not None
    assert found.step == 1
    checkpoints.save(3, small)


def test_a_mark_that_is_deep_or_a_pipe_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"model": {"a": torch.ones(1)}})
    (tmp_path / "step_2.json").write_text("[" * 100_000)
    os.mkfifo(tmp_path / "step_9.json")
    with (tmp_path / "step_3.json").open("wb") as file:
        file.truncate(MARK_BYTES + 1)
    (tmp_path / "step_٣.json").write_text("")
    assert checkpoints.steps() == [1, 2, 3, 9]
    found = checkpoints.find("latest")
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("name", ["²", "step_²", "9" * 5000, "step_" + "9" * 5000, "a\0b", "a\ud800"])
def test_what_names_no_checkpoint_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="names no checkpoint"):
        Checkpoints(tmp_path).find(name)


def test_a_search_goes_no_deeper_than_checkpoints_lie(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    (tmp_path / "a" / "file").write_text("")
    assert Folder(tmp_path).names() == ["a/file"]


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_loss(path: Path) -> None:
    path.write_text(path.read_text().replace('"loss": 0.5', '"loss": 0.6'))


def a_list(path: Path) -> None:
    path.write_text("[1]")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [flip_bit, truncate, empty, Path.unlink, a_folder])
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "largest"),
        ({}, "*.metadata"),
        ({"incremental": True}, "largest"),
        ({"incremental": True}, "*.metadata"),
        ({"kind": "full"}, "*.pt"),
        ({"kind": "full"}, "*.metadata"),
    ],
)
def test_a_checkpoint_with_a_damaged_file_is_named_and_passed_over(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    options: dict[str, Any],
    what: str,
) -> None:
    checkpoints = Checkpoints(tmp_path, **options)
    for step in (1, 2):
        checkpoints.save(step, make_state(step, frozen=step))
    (newest,) = (c for c in [checkpoints.find("step_2")] if c)
    files = sorted((tmp_path / name for name in newest.files), key=lambda path: path.stat().st_size)
    victim = files[-1] if what == "largest" else next(p for p in files if p.match(what))
    harm(victim)

    found = checkpoints.find("latest")
    assert found is not None
    assert found.step == 1
    assert equal(loaded(checkpoints, found), make_state(1, frozen=1))
    assert "step_2.ckpt" in caplog.text
    assert victim.name in caplog.text
    with pytest.raises(SettingError, match=rf"step_2\.ckpt is damaged.*{victim.name}"):
        checkpoints.find("step_2")
    if what != "*.metadata" or newest.kind == "sharded":  # a full one is read without
        with pytest.raises(CheckpointError, match=victim.name):  # even by those who did not ask `find`
            checkpoints.load(newest, blank_like(make_state(0)))
    if harm is not a_folder:
        checkpoints.save(
            2, make_state(2, frozen=2)
        )  # the same bytes again: damage is repaired, not relied on
        assert equal(loaded(checkpoints, checkpoints.find("latest")), make_state(2, frozen=2))


@pytest.mark.parametrize("harm", [flip_bit, truncate, empty, Path.unlink, other_loss, a_list, a_folder])
def test_a_checkpoint_with_a_damaged_mark_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make_state(1))
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(2, make_state(2), {"loss": 0.5})
    harm(tmp_path / "step_2.json")
    found = checkpoints.find("latest")
    assert found is not None
    assert found.step == 1
    assert "step_2" in caplog.text
    with pytest.raises(SettingError, match=r"no checkpoint step_2 in .*: step_2\.json .*There are: step_1\."):
        checkpoints.find("step_2")
    assert (tmp_path / "step_2.ckpt").exists()
    if harm is not a_folder:
        checkpoints.save(2, make_state(2))
        assert equal(loaded(checkpoints, checkpoints.find("latest")), make_state(2))


def test_all_damaged_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    for path in tmp_path.glob("*/*.metadata"):
        flip_bit(path)
    assert checkpoints.find() is None
    ours = [r for r in caplog.records if r.name.startswith("distlab")]
    assert [r.levelno for r in ours] == [logging.WARNING] * 2


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    flip_bit(next((tmp_path / "step_2.ckpt").glob("*.metadata")))
    assert checkpoints.find() is not None
    checkpoints.save(3, make_state(3))
    assert {"step_1.json", "step_3.json"} <= set(names(tmp_path))
    checkpoints.save(4, make_state(4))
    assert [n for n in names(tmp_path) if n.endswith("json")] == ["step_3.json", "step_4.json"]


@pytest.mark.parametrize(
    "name", ["step_10", "10", "{}/step_10", "{}/step_10.ckpt", "{}/step_10.json", "{}/", "{}"]
)
def test_a_checkpoint_has_many_names(tmp_path: Path, name: str) -> None:
    run = tmp_path / "other"
    Checkpoints(run).save(10, make_state(10))
    checkpoints = Checkpoints(tmp_path / "mine" if "{}" in name else run)
    found = checkpoints.find(name.format(run))
    assert equal(loaded(checkpoints, found), make_state(10))


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, make_state(10))
    with pytest.raises(SettingError, match=r"no checkpoint step_11 in .*step_11\.json is missing.*step_10"):
        checkpoints.find("step_11")
    assert checkpoints.find(str(tmp_path / "nowhere")) is None


def drop_a_parameter(state: dict[str, Any]) -> None:
    del state["model"]["bias"]


def add_a_parameter(state: dict[str, Any]) -> None:
    state["model"]["extra"] = torch.ones(2)


def widen_a_parameter(state: dict[str, Any]) -> None:
    state["model"]["bias"] = torch.ones(8, dtype=torch.bfloat16)


def retype_a_parameter(state: dict[str, Any]) -> None:
    state["model"]["bias"] = state["model"]["bias"].float()


@pytest.mark.parametrize("kind", ["sharded", "full"])
@pytest.mark.parametrize("change", [drop_a_parameter, add_a_parameter, widen_a_parameter, retype_a_parameter])
def test_a_checkpoint_of_another_model_is_neither_loaded_nor_overwritten(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: Any
) -> None:
    Checkpoints(tmp_path, kind=kind).save(1, make_state(1))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    mine = make_state(2)
    change(mine)
    untouched = make_state(2)
    change(untouched)
    checkpoints = Checkpoints(tmp_path, kind=kind)
    found = checkpoints.find()
    assert found is not None
    with pytest.raises(SettingError, match=r"another model.*'(bias|extra)'"):
        checkpoints.load(found, mine)
    assert equal(mine, untouched)
    with pytest.raises(SettingError, match=r"holds step_1 of another model.*choose another folder"):
        checkpoints.save(2, mine)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("kind", ["sharded", "full"])
def test_a_checkpoint_of_another_optimizer_is_not_loaded(tmp_path: Path, kind: Any) -> None:
    checkpoints = Checkpoints(tmp_path, kind=kind)
    checkpoints.save(1, make_state(1))
    found = checkpoints.find()
    assert found is not None
    state = make_state(2)
    state["optimizer"]["state"]["matrix"]["exp_avg_sq"] = torch.zeros(3)
    with pytest.raises(SettingError, match=r"no 'optimizer\.state\.matrix\.exp_avg_sq'"):
        checkpoints.load(found, state)
    state = make_state(2)
    state["optimizer"]["state"]["matrix"]["exp_avg"] = torch.zeros(3)
    with pytest.raises(SettingError, match=r"'optimizer\.state\.matrix\.exp_avg' has the shape"):
        checkpoints.load(found, state)
    assert equal(state["model"], make_state(2)["model"])


def test_a_part_of_a_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1))
    state = {"model": blank_like(make_state(0)["model"])}
    found = checkpoints.find()
    assert found is not None
    checkpoints.load(found, state)
    assert equal(state["model"], make_state(1)["model"])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.zeros(2), r"ndarray"),
        (np.float64(1), r"float64"),
        ({1: 2}, r"\[1\]: keys"),
        ([{2}], r"\[0\] is a builtins\.set"),
    ],
)
def test_values_that_only_a_pickle_could_hold_are_refused(tmp_path: Path, value: Any, where: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match=rf"state\['progress'\]\['x'\].*{where}"):
        checkpoints.save(1, {"progress": {"x": value}})
    assert names(tmp_path) == []


def test_a_tensor_made_of_others_is_refused_at_the_first_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(SettingError, match=r"state\['optimizer'\]\['m'\] is a .*TwoTensor.*'adamw_8bit'"):
        checkpoints.save(1, {"optimizer": {"m": TwoTensor(torch.ones(2), torch.ones(2))}})
    assert names(tmp_path) == []


def replace_file(folder: Path, old: str, content: bytes) -> None:
    """Put other content in a file's place, under its right name, and say so in the mark of step 1."""
    suffix = Path(old).suffix
    new = Folder(folder).put("step_1.ckpt", content, suffix)

    def change(mark: dict[str, Any]) -> None:
        files = mark["checkpoint"]["files"]
        del files[old]
        files[new] = len(content)

    reforge(folder / "step_1.json", change)


@pytest.mark.parametrize(
    ("offset", "length", "says"),
    [
        (0, 0, "has 16384"),
        (0, 8, "has 16384"),
        (-8, 16384, "beyond"),
        (8, 16384, "beyond"),
        (8, -8, "beyond"),
    ],
)
def test_an_extent_that_does_not_fit_its_tensor_is_damage(
    tmp_path: Path, offset: int, length: int, says: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"model": {"a": torch.ones(4096)}})
    (path,) = (tmp_path / "step_1.ckpt").glob("*.metadata")
    metadata = torch.load(path, weights_only=False)
    ((index, extent),) = metadata.storage_data.items()
    metadata.storage_data[index] = Extent(extent.file, offset, length)
    buffer = io.BytesIO()
    torch.save(metadata, buffer)
    replace_file(tmp_path, f"step_1.ckpt/{path.name}", buffer.getvalue())
    found = checkpoints.find()
    assert found is not None
    with pytest.raises(CheckpointError, match=says):
        checkpoints.load(found, {"model": {"a": torch.zeros(4096)}})


@pytest.mark.parametrize(("kind", "suffix"), [("sharded", ".metadata"), ("full", ".pt")])
def test_a_foreign_pickle_is_one_plain_sentence(tmp_path: Path, kind: Any, suffix: str) -> None:
    checkpoints = Checkpoints(tmp_path, kind=kind)
    checkpoints.save(1, {"model": {"a": torch.ones(2)}})
    (path,) = (tmp_path / "step_1.ckpt").glob(f"*{suffix}")
    buffer = io.BytesIO()
    torch.save(Path("code"), buffer)
    replace_file(tmp_path, f"step_1.ckpt/{path.name}", buffer.getvalue())
    found = checkpoints.find()
    assert found is not None
    with pytest.raises(CheckpointError, match=r"it was not loaded$") as caught:
        checkpoints.load(found, {"model": {"a": torch.zeros(2)}})
    assert "weights_only" not in str(caught.value)


class ReadOnly(MemoryFileSystem):  # type: ignore[misc]
    protocol = "readonly"

    def pipe_file(self, *args: Any, **kwargs: Any) -> None:
        raise PermissionError("this store is read-only")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    (tmp_path / "file").write_text("in the way")
    for folder, reason in [
        (str(tmp_path / "file" / "run"), "NotADirectoryError"),
        ("readonly://run", "PermissionError: this store is read-only"),
        ("nosuch://run", "Protocol not known: nosuch"),
    ]:
        with pytest.raises(SettingError, match=f"(?s)Checkpoints cannot be .* {folder!r}.*{reason}"):
            Checkpoints(folder)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("options", "says"), [({"keep": 0}, "keep is 0"), ({"kind": "full", "incremental": True}, "incremental")]
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Checkpoints(tmp_path, **options)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_fails_says_so_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    checkpoints = Checkpoints(tmp_path, asynchronous=asynchronous)
    checkpoints.save(1, make_state(1))
    checkpoints.wait()

    def full_disk(self: Folder, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device", name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full_disk)
        if not asynchronous:
            with pytest.raises(
                CheckpointError, match=r"step_2.* was not saved: on rank 0, OSError: .*No space left"
            ):
                checkpoints.save(2, make_state(2))
        else:
            checkpoints.save(2, make_state(2))
            with pytest.raises(CheckpointError, match=r"was not saved: on rank 0, OSError: .*No space left"):
                checkpoints.save(3, make_state(3))  # the failure of the one before
    checkpoints.wait()  # said once
    assert equal(loaded(checkpoints, checkpoints.find()), make_state(1))
    checkpoints.save(4, make_state(4))
    assert equal(loaded(checkpoints, checkpoints.find()), make_state(4))
    assert not leftovers(Folder(tmp_path))


def test_a_mark_is_json_for_people(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, make_state(7), {"epoch": 1, "loss": 0.25, "hostname": "node", "metrics": {"lr": 0.1}})
    mark = json.loads((tmp_path / "step_7.json").read_text())
    assert mark | {"checkpoint": None, "sha256": None} == {
        "step": 7,
        "epoch": 1,
        "loss": 0.25,
        "hostname": "node",
        "metrics": {"lr": 0.1},
        "checkpoint": None,
        "sha256": None,
    }
    assert mark["checkpoint"]["model"]["matrix"] == f"float32[{ROWS}, {COLUMNS}]"
    sizes = {f"step_7.ckpt/{p.name}": p.stat().st_size for p in (tmp_path / "step_7.ckpt").iterdir()}
    assert mark["checkpoint"]["files"] == sizes


def test_a_run_can_be_moved(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "here", incremental=True).save(1, make_state(1))
    shutil.move(tmp_path / "here", tmp_path / "there")
    checkpoints = Checkpoints(tmp_path / "there")
    assert equal(loaded(checkpoints, checkpoints.find()), make_state(1))


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_an_older_checkpoint_can_be_the_latest_again(tmp_path: Path, where: str) -> None:
    folder = str(tmp_path) if where == "disk" else f"memory://{tmp_path}"
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    found = checkpoints.find("step_2")
    assert found is not None
    assert checkpoints.make_latest(found) == ["step_3"]
    found = checkpoints.find()
    assert found is not None
    assert equal(loaded(checkpoints, found), make_state(2))
    assert checkpoints.make_latest(found) == []
    other = Checkpoints(f"{folder}/other")
    other.save(1, make_state(1))
    assert other.make_latest(found) == [], "of another folder"

    checkpoints.save(4, make_state(4))
    assert checkpoints.steps() == [2, 3, 4], "the oldest is no longer kept"


def test_a_save_in_the_background_that_takes_too_long_is_an_error_in_time(tmp_path: Path) -> None:
    """The storage is silent. What was saved before stands, and a save that ends after all is whole."""
    checkpoints = Checkpoints(tmp_path, asynchronous=True, timeout_s=0.3)
    checkpoints.save(10, make_state(10))
    assert checkpoints._saving is not None
    checkpoints._saving.result(120)  # a busy machine may need more than the timeout for a healthy one
    stall(tmp_path, 3600)
    try:
        checkpoints.save(20, make_state(20))
        for _ in range(2):  # it is said each time that somebody waits
            with pytest.raises(
                CheckpointError, match=r"has not taken it within 0\.3 s \(checkpoint\.timeout_s\)"
            ):
                checkpoints.wait()
        with pytest.raises(CheckpointError, match="has not taken it"):
            checkpoints.save(30, make_state(30))
    finally:
        answer_again(tmp_path)
    checkpoints._saving.result(120)
    checkpoints.wait()
    found = checkpoints.find()
    assert found is not None
    assert found.step == 20
    assert checkpoints.steps() == [10, 20]
