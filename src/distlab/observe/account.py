"""Where the time that a training run is charged for goes: into steps that count, or for nothing.

    account = Account()
    for line in read_log("runs/fsdp_2gpu"):
        account.add(line)
    account.settle(finished=True)
    print(account.paid_s, account.idle_s, account.failure_s, account.straggler_s)

Times are rank-seconds: a second in which one rank holds its device. All of it is read off the run's log, so that who
follows a run and who reads its log afterwards come to the same sums. With, for a rank's line k, `t` when it was
written, `r` the seconds that the rank has spent on the run, and `s` the step's:

- **paid**: r[k] - r[k-1] within an attempt. Between attempts t[k] - t[k-1], the GPUs being held while the run is taken
  up again, unless nobody ran for more than RELEASED_AFTER_S: then only r[k] - r[k-1].
- **failure**: between the last line of an attempt and the first step of the next: steps that were undone, noticing,
  restarting. Steps that a log shows and that are undone later move from those that count to here.
- **idle**: in an attempt, what its lines took beyond their steps (checkpoints, evaluation), and the data_s in steps:
  the GPU waits for its samples.
- **straggler**: in a step, what a rank waits for the one that computes longest: with busy = data_s + compute_s,
  min(communication_s, max(busy) - busy), summed over ranks.
- **useful**: the rest of the steps that count.

A line is written between the end of its step and the end of the next, so that up to one step of a rank's time is in
none of these. paid >= useful + idle + straggler + failure, and all but useful only grow.

What a log does not hold is not charged: the start of the processes before the first step, what came after the last
line, and, to who reads it afterwards, an attempt all of whose steps were undone where the GPUs had been released.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from distlab.train.records import LogLine

RELEASED_AFTER_S = 600
"""When a run that is not running no longer holds its GPUs."""
MOST_PENDING = 10_000
"""Steps of which some ranks' lines are missing."""


@dataclass
class _Rank:
    """One rank's attempt."""

    last: LogLine
    balance_s: float
    """What the lines took beyond their steps; the last of them may hold up to one step more."""
    known_s: float = 0.0
    """How much of the balance has been booked."""
    restarting: bool = False
    """Nothing has been booked in an attempt that is not the first."""
    attempts: int = 0
    """Attempts before this one that were seen."""


@dataclass
class _Steps:
    """The steps that count, in order: for each its number, and sums over ranks."""

    step: array[int] = field(default_factory=lambda: array("q"))
    useful_s: array[float] = field(default_factory=lambda: array("d"))
    step_s: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[float] = field(default_factory=lambda: array("d"))
    paid_s: array[float] = field(default_factory=lambda: array("d"))
    """Until the step was complete, undone ones included."""


class Account:
    """The time of a run, booked line by line. Lines of one rank come in order, ranks in any."""

    def __init__(self) -> None:
        self.paid_s = self.useful_s = self.idle_s = self.straggler_s = self.failure_s = 0.0
        self.step_s = 0.0
        """In steps that count, waiting and data included."""
        self.tokens = 0.0
        """In steps that count."""
        self._epochs: list[tuple[int, int, float]] = []
        """Each pass over the data that was begun after another: its number, first step, and what was paid before."""
        self.steps = _Steps()
        self.ranks: dict[int, _Rank] = {}
        self._attempts = 0
        self._pending: dict[int, dict[int, tuple[LogLine, float]]] = {}
        """By step and rank: a line, and what was paid for it."""
        self._booked_paid_s = 0.0
        """Paid for lines that are not pending: unlike `paid_s` the same in whatever order ranks come."""

    @property
    def wasted_s(self) -> dict[str, float]:
        """By reason."""
        return {"idle": self.idle_s, "failure": self.failure_s, "straggler": self.straggler_s}

    @property
    def goodput(self) -> float | None:
        """Share of the time paid for that went into steps that count; None before the first."""
        return self.step_s / self.paid_s if self.paid_s else None

    @property
    def epochs(self) -> int:
        """Passes over the data that are complete."""
        return self._epochs[-1][0] if self._epochs else 0

    @property
    def epochs_paid_s(self) -> float:
        """What was paid when the last of them was complete."""
        return self._epochs[-1][2] if self._epochs else 0.0

    @property
    def unlogged_since(self) -> dict[int, float]:
        """When each rank that takes part now wrote its last line: Unix time."""
        newest = max((rank.last.time for rank in self.ranks.values()), default=0.0)
        size = next((r.last.world_size for r in self.ranks.values() if r.last.time == newest), 0)
        return {number: rank.last.time for number, rank in self.ranks.items() if number < size}

    def add(self, line: LogLine, of: int | None = None) -> float:
        """Book a line. of: how many ranks write into this log, where not all do.

        Returns how much of the time since the rank's last line is paid for with it: 0 where its GPU was released.
        """
        paid_s, released = self._pay(line)
        self.paid_s += paid_s
        if self.ranks[line.rank].attempts > self._attempts:  # the first rank that is back; the others follow
            self._attempts = self.ranks[line.rank].attempts
            self._undo(line.step)
        elif self.steps.step and line.step <= self.steps.step[-1]:
            self._undo(line.step)
        elif line.rank in self._pending.get(line.step, ()):
            self._drop(line.step)
        ranks = self._pending.setdefault(line.step, {})
        ranks[line.rank] = line, paid_s
        if len(ranks) >= min(line.world_size, of or line.world_size):
            self._close(line.step)
        elif len(self._pending) > MOST_PENDING:
            self._close(min(self._pending))
        return 0.0 if released else paid_s

    def settle(self, finished: bool) -> None:
        """The run has ended: nothing more comes. finished: its last step was the last one it was to take."""
        if self._pending:
            self._close(max(self._pending))
        if finished:
            for rank in self.ranks.values():
                self._book(rank, rank.balance_s)

    def _pay(self, line: LogLine) -> tuple[float, bool]:
        """Rank-seconds since the rank's line before; whether its GPU was released in between."""
        rank, released = self.ranks.get(line.rank), False
        if rank is None:
            paid_s = max(0.0, line.run_s)
            # A rank that joins a run later was not there before, and lost nothing.
            self.ranks[line.rank] = _Rank(line, paid_s - line.step_s, attempts=self._attempts)
        elif line.attempt == rank.last.attempt and line.step > rank.last.step:
            paid_s = max(0.0, line.run_s - rank.last.run_s)
            self._book(rank, rank.balance_s - line.step_s)
            rank.balance_s += paid_s - line.step_s
            rank.last = line
        else:
            own_s = max(0.0, line.run_s - rank.last.run_s)
            off_s = line.time - rank.last.time - own_s
            released = not off_s <= RELEASED_AFTER_S
            paid_s = own_s + (0.0 if released else max(0.0, off_s))
            rank.restarting = True  # what was left of the old attempt was lost with it
            self._book(rank, rank.balance_s)
            before = rank.attempts
            self.ranks[line.rank] = _Rank(line, paid_s - line.step_s, restarting=True, attempts=before + 1)
        return paid_s, released

    def _book(self, rank: _Rank, balance_s: float) -> None:
        """So much of a rank's balance is certain to lie outside its steps."""
        new_s = balance_s - rank.known_s
        if new_s <= 0:
            return
        rank.known_s = balance_s
        if rank.restarting:
            self.failure_s += new_s
            rank.restarting = False
        else:
            self.idle_s += new_s

    def _close(self, step: int) -> None:
        """A step is complete, and those before it get no more lines."""
        for number in sorted(number for number in self._pending if number <= step):
            pending = self._pending.pop(number).values()
            lines = [line for line, _ in pending]
            if lines[0].epoch > self.epochs:
                self._epochs.append(
                    (lines[0].epoch, number, self.steps.paid_s[-1] if self.steps.paid_s else 0.0)
                )
            self._booked_paid_s += sum(paid_s for _, paid_s in pending)
            busy_s = [max(0.0, line.data_s) + max(0.0, line.compute_s) for line in lines]
            longest_s = max(busy_s)
            waits = zip(lines, busy_s, strict=True)
            straggler_s = sum(min(max(0.0, line.communication_s), longest_s - own) for line, own in waits)
            data_s = sum(min(max(0.0, line.data_s), line.step_s) for line in lines)
            step_s = sum(line.step_s for line in lines)
            useful_s = max(0.0, step_s - data_s - straggler_s)
            self.idle_s += data_s
            self.straggler_s += straggler_s
            self._count(number, useful_s, step_s, sum(line.tokens_per_s * line.step_s for line in lines))

    def _count(self, number: int, useful_s: float, step_s: float, tokens: float) -> None:
        self.steps.step.append(number)
        self.steps.useful_s.append(useful_s)
        self.steps.step_s.append(step_s)
        self.steps.tokens.append(tokens)
        self.steps.paid_s.append(self._booked_paid_s)
        self.useful_s += useful_s
        self.step_s += step_s
        self.tokens += tokens

    def _undo(self, step: int) -> None:
        """The run goes on from before this step."""
        self._drop(step)
        while self._epochs and self._epochs[-1][1] >= step:
            self._epochs.pop()
        while self.steps.step and self.steps.step[-1] >= step:
            self.steps.step.pop()
            useful_s = self.steps.useful_s.pop()
            self.useful_s -= useful_s
            self.failure_s += useful_s
            self.step_s -= self.steps.step_s.pop()
            self.tokens -= self.steps.tokens.pop()
            self.steps.paid_s.pop()

    def _drop(self, step: int) -> None:
        for number in [number for number in self._pending if number >= step]:
            for line, paid_s in self._pending.pop(number).values():
                self.failure_s += line.step_s
                self._booked_paid_s += paid_s
