"""The `distlab` command: what it offers, what it says to a wrong word, and that the documents name it rightly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distlab.cli import COMMANDS, main

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "book").rglob("*.md"))]


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*name.split(), "--help") == 0
    assert f"usage: distlab {name}" in capsys.readouterr().out


def test_alone_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)


@pytest.mark.parametrize("group", ["course", "course grading", "predict"])
def test_a_group_lists_its_own_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*group.split(), "--help") == 0
    asked = capsys.readouterr().out
    assert run(*group.split()) == 2  # a command was wanted
    listed = [line[2:].split("  ")[0] for line in asked.splitlines()[2:]]
    assert listed == [name for name in COMMANDS if name.startswith(f"{group} ")]
    assert capsys.readouterr().err == asked


def test_a_wrong_word_is_an_error_that_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("course", "admt") == 2
    error = capsys.readouterr().err
    assert "there is no command 'course admt'" in error
    assert "Did you mean `distlab course admit`?" in error


def test_an_unknown_option_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--jsn") == 2
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", ""])
def test_a_port_that_is_none_is_bad_input(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", port)
    assert run("course", "up") == 2
    assert f"distlab course up: PORT is {port!r}" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["doctor --json", "scorecard --formats"])  # print's own way, and rich's
def test_a_reader_that_has_seen_enough_gets_no_traceback(line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "distlab.cli", *line.split()]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_outside_the_repository_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISTLAB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run("course", "pending") == 2
    assert f"{tmp_path} is not the course's repository" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_documents_name_only_commands_that_exist() -> None:
    named = {
        words
        for document in DOCUMENTS
        for words in re.findall(
            r"\bdistlab ((?:course grading|course|bench) [a-z-]+|doctor)\b", document.read_text()
        )
    }
    assert "course export-learner" in named
    assert named <= COMMANDS.keys()


def test_the_learners_copy_is_made_as_the_readme_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "`distlab course export-learner DIR`" in (REPOSITORY / "README.md").read_text()
    (tmp_path / "taken").touch()
    assert run("course", "export-learner", str(tmp_path)) == 2
    assert f"{tmp_path} is not empty" in capsys.readouterr().err


SLOW_COMMAND = """
import os, sys
from distlab import cli

class Interrupted:
    # An import that Ctrl-C meets, and that makes another error of it, as some do.
    def find_spec(self, name, path=None, target=None):
        if name == "distlab.doctor":
            try:
                os.kill(os.getpid(), 2)
                for _ in range(1000):
                    pass
            except KeyboardInterrupt:
                raise ImportError("it was interrupted")

sys.meta_path.insert(0, Interrupted())
cli.main(["doctor"])
"""


def test_ctrl_c_while_a_command_is_imported_leaves_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", SLOW_COMMAND], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_command_alone_imports_no_parser() -> None:
    """Every module that the entry imports is one that Ctrl-C shows a traceback of."""
    code = "import sys; import distlab.cli; print({'tyro', 'rich', 'torch'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "set()\n"
