"""What the grading service takes from a request and from a sandbox: data of known shapes, within bounds."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_notebook
from nbformat.validator import validate

from distlab.course.grade.execute import _settle
from distlab.course.grade.outputs import CUT, MAX_OUTPUTS, MAX_TEXT, clean_outputs
from distlab.course.grade.run import Limits, run_cells
from distlab.course.grade.runner import BadRequest, parse_request
from distlab.course.grade.submission import MAX_CELLS, parse_notebook, restore
from distlab.course.sandbox import MIB, availability

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
output_like = st.fixed_dictionaries(
    {"output_type": st.sampled_from(["stream", "error", "display_data", "execute_result", "other"])},
    optional={
        name: json_values
        for name in ("name", "text", "ename", "evalue", "traceback", "data", "metadata", "execution_count")
    },
)


@given(st.lists(output_like | json_values, max_size=6) | json_values)
def test_whatever_a_sandbox_sends_becomes_a_valid_notebooks_outputs(raw: Any) -> None:
    cell = new_code_cell(outputs=clean_outputs(raw))
    validate(new_notebook(cells=[cell]))
    json.dumps(cell).encode()


def test_only_text_and_pixels_are_taken_over() -> None:
    data = {
        "text/html": "<script>",
        "application/javascript": "alert(1)",
        "image/svg+xml": "<svg>",
        "text/markdown": "<script>",
        "application/vnd.jupyter.widget-view+json": {},
        "text/plain": "kept",
        "image/png": PNG,
        "image/jpeg": base64.b64encode(b"<script>").decode(),
    }
    (output,) = clean_outputs([{"output_type": "display_data", "data": data, "metadata": {"isolated": True}}])
    assert output == {
        "output_type": "display_data",
        "data": {"text/plain": "kept", "image/png": PNG},
        "metadata": {},
    }


def test_outputs_are_bounded_in_number_and_size() -> None:
    line = {"output_type": "stream", "name": "stdout", "text": "x"}
    assert len(clean_outputs([line] * 10_000)) == MAX_OUTPUTS
    (cut,) = clean_outputs([{**line, "text": "x" * (MAX_TEXT + 1)}, line])
    assert cut.text == "x" * MAX_TEXT + CUT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"cells": [1]}', "cells must be a list of strings"),
        (b'{"cells": [], "files": {"../x": ""}}', "'../x' is no file name below"),
        (b'{"cells": [], "files": {"/etc/passwd": ""}}', "'/etc/passwd' is no file name below"),
        (b'{"cells": [], "files": {"a": "\\u00e9"}}', "must be base64"),
        (b'{"cells": [], "limits": {"memory_bytes": 1}}', "limits must be an object of cell_s and wall_s"),
        (b'{"cells": [], "limits": {"cell_s": -1}}', "cell_s must be a positive number of seconds, not -1"),
        (b'{"cells": [], "limits": {"cell_s": NaN}}', "cell_s must be a positive number of seconds, not nan"),
    ],
)
def test_a_request_of_another_form_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(body, Limits())
    assert message in str(refused.value)


def test_a_request_can_lower_limits_only() -> None:
    body = {"cells": ["1"], "limits": {"cell_s": 5, "wall_s": 10_000}}
    _, _, limits = parse_request(json.dumps(body).encode(), Limits(cell_s=60, wall_s=300))
    assert (limits.cell_s, limits.wall_s) == (5, 300)


def test_a_tests_result_is_no_way_to_more_points() -> None:
    def outputs_of(text: str) -> list[Any]:
        cell = new_code_cell()
        cell.metadata = from_dict({"nbgrader": {"points": 2}})
        cell.outputs = clean_outputs([{"output_type": "execute_result", "data": {"text/plain": text}}])
        _settle(cell)
        return [output.output_type for output in cell.outputs]

    assert outputs_of("1.5") == ["execute_result"]
    for text in ("1000", "-1", "nan", "inf"):
        assert outputs_of(text) == []
    assert outputs_of("'done'") == ["display_data"]


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_become_a_valid_notebook(content: bytes) -> None:
    validate(parse_notebook(content))


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["cell_type", "source", "metadata", "outputs", "attachments", "id"]), json_values
        ),
        max_size=5,
    )
)
def test_any_cells_become_a_valid_notebook_with_the_assignments_cells(cells: list[Any]) -> None:
    notebook = parse_notebook(json.dumps({"cells": cells}).encode())
    test = new_code_cell("assert True")
    test.metadata = from_dict({"nbgrader": {"grade_id": "t", "grade": True, "locked": True, "points": 1}})
    notebook.cells = restore(notebook.cells, [test])
    validate(notebook)
    assert [cell.source for cell in notebook.cells if "nbgrader" in cell.metadata] == ["assert True"]


def test_too_many_cells_are_not_read() -> None:
    content = json.dumps({"cells": [{"cell_type": "code", "source": ""}] * (MAX_CELLS + 1)}).encode()
    (cell,) = parse_notebook(content).cells
    assert f"more than {MAX_CELLS} cells" in cell.source


@pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
def test_cells_run_in_order_beside_the_learners_files() -> None:
    files = {
        "data/a.txt": base64.b64encode(b"hello").decode(),
        "IPython.py": base64.b64encode(b"1/0").decode(),
    }
    sources = [
        "text = open('data/a.txt').read()",
        "text",
        "import os; os.environ['DISTLAB_SCALE']",
        "1/0",
    ]
    run = run_cells(sources, files, Limits())
    assert run.verdict == "ok"
    assert run.cells[1].outputs[0].data["text/plain"] == "'hello'"
    assert run.cells[2].outputs[0].data["text/plain"] == "'grading'"
    assert run.cells[3].outputs[0].ename == "ZeroDivisionError"
    assert [cell.execution_count for cell in run.cells] == [1, 2, 3, 4]


@pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
def test_nothing_of_the_services_environment_is_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "token-of-the-service")
    spy = (
        "import glob\nseen = b''\nfor path in glob.glob('/proc/*/environ'):\n    try:\n"
        "        seen += open(path, 'rb').read()\n    except OSError:\n        pass\n"
        "print(b'DISTLAB_SCALE' in seen, b'JUPYTERHUB' in seen)"
    )
    run = run_cells([spy], {}, Limits())
    assert run.cells[0].outputs[0].text == "True False\n"


@pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
def test_a_forged_driver_is_cut_off() -> None:
    """Learner code can write to the pipe that the driver answers on: it gets no more room there than the driver."""
    forge = (
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    for fd in range(30):\n"
        "        try:\n"
        "            if os.readlink(f'/proc/{pid}/fd/{fd}').startswith('pipe:'):\n"
        "                out = os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY | os.O_NONBLOCK)\n"
        "                os.set_blocking(out, True)\n"
        "                for _ in range(64): os.write(out, b'x' * 2**16)\n"
        "        except OSError:\n"
        "            pass\n"
    )
    run = run_cells(["1", forge], {}, Limits(output_bytes=MIB, cell_s=30))
    assert run.verdict in ("output", "died", "timeout")
    assert len(run.cells) == 1


def test_what_a_cells_metadata_holds_beyond_plain_values_is_dropped():
    """A deep copy of it took more memory than an instructor's server has."""
    metadata = {"nbgrader": {"grade_id": "double", "points": 9, "more": [{"": 0}] * 9}, "tags": ["x"]}
    cell = {"cell_type": "code", "source": "", "metadata": metadata}
    (parsed,) = parse_notebook(json.dumps({"cells": [cell]}).encode()).cells
    assert parsed.metadata == {"nbgrader": {"grade_id": "double", "points": 9}}
