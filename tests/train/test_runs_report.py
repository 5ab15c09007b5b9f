"""A comparative report: work that is equal or said not to be, noise measured, one file that loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from distlab.errors import SettingError
from distlab.train.config import StrategyName, TrainConfig
from distlab.train.logs import RunLog
from distlab.train.result import StepRecord
from distlab.train.runs_report import compare_runs, report, write_report
from tests.train.test_logs import SMALL, alone


def write(
    folder: Path,
    name: str,
    strategy: StrategyName = "ddp",
    step_s: float = 0.02,
    off: float = 0.0,
    seed: int = 3,
) -> str:
    """The logs of two ranks; rank 1 is a tenth slower. Four cold steps, four steady, a last one with fewer samples."""
    config: TrainConfig = replace(
        SMALL,
        name=name,
        folder=str(folder),
        strategy=strategy,
        steps=9,
        seed=seed,
    )
    for rank in range(2):
        ranks = alone(config)
        ranks.rank, ranks.world_size = rank, 2
        with RunLog(config, ranks, 0) as log:
            for i in range(9):
                seconds = step_s * (1 + rank / 10) * (5 if i < 4 else 0.1 if i == 8 else 1)
                samples = 3 if i == 8 else 8
                times = (seconds, seconds / 10, seconds / 2, seconds * 0.4)
                log.step(StepRecord(i, 0, 2.0 - i / 10 + off, 0.1, samples, samples, *times), [])
    return str(config.run_folder)


def turns(folder: Path, strategy: StrategyName, steps_s: list[float]) -> list[str]:
    return [write(folder, f"{strategy}-{i}", strategy, step_s) for i, step_s in enumerate(steps_s)]


def test_turns_are_grouped_and_judged_by_their_noise(tmp_path: Path) -> None:
    ddp = turns(tmp_path, "ddp", [0.020, 0.020, 0.022])
    compared = compare_runs(
        [
            *ddp,
            *turns(tmp_path, "horovod", [0.021, 0.020, 0.022]),
            *turns(tmp_path, "fsdp", [0.030, 0.030, 0.033]),
            *turns(tmp_path, "single", [0.010, 0.010, 0.011]),
        ],
        starts_s={"ddp": 2.5},
    )
    first, horovod, fsdp, single = compared.groups
    assert [group.label for group in compared.groups] == ["ddp", "horovod", "fsdp", "single"]
    assert first.step_s == pytest.approx(0.022), "the slower rank; neither cold steps nor the small last one"
    assert first.noise == pytest.approx(1.1)
    assert (first.ratio, first.verdict, first.start_s) == (None, None, 2.5)
    assert horovod.ratio == pytest.approx(1.0)
    assert horovod.verdict == "no difference"
    assert fsdp.ratio == pytest.approx(1.5)
    assert fsdp.verdict == "slower"
    assert single.ratio == pytest.approx(0.5)
    assert single.verdict == "faster"
    assert first.communication_s == pytest.approx(0.4 * first.step_s)
    assert compared.equal
    assert compared.warnings == ()
    assert compared.sentence.startswith(
        "Equal work: every loss within 0e+00 of ddp's. ddp's step takes 22.00 ms;"
    )
    assert "fsdp 1.50 times (slower than it)" in compared.sentence


def test_with_too_few_turns_nothing_is_claimed(tmp_path: Path) -> None:
    compared = compare_runs([*turns(tmp_path, "ddp", [0.02]), *turns(tmp_path, "fsdp", [0.05])])
    assert compared.groups[1].verdict == "unknown"
    assert any("Fewer than 3 turns" in warning for warning in compared.warnings)


def test_work_that_is_not_equal_is_said(tmp_path: Path) -> None:
    ddp = write(tmp_path, "ddp")
    other = compare_runs([ddp, write(tmp_path, "off", "fsdp", off=0.5)])
    assert not other.equal
    assert "The work was not equal" in other.sentence
    assert any("fsdp" in warning and "off by" in warning for warning in other.warnings)
    lost = compare_runs([ddp, write(tmp_path, "nan", "fsdp", off=float("nan"))])
    assert not lost.equal
    seeds = compare_runs([ddp, write(tmp_path, "seed", "fsdp", seed=4)])
    assert not seeds.equal
    assert "seed is not the same in all runs: the work is not equal." in seeds.warnings


def test_labels_are_strategies_where_those_tell_runs_apart(tmp_path: Path) -> None:
    small, large = write(tmp_path, "small"), write(tmp_path, "large", seed=5)
    assert [g.label for g in compare_runs([small, large]).groups] == ["small", "large"]
    named = compare_runs([small, large], labels={"small": "one", "large": "one"})
    assert [(g.label, len(g.runs)) for g in named.groups] == [("one", 2)]


def test_one_file_holds_metrics_figures_recommendations_and_stamps(tmp_path: Path) -> None:
    folders = [*turns(tmp_path, "ddp", [0.02] * 3), *turns(tmp_path, "fsdp", [0.03] * 3)]
    words = tmp_path / "words.txt"
    words.write_text("Use <ddp> & be done.\n\nSecond paragraph.")
    out = tmp_path / "report.html"
    assert report(tuple(folders), out, words, "A title") == 0
    page = BeautifulSoup(out.read_text(), "html.parser")
    assert page.h1 is not None
    assert page.h1.text == "A title"
    assert len(page.find_all("figure")) == 3
    rows = [[cell.text for cell in row.find_all("td")] for row in page.find_all("tr")[1:]]
    assert [row[0] for row in rows] == ["ddp", "fsdp"]
    assert rows[1][2:4] == ["33.00", "1.00"]
    assert rows[1][6:8] == ["1.50", "slower"]
    paragraphs = [p.text for p in page.find_all("p")]
    assert "Use <ddp> & be done." in paragraphs
    assert "Second paragraph." in paragraphs
    assert sum("tier cpu" in item.text for item in page.find_all("li")) == 6
    assert not page.find_all(["script", "link", "img", "iframe"])
    assert not re.search(r"(src|href)=\"(?!#)", out.read_text())


def test_the_command_gives_each_work_a_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = (write(tmp_path, "one"), write(tmp_path, "two", seed=4))
    assert report(folders, tmp_path / "report.html") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "ddp: 22.00 ms a step."
    assert said[-1] == f"The report: {tmp_path}/report.html"
    page = BeautifulSoup((tmp_path / "report.html").read_text(), "html.parser")
    assert len(page.find_all("table")) == 2
    assert "None were given." in page.text


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No run is named"):
        report((), tmp_path / "report.html")
    folder = write(tmp_path, "one")
    with pytest.raises(SettingError, match="no step after the first 9"):
        compare_runs([folder], warmup=9)
    with pytest.raises(SettingError, match="Cannot read"):
        report((folder,), tmp_path / "report.html", tmp_path / "missing.txt")
    with pytest.raises(SettingError, match="Cannot write"):
        write_report(tmp_path / "none" / "report.html", [compare_runs([folder])], "", "t")
