"""Take over what a sandbox says a cell printed: known shapes, bounded, nothing that a browser runs."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from nbformat.notebooknode import NotebookNode

MAX_OUTPUTS = 100
"""Outputs kept of one cell."""
MAX_TEXT = 64 * 1024
"""Characters kept of all text of one cell."""
MAX_IMAGE_BYTES = 2 * 1024 * 1024
"""An image above this size, encoded, is left out."""

IMAGES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
"""The image types that hold nothing but pixels, with their first bytes. SVG can hold scripts."""

LEFT_OUT = NotebookNode(
    output_type="stream", name="stdout", text="... left out: the notebook shows more than is kept ...\n"
)

CUT = "\n... the rest of this cell's output was cut off ...\n"


def clean_outputs(raw: Any) -> list[NotebookNode]:
    """The outputs of one cell as nbformat has them; whatever is not of a known shape is left out."""
    outputs: list[NotebookNode] = []
    budget = _Budget(MAX_TEXT)
    for item in raw[:MAX_OUTPUTS] if isinstance(raw, list) else []:
        output = _clean(item, budget) if isinstance(item, dict) else None
        if output is not None:
            outputs.append(output)
        if budget.left <= 0:
            break
    return outputs


def size(outputs: list[NotebookNode]) -> int:
    """Bytes of cleaned outputs as they travel: a character has up to four, a control character, escaped, six."""
    return len(json.dumps(outputs, ensure_ascii=False).encode())


class _Budget:
    """How much text a cell may still show."""

    def __init__(self, characters: int) -> None:
        self.left = characters

    def take(self, value: Any) -> str:
        text = value if isinstance(value, str) else ""
        # Lone surrogates are valid JSON but cannot be written as UTF-8.
        text = text.encode("utf-8", "replace").decode("utf-8")
        kept = text[: max(0, self.left)]
        self.left -= len(text)
        return kept if len(kept) == len(text) else kept + CUT


def _clean(item: dict[str, Any], budget: _Budget) -> NotebookNode | None:
    match item.get("output_type"):
        case "stream":
            name = "stderr" if item.get("name") == "stderr" else "stdout"
            return NotebookNode(output_type="stream", name=name, text=budget.take(item.get("text")))
        case "error":
            traceback = item.get("traceback")
            return NotebookNode(
                output_type="error",
                ename=budget.take(item.get("ename")),
                evalue=budget.take(item.get("evalue")),
                traceback=[budget.take(line) for line in traceback] if isinstance(traceback, list) else [],
            )
        case "display_data" | "execute_result" as kind:
            data = _clean_data(item.get("data"), budget)
            if not data:
                return None
            output = NotebookNode(output_type=kind, data=data, metadata=NotebookNode())
            if kind == "execute_result":
                output["execution_count"] = count_or_none(item.get("execution_count"))
            return output
        case _:
            return None


def _clean_data(data: Any, budget: _Budget) -> NotebookNode:
    clean = NotebookNode()
    if not isinstance(data, dict):
        return clean
    for mime, first_bytes in IMAGES.items():
        image = _clean_image(data.get(mime), first_bytes)
        if image is not None:
            clean[mime] = image
    if isinstance(data.get("text/plain"), str):
        clean["text/plain"] = budget.take(data["text/plain"])
    return clean


def _clean_image(encoded: Any, first_bytes: bytes) -> str | None:
    if not isinstance(encoded, str) or len(encoded) > MAX_IMAGE_BYTES:
        return None
    try:
        content = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(content).decode() if content.startswith(first_bytes) else None


def count_or_none(value: Any) -> int | None:
    """An execution count, or None for anything else."""
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if valid else None
