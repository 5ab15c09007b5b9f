"""The deep check of a lab: many seeds, then mutants; hours of work, which may be interrupted and go on.

    distlab course check-lab mod-107-lab-3 --deep

What was found lies in a journal under `var/deep/`, a line each, keyed by what the check depends on. The next run
does what is missing there, and again what was late or wrong: a machine that was busy is no fault of the lab's.
The report is written once all is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distlab.course.findings import Finding
from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import lab_work
from distlab.course.grade.work import Limits, Verdict, Work
from distlab.course.mutants import Mutant, mutants_of
from distlab.course.proved import inputs_digest
from distlab.course.survivors import read_explanations, survival
from distlab.errors import WorkError

DEEP_SEEDS = 20

MUTANT = Limits(cell_s=60.0, wall_s=120.0)
"""A mutant may loop for ever: it need not do so for long."""


TRIES = 3
"""How often a mutant is run that the machine did not grade."""


class Journal:
    """What a deep check has found so far: in a file, for as long as the lab does not change."""

    def __init__(self, root: Path, lab: str) -> None:
        self.inputs = inputs_digest(root, lab)
        self.path = root / "var" / "deep" / f"{lab}-{self.inputs[:12]}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.findings: dict[str, Finding] = {}
        self.killed: dict[str, bool] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            match json.loads(line):
                case {"finding": raw}:
                    self.findings[raw["what"]] = Finding(**raw)
                case {"mutant": str(name), "killed": bool(killed)}:
                    self.killed[name] = killed

    def find(self, what: str, check: Callable[[], Finding]) -> Finding:
        """What is known of a check, or what it finds now; what is wrong or late is not kept."""
        if what not in self.findings:
            finding = check()
            if finding.problem or finding.late:
                return finding
            self.findings[what] = finding
            self._add({"finding": asdict(finding)})
        return self.findings[what]

    def kill(self, mutant: Mutant, run: Callable[[], bool]) -> bool:
        """Is the mutant killed, as is known or comes out now?"""
        if mutant.id not in self.killed:
            self.killed[mutant.id] = run()
            self._add({"mutant": mutant.id, "killed": self.killed[mutant.id]})
        return self.killed[mutant.id]

    def _add(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def deep_report(root: Path, lab: str, journal: Journal, children: Children) -> dict[str, Any]:
    """Run the mutants; the report with them and with what was found before. Prints each mutant's end."""
    work = lab_work(root, lab, display=False, limits=MUTANT)
    explanations = read_explanations(root, lab)
    all_mutants = mutants_of(work)
    done = 0

    def run(part: Work) -> dict[str, Verdict]:
        for _ in range(TRIES):
            cells = grade(part, children).cells
            lost = [cell.message for cell in cells if cell.verdict == Verdict.NOT_GRADABLE]
            if not lost:
                return {cell.grade_id: cell.verdict for cell in cells}
        raise WorkError(
            f"{lab}: a mutant was not graded: {lost[0]} Start the check again: it goes on from here."
        )

    def each(mutant: Mutant, killed: bool) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{len(all_mutants)}] {'killed' if killed else 'lives'}: {mutant.id}", flush=True)
        if not killed:
            why = explanations.get(mutant.id, "NOT EXPLAINED")
            print(f"    line {mutant.line}: {mutant.before}\n    as {mutant.after}\n    {why}", flush=True)

    result = survival(work, all_mutants, explanations, run, each, journal.kill)
    for name in sorted(explanations.keys() - {mutant.id for mutant in result.explained}):
        print(
            f"survivors.yaml explains {name}, which {'is killed' if name in result.killed else 'is no mutant'}"
        )
    return {
        "lab": lab,
        "inputs": journal.inputs,
        "seconds": {what: round(finding.seconds, 1) for what, finding in journal.findings.items()},
        "mutants": len(all_mutants),
        "killed": len(result.killed),
        "explained": [mutant.id for mutant in result.explained],
        "unexplained": [mutant.id for mutant in result.unexplained],
        "share": round(result.share, 4),
    }
