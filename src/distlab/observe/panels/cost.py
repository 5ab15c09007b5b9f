"""Money."""

from __future__ import annotations

from distlab.observe.panels.panel import Dashboard, Panel, Query, Threshold, Variable
from distlab.observe.panels.promql import rate

CHOSEN = 'run=~"$run"'
SPEND_RATE = rate("distlab_cost_spend_total", CHOSEN)
WASTE_RATE = rate("distlab_cost_wasted_total", CHOSEN)


def _priced(metric: str) -> str:
    return f'max by (job_name, run, currency) ({metric}{{run=~"$run"}})'


COST = Dashboard(
    id="cost",
    title="Cost",
    description="What the GPUs cost by the price table, what of it was wasted, and when a budget ends. A run that "
    "follows simulated GPUs is priced as if it had run on them.",
    variables=(Variable("run", "Run", "distlab_cost_spend_total"),),
    panels=(
        Panel(
            id="spend",
            title="Spent",
            description="By the runs so far, and by GPUs that no run has since the exporter started.",
            kind="stat",
            unit="money",
            queries=(Query('sum by (currency) (distlab_cost_spend_total{run=~"$run"})', "{{currency}}"),),
        ),
        Panel(
            id="wasted-share",
            title="Wasted",
            description="Share of the spend of the last six hours that idleness, failures and stragglers took.",
            kind="stat",
            unit="ratio",
            queries=(Query("fleet:distlab_cost_wasted:share6h", "{{tier}}, {{currency}}"),),
            thresholds=(
                Threshold(0.1, "warning", "see by which reason below: free the GPUs that idle."),
                Threshold(
                    0.3,
                    "critical",
                    "stop or shrink the job whose waste is largest, then mend its cause.",
                    "SpendWasted",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="spend-wasted",
            empty="Nothing was wasted.",
        ),
        Panel(
            id="budget",
            title="Budget used",
            description="Spend of a run over what it may cost.",
            kind="bar",
            unit="ratio",
            queries=(
                Query(
                    'sum by (run) (distlab_cost_spend_total{run=~"$run"}) / '
                    'sum by (run) (distlab_cost_budget{run=~"$run"})',
                    "{{run}}",
                ),
            ),
            thresholds=(
                Threshold(0.8, "warning", "compare with the run's progress; ask for more or shorten it now."),
                Threshold(
                    1, "critical", "save and stop the run, or raise the budget on purpose.", "BudgetSpent"
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="budget-spent",
            empty="No run has a budget.",
        ),
        Panel(
            id="budget-projected",
            title="Budget at the run's end",
            description="What a run will have cost, over its budget: spent so far, and the steps that are left at the "
            "price of one.",
            kind="bar",
            unit="ratio",
            queries=(
                Query(
                    'max by (run) (run:distlab_cost_projected:total{run=~"$run"} / on (run, job_name, tier, currency) '
                    "max by (run, job_name, tier, currency) (distlab_cost_budget))",
                    "{{run}}",
                ),
            ),
            thresholds=(
                Threshold(
                    1,
                    "warning",
                    "shorten the run, make its steps cheaper, or ask for more.",
                    "BudgetProjectedOver",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="budget-projected",
            empty="No run has a budget.",
        ),
        Panel(
            id="budget-left",
            title="Until the budget is spent",
            description="At the rate of the last hour; of runs that go on.",
            kind="stat",
            unit="hours",
            queries=(
                Query(
                    'clamp_min(max by (run) (distlab_cost_budget{run=~"$run"}) - '
                    'sum by (run) (distlab_cost_spend_total{run=~"$run"}), 0) / '
                    '(sum by (run) (increase(distlab_cost_spend_total{run=~"$run"}[1h])) > 0) '
                    "unless on (run) (max by (run) (distlab_train_running) == 0)",
                    "{{run}}",
                ),
            ),
            thresholds=(
                Threshold(
                    2,
                    "critical",
                    "if the run is not done by then: save now, and stop or pay.",
                    "BudgetBurnFast",
                ),
            ),
            bad="below",
            runbook="budget-burn",
            empty="No run with a budget is spending.",
        ),
        Panel(
            id="spend-rate",
            title="Spend per hour",
            description="By run; (nobody) are GPUs that no run has.",
            kind="stack",
            unit="money",
            queries=(
                Query(
                    f'label_replace(3600 * sum by (run, currency) ({SPEND_RATE}), "run", "(nobody)", "run", "")',
                    "{{run}} ({{currency}})",
                ),
            ),
            minimum=0,
        ),
        Panel(
            id="waste-rate",
            title="Waste per hour, by reason",
            description="idle: the GPU had nothing to do. failure: work that a crash undid. straggler: waiting for the "
            "slowest rank.",
            kind="stack",
            unit="money",
            queries=(
                Query(
                    f"3600 * sum by (reason, currency) ({WASTE_RATE})",
                    "{{reason}} ({{currency}})",
                ),
            ),
            minimum=0,
            empty="Nothing was wasted.",
        ),
        Panel(
            id="unit-cost",
            title="Cost of the work",
            description="What a step, a million tokens and a pass over the data cost, in the price table's currency.",
            kind="table",
            unit="money",
            queries=(
                Query(_priced("distlab_cost_per_step"), "Step"),
                Query(_priced("distlab_cost_per_million_tokens"), "Million tokens"),
                Query(_priced("distlab_cost_per_epoch"), "Epoch"),
            ),
            keys=("job_name", "run", "currency"),
        ),
        Panel(
            id="price-basis",
            title="Whose prices",
            description="What an hour of a rank's device costs, by which row of the price table. As if: nobody pays "
            "that, for the GPUs are simulated.",
            kind="table",
            unit="money",
            queries=(
                Query(
                    'max by (job_name, run, currency, basis) (distlab_cost_price_per_hour{run=~"$run"})',
                    "GPU for an hour",
                ),
            ),
            keys=("job_name", "run", "currency", "basis"),
            wide=True,
            empty="No run has a price.",
        ),
    ),
)
