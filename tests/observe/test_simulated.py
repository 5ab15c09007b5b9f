"""The simulated GPUs obey the physics that they claim, repeat themselves by seed, and show each scenario's signs."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.observe.sample import GpuSample, Reading
from distlab.observe.simulated import FIRST_PID, MOST_STEPS, SimulatedSource, simulate
from distlab.observe.thermal import (
    AMBIENT_C,
    CLOCK_IDLE_MHZ,
    CLOCK_MAX_MHZ,
    H100,
    IDLE_W,
    MAX_OPERATING_C,
    POWER_LIMIT_W,
    RESISTANCE_K_PER_W,
    RESUME_C,
    SLOWDOWN_C,
    STEP_S,
    Cooling,
    Die,
    capped_clock_MHz,
    power_W,
    switching_share,
)
from distlab.observe.workload import SCENARIOS, Conditions, Scenario, Work

shares = st.floats(0, 1)
coolings = st.builds(Cooling, st.floats(10, 45), st.floats(0.03, 0.15))
clocks = st.floats(CLOCK_IDLE_MHZ, CLOCK_MAX_MHZ)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=25)
@given(clocks, shares, shares, coolings)
def test_at_constant_power_the_temperature_settles_at_ambient_plus_p_r(
    clock: float, activity: float, dram: float, cooling: Cooling
) -> None:
    die = Die(clock_MHz=clock)
    for _ in range(4000):
        die.run(activity, dram, cooling)
    expected = cooling.ambient_C + power_W(clock, activity, dram) * cooling.resistance_K_per_W
    assert die.temperature_C == pytest.approx(expected, abs=1e-6)


@given(clocks, shares, shares, coolings, st.floats(20, 110))
def test_energy_in_is_energy_stored_and_energy_given_off(
    clock: float, activity: float, dram: float, cooling: Cooling, start: float
) -> None:
    """Heat that leaves, integrated in fine steps from the temperatures, balances what was drawn."""
    die = Die(clock_MHz=clock, temperature_C=start)
    given_off = 0.0
    for _ in range(200):
        before = die.temperature_C
        die.run(activity, dram, cooling)
        # the mean of an exponential between two temperatures, around its steady value
        steady = cooling.steady_C(die.power_W)
        gap, left = before - steady, die.temperature_C - steady
        mean = steady + ((gap - left) / math.log(gap / left) if abs(gap) > 1e-6 else gap)
        given_off += (mean - cooling.ambient_C) / cooling.resistance_K_per_W * STEP_S
    stored = H100["capacity_J_per_K"].value * (die.temperature_C - start)
    assert die.energy_J == pytest.approx(stored + given_off, rel=1e-6, abs=1e-3)


@given(st.lists(st.tuples(shares, shares, st.booleans()), min_size=1, max_size=60), coolings)
def test_the_energy_counter_is_the_integral_of_power_and_the_clock_and_power_stay_below_their_limits(
    loads: list[tuple[float, float, bool]], cooling: Cooling
) -> None:
    die, joules = Die(), 0.0
    for activity, dram, idle in loads:
        die.step(0 if idle else activity, 0 if idle else dram, cooling, idle=idle)
        joules += die.power_W * STEP_S
        assert CLOCK_IDLE_MHZ <= die.clock_MHz <= CLOCK_MAX_MHZ
        assert die.power_W <= POWER_LIMIT_W
        assert die.power_W >= IDLE_W
        assert ("sw_power_cap" in die.throttle_reasons) <= (die.clock_MHz < CLOCK_MAX_MHZ)
        if not die.throttle_reasons:
            assert die.clock_MHz == CLOCK_MAX_MHZ, "nothing holds the clock down"
    assert die.energy_J == pytest.approx(joules)


@given(clocks, clocks, shares, shares, shares)
def test_more_clock_or_more_work_draws_more(a: float, b: float, x: float, y: float, dram: float) -> None:
    low, high = sorted((a, b))
    less, more = sorted((x, y))
    assert switching_share(low) <= switching_share(high)
    assert power_W(low, less, dram) <= power_W(high, more, dram)
    assert capped_clock_MHz(more, dram) <= capped_clock_MHz(less, dram)


@given(coolings, coolings, shares)
def test_worse_cooling_is_never_colder(one: Cooling, other: Cooling, activity: float) -> None:
    """From the air's temperature on: a die that is colder than the air is warmed by it."""
    airs, resistances = zip(*((c.ambient_C, c.resistance_K_per_W) for c in (one, other)), strict=True)
    warm, cool = (Die(clock_MHz=1500, temperature_C=max(airs)) for _ in range(2))
    for _ in range(30):
        warm.run(activity, 0.3, Cooling(max(airs), max(resistances)))
        cool.run(activity, 0.3, Cooling(min(airs), min(resistances)))
        assert warm.temperature_C >= cool.temperature_C - 1e-9


@settings(max_examples=20)
@given(st.floats(0.095, 0.13))
def test_thermal_slowdown_engages_at_the_limit_and_ends_only_after_cooling(resistance: float) -> None:
    die, hot = Die(), Cooling(38.0, resistance)
    while not die.slowing:
        die.step(0.55, 0.4, hot)
    assert die.temperature_C >= MAX_OPERATING_C - 1
    engaged = False
    for _ in range(2000):
        was, before = die.slowing, die.temperature_C
        die.step(0.55, 0.4, hot)
        engaged |= "sw_thermal_slowdown" in die.throttle_reasons
        if was and not die.slowing:
            assert before <= RESUME_C, "hysteresis: not as soon as it is below the limit"
        if was and die.slowing:
            assert before > RESUME_C
        assert die.temperature_C < SLOWDOWN_C, "software keeps it below where the hardware steps in"
    assert engaged
    for _ in range(1200):
        die.step(0.55, 0.4, Cooling())
    assert not die.slowing
    assert "sw_thermal_slowdown" not in die.throttle_reasons
    assert die.clock_MHz == CLOCK_MAX_MHZ, "cooled well, it runs at full speed again"


def test_the_hardware_halves_the_clock_of_a_die_that_is_too_hot() -> None:
    die = Die(temperature_C=SLOWDOWN_C + 1)
    die.step(0.5, 0.3, Cooling())
    assert die.clock_MHz <= CLOCK_MAX_MHZ / 2
    assert {"hw_slowdown", "hw_thermal_slowdown"} <= set(die.throttle_reasons)


def test_a_full_load_runs_into_the_power_cap() -> None:
    die = Die()
    for _ in range(600):
        die.step(1.0, 0.6, Cooling())
    assert die.throttle_reasons == ("sw_power_cap",)
    assert POWER_LIMIT_W - 15 < die.power_W <= POWER_LIMIT_W, "one clock step below it"
    assert 1500 < die.clock_MHz < 1800


def test_samples_do_not_depend_on_how_often_they_are_read() -> None:
    often, rarely = (simulate("ecc-storm", seconds=120, every_s=every, gpus=3) for every in (0.5, 60.0))
    final = [reading[-1].samples for reading in (often, rarely)]
    assert [strip(sample) for sample in final[0]] == [strip(sample) for sample in final[1]]
    told = [
        [xid for reading in readings for s in reading.samples for xid in s.xids]
        for readings in (often, rarely)
    ]
    assert sorted(told[0], key=str) == sorted(told[1], key=str)
    assert told[0]


def test_the_seed_decides() -> None:
    one, same, other = (simulate("training", seconds=20, gpus=2, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one[-1].samples[0].power_W != one[-1].samples[1].power_W, "each GPU has chances of its own"


def strip(sample: GpuSample) -> GpuSample:
    return replace(sample, xids=())


def last(name: str, seconds: float = 100, gpus: int = 4) -> Reading:
    return simulate(name, seconds=seconds, every_s=5, gpus=gpus)[-1]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_sample_is_labelled_and_adds_up(name: str) -> None:
    for reading in simulate(name, seconds=200, every_s=10, gpus=2):
        for sample in reading.samples:
            assert sample.name.startswith("SIMULATED ")
            assert (sample.tier, sample.driver) == ("simulated", "SIMULATED")
            assert sample.memory_used_bytes is not None
            assert sample.memory_free_bytes is not None
            assert sample.memory_reserved_bytes is not None
            whole = sample.memory_used_bytes + sample.memory_free_bytes + sample.memory_reserved_bytes
            assert whole == H100["memory_bytes"].value
            assert all(p.pid >= FIRST_PID and p.name.startswith("SIMULATED") for p in sample.processes or ())
            if sample.mig:
                continue
            assert sample.utilization_percent is not None
            assert 0 <= sample.utilization_percent <= 100
            for share in (sample.tensor_active, sample.dram_active, sample.graphics_active):
                assert share is not None
                assert 0 <= share <= 1


def test_a_healthy_job_keeps_its_gpus_busy_and_warm() -> None:
    for sample in last("training").samples:
        assert (sample.utilization_percent or 0) >= 95
        assert 500 < (sample.power_W or 0) < POWER_LIMIT_W
        assert sample.throttle_reasons == ()


def test_a_small_batch_is_busy_and_does_little() -> None:
    """The trap of `utilization`: a kernel runs nearly all the time, and the GPU is nearly unused."""
    sample = last("small-batch").samples[0]
    assert (sample.utilization_percent or 0) > 85
    assert (sample.tensor_active or 1) < 0.1
    assert (sample.power_W or 999) < 0.4 * POWER_LIMIT_W


def test_data_starvation_leaves_gpus_without_kernels() -> None:
    sample = last("data-starved").samples[0]
    assert 25 < (sample.utilization_percent or 0) < 45
    assert sample.sm_clock_MHz == CLOCK_MAX_MHZ


def test_those_who_wait_for_a_straggler_look_busy_and_stay_cooler() -> None:
    *waiting, slow = last("straggler").samples
    assert all((s.utilization_percent or 0) > 95 for s in (*waiting, slow))
    assert all((s.power_W or 0) < 0.85 * (slow.power_W or 0) for s in waiting)
    assert all((s.tensor_active or 0) < 0.75 * (slow.tensor_active or 0) for s in waiting)


def test_one_overheated_gpu_slows_the_whole_job() -> None:
    clock = Clock()
    source = SimulatedSource("overheating", gpus=4, clock=clock)
    pace, reasons = {}, set()
    for second in range(600):
        clock.now = 1000.0 + second
        hot, *others = source.read().samples
        pace[second] = source.step_s
        reasons |= set(hot.throttle_reasons or ())
        assert all(other.throttle_reasons in ((), ("gpu_idle",)) for other in others)
    assert reasons == {"gpu_idle", "sw_thermal_slowdown"}
    assert fmean(pace[s] or 0 for s in range(120, 180)) > 1.1 * fmean(pace[s] or 0 for s in range(20, 40))


def test_a_leak_fills_the_memory_and_ends_the_job() -> None:
    used = [r.samples[0].memory_used_bytes or 0 for r in simulate("memory-leak", seconds=200, gpus=1)]
    full = max(used)
    assert full > 0.95 * H100["memory_bytes"].value
    until = used.index(full)
    assert used[1:until] == sorted(used[1:until])
    assert used[-1] == 0
    assert last("memory-leak", seconds=200).samples[0].processes == ()


def test_an_ecc_storm_counts_remaps_and_reports() -> None:
    readings = simulate("ecc-storm", seconds=1500, gpus=2)
    bad, good = readings[-1].samples
    assert (bad.ecc_single_bit_total or 0) > 500
    assert (bad.ecc_double_bit_total or 0) > 8
    assert (bad.remapped_rows_uncorrectable, bad.row_remap_failed) == (8, True)
    codes = [xid.code for reading in readings for xid in reading.samples[0].xids]
    assert set(codes) == {48, 63, 64}
    assert codes.count(48) == bad.ecc_double_bit_total
    assert (good.ecc_single_bit_total, good.ecc_double_bit_total) == (0, 0)


def test_a_gpu_that_falls_off_the_bus_is_missing_and_comes_back_counting_from_zero() -> None:
    readings = simulate("xid-79", seconds=170, gpus=2)
    assert [xid.code for s in readings[41].samples for xid in s.xids] + [
        xid.code for p in readings[41].problems for xid in p.xids
    ] == [79]
    for reading in readings[45:155]:
        assert [sample.gpu for sample in reading.samples] == [0]
        assert [problem.gpu for problem in reading.problems] == [1]
    back = readings[165].samples[1]
    assert (back.energy_J_total or 0) < (readings[30].samples[1].energy_J_total or 0)
    assert readings[165].problems == ()


def test_a_gpu_in_slices_tells_them_in_place_of_utilization() -> None:
    sliced, whole = last("mig", gpus=2).samples
    assert (sliced.utilization_percent, sliced.tensor_active, whole.mig) == (None, None, None)
    assert sliced.mig
    assert [instance.profile for instance in sliced.mig] == ["3g.40gb", "2g.20gb", "1g.10gb"]
    used = [instance.memory_used_bytes or 0 for instance in sliced.mig]
    assert sum(used) == pytest.approx(sliced.memory_used_bytes, abs=3)
    assert all(u < (instance.memory_total_bytes or 0) for u, instance in zip(used, sliced.mig, strict=True))
    assert whole.utilization_percent == 99, "it waits for no slice"


def test_the_xid_of_a_lost_gpu_is_told_however_rarely_it_is_read() -> None:
    (problem,) = simulate("xid-79", seconds=100, every_s=100, gpus=2)[-1].problems
    assert [xid.code for xid in problem.xids] == [79]


def test_link_traffic_follows_the_steps() -> None:
    def rate(name: str, gpus: int) -> float:
        early, late = (simulate(name, seconds=s, every_s=s, gpus=gpus)[-1].samples[0] for s in (50, 60))
        return ((late.nvlink_bytes_total or 0) - (early.nvlink_bytes_total or 0)) / 10

    assert rate("training", 2) == pytest.approx(24e9 / 0.34, rel=0.05)
    assert rate("data-starved", 2) < 0.4 * rate("training", 2)
    assert rate("training", 1) == 0, "one GPU has nobody to send to"
    assert rate("idle", 2) == 0


def test_time_lapse_and_a_later_start() -> None:
    clock = Clock()
    fast = SimulatedSource("training", gpus=1, speed=60, clock=clock)
    ahead = SimulatedSource("training", gpus=1, at_s=120, clock=clock)
    clock.now += 2
    assert fast.read().samples[0].energy_J_total == pytest.approx(
        ahead.read().samples[0].energy_J_total, rel=0.02
    )


def test_a_long_sleep_is_not_computed_in_full_and_a_clock_set_back_does_no_harm() -> None:
    clock = Clock()
    source = SimulatedSource("idle", gpus=1, clock=clock)
    clock.now += 30 * 86400
    (sample,) = source.read().samples
    assert sample.energy_J_total == pytest.approx(MOST_STEPS * STEP_S * (sample.power_W or 0), rel=0.01)
    clock.now += 10
    more = (source.read().samples[0].energy_J_total or 0) - (sample.energy_J_total or 0)
    assert more == pytest.approx(10 * (sample.power_W or 0)), "it goes on from where it was"
    clock.now = 0.0
    assert source.read().samples[0].energy_J_total is not None


def test_a_scenario_of_your_own() -> None:
    work = Work(compute_s=1.0, intensity=1.0, dram=0.6)
    own = Scenario("mine", "A matrix product without an end.", lambda gpu, t: Conditions(work))
    (sample,) = simulate(own, seconds=60, gpus=1)[-1].samples
    assert sample.throttle_reasons == ("sw_power_cap",)


@pytest.mark.parametrize("gpus", [0, 65, -1])
def test_too_many_or_no_gpus_are_refused(gpus: int) -> None:
    with pytest.raises(SettingError, match="choose 1 to 64"):
        SimulatedSource(gpus=gpus)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(SettingError, match="3600 at most"):
        SimulatedSource(speed=speed)


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'overheating'"):
        SimulatedSource("overheat")


def test_a_rested_gpu_is_as_warm_as_its_idle_power_makes_it() -> None:
    (sample,) = last("idle", gpus=1).samples
    assert sample.power_W == pytest.approx(H100["rest_W"].value, abs=1)
    assert sample.temperature_C == round(AMBIENT_C + (sample.power_W or 0) * RESISTANCE_K_PER_W)
    assert sample.throttle_reasons == ("gpu_idle",)
