"""The memory of a training step on one GPU: every term of the sum, when it peaks, and on which pipeline rank.

    memory = training_memory(model, layout, MemorySettings(precision="mixed"))
    memory.peak_bytes, memory.phase, memory.rank     # of the fullest pipeline rank
    memory.as_rows()                                 # why: its terms, largest first

States are exact (states.py); what layers keep follows Korthikanti et al., 2022 (activations.py); working buffers of the
backward pass and of the loss are derived (memory_terms.py). Fragmentation comes on top, apart. Outside all of it: the
CUDA context, the libraries' workspaces and NCCL's buffers, which are no tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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
    gradients_at_the_end,
    loss_terms,
    output_terms,
    state_terms,
    update_terms,
    whole_terms,
    work_terms,
)
from distlab.predict.states import MemorySettings, rank_states
from distlab.predict.transformer import Layout, Transformer

FRAGMENTATION = "fragmentation"

Phase = Literal["forward end", "backward", "optimizer"]


@dataclass(frozen=True)
class Moment:
    """What is held at one moment of a step."""

    name: str
    phase: Phase
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> float:
        return sum(term.bytes for term in self.terms)


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
        return max(self.moments, key=lambda moment: moment.bytes)

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
        first = _rank_memory(model, layout, settings, 0)
        if last == 0:
            return first
        return max(first, _rank_memory(model, layout, settings, last), key=lambda memory: memory.peak_bytes)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= last:
        raise SettingError(f"rank is {rank!r}; the pipeline has the ranks 0 to {last}.")
    return _rank_memory(model, layout, settings, rank)


def _rank_memory(model: Transformer, layout: Layout, settings: MemorySettings, rank: int) -> TrainingMemory:
    held = rank_states(model, layout, settings, rank)
    kept = in_flight(layout, model.layers, rank)
    layer = layer_activations(model, layout, settings)
    states, gradients, host = state_terms(layout, settings, held)
    gathered, reducing = whole_terms(layout, settings, held, model.layers // layout.pipeline)
    # Those of earlier micro-batches are there while a later one goes forward; those of a first one are not yet.
    earlier = settings.gradient_buffers or layout.micro_batches * layout.interleave > kept.chunks
    early = gradients if earlier else ()
    loss, output = NO_LOSS, NO_OUTPUT
    if rank == layout.pipeline - 1:
        loss = loss_terms(model, layout, settings, kept)
        output = output_terms(model, layout, settings, counted=earlier)
    through = activation_terms(model, layout, settings, layer, kept, rank)
    last_layer = activation_terms(model, layout, settings, layer, kept, rank, left=1)
    after = activation_terms(model, layout, settings, layer, kept, rank, left=0)
    work = work_terms(model, layout, settings, layer)
    forward = states + gathered
    # Beside the loss no layer is whole: FSDP has dropped the last one, and gathers it again for its backward pass.
    between = states + tuple([term for term in gathered if term.name not in OF_A_LAYER_AT_WORK])
    start = forward + early + reducing + through
    end = forward + reducing + loss.waiting
    made = gradients if earlier else gradients_at_the_end(gradients, held)
    still = output.layers if earlier else ()  # else it is among the gradients
    moments = (
        Moment("forward end", "forward end", _present(between, early, through, loss.forward)),
        Moment("loss backward", "backward", _present(between, early, through, loss.backward)),
        Moment("output backward", "backward", _present(start, output.fresh, loss.waiting)),
        Moment("backward start", "backward", _present(start, output.layers, loss.waiting, work)),
        Moment("backward end", "backward", _present(end, made, still, last_layer, work)),
        Moment("embedding backward", "backward", _present(end, gradients, output.embedding, after)),
        Moment("optimizer", "optimizer", _present(states, gradients, update_terms(settings, held))),
    )
    return TrainingMemory(rank, moments, _present(host), settings.fragmentation)


def _present(*groups: Iterable[Term]) -> Terms:
    return tuple([term for group in groups for term in group if term.bytes])
