"""The network namespaces that one process has made: on a machine with several suites others come and go meanwhile."""

from __future__ import annotations

import re
import subprocess

import psutil

from distlab.faults.network import owner


def namespaces(network: str | None = None) -> set[str]:
    """Those of the network of that name; by default of this process's."""
    name = network or owner(psutil.Process())
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(rf"^{name}-\S+", listed, re.M))
