"""Ranked bottlenecks, the dossier and the comparison, of profiles made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.observe.profile.analysis import (
    Analysis,
    Collective,
    FlameGraph,
    MemoryLine,
    Operator,
    RankProfile,
    StepTimes,
    Straggler,
    write_analysis,
)
from distlab.observe.profile.bottlenecks import find_bottlenecks
from distlab.observe.profile.compare import compare, compare_profiles
from distlab.observe.profile.dossier import report
from distlab.observe.profile.stragglers import find_stragglers

STEPS = 12


def _rank(
    rank: int,
    compute: float = 0.010,
    exposed: float = 0.0,
    data: float = 0.0,
    idle: float = 0.0,
    elements: int = 10**6,
    jitter: float = 1e-5,
    grows: int = 0,
) -> RankProfile:
    steps = []
    start = 0.0
    for k in range(STEPS):
        own = compute + jitter * ((7 * k + rank) % 5)
        step_s = own + exposed + data + idle
        steps.append(StepTimes(k, start, step_s, own, exposed, exposed, data, idle))
        start += step_s
    points = tuple((step.start_s + step.step_s / 2, 2**20 + grows * step.step) for step in steps)
    return RankProfile(
        rank=rank,
        host="host",
        pid=rank + 1,
        device="cpu",
        steps_seen=STEPS,
        steps=tuple(steps),
        operators=(
            Operator("gloo:all_reduce", "cpu", STEPS, 0.9, 0.9, ""),
            Operator("aten::mm", "cpu", 3 * STEPS, 0.06, 0.6, "[8, 8], [8, 8]"),
        ),
        collectives=(Collective("gloo:all_reduce", STEPS, elements * STEPS, exposed * STEPS, exposed),),
        memory=(MemoryLine("cpu", max(held for _, held in points), start, None, points, True),),
        profiled_step_s=0.011,
        unprofiled_step_s=0.010,
        unprofiled_steps=3,
    )


def _analysis(*ranks: RankProfile, **changes: Any) -> Analysis:
    made = Analysis(
        stamp={"hardware": "made up", "cores": 2, "torch": "2"},
        command="distlab train",
        exit_code=0,
        tier="cpu",
        world_size=len(ranks),
        ranks=ranks,
        missing_ranks=(),
        stragglers=tuple(find_stragglers(ranks, {})),
        clocks=(),
        flame_graph=None,
        hta=(),
        problems=(),
    )
    return replace(made, **changes)


def _kinds(analysis: Analysis) -> list[str]:
    return [one.kind for one in find_bottlenecks(analysis)]


def test_a_healthy_run_has_nothing_but_its_work() -> None:
    [work] = find_bottlenecks(_analysis(_rank(0), _rank(1)))
    assert (work.kind, work.severity) == ("work", "note")
    assert any(line.startswith("aten::mm: 5.00 ms a step in 3 calls") for line in work.evidence)
    assert not any("all_reduce" in line for line in work.evidence)


@pytest.mark.parametrize("part", ["data", "idle"])
def test_each_part_is_named_with_what_it_costs(part: str) -> None:
    first = find_bottlenecks(_analysis(_rank(0, **{part: 0.010}), _rank(1, **{part: 0.010})))[0]
    assert first.kind == part
    assert first.cost_s == pytest.approx(0.010)
    assert first.share == pytest.approx(0.5, abs=0.01)
    assert first.severity == "high"


def test_the_dearest_comes_first() -> None:
    ranks = [_rank(rank, data=0.002, idle=0.004, exposed=0.003) for rank in range(2)]
    assert _kinds(_analysis(*ranks)) == ["idle", "communication", "data", "work"]


def test_waiting_for_a_straggler_is_not_charged_to_communication() -> None:
    # Rank 1 computes 20 ms longer; the others wait them out in the collective, whose own cost is 1 ms.
    analysis = _analysis(_rank(0, exposed=0.021), _rank(1, compute=0.030, exposed=0.001))
    found = find_bottlenecks(analysis)
    assert [one.kind for one in found] == ["straggler", "work"]
    assert found[0].title == "Rank 1 holds the others back"
    assert found[0].cost_s == pytest.approx(0.020, rel=0.05)
    assert any("throttles" in line for line in found[0].remedies)


def test_a_possible_straggler_comes_before_the_python_between_operators() -> None:
    # 5 ms of Python on each rank, and rank 1 sleeps for 10 to 30 ms, in three steps: chance is not ruled out.
    fast, slow = _rank(0, idle=0.005), _rank(1, idle=0.005)
    sleeps = (0.010, 0.030, 0.020)
    waits: tuple[StepTimes, ...] = ()
    late: tuple[StepTimes, ...] = ()
    for step, other, sleep_s in zip(fast.steps, slow.steps, sleeps, strict=False):
        waits += (replace(step, step_s=step.step_s + sleep_s, exposed_s=sleep_s, communication_s=sleep_s),)
        late += (replace(other, step_s=other.step_s + sleep_s, idle_s=other.idle_s + sleep_s),)
    analysis = _analysis(replace(fast, steps=waits), replace(slow, steps=late))
    assert [one.verdict for one in analysis.stragglers] == ["even", "noise"]
    first, second = find_bottlenecks(analysis)[:2]
    assert (first.kind, first.title) == ("straggler", "Rank 1 may hold the others back")
    assert first.remedies[0].startswith("Profile more steps: 3 of them do not rule out chance")
    assert second.kind == "idle"
    assert second.cost_s == pytest.approx(0.005)  # not the straggler's sleep


TIME_S = st.floats(0, 10) | st.floats(0, 1e-3)
STEP = st.tuples(TIME_S, TIME_S, TIME_S, TIME_S)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(STEP, min_size=1, max_size=6), min_size=1, max_size=3), st.booleans())
def test_no_bottleneck_costs_more_than_the_step(ranks: list[list[tuple[float, ...]]], named: bool) -> None:
    made = []
    for number, times in enumerate(ranks):
        steps = [
            StepTimes(k, float(k), sum(parts), parts[0], parts[1], parts[1], parts[2], parts[3])
            for k, parts in enumerate(times)
        ]
        made.append(replace(_rank(number), steps=tuple(steps), memory=()))
    analysis = _analysis(*made)
    if named:  # also where the rule would not, as in an analysis that somebody wrote
        slow = Straggler(0, "persistent", 1.0, 7.0, 9.0, 2, 2, 0, 0, "idle", "")
        analysis = replace(analysis, stragglers=(slow,))
    step_s = fmean(rank.mean()["step_s"] for rank in made)
    for one in find_bottlenecks(analysis):
        assert one.cost_s is None or one.cost_s <= step_s
        assert one.share is None or 0 <= one.share <= 1


@pytest.mark.parametrize(("elements", "advice"), [(100, "larger buckets"), (10**7, "Overlap")])
def test_small_and_large_collectives_need_different_remedies(elements: int, advice: str) -> None:
    ranks = [_rank(rank, exposed=0.010, elements=elements) for rank in range(2)]
    first = find_bottlenecks(_analysis(*ranks))[0]
    assert first.kind == "communication"
    assert advice in " ".join(first.remedies)


def test_memory_that_grows_with_each_step_is_noted() -> None:
    assert "memory" in _kinds(_analysis(_rank(0, grows=2**18)))
    assert "memory" not in _kinds(_analysis(_rank(0)))


def test_without_steps_there_is_nothing_to_rank() -> None:
    assert find_bottlenecks(_analysis(replace(_rank(0), steps=()))) == []


def _write(folder: Path, analysis: Analysis) -> Path:
    folder.mkdir()
    write_analysis(folder, analysis)
    return folder


def test_the_dossier_is_one_page_that_loads_nothing_and_obeys_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "<script>alert(1)</script>"
    rank = replace(_rank(0, data=0.01), host=evil, operators=(Operator(evil, "cpu", 1, 1.0, 1.0, evil),))
    folder = _write(tmp_path / "p", _analysis(rank, _rank(1, data=0.01), command=evil, problems=(evil,)))
    assert report(folder) == 0
    assert "1. The step waits for data" in capsys.readouterr().out
    html = (folder / "dossier.html").read_text()
    page = BeautifulSoup(html, "html.parser")
    assert page.find("script") is None
    assert evil in page.get_text()
    assert not page.find_all(src=True)
    assert all(not link["href"].startswith(("http", "//")) for link in page.find_all("a"))
    assert [heading.get_text() for heading in page.find_all("h2")][:3] == [
        "What is missing",
        "What to change first",
        "Where a step's time goes",
    ]
    assert all(figure.svg["aria-label"] for figure in page.find_all("figure"))


@pytest.mark.parametrize("name", ["https:example.org", "javascript:alert(1)", "other.svg"])
def test_the_dossier_links_to_no_flame_graph_but_py_spy_s(tmp_path: Path, name: str) -> None:
    for svg, links in ((name, 0), ("pyspy_rank_0.svg", 1)):
        graph = FlameGraph(rank=0, svg=svg, speedscope=None, seconds=1.0)
        folder = _write(tmp_path / f"p{links}", _analysis(_rank(0), _rank(1), flame_graph=graph))
        (folder / svg).touch()
        report(folder, json=True)
        page = BeautifulSoup((folder / "dossier.html").read_text(), "html.parser")
        assert len(page.find_all("a", href=svg)) == links


def test_the_dossier_reads_what_other_tools_left(tmp_path: Path) -> None:
    folder = _write(tmp_path / "p", _analysis(_rank(0), _rank(1)))
    (folder / "ncu.csv").write_text("no csv")
    assert report(folder, json=True) == 0
    assert "is not a CSV of Nsight Compute" in (folder / "dossier.html").read_text()


def test_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _write(tmp_path / "p", _analysis(_rank(0, idle=0.01)))
    assert report(folder, out=tmp_path / "x.html", json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dossier"] == str(tmp_path / "x.html")
    assert [one["kind"] for one in told["bottlenecks"]] == ["idle", "work"]


def test_a_recorded_profile_stays_as_it_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recorded").mkdir()
    folder = _write(tmp_path / "recorded" / "p", _analysis(_rank(0)))
    (folder.parent / "manifest.json").write_text("{}")
    before = sorted(folder.iterdir())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report(folder) == 0
    assert "The dossier: p_dossier.html" in capsys.readouterr().out
    assert Path("p_dossier.html").read_text().startswith("<!")
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    folder = _write(tmp_path / "p", _analysis(_rank(0)))
    with pytest.raises(SettingError, match="set --out to another file"):
        report(folder, out=tmp_path / "none" / "x.html")


def test_the_comparison_says_what_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _write(tmp_path / "before", _analysis(_rank(0, data=0.01), _rank(1, data=0.01)))
    after = _write(tmp_path / "after", _analysis(_rank(0), _rank(1)))
    assert compare(before, after) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "A step is 50% shorter: 20.02 ms before, 10.02 ms after; gone: The step waits for data (10.00 ms a step)."
        in told
    )
    assert "No longer a bottleneck: The step waits for data." in told
    page = BeautifulSoup((after / "comparison.html").read_text(), "html.parser")
    assert len(page.find_all("figure")) == 2
    stamps = [" ".join(section.p.find_next("p").get_text().split()) for section in page.find_all("section")]
    assert [stamp.endswith("· hardware made up · cores 2 · torch 2") for stamp in stamps] == [True, True]
    assert compare(before, after, json=True) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["low"] < made["ratio"] < made["high"] < 1
    changes = sum(part["after_s"] - part["before_s"] for part in made["parts"])
    assert changes == pytest.approx(made["step"]["after_s"] - made["step"]["before_s"])


def test_the_comparison_leads_with_the_straggler_that_went_or_came() -> None:
    slow = _analysis(_rank(0, exposed=0.020), _rank(1, idle=0.020))
    even = _analysis(_rank(0), _rank(1))
    assert slow.slowest is not None
    for sides, said in (((slow, even), "shorter"), ((even, slow), "longer")):
        compared = compare_profiles(*sides)
        assert said in compared.sentence
        word = "gone" if said == "shorter" else "new"
        assert f"; {word}: Rank 1 holds the others back (20.0" in compared.sentence
        assert "exposed communication" not in compared.sentence


def test_a_change_that_no_bottleneck_explains_is_told_by_its_part() -> None:
    sentence = compare_profiles(_analysis(_rank(0)), _analysis(_rank(0, compute=0.020))).sentence
    assert "most of it is compute (+10.00 ms)" in sentence


def test_the_dossier_lists_the_operators_of_the_straggler_too(tmp_path: Path) -> None:
    own = (Operator("aten::sort", "cpu", 3, 0.5, 0.9, ""),)
    slow = replace(_rank(2, idle=0.020), operators=own)
    ranks = (_rank(0, exposed=0.020), _rank(1, exposed=0.020), slow)
    folder = _write(tmp_path / "p", _analysis(*ranks))
    report(folder, json=True)
    page = BeautifulSoup((folder / "dossier.html").read_text(), "html.parser")
    headings = [heading.get_text() for heading in page.find_all("h2")]
    assert [one for one in headings if one.startswith(("Operators", "Collectives"))] == [
        "Operators of rank 0",
        "Operators of rank 2",
        "Collectives of rank 0",
        "Collectives of rank 2",
    ]
    assert "aten::sort" in page.get_text()
    assert "of rank 0:" in find_bottlenecks(_analysis(*ranks))[-1].evidence[0]


def test_a_difference_within_the_steps_noise_is_no_change() -> None:
    compared = compare_profiles(
        _analysis(_rank(0, jitter=0.002)), _analysis(_rank(0, compute=0.0101, jitter=0.002))
    )
    assert "no change beyond the steps' own noise" in compared.sentence


def test_unlike_runs_are_compared_with_a_warning() -> None:
    other = _analysis(_rank(0), _rank(1), tier="gpu", stamp={"hardware": "another"}, missing_ranks=(3,))
    warnings = " ".join(compare_profiles(_analysis(_rank(0)), other).warnings)
    for word in ("tier cpu", "made up in the first, another in the second", "1 ranks", "no trace of rank 3"):
        assert word in warnings


def test_a_profile_without_steps_cannot_be_compared() -> None:
    with pytest.raises(SettingError, match="The second profile has no step"):
        compare_profiles(_analysis(_rank(0)), _analysis(replace(_rank(0), steps=())))
