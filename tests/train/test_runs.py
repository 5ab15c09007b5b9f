"""Runs side by side: numbers that add up, a table for people, JSON for programs."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.figures.runs import run_log
from distlab.record.recordings import recordings, unpack_run
from distlab.train import progress
from distlab.train.config import LogConfig, TrainConfig
from distlab.train.logs import RunLog
from distlab.train.records import LogLine, read_log
from distlab.train.result import StepRecord
from distlab.train.runs import compare, show, summarise
from tests.train.test_logs import SMALL, alone


def step(i: int, slow: float = 1.0) -> StepRecord:
    """Step 0 is cold. Others take 20 ms: 1 for data, 15 for computing, 4 for communication."""
    times = [slow * (10 if i == 0 else 1) * t for t in (0.020, 0.001, 0.015, 0.004)]
    return StepRecord(i, 0, 2.0 - i / 10, 0.1, 8, 80, *times)


def write(config: TrainConfig, world_size: int = 2) -> str:
    """The logs of ranks that each take 8 samples a step; rank 1 is twice as slow."""
    for rank in range(world_size):
        strategy = alone(config)
        strategy.world_size = strategy.data_size = world_size
        strategy.rank = rank
        with RunLog(config, strategy, 0) as log:
            for i in range(5):
                log.step(step(i, slow=1.0 + rank), [])
    return str(config.run_folder)


def test_a_summary_adds_up(tmp_path: Path) -> None:
    config = replace(SMALL, name="two", folder=str(tmp_path), log=LogConfig(price_per_hour=1.0))
    folder = write(config)
    run = summarise(folder)
    assert (run.name, run.strategy, run.world_size, run.tier, run.steps) == ("two", "ddp", 2, "cpu", 5)
    assert run.loss == pytest.approx(1.6)
    assert run.step_s == pytest.approx(0.030), "the mean of 20 and 40 ms, without the first step"
    assert run.data_s + run.compute_s + run.communication_s == pytest.approx(run.step_s)
    assert run.samples_per_s == pytest.approx(16 / 0.040), "both ranks, at the pace of the slower"
    assert run.tokens_per_s == pytest.approx(160 / 0.040)
    lines = read_log(folder)
    assert run.peak_ram_bytes == max(line.ram_bytes for line in lines)
    assert run.cost == pytest.approx(sum(line.cost for line in lines if line.step == 4))
    assert (run.peak_vram_bytes, run.mfu) == (None, None)


def test_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write(replace(SMALL, name=name, folder=str(tmp_path))) for name in ("first", "second")]
    info = Path(folders[1], "log/run.json")
    hardware = json.loads(info.read_text())["stamp"]["hardware"]
    info.write_text(info.read_text().replace(hardware, "[b]Processor"))
    assert len(compare(folders).columns) == 3
    assert show(tuple(folders)) == 0
    table = capsys.readouterr().out
    for words in ("first", "second", "[b]Processor", "30.00 ms", "400/s", "ddp, fp32", "nothing", "peak RAM"):
        assert words in table
    assert "MFU" not in table, "nobody knows it here"
    assert show(tuple(folders), json=True) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["step_s"] == pytest.approx(0.030)
    assert second["hardware"] == "[b]Processor"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("run.json", '"name": "run"', '"name": "\\u001b]0;x\\u0007"'),
        ("run.json", '"name": "run"', '"name": 5'),
        ("run.json", '"config"', '"confg"'),
        ("run.json", '"hardware": "', '"hardware": "\\u001b[2J'),
        ("run.json", '"hardware": "', '"hardware": 5, "more": "'),
        ("run.json", '"shards": []', '"shards": [1, null]'),
        ("run.json", "{", "[" * 100_000),
        ("rank_0.jsonl", '"step_s": ', '"step_s": 0, "step_s": -'),
        ("rank_0.jsonl", '"ram_bytes": ', '"ram_bytes": null, "x": '),
        ("rank_0.jsonl", '"loss": ', '"loss": 1e999, "x": '),
        ("rank_0.jsonl", '"tier": "cpu"', '"tier": "\\u001b[2J"'),
        ("rank_0.jsonl", '"cost": ', f'"cost": {10**400}, "x": '),
        ("rank_0.jsonl", '"applied": true', '"applied": 1'),
    ],
)
def test_a_log_that_somebody_else_wrote_is_read_or_refused_in_one_line(
    tmp_path: Path, file: str, old: str, new: str
) -> None:
    path = Path(write(replace(SMALL, folder=str(tmp_path))), "log", file)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(
        SettingError, match=r"holds no readable log/run\.json|is not a line of a run's log"
    ) as refused:
        show((f"{tmp_path}/run",))
    assert str(refused.value).isprintable()


def test_a_recorded_run_is_shown_by_its_settings_file(tmp_path: Path) -> None:
    """Of every recording in the repository: what is shown is what unpacking it shows."""
    shown = 0
    for recording in recordings(Path(__file__).parents[2] / "recordings"):
        for file in recording.files("run"):
            if file.name.endswith(".run.json"):
                case = file.name.removesuffix(".run.json")
                unpacked = unpack_run(recording, case, tmp_path / recording.folder.name)
                assert summarise(str(file.path)) == summarise(str(unpacked))
                shown += 1
    assert shown > 0
    (tmp_path / "stray.run.json").write_text("{}")
    with pytest.raises(SettingError, match="is no recording"):
        summarise(str(tmp_path / "stray.run.json"))


def test_what_is_no_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No run is named"):
        show(())
    with pytest.raises(SettingError, match="holds no log"):
        show((str(tmp_path),))
    Path(write(replace(SMALL, folder=str(tmp_path))), "log/run.json").unlink()
    with pytest.raises(SettingError, match=r"Cannot read .*run\.json is missing"):
        show((f"{tmp_path}/run",))
    with pytest.raises(SettingError, match="Cannot open gopher://x"):
        show(("gopher://x",))


def test_the_figure_of_a_log_says_what_it_shows(tmp_path: Path) -> None:
    lines = read_log(write(replace(SMALL, folder=str(tmp_path))))
    figure = run_log(lines, rank=1)
    assert "steps 1 to 4" in figure.alt
    assert "40 ms (compute 30, data 2, communication 8)" in figure.alt
    assert "1.9 at first, 1.6 at last" in figure.alt
    assert "Rank 1 of 2 (cpu tier)" in figure.caption
    with pytest.raises(ValueError, match="fewer than two steps of rank 7"):
        run_log(lines, rank=7)


# --- Progress ---


def line(i: int) -> LogLine:
    return LogLine(
        **vars(step(i)), rank=0, world_size=2, attempt=0, tier="cpu", time=0.0, run_s=0.0,
        samples_per_s=400.0, tokens_per_s=4000.0, ram_bytes=1, vram_bytes=None, mfu=None, cost=0.0,
    )  # fmt: skip


def test_a_short_run_prints_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Progress(SMALL, 0)
    for i in range(6):
        shown.step(line(i))
    shown.close()
    assert capsys.readouterr().out == ""


def test_progress_is_plain_lines_away_from_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    shown = progress.Progress(SMALL, 3)
    for i in (3, 4, 5):
        shown.step(line(i))
    shown.close()
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("step 4/6: loss 1.7000, 800 samples/s, 0:00:0")
    assert last == "step 6/6: loss 1.5000, 800 samples/s, 0:00:00 left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown = progress.Progress(SMALL, 0)
    for i in range(6):
        shown.step(line(i))
    shown.close()
    assert "step 6/6" in terminal.getvalue()
    assert "loss 1.5000, 800 samples/s, 0:00:00 left" in terminal.getvalue()
    assert "step 3/6" not in terminal.getvalue(), "too soon after the one before"
