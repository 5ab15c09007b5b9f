"""Every metric that distlab exports: its name, kind, labels and meaning.

Exporter, rules and dashboards use these names.

GPU metrics carry the names, units and labels of dcgm-exporter's default set, so that dashboards and alerts made for
it work unmodified (NVIDIA/dcgm-exporter, etc/default-counters.csv). What DCGM has no field for begins with `distlab_`
and follows Prometheus' rules: base units, `_total` for what only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GPU_LABELS = ("gpu", "UUID", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")
"""As dcgm-exporter labels a GPU. `device` is nvidia0, nvidia1...; distlab adds those of OUR_LABELS."""

OUR_LABELS = ("tier", "job_name", "run")
"""`tier`: gpu, recorded or simulated. `job_name`, `run`: whose GPU it is now; both empty while nobody's.

(`job` is Prometheus' own label, of the scrape job.)
"""

RUN_LABELS = ("run", "job_name", "tier")
"""Of a training run: its folder's name, the job it belongs to, and where it runs: gpu or cpu."""

RANK_LABELS = (*RUN_LABELS, "rank")


Kind = Literal["gauge", "counter"]


@dataclass(frozen=True)
class Metric:
    """One exported name."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]


# NVLINK_BANDWIDTH_TOTAL is a counter in dcgm-exporter's list, but what DCGM puts there is a rate: KiB/s over 1000
# (DcgmCacheManager::ReadAndCacheNvLinkBandwidth; NVIDIA/dcgm-exporter#658).
def _dcgm(name: str, kind: Kind, text: str) -> Metric:
    return Metric(f"DCGM_FI_{name}", kind, text, (*GPU_LABELS, *OUR_LABELS))


DCGM = (
    _dcgm("DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz)."),
    _dcgm("DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz)."),
    _dcgm("DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C)."),
    _dcgm("DEV_GPU_TEMP", "gauge", "GPU temperature (in C)."),
    _dcgm("DEV_POWER_USAGE", "gauge", "Power draw (in W)."),
    _dcgm("DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Total energy consumption since boot (in mJ)."),
    _dcgm("DEV_PCIE_REPLAY_COUNTER", "counter", "Total number of PCIe retries."),
    _dcgm("DEV_GPU_UTIL", "gauge", "GPU utilization (in %)."),
    _dcgm("DEV_MEM_COPY_UTIL", "gauge", "Memory utilization (in %)."),
    _dcgm("DEV_ENC_UTIL", "gauge", "Encoder utilization (in %)."),
    _dcgm("DEV_DEC_UTIL", "gauge", "Decoder utilization (in %)."),
    _dcgm("DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered."),
    _dcgm("DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB)."),
    _dcgm("DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB)."),
    _dcgm("DEV_FB_RESERVED", "gauge", "Framebuffer memory reserved (in MiB)."),
    _dcgm("DEV_ECC_SBE_VOL_TOTAL", "counter", "Total number of single-bit volatile ECC errors."),
    _dcgm("DEV_ECC_DBE_VOL_TOTAL", "counter", "Total number of double-bit volatile ECC errors."),
    _dcgm("DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Number of remapped rows for uncorrectable errors."),
    _dcgm("DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Number of remapped rows for correctable errors."),
    _dcgm("DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed."),
    _dcgm("DEV_NVLINK_BANDWIDTH_TOTAL", "gauge", "NVLink throughput of all lanes (in MB/s)."),
    _dcgm("DEV_CLOCK_THROTTLE_REASONS", "gauge", "Current clock throttle reasons (bitmask)."),
    _dcgm("PROF_GR_ENGINE_ACTIVE", "gauge", "Ratio of time the graphics engine is active."),
    _dcgm("PROF_PIPE_TENSOR_ACTIVE", "gauge", "Ratio of cycles the tensor (HMMA) pipe is active."),
    _dcgm("PROF_DRAM_ACTIVE", "gauge", "Ratio of cycles the device memory interface is active."),
    _dcgm("PROF_PCIE_TX_BYTES", "gauge", "Rate of data sent over the PCIe bus (in bytes/s)."),
    _dcgm("PROF_PCIE_RX_BYTES", "gauge", "Rate of data received over the PCIe bus (in bytes/s)."),
)


def _gpu(name: str, kind: Kind, text: str, *labels: str) -> Metric:
    return Metric(f"distlab_gpu_{name}", kind, text, (*GPU_LABELS, *OUR_LABELS, *labels))


GPU = (
    _gpu("sm_clock_max_mhz", "gauge", "Highest SM clock that the GPU may run at (in MHz)."),
    _gpu("power_limit_watts", "gauge", "Power that the GPU may draw."),
    _gpu("slowdown_temperature_celsius", "gauge", "Temperature at which the hardware slows the clock."),
    _gpu("throttled", "gauge", "1 while the clock is held down for this reason.", "reason"),
    _gpu("xid_events_total", "counter", "XID errors by code since the exporter started.", "xid"),
    _gpu("nvlink_bytes_total", "counter", "Sent and received over all NVLinks."),
    _gpu("nvlink_errors_total", "counter", "Errors of all NVLinks."),
    _gpu("process_memory_bytes", "gauge", "Device memory of a process.", "pid"),
    _gpu("allocated", "gauge", "1 while a job has the GPU, else 0."),
    _gpu("price_per_hour", "gauge", "Price of the GPU per hour, in the table's currency."),
)

MIG_LABELS = ("GPU_I_PROFILE", "GPU_I_ID")
"""As dcgm-exporter labels a MIG instance: DCGM_FI_DEV_FB_USED and _FREE come per instance with these two more."""

SOURCE = (
    Metric("distlab_source_up", "gauge", "1 while the GPUs can be read, 0 while they cannot.", ("tier",)),
    Metric("distlab_source_gpus", "gauge", "GPUs in the last reading.", ("tier",)),
    Metric("distlab_source_problems", "gauge", "Devices or values that could not be read.", ("tier",)),
    Metric(
        "distlab_gpu_lost",
        "gauge",
        "1 for a GPU that was there and cannot be read now.",
        (*GPU_LABELS, "tier"),
    ),
)

TRAIN = (
    Metric("distlab_train_running", "gauge", "1 while the run goes on.", RUN_LABELS),
    Metric("distlab_train_world_size", "gauge", "Ranks of the run.", RUN_LABELS),
    Metric(
        "distlab_train_start_timestamp_seconds",
        "gauge",
        "When the last attempt's log was opened: before its first step.",
        RUN_LABELS,
    ),
    Metric("distlab_train_step", "gauge", "The last optimizer step, counted from 0.", RUN_LABELS),
    Metric("distlab_train_steps_goal", "gauge", "Steps that the run is to take.", RUN_LABELS),
    Metric("distlab_train_loss", "gauge", "Loss of the last step.", RUN_LABELS),
    Metric("distlab_train_learning_rate", "gauge", "Learning rate of the last step.", RUN_LABELS),
    Metric(
        "distlab_train_goodput_ratio", "gauge", "Share of the run's time in steps that count.", RUN_LABELS
    ),
    Metric("distlab_train_restarts_total", "counter", "How often the run was taken up again.", RUN_LABELS),
    Metric(
        "distlab_train_last_step_timestamp_seconds", "gauge", "When the last step was logged.", RANK_LABELS
    ),
    Metric(
        "distlab_train_steps_total", "counter", "Steps taken, those that a crash undid included.", RANK_LABELS
    ),
    Metric("distlab_train_step_seconds_total", "counter", "Seconds in steps.", RANK_LABELS),
    Metric("distlab_train_data_seconds_total", "counter", "Seconds of them spent on data.", RANK_LABELS),
    Metric("distlab_train_compute_seconds_total", "counter", "Seconds of them spent computing.", RANK_LABELS),
    Metric(
        "distlab_train_communication_seconds_total", "counter", "Seconds of them spent waiting.", RANK_LABELS
    ),
    Metric("distlab_train_samples_total", "counter", "Samples, this rank's share.", RANK_LABELS),
    Metric("distlab_train_tokens_total", "counter", "Tokens, this rank's share.", RANK_LABELS),
    Metric("distlab_train_mfu_ratio", "gauge", "Model FLOPs utilization of the last step.", RANK_LABELS),
    Metric("distlab_train_ram_bytes", "gauge", "Resident memory of the rank.", RANK_LABELS),
    Metric(
        "distlab_train_vram_bytes", "gauge", "Most device memory of the rank's tensors so far.", RANK_LABELS
    ),
)
"""Of the runs whose logs the exporter follows. A value that the log does not know is not exported."""

COST = (
    Metric("distlab_cost_spend_total", "counter", "Spent by the run so far.", (*RUN_LABELS, "currency")),
    Metric(
        "distlab_cost_wasted_total",
        "counter",
        "Spent without effect; reason: idle, failure or straggler.",
        (*RUN_LABELS, "currency", "reason"),
    ),
    Metric("distlab_cost_per_step", "gauge", "Price of one step.", (*RUN_LABELS, "currency")),
    Metric(
        "distlab_cost_per_million_tokens", "gauge", "Price of a million tokens.", (*RUN_LABELS, "currency")
    ),
    Metric("distlab_cost_per_epoch", "gauge", "Price of one pass over the data.", (*RUN_LABELS, "currency")),
    Metric(
        "distlab_cost_price_per_hour",
        "gauge",
        "What the run's cost is reckoned with: price of one rank's device per hour, and whose price that is.",
        (*RUN_LABELS, "currency", "basis"),
    ),
    Metric("distlab_cost_budget", "gauge", "What the run may cost.", (*RUN_LABELS, "currency")),
)
"""GPUs that no run has are spent under the run's name "" with reason idle, since the exporter started."""

EXPORTER = (
    Metric("distlab_exporter_scrape_seconds", "gauge", "What the last answer took to make.", ()),
    Metric("distlab_exporter_cpu_seconds_total", "counter", "Processor time of the exporter.", ()),
    Metric(
        "distlab_exporter_run_problems", "gauge", "Files, lines and runs in the runs' folder left out.", ()
    ),
)

METRICS = {metric.name: metric for metric in (*DCGM, *GPU, *SOURCE, *TRAIN, *COST, *EXPORTER)}
