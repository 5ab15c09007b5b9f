"""Cases measured on one machine of our own, and what the models say of them: collectives, memory, step times.

    for cell in own_cases(): print(cell.family, cell.case, cell.signed_error)     # `validation.Scored`
    for cell in recorded_gpu_cases(): ...                                         # of one GPU: see `own_gpu`
    remarks("own_memory.csv")           # on what it was measured, with what versions, when, by which command
    noise("own_step_scaling.csv")       # below which no error means anything

`benchmarks/own_cases.py` measured them. Fits, and what they did not see:

- own_gloo_all_reduce: for each operation one fit (`network.calibrate.fit_host`: launch, hop, chunk, bandwidth) to the
  1st, 3rd, 5th ... payload over 2 and over 4 processes. The 2nd, 4th, ... are held out.
- own_memory: nothing is fitted.
- own_step_scaling: a step on several processes is what one alone needs for as many samples (measured: rows of 1 rank,
  which are no cases) times `slowdown`, and the collectives of the fits above, one after the other: where processes
  keep all cores busy, nothing is free that could hide them.

A file that the package lacks has no cases.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, cast

from distlab.errors import SettingError
from distlab.predict.collectives import Op
from distlab.predict.commented_csv import comments, read_rows
from distlab.predict.network.calibrate import Host, fit_host, slowdown
from distlab.predict.network.fitting import Sample
from distlab.predict.states import MemorySettings, OptimizerName, RankStates, rank_states
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout, Recompute, Transformer
from distlab.predict.units import MB, MIB
from distlab.predict.validation import MemoryRun, Row, Scored

COLLECTIVES, MEMORY, STEPS = "own_gloo_all_reduce", "own_memory", "own_step_scaling"
FAMILIES = (COLLECTIVES, MEMORY, STEPS)
"""Of which the file has the name, and .csv."""

DATA = Path(str(resources.files("distlab.predict").joinpath("data")))


def own_cases(folder: Path = DATA) -> list[Scored]:
    """Of those families whose files the folder has."""
    return [*_collectives(folder), *_memory(folder), *_steps(folder)]


def recorded_gpu_cases(folder: Path = DATA) -> list[Scored]:
    """Steps, memory and products of one GPU: `own_gpu.recorded_gpu_cases`."""
    from distlab.predict.own_gpu import recorded_gpu_cases as cases  # reads its files by this module

    return cases(folder)


def remarks(name: str, folder: Path = DATA) -> list[str]:
    """The lines of a file of cases that begin with #, which say where it comes from; none without the file."""
    return comments(_text(folder / name))


def rows(name: str, folder: Path = DATA) -> list[Row]:
    """The rows of a file of cases; none without the file."""
    return list(read_rows(_text(folder / name)))


def noise(name: str, folder: Path = DATA) -> float | None:
    """By how much launches of the same differ: median over the rows of (largest - smallest) / median time.

    None for a file that is missing, or has no such columns.
    """
    spreads = [
        (float(row["high_s"]) - float(row["low_s"])) / float(row.get("time_s") or row["step_s"])
        for row in rows(name, folder)
        if "high_s" in row
    ]
    return statistics.median(spreads) if spreads else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _cores(name: str, folder: Path) -> int:
    """Of the machine that a file was measured on; SettingError where the file does not say."""
    for row in rows(name, folder):
        if row.get("cores"):
            return int(row["cores"])
    raise SettingError(
        f"{name} has no column cores, of the machine; measure it again: python -m benchmarks.own_cases."
    )


# Collectives.


def held_out(position: int) -> bool:
    """Of the payloads of an operation over a number of ranks, by size from 0: the 2nd, the 4th, ..."""
    return position % 2 == 1


def _samples(folder: Path) -> dict[Op, list[tuple[Sample, bool]]]:
    """By operation: the measured times, and whether each is held out."""
    runs: dict[tuple[Op, int], list[Sample]] = {}
    for row in rows(f"{COLLECTIVES}.csv", folder):
        op, ranks = cast(Op, row["op"]), int(row["ranks"])
        sample = Sample(ranks, ranks, float(row["payload_bytes"]), float(row["time_s"]), op)
        runs.setdefault((op, ranks), []).append(sample)
    found: dict[Op, list[tuple[Sample, bool]]] = {}
    for (op, _), samples in runs.items():
        by_size = sorted(samples, key=lambda sample: sample.payload_bytes)
        found.setdefault(op, []).extend((s, held_out(position)) for position, s in enumerate(by_size))
    return found


@cache
def hosts(folder: Path = DATA) -> Mapping[Op, Host]:
    """What was fitted for each operation; nothing without the file."""
    measured = _samples(folder)
    if not measured:
        return {}
    machine = _cores(f"{COLLECTIVES}.csv", folder)
    return {
        op: fit_host([s for s, out in pairs if not out], machine, "gloo") for op, pairs in measured.items()
    }


def _collectives(folder: Path) -> Iterator[Scored]:
    for op, pairs in _samples(folder).items():
        host = hosts(folder)[op]
        for sample, out in pairs:
            predicted_s = host.seconds(op, sample.payload_bytes, sample.gpus)
            case = f"{op} over {sample.gpus} processes, {sample.payload_bytes:.12g} bytes"
            run = (f"gloo {op}", sample.gpus, sample.gpus)
            yield Scored(
                COLLECTIVES,
                case,
                predicted_s,
                sample.time_s,
                "collective",
                not out,
                run,
                sample.payload_bytes,
                "s",
            )


# Memory.

COUNTER_BYTES = 4
"""torch's count of steps, which AdamW and Adafactor keep with each tensor of weights."""
TOKEN_BYTES = 2 * 8
"""A token and its target, in 64 bits."""


def memory_run(row: Row) -> MemoryRun:
    """How the models see a training run of the file: on a CPU, torch's norms are several operations."""
    sharded = row["strategy"] == "fsdp"
    ranks, micro_batch = int(row["ranks"]), int(row["micro_batch"])
    model = Transformer(
        "distlab's GPT", int(row["layers"]), int(row["hidden"]), int(row["heads"]), int(row["vocabulary"]),
        int(row["sequence"]), tied_embedding=row["tied"] == "True", learned_positions=False, biases=False,
    )  # fmt: skip
    layout = Layout(
        data=ranks, micro_batch=micro_batch, global_batch=ranks * micro_batch * int(row["micro_batches"]),
        recompute=cast(Recompute, row["recompute"]), zero_stage=3 if sharded else 0,
    )  # fmt: skip
    optimizer = "sgd_momentum" if float(row["momentum"]) else row["optimizer"]
    settings = MemorySettings(
        optimizer=cast(OptimizerName, optimizer),
        precision="fp32" if row["precision"] == "fp32" else "autocast",
        fused_kernels=False,
        loss="torch",
        bucket_copies=not sharded,
        fused_optimizer=row["implementation"] == "fused",
    )
    return MemoryRun(model, layout, settings)


def counters_bytes(run: MemoryRun) -> int:
    """Of the counts of steps: a GPT of distlab.train has six matrices and two norms in a layer, and three tensors
    beside (two where the matrices at its ends are tied)."""
    if run.settings.optimizer.startswith("sgd"):
        return 0
    return COUNTER_BYTES * (8 * run.model.layers + (2 if run.model.tied_embedding else 3))


def kept_bytes(run: MemoryRun) -> float:
    """What a forward pass leaves for the backward pass: activations, the loss's softmax, autocast's copies."""
    terms = training_memory(run.model, run.layout, run.settings).at("loss backward").terms
    names = ("softmax of the logits", "16-bit copies of the weights")
    return sum(term.bytes for term in terms if term.kind == "activations" or term.name in names)


def _memory(folder: Path) -> Iterator[Scored]:
    for row in rows(f"{MEMORY}.csv", folder):
        run = memory_run(row)
        held: RankStates = rank_states(run.model, run.layout, run.settings, 0)
        counters = counters_bytes(run)
        batch = TOKEN_BYTES * run.layout.micro_batches * run.layout.micro_batch * run.model.sequence
        peak = training_memory(run.model, run.layout, run.settings).peak_bytes + counters + batch
        states = sum(float(row[f"{part}_bytes"]) for part in ("parameter", "gradient", "optimizer"))
        named = (
            f"{row['strategy']} x {row['ranks']}, {row['layers']} layers of {row['hidden']}, {row['precision']}, "
            f"{run.settings.optimizer} {row['implementation']}, recompute {row['recompute']}, "
            f"{row['micro_batches']} micro-batches"
        )
        cells: tuple[tuple[Literal["states", "activations", "peak"], float, float], ...] = (
            ("states", held.total_bytes + counters, states),
            ("activations", kept_bytes(run), float(row["activation_bytes"])),
            ("peak", peak, float(row["peak_bytes"])),
        )
        for kind, predicted, measured in cells:
            yield Scored(
                MEMORY, f"{kind}: {named}", predicted, measured, kind, False, unit="bytes", inputs=run
            )


# Steps.

BUCKET_BYTES, FIRST_BUCKET_BYTES = 25 * MB, MIB
"""DDP's: those of distlab.train, and torch's first one, smaller so that sending begins early."""
FLOAT_BYTES = 4


def _steps(folder: Path) -> Iterator[Scored]:
    measured = rows(f"{STEPS}.csv", folder)
    if not measured or not hosts(folder):
        return
    machine = _cores(f"{STEPS}.csv", folder)
    alone = {_key(row): float(row["time_s"]) for row in measured if row["ranks"] == "1"}
    most = {key[:2]: max(samples for *named, samples in alone if tuple(named) == key[:2]) for key in alone}
    for row in measured:
        ranks = int(row["ranks"])
        if ranks == 1:
            continue
        predicted_s = slowdown(ranks, machine) * alone[_key(row)] + communication_s(row, hosts(folder))
        scaling = "strong" if int(row["samples_per_rank"]) < most[row["model"], row["strategy"]] else "weak"
        what = "no exchange" if row["strategy"] == "single" else f"{row['strategy']}, {scaling} scaling"
        case = f"{row['model']} x {ranks}, {what}, {row['samples_per_rank']} samples each"
        yield Scored(STEPS, case, predicted_s, float(row["time_s"]), "scaling", False, unit="s")


def _key(row: Row) -> tuple[str, str, int]:
    """What a row of one rank stands for."""
    return row["model"], row["strategy"], int(row["samples_per_rank"])


def communication_s(row: Row, fitted: Mapping[Op, Host]) -> float:
    """Of a step: DDP's buckets summed; or FSDP's units gathered (blocks twice, the rest once) and their gradients dealt
    out; and the sum of the loss. fp32."""
    ranks = int(row["ranks"])
    if row["strategy"] == "single":
        return 0.0
    units = unit_bytes(row)
    loss_s = fitted["all_reduce"].seconds("all_reduce", 2 * FLOAT_BYTES, ranks)
    if row["strategy"] == "ddp":
        return loss_s + sum(
            fitted["all_reduce"].seconds("all_reduce", b, ranks) for b in _buckets(sum(units))
        )
    gathered = [*units[:-1], *units]
    gather_s = sum(fitted["all_gather"].seconds("all_gather", b, ranks) for b in gathered)
    return (
        loss_s + gather_s + sum(fitted["reduce_scatter"].seconds("reduce_scatter", b, ranks) for b in units)
    )


def unit_bytes(row: Row) -> Sequence[float]:
    """Of the blocks that FSDP gathers one by one, and, last, of the rest: distlab.train's GPT and CNN in fp32."""
    width, layers = int(row["width"]), int(row["layers"])
    if row["model"] == "cnn":  # two 3x3 convolutions with biases, and a linear layer from 4 width to 10
        return [FLOAT_BYTES * n for n in (10 * width, 9 * width**2 + width, 40 * width + 10)]
    gpt = Transformer(
        "GPT",
        layers,
        width,
        int(row["heads"]),
        256,
        int(row["sequence"]),
        learned_positions=False,
        biases=False,
    )
    rest = gpt.parameters - layers * gpt.layer_parameters
    return [FLOAT_BYTES * n for n in (*[gpt.layer_parameters] * layers, rest)]


def _buckets(total_bytes: float) -> Iterator[float]:
    """Payloads of the all-reduces; a tensor that does not fit makes a real bucket a little larger."""
    yield min(total_bytes, FIRST_BUCKET_BYTES)
    left = total_bytes - FIRST_BUCKET_BYTES
    while left > 0:
        yield min(left, BUCKET_BYTES)
        left -= BUCKET_BYTES
