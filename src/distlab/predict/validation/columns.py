"""The formats of measured cases: which columns a CSV file needs, and which it may have, by that of the measurement.

    distlab scorecard --formats
    FORMATS["time_ms"].missing({"system", "gpus"})      # ["gpus_per_node", "payload_bytes"]

`validation.files` checks a file's first line against these. Lines that begin with # are remarks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from distlab.predict.collectives import Op
from distlab.predict.commands.helps import HELPS
from distlab.predict.megatron import LAYOUT_DEFAULTS, MODEL_DEFAULTS, SEQUENCE, SOFTWARE_FLAGS, VOCABULARY
from distlab.predict.network import PROTOCOLS, Algorithm
from distlab.predict.transformer import Recompute, Schedule

Values = Literal["count", "number", "bytes", "yes or no", "text"]


@dataclass(frozen=True)
class Column:
    """One column. `otherwise` is what holds where it is absent or empty; None: the file needs it."""

    name: str
    values: Values
    what: str
    otherwise: str | None = None
    also: tuple[str, ...] = ()
    """Other names of it."""

    @property
    def needed(self) -> bool:
        return self.otherwise is None


@dataclass(frozen=True)
class Format:
    """Rows told by the column of their measurement."""

    measured: Column
    what: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> set[str]:
        """Of all columns that count, the measurement's among them."""
        return {
            self.measured.name,
            *(name for column in self.columns for name in (column.name, *column.also)),
        }

    def missing(self, header: Collection[str]) -> list[str]:
        """Names of the columns that such rows need and do not have."""
        return [column.name for column in self.columns if column.needed and column.name not in header]


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(names)}"


_COLLECTIVE = (
    Column(
        "system",
        "text",
        "a system or a node of distlab predict presets, or a name with a GPU in it, as in h100_dgx",
    ),
    Column("gpus", "count", "that take part"),
    Column("gpus_per_node", "count", "of them in each node"),
    Column("payload_bytes", "bytes", "nccl-tests' size: 67108864, or 64MiB"),
    Column("op", "text", _one_of(get_args(Op)), "all_reduce", ("operation",)),
    Column("algorithm", "text", _one_of(get_args(Algorithm)), "the fastest"),
    Column("protocol", "text", _one_of(PROTOCOLS), "the fastest"),
)

_SHAPE = (
    Column("layers", "count", "of the model"),
    Column("hidden", "count", "width of the model"),
    Column("heads", "count", "of attention"),
    Column("tensor_parallel", "count", "ranks"),
    Column("pipeline_parallel", "count", "ranks"),
    Column("gpus", "count", "of the whole job"),
    Column("global_batch", "count", "samples of a step, over all ranks"),
)


_FOLLOWS = {
    "kv_heads": "as heads",
    "feed_forward": "4 x hidden",
    "head_size": "hidden / heads",
    "data_parallel": "what gpus leave",
}


def _optional(name: str, usual: int | bool | None) -> Column:
    """A column of `megatron`'s, in the words of the option of `distlab predict step`."""
    values: Values = "yes or no" if isinstance(usual, bool) else "count"
    otherwise = _FOLLOWS[name] if usual is None else str(usual)
    if isinstance(usual, bool):
        otherwise = "yes" if usual else "no"
    return Column(name, values, HELPS.get(name.removesuffix("_parallel"), "of the model"), otherwise)


def _more(overlap_tensor: str) -> tuple[Column, ...]:
    papers = {
        "fused_attention": "no",
        "overlap_gradients": "yes without a pipeline",
        "overlap_tensor": overlap_tensor,
    }
    return (
        Column("vocabulary", "count", "tokens", str(VOCABULARY)),
        Column("sequence", "count", HELPS["sequence"], str(SEQUENCE)),
        *(_optional(name, usual) for name, usual in MODEL_DEFAULTS.items()),
        *(_optional(name, usual) for name, usual in LAYOUT_DEFAULTS.items()),
        Column("schedule", "text", _one_of(get_args(Schedule)), "interleaved above 1 chunk, else 1f1b"),
        Column("sequence_parallel", "yes or no", HELPS["sequence_parallel"], "no"),
        Column("cluster", "text", "a node of distlab predict presets", "dgx_a100"),
        *(Column(name, "yes or no", HELPS[name], papers[name]) for name in SOFTWARE_FLAGS),
    )


_RECOMPUTE = f"{', '.join(get_args(Recompute))}; with +sequence: sequence parallel, too"

FORMATS: dict[str, Format] = {
    one.measured.name: one
    for one in (
        Format(Column("time_ms", "number", "milliseconds"), "a collective between GPUs", _COLLECTIVE),
        Format(
            Column("iteration_s", "number", "seconds"),
            "a training step of a transformer",
            (
                *_SHAPE,
                Column("micro_batch", "count", "samples of a micro-batch"),
                Column("interleave", "count", "chunks of layers on a pipeline stage"),
                Column("recompute", "text", _RECOMPUTE),
                Column("model", "text", "names the row", "model"),
                *_more("yes"),
            ),
        ),
        Format(
            Column("tflops_per_gpu", "number", "TFLOP/s of each GPU, recomputation counted"),
            "a training step of a transformer",
            (
                *_SHAPE,
                Column("micro_batch", "count", "samples of a micro-batch", "run_table_1.sh's, else 1"),
                Column("interleave", "count", "chunks of layers on a stage", "run_table_1.sh's, else 1"),
                Column("recompute", "text", _RECOMPUTE, "full"),
                Column("params_B", "number", "names the row", "model"),
                Column("model", "text", "the same", "?"),
                *_more("no"),
            ),
        ),
        *(
            Format(
                Column(name, "number", "percent of activations with tensor parallelism over 8 alone"),
                what,
                (
                    Column(
                        "model", "text", "22B, 175B, 530B, 1T, or one of the folder's files with iteration_s"
                    ),
                ),
            )
            for name, what in (
                ("sequence_parallel", "activations with sequence parallelism"),
                ("selective", "activations, scores computed again"),
                ("selective+sequence", "activations with both"),
                ("full", "activations, layers computed again"),
            )
        ),
    )
}
"""By the column of the measurement."""

STEPS = ("iteration_s", "tflops_per_gpu")


def formats_of(header: Collection[str]) -> list[Format]:
    """One for each column that is a measurement: activations only where no step is, whose columns they share."""
    of_step = any(name in header for name in STEPS)
    plain = ("time_ms", *STEPS)
    return [
        one
        for name, one in FORMATS.items()
        if name in header and (name in plain or ("model" in header and not of_step))
    ]


def ignored(header: Collection[str]) -> list[str]:
    """Columns that no format of this first line reads."""
    known = {name for one in formats_of(header) for name in one.names}
    return [name for name in header if name and name not in known]
