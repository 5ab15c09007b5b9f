"""Heat, power, clocks, memory and errors of GPUs."""

from __future__ import annotations

from distlab.observe.panels.panel import Dashboard, Panel, Query, Threshold
from distlab.observe.panels.promql import GPU, GPU_INDEX, GPU_LEGEND, HOST, rate

HEALTH = Dashboard(
    id="gpu",
    title="GPU health",
    description="Heat, power, clocks, memory and errors of each GPU.",
    variables=(HOST, GPU_INDEX),
    panels=(
        Panel(
            id="temperature",
            title="Distance to slowdown",
            description="Degrees that a GPU has left until its hardware slows the clock down.",
            kind="line",
            unit="celsius",
            queries=(
                Query(
                    f"distlab_gpu_slowdown_temperature_celsius{{{GPU}}} - DCGM_FI_DEV_GPU_TEMP{{{GPU}}}",
                    GPU_LEGEND,
                ),
            ),
            thresholds=(
                Threshold(10, "warning", "look at the fans, the air flow and the neighbours' heat."),
                Threshold(0, "critical", "the clock is falling: move the job away and cool the node."),
            ),
            bad="below",
            runbook="thermal-throttling",
        ),
        Panel(
            id="heat",
            title="Held down by heat",
            description="Share of the last five minutes in which heat held the clock down.",
            kind="line",
            unit="ratio",
            queries=(Query(f"avg_over_time(gpu:throttled_thermal:bool{{{GPU}}}[5m])", GPU_LEGEND),),
            thresholds=(
                Threshold(
                    0.5,
                    "warning",
                    "move the job away and cool the node: one slow GPU slows its whole job.",
                    "GpuThermalThrottling",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="thermal-throttling",
        ),
        Panel(
            id="throttled",
            title="Clock held down, by reason",
            description="1 while the clock is held down for a reason other than having nothing to do.",
            kind="line",
            unit="count",
            queries=(
                Query(
                    f'distlab_gpu_throttled{{{GPU},reason!~"gpu_idle|applications_clocks_setting"}} == 1',
                    "GPU {{gpu}} {{reason}}",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="thermal-throttling",
            empty="No clock is held down.",
        ),
        Panel(
            id="clock",
            title="SM clock",
            description="Share of the highest clock that the GPU may run at.",
            kind="line",
            unit="ratio",
            queries=(
                Query(
                    f"DCGM_FI_DEV_SM_CLOCK{{{GPU}}} / distlab_gpu_sm_clock_max_mhz{{{GPU}}}",
                    GPU_LEGEND,
                ),
            ),
            minimum=0,
            maximum=1,
        ),
        Panel(
            id="power",
            title="Power",
            description="Share of the power that the GPU may draw. At 100% the clock gives way.",
            kind="line",
            unit="ratio",
            queries=(
                Query(
                    f"DCGM_FI_DEV_POWER_USAGE{{{GPU}}} / distlab_gpu_power_limit_watts{{{GPU}}}",
                    GPU_LEGEND,
                ),
            ),
            minimum=0,
            maximum=1,
        ),
        Panel(
            id="memory",
            title="Device memory used",
            description="Of what a process could have; of MIG, by instance.",
            kind="line",
            unit="ratio",
            queries=(
                Query(
                    f"DCGM_FI_DEV_FB_USED{{{GPU}}} / (DCGM_FI_DEV_FB_USED{{{GPU}}} + DCGM_FI_DEV_FB_FREE{{{GPU}}})",
                    GPU_LEGEND + " {{GPU_I_PROFILE}}",
                ),
            ),
            thresholds=(
                Threshold(
                    0.97,
                    "warning",
                    "the next longer batch ends in out-of-memory: lower the micro-batch.",
                    "GpuMemoryNearFull",
                ),
            ),
            minimum=0,
            maximum=1,
            runbook="memory-near-full",
        ),
        Panel(
            id="engines",
            title="What the GPU is busy with",
            description="Share of time in which kernels ran, tensor cores worked and memory moved data. Busy without "
            "tensor cores is small or unfused work. Hopper and later.",
            kind="line",
            unit="ratio",
            queries=(
                Query(f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{GPU}}}", "GPU {{gpu}} kernels"),
                Query(f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{GPU}}}", "GPU {{gpu}} tensor cores"),
                Query(f"DCGM_FI_PROF_DRAM_ACTIVE{{{GPU}}}", "GPU {{gpu}} memory"),
            ),
            minimum=0,
            maximum=1,
            empty="The GPU or its driver has no profiling counters.",
        ),
        Panel(
            id="xid",
            title="XID errors",
            description="By the driver's code, in the last 15 minutes.",
            kind="table",
            unit="count",
            queries=(
                Query(f"max by (Hostname, gpu, xid) (gpu:xid_new:count15m{{{GPU}}})", "Times, at least"),
            ),
            keys=("Hostname", "gpu", "xid"),
            runbook="xid-other",
            empty="No XID error in the last 15 minutes.",
        ),
        Panel(
            id="memory-errors",
            title="Memory errors",
            description="Corrected ones of the last hour: over 10 are a place that fails. Uncorrected ones since the "
            "last reset: any takes a reset. Rows that were replaced; a failed remap (1) ends the GPU's service.",
            kind="table",
            unit="count",
            queries=(
                Query(
                    f"max by (Hostname, gpu) (increase(gpu:ecc_single_bit:total{{{GPU}}}[1h]))", "Corrected"
                ),
                Query(f"max by (Hostname, gpu) (gpu:ecc_double_bit:total{{{GPU}}})", "Uncorrected"),
                Query(
                    f"max by (Hostname, gpu) (DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS{{{GPU}}} + "
                    f"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{GPU}}})",
                    "Rows remapped",
                ),
                Query(f"max by (Hostname, gpu) (gpu:row_remap_failed:bool{{{GPU}}})", "Remap failed"),
            ),
            keys=("Hostname", "gpu"),
            runbook="ecc-double-bit",
            empty="The GPU has no error correction.",
        ),
        Panel(
            id="links",
            title="PCIe and NVLink traffic",
            description="Bytes a second; PCIe both ways, NVLink over all links.",
            kind="line",
            unit="bytes/s",
            queries=(
                Query(f"DCGM_FI_PROF_PCIE_TX_BYTES{{{GPU}}}", "GPU {{gpu}} PCIe sent"),
                Query(f"DCGM_FI_PROF_PCIE_RX_BYTES{{{GPU}}}", "GPU {{gpu}} PCIe received"),
                Query(rate("distlab_gpu_nvlink_bytes_total", GPU), "GPU {{gpu}} NVLink"),
            ),
            minimum=0,
        ),
        Panel(
            id="link-errors",
            title="PCIe replays and NVLink errors",
            description="In the last hour. Replays that keep coming are a bad slot, riser or cable.",
            kind="table",
            unit="count",
            queries=(
                Query(
                    f"sum by (Hostname, gpu) (increase(DCGM_FI_DEV_PCIE_REPLAY_COUNTER{{{GPU}}}[1h]))",
                    "PCIe replays",
                ),
                Query(
                    f"sum by (Hostname, gpu) (increase(distlab_gpu_nvlink_errors_total{{{GPU}}}[1h]))",
                    "NVLink errors",
                ),
            ),
            keys=("Hostname", "gpu"),
            runbook="xid-74",
        ),
        Panel(
            id="processes",
            title="Processes",
            description="Device memory by process.",
            kind="table",
            unit="bytes",
            queries=(
                Query(
                    f"sum by (Hostname, gpu, pid, run) (distlab_gpu_process_memory_bytes{{{GPU}}})",
                    "Device memory",
                ),
            ),
            keys=("Hostname", "gpu", "pid", "run"),
            empty="No process, or no right to see any.",
        ),
    ),
)
