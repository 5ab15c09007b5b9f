"""Why a number is what it is: the formula behind every term that a command prints, and where the formula is from.

Why("step", ["matrix products"], derived=[]).reasons      # {"matrix products": Reason(formula, source)}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SYMBOLS = {
    "memory": {
        "b": "samples of a micro-batch",
        "s": "tokens of a sample, on one of the context-parallel ranks",
        "h": "hidden",
        "f": "width of the MLP, of the experts that a token visits together",
        "a": "heads",
        "k": "heads of keys and values",
        "w": "width of a head",
        "V": "vocabulary",
        "t": "tensor-parallel ranks",
        "c": "context-parallel ranks",
        "d": "data-parallel ranks",
        "e": "bytes of a value that is computed with",
    },
    "step": {
        "m": "micro-batches",
        "layers": "of a stage",
        "b": "samples of a micro-batch",
        "s": "tokens of a sample",
        "h": "hidden",
        "V": "vocabulary",
        "t": "tensor-parallel ranks",
        "p": "pipeline stages",
        "v": "chunks of layers on one",
        "data_s": "seconds to load a micro-batch",
        "M, N, K": "the sides of a product",
        "peak": "FLOP/s, datasheet",
        "efficiency": "of it, in a step",
        "bandwidth": "bytes per second of the GPU's memory, datasheet",
        "element_efficiency": "of it",
        "stream_efficiency": "of it",
    },
    "collective": {
        "n": "GPUs",
        "payload": "bytes",
        "W": "seconds on the wire, what the protocol adds included",
        "C": "seconds that handing over chunks costs on the whole way",
    },
    "cnn": {
        "n": "GPUs",
        "N": "images on each",
        "MAC": "multiplications with an addition, of one image",
    },
    "goodput": {
        "M": "MTBF of the job, in seconds",
        "T": "work between saves, in seconds",
        "cost": "of a save, in seconds of training",
        "cycle": "T and a save, in seconds",
        "D": "detection, in seconds",
        "R": "restart, in seconds",
        "late": "the part of a background write after which a save counts, in seconds",
        "wall": "M, D and R with what fails of them, in seconds",
    },
}
"""Of the formulas, by command."""


class Reason(NamedTuple):
    """Of one term."""

    formula: str
    source: str
    """Who says so, to be read after `by`."""


class Derived(NamedTuple):
    """A number that follows from the sum, with the formula in numbers."""

    name: str
    formula: str
    source: str


_ZERO = "Rajbhandari et al., ZeRO, SC'20"
_KORTHIKANTI = "Korthikanti et al., 2022, arXiv 2205.05198, section 4"
_FSDP = "Zhao et al., PyTorch FSDP, VLDB 2023"
_OWN = "what the operation holds at once, derived here"
_NCCL = "the model of distlab.predict.network, held against measured cases by `distlab scorecard`"

MEMORY = {
    "parameters": Reason("parameters on the rank x 2 bytes (4 in fp32); over d x c with ZeRO 3", _ZERO),
    "gradients": Reason("parameters on the rank x 2 bytes (4 in fp32); over d x c from ZeRO 2 on", _ZERO),
    "fp32 copy of the parameters": Reason("parameters on the rank x 4; over d x c from ZeRO 1 on", _ZERO),
    "optimizer's moments": Reason(
        "parameters on the rank x 4 x moments (AdamW 2); over d x c from ZeRO 1 on", _ZERO
    ),
    "buckets": Reason(
        "as many bytes as the gradients", "Li et al., PyTorch DDP, VLDB 2020; gradient_as_bucket_view off"
    ),
    "gathered layers": Reason("parameters of a layer x (1 + prefetch) x e", _FSDP),
    "gathered rest": Reason("parameters of embedding and output layer x e", _FSDP),
    "whole gradients of the rest": Reason("parameters of embedding and output layer x e", _FSDP),
    "16-bit copies of the weights": Reason("parameters on the rank x 2", "torch.autocast's cache of casts"),
    "16-bit copies of a layer's weights": Reason(
        "parameters of a layer x 2, with full recomputation", "torch.autocast's cache of casts"
    ),
    "whole gradients of a layer": Reason(
        "parameters of a layer x e, with an fp32 copy where shards are fp32", _FSDP
    ),
    "layer inputs": Reason("layers in flight x e s b h (over t with sequence_parallel)", _KORTHIKANTI),
    "norms": Reason("layers in flight x 3 e s b h (over t with sequence_parallel)", _KORTHIKANTI),
    "attention": Reason(
        "layers in flight x e s b w (2 a + 2 k) / t, with flash 4 s b a / t more", _KORTHIKANTI
    ),
    "MLP": Reason("layers in flight x e s b f x 2 (3 where gated) / t", _KORTHIKANTI),
    "dropout masks": Reason("layers in flight x 2 s b h (over t with sequence_parallel)", _KORTHIKANTI),
    "routing": Reason("tokens to and from active experts, 2 e s b h each, and fp32 scores", _OWN),
    "attention scores": Reason("layers in flight x (2 e + 1) s^2 b a / t (e without dropout)", _KORTHIKANTI),
    "waiting for weights' gradients": Reason(
        "micro-batches put off x inputs and gradients of the matrices", "Qi et al., 2023, arXiv 2401.10241"
    ),
    "embedding's dropout mask": Reason("micro-batches in flight x s b h", _KORTHIKANTI),
    "softmax of the logits": Reason("micro-batches in flight x 4 s b V / t", _KORTHIKANTI),
    "logits": Reason("s b V / t x (e; with torch's loss e + 4)", _OWN),
    "final norm": Reason("micro-batches in flight x 2 e s b h", _KORTHIKANTI),
    "gradient of the logits": Reason("s b V / t x (e; with torch's loss 8)", _OWN),
    "output layer's gradient": Reason("h V / t x e: made first, beside the sum", _OWN),
    "tied matrix's gradients": Reason("h V / t x e, two gradients and their sum", _OWN),
    "recomputed layer": Reason("one layer's activations less what is kept of them", _KORTHIKANTI),
    "gradients of activations": Reason("e s b (h + the widest tensor of a layer)", _OWN),
    "gathered sequence": Reason("e s b h, whole over t", _KORTHIKANTI),
    "ring attention": Reason(
        "e s b 2 k w / t, the block that is on its way", "Liu et al., 2023, Ring Attention"
    ),
    "foreach's intermediates": Reason("one copy of the shards", "torch.optim's documentation of foreach"),
    "fragmentation": Reason(
        "sum of the tensors x share / (1 - share)", "Guo et al., GMLake, ASPLOS'24: 0.15 on average"
    ),
}

_ROOFLINE = (
    "Williams, Waterman, Patterson, CACM 2009; NVIDIA, Matrix Multiplication Background (tiles and waves)"
)
_BYTES = "bytes counted kernel by kernel, as fused in Narayanan et al., SC'21, section 4.2"

STEP = {
    "matrix products": Reason(
        "m x layers x sum of max(2 M N K / (peak x efficiency x full waves), bytes / bandwidth)", _ROOFLINE
    ),
    "element-wise": Reason("m x layers x bytes / (bandwidth x element_efficiency)", _BYTES),
    "recomputation": Reason(
        "m x layers x (full: the forward pass; selective: attention's core)",
        "Korthikanti et al., 2022, section 5",
    ),
    "output layer": Reason("m x (three products of b s, h and V / t, and the softmax's bytes)", _ROOFLINE),
    "tensor parallel": Reason(
        "m x layers x (2 all-reduces of 2 b s h bytes forward, 2 backward, less what is hidden)",
        "Shoeybi et al., 2019, Megatron-LM, section 3",
    ),
    "expert parallel": Reason(
        "m x layers x all-to-alls there and back, forward and backward", "Lepikhin et al., 2021, GShard"
    ),
    "context parallel": Reason(
        "m x layers x what attention does not hide of keys and values around the ring",
        "Liu et al., 2023, Ring Attention",
    ),
    "pipeline sends": Reason("m x 2 v sends of 2 b s h / t bytes", "Narayanan et al., SC'21, section 4.1"),
    "pipeline bubble": Reason(
        "(p - 1) / v x a stage's time of a micro-batch; zero_bubble: less the "
        "weights' gradients, p - 1 + min(m, p) - 1 of them",
        "Narayanan et al., SC'21, section 2.2; Qi et al., 2023",
    ),
    "parameter gathering": Reason("all-gather of 2 bytes a parameter, less what computing hides", _ZERO),
    "gradient reduction": Reason(
        "all-reduce (reduce-scatter from ZeRO 1 on) of the gradients, less what the backward pass hides; and that of a "
        "tied embedding between first and last stage",
        "Li et al., PyTorch DDP, VLDB 2020; " + _ZERO,
    ),
    "optimizer": Reason(
        "64 bytes a parameter of the rank / (bandwidth x stream_efficiency)",
        "the kernels of Megatron-LM's mixed-precision Adam, counted",
    ),
    "data loading": Reason("max(0, m x data_s - all other terms)", "loaders that go on beside all of a step"),
}

COLLECTIVE = {
    "launch": Reason("a constant of the machine", "a fit to recordings, in distlab.predict.network.systems"),
    "latency": Reason("hops in a row x seconds of a hop + C, the cost of handing over chunks", _NCCL),
    "pipeline": Reason("2 sqrt(C W), C chunks' cost and W wire time", "Sanders, Speck, Traeff, 2009"),
    "wire": Reason(
        "payload x factor / bandwidth: ring all-reduce 2 (n-1)/n, gather and scatter (n-1)/n, in the switch 1",
        "nccl-tests, doc/PERFORMANCE.md; Patarasuk and Yuan, 2009",
    ),
    "protocol": Reason(
        "wire x (1 / share of payload - 1): LL 1/2, LL128 120/128, Simple 1", "NCCL, src/graph/tuning.cc"
    ),
}

_DALY = "Daly, FGCS 22(3), 2006, complete model; background writes and detection derived in goodput.py"

GOODPUT = {
    "useful": Reason("N T / wall, N = exp(-late/M) / (exp(cycle/M) - 1) saves kept for each failure", _DALY),
    "checkpoint": Reason("N x cost of a save / wall", _DALY),
    "lost": Reason("(M - N (T + cost)) / wall: about half an interval for each failure", _DALY),
    "detection": Reason("D exp(R/M) / wall: once for each failure, those of restarts included", _DALY),
    "restart": Reason("M (exp(R/M) - 1) / wall: R, and restarts that failed", _DALY),
}

_COUNTED = "passes over memory counted kernel by kernel, in distlab.predict.convnet_step"

CNN = {
    "forward": Reason(
        "sum over layers of max(2 N MAC / (2.25 if Winograd x tiles full x peak x efficiency), bytes / bandwidth), and "
        "the bytes of normalization, bias, ReLU, pooling and joins",
        "Williams, Waterman, Patterson, CACM 2009; Lavin and Gray, CVPR 2016; " + _COUNTED,
    ),
    "backward": Reason("the same for the gradients of inputs and of weights", _COUNTED),
    "slowest rank": Reason(
        "(forward + backward) x spread x expected maximum of n normal numbers",
        "Blom, 1958; the spread is a fit",
    ),
    "gradient reduction": Reason(
        "end of the last all-reduce less that of the backward pass; each starts when its gradients are ready, the one "
        "before has ended, and (Horovod) the clock ticks",
        "Sergeev and Del Balso, Horovod, 2018; Li et al., PyTorch DDP, VLDB 2020",
    ),
    "optimizer": Reason("5 passes x 4 bytes x parameters / bandwidth", "SGD with momentum, read by read"),
}

TERMS = {"memory": MEMORY, "step": STEP, "collective": COLLECTIVE, "goodput": GOODPUT, "cnn": CNN}
"""By command."""


@dataclass(frozen=True)
class Why:
    """Of one prediction: the formulas of the terms of these `names`, and what follows from them."""

    command: str
    names: Sequence[str]
    derived: Sequence[Derived]
    values: Mapping[str, float] = field(default_factory=dict)
    """Of the formulas' symbols, here."""

    @property
    def reasons(self) -> dict[str, Reason]:
        """In the order of the names; KeyError for one that has no formula."""
        return {name: TERMS[self.command][name] for name in self.names}

    def lines(self) -> list[str]:
        """What `--why` prints below the table."""
        told = [*((name, *reason) for name, reason in self.reasons.items()), *self.derived]
        blocks = [[name, f"    = {formula}", f"    by {source}"] for name, formula, source in told]
        return ["", *(line for block in blocks for line in block), "Here", *self._symbols()]

    def _symbols(self) -> Iterator[str]:
        """Those that the formulas of these terms have, with their values where they are known."""
        words = set(re.findall(r"[A-Za-z_]+", " ".join(reason.formula for reason in self.reasons.values())))
        for symbol, meaning in SYMBOLS[self.command].items():
            if words & set(re.findall(r"[A-Za-z_]+", symbol)):
                value = f" = {self.values[symbol]:,.6g}" if symbol in self.values else ""
                yield f"    {symbol}{value}: {meaning}"

    def as_json(self) -> dict[str, Any]:
        """The same, as rows and as values of symbols."""
        terms = [{"term": name, **reason._asdict()} for name, reason in self.reasons.items()]
        rows = [*terms, *({"term": name, "formula": f, "source": s} for name, f, s in self.derived)]
        return {"why": rows, "symbols": dict(self.values)}
