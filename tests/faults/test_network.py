from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from distlab.errors import SettingError
from distlab.faults import cable
from distlab.faults.network import Cables, Network, clean_up, main, missing_rights
from distlab.train.config import from_dict
from distlab.train.loop import train
from distlab.train.records import read_log
from tests.namespaces import namespaces

needs_rights = pytest.mark.skipif(missing_rights() is not None, reason=str(missing_rights()))

REDUCE = """
import os, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist

dist.init_process_group("gloo", timeout=timedelta(seconds=3))
x = torch.ones(2**20)
dist.all_reduce(x)
assert x.unique().tolist() == [2.0]
print("reduced", flush=True)
while not os.path.exists(sys.argv[1]):  # until the cable is cut
    time.sleep(0.01)
dist.all_reduce(x)
"""
SEND = """
import socket, sys
with socket.create_connection(("10.0.0.2", 4000), timeout=1) as peer:
    peer.sendall(b"hello")
    print(peer.recv(5).decode())
"""
TIMED_SEND = """
import socket, time
started = time.monotonic()
with socket.create_connection(("10.0.0.2", 4000), timeout=1) as peer:
    peer.sendall(b"hello")
    assert peer.recv(5) == b"hello"
print(time.monotonic() - started)
"""
ECHO = """
import socket
with socket.create_server(("", 4000)) as server:
    print("listening", flush=True)
    while True:
        peer, _ = server.accept()
        peer.sendall(peer.recv(5))
"""


def _figure(name: str, queue: str) -> int:
    match = re.search(rf"{name} (\d+)", queue)
    assert match
    return int(match[1])


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(2) as made:
        yield made
    assert namespaces() == set()


@needs_rights
def test_a_slow_cable_holds_packets_back_and_a_cut_one_is_an_error_in_time(
    network: Network, tmp_path: Path
) -> None:
    is_cut = tmp_path / "cut"
    for rank in range(2):
        network.slow(rank, rate_Mbits=200)
    ranks = [
        network.start(rank, [sys.executable, "-c", REDUCE, str(is_cut)], {"OMP_NUM_THREADS": "1"})
        for rank in range(2)
    ]
    for process in ranks:
        assert process.stdout is not None
        assert any(line == "reduced\n" for line in process.stdout)
    for rank in range(2):
        for queue in network.queues(rank):
            assert "tbf" in queue
            assert "rate 200Mbit" in queue
        # All-reduce sends each rank's 4 MiB once over its cable, in halves.
        assert _figure("Sent", network.queues(rank)[0]) > 4 * 2**20
        assert _figure("overlimits", network.queues(rank)[0]) > 0
    network.cut(1)
    is_cut.touch()
    for process in ranks:
        output, _ = process.communicate()
        assert process.returncode != 0
        assert re.search("timed out|timeout", output, re.I), output


@needs_rights
def test_hosts_know_their_own_names_and_each_others(network: Network) -> None:
    asks = (
        "from socket import *; print(gethostbyname(gethostname()), gethostbyname('localhost'), "
        "gethostbyname('rank1'), gethostbyaddr('10.0.0.2')[0])"
    )
    before = Path("/etc/hosts").read_bytes()
    own = {}
    for rank in range(2):
        own[rank], *others = network.start(rank, [sys.executable, "-c", asks]).communicate()[0].split()
        assert others[:2] == ["127.0.0.1", "10.0.0.2"]
        assert others[2] == ("rank1" if rank == 0 else os.uname().nodename)
    assert own == {0: "10.0.0.1", 1: "10.0.0.2"}
    assert Path("/etc/hosts").read_bytes() == before
    assert not Path("/mnt/hosts").exists()


@needs_rights
def test_a_mended_cable_carries_again(network: Network) -> None:
    echo = network.start(1, [sys.executable, "-c", ECHO])
    assert echo.stdout is not None
    assert echo.stdout.readline() == "listening\n"

    def send() -> str:
        return network.start(0, [sys.executable, "-c", SEND]).communicate()[0]

    before = network.sent_bytes(0)
    assert send() == "hello\n"
    assert network.sent_bytes(0) > before
    network.cut(1)
    assert "TimeoutError" in send()
    network.mend(1)
    assert send() == "hello\n"


@needs_rights
def test_packets_are_as_late_as_asked_for_and_cables_can_be_slowed_and_cut() -> None:
    with Network(2, delay_ms=30) as network:
        network.slow(1, rate_Mbits=200)
        echo = network.start(1, [sys.executable, "-c", ECHO])
        assert echo.stdout is not None
        assert echo.stdout.readline() == "listening\n"

        def send() -> str:
            return network.start(0, [sys.executable, "-c", TIMED_SEND]).communicate()[0]

        assert float(send()) >= 4 * 0.030  # connecting is a round trip, and the answer another
        network.cut(1)
        assert "TimeoutError" in send()
        network.mend(1)
        assert float(send()) >= 4 * 0.030
        assert network.cables is not None
        carrier = psutil.Process(network.cables.pid)
    assert not carrier.is_running()
    assert namespaces() == set()


@needs_rights
def test_a_delay_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="delay_ms is -1"):
        Network(2, delay_ms=-1)
    with monkeypatch.context() as patch:
        patch.setattr(cable, "TUN", str(tmp_path / "tun"))
        with pytest.raises(SettingError, match=r"No delay can be had here: .*tun"):
            Network(2, delay_ms=1)
    monkeypatch.setattr(sys, "executable", "/bin/false")  # the carrier ends before it is ready
    with pytest.raises(SettingError, match="No delay can be had here"), Network(2, delay_ms=1):
        pass
    assert namespaces() == set()


@needs_rights
def test_ranks_do_not_see_the_machines_network(network: Network) -> None:
    shown, _ = network.start(0, ["ip", "-brief", "address"]).communicate()
    assert [line.split()[0].split("@")[0] for line in shown.splitlines()] == ["lo", "eth0"]
    assert "10.0.0.1/24" in shown


@needs_rights
def test_what_a_killed_process_leaves_goes_with_the_next_network() -> None:
    code = """
import os
from distlab.faults.network import Network
with Network(1) as network:
    rank = network.start(0, ["sh", "-c", "echo ready; exec sleep infinity"])
    print(network.name, rank.pid, rank.stdout.readline(), flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    name, pid, _ = done.stdout.split()
    assert f"{name}-0" in namespaces(name)
    if psutil.pid_exists(int(pid)):
        psutil.Process(int(pid)).wait(timeout=10)  # it ends with the process that started it
    clean_up()
    assert namespaces(name) == set()


@needs_rights
def test_without_rights_it_says_so() -> None:
    code = "from distlab.faults.network import Network\nNetwork(2)"
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SettingError: User 0 may not make network namespaces; run as root" in done.stderr


@needs_rights
def test_faults_of_a_run_slow_its_network_and_drop_it_for_a_while(network: Network, tmp_path: Path) -> None:
    plain = {
        "folder": str(tmp_path),
        "steps": 6,
        "model": {"width": 512},
        "data": {"global_batch": 64},
        "faults": [
            {"kind": "slow_network", "step": 2, "rank": 1, "rate_Mbits": 200},
            {"kind": "drop_network", "step": 4, "rank": 0, "seconds": 0.5},
        ],
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain))
    command = [sys.executable, "-m", "distlab.train", "--config", str(file)]
    ranks = [network.start(rank, command, {"OMP_NUM_THREADS": "1"}) for rank in range(2)]
    for process in ranks:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    assert network.queues(0)[0].startswith("qdisc noqueue")
    for queue in network.queues(1):
        assert "rate 200Mbit" in queue
        assert _figure("overlimits", queue) > 0
    # No gradient passes before packets do, and none is lost.
    dropped = json.loads((tmp_path / "run/faults/1.json").read_text())
    lines = read_log(str(tmp_path / "run"))
    assert min(line.time for line in lines if line.step == 4) - dropped["time_s"] > 0.5
    alone = train(from_dict(plain | {"strategy": "single", "folder": None, "faults": []}))
    for step in alone.steps:
        told = [line.loss for line in lines if line.step == step.step]
        assert told == pytest.approx([step.loss] * 2, abs=2e-5)


@needs_rights
def test_a_command_runs_as_each_rank_of_a_network_until_one_fails(capfd: pytest.CaptureFixture[str]) -> None:
    shell = "echo I am $RANK of $WORLD_SIZE at $(ip -br a show eth0); {}"
    assert main(["2", "sh", "-c", shell.format("exit 0")]) == 0
    shown = capfd.readouterr().out
    for rank in range(2):
        assert re.search(
            rf"^\[rank {rank}\] I am {rank} of 2 at eth0\S* .* 10\.0\.0\.{rank + 1}/24", shown, re.M
        )
    assert main(["2", "sh", "-c", '[ "$RANK" = 1 ] && exit 3; exec sleep infinity']) == 3


@needs_rights
def test_a_network_ends_its_ranks_however_young_they_are() -> None:
    with Network(1) as network:
        rank = network.start(0, ["sleep", "600"])
    assert rank.returncode


@needs_rights
def test_what_the_system_refuses_is_one_sentence() -> None:
    with pytest.raises(
        SettingError, match=r"^`tc -n distlab-none-0 .*` failed: .*namespace.*; a network needs"
    ):
        Cables("distlab-none").slow(0, rate_Mbits=1)


def test_a_network_has_at_least_one_rank() -> None:
    with pytest.raises(SettingError, match="world_size is 0"):
        Network(0)
