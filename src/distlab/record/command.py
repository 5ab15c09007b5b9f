"""Record on a GPU what the course shows where there is none. `scripts/record_gpu` starts this.

    scripts/record_gpu                          # into recordings/<gpu>-x<count>/, in under 8 minutes
    scripts/record_gpu --parts bench good       # some parts
    scripts/record_gpu --rehearse /tmp/try      # every part on the CPU, labelled cpu

Parts run one after the other, each in a process and a time box of its own; one that fails is said and costs the others
nothing. What is done is not done again: run it again to take up what is missing. Ctrl-C keeps what there is. No
setting of the device is changed: clocks, power, MIG and persistence stay as they were found.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distlab.errors import SettingError, WorkError
from distlab.machine import gpus
from distlab.record.plan import LIMIT_S, Found, Mode, PartPlan, parts
from distlab.record.process import Call, Ended, run_call
from distlab.record.recordings import MOST_BYTES, recordings_folder
from distlab.record.store import Store, folder_name, scrubbed_text
from distlab.record.telemetry import Telemetry, in_words, seen, simulated_by

LEAST_S = 20.0
"""A part for which less is left is not begun."""
ONE_SENTENCE = (
    "There is no NVIDIA GPU here, so nothing can be recorded; run this on a machine with one, or give --rehearse "
    "FOLDER to try every part on the CPU."
)


def main(
    parts: tuple[str, ...] = (),
    out: Path | None = None,
    again: bool = False,
    rehearse: Path | None = None,
    short: bool = False,
) -> int:
    """Record this machine's GPUs: benchmarks, telemetry of training runs, profiles, an out-of-memory post-mortem.

    Args:
        parts: Only these.
        out: Folder of all recordings; by default recordings/ of the repository.
        again: Record also what is done.
        rehearse: Run every part on the CPU into this folder, labelled cpu, with simulated telemetry.
        short: With `rehearse`: as short as can be.
    """
    if rehearse is not None and out is not None:
        raise SettingError("Give --rehearse or --out, not both.")
    if short and rehearse is None:
        raise SettingError("--short goes with --rehearse: a recording takes the time that it takes.")
    found = gpus()
    if rehearse is None and not found:
        raise SettingError(ONE_SENTENCE)
    mode = Mode("cpu", 0, short) if rehearse is not None else Mode("gpu", len(found))
    root = rehearse or out or recordings_folder()
    with tempfile.TemporaryDirectory(prefix="distlab-record-") as scratch:
        plans = _chosen(mode, Path(scratch), parts)
        stamp = _stamp(mode, Path(scratch))
        store = Store(root / folder_name(stamp, max(1, mode.gpus)), stamp)
        failed = _record(store, plans, mode, again)
    total = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"{store.folder}: {total / 1e6:.2f} MB of the {MOST_BYTES / 1e6:.0f} MB that recordings may have.")
    if failed:
        raise WorkError(
            f"{', '.join(failed)} not recorded; what is done is kept. Run it again to take up the rest."
        )
    return 0


def _chosen(mode: Mode, scratch: Path, names: Sequence[str]) -> list[PartPlan]:
    plans = parts(mode, scratch)
    known = [plan.name for plan in plans]
    for name in names:
        if name not in known:
            raise SettingError(f"There is no part {name!r}; there are {', '.join(known)}.")
    return [plan for plan in plans if not names or plan.name in names]


def _stamp(mode: Mode, scratch: Path) -> dict[str, object]:
    """Of the device, by a process that is gone when the first part begins. SettingError where it cannot be used."""
    answer = scratch / "stamp.json"
    ended = run_call(Call("distlab.bench.device", (mode.device, str(answer))), scratch / "stamp.log", 90)
    if ended.code != 0 or not answer.is_file():
        raise SettingError(ended.said or "The device did not answer within 90 s; see what nvidia-smi says.")
    stamp: dict[str, object] = json.loads(answer.read_text())
    stamp["command"] = _own_command()
    return stamp


def _own_command() -> str:
    """As it was typed, without this machine's folders."""
    words = ["FOLDER" if os.sep in word else word for word in sys.argv[1:]]
    return shlex.join(["scripts/record_gpu", *words])


def _record(store: Store, plans: Sequence[PartPlan], mode: Mode, again: bool) -> list[str]:
    """Each part in turn; the names of those that did not come out whole."""
    failed = []
    end = time.monotonic() + LIMIT_S
    for number, plan in enumerate(plans, 1):
        head = f"[{number}/{len(plans)}] {plan.name}"
        if store.is_done(plan.name) and not again:
            _say(f"{head}: done before")
            continue
        left_s = end - time.monotonic()
        if left_s < LEAST_S:
            _say(f"{head}: not begun, the {LIMIT_S:g} s are over")
            failed.append(plan.name)
            continue
        if not _one(store, replace(plan, box_s=min(plan.box_s, left_s)), mode, head):
            failed.append(plan.name)
    return failed


def _one(store: Store, plan: PartPlan, mode: Mode, head: str) -> bool:
    """Record a part and keep what it left; was it whole?"""
    started = time.monotonic()
    ended: Ended | None = None
    telemetry = _telemetry(plan, mode)
    store.begin(plan.name)
    try:
        plan.scratch.mkdir()
        _say(f"{head}: {plan.about[0].lower()}{plan.about[1:]} ...")
        if telemetry is None:
            ended = run_call(plan.call, plan.scratch / "log.txt", plan.box_s)
        else:
            with telemetry:
                ended = run_call(plan.call, plan.scratch / "log.txt", plan.box_s)
    finally:  # Ctrl-C, too
        problems = _keep(store, plan, telemetry)
        problems += _what_went_wrong(ended, plan)
        status = "done" if not problems else "failed" if ended else "interrupted"
        store.end(plan.name, status, time.monotonic() - started, " ".join(problems))
        shutil.rmtree(plan.scratch, ignore_errors=True)
    files = store.parts[plan.name].files
    size = sum(int(file["bytes"]) for file in files)
    _say(f"{head}: {status} in {ended.seconds:.0f} s, {len(files)} files, {size / 1e3:,.0f} kB")
    for problem in problems:
        _say(f"    {problem}")
    return not problems


def _telemetry(plan: PartPlan, mode: Mode) -> Telemetry | None:
    if not plan.telemetry:
        return None
    # Without a driver simulated GPUs show the load of the run, or none.
    follow = plan.scratch / (plan.run or "none") if mode.device == "cpu" else None
    lead = {"lead_s": 0.1} if mode.short else {}
    return Telemetry(_telemetry_file(plan), scrubbed_text(_typed(plan)), plan.about, follow, **lead)


def _telemetry_file(plan: PartPlan) -> Path:
    return plan.scratch / f"{plan.name}.telemetry.jsonl.gz"


def _typed(plan: PartPlan) -> str:
    """The part's command, without the folder in which it left its files."""
    return str(plan.call).replace(str(plan.scratch), "FOLDER")


def _keep(store: Store, plan: PartPlan, telemetry: Telemetry | None) -> list[str]:
    """Take in the files that are there; what could not be kept."""
    problems = []
    listed = list(plan.found())
    simulated: dict[str, str] = {}
    if telemetry is not None:
        path = _telemetry_file(plan)
        if telemetry.problem:
            problems.append(f"No telemetry: {telemetry.problem}")
        elif path.is_file():
            listed.append(Found(path, path.name, "telemetry", f"{plan.about}: {in_words(seen(path))}"))
            simulated = simulated_by(path)
    for found in listed:
        try:
            store.add(
                plan.name,
                found.name,
                found.path.read_bytes(),
                kind=found.kind,
                about=found.about,
                command=_typed(plan),
                scratch=plan.scratch,
                measured=simulated if found.kind == "telemetry" else None,
            )
        except (WorkError, SettingError, OSError) as error:
            problems.append(str(error))
    return problems


def _what_went_wrong(ended: Ended | None, plan: PartPlan) -> list[str]:
    if ended is None:
        return ["It was interrupted."]
    said = ended.said.replace(str(plan.scratch), "FOLDER")
    if ended.code is None:
        return [f"Its {plan.box_s:.0f} s were over: {said}"]
    if ended.code:
        how = (
            f"was ended by signal {-ended.code}" if ended.code < 0 else f"failed with exit code {ended.code}"
        )
        return [f"It {how}: {said}"]
    return []


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def start() -> None:
    """The command."""
    import tyro

    if os.environ.get("OMP_NUM_THREADS") is None and "--rehearse" in sys.argv:
        os.environ["OMP_NUM_THREADS"] = "1"  # a rehearsal shares the machine
    try:
        sys.exit(tyro.cli(main, prog="record_gpu", description=__doc__))
    except (SettingError, WorkError) as error:
        print(f"record_gpu: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingError) else 1)
    except KeyboardInterrupt:
        print("record_gpu: interrupted; what was recorded is kept. Run it again to go on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    start()
