"""A network between ranks that can be slowed and cut, on one machine (Linux, as root).

    with Network(2) as network:
        ranks = [network.start(rank, [sys.executable, "-m", "distlab.train", ...]) for rank in range(2)]
        network.slow(1, rate_Mbits=100)    # rank 1's cable: 100 Mbit/s both ways
        network.cut(1)                     # unplugged: packets vanish, and nobody is told
        network.mend(1)

Each rank runs in a network namespace of its own, as if it were a machine: a loopback and one interface,
`eth0`, that a virtual cable (veth) joins to a switch (a bridge, in a namespace of its own, too). The machine's
own network is not touched. A token bucket filter (`tc ... tbf`) at both ends of a cable limits its bandwidth. With
`Network(2, delay_ms=5)` cables are carried by a process that holds packets back (`distlab.faults.cable`).

By configuration, `faults: [{kind: slow_network, step: 3, rank: 1, rate_Mbits: 20}]` and `drop_network` do the same
to a run whose ranks were started in such a network:

    python -m distlab.faults.network 2 python -m distlab.train --config slow.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

import psutil

from distlab.errors import SettingError
from distlab.faults import cable
from distlab.machine import cores

PORT = 29500
"""Where ranks meet. Each network has all ports to itself."""
IN_NETWORK = "DISTLAB_NETWORK"
"""Name of the network that a rank was started in."""

WITH_NAMES = (
    'mount -t tmpfs hosts /mnt && printf "%b" "$1" >/mnt/hosts && mount --bind /mnt/hosts /etc/hosts && '
    'umount -l /mnt && shift && exec "$@"'
)
"""For a shell, with the text of a hosts file and a command: runs the command with that in place of /etc/hosts.

`ip netns exec` has made a mount namespace of its own, so that nothing outside sees it, and nothing is left of it.
"""


class Cables:
    """The cables of a network, by rank: what can be done to them, also by a rank (as root)."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def here(cls) -> Cables | None:
        """Those of the network that this process was started in; None elsewhere."""
        name = os.environ.get(IN_NETWORK)
        return cls(name) if name else None

    def slow(self, rank: int, rate_Mbits: float) -> None:  # noqa: N803 - units keep their case
        """Limit the cable of a rank to `rate_Mbits` (10^6 bits/s) in each direction.

        A bucket of 256 KiB passes at once; beyond it packets queue for up to 20 ms and are then dropped, as in
        a switch, so that TCP finds its pace.
        """
        shape = ["root", "tbf", "rate", f"{round(rate_Mbits * 1e6)}bit", "burst", "256kb", "latency", "20ms"]
        _in(self._rank(rank), "tc", "qdisc", "replace", "dev", "eth0", *shape)
        _in(self._switch, "tc", "qdisc", "replace", "dev", f"port{rank}", *shape)

    def cut(self, rank: int) -> None:
        """Let every packet from and to a rank vanish. Its connections stay open: only a timeout tells."""
        _in(self._switch, "ip", "link", "set", f"port{rank}", "nomaster")

    def mend(self, rank: int) -> None:
        """Undo `cut`."""
        _in(self._switch, "ip", "link", "set", f"port{rank}", "master", "switch")

    def queues(self, rank: int) -> list[str]:
        """What `tc -s qdisc` tells about both ends of a rank's cable: limits, bytes, packets held back."""
        ends = ((self._rank(rank), "eth0"), (self._switch, f"port{rank}"))
        return [_in(namespace, "tc", "-s", "qdisc", "show", "dev", device) for namespace, device in ends]

    def sent_bytes(self, rank: int) -> int:
        """What a rank has sent over its cable so far, headers included."""
        (link,) = json.loads(_in(self._rank(rank), "ip", "-j", "-s", "link", "show", "eth0"))
        return int(link["stats64"]["tx"]["bytes"])

    @property
    def _switch(self) -> str:
        return f"{self.name}-switch"

    def _rank(self, rank: int) -> str:
        return f"{self.name}-{rank}"


class Network(Cables):
    """A switch and `world_size` namespaces with a cable each; entered, it exists, and left, it is gone.

    What a killed process left behind goes when the next Network is made.
    """

    def __init__(self, world_size: int, delay_ms: float = 0.0) -> None:
        """delay_ms: one way between two ranks, beyond what the machine takes.

        SettingError where a network cannot be made: not Linux, not root, no `ip` or `tc`, no tun for a delay.
        """
        if not 1 <= world_size <= 250:
            raise SettingError(f"world_size is {world_size}; a network has 1 to 250 ranks.")
        if not 0 <= delay_ms <= 10_000:
            raise SettingError(f"delay_ms is {delay_ms}; expected 0 to 10000 milliseconds.")
        if (lacking := missing_rights() or (cable.missing() if delay_ms else None)) is not None:
            raise SettingError(lacking)
        super().__init__(owner(psutil.Process()))
        self.world_size = world_size
        self.delay_ms = delay_ms
        self.cables: subprocess.Popen[str] | None = None
        """The process that carries the packets, where they are to be late."""
        self.ranks: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Network:
        clean_up()
        try:
            _ip("netns", "add", self._switch)
            _in(self._switch, "ip", "link", "add", "switch", "type", "bridge")
            _in(self._switch, "ip", "link", "set", "switch", "up")
            for rank in range(self.world_size):
                _ip("netns", "add", self._rank(rank))
            if self.delay_ms:
                self.cables = self._slow_cables()
            for rank in range(self.world_size):
                self._plug_in(rank)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self.name)
        for process in [*self.ranks, *([self.cables] if self.cables else [])]:
            process.kill()  # the cables, and a rank that was not yet in its namespace
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def address(self, rank: int) -> str:
        """IPv4 address of a rank."""
        return f"10.0.0.{rank + 1}"

    def start(
        self, rank: int, command: list[str], env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start `command` as `rank` in its namespace; standard output and error come by its pipe `stdout`.

        The environment says what `torch.distributed.init_process_group` reads: rank, world size, where rank 0
        listens, and which interface is the network. `env` is added. The process ends with the network.
        """
        ours = {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.address(0),
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": "eth0",
            "NCCL_SOCKET_IFNAME": "eth0",
            IN_NETWORK: self.name,
        }
        named = ["sh", "-c", WITH_NAMES, "sh", self._hosts(rank)]
        process = subprocess.Popen(
            # The signal, so that a rank does not outlive this process, however it ends.
            ["ip", "netns", "exec", self._rank(rank), *named, "setpriv", "--pdeathsig", "KILL", *command],
            env=os.environ | ours | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.ranks.append(process)
        return process

    def _hosts(self, rank: int) -> str:
        """A hosts file: the machine's own name is the rank's address, which Horovod tells the others, not loopback's.

        Every address has a name, since no name server answers to a question about one.
        """
        names = [f"{self.address(rank)} {os.uname().nodename}", "127.0.0.1 localhost"]
        names += [f"{self.address(other)} rank{other}" for other in range(self.world_size)]
        return "".join(f"{line}\\n" for line in names)

    def _plug_in(self, rank: int) -> None:
        name = self._rank(rank)
        _in(name, "ip", "link", "set", "lo", "up")
        if self.cables is None:
            pair = ["eth0", "type", "veth", "peer", "name", f"port{rank}", "netns", self._switch]
            _in(name, "ip", "link", "add", *pair)
        else:
            _in(name, "ip", "link", "set", "eth0", "mtu", str(cable.MTU))
            _in(self._switch, "ip", "link", "set", f"port{rank}", "mtu", str(cable.MTU))
        _in(name, "ip", "address", "add", f"{self.address(rank)}/24", "dev", "eth0")
        _in(name, "ip", "link", "set", "eth0", "up")
        _in(self._switch, "ip", "link", "set", f"port{rank}", "master", "switch", "up")

    def _slow_cables(self) -> subprocess.Popen[str]:
        """Start the process that is the cables; both ends of each are there when this returns."""
        ends = [
            f"{namespace}:{device}"
            for rank in range(self.world_size)
            for namespace, device in ((self._rank(rank), "eth0"), (self._switch, f"port{rank}"))
        ]
        command = [sys.executable, "-m", cable.__name__, str(self.delay_ms), *ends]
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,  # Ctrl-C is for the ranks, which may want to end in order
        )  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        if said.strip() != cable.READY:
            process.kill()
            lines = (said + process.communicate()[0]).splitlines() or ["the process of the cables ended"]
            raise SettingError(f"No delay can be had here: {lines[-1].rstrip('.')}.")
        return process


def main(args: list[str]) -> int:
    """Run a command as each rank of a network and show what they print; the first exit code that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m distlab.faults.network", description=main.__doc__)
    parser.add_argument("ranks", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(args)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // max(1, chosen.ranks)))} | os.environ
    with Network(chosen.ranks) as network, ThreadPoolExecutor(chosen.ranks) as pool:
        ranks = [network.start(rank, chosen.command, threads) for rank in range(chosen.ranks)]
        for ended in as_completed(
            [pool.submit(_follow, rank, process) for rank, process in enumerate(ranks)]
        ):
            if code := ended.result():
                for process in ranks:  # the others would wait for it
                    process.kill()
                return code if code > 0 else 1
    return 0


def _follow(rank: int, process: subprocess.Popen[str]) -> int:
    """Show what a rank prints until it ends; its exit code."""
    assert process.stdout is not None
    for line in process.stdout:
        print(f"[rank {rank}] {line}", end="", flush=True)
    return process.wait()


def missing_rights() -> str | None:
    """Why no Network can be made here, in a sentence; None where one can."""
    if sys.platform != "linux":
        return f"This system is {sys.platform!r}; network namespaces need Linux."
    if tools := [tool for tool in ("ip", "tc", "setpriv") if shutil.which(tool) is None]:
        return f"The command {tools[0]!r} is not here; install iproute2 and util-linux."
    name = f"{owner(psutil.Process())}-trial"
    with contextlib.suppress(SettingError):
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
        return None
    return f"User {os.getuid()} may not make network namespaces; run as root (CAP_NET_ADMIN, CAP_SYS_ADMIN)."


def clean_up() -> None:
    """Remove the networks of processes that are no more."""
    alive = owners()
    for name in {match[1] for match in re.finditer(r"^(distlab-\d+-\d+)-", _ip("netns", "list"), re.M)}:
        if name not in alive:
            _remove(name)


def owner(process: psutil.Process) -> str:
    """What a process makes for a time has a name that begins so: its id, and its start, since ids are used again."""
    try:
        return f"distlab-{process.pid}-{round(process.create_time() * 100)}"
    except psutil.NoSuchProcess:
        return ""


def owners() -> set[str]:
    """Of all processes that live."""
    return {owner(process) for process in psutil.process_iter()}


def _remove(name: str) -> None:
    """End what runs in the namespaces of that name, and delete them; the cables go with them."""
    for namespace in re.findall(rf"^{name}-\S+", _ip("netns", "list"), re.M):
        for pid in _ip("netns", "pids", namespace).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", namespace)


def _in(namespace: str, command: str, *args: str) -> str:
    """Run `ip` or `tc` inside a namespace."""
    return _run(command, "-n", namespace, *args)


def _ip(*args: str) -> str:
    return _run("ip", *args)


def _run(*command: str) -> str:
    """What it prints. SettingError with its own words where it fails, such as for a kernel without tbf."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"`{shlex.join(command)}` failed: {done.stderr.strip().rstrip('.')}"
        raise SettingError(f"{said}; a network needs a kernel with bridge, veth and tbf.")
    return done.stdout


if __name__ == "__main__":
    # Ctrl-C reaches the ranks, too, and they end in order.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        sys.exit(main(sys.argv[1:]))
    except SettingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
