"""`distlab profile run`: a command with torch's profiler around its training loop, on every rank.

    distlab profile run --out profile -- distlab train --config configs/fsdp_2gpu.yaml
    distlab profile run --out profile --memory -- torchrun --nproc_per_node 2 -m distlab.train --steps 40
    distlab profile run --out profile -- python mine.py       # with `profiled()` around its loop (capture.py)

The command's exit code is passed on; a run that fails, or that Ctrl-C ends, keeps what was recorded until then. Ctrl-C
before all steps are recorded makes it 130, also where the command saves and ends with 0.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from distlab.errors import SettingError, WorkError
from distlab.observe.profile.analyze import analyze, read_reports, read_traces
from distlab.observe.profile.breakdown import break_down
from distlab.observe.profile.capture import CaptureOptions
from distlab.observe.profile.description import Description, claim, write_description
from distlab.observe.profile.pyspy import Sampled, sample
from distlab.observe.stack import ends_with

POLL_S = 0.1
INTERRUPTED = 128 + signal.SIGINT
MOST_PYSPY_S = 60


@dataclass(frozen=True)
class _Asked(CaptureOptions):
    """Profile a command: `distlab profile run --out FOLDER [options] -- COMMAND ...`."""

    out: Path = tyro.MISSING
    """New or empty folder for traces and analysis."""
    pyspy_s: int = 2
    """Seconds of a flame graph of the slowest rank, taken by py-spy after the recorded steps; 0: none."""
    json: bool = False
    """Print the analysis as JSON; what the command prints goes to standard error then."""

    def __post_init__(self) -> None:
        pass  # checked below: tyro would frame the error and add to it


def main(args: list[str]) -> int:
    """Run `distlab profile run` with these arguments; returns the command's exit code, 1 where nothing was recorded."""
    own, command = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
    asked = tyro.cli(
        Annotated[_Asked, tyro.conf.arg(prefix_name=False)],
        prog="distlab profile run",
        args=own,
        description=__doc__,
    )
    assert isinstance(asked, _Asked)
    if not command:
        raise SettingError(
            "No command is given; put it behind `--`, as in `-- distlab train --config run.yaml`."
        )
    if not 0 <= asked.pyspy_s <= MOST_PYSPY_S:
        raise SettingError(f"pyspy_s is {asked.pyspy_s}; it must be 0 or more, and at most {MOST_PYSPY_S}.")
    options = CaptureOptions(asked.steps, asked.warmup, asked.wait, asked.memory)
    return profile_command(asked.out, command, options, asked.pyspy_s, asked.json)


def profile_command(
    out: Path, command: Sequence[str], options: CaptureOptions, pyspy_s: int = 0, as_json: bool = False
) -> int:
    """Run a command with its ranks recorded into `out`, analyse, and print; returns the exit code.

    SettingError for a folder that is in use, or a command that there is none of; WorkError where no step was recorded.
    """
    from rich.console import Console

    from distlab.observe.profile.table import show

    program = [*_program(command[0]), *command[1:]]
    description = Description(shlex.join([Path(command[0]).name, *command[1:]]), options)
    claim(out, description)
    _tell(f"Recording {options.steps} steps after {options.first}, into {out}")
    code, sampled, interrupted = _run(program, out, options, pyspy_s, as_json)
    cut_short = interrupted and not _complete(out, options)
    problems: tuple[str, ...] = (sampled.problem,) if sampled.problem else ()
    if cut_short and code != INTERRUPTED:
        problems += ("The run was interrupted while it was recorded; what was recorded until then is kept.",)
    write_description(out, replace(description, exit_code=code, flame_graph=sampled.graph, problems=problems))
    code = code or (INTERRUPTED if cut_short else 0)
    try:
        with Console(stderr=True).status("Reading the traces ..."):
            analysis = analyze(out)
    except WorkError as error:
        if not code:
            raise
        how = "was interrupted" if code == INTERRUPTED else f"failed with exit code {code}"
        print(f"distlab profile run: the command {how}. {error}", file=sys.stderr)
        return code
    if as_json:
        print(analysis.to_json())
    else:
        show(analysis, out)
    print(
        f"What to change first: distlab profile report {shlex.quote(str(out))}",
        file=sys.stderr if as_json else sys.stdout,
    )
    return code


def _program(name: str) -> list[str]:
    """How to start it: `distlab`, `python` and `torchrun` are those of this Python, which can import distlab."""
    if name == "distlab":
        return [sys.executable, "-m", "distlab.cli"]
    found = None
    if os.sep not in name:
        found = shutil.which(name, path=str(Path(sys.executable).parent))
    found = found or shutil.which(name)
    if found is None:
        raise SettingError(f"There is no command {name!r}; expected one such as `distlab train` behind `--`.")
    return [found]


def _run(
    program: Sequence[str], out: Path, options: CaptureOptions, pyspy_s: int, aside: bool
) -> tuple[int, Sampled, bool]:
    """Run it to its end, and tell how far the recording is.

    Returns its exit code (128 + n where signal n killed it), what py-spy saw meanwhile, and whether Ctrl-C came.
    """
    sampled = Sampled(None, "No flame graph: the run was over before it was taken; take more steps.")
    if not pyspy_s:
        sampled = Sampled(None)
    begun = done = told = False
    try:
        # A group of its own: Ctrl-C reaches it once, from here.
        child = subprocess.Popen(
            program,
            env=os.environ | options.environment(out),
            stdout=sys.stderr if aside else None,
            process_group=0,
            preexec_fn=ends_with(os.getpid()),  # killed outright, this passes no signal on
        )
    except OSError as error:
        raise WorkError(f"{program[0]} could not be started: {error.strerror}.") from None
    with _passing_signals_to(child) as passed:
        while True:
            try:
                code = child.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                pass
            if passed and not (done or told):
                told = True
                _tell("Interrupted: waiting until the ranks have written what they recorded ...")
            if done:
                continue
            reports = read_reports(out).values()
            if not begun and any(options.begun(report.steps_seen) for report in reports):
                begun = True
                _tell("The recording begins.")
            # All ranks that began have written their traces.
            if reports and all(report.done or report.problem for report in reports):
                done = True
                if passed:
                    continue
                if pyspy_s:
                    _tell(f"All steps are recorded; py-spy watches the slowest rank for {2 * pyspy_s} s.")
                    sampled = _sample_slowest(out, pyspy_s)
                _tell(
                    "The recording is done. The run goes on to its end; Ctrl-C ends it, and the profile is kept."
                )
    return (code if code >= 0 else 128 - code), sampled, signal.SIGINT in passed


def _tell(text: str) -> None:
    print(f"distlab profile run: {text}", file=sys.stderr, flush=True)


def _complete(out: Path, options: CaptureOptions) -> bool:
    """Have all ranks that began recorded all their steps?"""
    reports = read_reports(out).values()
    return bool(reports) and all(report.steps_profiled >= options.steps for report in reports)


def _sample_slowest(out: Path, seconds: int) -> Sampled:
    """py-spy on the rank that takes longest for itself, of those on this machine."""
    reports = read_reports(out)
    own: dict[int, float] = {}
    for trace in read_traces(out)[0]:
        report = reports.get(trace.rank)
        if report is not None and report.host == platform.node():
            own[trace.rank] = sum(step.own_s for step in break_down(trace)) / len(trace.steps)
    if not own:
        return Sampled(None, "No flame graph: no rank on this machine left a trace.")
    slowest = max(own, key=lambda rank: own[rank])
    return sample(out, slowest, reports[slowest].pid, seconds)


@contextmanager
def _passing_signals_to(child: subprocess.Popen[Any]) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM go to the command, which may end in order; what it recorded is analysed then.

    Yields the list of those that came.
    """
    came: list[int] = []

    def forward(number: int, _: object) -> None:
        came.append(number)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
