"""What the panels' queries have in common.

GPU metrics are DCGM's (metrics.py). A query that gives nothing while the exporter is away stays empty then: nothing is
filled in with zero. `0 * sum(distlab_source_up)` is a zero that exists only while the exporter answers.
"""

from __future__ import annotations

from distlab.observe.panels.panel import RATE_WINDOW, Variable

GPU = 'Hostname=~"$Hostname",gpu=~"$gpu"'
RUN = 'job_name=~"$job_name",run=~"$run"'
NO_NEWS = "0 * sum(distlab_source_up)"

HOST = Variable("Hostname", "Host", "DCGM_FI_DEV_GPU_TEMP")
GPU_INDEX = Variable("gpu", "GPU", 'DCGM_FI_DEV_GPU_TEMP{Hostname=~"$Hostname"}')
JOB = Variable("job_name", "Job", "distlab_train_step")
RUN_NAME = Variable("run", "Run", 'distlab_train_step{job_name=~"$job_name"}')

GPU_LEGEND = "{{Hostname}} GPU {{gpu}}"


def rate(metric: str, selector: str = "") -> str:
    """PromQL of a counter's growth per second."""
    return f"rate({metric}{{{selector}}}[{RATE_WINDOW}])"


def per_run(metric: str, selector: str = RUN, how: str = "max") -> str:
    """One value a run, of a metric that its ranks or GPUs have."""
    return f"{how} by (job_name, run) ({metric}{{{selector}}})"


def share_of_step(part: str) -> str:
    """How much of the time in steps went into `part`, 0 to 1, over all ranks of the chosen runs."""
    seconds = f"sum({rate(f'distlab_train_{part}_seconds_total', RUN)})"
    return f"{seconds} / (sum({rate('distlab_train_step_seconds_total', RUN)}) > 0)"


def step_seconds(labels: str, selector: str = RUN) -> str:
    """Seconds a step, of the steps taken in the window."""
    seconds = rate("distlab_train_step_seconds_total", selector)
    steps = rate("distlab_train_steps_total", selector)
    return f"sum by ({labels}) ({seconds}) / (sum by ({labels}) ({steps}) > 0)"
