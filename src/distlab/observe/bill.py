"""What the exporter shows of cost: runs at the price of the GPUs that they have, and GPUs that no run has."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from distlab.errors import printable
from distlab.observe.account import RELEASED_AFTER_S
from distlab.observe.cost import IDLE_BELOW_PERCENT, Budgets, Rate, cost, price_of, rate_of
from distlab.observe.exposition import Page, label_text
from distlab.observe.runs import Run
from distlab.observe.sample import GpuSample, Reading, SampleTier
from distlab.predict.hardware.prices import Price, PriceTable

MOST_BASIS = 300
"""Characters."""


@dataclass
class _Held:
    """What a GPU has cost since its run failed. If the run goes on, its own account has it."""

    run: Run | None
    seconds: float = 0.0
    spent: float = 0.0
    idle: float = 0.0


class Bill:
    """Prices runs and counts what is spent for nobody."""

    def __init__(self, table: PriceTable, budgets: Budgets) -> None:
        self.table, self.budgets = table, budgets
        self.unpriced: set[str] = set()
        """Names of GPUs that the table has no price for."""
        self._rates: dict[Run, Rate] = {}
        """What each run was priced at last: a run that has ended has no GPUs any more."""
        self._spent: dict[SampleTier, float] = defaultdict(float)
        self._idle: dict[SampleTier, float] = defaultdict(float)
        self._held: dict[str, _Held] = {}

    def take(self, reading: Reading, owners: dict[str, Run], period_s: float) -> None:
        """Count another `period_s` of the GPUs in a reading. owners: by UUID."""
        prices: dict[Run, list[Price]] = defaultdict(list)
        supposed: set[Run] = set()
        for gpu in reading.samples:
            price = self.table.find(gpu.name)
            if price is None:
                self.unpriced.add(gpu.name)
                continue
            owner = owners.get(gpu.uuid) or next(
                (owners[i.uuid] for i in gpu.mig or () if i.uuid in owners), None
            )
            if owner is not None:
                prices[owner].append(price)
                if gpu.tier != "gpu" or owner.tier != "gpu":
                    supposed.add(owner)
                if gpu.uuid not in self._held or self._held[gpu.uuid].run is not owner:
                    self._release(gpu)
                self._held[gpu.uuid] = _Held(owner)
            else:
                self._spend(gpu, price.per_hour * period_s / 3600, period_s)
        self._rates |= {run: _mean_rate(found, run in supposed) for run, found in prices.items()}

    def _spend(self, gpu: GpuSample, amount: float, period_s: float) -> None:
        """For nobody, unless the run that had the GPU may still be taken up again."""
        held = self._held.get(gpu.uuid)
        if held is None:
            held = self._held[gpu.uuid] = _Held(None)
        held.seconds += period_s
        held.spent += amount
        held.idle += amount if _is_idle(gpu) else 0.0
        if held.run is None or held.run.finished or held.seconds > RELEASED_AFTER_S:
            self._release(gpu)

    def _release(self, gpu: GpuSample) -> None:
        held = self._held.pop(gpu.uuid, None)
        if held is not None:
            self._spent[gpu.tier] += held.spent
            self._idle[gpu.tier] += held.idle

    def write(self, page: Page, runs: list[Run]) -> None:
        """The cost of the runs, and of what nobody has."""
        self._rates = {run: rate for run, rate in self._rates.items() if run in runs}
        for run in runs:
            rate = self._rate(run)
            if rate is not None and run.newest is not None:
                self._write_run(page, run, rate)
        for tier, spent in self._spent.items():
            text = label_text({"run": "", "job_name": "", "tier": tier, "currency": self.table.currency})
            page.add("distlab_cost_spend_total", text, spent)
            page.add("distlab_cost_wasted_total", f'{text[:-1]},reason="idle"}}', self._idle[tier])

    def _rate(self, run: Run) -> Rate | None:
        if run in self._rates:
            return self._rates[run]
        return price_of(run.files.info, self.table) if run.files.info else None

    def _write_run(self, page: Page, run: Run, rate: Rate) -> None:
        budget, currency = self.budgets.of(run.name), self.table.currency
        one = cost(run.name, run.account, rate.per_hour, currency, budget, run.spent_s, run.wasted_s)
        own = run.labels() | {"currency": one.currency}
        text = label_text(own)
        basis = printable(rate.source)[:MOST_BASIS]
        page.add("distlab_cost_price_per_hour", label_text(own | {"basis": basis}), rate.per_hour)
        page.add("distlab_cost_spend_total", text, one.spend)
        for reason, wasted in one.wasted.items():
            page.add("distlab_cost_wasted_total", f'{text[:-1]},reason="{reason}"}}', wasted)
        page.add("distlab_cost_per_step", text, one.per_step)
        page.add("distlab_cost_per_million_tokens", text, one.per_million_tokens)
        page.add("distlab_cost_per_epoch", text, one.per_epoch)
        page.add("distlab_cost_budget", text, one.budget)


def _mean_rate(prices: list[Price], supposed: bool) -> Rate:
    """Of a run's GPUs. supposed: none of them is real, and the run is priced as if they were."""
    sources = "; ".join(dict.fromkeys(rate_of(price).source for price in prices))
    return Rate(fmean(price.per_hour for price in prices), f"as if on {sources}" if supposed else sources)


def _is_idle(gpu: GpuSample) -> bool:
    """Nobody is known to use it: no process, or hardly any work."""
    if gpu.processes is not None and not gpu.processes and not gpu.mig:
        return True
    return gpu.utilization_percent is not None and gpu.utilization_percent < IDLE_BELOW_PERCENT
