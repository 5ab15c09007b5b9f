"""Inside a grading sandbox: a kernel that runs one cell at a time as the runner asks for it.

python -m distlab.course.grade.driver

Answers in lines of JSON on standard output: `{"ready": true}` once the kernel runs. Then reads lines of JSON
on standard input: first `{"files": {name: base64}}`, then `{"source": code}` per cell, each answered with
`{"outputs": [...], "execution_count": n}`, or `{"died": true}` when the kernel is gone. The runner sends a
cell only when the one before it is done, so that no cell can see those that follow. Everything here runs as
the learner's code does: the runner trusts none of it.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

WORK = Path("/tmp/lab")
"""Where the notebook runs, beside its own files. The sandbox's /tmp is in memory and counted as such."""
MAX_OUTPUTS = 200
MAX_TEXT = 100_000
"""Characters kept of one stream, text or traceback: the rest would only be cut off by the runner."""


def main() -> None:
    requests, answers = _take_standard_streams()
    WORK.mkdir()
    os.chdir(WORK)
    notebook = new_notebook()
    client = NotebookClient(notebook, timeout=None, allow_errors=True, kernel_name="python3")
    with client.setup_kernel():
        _answer(answers, {"ready": True})
        _write_files(json.loads(requests.readline())["files"])
        for line in requests:
            cell = new_code_cell(json.loads(line)["source"])
            notebook.cells.append(cell)
            try:
                client.execute_cell(cell, len(notebook.cells) - 1)
            except DeadKernelError:
                _answer(answers, {"died": True})
                return
            outputs = [_shorten(output) for output in cell.outputs[:MAX_OUTPUTS]]
            _answer(answers, {"outputs": outputs, "execution_count": cell.execution_count})


def _write_files(files: dict[str, str]) -> None:
    """The learner's own files, only now: none can stand in for a module that the kernel starts with."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def _take_standard_streams() -> tuple[TextIO, TextIO]:
    """Keep the pipes for this process alone: what the kernel's processes print must not end up in them."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    return requests, answers


def _answer(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _shorten(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if output.output_type == "stream":
        output["text"] = output["text"][:MAX_TEXT]
    elif output.output_type == "error":
        output["traceback"] = [line[:MAX_TEXT] for line in output["traceback"][:100]]
    elif isinstance(output.get("data", {}).get("text/plain"), str):
        output["data"]["text/plain"] = output["data"]["text/plain"][:MAX_TEXT]
    return output


if __name__ == "__main__":
    main()
