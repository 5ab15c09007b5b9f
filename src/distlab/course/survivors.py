"""Which mutants of a lab's model answer its hidden tests kill.

    solutions/<lab-id>/survivors.yaml
    train-by-hand/constant-3f2a91c0: "A larger loss of no samples is still none."

explains those that no test can or need kill: they change nothing that matters. One that lives without an
explanation counts against the lab.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from distlab.course.grade.labwork import focused
from distlab.course.grade.work import Kind, Verdict, Work
from distlab.course.labsource import LabError
from distlab.course.mutants import Mutant

LEAST_KILLED = 0.9
"""The share of mutants that hidden tests must kill; those that are explained do not count."""

Run = Callable[[Work], Mapping[str, Verdict]]
"""Runs a work and says what each of its tests came to."""


@dataclass(frozen=True)
class Survival:
    """What became of a lab's mutants."""

    killed: tuple[str, ...]
    explained: tuple[Mutant, ...]
    unexplained: tuple[Mutant, ...]

    @property
    def share(self) -> float:
        """Killed, of those that should be; 1.0 where there is none."""
        counted = len(self.killed) + len(self.unexplained)
        return len(self.killed) / counted if counted else 1.0


def survival(
    work: Work,
    mutants: list[Mutant],
    explanations: Mapping[str, str],
    run: Run,
    each: Callable[[Mutant, bool], None] = lambda mutant, killed: None,
    kill: Callable[[Mutant, Callable[[], bool]], bool] = lambda mutant, dies: dies(),
) -> Survival:
    """Run the hidden tests on each mutant of the model answer `work`; `each` is told of each mutant's end;
    `kill` may know it without the run that it is given.

    A mutant is killed by the first test that does not pass on it; "not gradable" says nothing. Raises `LabError`
    where the model answer itself does not pass.
    """
    groups = grouped_tests(work, run)
    killed: list[str] = []
    explained: list[Mutant] = []
    unexplained: list[Mutant] = []
    for mutant in mutants:
        dead = kill(mutant, partial(_dies, mutant, work, groups, run))
        each(mutant, dead)
        if dead:
            killed.append(mutant.id)
        else:
            (explained if mutant.id in explanations else unexplained).append(mutant)
    return Survival(tuple(killed), tuple(explained), tuple(unexplained))


def _dies(mutant: Mutant, work: Work, groups: list[list[str]], run: Run) -> bool:
    changed = mutant.put_into(work)
    return any(
        verdict not in (Verdict.PASSED, Verdict.NOT_GRADABLE)
        for part in (focused(changed, tests) for tests in groups)
        if any(cell.grade_id == mutant.grade_id for cell in part.cells)
        for verdict in run(part).values()
    )


def grouped_tests(work: Work, run: Run) -> list[list[str]]:
    """The hidden tests, each with those before it that it cannot do without, found out on the model answer.

    Raises `LabError` naming a test that the model answer does not pass.
    """
    groups: list[list[str]] = []
    for name in [cell.grade_id for cell in work.cells if cell.kind == Kind.HIDDEN]:
        group = [name]
        verdicts = run(focused(work, group))
        while verdicts[name] != Verdict.PASSED:
            if not groups:
                raise LabError(f"{work.lab}: the model answer does not pass {name} ({verdicts[name]})")
            group = groups.pop() + group
            verdicts = run(focused(work, group))
        groups.append(group)
    return groups


def read_explanations(root: Path, lab_id: str) -> dict[str, str]:
    """Mutant id to why it may live, from `survivors.yaml`; empty where there is none. `LabError` for another form."""
    path = root / "solutions" / lab_id / "survivors.yaml"
    if not path.exists():
        return {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise LabError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict) or not all(isinstance(why, str) and why.strip() for why in raw.values()):
        raise LabError(f"{path}: must map each mutant's id to the sentence that explains it")
    return {str(name): why for name, why in raw.items()}
