"""The memory of a training step on one GPU: every term of the sum, when it peaks, and on which pipeline rank.

    memory = training_memory(model, layout, MemorySettings(precision="mixed"))
    memory.peak_bytes, memory.phase, memory.rank     # of the fullest pipeline rank
    memory.as_rows()                                 # why: its terms, largest first

States are exact (states.py); what layers keep follows Korthikanti et al., 2022 (activations.py); working buffers of the
backward pass and of the loss are derived (memory_terms.py). Fragmentation comes on top, apart. Outside all of it: the
CUDA context, the libraries' workspaces and NCCL's buffers, which are no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Literal, NamedTuple

from distlab.errors import SettingError
from distlab.predict.activations import in_flight, layer_activations
from distlab.predict.memory_terms import (
    NO_LOSS,
    NO_OUTPUT,
    OF_A_LAYER_AT_WORK,
    Term,
    Terms,
    activation_terms,
    beside_layers,
    loss_terms,
    made_at_the_end,
    output_terms,
    state_terms,
    update_terms,
    whole_terms,
    work_terms,
)
from distlab.predict.states import LayerStates, MemorySettings, layer_states, rank_states
from distlab.predict.transformer import Layout, Transformer

FRAGMENTATION = "fragmentation"

Phase = Literal["forward end", "backward", "optimizer"]


Part = tuple[float, Terms, float]
"""How many times there are some terms that come and go together, such as those of a layer; the terms; bytes of all."""


class Moment(NamedTuple):
    """What is held at one moment of a step."""

    name: str
    phase: Phase
    bytes: float
    parts: tuple[Part, ...]

    @property
    def terms(self) -> Terms:
        """Those that are not 0."""
        held = [term._replace(bytes=times * term.bytes) for times, terms, _ in self.parts for term in terms]
        return tuple([term for term in held if term.bytes])


@dataclass(frozen=True)
class TrainingMemory:
    """Of one GPU of pipeline rank `rank`; its tensor-, context- and data-parallel peers hold as much."""

    rank: int
    moments: tuple[Moment, ...]
    """In the order of a step."""
    host: tuple[Term, ...]
    """What is offloaded: in the host's memory, for this one GPU."""
    fragmentation: float

    @property
    def peak(self) -> Moment:
        """The fullest moment; of equals the first."""
        return max(self.moments, key=_BYTES)

    @property
    def peak_bytes(self) -> float:
        """In tensors: torch's `max_memory_allocated`."""
        return self.peak.bytes

    @property
    def phase(self) -> Phase:
        return self.peak.phase

    @property
    def fragmentation_bytes(self) -> float:
        """What the allocator reserves beyond the tensors at the peak."""
        return self.peak_bytes * self.fragmentation / (1 - self.fragmentation)

    @property
    def reserved_bytes(self) -> float:
        """torch's `max_memory_reserved`: what the GPU must have free."""
        return self.peak_bytes + self.fragmentation_bytes

    @property
    def host_bytes(self) -> float:
        return sum(term.bytes for term in self.host)

    def as_rows(self, moment: str | None = None) -> list[dict[str, str | float]]:
        """The terms at the peak (or at the moment of that name), largest first: term, kind, bytes, share, why.

        The shares are of the tensors' sum. Fragmentation follows as a row of its own, with its share of the same.
        """
        chosen = self.peak if moment is None else self.at(moment)
        whole = chosen.bytes
        wasted = whole * self.fragmentation / (1 - self.fragmentation)
        terms = sorted(chosen.terms, key=lambda term: -term.bytes)
        why = "reserved by the allocator, and of no use: a share of all that is reserved"
        rows: list[dict[str, str | float]] = [
            {"term": t.name, "kind": t.kind, "bytes": t.bytes, "share": t.bytes / whole, "why": t.why}
            for t in terms
        ]
        rows.append(
            {
                "term": FRAGMENTATION,
                "kind": FRAGMENTATION,
                "bytes": wasted,
                "share": wasted / whole,
                "why": why,
            }
        )
        return rows

    def at(self, moment: str) -> Moment:
        """SettingError for a name that no moment has."""
        for candidate in self.moments:
            if candidate.name == moment:
                return candidate
        names = ", ".join(candidate.name for candidate in self.moments)
        raise SettingError(f"moment is {moment!r}; a step's moments are {names}.")


DEFAULTS = MemorySettings()

_NOTHING: Part = (1, (), 0)
_BYTES, _OF_PART = attrgetter("bytes"), itemgetter(2)


def training_memory(
    model: Transformer, layout: Layout, settings: MemorySettings = DEFAULTS, rank: int | None = None
) -> TrainingMemory:
    """Of pipeline rank `rank`; None: of the fullest one, which is the first or the last.

    (Ranks between hold no more micro-batches than the first, and neither embedding nor loss.) SettingError where model,
    layout and settings do not go together.
    """
    layout.check(model)
    settings.check(layout)
    last = layout.pipeline - 1
    if rank is None:
        ranks = [0, last] if last else [0]
    elif isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= last:
        raise SettingError(f"rank is {rank!r}; the pipeline has the ranks 0 to {last}.")
    else:
        ranks = [rank]
    layer = layer_activations(model, layout, settings)
    every = _EveryRank(
        layer_states(model, layout, settings),
        activation_terms(layout, layer),
        _part(work_terms(model, layout, settings, layer)),
    )
    found = [_rank_memory(model, layout, settings, each, every) for each in ranks]
    return max(found, key=attrgetter("peak_bytes"))


class _EveryRank(NamedTuple):
    """What is the same on every pipeline rank."""

    states: LayerStates
    layers: Terms
    """What a layer keeps."""
    work: Part


def _rank_memory(
    model: Transformer, layout: Layout, settings: MemorySettings, rank: int, every: _EveryRank
) -> TrainingMemory:
    held = rank_states(model, layout, settings, rank, every.states)
    kept = in_flight(layout, model.layers, rank)
    states, gradients, host = state_terms(layout, settings, held)
    gathered, reducing = whole_terms(layout, settings, held, model.layers // layout.pipeline)
    # Those of earlier micro-batches are there while a later one goes forward; those of a first one are not yet.
    earlier = settings.gradient_buffers or layout.micro_batches * layout.interleave > kept.chunks
    early = gradients if earlier else ()
    loss, output = NO_LOSS, NO_OUTPUT
    if rank == layout.pipeline - 1:
        loss = loss_terms(model, layout, settings)
        output = output_terms(model, layout, settings, counted=earlier)
    # Beside the loss no layer is whole: FSDP has dropped the last one, and gathers it again for its backward pass.
    between = _part(
        states + tuple([term for term in gathered if term.name not in OF_A_LAYER_AT_WORK]) + early
    )
    start, end = _part(states + gathered + early + reducing), _part(states + gathered + reducing)
    made = _part(gradients, 1 if earlier else made_at_the_end(held))
    all_gradients = _part(gradients + output.embedding)
    still = _part(output.layers if earlier else ())  # else it is among the gradients
    update = _part(states + gradients + update_terms(settings, held))
    beside, work = _part(beside_layers(model, layout, settings, kept, rank)), every.work
    others = kept.layers - kept.chunk_layers
    all_layers, last, none = [_part(every.layers, layers) for layers in (kept.layers, others + 1, others)]
    losses, others_losses = _part(loss.kept, kept.batches), _part(loss.kept, kept.batches - 1)
    moments = (
        _moment("forward end", "forward end", between, all_layers, beside, losses, _part(loss.forward)),
        _moment("loss backward", "backward", between, all_layers, beside, losses, _part(loss.backward)),
        _moment("output backward", "backward", start, all_layers, beside, _part(output.fresh), others_losses),
        _moment(
            "backward start", "backward", start, all_layers, beside, _part(output.layers), others_losses, work
        ),
        _moment("backward end", "backward", end, others_losses, made, still, last, beside, work),
        _moment("embedding backward", "backward", end, others_losses, all_gradients, none, beside),
        _moment("optimizer", "optimizer", update),
    )
    return TrainingMemory(rank, moments, tuple([term for term in host if term.bytes]), settings.fragmentation)


def _part(terms: Terms, times: float = 1) -> Part:
    return (times, terms, times * sum(map(_BYTES, terms))) if terms else _NOTHING


def _moment(name: str, phase: Phase, *parts: Part) -> Moment:
    return Moment(name, phase, sum(map(_OF_PART, parts)), parts)
