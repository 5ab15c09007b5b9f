"""`distlab predict presets`: the models, clusters and GPUs that have a name, with who says that they look so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from distlab.errors import printable
from distlab.predict.commands.options import Parser
from distlab.predict.commands.plain import Column, print_lines, print_table
from distlab.predict.hardware import ACCELERATORS, LINKS, NODES
from distlab.predict.models import MODELS

if TYPE_CHECKING:
    from distlab.predict.hardware import Dtype, Source


def presets(args: list[str]) -> int:
    """Models, clusters and GPUs that other commands know by name. V read, S secondary, C computed, R recalled."""
    given = Parser("distlab predict presets", str(presets.__doc__), {}, {}).parse(args)
    listed = {"models": _models(), "clusters": _clusters(), "systems": _systems(), "gpus": _gpus()}
    if given.json:
        print(json.dumps(listed, indent=1, allow_nan=False))
        return 0
    for name, columns in _COLUMNS.items():
        heads = [Column(heading, right=number) for heading, number, _ in columns]
        rows = [[printable(shown(row)) for _, _, shown in columns] for row in listed[name]]
        print_table(name, heads, rows, [f"{len(rows)} {name}", *[""] * (len(columns) - 1)])
    print_lines(
        [
            "--model takes a model, --cluster a cluster, --gpu a GPU; --cluster of `predict collective` a system, too. "
            "Clusters are nodes of the registry, as they are sold; systems as somebody recorded them, or put together. "
            "Sources: V read, S secondary, C computed, R recalled.",
            "With --json: every field and the address of each source.",
        ]
    )
    return 0


Columns = Sequence[tuple[str, bool, Callable[[dict[str, Any]], str]]]

_COLUMNS: dict[str, Columns] = {
    "models": (
        ("name", False, lambda row: row["name"]),
        ("parameters", True, lambda row: f"{row['parameters'] / 1e9:,.4g} B"),
        ("active", True, lambda row: f"{row['active_parameters'] / 1e9:,.4g} B"),
        ("layers", True, lambda row: f"{row['layers']}"),
        ("hidden", True, lambda row: f"{row['hidden']:,}"),
        ("heads", True, lambda row: f"{row['heads']}"),
        ("kv", True, lambda row: f"{row['kv_heads']}"),
        ("experts", True, lambda row: _experts(row)),
        ("tokens", True, lambda row: f"{row['sequence']:,}"),
        ("source", False, lambda row: row["source"]),
    ),
    "clusters": (
        ("name", False, lambda row: row["name"]),
        ("a node", False, lambda row: f"{row['gpus_per_node']} x {row['gpu']}"),
        ("inside", False, lambda row: row["inside"]),
        ("GB/s", True, lambda row: f"{row['inside_Bps'] / 1e9:,.4g}"),
        ("between", False, lambda row: f"{row['nics']} x {row['nic']}" if row["nics"] else "none"),
        ("GB/s a GPU", True, lambda row: f"{row['between_Bps'] / 1e9:,.4g}"),
        ("source", False, lambda row: f"{row['source']} ({row['confidence']})"),
    ),
    "systems": (
        ("name", False, lambda row: row["name"]),
        ("what", False, lambda row: row["title"]),
        ("is", False, lambda row: row["about"]),
    ),
    "gpus": (
        ("name", False, lambda row: row["name"]),
        ("usable GiB", True, lambda row: f"{row['usable_bytes'] / 2**30:,.4g}"),
        ("GB/s", True, lambda row: f"{row['memory_Bps'] / 1e9:,.4g}"),
        ("TFLOP/s", True, lambda row: f"{row['peak_flops'] / 1e12:,.4g} {row['dtype']}"),
        ("reached", True, lambda row: _tera(row["reached_flops"])),
        ("also", False, lambda row: ", ".join(row["aliases"])),
        ("source", False, lambda row: f"{row['source']} ({row['confidence']})"),
    ),
}


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / 1e12:,.4g}"


def _experts(row: dict[str, Any]) -> str:
    return f"{row['active_experts']} of {row['experts']}" if row["experts"] > 1 else ""


def _models() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "title": known.model.name,
            "parameters": known.model.parameters,
            "active_parameters": known.model.active_parameters,
            "published_parameters": known.published,
            "layers": known.model.layers,
            "hidden": known.model.hidden,
            "heads": known.model.heads,
            "kv_heads": known.model.key_value_heads,
            "feed_forward": known.model.mlp_width,
            "experts": known.model.experts,
            "active_experts": known.model.active_experts,
            "vocabulary": known.model.vocabulary,
            "sequence": known.model.sequence,
            "source": known.source,
            "confidence": known.confidence,
        }
        for name, known in MODELS.items()
    ]


def _source(source: Source) -> dict[str, str]:
    return {
        "source": source.key,
        "url": source.url,
        "confidence": source.confidence,
        "checked": source.checked,
    }


def _clusters() -> list[dict[str, Any]]:
    return [
        {
            "name": box.name,
            "title": box.title,
            "aliases": list(box.aliases),
            "gpus_per_node": box.accelerators,
            "gpu": box.accelerator,
            "inside": box.link,
            "inside_Bps": LINKS[box.link].bandwidth.value.bytes_per_s,
            "nics": box.nics,
            "nic": box.nic,
            "between_Bps": box.network_per_accelerator.bytes_per_s if box.nics else 0.0,
            **_source(box.source),
        }
        for box in NODES.values()
    ]


def _systems() -> list[dict[str, Any]]:
    from distlab.predict.network import machine
    from distlab.predict.network.systems import NAMES

    found = [(name, machine(name)) for name in NAMES]
    return [{"name": name, "title": made.title, "about": made.about} for name, made in found]


def _gpus() -> list[dict[str, Any]]:
    rows = []
    for chip in ACCELERATORS.values():
        dtypes: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")
        dtype = next(name for name in dtypes if name in chip.peaks)
        peak = chip.peaks[dtype]
        reached = chip.reached.get(dtype)
        rows.append(
            {
                "name": chip.name,
                "title": chip.title,
                "aliases": list(chip.aliases),
                "usable_bytes": chip.usable.value.bytes,
                "memory_bytes": chip.memory.value.bytes,
                "memory_Bps": chip.memory_bandwidth.value.bytes_per_s,
                "dtype": dtype,
                "peak_flops": peak.value.flop_per_s,
                "reached_flops": None if reached is None else reached.value.flop_per_s,
                **_source(peak.source),
            }
        )
    return rows
