"""The simulated run: conserved time, agreement with the closed form, published counts, spares, elastic worlds."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict.failures import Component, llama3_components, poisson_interval, spares_needed
from distlab.predict.goodput import Checkpoint, Goodput, Recovery, goodput
from distlab.predict.simulate import SHARES, Run, simulate, simulate_run

LLAMA3 = Run(
    nodes=2_048,
    components=llama3_components(),
    saving=Checkpoint(600, blocking_s=5, background_s=60),
    detection_s=60,
    restart_s=300,
)
SYNC = Checkpoint(1155, blocking_s=60)


def exact(run: Run) -> Goodput:
    return goodput(Recovery(3600 / run.failures_per_h, run.detection_s, run.restart_s), run.saving)


@pytest.mark.parametrize(
    "run",
    [
        dataclasses.replace(LLAMA3, saving=SYNC),
        LLAMA3,
        dataclasses.replace(LLAMA3, saving=Checkpoint(600, 5, background_s=600, slowdown=0.1)),
        dataclasses.replace(LLAMA3, saving=Checkpoint(20, 1)),
        # Twice an hour, restarts that fail, a write across half of each interval.
        Run(64, (Component("node", 64, 32),), Checkpoint(300, 30, 150, 0.2), 60, 600, days=54),
    ],
    ids=["synchronous", "asynchronous", "write as long as the interval", "often", "harsh"],
)
def test_agrees_with_the_closed_form_within_a_point(run: Run) -> None:
    summary = simulate(run, replicas=24, seed=3)
    assert summary.goodput.mean == pytest.approx(exact(run).useful, abs=0.01)
    assert summary.goodput.mean == pytest.approx(exact(run).useful, abs=5 * summary.goodput.error + 1e-4)
    for name in ("detection", "restart"):
        assert summary.shares[name] == pytest.approx(exact(run).terms()[name], rel=0.05)


def test_llama3s_counts_and_effective_time() -> None:
    # 419 is what the MTBF was fitted on; here the simulation must spread about it as Poisson counts do.
    summary = simulate(LLAMA3, replicas=60, seed=1)
    low, high = poisson_interval(419)
    assert (summary.failures.low, summary.failures.high) == pytest.approx((low, high), rel=0.06)
    assert summary.goodput.low > 0.9


def test_the_same_seed_is_the_same_run() -> None:
    assert simulate_run(LLAMA3, 7) == simulate_run(LLAMA3, 7)
    assert simulate_run(LLAMA3, 7) != simulate_run(LLAMA3, 8)


@settings(max_examples=60)
@given(
    st.integers(1, 20),
    st.floats(20, 2000),
    st.sampled_from(["fixed", "elastic"]),
    st.integers(0, 3),
    st.floats(0, 50),
    st.floats(20, 500),
    st.floats(0, 1),
    st.floats(0, 5000),
    st.floats(1, 5000),
    st.floats(0, 100),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_every_second_goes_somewhere(
    nodes,
    mtbf_h,
    world,
    spares,
    repair_h,
    straggler_mtbf_h,
    slow,
    slow_s,
    interval_s,
    blocking_s,
    slowdown,
    seed,
) -> None:
    run = Run(
        nodes,
        (Component("host", nodes, mtbf_h), Component("software", 1, mtbf_h, replaced=False)),
        Checkpoint(interval_s, blocking_s, interval_s * (seed % 3) / 2, slowdown),
        days=3,
        world=world,
        spares=spares,
        repair_h=repair_h,
        straggler_mtbf_h=straggler_mtbf_h,
        straggler_slowdown=slow,
        straggler_s=slow_s,
    )
    outcome = simulate_run(run, seed)
    assert tuple(outcome.shares) == SHARES
    assert sum(outcome.shares.values()) == pytest.approx(1)
    assert min(outcome.shares.values()) >= -1e-9
    assert sum(outcome.by_component.values()) == outcome.failures
    assert 0 <= outcome.fewest_nodes <= nodes


def test_without_failures_only_the_saves_cost() -> None:
    run = Run(8, (), SYNC, days=54)
    outcome = simulate_run(run)
    assert outcome.failures == 0
    assert outcome.saves == int(54 * 86_400 / SYNC.cycle_s)
    assert outcome.goodput == pytest.approx(1155 / 1215, abs=1e-3)


def test_saves_that_cost_nothing_lose_nothing() -> None:
    shares = simulate_run(dataclasses.replace(LLAMA3, saving=Checkpoint(1, 0))).shares
    assert shares["checkpoint"] == 0
    assert shares["lost"] < 1e-4
    assert shares["useful"] == pytest.approx(1 - shares["detection"] - shares["restart"], abs=1e-4)


def test_a_write_that_was_not_done_does_not_count() -> None:
    late = dataclasses.replace(LLAMA3, saving=Checkpoint(600, 0, background_s=599))
    soon = dataclasses.replace(LLAMA3, saving=Checkpoint(600, 0))
    extra = simulate(late, 20).shares["lost"] - simulate(soon, 20).shares["lost"]
    running = 1 - (60 + 300) / (54 * 86_400 / 419)
    assert extra == pytest.approx(running * 599 / (54 * 86_400 / 419), rel=0.1)


def test_every_save_is_counted_where_the_write_ends_with_the_work() -> None:
    # 13 s of work at 0.9 of the pace take as long as the write but for rounding; harmless stragglers cut the run up.
    saving = Checkpoint(13, 0, background_s=13 / 0.9, slowdown=0.1)
    cut_up = Run(1, (), saving, days=1, straggler_mtbf_h=0.002, straggler_s=1)
    assert simulate_run(cut_up).saves == pytest.approx(86_400 / saving.cycle_s, abs=2)


def test_more_failures_never_help() -> None:
    half = tuple(dataclasses.replace(part, mtbf_h=part.mtbf_h / 2) for part in LLAMA3.components)
    assert (
        simulate(dataclasses.replace(LLAMA3, components=half), 10).goodput.high
        < simulate(LLAMA3, 10).goodput.low
    )


def test_a_fixed_world_without_spares_waits_and_an_elastic_one_goes_on() -> None:
    scarce = dataclasses.replace(LLAMA3, repair_h=12, spares=0)
    waits = simulate_run(scarce)
    assert waits.shares["waiting"] > 0.5
    assert waits.longest_wait_s > 3600
    assert waits.fewest_nodes == 2_048
    goes_on = simulate_run(dataclasses.replace(scarce, world="elastic"))
    assert goes_on.shares["waiting"] == 0
    assert 0 < goes_on.shares["missing"] < 0.01
    assert goes_on.fewest_nodes < 2_048
    assert goes_on.goodput > 0.9


def test_an_elastic_world_waits_below_its_least() -> None:
    run = Run(4, (Component("node", 4, 24),), SYNC, world="elastic", least_nodes=3, repair_h=24)
    outcome = simulate_run(run)
    assert outcome.shares["waiting"] > 0
    assert outcome.fewest_nodes >= 3


def test_enough_spares_are_as_good_as_repair_at_once() -> None:
    hosts = sum(part.failures_per_h for part in LLAMA3.components if part.replaced)
    spares = spares_needed(LLAMA3.nodes, LLAMA3.nodes / hosts, repair_h=24, confidence=0.999)
    enough = simulate(dataclasses.replace(LLAMA3, spares=spares, repair_h=24), 20)
    assert enough.goodput.mean == pytest.approx(exact(LLAMA3).useful, abs=0.01)
    few = simulate(dataclasses.replace(LLAMA3, spares=spares // 4, repair_h=24), 20)
    assert few.shares["waiting"] > 0.1


def test_a_software_fault_takes_no_node() -> None:
    software = (Component("software", 1, 3, replaced=False),)
    outcome = simulate_run(dataclasses.replace(LLAMA3, components=software, spares=0, repair_h=1e6))
    assert outcome.shares["waiting"] == 0
    assert outcome.by_component == {"software": outcome.failures}


def test_stragglers_slow_the_share_of_time_that_one_is_there() -> None:
    # Each of 100 nodes turns slow every 1,000 h, for 2 h: one or more are slow 1 - exp(-0.2) of the time.
    run = Run(
        100,
        (),
        Checkpoint(3600, 0),
        days=200,
        straggler_mtbf_h=1_000,
        straggler_slowdown=0.25,
        straggler_s=7_200,
    )
    share = simulate(run, 10).shares["straggler"]
    assert share == pytest.approx((1 - math.exp(-0.2)) * (1 - 1 / 1.25), rel=0.05)


def test_progress_is_told_after_each_replica() -> None:
    seen: list[int] = []
    simulate(dataclasses.replace(LLAMA3, days=1), 3, progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nodes": 0}, "nodes"),
        ({"world": "round"}, "world"),
        ({"least_nodes": 5_000}, "least_nodes"),
        ({"spares": -1}, "spares"),
        ({"repair_h": -1}, "repair_h"),
        ({"days": math.nan}, "days"),
        ({"straggler_mtbf_h": 0}, "straggler_mtbf_h"),
        ({"components": (Component("GPU", 16_384, 1e-3),)}, "mtbf_h"),
    ],
)
def test_nonsense_is_refused_by_name(change, field: str) -> None:
    with pytest.raises(SettingError, match=field):
        dataclasses.replace(LLAMA3, **change)


def test_one_replica_has_no_interval() -> None:
    with pytest.raises(SettingError, match="replicas"):
        simulate(LLAMA3, 1)
