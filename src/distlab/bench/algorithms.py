"""All-reduce by hand, over sends and receives: from which payload on does the ring win?

    launch(measure, 4, {"ring": ring, "doubling": recursive_doubling}, [2**10, 2**20])[0]
    python -m distlab.faults.network 4 python -m distlab.bench.algorithms      # root: between namespaces

The ring sends 2 (n - 1) messages of a part of the payload each, recursive doubling log2 n messages of all of it. The
first is made for large payloads, the second for small ones; `crossover_bytes` finds where measured times cross. `link`
is what one such message costs, while all ranks send at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from distlab.bench.stamp import full_stamp
from distlab.errors import SettingError
from distlab.files import write_whole
from distlab.predict.collectives import Link, fit_alpha_beta
from distlab.train.launch import backend_for, device

PAYLOADS = tuple(2**exponent for exponent in range(12, 25, 2))  # 4 KiB to 16 MiB
MESSAGE = "a message"
Algorithm = Callable[[torch.Tensor], object]


@dataclass(frozen=True)
class Row:
    """One payload."""

    payload_bytes: int
    median_s: dict[str, float]
    """By algorithm; a call is as slow as its slowest rank."""


@dataclass(frozen=True)
class Race:
    """What was measured between `world_size` ranks."""

    world_size: int
    link: Link
    """Of a message to the next rank, all sending at once."""
    rows: list[Row]

    def crossover_bytes(self, small: str = "doubling", large: str = "ring") -> float | None:
        """Where algorithm `large` overtakes `small` for good; None where it does not, 0.0 where it always leads.

        Between two payloads the ratio of the times is taken as a straight line over the logarithms.
        """
        ratios = [
            (math.log(row.payload_bytes), math.log(row.median_s[large] / row.median_s[small]))
            for row in sorted(self.rows, key=lambda row: row.payload_bytes)
        ]
        behind = [place for place, (_, ratio) in enumerate(ratios) if ratio >= 0]
        if not behind:
            return 0.0
        if behind[-1] + 1 == len(ratios):
            return None
        (x, above), (x_next, below) = ratios[behind[-1]], ratios[behind[-1] + 1]
        return math.exp(x + (x_next - x) * above / (above - below))


def exchange(outgoing: torch.Tensor, to: int, incoming: torch.Tensor, source: int) -> None:
    """Send and receive at once: where all ranks of a ring first send and then receive, none ever gets to the second.

    The receive is begun first. With one partner for both, gloo else may say that it is ready behind what it sends.
    """
    both = [dist.P2POp(dist.irecv, incoming, source), dist.P2POp(dist.isend, outgoing, to)]
    for request in dist.batch_isend_irecv(both):
        request.wait()


def ring(tensor: torch.Tensor) -> None:
    """Sum a contiguous tensor over all ranks, in place, round a ring: a reduce-scatter, then an all-gather."""
    rank, n = dist.get_rank(), dist.get_world_size()
    parts = tensor.view(-1).tensor_split(n)
    spare = torch.empty_like(parts[0])  # no part is longer
    for step in range(2 * (n - 1)):
        outgoing, place = parts[(rank - step) % n], parts[(rank - step - 1) % n]
        arrived = spare[: len(place)]
        exchange(outgoing, (rank + 1) % n, arrived, (rank - 1) % n)
        if step < n - 1:
            place += arrived
        else:
            place.copy_(arrived)


def recursive_doubling(tensor: torch.Tensor) -> None:
    """Sum a tensor over all ranks, in place: everything is exchanged with a rank 1, 2, 4, ... away.

    Where n is no power of two, ranks beyond the largest one in n give theirs to a partner first, and get the sum last.
    """
    rank, n = dist.get_rank(), dist.get_world_size()
    power = 1 << (n.bit_length() - 1)
    arrived = torch.empty_like(tensor)
    if rank >= power:
        dist.send(tensor, rank - power)
        dist.recv(tensor, rank - power)
        return
    if rank + power < n:
        dist.recv(arrived, rank + power)
        tensor += arrived
    distance = 1
    while distance < power:
        partner = rank ^ distance
        exchange(tensor, partner, arrived, partner)
        tensor += arrived
        distance *= 2
    if rank + power < n:
        dist.send(tensor, rank + power)


def measure(
    algorithms: Mapping[str, Algorithm], payloads_bytes: Sequence[int] = PAYLOADS, repeats: int = 9
) -> Race:
    """On every rank of the process group: the median of `repeats` calls of each, which take turns.

    payloads_bytes: of fp32 numbers, rounded down to whole ones; they are what `Link` is fitted through. SettingError
    for fewer than 2 ranks, no repeat, or payloads that no line goes through.
    """
    n = dist.get_world_size()
    if n < 2 or repeats < 1 or len(set(payloads_bytes)) < 2 or min(payloads_bytes) < 4:
        raise SettingError(
            f"{n} ranks, repeats {repeats}, payloads {list(payloads_bytes)}; give 2 ranks or more, 1 or more, and two "
            "payloads or more of at least 4 bytes."
        )
    rank = dist.get_rank()
    rows, messages = [], []
    for payload in payloads_bytes:
        buffer = torch.zeros(payload // 4, device=device())
        other = torch.empty_like(buffer)
        calls: dict[str, Callable[[], object]] = {
            name: partial(algorithm, buffer) for name, algorithm in algorithms.items()
        }
        calls[MESSAGE] = partial(exchange, buffer, (rank + 1) % n, other, (rank - 1) % n)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats + 1):
            for name, call in calls.items():
                times[name].append(_timed(call))
        medians = {name: statistics.median(each[1:]) for name, each in _slowest(times).items()}
        messages.append((buffer.nbytes, medians.pop(MESSAGE)))
        rows.append(Row(buffer.nbytes, medians))
    return Race(n, fit_alpha_beta(messages, n, "send_recv"), rows)


def _timed(call: Callable[[], object]) -> float:
    """Seconds of this rank; all start together."""
    dist.barrier()
    started = time.perf_counter()
    call()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _slowest(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Of all ranks, call by call."""
    all_ranks: list[dict[str, list[float]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(all_ranks, times)
    return {
        name: [max(calls) for calls in zip(*(rank[name] for rank in all_ranks), strict=True)]
        for name in times
    }


def main(args: Sequence[str]) -> int:
    """Measure on the ranks that `torchrun` or `distlab.faults.network` started; rank 0 prints or writes it."""
    parser = argparse.ArgumentParser(prog="python -m distlab.bench.algorithms", description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--payloads", type=int, nargs="+", default=PAYLOADS, help="bytes")
    parser.add_argument("--network", help="for the stamp: what carries the data")
    parser.add_argument("--out", type=Path, help="write JSON here")
    chosen = parser.parse_args(args)
    dist.init_process_group(backend_for(1))
    if device().type == "cuda":
        torch.cuda.set_device(device())
    race = measure({"ring": ring, "doubling": recursive_doubling}, chosen.payloads, chosen.repeats)
    if dist.get_rank() == 0:
        if chosen.out:
            stamp = dataclasses.asdict(full_stamp(device(), chosen.network))
            write_whole(chosen.out, json.dumps({"stamp": stamp, **dataclasses.asdict(race)}).encode())
        else:
            for row in race.rows:
                times = "  ".join(f"{name} {1e3 * each:9.3f} ms" for name, each in row.median_s.items())
                print(f"{row.payload_bytes:12,} bytes  {times}")
            crossing = race.crossover_bytes()
            print("no crossover" if crossing is None else f"the ring wins from {crossing:,.0f} bytes on")
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
