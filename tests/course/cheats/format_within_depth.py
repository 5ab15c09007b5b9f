"""
attack: a notebook that can just be read, whose metadata and outputs are so deep that nothing can copy them
after: a coordinator that dies of recursion in its second step
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    deep = "[" * 900 + "]" * 900
    text = json.dumps(notebook)
    text = text.replace('"metadata": {', f'"metadata": {{"deep": {deep}, "nbgrader2": {deep}, ')
    text = text.replace(
        '"outputs": []', f'"outputs": [{{"output_type": "display_data", "data": {deep}}}, {deep}]'
    )
    (folder / "mod-1-lab-1.ipynb").write_text(text)
