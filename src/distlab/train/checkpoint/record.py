"""`step_N.json`: the mark that makes a checkpoint exist, and the record of what it holds."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from distlab.train.checkpoint.folder import Damage, Folder

Kind = Literal["sharded", "full"]
MARK = re.compile(r"step_(0|[1-9][0-9]{0,17})\.json")
MARK_BYTES = 64 * 2**20
"""A larger file is no mark."""
FILE = re.compile(r"(step_(?:0|[1-9][0-9]{0,17})\.ckpt|objects)/[0-9a-f]{64}(\.pt|\.metadata)?")
"""What a checkpoint's files are called; the groups are their folder and their suffix."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, as its mark describes it."""

    folder_url: str
    step: int
    info: dict[str, Any]
    """What the caller of `Checkpoints.save` recorded."""
    serial: int
    """Counts the saves of a folder, and the returns to an older checkpoint (`Checkpoints.make_latest`): "latest"
    means the highest serial, which need not have the highest step."""
    kind: Kind
    world_size: int
    torch: str
    """The version that wrote it."""
    model: dict[str, str]
    """Type and shape of each tensor of the model, by name."""
    files: dict[str, int]
    """Size in bytes of each file, by its path in the folder; the path contains the sha256."""

    @property
    def name(self) -> str:
        return f"step_{self.step}"

    @property
    def url(self) -> str:
        """What `Checkpoints.find` takes to find this checkpoint from anywhere."""
        return f"{self.folder_url}/{self.name}.ckpt"

    @property
    def full_file(self) -> str | None:
        """Of kind "full": the file for `torch.load(weights_only=True)`, within the folder."""
        return self._with_suffix(".pt") if self.kind == "full" else None

    @property
    def metadata_file(self) -> str:
        """Where torch.distributed.checkpoint's metadata lies, within the folder."""
        return self._with_suffix(".metadata")

    def _with_suffix(self, suffix: str) -> str:
        return next(file for file in self.files if file.endswith(suffix))

    def to_json(self) -> bytes:
        """The content of `step_N.json`: `info` at the top, the rest below "checkpoint", and a checksum."""
        ours = {k: v for k, v in vars(self).items() if k not in ("folder_url", "step", "info")}
        document = {**self.info, "step": self.step, "checkpoint": ours}
        return json.dumps({**document, "sha256": _checksum(document)}, indent=2).encode()


def read_mark(folder: Folder, step: int) -> Checkpoint:
    """The checkpoint that `step_N.json` marks; Damage where the mark is not as it was written."""
    name = f"step_{step}.json"
    try:
        document = json.loads(folder.read(name, MARK_BYTES))
        checksum = document.pop("sha256")
        fits = checksum == _checksum(document) and document.get("step") == step
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise Damage(f"{name} is not what was written: no whole JSON object with a checksum") from None
    if not fits:
        raise Damage(f"{name} is not what was written: its checksum or its step does not fit")
    ours = document.pop("checkpoint", None)
    wrong = _wrong(ours, step)
    if wrong:
        raise Damage(f"{name} is not a mark: {wrong} is missing, or not what a checkpoint has there")
    return Checkpoint(folder_url=folder.url, step=step, info=document, **ours)


def marked_steps(names: list[str]) -> list[int]:
    """Of a folder's file `names`: the steps that have a mark, in order; whether it can be read is not looked at."""
    return sorted(int(match[1]) for name in names if (match := MARK.fullmatch(name)))


def read_marks(folder: Folder, names: list[str]) -> tuple[list[Checkpoint], dict[int, str]]:
    """Of the folder's file `names`: checkpoints, last saved first, and by step what is wrong with a mark."""
    found, damaged = [], {}
    for step in marked_steps(names):
        try:
            found.append(read_mark(folder, step))
        except Damage as damage:
            damaged[step] = str(damage)
    return sorted(found, key=lambda checkpoint: -checkpoint.serial), damaged


def _wrong(ours: Any, step: int) -> str:
    """The first entry below "checkpoint" that no save writes so; "" where all are right."""
    names = {"serial", "kind", "world_size", "torch", "model", "files"}
    if not isinstance(ours, dict) or ours.keys() != names:
        return "checkpoint"
    right = {
        "serial": _is_count(ours["serial"]),
        "kind": ours["kind"] in ("sharded", "full"),
        "world_size": _is_count(ours["world_size"]) and ours["world_size"] > 0,
        "torch": isinstance(ours["torch"], str),
        "model": isinstance(ours["model"], dict) and all(isinstance(v, str) for v in ours["model"].values()),
        "files": _are_files(ours["files"], step, ours["kind"]),
    }
    return next((f"checkpoint.{name}" for name in right if not right[name]), "")


def _are_files(files: Any, step: int, kind: str) -> bool:
    if not isinstance(files, dict) or not all(map(_is_count, files.values())):
        return False
    matches = [FILE.fullmatch(name) for name in files]
    if not all(match and match[1] in ("objects", f"step_{step}.ckpt") for match in matches):
        return False
    suffixes = {match[2] for match in matches if match}
    return ".metadata" in suffixes and (kind != "full" or ".pt" in suffixes)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
