"""Recovery through torchrun's elastic agents.

    distlab drill torchrun              # one agent: rank 1 gets SIGKILL, all ranks are started again
    distlab drill torchrun --nodes 2    # two agents: one is killed with its rank; the other goes on alone

An agent watches the ranks that it started on its node. When one fails, it stops the others, meets the other
agents (the rendezvous), and all start their ranks anew; these resume from the last checkpoint. An agent that
vanishes is only missed by its heartbeat.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from distlab.faults.drills.launcher import Launcher
from distlab.faults.drills.rank import drill_config
from distlab.faults.drills.report import Recovery, measure, present, struck_at
from distlab.machine import LOOPBACK, free_port

FAILED = r"failed \(exitcode: "
"""What an agent logs when it notices that a rank is gone."""
MAX_RESTARTS = 3
ENVIRONMENT = {
    # Ranks that are started again must not find the addresses of their predecessors in the agent's store, and
    # must not lose the store with the agent that kept it.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}


def torchrun(
    nodes: Literal[1, 2] = 1,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    step: int = 12,
    steps: int = 30,
    json: bool = False,
) -> int:
    """Kill a rank, or a whole node, of a run under torchrun, and report what the recovery cost.

    Args:
        nodes: 1: rank 1 is killed, and its agent starts both ranks again. 2: two agents of one rank each, as on
            two machines; the second is killed whole, and the run goes on at world size 1.
        strategy: how the ranks train.
        step: the fault strikes after this many optimizer steps; a checkpoint is saved after every fifth.
        steps: of the whole run.
        json: print the report as JSON.
    """
    return present(drill_torchrun(nodes, strategy, step, steps), json)


def drill_torchrun(
    nodes: Literal[1, 2] = 1, strategy: str = "ddp", step: int = 12, steps: int = 30
) -> Recovery:
    """The drill behind `distlab drill torchrun`. DrillError where the run does not come back."""
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder, ExitStack() as stack:
        # A rank that is to vanish with its node only stops, so that the drill knows the step it was at.
        config = drill_config(Path(folder), strategy, "kill" if nodes == 1 else "hang", step, steps)
        path = Path(folder) / "config.json"
        path.write_text(jsonlib.dumps(config.as_dict()))
        port = free_port()
        agents = [_start_agent(path, port, node, nodes) for node in range(nodes)]
        for agent in agents:
            stack.callback(agent.kill)
        broken_at = agents[0].wait_for(lambda: struck_at(config), "the fault")
        if nodes == 2:
            broken_at = time.time()
            agents[1].kill()
        noticed_at = agents[0].wait_for(lambda: agents[0].said(FAILED, broken_at), "the agent noticing")
        agents[0].finish()
        fault = "rank 1 killed" if nodes == 1 else "node 1 killed"
        return measure(config, "torchrun", fault, broken_at, noticed_at)


def _start_agent(config: Path, port: int, node: int, nodes: int) -> Launcher:
    """Node 0 keeps the rendezvous. With two nodes, one is enough to go on."""
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", f"1:{nodes}", "--nproc_per_node", str(2 // nodes)]
    command += ["--max_restarts", str(MAX_RESTARTS), "--local_addr", LOOPBACK]
    command += ["--log_dir", str(config.parent / "logs")]
    command += ["--rdzv_backend", "c10d", "--rdzv_id", "drill", "--rdzv_endpoint", f"{LOOPBACK}:{port}"]
    # How long the first nodes wait for further ones. The heartbeat stays as it is: with a short one, a busy
    # node is taken for dead, and both go on as rank 0.
    command += ["--rdzv_conf", f"is_host={node == 0},last_call_timeout=3"]
    return Launcher([*command, "-m", "distlab.faults.drills.rank", str(config)], os.environ | ENVIRONMENT)
