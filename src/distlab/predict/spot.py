"""What an hour of useful training costs on machines that may be taken away.

    price = useful_hour(6.88, Recovery(mtbf_s=..., restart_s=...), saving)
    break_even_price(6.88, steady, saving, shaky, saving)

An hour that is paid holds `goodput` hours of training (see goodput.py); the rest is saves, work done again and
waiting. Nodes are paid while they wait. Prices are per hour and GPU; the currency is the caller's.
"""

from __future__ import annotations

import math

from distlab.predict.failures import positive
from distlab.predict.goodput import Checkpoint, Recovery, goodput, optimal_interval_s


def best_saving(job: Recovery, saving: Checkpoint) -> Checkpoint:
    """The same way of saving at the interval of highest goodput."""
    return saving.every(optimal_interval_s(job, saving))


def useful_hour(price_per_hour: float, job: Recovery, saving: Checkpoint) -> float:
    """Price of an hour of training that is kept: the hour's price over the goodput; infinite where nothing is."""
    useful = goodput(job, saving).useful
    return positive("price_per_hour", price_per_hour) / useful if useful > 0 else math.inf


def break_even_price(
    price_per_hour: float, steady: Recovery, saving: Checkpoint, shaky: Recovery, shaky_saving: Checkpoint
) -> float:
    """Price of the shaky machine's hour at which a useful hour costs the same on both."""
    return positive("price_per_hour", price_per_hour) * (
        goodput(shaky, shaky_saving).useful / goodput(steady, saving).useful
    )
