"""
attack: a named pipe, a socket and a link to a socket in the places of the notebook and of files beside it
after: a coordinator that waits for ever when it opens one, or talks to whoever listens
"""

import os
import socket
from pathlib import Path


def submit(folder: Path, notebook: dict) -> None:
    os.mkfifo(folder / "mod-1-lab-1.ipynb")
    os.mkfifo(folder / "pipe.txt")
    here = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.txt")
    finally:
        os.chdir(here)
    os.unlink(folder / "timestamp.txt")
    (folder / "timestamp.txt").symlink_to("socket.txt")
