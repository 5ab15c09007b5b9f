"""Find the slow link: the rate between every two ranks, all pairs of a round at once.

    torchrun --nnodes 32 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m distlab.bench.pairs
    python -m distlab.faults.network 4 python -m distlab.bench.pairs --payload-MiB 1

n ranks meet in n - 1 rounds of n / 2 pairs; every pair sends a payload one way, then the other. One rank per node
tells which node is slow: a row or column shows a node or a card of it, a block a switch, and cells that move when
measured again, chance. `suspects` names ranks. An all-reduce over all, timed before, says what it costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from distlab.bench.stamp import full_stamp
from distlab.errors import SettingError
from distlab.train.launch import backend_for, device

MIB = 2**20


@dataclass(frozen=True)
class Pairs:
    """What was measured between `world_size` ranks."""

    payload_bytes: int
    """Of each transfer, and of the all-reduce."""
    all_reduce_s: float
    """Of the slowest rank, in the fastest call."""
    GBps: list[list[float]]
    """[a][b]: from a to b; 0 on the diagonal."""
    seconds: float
    """That the whole took."""


def rounds(n: int) -> list[list[tuple[int, int]]]:
    """Every two of n meet once, in n - 1 rounds of n / 2 pairs; with odd n one sits out in each of n rounds.

    The circle method: rank 0 stays, the others move on by one place each round.
    """
    if n < 2:
        raise SettingError(f"n is {n}; pairs need at least 2 ranks.")
    places = list(range(n + n % 2))
    found = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in pairs if max(a, b) < n])
        places = [places[0], places[-1], *places[1:-1]]
    return found


def measure(payload_bytes: int = 64 * MIB, repeats: int = 3) -> Pairs:
    """On every rank of the process group: the fastest of `repeats` of the all-reduce and of every transfer."""
    if payload_bytes < 4 or repeats < 1:
        raise SettingError(
            f"payload_bytes is {payload_bytes} and repeats {repeats}; give 4 or more and 1 or more."
        )
    started = time.perf_counter()
    rank, n = dist.get_rank(), dist.get_world_size()
    buffer = torch.zeros(payload_bytes // 4, device=device())
    ring_s = [_timed(lambda: dist.all_reduce(buffer)) for _ in range(repeats)]
    received = [0.0] * n
    for pairs in rounds(n):
        for ways in (pairs, [(b, a) for a, b in pairs]):
            source, target = next((way for way in ways if rank in way), (None, None))
            times = [_timed(partial(_send, buffer, source, target)) for _ in range(repeats)]
            if target == rank and source is not None:
                received[source] = buffer.nbytes / min(times) / 1e9
    rates = [list(row) for row in zip(*_from_all(received), strict=True)]  # from columns to rows of senders
    all_reduce_s = min(map(max, zip(*_from_all(ring_s), strict=True)))
    return Pairs(buffer.nbytes, all_reduce_s, rates, time.perf_counter() - started)


def _from_all(mine: list[float]) -> list[list[float]]:
    rows: list[list[float]] = [[]] * dist.get_world_size()
    dist.all_gather_object(rows, mine)
    return rows


def _timed(call: Callable[[], object]) -> float:
    """Seconds of this rank; all start together."""
    dist.barrier()
    started = time.perf_counter()
    call()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _send(buffer: torch.Tensor, source: int | None, target: int | None) -> None:
    """From one rank to another; nothing for a rank that sits this round out."""
    if source == dist.get_rank() and target is not None:
        dist.send(buffer, target)
    elif target == dist.get_rank() and source is not None:
        dist.recv(buffer, source)


def suspects(rates: Sequence[Sequence[float]], below: float = 0.8) -> list[int]:
    """Ranks whose median rate to the others is under `below` of the median of all, slowest first."""
    rows = [[rate for b, rate in enumerate(row) if b != a] for a, row in enumerate(rates)]
    usual = statistics.median(rate for row in rows for rate in row)
    medians = {a: statistics.median(row) for a, row in enumerate(rows)}
    return sorted((a for a, rate in medians.items() if rate < below * usual), key=lambda a: medians[a])


def main(args: Sequence[str]) -> int:
    """Measure on the ranks that `torchrun` or `distlab.faults.network` started; rank 0 prints or writes it."""
    parser = argparse.ArgumentParser(prog="python -m distlab.bench.pairs", description=main.__doc__)
    parser.add_argument("--payload-MiB", type=float, default=64.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--network", help="for the stamp: what carries the data")
    parser.add_argument("--out", type=Path, help="write JSON here")
    chosen = parser.parse_args(args)
    dist.init_process_group(backend_for(1))
    if device().type == "cuda":
        torch.cuda.set_device(device())
    found = measure(int(chosen.payload_MiB * MIB), chosen.repeats)
    if dist.get_rank() == 0:
        if chosen.out:
            stamp = dataclasses.asdict(full_stamp(device(), chosen.network))
            chosen.out.write_text(json.dumps({"stamp": stamp, **dataclasses.asdict(found)}))
        else:
            for a, row in enumerate(found.GBps):
                print(
                    f"{a:4d} "
                    + " ".join(f"{rate:7.3f}" if b != a else "      -" for b, rate in enumerate(row))
                )
            print(f"slow: {suspects(found.GBps) or 'none'}; all-reduce {found.all_reduce_s * 1e3:.2f} ms")
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
