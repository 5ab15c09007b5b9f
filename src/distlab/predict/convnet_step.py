"""A step of data-parallel training of a convolutional network: compute layer by layer, gradients reduced beside it.

    step = convnet_step(convnet("vgg16"), batch=64, gpus=512, cluster=HOROVOD_ROCE)
    step.step_s, step.images_per_s, step.efficiency
    for term in step.terms: print(term.name, term.seconds, term.why)
    for sent in step.reductions: print(sent.bytes, sent.span, sent.layers)

The backward pass makes gradients in the reverse order of the layers. Each is ready when its layer is done, and the
all-reduces run one after the other beside what is left of the backward pass: what Horovod finds ready at the ticks of
its clock, up to the size of its fusion buffer; or DDP's buckets, which are fixed. What ends after the backward pass
shows. All ranks wait for the slowest, whose compute takes longer by the expected maximum of the spread over ranks.

What a layer takes: `convnet_layers`. Sources: Sergeev and Del Balso, Horovod (2018), sections 3 and 7; Li et al.,
PyTorch Distributed (VLDB 2020), section 3.2, for buckets. Parameters and how far the model is off: `convnet_cases`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

from distlab.errors import SettingError
from distlab.predict.convnet_layers import Gradient, Library, one_gpu
from distlab.predict.convnets import Convnet
from distlab.predict.device import Device
from distlab.predict.network import Topology, ways_of
from distlab.predict.registry import value
from distlab.predict.scaling import Span, Term
from distlab.predict.units import MIB

MOMENTUM_PASSES = 5
"""Of the parameters in SGD with momentum: weight, gradient and momentum read, weight and momentum written."""


@dataclass(frozen=True)
class Exchange:
    """How the framework sends gradients."""

    name: str
    fusion_bytes: float
    """That go together at most; a larger gradient goes alone."""
    cycle_s: float = 0.0
    """Between two looks at what is ready (Horovod); 0: at once."""
    fixed: bool = False
    """Buckets are filled in order before the step (DDP); False: by what is ready."""
    first_bytes: float | None = None
    """Of the first bucket; None: as the others."""
    gradient_bytes: int = 4


HOROVOD = Exchange("Horovod", 64 * MIB, 5e-3)
"""Defaults of 2017 to 2020: HOROVOD_FUSION_THRESHOLD of 64 MB, HOROVOD_CYCLE_TIME of 5 ms, later 1 ms (horovod,
operations.cc, V)."""

DDP = Exchange("DDP", value("ddp_bucket_bytes"), fixed=True, first_bytes=value("ddp_first_bucket_bytes"))
"""bucket_cap_mb, and the first bucket (torch.nn.parallel.distributed, V)."""


@dataclass(frozen=True)
class ConvnetCluster:
    """Equal GPUs and the network between them."""

    name: str
    device: Device
    library: Library
    gpus_per_node: int
    topology: Callable[[int, int], Topology]
    """Of (GPUs, GPUs of each node)."""
    exchange: Exchange = HOROVOD
    spread: float = 0.0
    """Standard deviation of a step's compute over ranks, over its mean."""
    extrapolated: tuple[str, ...] = ()
    """What no measurement stands behind, in sentences."""


@dataclass(frozen=True)
class Reduction:
    """One all-reduce. Its span is in seconds after the backward pass began."""

    layers: tuple[str, ...]
    bytes: float
    span: Span


class Sent(NamedTuple):
    """The same, of the gradients from number `first` to before number `end`."""

    first: int
    end: int
    bytes: int
    start_s: float
    end_s: float


class Seconds(NamedTuple):
    """Of a step; they add up."""

    forward: float
    backward: float
    slowest: float
    """What the slowest rank takes longer."""
    reduction: float
    """Of gradients, what the backward pass does not hide."""
    optimizer: float


@dataclass(frozen=True)
class ConvnetStep:
    """A predicted step. `terms` add up to `step_s`."""

    seconds: Seconds
    sent: tuple[Sent, ...]
    net: Convnet
    cluster: ConvnetCluster
    gpus: int
    batch: int
    gradients: tuple[Gradient, ...]
    """As one GPU alone makes them."""
    stretch: float
    """Of the seconds of the slowest rank's compute, over the mean."""

    @property
    def step_s(self) -> float:
        return sum(self.seconds)

    @property
    def one_gpu_s(self) -> float:
        """Of the same work on one GPU alone."""
        return self.seconds.forward + self.seconds.backward + self.seconds.optimizer

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The seconds, with the reasons."""
        s, net, each = self.seconds, self.net, f"{self.batch} images x"
        backward_flops = net.step_flops - net.forward_flops
        spread = self.cluster.spread
        sent_ms = 1e3 * sum(sent.end_s - sent.start_s for sent in self.sent)
        mebibytes = net.gradient_bytes(self.cluster.exchange.gradient_bytes) / MIB
        sent = f"{sent_ms:.4g} ms for {mebibytes:.4g} MiB in {len(self.sent)} all-reduces"
        return (
            Term(
                "forward", s.forward, f"{each} {net.forward_flops / 1e9:.3g} GFLOP, and their memory traffic"
            ),
            Term("backward", s.backward, f"{each} {backward_flops / 1e9:.3g} GFLOP"),
            Term("slowest rank", s.slowest, f"of {self.gpus}, spread {spread:.2%}"),
            Term("gradient reduction", s.reduction, f"of {sent}; the rest is hidden"),
            Term("optimizer", s.optimizer, "SGD with momentum: memory traffic of its states"),
        )

    @cached_property
    def reductions(self) -> tuple[Reduction, ...]:
        """In their order."""
        return _reductions(self.gradients, self.sent)

    @property
    def images_per_s(self) -> float:
        """Of all GPUs."""
        return self.gpus * self.batch / self.step_s

    @property
    def efficiency(self) -> float:
        """Images per second over those of as many GPUs that work alone."""
        return self.one_gpu_s / self.step_s

    @property
    def exposed_s(self) -> float:
        """Of the reductions, what the backward pass does not hide."""
        return self.seconds.reduction


def convnet_step(
    net: Convnet, batch: int, gpus: int, cluster: ConvnetCluster, gpus_per_node: int | None = None
) -> ConvnetStep:
    """One step with `batch` images on each GPU. SettingError for counts that cannot be.

    Left out: loading and decoding of images, evaluation, and the moving averages of normalization.
    """
    per_node = min(gpus, cluster.gpus_per_node) if gpus_per_node is None else gpus_per_node
    for name, count in (("batch", batch), ("gpus", gpus), ("gpus_per_node", per_node)):
        if not 1 <= count <= 10**6:
            raise SettingError(f"{name} is {count}; it is a whole number from 1 to 1,000,000.")
    if gpus % per_node:
        raise SettingError(f"gpus is {gpus}; it must be a multiple of gpus_per_node, {per_node}.")
    device = cluster.device
    forward_s, gradients = one_gpu(net, batch, device, cluster.library)
    backward_s = gradients[-1].ready_s
    optimizer_s = MOMENTUM_PASSES * 4 * net.parameters / device.stream_Bps
    slower = cluster.spread * slowest_of(gpus)
    sent = _sent(gradients, 1 + slower, cluster, gpus, per_node)
    backward_end_s = backward_s * (1 + slower)
    shown_s = max(0.0, sent[-1].end_s - backward_end_s) if sent else 0.0
    seconds = Seconds(forward_s, backward_s, slower * (forward_s + backward_s), shown_s, optimizer_s)
    return ConvnetStep(seconds, sent, net, cluster, gpus, batch, gradients, 1 + slower)


def reduce(
    gradients: Sequence[Gradient], stretch: float, cluster: ConvnetCluster, gpus: int, gpus_per_node: int
) -> tuple[Reduction, ...]:
    """The all-reduces of one backward pass, in their order; `stretch` multiplies its seconds. None on one GPU."""
    return _reductions(gradients, _sent(gradients, stretch, cluster, gpus, gpus_per_node))


def _reductions(gradients: Sequence[Gradient], sent: Sequence[Sent]) -> tuple[Reduction, ...]:
    names = [gradient.layer for gradient in gradients]
    return tuple([Reduction(tuple(names[s.first : s.end]), s.bytes, Span(s.start_s, s.end_s)) for s in sent])


def _sent(
    gradients: Sequence[Gradient], stretch: float, cluster: ConvnetCluster, gpus: int, gpus_per_node: int
) -> tuple[Sent, ...]:
    if gpus == 1:
        return ()
    exchange = cluster.exchange
    ways = ways_of("all_reduce", _topology(cluster.topology, gpus, gpus_per_node))
    made = [exchange.gradient_bytes * gradient.parameters for gradient in gradients]
    before = list(accumulate(made, initial=0))  # bytes of all gradients before each one, and of all
    ready = [stretch * gradient.ready_s for gradient in gradients]
    seconds: dict[int, float] = {}  # many layers are alike
    found: list[Sent] = []
    at, free_s = 0, 0.0
    while at < len(gradients):
        end, start_s = _together(before, ready, at, free_s, exchange)
        size = before[end] - before[at]
        if size not in seconds:
            seconds[size] = min([way.seconds(size) for way in ways])
        free_s = start_s + seconds[size]
        found.append(Sent(at, end, size, start_s, free_s))
        at = end
    return tuple(found)


def _together(
    before: Sequence[int], ready: Sequence[float], at: int, free_s: float, exchange: Exchange
) -> tuple[int, float]:
    """Up to which gradient the next all-reduce goes, and when it starts."""
    if exchange.fixed:
        most = exchange.first_bytes if at == 0 and exchange.first_bytes else exchange.fusion_bytes
        end = min(bisect_left(before, before[at] + most, at + 1), len(ready))
        return end, max(free_s, ready[end - 1])
    start_s = max(free_s, ready[at])
    if exchange.cycle_s:
        start_s = exchange.cycle_s * math.ceil(start_s / exchange.cycle_s)
    end = bisect_right(ready, start_s, at + 1)
    if end > at + 1:
        end = max(at + 1, bisect_right(before, before[at] + exchange.fusion_bytes, at + 1, end + 1) - 1)
    return end, start_s


@lru_cache(maxsize=256)
def _topology(make: Callable[[int, int], Topology], gpus: int, gpus_per_node: int) -> Topology:
    return make(gpus, gpus_per_node)


_ROOT_2, _ROOT_2_PI = math.sqrt(2), math.sqrt(2 * math.pi)


@cache
def slowest_of(ranks: int) -> float:
    """Expected maximum of so many standard normal numbers; 0 of one (Blom, 1958: 4% too high for 2, 1% from 8 on)."""
    share, x = (ranks - 0.375) / (ranks + 0.25), 0.0
    # Newton, from below: the normal distribution is concave there. Importing statistics is slower.
    for _ in range(100):
        missing = share - 0.5 * (1 + math.erf(x / _ROOT_2))
        x += missing * _ROOT_2_PI * math.exp(x * x / 2)
        if missing < 1e-12:
            break
    return x
