"""One job and its runs."""

from __future__ import annotations

from distlab.observe.panels.panel import Dashboard, Panel, Query, Threshold
from distlab.observe.panels.promql import (
    GPU_LEGEND,
    JOB,
    RUN,
    RUN_NAME,
    per_run,
    rate,
    share_of_step,
    step_seconds,
)

TRAINING = Dashboard(
    id="training",
    title="Training job",
    description="One job's runs: how far, how fast, where the time of a step goes, who is late.",
    variables=(JOB, RUN_NAME),
    panels=(
        Panel(
            id="progress",
            title="Progress",
            description="Steps taken of those that the run is to take.",
            kind="bar",
            unit="ratio",
            queries=(
                Query(
                    f"({per_run('distlab_train_step')} + 1) / {per_run('distlab_train_steps_goal')}",
                    "{{run}}",
                ),
            ),
            minimum=0,
            maximum=1,
        ),
        Panel(
            id="goodput",
            title="Goodput",
            description="Share of the run's time in steps that count: not starting, saving, or repeating what a crash "
            "undid.",
            kind="stat",
            unit="ratio",
            queries=(Query(per_run("distlab_train_goodput_ratio"), "{{run}}"),),
            thresholds=(
                Threshold(
                    0.9, "warning", "save less often or asynchronously (Young and Daly give the interval)."
                ),
                Threshold(0.7, "critical", "the run mostly starts, saves or repeats: find what restarts it."),
            ),
            bad="below",
            minimum=0,
            maximum=1,
        ),
        Panel(
            id="silence",
            title="Since the last step",
            description="Time since a running run's last step, in its own mean steps.",
            kind="stat",
            unit="count",
            queries=(
                Query(
                    f"(time() - {per_run('distlab_train_last_step_timestamp_seconds')}) / on (job_name, run) "
                    f"{per_run('run:distlab_train_step_seconds:mean')} "
                    f"and on (job_name, run) ({per_run('distlab_train_running')} == 1)",
                    "{{run}}",
                ),
            ),
            thresholds=(
                Threshold(
                    10,
                    "critical",
                    "it may hang: see which rank waits (flight recorder, py-spy), then restart it.",
                    "TrainingStalled",
                ),
            ),
            runbook="training-stalled",
            empty="No run is going on.",
        ),
        Panel(
            id="at-90",
            title="GPU-time at 90%",
            description="Share of the run's GPU-time of the last hour at 90% utilization or more.",
            kind="stat",
            unit="ratio",
            queries=(Query(f"run:gpu_at_90:share1h{{{RUN}}}", "{{run}}"),),
            thresholds=(
                Threshold(
                    0.9, "warning", "look where a step's time goes: waiting for data or for other ranks."
                ),
            ),
            bad="below",
            minimum=0,
            maximum=1,
            runbook="low-utilization",
            empty="The run has no GPU.",
        ),
        Panel(
            id="mfu",
            title="Model FLOPs utilization",
            description="Share of the GPUs' peak that went into the model's own arithmetic. Large models reach 40 to "
            "55%.",
            kind="line",
            unit="ratio",
            queries=(Query(f"avg by (run) (distlab_train_mfu_ratio{{{RUN}}})", "{{run}}"),),
            minimum=0,
            empty="Not known: on CPUs, and on GPUs whose peak is not in the registry.",
        ),
        Panel(
            id="step-time",
            title="Time per step, by rank",
            description="Seconds a step. Ranks wait for each other, so that one slow rank lifts all lines.",
            kind="line",
            unit="seconds",
            queries=(Query(step_seconds("run, rank"), "{{run}} rank {{rank}}"),),
            minimum=0,
        ),
        Panel(
            id="step-shares",
            title="Where a step's time goes",
            description="Of the ranks of all chosen runs. What is missing to 100% is neither data, computing, nor "
            "waiting for other ranks.",
            kind="stack",
            unit="ratio",
            queries=(
                Query(share_of_step("compute"), "compute"),
                Query(share_of_step("communication"), "communication"),
                Query(share_of_step("data"), "data"),
            ),
            minimum=0,
            maximum=1,
        ),
        Panel(
            id="stragglers",
            title="Ranks beside the median rank",
            description="Computing time a step of each rank, over its run's median rank's. All wait for the slowest.",
            kind="line",
            unit="count",
            queries=(Query(f"rank:distlab_train_straggler:ratio5m{{{RUN}}}", "{{run}} rank {{rank}}"),),
            thresholds=(
                Threshold(
                    1.2,
                    "warning",
                    "compare that rank's clock, temperature and data with the others'.",
                    "TrainingStraggler",
                ),
            ),
            runbook="straggler",
        ),
        Panel(
            id="loss",
            title="Loss",
            description="Loss of the last step.",
            kind="line",
            unit="count",
            queries=(Query(per_run("distlab_train_loss"), "{{run}}"),),
        ),
        Panel(
            id="samples",
            title="Samples per second",
            description="Over all ranks.",
            kind="line",
            unit="per s",
            queries=(Query(f"sum by (run) ({rate('distlab_train_samples_total', RUN)})", "{{run}}"),),
            minimum=0,
        ),
        Panel(
            id="tokens",
            title="Tokens per second",
            description="Over all ranks; of language models alone.",
            kind="line",
            unit="per s",
            queries=(
                # An image counts as one token: only a language model has more of them than samples.
                Query(
                    f"sum by (run) ({rate('distlab_train_tokens_total', RUN)}) > "
                    f"1.01 * sum by (run) ({rate('distlab_train_samples_total', RUN)})",
                    "{{run}}",
                ),
            ),
            minimum=0,
            empty="No language model is trained.",
        ),
        Panel(
            id="run-utilization",
            title="Utilization of the run's GPUs",
            description="The GPUs that the run has. Short dips to zero at a rhythm are starvation by data or saving.",
            kind="line",
            unit="percent",
            queries=(Query(f'DCGM_FI_DEV_GPU_UTIL{{{RUN},run!=""}}', GPU_LEGEND),),
            minimum=0,
            maximum=100,
            leads_to="gpu",
            empty="The run has no GPU.",
        ),
        Panel(
            id="rank-memory",
            title="Memory by rank",
            description="Resident memory of each rank's process, and most memory of its tensors on the GPU so far.",
            kind="line",
            unit="bytes",
            queries=(
                Query(f"distlab_train_ram_bytes{{{RUN}}}", "{{run}} rank {{rank}} RAM"),
                Query(f"distlab_train_vram_bytes{{{RUN}}}", "{{run}} rank {{rank}} GPU"),
            ),
            minimum=0,
        ),
    ),
)
