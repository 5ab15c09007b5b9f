"""The XIDs that matter to training, by NVIDIA's catalogue, each with how urgent it is.

Source of codes, meanings and actions: NVIDIA, "Analyzing Xid Errors with the Xid Catalog" (for Ampere and newer),
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, read in November 2026. Code 61 is of the
catalogue for Volta and older.

The severity follows the catalogue's immediate action: `critical` where a GPU has to be reset, rebooted or repaired,
`warning` where it can go on and has to be looked at, `info` where it is most often the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True)
class XidEntry:
    """One code. `action` and `investigation` are the catalogue's resolution buckets, for who reads this table."""

    code: int
    name: str
    severity: Severity
    action: str
    investigation: str


_TABLE: tuple[tuple[int, str, Severity, str, str], ...] = (
    (13, "Graphics engine exception", "info", "RESTART_APP", "WORKFLOW_XID_13"),
    (31, "GPU memory page fault", "info", "RESTART_APP", "WORKFLOW_XID_31"),
    (32, "Corrupted push buffer stream", "warning", "RESTART_APP", "CHECK_APP/CUDA"),
    (43, "GPU stopped processing", "info", "IGNORE", "CONTACT_SUPPORT"),
    (45, "Preemptive cleanup", "info", "WORKFLOW_XID_45", "follow the other XID"),
    (46, "GPU stopped processing: timeout", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
    (48, "Double-bit ECC error", "critical", "WORKFLOW_XID_48", "WORKFLOW_XID_48"),
    (61, "Micro-controller breakpoint (Volta and older)", "warning", "none named", "none named"),
    (62, "Micro-controller halt", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
    (63, "Memory remapping event", "warning", "IGNORE", "IGNORE"),
    (64, "Memory remapping failure", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
    (69, "Graphics engine class error", "info", "RESTART_APP", "CHECK_APP/CUDA"),
    (74, "NVLink error", "critical", "WORKFLOW_NVLINK_ERR", "CONTACT_SUPPORT"),
    (79, "GPU has fallen off the bus", "critical", "RESTART_BM", "CONTACT_SUPPORT"),
    (92, "High rate of single-bit ECC errors", "warning", "IGNORE", "CONTACT_SUPPORT"),
    (94, "Contained memory error", "warning", "RESTART_APP", "IGNORE"),
    (95, "Uncontained memory error", "critical", "RESET_GPU", "IGNORE"),
    (109, "Context switch timeout", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
    (110, "Security fault", "critical", "RESET_GPU", "INVESTIGATE_SW"),
    (119, "GSP RPC timeout", "critical", "RESET_GPU", "INVESTIGATE_SW"),
    (120, "GSP error", "critical", "RESET_GPU", "INVESTIGATE_SW"),
    (136, "NVLink training failed", "critical", "RESET_GPU", "INVESTIGATE_LINK_SI"),
    (137, "NVLink privilege error", "warning", "IGNORE", "XID_137_FLOW"),
    (140, "Uncorrected ECC error, not handled", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
    (143, "GPU initialization error", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
    (144, "NVLink 5: SAW error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (145, "NVLink 5: RLW error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (146, "NVLink 5: TLW error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (147, "NVLink 5: TREX error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (148, "NVLink 5: NVLPW_CTRL error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (149, "NVLink 5: NETIR error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (150, "NVLink 5: MSE error", "warning", "WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (154, "GPU recovery action changed", "warning", "XID_154", "follow the other XID"),
    (155, "NVLink down, on purpose", "critical", "RESET_GPU", "INVESTIGATE_SW_USER"),
    (156, "Resource retirement event", "critical", "RESET_GPU", "IGNORE"),
    (157, "Resource retirement failure", "warning", "IGNORE", "CONTACT_SUPPORT"),
    (158, "GPU fatal timeout", "critical", "RESET_GPU", "CONTACT_SUPPORT"),
)

XIDS = {entry.code: entry for entry in (XidEntry(*row) for row in _TABLE)}


def named(code: int) -> str:
    """The code with its meaning: `79 (GPU has fallen off the bus)`; the code alone where the table lacks it."""
    return f"{code} ({XIDS[code].name})" if code in XIDS else str(code)
