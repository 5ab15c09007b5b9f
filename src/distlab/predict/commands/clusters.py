"""The cluster that a step runs on: nodes of the registry, with what was given in place of their values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from distlab.errors import SettingError
from distlab.predict.commands.options import Given, option
from distlab.predict.commands.presets import unknown

if TYPE_CHECKING:
    from distlab.predict.cluster import Cluster
    from distlab.predict.hardware import Node
    from distlab.predict.hardware.prices import Price, PriceTable
    from distlab.predict.network import System

CLUSTERS_HELP = "a node of `distlab predict presets` (default: dgx_h100); the options below change it"


@dataclass(frozen=True)
class ClusterOptions:
    """What stands in place of a cluster's own values; None: they stay. Links as one GPU sees them, one way."""

    gpus_per_node: int | None = None
    inside_bandwidth_Bps: float | None = None  # noqa: N815 - the unit is part of the name
    inside_alpha_s: float | None = None
    across_bandwidth_Bps: float | None = None  # noqa: N815
    across_alpha_s: float | None = None
    peak_flops: float | None = None
    gemm_efficiency: float | None = None
    memory_bytes: float | None = None
    memory_Bps: float | None = None  # noqa: N815
    stream_efficiency: float | None = None
    element_efficiency: float | None = None
    multiprocessors: int | None = None
    price_per_gpu_hour: float | None = None
    provider: str | None = None
    """Whose price on demand is taken, of the registry's table; None: the first row of the GPU's."""


def the_cluster(given: Given) -> Cluster:
    """SettingError for a name that no node has, and for a value that cannot be."""
    from distlab.predict.cluster import cluster_of

    box = _node(given.names.get("cluster", "dgx_h100"))
    base = cluster_of(box)
    asked = {name: value for name, value in given.values["cluster"].items() if value is not None}
    provider = asked.pop("provider", None)
    if provider is not None and "price_per_gpu_hour" in asked:
        raise SettingError(
            f"provider is {provider!r}, and price_per_gpu_hour is given, too; give one of them."
        )
    for name, value in asked.items():
        most = 1.0 if name.endswith("_efficiency") else float("inf")
        least_too = name.endswith("alpha_s") or name == "price_per_gpu_hour"
        if not (0 < value <= most or (least_too and value == 0)):
            bound = ", at most 1" if most == 1 else ""
            expected = "0 or more" if least_too else f"above 0{bound}"
            raise SettingError(f"{name} is {value}; it must be {expected} ({option(name)}).")
    if "price_per_gpu_hour" not in asked and (provider is not None or _of_a_run(given)):
        price = list_price(given)
        if price is not None:
            asked["price_per_gpu_hour"] = price.row.per_hour
    device = {name: asked[name] for name in asked if hasattr(base.device, name)}
    own = {name: asked[name] for name in ("price_per_gpu_hour",) if name in asked}
    name = base.name + (", changed" if asked.keys() - {"price_per_gpu_hour"} else "")
    network = _network(base.network, asked)
    return replace(base, name=name, device=replace(base.device, **device), network=network, **own)


def _node(name: str) -> Node:
    """The node called so; SettingError names the nearest."""
    from distlab.predict.hardware.nodes import NODES

    plain = name.lower().replace("-", "_") if isinstance(name, str) else ""
    known = {alias: box for box in NODES.values() for alias in (box.name, *box.aliases)}
    known["selene"] = known["dgx_a100"]
    if plain not in known:
        raise unknown("cluster", name, known)
    return known[plain]


class ListPrice(NamedTuple):
    """Of the registry's table."""

    row: Price
    currency: str
    others: tuple[float, ...]
    """What all providers ask for the same GPU."""

    def __str__(self) -> str:
        row = self.row
        span = f"; providers ask {min(self.others):g} to {max(self.others):g}" if len(self.others) > 1 else ""
        return f"list price of {row.accelerator} at {row.provider}, read {row.date}{span}"


def list_price(given: Given) -> ListPrice | None:
    """Of the cluster's GPU at the provider that was named, else in the first row. None where the table has none.

    SettingError where a provider was named that has none.
    """
    chip, provider = (
        _node(given.names.get("cluster", "dgx_h100")).chip,
        given.values["cluster"].get("provider"),
    )
    try:
        table = _prices()
    except ModuleNotFoundError:  # in a browser without PyYAML
        if provider is None:
            return None
        raise SettingError(
            f"provider is {provider!r}, and its prices cannot be read without PyYAML; give price_per_gpu_hour."
        ) from None
    row = table.of(provider).of_accelerator(chip)
    if row is None:
        if provider is None:
            return None
        raise SettingError(
            f"provider is {provider!r}, of which no price of {chip.title} is known; give price_per_gpu_hour."
        )
    others = tuple(price.per_hour for price in table.prices if price.accelerator == row.accelerator)
    return ListPrice(row, table.currency, others)


def priced(given: Given) -> tuple[dict[str, Any] | None, str]:
    """What a GPU-hour costs, for JSON, and in words; None where neither table nor user says."""
    own = given.values["cluster"].get("price_per_gpu_hour")
    if own is not None:
        return {"per_gpu_hour": own, "currency": None, "source": "given"}, "given, in your currency"
    price = list_price(given)
    if price is None:
        chip = _node(given.names.get("cluster", "dgx_h100")).chip
        return (
            None,
            f"No cost: the registry has no price of {chip.title} that can be read here; give --price-per-gpu-hour.",
        )
    row = price.row
    told = {"provider": row.provider, "source": row.source, "date": row.date, "confidence": row.confidence}
    return {"per_gpu_hour": row.per_hour, "currency": price.currency, **told}, str(price)


@cache
def _prices() -> PriceTable:
    """Read once: its YAML takes as long as a prediction."""
    from distlab.predict.hardware.prices import read_prices

    return read_prices()


def _of_a_run(given: Given) -> bool:
    """Is it asked what a whole training takes?"""
    return given.values.get("run", {}).get("tokens") is not None


def _network(network: System, asked: dict[str, Any]) -> System:
    """With the links that were given. A link of your own has no switch that reduces."""
    if "gpus_per_node" in asked:
        network = replace(network, gpus_per_node=asked["gpus_per_node"])
    if "inside_bandwidth_Bps" in asked:
        inside = replace(network.inside, name="your own", bandwidth_Bps=asked["inside_bandwidth_Bps"])
        network = replace(network, inside=inside, in_switch=None)
    if "inside_alpha_s" in asked:
        network = replace(network, inside=replace(network.inside, hop_s=asked["inside_alpha_s"]))
    fabric = network.fabric
    if fabric is not None:
        gpus = network.gpus_per_node
        rate = asked.get("across_bandwidth_Bps")
        if rate is not None:
            fabric = replace(fabric, name="your own", nic_Bps=rate, nics_per_node=gpus, efficiency=1.0)
        hop_s = asked.get("across_alpha_s", fabric.hop_s)
        network = replace(network, fabric=replace(fabric, gpus_per_full_node=gpus, hop_s=hop_s))
    return network
