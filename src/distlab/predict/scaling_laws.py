"""What loss a training budget buys, and how large a batch may grow before it is wasted.

    compute_optimal(5.9e23, HOFFMANN)      # parameters and tokens of the lowest loss for so many FLOP
    BESIROGLU.loss(70e9, 1.4e12)           # nats per token
    noise_scale(4, 1.9, 64, 0.6)           # samples, from the gradient's length at two batch sizes
    steps_over_least(batch=512, critical_batch=2000)

All laws are fits of others to their own data, tokenizer and recipe: differences between two budgets carry over to
yours better than a loss does.
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.errors import SettingError

FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""Forward and backward, attention scores left out (Kaplan et al., 2020; Narayanan et al., SC'21)."""


@dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token: N parameters, D tokens (Hoffmann et al., 2022)."""

    name: str
    source: str
    """A key of book/references.bib."""
    E: float
    """What no model of this kind can go below: the text's own entropy."""
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token after one pass over `tokens`."""
        n, d = _positive("parameters", parameters), _positive("tokens", tokens)
        return float(self.E + self.A / n**self.alpha + self.B / d**self.beta)


HOFFMANN = ParametricLaw("Hoffmann et al.", "hoffmann2022training", 1.69, 406.4, 410.7, 0.34, 0.28)
"""As printed in the paper's section 3.3, rounded (S)."""

BESIROGLU = ParametricLaw(
    "Besiroglu et al.", "besiroglu2024chinchilla", 1.8172, 482.01, 2085.43, 0.3478, 0.3658
)
"""Fitted again to data read off the same paper's figures (S). The authors give standard errors: B +- 1293."""


def compute_optimal(flops: float, law: ParametricLaw) -> tuple[float, float]:
    """Parameters and tokens of the lowest loss for a budget C = 6 N D of FLOP.

    Setting the derivative along that curve to zero gives N = G (C/6)^(beta/(alpha+beta)) with
    G = (alpha A / (beta B))^(1/(alpha+beta)) (Hoffmann et al., 2022, equation 4).
    """
    products = _positive("flops", flops) / FLOPS_PER_PARAMETER_AND_TOKEN
    both = law.alpha + law.beta
    parameters = (law.alpha * law.A / (law.beta * law.B)) ** (1 / both) * products ** (law.beta / both)
    return parameters, products / parameters


def noise_scale(
    small_batch: float, small_norm_squared: float, large_batch: float, large_norm_squared: float
) -> float:
    """Samples at which a gradient's noise is as large as the gradient: tr(S) / |G|^2 (McCandlish et al., 2018).

    The expected squared length of a mean gradient over b samples is |G|^2 + tr(S)/b. Two batch sizes give two
    equations, and these the two unknowns. In data-parallel training both lengths are there anyway: a rank's own
    gradient before the all-reduce, and the mean after it. Average both over many steps before you divide.
    SettingError where the estimates contradict each other, as single steps often do.
    """
    if not 0 < small_batch < large_batch:
        raise SettingError(
            f"small_batch is {small_batch} and large_batch {large_batch}; the first is above 0 and below the second."
        )
    spread = 1 / small_batch - 1 / large_batch
    trace = (small_norm_squared - large_norm_squared) / spread
    true = (large_batch * large_norm_squared - small_batch * small_norm_squared) / (large_batch - small_batch)
    if trace <= 0 or true <= 0:
        raise SettingError(
            f"The squared lengths {small_norm_squared:.4g} and {large_norm_squared:.4g} give no noise scale; average "
            "them over more steps."
        )
    return trace / true


def steps_over_least(batch: float, critical_batch: float) -> float:
    """Optimizer steps to reach a loss, over the fewest of any batch: 1 + B_crit / B (McCandlish et al., 2018)."""
    return 1 + _positive("critical_batch", critical_batch) / _positive("batch", batch)


def samples_over_least(batch: float, critical_batch: float) -> float:
    """Samples to reach that loss, over the fewest: 1 + B / B_crit. At the critical batch both are 2."""
    return 1 + _positive("batch", batch) / _positive("critical_batch", critical_batch)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise SettingError(f"{name} is {value}; it must be more than 0.")
    return value
