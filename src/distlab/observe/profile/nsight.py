"""Run a command under Nsight Systems or Nsight Compute, on a machine that has them, and read what they found.

    distlab profile nsys --out profile -- torchrun --nproc_per_node 2 -m distlab.train --config configs/fsdp_2gpu.yaml
    distlab profile ncu --out profile --kernel 'regex:gemm' --count 20 -- distlab train --strategy single

nsys follows all ranks of one machine on one time line, at little cost. ncu runs each chosen kernel many times over to
read its counters: minutes for a few kernels, so it is asked for few. Reading counters needs a permission that many
machines withhold (NVIDIA's page "ERR_NVGPUCTRPERM"); ncu then says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distlab.errors import SettingError, WorkError
from distlab.files import write_whole
from distlab.observe.profile.ncu_report import METRICS, show_ncu
from distlab.observe.profile.nsys_report import show_nsys

Command = Annotated[Positional[tuple[str, ...]], arg(metavar="COMMAND...")]


def nsys_command(
    out: Path, command: tuple[str, ...], delay_s: float = 0.0, duration_s: float = 0.0
) -> list[str]:
    """Nsight Systems around a command; it leaves `nsys.nsys-rep` and `nsys.sqlite` in `out`."""
    times = [f"--delay={delay_s:g}"] * (delay_s > 0) + [f"--duration={duration_s:g}"] * (duration_s > 0)
    return [
        *("nsys", "profile", "--trace=cuda,nvtx,cublas,cudnn", "--sample=none", "--cpuctxsw=none"),
        # The command goes on to its end when the recording has had its time.
        *("--kill=none", "--stop-on-exit=true", "--export=sqlite", "--force-overwrite=true"),
        *times,
        f"--output={out / 'nsys'}",
        *command,
    ]


def ncu_command(out: Path, command: tuple[str, ...], kernel: str, skip: int, count: int) -> list[str]:
    """Nsight Compute around a command; it leaves `ncu.ncu-rep` in `out`.

    Clocks stay as they are: by itself ncu would lock them to the base clock, on a GPU that others may use, too.
    """
    chosen = [f"--kernel-name={kernel}"] if kernel else []
    return [
        *("ncu", "--target-processes=all", f"--metrics={','.join(METRICS)}", "--force-overwrite"),
        *chosen,
        "--clock-control=none",
        f"--launch-skip={skip}",
        f"--launch-count={count}",
        f"--export={out / 'ncu'}",
        *command,
    ]


def ncu_csv_command(out: Path) -> list[str]:
    """Makes a CSV, on standard output, of what `ncu_command` left."""
    return ["ncu", "--csv", "--page=raw", f"--import={out / 'ncu.ncu-rep'}"]


def nsys(
    command: Command,
    out: Path = Path("profile"),
    delay_s: float = 0.0,
    duration_s: float = 0.0,
    json: bool = False,
) -> int:
    """Run a command under Nsight Systems, and say where each GPU's time went.

    Args:
        command: what to run, after `--`.
        out: folder for `nsys.nsys-rep` (for Nsight's own window) and `nsys.sqlite`.
        delay_s: seconds before recording begins: start-up teaches nothing.
        duration_s: seconds of recording; 0: until the command ends.
        json: print the report as JSON.
    """
    _prepare("nsys", "Nsight Systems", command, out)
    _run(nsys_command(out, command, delay_s, duration_s), quiet=json)
    return show_nsys(out / "nsys.sqlite", json=json)


def ncu(
    command: Command,
    out: Path = Path("profile"),
    kernel: str = "",
    skip: int = 50,
    count: int = 10,
    json: bool = False,
) -> int:
    """Run a command under Nsight Compute, and say what limits each kernel.

    Args:
        command: what to run, after `--`.
        out: folder for `ncu.ncu-rep` (for Nsight's own window) and `ncu.csv`.
        kernel: names to profile, as ncu takes them: `regex:gemm`; empty: all.
        skip: kernel launches that are let pass first.
        count: launches to profile; each is run many times over.
        json: print the kernels as JSON.
    """
    _prepare("ncu", "Nsight Compute", command, out)
    _run(ncu_command(out, command, kernel, skip, count), quiet=json)
    exporting = ncu_csv_command(out)
    exported = subprocess.run(exporting, stdout=subprocess.PIPE)
    _check(exporting, exported)
    write_whole(out / "ncu.csv", exported.stdout)
    return show_ncu(out / "ncu.csv", json=json)


def _prepare(tool: str, name: str, command: tuple[str, ...], out: Path) -> None:
    if not command:
        raise SettingError("There is no command to profile; give one after `--`, such as `-- distlab train`.")
    if shutil.which(tool) is None:
        raise SettingError(
            f"{tool} is not on this machine; {name} comes with the CUDA toolkit, on a machine with an NVIDIA GPU. "
            f"An export made there can be read here: `distlab profile read-{tool} FILE`."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"Cannot write into {out}: {error.strerror}; set --out to another folder."
        ) from None


def _run(command: list[str], quiet: bool) -> None:
    """quiet: standard output is kept for JSON, and what the command prints goes to standard error."""
    _check(command, subprocess.run(command, stdout=sys.stderr if quiet else None))


def _check(command: list[str], done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        raise WorkError(f"{command[0]} ended with exit code {done.returncode}; what it said stands above.")
