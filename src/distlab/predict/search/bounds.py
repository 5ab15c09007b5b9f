"""What a layout takes at the least, without working it out: by these the search leaves out what cannot win.

Both are exact bounds: `time_s` is at most the predicted step of every layout of the cell, `memory_bytes` at most the
predicted peak. (`tests/predict/test_search.py` holds them against the models.)

Time: of a cell's layouts the least that is computed again, the best schedule, and the gradients hidden behind the
longest backward pass. Memory: the larger of the optimizer's moment, which is exact, and of the moment when the first
pipeline rank begins to go backward, without what only the last one holds, the loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from distlab.predict.activations import InFlight, LayerActivations, in_flight, layer_activations
from distlab.predict.memory_terms import Terms, state_terms, update_terms, whole_terms, work_terms
from distlab.predict.search.query import Query
from distlab.predict.search.space import Cell, Choice
from distlab.predict.states import rank_states
from distlab.predict.step_time import StepModel, bubble_of
from distlab.predict.transformer import Layout, Recompute, Schedule


class _Held(NamedTuple):
    """Bytes of states, by (tensor, pipeline, expert, ranks that share, ZeRO stage)."""

    first: float
    """On the first pipeline rank in the backward pass: states and whole weights, without gradients."""
    first_gradients: float
    update: float
    """In the optimizer's step, on the fuller of the first and the last pipeline rank."""


class Bounds:
    """Of the layouts of one query. Methods for a cell take any of its layouts, too."""

    def __init__(self, query: Query, steps: StepModel) -> None:
        self.query, self.steps = query, steps
        self._held: dict[tuple[int, int, int, int, int], _Held] = {}
        self._layers: dict[tuple[int, int, int, bool], LayerActivations] = {}
        self._work: dict[tuple[int, int, int, bool, Recompute], tuple[float, float]] = {}
        self._kept: dict[tuple[int, int, Choice], InFlight] = {}

    def time_s(self, cell: Cell, layout: Layout) -> float:
        """No layout of the cell has a shorter step."""
        steps, m, p = self.steps, layout.micro_batches, layout.pipeline
        work, here = steps.layer(layout), steps.model.layers // p
        least, most = cell.recomputes[0], cell.recomputes[-1]
        layer_s = work.products_s + work.elements_s + work.again_s(least) + sum(work.communication_s(least))
        gather_s, reduce_s = steps.data_parallel_s(layout, work, here, work.again_s(most))
        once_s = steps.send_s(layout) / layout.interleave  # there and back for one chunk
        flow_s = min(
            [
                self._flow_s(schedule, v, m, p, here, layer_s, once_s, work.weights_s)
                for schedule, v in cell.choices
            ]
        )
        busy_s = m * (here * layer_s + work.output_s)
        return busy_s + flow_s + gather_s + reduce_s + steps.optimizer_s(layout)

    @staticmethod
    def _flow_s(
        schedule: Schedule, v: int, m: int, p: int, here: int, layer_s: float, once_s: float, weights_s: float
    ) -> float:
        """Sends and bubble."""
        stage_s = here * layer_s + v * once_s
        return m * v * once_s + bubble_of(schedule, v, m, p, stage_s, here * weights_s)

    def cell_bytes(self, cell: Cell, layout: Layout) -> float:
        """No layout of the cell has a lower peak: the least of all choices."""
        held = self.states(layout)
        work = [self._layer_bytes(layout, recompute) for recompute in cell.recomputes]
        kept = min([self._in_flight(layout, choice).layers for choice in cell.choices])
        return max(held.update, held.first + min([kept * keeps + beside for keeps, beside in work]))

    def memory_bytes(self, layout: Layout) -> float:
        """The layout's peak is not lower."""
        held, kept = self.states(layout), self._in_flight(layout, Choice(layout.schedule, layout.interleave))
        keeps, beside = self._layer_bytes(layout, layout.recompute)
        early = self.query.settings.gradient_buffers or layout.micro_batches * layout.interleave > kept.chunks
        gradients = held.first_gradients if early else 0.0
        return max(held.update, held.first + gradients + kept.layers * keeps + beside)

    def states(self, layout: Layout) -> _Held:
        """What does not depend on micro-batches."""
        shared = layout.data * layout.context
        key = layout.tensor, layout.pipeline, layout.expert, shared, layout.zero_stage
        found = self._held.get(key)
        if found is None:
            first, *_ = ends = [self._on_rank(layout, rank) for rank in sorted({0, layout.pipeline - 1})]
            update = max(states + gradients + updating for states, _, gradients, updating in ends)
            found = self._held[key] = _Held(first[0] + first[1], first[2], update)
        return found

    def _on_rank(self, layout: Layout, rank: int) -> tuple[float, float, float, float]:
        """States, whole weights and gradients of the backward pass, gradients, and what updating takes beside."""
        model, settings = self.query.model, self.query.settings
        held = rank_states(model, layout, settings, rank)
        states, gradients, _ = state_terms(layout, settings, held)
        whole = whole_terms(layout, settings, held, model.layers // layout.pipeline)
        return (
            _sum(states),
            _sum(whole[0]) + _sum(whole[1]),
            _sum(gradients),
            _sum(update_terms(settings, held)),
        )

    def _layer_bytes(self, layout: Layout, recompute: Recompute) -> tuple[float, float]:
        """What a layer in flight keeps, and what the backward pass of one layer takes beside."""
        key = layout.tensor, layout.context, layout.micro_batch, layout.sequence_parallel
        found = self._work.get((*key, recompute))
        if found is None:
            layer = self._layers.get(key)
            if layer is None:
                layer = self._layers[key] = layer_activations(self.query.model, layout, self.query.settings)
            there = replace(layout, recompute=recompute)
            beside = _sum(work_terms(self.query.model, there, self.query.settings, layer))
            found = self._work[(*key, recompute)] = layer.kept(recompute), beside
        return found

    def _in_flight(self, layout: Layout, choice: Choice) -> InFlight:
        """On the first pipeline rank."""
        key = layout.pipeline, layout.micro_batches, choice
        found = self._kept.get(key)
        if found is None:
            there = replace(layout, schedule=choice.schedule, interleave=choice.interleave)
            found = self._kept[key] = in_flight(there, self.query.model.layers, 0)
        return found


def _sum(terms: Terms) -> float:
    return float(sum([term.bytes for term in terms]))
