"""Data-parallel training of a convolutional network: gradients made and sent over time, and scaling over GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from distlab.predict.plots.chart import Chart, predicted

if TYPE_CHECKING:
    from distlab.predict.convnet_step import ConvnetStep
    from distlab.predict.convnets import Convnet

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Overlap(Chart):
    """Seconds are since the backward pass began, bytes those of gradients so far."""

    made: Points
    """(seconds, bytes) whenever the backward pass has made another layer's."""
    sent: Points
    """(seconds, bytes) at the begin and the end of each all-reduce."""
    backward_end_s: float
    scaling: tuple[tuple[int, float], ...]
    """(GPUs, efficiency), predicted."""
    measured: tuple[tuple[int, float], ...]
    """The same as published, where there is something."""
    asked_gpus: int

    @property
    def end_s(self) -> float:
        """Of the last all-reduce, or of the backward pass."""
        return max(self.backward_end_s, self.sent[-1][0] if self.sent else 0.0)

    def in_words(self) -> str:
        whole = self.made[-1][1] / 1e6
        words = [
            f"{self.heading}. The backward pass makes {whole:,.0f} MB of gradients in {self.backward_end_s:.3g} s"
        ]
        if self.sent:
            words.append(
                f"; their all-reduces begin at {self.sent[0][0]:.3g} s and end at {self.sent[-1][0]:.3g} s"
            )
        (first, _), (last, efficiency) = self.scaling[0], self.scaling[-1]
        words.append(f". Scaling efficiency falls from 100% on {first} GPU to {efficiency:.0%} on {last}")
        words += [f"; measured on {gpus}: {share:.0%}" for gpus, share in self.measured]
        return "".join(words) + "."


def overlap(
    net: Convnet,
    found: ConvnetStep,
    scaling: Sequence[ConvnetStep],
    measured: Sequence[tuple[int, float]] = (),
    gradient_bytes: int = 4,
    hardware: str = "",
) -> Overlap:
    """`scaling` are steps of the same network on more and more GPUs; the first is one. hardware: to be named."""
    sizes = accumulate(gradient_bytes * gradient.parameters for gradient in found.gradients)
    ready = (found.stretch * gradient.ready_s for gradient in found.gradients)
    made = tuple(zip(ready, map(float, sizes), strict=True))
    caption = (
        "Above, of the slowest rank: gradients are all-reduced as they are computed, as far as the network can; what "
        "is left when the backward pass ends (the line) makes the step longer. Below: circle, the number of GPUs above."
    )
    return Overlap(
        f"{net.name}, {found.batch} images on each of {found.gpus:,} GPU{'s' * (found.gpus > 1)}",
        caption,
        made,
        tuple(_sent(found)),
        made[-1][0],
        tuple((step.gpus, step.efficiency) for step in scaling),
        tuple(measured),
        found.gpus,
        about=predicted(hardware),
    )


def _sent(found: ConvnetStep) -> Iterator[tuple[float, float]]:
    total = 0.0
    for reduction in found.reductions:
        yield reduction.span.start_s, total
        total += reduction.bytes
        yield reduction.span.end_s, total
