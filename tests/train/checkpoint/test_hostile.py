"""A run's folder may come from someone else: what it holds is refused in one sentence, and leads nowhere."""

from __future__ import annotations

import io
import itertools
import logging
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from distlab.errors import SettingError
from distlab.train.checkpoint import CheckpointError, Checkpoints, storage
from distlab.train.checkpoint.folder import Folder
from distlab.train.checkpoint.state import difference
from distlab.train.checkpoint.storage import Extent, _covers
from tests.train.checkpoint.states import equal
from tests.train.checkpoint.test_checkpoints import reforge, replace_file


def small_state() -> dict[str, Any]:
    return {"model": {"a": torch.arange(12.0).reshape(4, 3), "b": torch.tensor(5.0)}, "x": 7}


def serialised(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def refused(folder: Path, says: str) -> None:
    """Loading the checkpoint of step 1 is one error, of one line, and nothing is changed."""
    checkpoints = Checkpoints(folder)
    found = checkpoints.find("step_1")
    assert found is not None
    state: dict[str, Any] = {"model": {"a": torch.zeros(4, 3), "b": torch.tensor(0.0)}, "x": None}
    before = {"model": {"a": torch.zeros(4, 3), "b": torch.tensor(0.0)}, "x": None}
    with pytest.raises(
        CheckpointError, match=rf"step_1\.ckpt was not loaded: on rank 0, Damage: .*{says}"
    ) as e:
        checkpoints.load(found, state)
    assert "\n" not in str(e.value)
    assert equal(state, before)


# --- what lies where ---


def chunk(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def with_chunks(name: str, *chunks: Any) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        entry: Any = metadata.state_dict_metadata[name]
        entry.chunks = list(chunks)

    return change


def with_extent(**changed: Any) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        index = MetadataIndex("model.a", (0, 0))
        metadata.storage_data[index] = Extent(**(vars(metadata.storage_data[index]) | changed))

    return change


def with_dtype(dtype: Any) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        entry: Any = metadata.state_dict_metadata["model.a"]
        entry.properties = TensorProperties(dtype)

    return change


def with_entry(**changed: Any) -> Callable[[Metadata], None]:
    return lambda metadata: vars(metadata).update(changed)


NOWHERE = "does not say what lies where"
TWICE = "are not each of its elements once"
HALF = chunk((0, 0), (2, 3))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_chunks("model.a"), f"'model.a' {TWICE}"),
        (with_chunks("model.a", HALF), TWICE),
        (with_chunks("model.a", HALF, HALF), TWICE),
        (with_chunks("model.a", HALF, chunk((3, 0), (2, 3))), TWICE),
        (with_chunks("model.b"), f"'model.b' {TWICE}"),
        (with_chunks("model.b", chunk((), ()), chunk((), ())), TWICE),
        (with_chunks("model.a", chunk((0,), (4, 3))), NOWHERE),
        (with_chunks("model.a", ChunkStorageMetadata((0, 0), (4.0, 3))), NOWHERE),  # type: ignore[arg-type]
        (with_chunks("model.a", 5), NOWHERE),
        (with_extent(file="../../outside"), NOWHERE),
        (with_extent(file=5), NOWHERE),
        (with_extent(offset_bytes="0"), NOWHERE),
        (with_extent(length_bytes=None), NOWHERE),
        (with_dtype(5), NOWHERE),
        (with_entry(state_dict_metadata=None), NOWHERE),
        (with_entry(state_dict_metadata={"model.a": 5}), NOWHERE),
        (with_entry(storage_data=None), NOWHERE),
    ],
)
def test_metadata_that_no_save_writes_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Metadata], None], says: str
) -> None:
    Checkpoints(tmp_path / "run").save(1, small_state())
    (tmp_path / "outside").write_bytes(bytes(48))
    (path,) = (tmp_path / "run/step_1.ckpt").glob("*.metadata")
    metadata = torch.load(path, weights_only=False)
    change(metadata)
    replace_file(tmp_path / "run", f"step_1.ckpt/{path.name}", serialised(metadata))
    refused(tmp_path / "run", says)
    assert not [r for r in caplog.records if r.exc_info], "no traceback in the log"


def boxes_in(size: tuple[int, ...], source: random.Random) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes: the whole box cut up, and sometimes spoilt."""
    boxes = [((0,) * len(size), size)]
    for _ in range(source.randint(0, 5) if size else 0):
        offsets, sizes = boxes.pop(source.randrange(len(boxes)))
        dim = source.randrange(len(size))
        at = source.randint(0, sizes[dim])
        for start, length in ((0, at), (at, sizes[dim] - at)):
            moved = (*offsets[:dim], offsets[dim] + start, *offsets[dim + 1 :])
            boxes.append((moved, (*sizes[:dim], length, *sizes[dim + 1 :])))
    for _ in range(min(source.choice([0, 0, 1, 2]), len(boxes))):
        offsets, sizes = boxes.pop(source.randrange(len(boxes)))
        match source.choice(["drop", "double", "move", "turn"]):
            case "double":
                boxes += [(offsets, sizes)] * 2
            case "move":
                boxes.append((tuple(max(0, o + source.randint(-1, 1)) for o in offsets), sizes))
            case "turn":
                boxes.append((offsets, sizes[::-1]))
    return boxes


def test_boxes_cover_a_tensor_if_each_element_is_in_one() -> None:
    source = random.Random(0)
    outcomes = []
    for _ in range(2000):
        size = tuple(source.choice([0, 1, 2, 3, 4, 5]) for _ in range(source.randint(0, 3)))
        boxes = boxes_in(size, source)
        counts = np.zeros([12] * len(size), int)
        for offsets, sizes in boxes:
            counts[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))] += 1
        counts[tuple(slice(0, n) for n in size)] -= 1
        outcomes.append(not counts.any())
        chunks = list(itertools.starmap(chunk, boxes))
        tensor = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(size), chunks)
        assert _covers(tensor) == outcomes[-1], (size, boxes)
    assert 500 < sum(outcomes) < 1800, "both are tried"


# --- memory and time ---


def with_pickle(pickle: bytes) -> bytes:
    """A file of torch.save with another pickle in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(serialised(1))) as saved, zipfile.ZipFile(content, "w") as forged:
        for name in saved.namelist():
            forged.writestr(name, pickle if name.endswith("data.pkl") else saved.read(name))
    return content.getvalue()


def deflated(content: bytes) -> bytes:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as saved,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z,
    ):
        for name in saved.namelist():
            z.writestr(name, saved.read(name))
    return packed.getvalue()


def legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def shared(times: int) -> dict[str, Any]:
    """A tree of 2 ** times leaves, in a few bytes for each of its levels."""
    tree: dict[str, Any] = {}
    for _ in range(times):
        tree = {"a": tree, "b": tree}
    return tree


def deep(levels: int) -> Any:
    tree: Any = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def endless() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    return tree


GIBIBYTES = with_pickle(b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R.")
BOMBS = [
    (serialised(shared(40)), "is no state that was saved: it comes to over 1,00"),
    (serialised(deep(200)), "is no state that was saved: a state is nested up to 100 times"),
    (serialised(endless()), "is no state that was saved: a state is nested up to 100 times"),
    (deflated(serialised({"a": "x" * 10**6})), "it was not loaded$"),
    (legacy({"a": 1}), "it was not loaded$"),
    (GIBIBYTES, "it was not loaded$"),
]


@pytest.mark.parametrize(
    ("content", "says"),
    [*BOMBS, (serialised({1: 2}), "keys of a state are strings"), (serialised(5), "holds no state")],
)
def test_a_whole_state_that_no_save_writes_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    Checkpoints(tmp_path, kind="full").save(1, small_state())
    (path,) = (tmp_path / "step_1.ckpt").glob("*.pt")
    replace_file(tmp_path, f"step_1.ckpt/{path.name}", content)
    refused(tmp_path, says)


@pytest.mark.parametrize(("content", "says"), BOMBS)
def test_a_plain_value_that_no_save_writes_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": 7})
    (path,) = (tmp_path / "step_1.ckpt").glob("*.metadata")
    metadata = torch.load(path, weights_only=False)
    (index,) = metadata.storage_data
    file = Folder(tmp_path).put("step_1.ckpt", content)
    metadata.storage_data[index] = Extent(file, 0, len(content))
    reforge(tmp_path / "step_1.json", lambda mark: mark["checkpoint"]["files"].update({file: len(content)}))
    replace_file(tmp_path, f"step_1.ckpt/{path.name}", serialised(metadata))
    found = checkpoints.find()
    assert found is not None
    state = {"x": None}
    with pytest.raises(CheckpointError, match=f"'x'.*{says}"):
        checkpoints.load(found, state)
    assert state == {"x": None}


def test_metadata_of_any_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoints(tmp_path / "deflated").save(1, small_state())
    (path,) = (tmp_path / "deflated/step_1.ckpt").glob("*.metadata")
    metadata = torch.load(path, weights_only=False)
    metadata.planner_data = "x" * 10**6
    replace_file(tmp_path / "deflated", f"step_1.ckpt/{path.name}", deflated(serialised(metadata)))
    refused(tmp_path / "deflated", "it was not loaded$")

    Checkpoints(tmp_path / "large").save(1, small_state())
    monkeypatch.setattr(storage, "METADATA_BYTES", 1000)
    refused(tmp_path / "large", r"has \d+ bytes; expected at most 1000")


def test_metadata_that_could_not_be_read_back_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small_state())
    monkeypatch.setattr(storage, "METADATA_BYTES", 1000)
    with pytest.raises(SettingError, match=r"the list of them has [\d,]+ bytes, more than the 1,000"):
        checkpoints.save(2, small_state())
    assert checkpoints.steps() == [1]


# --- links ---


@pytest.mark.parametrize("options", [{}, {"incremental": True}, {"kind": "full"}])
def test_a_link_in_a_runs_folder_leads_no_file_out_of_it(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    linked = "objects" if options.get("incremental") else "step_1.ckpt"
    (tmp_path / "run" / linked).symlink_to(tmp_path / "outside")
    checkpoints = Checkpoints(tmp_path / "run", **options)
    with pytest.raises(SettingError, match=rf"run/{linked} is a link, .* choose another name\.$"):
        checkpoints.save(1, small_state())
    assert list((tmp_path / "outside").iterdir()) == []


def test_what_a_link_leads_to_is_not_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    checkpoints.save(1, small_state())
    (tmp_path / "run/step_1.ckpt").rename(tmp_path / "outside")
    (tmp_path / "run/step_1.ckpt").symlink_to(tmp_path / "outside")
    theirs = sorted((tmp_path / "outside").iterdir())
    assert len(theirs) == 2
    with pytest.raises(SettingError, match="is a link"):
        Folder(tmp_path / "run").remove([f"step_1.ckpt/{theirs[0].name}"])
    with caplog.at_level(logging.WARNING):
        checkpoints.save(2, small_state())
    assert sorted((tmp_path / "outside").iterdir()) == theirs
    found = checkpoints.find()
    assert found is not None
    assert found.step == 2


def test_a_runs_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large_disk")
    (tmp_path / "large_disk/other").mkdir()
    (tmp_path / "runs/mine").symlink_to(tmp_path / "large_disk/other")
    checkpoints = Checkpoints(tmp_path / "runs/mine", keep=1)
    for step in (1, 2):
        checkpoints.save(step, small_state())
    assert sorted(p.name for p in (tmp_path / "large_disk/other").iterdir()) == ["step_2.ckpt", "step_2.json"]


# --- text ---


@pytest.mark.parametrize(
    "theirs",
    [{"a": "\x1b[31mred"}, {"a": "float32[1]", "\x1b[2J": "\x07"}, {"a": "float32[1]", "b": "\x1b" * 10**6}],
)
def test_text_of_a_mark_reaches_no_terminal_as_it_is(theirs: dict[str, str]) -> None:
    says = difference(theirs, {"a": "float32[1]"})
    assert says.isprintable()
    assert 0 < len(says) < 300
