"""`distlab predict collective` and `distlab predict goodput`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distlab.errors import SettingError
from distlab.predict.collectives import Op
from distlab.predict.commands.options import Given, Parser
from distlab.predict.commands.presets import unknown
from distlab.predict.commands.show import Row, draw, gpus, number, seconds, show, show_json, time_rows
from distlab.predict.commands.simulated import SimulationOptions, simulated
from distlab.predict.commands.transformers import MODELS_HELP, the_model
from distlab.predict.transformer import Transformer

if TYPE_CHECKING:
    from distlab.predict.goodput import Checkpoint, Goodput, Recovery
    from distlab.predict.plots.chart import Chart


@dataclass(frozen=True)
class CollectiveOptions:
    """What is sent, over how many GPUs."""

    op: Op = "all_reduce"
    payload_bytes: float = 2**30
    gpus: int = 8
    gpus_per_node: int | None = None
    """None: as many as a node has, or as there are."""
    algorithm: Literal["ring", "tree", "hierarchical", "in_switch"] | None = None
    protocol: Literal["LL", "LL128", "Simple"] | None = None
    overlap_s: float = 0.0
    """Independent computing that hides it."""


def collective(args: list[str]) -> int:
    """The time of a collective between GPUs, by NCCL's fastest algorithm and protocol."""
    from distlab.predict import network
    from distlab.predict.collectives import bus_bandwidth_factor
    from distlab.predict.hardware import NODES
    from distlab.predict.network.systems import NAMES, unmeasured

    names = [*NAMES, *NODES]
    helps = {"cluster": f"one of {', '.join(names)}; see `distlab predict presets` (default: dgx_h100)"}
    sections = {"collective": CollectiveOptions}
    figures = {"plot": "time and bus bandwidth over payloads", "plot_ranks": "the same over GPUs"}
    what = str(collective.__doc__)
    given = Parser("distlab predict collective", what, sections, helps, figures, why=True).parse(args)
    asked = given.make("collective", CollectiveOptions)
    cluster = given.names.get("cluster", "dgx_h100")
    for name in ("gpus", "gpus_per_node"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}; it must be 1 or more.")
    if asked.overlap_s < 0:
        raise SettingError(f"overlap_s is {asked.overlap_s}; it must be 0 or more.")
    per_node = asked.gpus_per_node or min(asked.gpus, _per_node(cluster, names))
    machines = network.system(cluster, asked.gpus, per_node)
    found = network.predict_collective(
        asked.op, asked.payload_bytes, machines, asked.algorithm, asked.protocol
    )
    about = network.machine(cluster).about or "a node of the registry, by the fits of its links"
    extrapolated = unmeasured(cluster, asked.gpus, per_node)
    rate = asked.payload_bytes / found.total_s if found.total_s else 0.0  # bytes per second
    factor = bus_bandwidth_factor(asked.op, asked.gpus)
    bus_rate = rate * factor
    shown_s = network.exposed_s(found, asked.overlap_s)
    drawn = draw(given.figures, _collective_charts(asked, cluster, per_node))
    why = None
    if given.why:
        from distlab.predict.commands.derived import of_collective, symbols_of_collective
        from distlab.predict.commands.why import Why

        names = [term.name for term in found.terms if term.seconds]
        follow = of_collective(found, asked.gpus, factor, asked.overlap_s)
        why = Why("collective", names, follow, symbols_of_collective(found, asked.gpus))
    if given.json:
        show_json(
            {
                "cluster": cluster,
                "cluster_is": about,
                "extrapolated": extrapolated,
                **dataclasses.asdict(asked),
                "gpus_per_node": per_node,
                "algorithm": found.algorithm,
                "protocol": found.protocol,
                "bound": found.bound,
                "total_s": found.total_s,
                "exposed_s": shown_s,
                "algorithm_bandwidth_Bps": rate,
                "bus_bandwidth_Bps": bus_rate,
                "terms": [dataclasses.asdict(term) for term in found.terms],
                **(why.as_json() if why else {}),
            }
        )
        return 0
    rows = time_rows(found.terms, found.total_s)
    lines = [
        f"Algorithm {found.algorithm}, protocol {found.protocol}; {found.bound}-bound. "
        f"{rate / 1e9:.4g} GB/s of payload, bus bandwidth {bus_rate / 1e9:.4g} GB/s.",
        f"{cluster}: {about}.",
        *(f"Extrapolated: {what}." for what in extrapolated),
    ]
    if asked.payload_bytes < 2**20:
        lines.append("Below 1 MiB the measurements behind the model are mostly noise: take it as a level.")
    if asked.overlap_s:
        lines.append(f"Beside {seconds(asked.overlap_s)} of computing {seconds(shown_s)} of it show.")
    nodes = asked.gpus // per_node
    title = f"{asked.op} of {number(asked.payload_bytes / 2**20)} MiB over {gpus(asked.gpus)} on {nodes} x {cluster}"
    show(title, "time", rows, seconds(found.total_s), [*lines, *(why.lines() if why else []), *drawn])
    return 0


def _collective_charts(
    asked: CollectiveOptions, cluster: str, per_node: int
) -> dict[str, Callable[[], Chart]]:
    """By the options that draw them."""
    from distlab.predict import network

    def over_payload() -> Chart:
        from distlab.predict.plots.exchange import over_payload

        machines = network.system(cluster, asked.gpus, per_node)
        return over_payload(
            asked.op, machines, asked.payload_bytes, asked.algorithm, asked.protocol, f", {cluster}"
        )

    def over_ranks() -> Chart:
        from distlab.predict.plots.exchange import over_ranks

        def machines(gpus: int) -> network.Topology:
            return network.system(cluster, gpus, min(gpus, per_node))

        size_bytes, way = asked.payload_bytes, (asked.algorithm, asked.protocol)
        return over_ranks(asked.op, size_bytes, machines, asked.gpus, *way, f", {cluster}")

    return {"plot": over_payload, "plot_ranks": over_ranks}


def _per_node(cluster: str, names: list[str]) -> int:
    from distlab.predict.hardware import node
    from distlab.predict.network import machine
    from distlab.predict.network.systems import NAMES

    if cluster in NAMES:
        return machine(cluster).gpus_per_node
    try:
        return node(cluster).accelerators
    except (KeyError, ValueError):
        raise unknown("cluster", cluster, names) from None


@dataclass(frozen=True)
class GoodputOptions:
    """The job, how it fails, and how it saves."""

    gpus: int = 1024
    mtbf_h: float | None = None
    """Of the whole job, in hours; None: GPUs, hosts, network and software fail as those of Llama 3 did."""
    detection_s: float = 60.0
    restart_s: float = 600.0
    interval_s: float | None = None
    """Of work between two checkpoints; None: the best."""
    blocking_s: float | None = None
    """That training stands for a save; None: size over storage."""
    background_s: float = 0.0
    slowdown: float = 0.0
    parameters: float | None = None
    """14 bytes of checkpoint each; None: the model's."""
    storage: str = "gpfs_jean_zay"
    """Of the hardware registry: what it takes of the whole job."""
    storage_Bps: float | None = None  # noqa: N815 - the unit is part of the name
    """In place of the registry's."""
    days: float = 30.0
    gpus_per_node: int = 8
    """A node writes to its own drives, and is what fails, is spare or turns slow in simulated runs."""

    @property
    def nodes(self) -> int:
        return math.ceil(self.gpus / self.gpus_per_node)


def goodput(args: list[str]) -> int:
    """The share of a run that becomes training, under failures and checkpoints."""
    from distlab.predict import failures
    from distlab.predict import goodput as model

    sections = {"job": GoodputOptions, "simulation": SimulationOptions, "model": Transformer}
    helps = {"model": MODELS_HELP}
    figures = {"plot": "goodput over checkpoint intervals, with simulated runs"}
    what = str(goodput.__doc__)
    given = Parser("distlab predict goodput", what, sections, helps, figures, why=True).parse(args)
    asked = given.make("job", GoodputOptions)
    for name in ("gpus", "gpus_per_node"):
        if getattr(asked, name) < 1:
            raise SettingError(f"{name} is {getattr(asked, name)}; it must be 1 or more.")
    failures.positive("days", asked.days)
    components: tuple[failures.Component, ...] = failures.llama3_components(asked.gpus)
    if asked.mtbf_h is not None:
        failures.positive("mtbf_h", asked.mtbf_h, infinite=True)
        components = (failures.Component("job", 1, asked.mtbf_h),)
    mtbf_h = failures.job_mtbf_h(components)
    failures.positive("mtbf_h", mtbf_h, infinite=True)
    job = model.Recovery(mtbf_h * 3600, asked.detection_s, asked.restart_s)
    storage_Bps = _storage_Bps(asked)  # noqa: N806
    size_bytes, saving = _saving(given, asked, job, storage_Bps)
    found = model.goodput(job, saving)
    runs = simulated(given, asked.nodes, components, job, saving, asked.days)
    expected = asked.days * 24 / mtbf_h
    low, high = failures.poisson_interval(expected)
    young_s = daly_s = None
    if not math.isinf(mtbf_h):
        young_s = model.young_interval_s(saving.cost_s, job.mtbf_s)
        daly_s = model.daly_interval_s(saving.cost_s, job.mtbf_s)

    def curve() -> Chart:
        from distlab.predict.plots.intervals import intervals

        name = f"{given.names['model']}, " if "model" in given.names else ""
        whose = f"{name}{asked.gpus:,} GPUs, {storage_Bps / 1e9:,.4g} GB/s to storage"
        return intervals(job, saving, components, asked.days, job_in_words=whose)

    drawn = draw(given.figures, {"plot": curve})
    why = None
    if given.why:
        from distlab.predict.commands.derived import of_goodput, symbols_of_goodput
        from distlab.predict.commands.why import Why

        follow = of_goodput(job, saving, asked.days, size_bytes, storage_Bps)
        why = Why("goodput", list(found.terms()), follow, symbols_of_goodput(job, saving))
    if given.json:
        show_json(
            {
                **dataclasses.asdict(asked),
                "storage_Bps": storage_Bps,
                "mtbf_h": None if math.isinf(mtbf_h) else mtbf_h,
                "blocking_s": saving.blocking_s,
                "interval_s": saving.interval_s,
                "young_interval_s": young_s,
                "daly_interval_s": daly_s,
                "checkpoint_bytes": size_bytes,
                "failures": expected,
                "failures_95": [low, high],
                "goodput": found.useful,
                "useful_days": asked.days * found.useful,
                "terms": found.terms(),
                "simulated": runs.as_json() if runs else None,
                **(why.as_json() if why else {}),
            }
        )
        return 0
    lines = [_failures_line(asked, mtbf_h, expected, low, high)]
    if young_s is not None and daly_s is not None:
        chosen = "given" if asked.interval_s is not None else "the best"
        young = f"Young {seconds(young_s)}, Daly {seconds(daly_s)}"
        lines.append(f"Interval {seconds(saving.interval_s)} ({chosen}); {young}.")
    if size_bytes is not None:
        rate = f"{seconds(saving.blocking_s)} at {storage_Bps / 1e9:,.4g} GB/s"
        lines.append(f"A checkpoint of {size_bytes / 1e12:,.4g} TB takes {rate}.")
    good, rows = found.useful, _shares(asked, saving, found)
    if runs:
        good, rows = runs.summary.goodput.mean, runs.rows()
        lines += [*runs.lines(), f"The closed form, without these: {found.useful:.2%}."]
    title = f"Goodput of {asked.days:g} days: {good:.2%}"
    lines += [*(why.lines() if why else []), *drawn]
    show(title, "days", rows, f"{asked.days:,.3f}", lines)
    return 0


def _storage_Bps(asked: GoodputOptions) -> float:  # noqa: N802
    """That the storage takes of the whole job. SettingError where the registry does not know that."""
    from distlab.predict.hardware.storage import storage

    if asked.storage_Bps is not None:
        return asked.storage_Bps
    try:
        kind = storage(asked.storage)
    except SettingError as error:
        raise SettingError(f"storage is no name of one: {error}") from None
    if kind.write is None:
        raise SettingError(
            f"storage is {kind.name!r}, of which no source says how fast it is written; give storage_Bps."
        )
    rate = kind.write.value.bytes_per_s
    if kind.per == "system":
        return rate
    if kind.per == "client" and not kind.shared:
        return rate * asked.nodes
    raise SettingError(
        f"storage is {kind.name!r}, which takes {rate / 1e9:,.4g} GB/s per {kind.per}; give storage_Bps, what all of "
        "yours takes of the job."
    )


def _saving(
    given: Given,
    asked: GoodputOptions,
    job: Recovery,
    storage_Bps: float,  # noqa: N803
) -> tuple[float | None, Checkpoint]:
    """Bytes of a checkpoint, where its time follows from them; and how it is saved, by default at the best interval."""
    from distlab.predict.goodput import Checkpoint, checkpoint_bytes, optimal_interval_s, write_s

    size_bytes, blocking_s = None, asked.blocking_s
    if blocking_s is None:
        parameters = the_model(given)[0].parameters if asked.parameters is None else asked.parameters
        size_bytes = checkpoint_bytes(parameters)
        blocking_s = write_s(size_bytes, storage_Bps)
    if asked.interval_s is not None:
        return size_bytes, Checkpoint(asked.interval_s, blocking_s, asked.background_s, asked.slowdown)
    if math.isinf(job.mtbf_s):
        raise SettingError(
            "mtbf_h is infinite; a job that never fails has no best interval: give interval_s."
        )
    saving = Checkpoint(max(asked.background_s, 1.0), blocking_s, asked.background_s, asked.slowdown)
    best_s = optimal_interval_s(job, saving)
    if best_s == 0:
        raise SettingError("blocking_s is 0, so that the best interval is 0; give interval_s.")
    return size_bytes, saving.every(best_s)


def _failures_line(asked: GoodputOptions, mtbf_h: float, expected: float, low: int, high: int) -> str:
    """The interval is of the count alone; how uncertain the MTBF is comes on top."""
    source = "given" if asked.mtbf_h is not None else "components fail as Llama 3's did"
    return (
        f"Job of {gpus(asked.gpus)}, MTBF {number(mtbf_h)} h ({source}): {number(expected)} failures expected, "
        f"{low:,} to {high:,} in 95% of runs at just that MTBF (Poisson)."
    )


def _shares(asked: GoodputOptions, saving: Checkpoint, found: Goodput) -> list[Row]:
    whys = {
        "useful": "training that was kept",
        "checkpoint": f"{seconds(saving.cost_s)} each, every {seconds(saving.interval_s)} of work",
        "lost": "work since the last checkpoint, done again",
        "detection": f"{seconds(asked.detection_s)} until a failure is noticed",
        "restart": f"{seconds(asked.restart_s)} until it trains again; may fail, too",
    }
    shares = found.terms().items()
    return [Row(name, f"{share * asked.days:,.3f}", share, whys[name]) for name, share in shares]
