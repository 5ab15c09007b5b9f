"""What training runs cost, and how much of it was for nothing.

    distlab observe cost runs/fsdp_2gpu runs/ddp --accelerator "H100 80GB"

With a price p of one GPU for an hour, and the rank-seconds that account.py reads off a run's log:

- spend = p * paid / 3600; wasted[reason] = p * reason / 3600, for idle, failure and straggler
- a step: spend / steps that count; a million tokens: 1e6 * spend / tokens in them; so what was wasted is in the price
- an epoch: p * (paid until the last complete epoch ended) / 3600 / complete epochs

The exporter shows the same for runs that go on, and what a log does not know: the time since the last line is spent,
too, and is failure once the run has hung for a while (runs.py) or ended before its goal. It spends GPUs that no run
has under the run's name "": all of it idle while no process is on the GPU, or while its utilisation is below
IDLE_BELOW_PERCENT.
"""

from __future__ import annotations

import difflib
import json as jsonlib
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.observe.account import Account
from distlab.predict.hardware.prices import Price, PriceTable, read_prices
from distlab.train.records import RunInfo, read_info, read_log

IDLE_BELOW_PERCENT = 5.0
HOUR_S = 3600.0
UNCHARGED = (
    "Counted is what the log holds: the time before it is opened (starting the ranks, importing, loading data and "
    "model) and after its last line is not in it, and a provider bills that, too."
)


@dataclass(frozen=True)
class Cost:
    """What a run came to, in `currency`."""

    run: str
    currency: str
    per_gpu_hour: float
    gpu_hours: float
    spend: float
    useful: float
    """In steps that count, less waiting for data and for stragglers."""
    wasted: dict[str, float]
    """By reason: idle, failure, straggler."""
    per_step: float | None
    per_million_tokens: float | None
    per_epoch: float | None
    """None before one is complete."""
    goodput: float | None
    """Share of the time paid for that went into steps that count."""
    budget: float | None = None
    tier: str = ""
    """`gpu` or `cpu`: where the run was, whatever it is priced as."""
    hardware: str = ""
    price_source: str = ""
    as_if_on: str | None = None
    """The GPU of the price, where the run was not on it."""


@dataclass(frozen=True)
class Rate:
    """A price for an hour of one rank's device, and who says so."""

    per_hour: float
    source: str
    accelerator: str | None = None
    """The table's name for the GPU; None for a price of somebody's own."""


def rate_of(price: Price) -> Rate:
    """A row of the table."""
    source = f"{price.accelerator} at {price.provider} ({price.unit}), {price.source}, {price.date}"
    return Rate(price.per_hour, f"{source}, confidence {price.confidence}", price.accelerator)


def cost(
    run: str,
    account: Account,
    per_hour: float,
    currency: str,
    budget: float | None = None,
    spent_s: float | None = None,
    wasted_s: dict[str, float] | None = None,
) -> Cost:
    """Price an account. spent_s, wasted_s: rank-seconds, where more is known than the log shows."""
    per_s = per_hour / HOUR_S
    paid_s = account.paid_s if spent_s is None else spent_s
    spend, steps = paid_s * per_s, len(account.steps.step)
    return Cost(
        run=run,
        currency=currency,
        per_gpu_hour=per_hour,
        gpu_hours=paid_s / HOUR_S,
        spend=spend,
        useful=account.useful_s * per_s,
        wasted={reason: seconds * per_s for reason, seconds in (wasted_s or account.wasted_s).items()},
        per_step=spend / steps if steps else None,
        per_million_tokens=1e6 * spend / account.tokens if account.tokens > 0 else None,
        per_epoch=account.epochs_paid_s * per_s / account.epochs if account.epochs else None,
        goodput=account.goodput,
        budget=budget,
    )


@dataclass(frozen=True)
class Budgets:
    """What runs may cost."""

    every: float | None = None
    """Of each run that has none of its own."""
    own: dict[str, float] = field(default_factory=dict)

    def of(self, run: str) -> float | None:
        """None: nothing was said."""
        return self.own.get(run, self.every)


def read_budgets(texts: tuple[str, ...]) -> Budgets:
    """`50` for every run, `demo=20` for one. SettingError for anything else."""
    every, own = None, {}
    for text in texts:
        name, equals, amount = text.rpartition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf or (equals and not name):
            raise SettingError(f"The budget {text!r} is no amount above 0; write 50, or NAME=50 for one run.")
        if name:
            own[name] = value
        else:
            every = value
    return Budgets(every, own)


def price_of(info: RunInfo, table: PriceTable) -> Rate | None:
    """Of one rank's device: by its GPU's name, else what the run's own setting says; None if unknown."""
    if info.stamp.get("tier") == "gpu":
        found = table.find(str(info.stamp.get("hardware")))
        if found is not None:
            return rate_of(found)
    log = info.config.get("log")
    own = log.get("price_per_hour", 0.0) if isinstance(log, dict) else 0.0
    return Rate(float(own), "the run's log.price_per_hour") if own else None


def account_of(run_folder: str) -> Account:
    """The account of a run that has ended. SettingError where there is no log."""
    lines, info = read_log(run_folder), read_info(run_folder)
    account = Account()
    ranks = len({line.rank for line in lines})
    for line in lines:
        account.add(line, ranks)
    goal = info.config.get("steps")
    account.settle(finished=isinstance(goal, int) and lines[-1].step + 1 >= goal)
    return account


def show(
    folders: Positional[tuple[str, ...]],
    prices: Path | None = None,
    provider: str | None = None,
    accelerator: str | None = None,
    price_per_hour: float | None = None,
    budget: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """What runs cost, by their logs: spend, what of it was wasted, price of a step, a million tokens, an epoch.

    Args:
        folders: folders of runs, `<folder>/<name>` each; paths or URLs.
        prices: a table of prices in place of distlab's, in the same form.
        provider: whose prices are taken; the first of the table's rows that fits, without one.
        accelerator: price the runs as if they had been on this GPU, such as "H100 80GB".
        price_per_hour: price of one rank's device for an hour, in the table's currency, in place of a table's.
        budget: what each run may cost: 50, or NAME=50 for one of them.
        json: print the figures as JSON.
    """
    if not folders:
        raise SettingError("No run is named; name the folder of at least one, such as runs/fsdp_2gpu.")
    table, budgets = read_prices(prices).of(provider), read_budgets(budget)
    fixed = _fixed_price(table, accelerator, price_per_hour)
    costs = []
    for folder in folders:
        with Console(stderr=True).status(f"Reading {escape(printable(folder))} ..."):
            account, info = account_of(folder), read_info(folder)
        rate = fixed or price_of(info, table)
        name, hardware = str(info.config["name"]), str(info.stamp["hardware"])
        if rate is None:
            raise SettingError(
                f"{name} ran on {hardware}, which has no price; give --price-per-hour, or an --accelerator such as "
                '"H100 80GB" to price it as if it had run there.'
            )
        one = cost(name, account, rate.per_hour, table.currency, budget=budgets.of(name))
        tier = next(iter(account.ranks.values())).last.tier
        own = price_of(info, table)
        as_if_on = rate.accelerator if own is None or rate.accelerator != own.accelerator else None
        costs.append(replace(one, tier=tier, hardware=hardware, price_source=rate.source, as_if_on=as_if_on))
    if json:
        print(jsonlib.dumps([asdict(one) for one in costs], indent=1))
    else:
        console = Console()
        console.print(_table(costs))
        said: dict[str, None] = {}
        for text in [*(f"Price: {one.price_source}." for one in costs), UNCHARGED]:
            said[text] = None
        for text in said:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def _fixed_price(table: PriceTable, accelerator: str | None, per_hour: float | None) -> Rate | None:
    if per_hour is not None:
        if not 0 < per_hour < math.inf:
            raise SettingError(f"price_per_hour is {per_hour:g}; it must be above 0.")
        return Rate(per_hour, "--price-per-hour")
    if accelerator is None:
        return None
    found = table.named(accelerator)
    if found is None:
        names = list(dict.fromkeys(price.accelerator for price in table.prices))
        near = difflib.get_close_matches(accelerator, names, n=1)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise SettingError(
            f"There is no price for the accelerator {accelerator!r}; {hint}there are {', '.join(names)}."
        )
    return rate_of(found)


def _table(costs: list[Cost]) -> Table:
    table = Table("", *(escape(one.run) for one in costs))
    waste = [sum(one.wasted.values()) for one in costs]
    rows: dict[str, list[float | None]] = {
        "a GPU for an hour": [one.per_gpu_hour for one in costs],
        "spend": [one.spend for one in costs],
        "useful": [one.useful for one in costs],
        "wasted": list(waste),
    }
    rows |= {f"  {reason}": [one.wasted[reason] for one in costs] for reason in costs[0].wasted}
    rows |= {
        "a step": [one.per_step for one in costs],
        "a million tokens": [one.per_million_tokens for one in costs],
        "an epoch": [one.per_epoch for one in costs],
        "budget": [one.budget for one in costs],
    }
    table.add_row("ran on", *(escape(f"{one.hardware} ({one.tier})") for one in costs))
    if any(one.as_if_on for one in costs):
        table.add_row("priced as if on", *(escape(one.as_if_on or "what it ran on") for one in costs))
    for name, values in rows.items():
        if any(value is not None for value in values):
            table.add_row(name, *(_money(value, one) for value, one in zip(values, costs, strict=True)))
    table.add_row("GPU-hours", *(f"{one.gpu_hours:.4g}" for one in costs))
    table.add_row("wasted share", *(_share(w, one.spend) for w, one in zip(waste, costs, strict=True)))
    table.add_row("goodput", *("unknown" if one.goodput is None else f"{one.goodput:.1%}" for one in costs))
    if any(one.budget for one in costs):
        table.add_row("of the budget", *(_share(one.spend, one.budget) for one in costs))
    return table


def _money(value: float | None, one: Cost) -> str:
    return "unknown" if value is None else f"{value:,.4g} {one.currency}"


def _share(part: float, whole: float | None) -> str:
    return f"{part / whole:.1%}" if whole else "none"
