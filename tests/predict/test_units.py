"""Values with a unit: made only by naming it, mixed with nothing else, at run time and under mypy."""

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict.units import Bandwidth, ComputeRate, Size, bytes_per_s, gigabits_per_s

RATES = st.floats(0, 1e6)
NETWORK = Bandwidth.gigabits_per_s(400)
NVLINK = Bandwidth.gigabytes_per_s(450)


def test_bits_and_bytes_meet_in_one_unit() -> None:
    assert NETWORK == Bandwidth.gigabytes_per_s(50) == Bandwidth.of_bytes_per_s(50e9)
    assert NETWORK < NVLINK
    assert NVLINK > NETWORK
    assert Bandwidth.gigabytes_per_s(50) >= NETWORK
    assert (NETWORK + NVLINK).in_gigabytes_per_s == 500
    assert NVLINK / NETWORK == 9
    assert (8 * NETWORK).in_gigabits_per_s == 3200
    assert str(NETWORK) == "50 GB/s (400 Gb/s)"


def test_gigabytes_over_gigabits_is_no_factor_of_eight() -> None:
    # "10 GB over 100 Gb/s take 0.1 s" circulates; it is 0.8.
    assert Size.gigabytes(10).seconds_at(Bandwidth.gigabits_per_s(100)) == pytest.approx(0.8)


def test_a_gibibyte_is_7_percent_more() -> None:
    assert Size.gibibytes(80) / Size.gigabytes(80) == pytest.approx(1.0737, abs=1e-4)


@given(RATES)
def test_there_and_back(rate: float) -> None:
    assert Bandwidth.gigabits_per_s(rate).in_gigabits_per_s == pytest.approx(rate)
    assert Bandwidth.gigabits_per_s(rate).bytes_per_s == bytes_per_s(rate)
    assert gigabits_per_s(Bandwidth.gigabytes_per_s(rate).bytes_per_s) == pytest.approx(8 * rate)


@given(RATES, RATES)
def test_sums_keep_the_unit_and_the_order(one: float, two: float) -> None:
    a, b = Bandwidth.gigabytes_per_s(one), Bandwidth.gigabits_per_s(two)
    assert a + b == b + a
    assert a + b >= a
    assert (a + b).in_gigabytes_per_s == pytest.approx(one + two / 8)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_more_bytes_take_longer_and_more_bandwidth_less(size: float, rate: float) -> None:
    bytes_, link = Size.gigabytes(size), Bandwidth.gigabytes_per_s(rate)
    assert (bytes_ * 2).seconds_at(link) == pytest.approx(2 * bytes_.seconds_at(link))
    assert bytes_.seconds_at(link * 2) == pytest.approx(bytes_.seconds_at(link) / 2)
    assert bytes_.seconds_at(Bandwidth.gigabytes_per_s(math.inf)) == 0


MIXES: list[Callable[[], object]] = [
    lambda: NETWORK + 450,  # type: ignore[operator]
    lambda: 450 + NETWORK,  # type: ignore[operator]
    lambda: NETWORK - 1.0,  # type: ignore[operator]
    lambda: NETWORK < 450,  # type: ignore[operator]
    lambda: NETWORK + Size.gigabytes(1),  # type: ignore[operator]
    lambda: NETWORK + ComputeRate.tera(1),  # type: ignore[operator]
    lambda: NETWORK / Size.gigabytes(1),  # type: ignore[operator]
    lambda: NETWORK * NVLINK,  # type: ignore[operator]
    lambda: 450 / NETWORK,  # type: ignore[operator]
    lambda: float(NETWORK),  # type: ignore[arg-type]
    lambda: sum([NETWORK, NVLINK]),  # type: ignore[list-item]
    lambda: Bandwidth(50),  # type: ignore[call-arg]
    lambda: Bandwidth(),
]


@pytest.mark.parametrize("mix", MIXES)
def test_mixing_is_an_error_at_run_time(mix: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        mix()
    assert NETWORK != 50e9
    assert Size.of_bytes(1) != Bandwidth.of_bytes_per_s(1)


@pytest.mark.parametrize("value", [-1, math.nan, True, "400", None])
def test_nonsense_is_refused(value: object) -> None:
    with pytest.raises(SettingError, match=r"Bandwidth is .* a number of 0 or more"):
        Bandwidth.gigabits_per_s(value)  # type: ignore[arg-type]


def test_a_difference_below_0_and_a_bandwidth_of_0_are_refused() -> None:
    assert (NVLINK - NETWORK).in_gigabytes_per_s == 400
    with pytest.raises(SettingError):
        NETWORK - NVLINK
    with pytest.raises(SettingError, match="Bandwidth is 0"):
        Size.gigabytes(1).seconds_at(Bandwidth.gigabits_per_s(0))


def test_a_value_cannot_be_changed_and_can_be_copied() -> None:
    with pytest.raises(AttributeError):
        NETWORK._value = 1.0
    assert {NETWORK: 1}[Bandwidth.gigabytes_per_s(50)] == 1
    assert pickle.loads(pickle.dumps(NETWORK)) == copy.deepcopy(NETWORK) == NETWORK


def test_mypy_refuses_what_run_time_refuses(tmp_path: Path) -> None:
    refused = [
        "network + 450",
        "450 + network",
        "network < 450",
        "network + Size.gigabytes(1)",
        "network / Size.gigabytes(1)",
        "Size.gigabytes(1).seconds_at(50e9)",
        "Bandwidth(50)",
    ]
    allowed = ["network + nvlink", "2 * network", "nvlink / network", "Size.gigabytes(1).seconds_at(network)"]
    page = tmp_path / "mixes.py"
    lines = [
        "from distlab.predict.units import Bandwidth, Size",
        "network, nvlink = Bandwidth.gigabits_per_s(400), Bandwidth.gigabytes_per_s(450)",
        *refused,
        *allowed,
    ]
    page.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(page)]
    ran = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2] / "src",
    )
    wrong = {int(line.split(":")[1]) for line in ran.stdout.splitlines() if ": error:" in line}
    assert wrong == set(range(3, 3 + len(refused))), ran.stdout + ran.stderr
