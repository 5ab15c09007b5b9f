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
from functools import cached_property
from typing import Literal, NamedTuple

from distlab.errors import SettingError
from distlab.predict.activations import in_flight, layer_activations
from distlab.predict.memory_terms import (
    NO_LOSS,
    NO_OUTPUT,
    OF_A_LAYER_AT_WORK,
    Kind,
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


class Moment(NamedTuple):
    """What is held at one moment of a step."""

    name: str
    phase: Phase
    parts: tuple[tuple[float, Terms], ...]
    """(how many times, terms): the terms of one layer as often as there are layers in flight."""

    @property
    def terms(self) -> Terms:
        """Those that are not 0."""
        held = [term._replace(bytes=times * term.bytes) for times, terms in self.parts for term in terms]
        return tuple([term for term in held if term.bytes])

    @property
    def bytes(self) -> float:
        return sum([times * term.bytes for times, terms in self.parts for term in terms])


@dataclass(frozen=True)
class TrainingMemory:
    """Of one GPU of pipeline rank `rank`; its tensor-, context- and data-parallel peers hold as much."""

    rank: int
    moments: tuple[Moment, ...]
    """In the order of a step."""
    host: tuple[Term, ...]
    """What is offloaded: in the host's memory, for this one GPU."""
    fragmentation: float

    @cached_property
    def peak(self) -> Moment:
        """The fullest moment; of equals the first."""
        return max(self.moments, key=lambda moment: moment.bytes)

    @cached_property
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

    def bytes_of(self, kind: Kind) -> float:
        """Of all terms of a kind at the peak."""
        return sum(term.bytes for term in self.peak.terms if term.kind == kind)

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
        work_terms(model, layout, settings, layer),
    )
    found = [_rank_memory(model, layout, settings, each, every) for each in ranks]
    return max(found, key=lambda memory: memory.peak_bytes)


class _EveryRank(NamedTuple):
    """What is the same on every pipeline rank."""

    states: LayerStates
    layers: Terms
    """What a layer keeps."""
    work: Terms


def _rank_memory(
    model: Transformer, layout: Layout, settings: MemorySettings, rank: int, every: _EveryRank
) -> TrainingMemory:
    layers, loss, work = every.layers, NO_LOSS, every.work
    held = rank_states(model, layout, settings, rank, every.states)
    kept = in_flight(layout, model.layers, rank)
    states, gradients, host = state_terms(layout, settings, held)
    gathered, reducing = whole_terms(layout, settings, held, model.layers // layout.pipeline)
    # Those of earlier micro-batches are there while a later one goes forward; those of a first one are not yet.
    earlier = settings.gradient_buffers or layout.micro_batches * layout.interleave > kept.chunks
    early = gradients if earlier else ()
    output = NO_OUTPUT
    if rank == layout.pipeline - 1:
        loss = loss_terms(model, layout, settings)
        output = output_terms(model, layout, settings, counted=earlier)
    beside = (1, beside_layers(model, layout, settings, kept, rank))
    others = kept.layers - kept.chunk_layers
    through, last_layer, after = (kept.layers, layers), (others + 1, layers), (others, layers)
    all_losses, other_losses = (kept.batches, loss.kept), (kept.batches - 1, loss.kept)
    # Beside the loss no layer is whole: FSDP has dropped the last one, and gathers it again for its backward pass.
    between = states + tuple([term for term in gathered if term.name not in OF_A_LAYER_AT_WORK]) + early
    forward = states + gathered
    start, end = (1, forward + early + reducing), (1, forward + reducing)
    made = (1 if earlier else made_at_the_end(held), gradients)
    still = output.layers if earlier else ()  # else it is among the gradients
    moments = (
        Moment("forward end", "forward end", ((1, between), through, beside, all_losses, (1, loss.forward))),
        Moment("loss backward", "backward", ((1, between), through, beside, all_losses, (1, loss.backward))),
        Moment("output backward", "backward", (start, through, beside, (1, output.fresh), other_losses)),
        Moment(
            "backward start",
            "backward",
            (start, through, beside, (1, output.layers), other_losses, (1, work)),
        ),
        Moment(
            "backward end", "backward", (end, other_losses, made, (1, still), last_layer, beside, (1, work))
        ),
        Moment(
            "embedding backward",
            "backward",
            (end, other_losses, (1, gradients + output.embedding), after, beside),
        ),
        Moment("optimizer", "optimizer", ((1, states + gradients + update_terms(settings, held)),)),
    )
    return TrainingMemory(rank, moments, tuple([term for term in host if term.bytes]), settings.fragmentation)
