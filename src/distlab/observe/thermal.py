"""One simulated GPU's physics: load -> power -> temperature -> throttled clock.

    die = Die()
    for _ in range(600):                    # five minutes under full load, with half of the cooling gone
        die.step(activity=0.6, dram=0.5, cooling=Cooling(resistance_K_per_W=0.114))
    print(die.clock_MHz, die.temperature_C, die.throttle_reasons)

Power: what it draws at rest, plus what switches at every clock cycle (P ~ V^2 f, with a voltage that rises with the
clock), plus the memory interface. Temperature: one thermal resistance and one heat capacity, solved exactly over
each step. Two controllers: the power cap picks the highest clock that stays under it; thermal slowdown walks the
clock down while the die is too hot, and back up once it has cooled by some degrees (hysteresis).

It is a model to teach and to test with. It has the shapes of a real H100's telemetry, not its numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

from distlab.observe.sample import ThrottleReason
from distlab.predict.registry import Constant

STEP_S = 0.5
"""Simulated time passes in such steps, whoever reads, and however often."""

_DATASHEET, _SMI, _MODEL = "nvidia_h100_datasheet", "nvidia_smi_manual", "distlab_model"
_CHECKED = "2026-11-29"

_CONSTANTS = [
    Constant("power_limit_W", 700.0, "W", "H100 SXM, thermal design power", _DATASHEET, _CHECKED, "S"),
    Constant("memory_bytes", 81559 * 2**20, "B", "as nvidia-smi shows 80 GB of HBM3", _SMI, _CHECKED, "R"),
    Constant("memory_reserved_bytes", 520 * 2**20, "B", "what the driver keeps of it", _SMI, _CHECKED, "R"),
    Constant("sm_clock_max_MHz", 1980.0, "MHz", "H100 SXM, highest SM clock", _SMI, _CHECKED, "S"),
    Constant("sm_clock_idle_MHz", 345.0, "MHz", "H100 SXM, SM clock at rest", _SMI, _CHECKED, "R"),
    Constant("sm_clock_step_MHz", 15.0, "MHz", "distance of two SM clocks", _SMI, _CHECKED, "R"),
    Constant("memory_clock_MHz", 2619.0, "MHz", "H100 SXM, memory clock", _SMI, _CHECKED, "R"),
    Constant("max_operating_C", 87.0, "C", "from there on software slows the clock", _SMI, _CHECKED, "V"),
    Constant("slowdown_C", 89.0, "C", "from there on the hardware halves it", _SMI, _CHECKED, "V"),
    Constant("rest_W", 72.0, "W", "drawn by an H100 that nobody uses", _SMI, _CHECKED, "V"),
    # What no datasheet says. Chosen so that a rested GPU draws 72 W and is at 34 C, a dense matrix product runs
    # into the power cap at about 1.6 GHz, and 700 W settle at 70 C within two minutes.
    Constant("idle_W", 68.0, "W", "drawn whatever the clock", _MODEL, _CHECKED, "C"),
    Constant("clock_tree_W", 50.0, "W", "at the highest clock, without work", _MODEL, _CHECKED, "C"),
    Constant("switching_W", 760.0, "W", "at the highest clock, all of it switching", _MODEL, _CHECKED, "C"),
    Constant("dram_W", 110.0, "W", "memory interface at its full rate", _MODEL, _CHECKED, "C"),
    Constant("resistance_K_per_W", 0.057, "K/W", "from the die to the room's air", _MODEL, _CHECKED, "C"),
    Constant("capacity_J_per_K", 500.0, "J/K", "of the die and its heat sink", _MODEL, _CHECKED, "C"),
    Constant("ambient_C", 30.0, "C", "air at the server's inlet", _MODEL, _CHECKED, "C"),
    Constant("resume_C", 82.0, "C", "below it slowdown ends: 5 K of hysteresis", _MODEL, _CHECKED, "C"),
    Constant("dram_K", 12.0, "K", "memory above the die, at its full rate", _MODEL, _CHECKED, "C"),
    Constant(
        "voltage_floor", 0.7, "1", "of the highest voltage, up to half the clock", _MODEL, _CHECKED, "C"
    ),
]

H100 = {constant.name: constant for constant in _CONSTANTS}
"""Confidence: see distlab.predict.registry. `C` with source distlab_model: chosen, as the comment there says."""

POWER_LIMIT_W = H100["power_limit_W"].value
MEMORY_BYTES = int(H100["memory_bytes"].value)
MEMORY_RESERVED_BYTES = int(H100["memory_reserved_bytes"].value)
CLOCK_MAX_MHZ = H100["sm_clock_max_MHz"].value
CLOCK_IDLE_MHZ = H100["sm_clock_idle_MHz"].value
CLOCK_STEP_MHZ = H100["sm_clock_step_MHz"].value
MEMORY_CLOCK_MHZ = H100["memory_clock_MHz"].value
MAX_OPERATING_C = H100["max_operating_C"].value
SLOWDOWN_C = H100["slowdown_C"].value
RESUME_C = H100["resume_C"].value
IDLE_W = H100["idle_W"].value
CLOCK_TREE_W = H100["clock_tree_W"].value
SWITCHING_W = H100["switching_W"].value
DRAM_W = H100["dram_W"].value
RESISTANCE_K_PER_W = H100["resistance_K_per_W"].value
CAPACITY_J_PER_K = H100["capacity_J_per_K"].value
AMBIENT_C = H100["ambient_C"].value
DRAM_K = H100["dram_K"].value
VOLTAGE_FLOOR = H100["voltage_floor"].value

DOWN_MHZ, UP_MHZ = 2 * CLOCK_STEP_MHZ, CLOCK_STEP_MHZ
"""What thermal slowdown takes off the clock in a step, and gives back."""


@dataclass(frozen=True)
class Cooling:
    """The air at the inlet, and how well heat gets from the die into it."""

    ambient_C: float = AMBIENT_C  # noqa: N815 - units keep their case
    resistance_K_per_W: float = RESISTANCE_K_PER_W  # noqa: N815

    def steady_C(self, power_W: float) -> float:  # noqa: N802, N803
        """Where the temperature settles at a constant power: T = T_ambient + P R."""
        return self.ambient_C + power_W * self.resistance_K_per_W


def switching_share(clock_MHz: float) -> float:  # noqa: N803
    """(V / V_max)^2 f / f_max: the share of the switching power that is left at a lower clock.

    The voltage is flat up to half the highest clock and rises linearly from there.
    """
    share = clock_MHz / CLOCK_MAX_MHZ
    voltage = VOLTAGE_FLOOR + (1 - VOLTAGE_FLOOR) * max(0.0, share - 0.5) / 0.5
    return voltage**2 * share


_CLOCKS_MHZ = [
    CLOCK_IDLE_MHZ + i * CLOCK_STEP_MHZ
    for i in range(round((CLOCK_MAX_MHZ - CLOCK_IDLE_MHZ) / CLOCK_STEP_MHZ) + 1)
]
_SHARES = [switching_share(clock) for clock in _CLOCKS_MHZ]


def power_W(clock_MHz: float, activity: float, dram: float) -> float:  # noqa: N802, N803
    """Power at a clock. activity, dram: 0 to 1, share of what could switch and of the memory's rate."""
    return IDLE_W + switching_share(clock_MHz) * (CLOCK_TREE_W + SWITCHING_W * activity) + DRAM_W * dram


def capped_clock_MHz(activity: float, dram: float, limit_W: float = POWER_LIMIT_W) -> float:  # noqa: N802, N803
    """The highest clock whose power stays under the limit; the lowest clock where none does."""
    share = (limit_W - IDLE_W - DRAM_W * dram) / (CLOCK_TREE_W + SWITCHING_W * activity)
    return _CLOCKS_MHZ[max(0, bisect_right(_SHARES, share) - 1)]


RESTED_W = power_W(CLOCK_IDLE_MHZ, 0, 0)


@dataclass
class Die:
    """The state of one GPU. Watts, degrees Celsius, MHz, joules."""

    temperature_C: float = AMBIENT_C + RESTED_W * RESISTANCE_K_PER_W  # noqa: N815
    clock_MHz: float = CLOCK_IDLE_MHZ  # noqa: N815
    power_W: float = RESTED_W  # noqa: N815
    """Mean over the last step."""
    energy_J: float = 0.0  # noqa: N815
    power_limit_W: float = POWER_LIMIT_W  # noqa: N815
    ceiling_MHz: float = CLOCK_MAX_MHZ  # noqa: N815
    """What thermal slowdown leaves of the clock."""
    slowing: bool = False
    """It was too hot, and has not cooled to RESUME_C since: the ceiling does not go up."""
    throttle_reasons: tuple[ThrottleReason, ...] = field(default=("gpu_idle",))

    def next_clock(self, activity: float, dram: float, *, idle: bool = False) -> float:
        """Set the clock of the coming step, and why it is not higher. Returns it as a share of the highest."""
        self._watch_temperature()
        if idle:
            self.clock_MHz, self.throttle_reasons = CLOCK_IDLE_MHZ, ("gpu_idle",)
            return self.clock_MHz / CLOCK_MAX_MHZ
        reasons: list[ThrottleReason] = []
        clock = capped_clock_MHz(activity, dram, self.power_limit_W)
        if clock < min(self.ceiling_MHz, CLOCK_MAX_MHZ):
            reasons.append("sw_power_cap")
        elif self.ceiling_MHz < CLOCK_MAX_MHZ:
            clock = self.ceiling_MHz
            reasons.append("sw_thermal_slowdown")
        if self.temperature_C >= SLOWDOWN_C:
            clock = min(clock, CLOCK_MAX_MHZ / 2)
            reasons += ["hw_slowdown", "hw_thermal_slowdown"]
        self.clock_MHz, self.throttle_reasons = clock, tuple(reasons)
        return clock / CLOCK_MAX_MHZ

    def run(self, activity: float, dram: float, cooling: Cooling) -> None:
        """Draw power for a step at the clock that is set, and warm up or cool down by it.

        C dT/dt = P - (T - T_ambient) / R, with constant P: T goes to its steady value by exp(-t / (R C)).
        """
        self.power_W = power_W(self.clock_MHz, activity, dram)
        self.energy_J += self.power_W * STEP_S
        steady = cooling.steady_C(self.power_W)
        left = math.exp(-STEP_S / (cooling.resistance_K_per_W * CAPACITY_J_PER_K))
        self.temperature_C = steady + (self.temperature_C - steady) * left

    def step(self, activity: float, dram: float, cooling: Cooling, *, idle: bool = False) -> None:
        """Both, for a load that does not depend on the clock."""
        self.next_clock(activity, dram, idle=idle)
        self.run(activity, dram, cooling)

    def _watch_temperature(self) -> None:
        if self.temperature_C >= MAX_OPERATING_C:
            self.slowing = True
        elif self.temperature_C <= RESUME_C:
            self.slowing = False
        if self.temperature_C >= MAX_OPERATING_C:
            self.ceiling_MHz = max(CLOCK_IDLE_MHZ, self.ceiling_MHz - DOWN_MHZ)
        elif not self.slowing:
            self.ceiling_MHz = min(CLOCK_MAX_MHZ, self.ceiling_MHz + UP_MHZ)
