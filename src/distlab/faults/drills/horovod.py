"""Recovery through Horovod Elastic: the ranks that are left go on in their own processes.

    distlab drill horovod       # rank 1 gets SIGKILL; rank 0 goes on alone

`horovodrun` watches the ranks. When one dies, the others get an error out of their collective, ask horovodrun
who is left, connect anew and call the training function again; it resumes from the last checkpoint. The host of
a failed rank is not used again, and two ranks of one machine count as two hosts by having two names for it.
"""

from __future__ import annotations

import json as jsonlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from distlab.errors import SettingError
from distlab.faults.drills.launcher import Launcher
from distlab.faults.drills.rank import drill_config, train_noting
from distlab.faults.drills.report import Recovery, measure, present, struck_at
from distlab.train.config import TrainConfig, from_dict
from distlab.train.launchers import join_horovod
from distlab.train.strategies.horovod import import_horovod

HOSTS = "#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n"
"""The script that tells horovodrun, again and again, which hosts there are and how many ranks each takes."""
MAX_RESETS = 3
FAILED = r"exit with status code"
"""What horovodrun logs when it notices that a rank is gone."""


def horovod(
    strategy: Literal["horovod", "ddp"] = "horovod", step: int = 12, steps: int = 30, json: bool = False
) -> int:
    """Kill a rank of a run under Horovod Elastic, and report what the recovery cost (on CPU).

    Args:
        strategy: how the ranks train; with ddp, Horovod only starts and finds them.
        step: the fault strikes after this many optimizer steps; a checkpoint is saved after every fifth.
        steps: of the whole run.
        json: print the report as JSON.
    """
    return present(drill_horovod(strategy, step, steps), json)


def drill_horovod(strategy: str = "horovod", step: int = 12, steps: int = 30) -> Recovery:
    """The drill behind `distlab drill horovod`.

    SettingError without Horovod, DrillError where the run does not come back.
    """
    import_horovod()
    program = shutil.which(
        "horovodrun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if program is None:
        raise SettingError("The command 'horovodrun' is not on the PATH; it comes with Horovod.")
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        config = drill_config(Path(folder), strategy, "kill", step, steps)
        path, hosts = Path(folder) / "config.json", Path(folder) / "hosts.sh"
        path.write_text(jsonlib.dumps(config.as_dict()))
        hosts.write_text(HOSTS)
        hosts.chmod(0o755)
        command = [program, "-np", "2", "--min-np", "1", "--host-discovery-script", str(hosts)]
        command += ["--network-interface", "lo", "--gloo", "--verbose", "--reset-limit", str(MAX_RESETS)]
        command += [sys.executable, "-m", "distlab.faults.drills.horovod", str(path)]
        launcher = Launcher(command, os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            broken_at = launcher.wait_for(lambda: struck_at(config), "the fault")
            noticed_at = launcher.wait_for(lambda: launcher.said(FAILED, broken_at), "horovodrun noticing")
            launcher.finish()
        finally:
            launcher.kill()
        return measure(config, "horovod", "rank 1 killed", broken_at, noticed_at)


def main(path: Path) -> None:
    """What each rank runs: training that starts again, with the ranks there are, when one is lost."""
    config = from_dict(jsonlib.loads(path.read_text()))
    hvd = import_horovod()
    hvd.init()

    @hvd.elastic.run  # type: ignore[untyped-decorator]
    def train(state: Any) -> None:
        _train(config, hvd)

    train(hvd.elastic.TorchState())


def _train(config: TrainConfig, hvd: Any) -> None:
    import torch.distributed as dist
    from horovod.common.exceptions import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        HorovodInternalError,
    )

    store = join_horovod(config)
    dist.init_process_group("gloo", store=store, rank=hvd.rank(), world_size=hvd.size())
    try:
        train_noting(config)
    except RuntimeError as error:
        # A collective of torch's was the first to miss the rank. Horovod knows its own errors only.
        raise HorovodInternalError(str(error)) from error
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
