"""Other people's estimators on the scorecard's cases: what each says, beside what the models here say.

    answers, missing = ask(score_shipped())      # runs them: needs llm-analysis, deepspeed, accelerate, torch
    answers = recorded(score_shipped())          # what they said when data/peers.json was written; needs nothing

An estimator that is not installed is missing, with a sentence; nothing else is. Each gets the best inputs that it can
take: `Peer.assumed` says which. This package imports none of them before it is asked to run them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import TypedDict, cast

from distlab.predict.validation import Scored

Estimator = Callable[[Scored], float | None]
"""What it predicts of a cell, in the cell's unit; None where it says nothing of such cells."""

RECORDED = "peers.json"


@dataclass(frozen=True)
class Peer:
    """Somebody else's estimator. `module` has `estimator(cells) -> Estimator`; it raises ImportError."""

    name: str
    distribution: str
    module: str
    assumed: str
    leaves_out: str
    install: str = "scripts/setup dev"


PEERS = (
    Peer(
        "llm-analysis",
        "llm-analysis",
        "llm",
        "It asks for one efficiency of the GPU: the one that fits the same steps as the models here, by the same least "
        "squares (in fp32 over the peak of fp32). Collectives inside a node: its all-reduce of a layer, over the links "
        "of its own files (of H200: those of H100). Memory: fp32 where the run had it, norms as the run had them.",
        "Of a step's time: the pipeline's bubble, all communication, and that small products are slower. With full "
        "recomputation it shares a layer's input out over tensor-parallel ranks, each of which keeps it whole.",
    ),
    Peer(
        "DeepSpeed",
        "deepspeed",
        "deepspeed_states",
        "Parameters and the largest tensor as numbers; plain data parallelism as ZeRO 2 on one GPU.",
        "All but states; and it takes training in 16 bits with fp32 copies for granted.",
    ),
    Peer(
        "Accelerate",
        "accelerate",
        "accelerate_states",
        "The same model as the run's, on the meta device; its largest figure for training with Adam, as its command.",
        "Activations, and that ranks share anything.",
    ),
    Peer(
        "torch's tracker",
        "torch",
        "tracker",
        "The run's own program in one process; of FSDP with a process group of all ranks that sends nothing.",
        "DDP's buckets, as DDP needs real ranks. It needs the program, and it is also what measured the runs.",
    ),
)


@dataclass(frozen=True)
class Answer:
    """What a peer predicts of a cell."""

    peer: str
    cell: Scored
    predicted: float

    @property
    def signed_error(self) -> float:
        """(predicted - measured) / measured."""
        return (self.predicted - self.cell.measured) / self.cell.measured

    def as_row(self) -> dict[str, str | float]:
        return {
            **self.cell.as_row(),
            "predicted": self.predicted,
            "signed_error": self.signed_error,
            "by": self.peer,
        }


def ask(cells: Sequence[Scored], peers: Sequence[Peer] = PEERS) -> tuple[list[Answer], list[str]]:
    """What each peer says of each cell that it applies to, and a sentence for each peer that is not here."""
    answers: list[Answer] = []
    missing: list[str] = []
    for peer in peers:
        try:
            module = importlib.import_module(f"{__name__}.{peer.module}")
            estimator = cast(Estimator, module.estimator(cells))
        except ImportError as error:
            missing.append(f"{peer.name} is not here ({error}); install it with {peer.install}.")
            continue
        found = ((cell, estimator(cell)) for cell in cells)
        answers += [Answer(peer.name, cell, value) for cell, value in found if value is not None]
    return answers, missing


def as_record(answers: Sequence[Answer]) -> str:
    """The text of data/peers.json."""
    rows = [
        [answer.peer, answer.cell.family, answer.cell.case, float(f"{answer.predicted:.9g}")]
        for answer in answers
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    versions = {peer.name: _version(peer) for peer in PEERS if peer.name in {row[0] for row in rows}}
    return f'{{"versions": {json.dumps(versions)},\n"answers": [\n{lines}\n]}}\n'


def recorded(cells: Sequence[Scored]) -> list[Answer]:
    """The recorded answers to those of the cells that there are."""
    known = {(cell.family, cell.case): cell for cell in cells}
    found = ((peer, known.get((family, case)), value) for peer, family, case, value in _record()["answers"])
    return [Answer(peer, cell, value) for peer, cell, value in found if cell is not None]


def recorded_versions() -> dict[str, str]:
    """By name of the peer, the version that gave the recorded answers."""
    return dict(_record()["versions"])


class _Record(TypedDict):
    versions: dict[str, str]
    answers: list[tuple[str, str, str, float]]


def _record() -> _Record:
    text = resources.files("distlab.predict").joinpath("data", RECORDED).read_text(encoding="utf-8")
    return cast(_Record, json.loads(text))


def _version(peer: Peer) -> str:
    """As installed, without a build's suffix: CPU and CUDA builds of torch answer the same."""
    try:
        return metadata.version(peer.distribution).partition("+")[0]
    except metadata.PackageNotFoundError:
        from distlab.predict.peers.apart import version

        return version(peer.distribution)
