"""Storage for torch.distributed.checkpoint, in files that are named by what they hold.

torch's planners decide which rank writes which part of which tensor, and on loading which parts of which
files a rank needs. What is left to do here: bytes of one part -> one file, and back.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import get_globals_in_pkl
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from distlab.errors import SettingError
from distlab.train.checkpoint.folder import Damage, Folder
from distlab.train.checkpoint.state import refuse_unsafe

THREADS = 4
"""Files that one rank writes or reads at the same time: hashing, disk and network overlap."""
SMALL_BYTES = 64 * 2**10
PACK_BYTES = 2**20
"""Parts below SMALL_BYTES (biases, step counters) share files of about PACK_BYTES, since each file costs a
trip to the disk."""
METADATA_BYTES = 64 * 2**20
"""A larger file is no metadata: there is room for some 200,000 parts."""
VALUES = 10**6
"""So many values may a pickle hold, and one more for each byte of it: see `refuse_unsafe`."""
METADATA_CLASSES = [
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
    _MEM_FORMAT_ENCODING,
]


@dataclass(frozen=True)
class Extent:
    """Where one part lies: `length_bytes` from `offset_bytes` of a file."""

    file: str
    offset_bytes: int
    length_bytes: int


class FileWriter(StorageWriter):
    """Writes a rank's part of a checkpoint; on the first rank, `commit(files)` once all ranks have written.

    below: the folder of the files, within `folder`; suffix: of their names.
    metadata_below: the folder of the file that says what lies where.
    commit: takes the size in bytes of every file of the checkpoint, by name.
    """

    def __init__(
        self,
        folder: Folder,
        below: str,
        suffix: str,
        metadata_below: str,
        commit: Callable[[dict[str, int]], None],
    ) -> None:
        self.folder = folder
        self.below = below
        self.suffix = suffix
        self.metadata_below = metadata_below
        self.commit = commit

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        def write(pack: list[WriteItem]) -> list[WriteResult]:
            parts = [_to_bytes(planner.resolve_data(item)) for item in pack]
            content = parts[0] if len(parts) == 1 else b"".join(parts)
            file = self.folder.put(self.below, content, self.suffix)
            results, offset = [], 0
            for item, part in zip(pack, parts, strict=True):
                results.append(WriteResult(item.index, len(part), Extent(file, offset, len(part))))
                offset += len(part)
            return results

        with ThreadPoolExecutor(THREADS) as pool:
            written = [result for results in pool.map(write, _packs(plan.items)) for result in results]
        self.folder.sync()
        return _done(written)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Called on the first rank, after `write_data` has returned on every rank."""
        extents = {result.index: result.storage_data for of_rank in results for result in of_rank}
        metadata.storage_data = extents
        buffer = io.BytesIO()
        torch.save(metadata, buffer)
        if buffer.getbuffer().nbytes > METADATA_BYTES:
            raise SettingError(
                f"The state has too many parts for a checkpoint: the list of them has {buffer.getbuffer().nbytes:,} "
                f"bytes, more than the {METADATA_BYTES:,} that are read back; set checkpoint.kind to 'full'."
            )
        name = self.folder.put(self.metadata_below, buffer.getbuffer(), ".metadata")
        self.folder.sync()
        files = {name: buffer.getbuffer().nbytes}
        for extent in extents.values():
            end = extent.offset_bytes + extent.length_bytes
            files[extent.file] = max(end, files.get(extent.file, 0))
        self.commit(files)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False  # a folder is passed, not an id


def _packs(items: list[WriteItem]) -> Iterator[list[WriteItem]]:
    """Share the parts out to files: a large one has a file of its own."""
    pack: list[WriteItem] = []
    pack_bytes = 0
    for item in items:
        size = 0  # unknown before it is serialised: plain values are small
        if item.tensor_data is not None:
            size = math.prod(item.tensor_data.chunk.sizes) * item.tensor_data.properties.dtype.itemsize
        if size >= SMALL_BYTES:
            yield [item]
            continue
        pack.append(item)
        pack_bytes += size
        if pack_bytes >= PACK_BYTES:
            yield pack
            pack, pack_bytes = [], 0
    if pack:
        yield pack


def _to_bytes(value: Tensor | io.BytesIO) -> memoryview:
    """A tensor's elements in row-major order, or what torch.save made of another value."""
    if isinstance(value, io.BytesIO):
        return value.getbuffer()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


class Reader(StorageReader):
    """What both readers share."""

    failure: Exception | None = None

    @abstractmethod
    def describe(self) -> Metadata:
        """What the checkpoint holds; Damage where no save wrote it so."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        try:
            return self.describe()
        except Exception as error:  # torch would log its traceback, read again, and raise something else
            self.failure = error
            return Metadata({})

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        if self.failure is not None:
            raise self.failure
        self.metadata = metadata

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


class FileReader(Reader):
    """Reads what FileWriter wrote; a rank reads only the files that it needs a part of.

    metadata_file: the `.metadata` file of the checkpoint, within `folder`; files: all of its files.
    """

    def __init__(self, folder: Folder, metadata_file: str, files: Container[str]) -> None:
        self.folder = folder
        self.metadata_file = metadata_file
        self.files = files

    def describe(self) -> Metadata:
        content = self.folder.get(self.metadata_file, METADATA_BYTES)
        with torch.serialization.safe_globals([*METADATA_CLASSES, Extent]):
            metadata = _unpickle(content, self.metadata_file)
        match metadata:
            case Metadata(state_dict_metadata=dict() as entries, storage_data=dict() as extents):
                if all(map(_is_entry, entries.values())) and all(map(self._is_extent, extents.values())):
                    return metadata
        raise Damage(f"{self.metadata_file} does not say what lies where")

    def _is_extent(self, extent: Any) -> bool:
        match extent:
            case Extent(file=str() as file, offset_bytes=int(), length_bytes=int()):
                return file in self.files
        return False

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self._extent(item).file, []).append(item)

        def read(file: str) -> None:
            content = memoryview(self.folder.get(file))
            for item in by_file[file]:
                extent = self._extent(item)
                if not 0 <= extent.offset_bytes <= extent.offset_bytes + extent.length_bytes <= len(content):
                    raise Damage(f"{self.metadata_file} points beyond {file} ({extent})")
                # A copy, since torch wants memory that may be written to.
                part = bytearray(content[extent.offset_bytes : extent.offset_bytes + extent.length_bytes])
                value = io.BytesIO(part) if item.type == LoadItemType.BYTE_IO else self._tensor(item, part)
                _deliver(item, value, planner)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, by_file))
        return _done(None)

    def _extent(self, item: ReadItem) -> Extent:
        extent = self.metadata.storage_data.get(item.storage_index)
        if not isinstance(extent, Extent):
            raise Damage(f"{self.metadata_file} does not say where {item.storage_index.fqn!r} lies")
        return extent

    def _tensor(self, item: ReadItem, content: bytearray) -> Tensor:
        tensor = self.metadata.state_dict_metadata[item.storage_index.fqn]
        assert isinstance(tensor, TensorStorageMetadata)
        start = item.storage_index.offset
        shape = next(chunk.sizes for chunk in tensor.chunks if start is None or chunk.offsets == start)
        dtype = tensor.properties.dtype
        expected = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or len(content) != expected:
            raise Damage(
                f"{self.metadata_file} gives {item.storage_index.fqn!r} {len(content)} bytes; "
                f"{dtype}{list(shape)} has {expected}"
            )
        if not content:  # a rank's share of a tensor can be empty
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).reshape(shape)


def _is_entry(entry: Any) -> bool:
    """Does metadata say of a tensor, or of another value, what FileWriter says of it?"""
    match entry:
        case BytesStorageMetadata():
            return True
        case TensorStorageMetadata(
            properties=TensorProperties(dtype=torch.dtype()), size=tuple() as size, chunks=list() as chunks
        ):
            return _are_counts(size) and all(_is_chunk(chunk, len(size)) for chunk in chunks)
    return False


def _is_chunk(chunk: Any, dims: int) -> bool:
    match chunk:
        case ChunkStorageMetadata(offsets=tuple() as offsets, sizes=tuple() as sizes):
            return len(offsets) == len(sizes) == dims and _are_counts(offsets + sizes)
    return False


def _are_counts(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


class FullReader(Reader):
    """Reads a whole state from one file of torch.save; every rank reads all of it and takes its part."""

    def __init__(self, folder: Folder, file: str) -> None:
        self.folder = folder
        self.file = file

    def describe(self) -> Metadata:
        state = _unpickle_plain(self.folder.get(self.file), self.file)
        if not isinstance(state, dict):
            raise Damage(f"{self.file} holds no state")
        # A plan to save this state says what it holds, in the words that a plan to load needs.
        self.whole = DefaultSavePlanner()
        self.whole.set_up_planner(state, is_coordinator=True)
        plans, metadata = self.whole.create_global_plan([self.whole.create_local_plan()])
        self.items = {item.index: item for item in plans[0].items}
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            _deliver(item, self.whole.resolve_data(self.items[item.storage_index]), planner)
        return _done(None)


def _deliver(item: ReadItem, stored: Tensor | io.BytesIO, planner: LoadPlanner) -> None:
    """Hand the planner what it asked for: a plain value, or a box cut out of a stored tensor."""
    if isinstance(stored, io.BytesIO):
        stored.seek(0)
        planner.load_bytes(item, stored)
        return
    for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        stored = stored.narrow(dim, start, length)
    target = planner.resolve_tensor(item).detach()
    target.copy_(stored)
    planner.commit_tensor(item, target)


def _covers(tensor: TensorStorageMetadata) -> bool:
    """Do the chunks of a tensor, together, hold each of its elements once?

    The corners that an odd number of boxes has tell which points an odd number of them covers. Where these are
    the tensor's own corners, each element is covered; where the volumes add up, too, none is covered again.
    """
    corners: set[tuple[int, ...]] = set()
    for chunk in tensor.chunks:
        corners ^= _corners(chunk.offsets, chunk.sizes)
    volume = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
    return volume == math.prod(tensor.size) and corners == _corners((0,) * len(tensor.size), tensor.size)


def _corners(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> set[tuple[int, ...]]:
    if 0 in sizes:
        return set()
    return set(itertools.product(*((start, start + n) for start, n in zip(offsets, sizes, strict=True))))


class StrictLoadPlanner(DefaultLoadPlanner):
    """torch's planner, with an error for people where state and checkpoint do not fit, and no pickled code."""

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        stored = self.metadata.state_dict_metadata
        missing = sorted(set(self.state_dict) - set(stored))
        if missing:
            raise SettingError(
                f"The checkpoint has no {missing[0]!r} ({len(missing)} such entries): it was saved with another "
                "model or optimizer; resume with the configuration it was saved with."
            )
        for name, value in self.state_dict.items():
            entry = stored[name]
            theirs = entry.size if isinstance(entry, TensorStorageMetadata) else None
            ours = value.size() if isinstance(value, Tensor) else None
            if theirs != ours:
                raise SettingError(
                    f"{name!r} has the shape {theirs} in the checkpoint and {ours} here; "
                    "resume with the configuration it was saved with."
                )
            if isinstance(entry, TensorStorageMetadata) and not _covers(entry):
                raise Damage(f"the parts of {name!r} are not each of its elements once")
        return super().create_local_plan()

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        # Through torch.save again, as the parent unpickles anything: only plain values pass here.
        _unpickle_plain(value.getbuffer(), repr(read_item.storage_index.fqn))
        value.seek(0)
        super().load_bytes(read_item, value)


def _unpickle(content: bytes | memoryview, name: str) -> Any:
    """What torch.save wrote, if it is tensors and plain values; Damage for any other pickle, which is not run."""
    buffer = io.BytesIO(content)
    try:
        # torch.load would also inflate what torch.save stores as it is, and fill a bytearray of any length.
        archive = torch._C.PyTorchFileReader(buffer)
        unpacked = sum(map(archive.get_record_size, archive.get_all_records()))
        if content[:4] != b"PK\3\4" or unpacked > len(content):
            raise ValueError(f"{unpacked} bytes in {len(content)}")
        if "builtins.bytearray" in get_globals_in_pkl(io.BytesIO(archive.get_record("data.pkl"))):
            raise ValueError("a bytearray")
        buffer.seek(0)
        return torch.load(buffer, weights_only=True, map_location="cpu")
    except Exception as error:  # torch explains here how to run it all the same
        raise Damage(
            f"{name} is not what torch.save makes of tensors and plain values; it was not loaded"
        ) from error


def _unpickle_plain(content: bytes | memoryview, name: str) -> Any:
    """The same, where nothing but what `Checkpoints.save` takes is looked for."""
    value = _unpickle(content, name)
    try:
        refuse_unsafe(value, VALUES + len(content))
    except TypeError as error:
        raise Damage(f"{name} is no state that was saved: {error!s:.200}") from None
    return value


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
