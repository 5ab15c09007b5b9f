"""All GPUs of all hosts."""

from __future__ import annotations

from distlab.observe.panels.panel import Dashboard, Panel, Query, Threshold
from distlab.observe.panels.promql import GPU_LEGEND, HOST, NO_NEWS, per_run, step_seconds

ALERTS = Panel(
    id="alerts",
    title="Firing alerts",
    description="What Prometheus' rules find wrong now, with the runbook of each.",
    kind="table",
    unit="count",
    queries=(
        Query(
            'count by (alertname, severity, Hostname, gpu, xid, run, rank) (ALERTS{alertstate="firing"})',
            "Series",
        ),
    ),
    keys=("alertname", "severity", "Hostname", "gpu", "xid", "run", "rank"),
    wide=True,
    runbook="",
    empty="No alert is firing.",
)

FLEET = Dashboard(
    id="fleet",
    title="Fleet",
    description="All GPUs of all hosts: who has them, how busy they are, what is wrong.",
    variables=(HOST,),
    panels=(
        Panel(
            id="gpus",
            title="GPUs that answer",
            description="GPUs in the last reading, by where it came from: gpu is a driver now, recorded a driver once, "
            "simulated a model.",
            kind="stat",
            unit="count",
            queries=(Query("sum by (tier) (distlab_source_gpus)", "{{tier}}"),),
        ),
        Panel(
            id="gpus-lost",
            title="GPUs lost",
            description="GPUs that were there and cannot be read now.",
            kind="stat",
            unit="count",
            queries=(Query(f"sum(distlab_gpu_lost) or {NO_NEWS}", "lost"),),
            thresholds=(
                Threshold(
                    1, "critical", "drain the node, keep its log, reset or replace the GPU.", "GpuLost"
                ),
            ),
            runbook="gpu-lost",
        ),
        Panel(
            id="fleet-busy",
            title="Utilization of GPUs in use",
            description="Mean over the GPUs that a job has. The objective is 90%.",
            kind="stat",
            unit="percent",
            queries=(Query('avg(DCGM_FI_DEV_GPU_UTIL{Hostname=~"$Hostname",run!=""})', "in use"),),
            thresholds=(
                Threshold(
                    90, "warning", "open the job with the lowest line below and read its step's shares."
                ),
                Threshold(
                    50,
                    "critical",
                    "GPUs are paid for and wait: raise the batch size or the data workers, or free them.",
                    "GpuLowUtilization",
                ),
            ),
            bad="below",
            minimum=0,
            maximum=100,
            runbook="low-utilization",
            empty="No job has a GPU.",
        ),
        Panel(
            id="slo-utilization",
            title="Objective: GPU-time at 90%",
            description="Share of the allocated GPU-time of the last hour that was under 90% utilization. Over 30 "
            "days, 5% is allowed.",
            kind="stat",
            unit="ratio",
            queries=(Query("fleet:gpu_utilization_errors:ratio1h", "missed, {{tier}}"),),
            thresholds=(
                Threshold(0.05, "warning", "look which job holds it back.", "GpuUtilizationBudgetBurnSlow"),
                Threshold(
                    0.72,
                    "critical",
                    "at this rate the month's budget is gone in two days: stop or shrink jobs that starve their GPUs.",
                    "GpuUtilizationBudgetBurnFast",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="utilization-budget",
            empty="No job has a GPU.",
        ),
        Panel(
            id="slo-health",
            title="Objective: healthy GPUs",
            description="Share of the GPU-time of the last hour in which a GPU was lost, slowed by heat or had errors. "
            "Over 30 days, 0.1% is allowed.",
            kind="stat",
            unit="ratio",
            queries=(Query("fleet:gpu_health_errors:ratio1h", "missed, {{tier}}"),),
            thresholds=(
                Threshold(0.001, "warning", "find the GPU among the alerts.", "GpuHealthBudgetBurnSlow"),
                Threshold(
                    0.0144,
                    "critical",
                    "drain the GPU that is ill: the month's budget is gone within days.",
                    "GpuHealthBudgetBurnFast",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="health-budget",
        ),
        ALERTS,
        Panel(
            id="utilization",
            title="GPU utilization",
            description="Share of the last period in which a kernel ran. It does not say how much of the GPU it used.",
            kind="line",
            unit="percent",
            queries=(Query('DCGM_FI_DEV_GPU_UTIL{Hostname=~"$Hostname"}', GPU_LEGEND),),
            minimum=0,
            maximum=100,
            leads_to="gpu",
        ),
        Panel(
            id="gpus-by-job",
            title="GPUs by job",
            description="How many GPUs each job has; (free) are paid for by nobody's work.",
            kind="stack",
            unit="count",
            queries=(
                Query(
                    'label_replace(count by (job_name) (distlab_gpu_allocated{Hostname=~"$Hostname"}), '
                    '"job_name", "(free)", "job_name", "")',
                    "{{job_name}}",
                ),
            ),
            minimum=0,
        ),
        Panel(
            id="fleet-power",
            title="Power by host",
            description="Power draw of all GPUs of a host.",
            kind="stack",
            unit="watts",
            queries=(
                Query('sum by (Hostname) (DCGM_FI_DEV_POWER_USAGE{Hostname=~"$Hostname"})', "{{Hostname}}"),
            ),
            minimum=0,
        ),
        Panel(
            id="runs",
            title="Training runs",
            description="Every run whose log is followed. A run's name leads to its dashboard.",
            kind="table",
            unit="count",
            queries=(
                Query(per_run("distlab_train_running", ""), "Running"),
                Query(f"{per_run('distlab_train_step', '')} + 1", "Steps"),
                Query(step_seconds("job_name, run", ""), "Time per step", "seconds"),
                Query(per_run("distlab_train_goodput_ratio", ""), "Goodput", "ratio"),
                Query(per_run("distlab_cost_spend_total", 'run!=""', "sum"), "Spend", "money"),
            ),
            keys=("job_name", "run"),
            wide=True,
            leads_to="training",
            empty="No run is followed.",
        ),
    ),
)
