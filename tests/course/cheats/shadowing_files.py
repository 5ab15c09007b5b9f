"""
attack: modules beside the notebook with the names of those that the grader, the shell and the tests import
after: code in the test process, or in the session before its limits
"""

import json
from pathlib import Path

CODE = """
import builtins, os
builtins.all = builtins.isinstance = lambda *a, **k: True
os.environ["SHADOWED"] = __name__
"""


def submit(folder: Path, notebook: dict) -> None:
    for name in (
        "torch",
        "numpy",
        "json",
        "socket",
        "random",
        "ast",
        "sitecustomize",
        "usercustomize",
        "conftest",
        "IPython",
    ):
        (folder / f"{name}.py").write_text(CODE)
    for name in ("distlab", "nbgrader"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(CODE)
    source = "import importlib, json, distlab, torch\nprint(json.__file__, distlab.__file__)\nimportlib.reload(json)"
    cell = {
        "cell_type": "code",
        "id": "loads",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": source,
    }
    notebook["cells"].insert(1, cell)
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
