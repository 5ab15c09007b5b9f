"""The hardware registry: accelerators, links, nodes, storage and prices, every number with its source.

    from distlab.predict.hardware import accelerator, link, node, storage

Each number is a `Figure`: a value with its unit, a `Source` (a key of book/references.bib, the page, the day, and the
confidence: V read, S secondary, C computed, R recalled), and what other sources say instead. What the datasheet
promises and what was reached are apart.
"""

from distlab.predict.hardware.accelerators import ACCELERATORS, Accelerator, Dtype, accelerator
from distlab.predict.hardware.figures import Figure, Source
from distlab.predict.hardware.links import LINKS, Interconnect, link
from distlab.predict.hardware.nodes import NODES, Node, node
from distlab.predict.hardware.storage import STORAGE, Storage, storage

__all__ = [
    "ACCELERATORS",
    "LINKS",
    "NODES",
    "STORAGE",
    "Accelerator",
    "Dtype",
    "Figure",
    "Interconnect",
    "Node",
    "Source",
    "Storage",
    "accelerator",
    "link",
    "node",
    "storage",
]
