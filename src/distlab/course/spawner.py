"""JupyterHub's spawner for one machine: each user's server in a sandbox of its own, with limits.

    c.JupyterHub.spawner_class = "distlab.course.spawner.SandboxSpawner"

The server's supervisor (`distlab.course.box`) outlives the Hub; a restarted Hub finds it by process id and
start time. Where the machine cannot make a sandbox or hold its limits, one single learner may work, with a
warning in the Hub's log, and every other one is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import psutil
from jupyterhub.spawner import Spawner  # type: ignore[import-untyped]
from jupyterhub.utils import url_path_join, wait_for_http_server  # type: ignore[import-untyped]
from tornado.web import HTTPError
from traitlets import Instance, Integer, default

from distlab.course import box
from distlab.course.cgroup import Limits
from distlab.course.homes import HomeError, give, prepare_home, uid_for
from distlab.course.processes import ProcessId
from distlab.course.sandbox import Mount, Problem, base_env, limits_problem, python_mounts, sandbox_problem
from distlab.course.site import (
    INSIDE_COURSE,
    INSIDE_EXCHANGE_PORT,
    INSIDE_GRADER_SOCKETS,
    INSIDE_HOME,
    INSIDE_HUB_PORT,
    INSIDE_SERVER_PORT,
    INSTRUCTORS,
    USERNAME,
    Site,
)

GIB = 2**30
CONFIGS = Path(__file__).with_name("jupyter")

ASK = "The operator finds the reason and what helps in the Hub's log, or with `distlab doctor`."


class SpawnRefused(HTTPError):  # noqa: N818 - what the user reads
    """A server that cannot be started; JupyterHub shows the message to its user (503)."""

    def __init__(self, message: str) -> None:
        super().__init__(503, "%s", message)
        self.jupyterhub_message = message


class SandboxSpawner(Spawner):  # type: ignore[misc]  # jupyterhub has no types
    """See the module. `mem_limit` (bytes, or "2G"), `cpu_limit` (cores) and `pids_limit` are enforced."""

    site = Instance(Site)
    pids_limit = Integer(
        1024,
        config=True,
        help="Processes and threads of one user's server at most: a small Ray cluster has several hundred.",
    )

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.supervisor: ProcessId | None = None
        self.process: Any = None

    @default("site")
    def _default_site(self) -> Site:
        return Site.from_env()

    @default("mem_limit")
    def _default_mem_limit(self) -> int:
        return min(max(psutil.virtual_memory().total // 4, 2 * GIB), 4 * GIB)  # Lab 1 of MOD-202 takes 3 GiB

    @default("cpu_limit")
    def _default_cpu_limit(self) -> float:
        return float(min(2, os.cpu_count() or 1))

    @default("poll_interval")
    def _default_poll_interval(self) -> int:
        return 5  # seconds: a look at /proc

    @default("start_timeout")
    def _default_start_timeout(self) -> int:
        return 180  # seconds: a class that starts together shares a few cores

    @default("http_timeout")
    def _default_http_timeout(self) -> int:
        return int(self.start_timeout)

    # Addresses inside the sandbox: its loopback is its own.
    @default("ip")
    def _default_ip(self) -> str:
        return "127.0.0.1"

    @default("port")
    def _default_port(self) -> int:
        return INSIDE_SERVER_PORT

    @default("hub_connect_url")
    def _default_hub_connect_url(self) -> str:
        return f"http://127.0.0.1:{INSIDE_HUB_PORT}"

    @property
    def folder(self) -> Path:
        """Where the supervisor keeps its things."""
        return self.site.boxes / str(self.user.name)

    @property
    def instructor(self) -> bool:
        return any(group.name == INSTRUCTORS for group in self.user.groups)

    def get_env(self) -> dict[str, str]:
        """The sandbox's whole environment: what the Hub tells its servers, and nothing of the Hub's own."""
        told = super().get_env()
        names = {"MEM_LIMIT", "CPU_LIMIT", *self.environment}
        env = {
            name: str(value)
            for name, value in told.items()
            if name.startswith("JUPYTERHUB_") or name in names
        }
        return {
            **base_env(self.user.name, f"{INSIDE_HOME}/{self.user.name}"),
            "DISTLAB_EXCHANGE_URL": f"http://127.0.0.1:{INSIDE_EXCHANGE_PORT}",
            "JUPYTER_CONFIG_PATH": str(CONFIGS / ("instructor" if self.instructor else "learner")),
            **env,
        }

    async def start(self) -> tuple[str, int]:
        """Start the server and wait until it answers; returns its address on the host."""
        name = self.user.name
        if self.name or not USERNAME.fullmatch(name):
            raise SpawnRefused(f"There is one server a user; {name!r} {self.name!r} cannot be one's name.")
        problems = await asyncio.to_thread(lambda: (sandbox_problem(), limits_problem()))
        spec = self._spec(*problems)
        self.process = await asyncio.to_thread(box.launch, self.folder, spec)
        self.supervisor = ProcessId.of(self.process.pid)
        line = await asyncio.to_thread(self.process.stdout.readline)
        self.process.stdout.close()
        ready = json.loads(line or '{"error": "its supervisor ended"}')
        if "error" in ready:
            self.log.error("Server of %s: %s", name, ready["error"])
            raise SpawnRefused(
                f"Your server could not be started: the operator finds why in {self._log_file}."
            )
        url = f"http://127.0.0.1:{ready['port']}{self.server.base_url}"
        await self._until_it_answers(url_path_join(url, "api"))
        return "127.0.0.1", ready["port"]

    async def _until_it_answers(self, url: str) -> None:
        """Wait for the server, but no longer than it lives."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        process = os.pidfd_open(self.process.pid)

        def finish() -> None:
            loop.remove_reader(process)
            ended.set_result(None)

        loop.add_reader(process, finish)
        answers = asyncio.ensure_future(wait_for_http_server(url, timeout=self.start_timeout))
        try:
            await asyncio.wait({answers, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                raise SpawnRefused(
                    f"Your server ended while it started: the operator finds why in {self._log_file}."
                )
            await answers
        finally:
            answers.cancel()
            loop.remove_reader(process)
            os.close(process)

    @property
    def _log_file(self) -> str:
        return f"{self.site.log.name}/{self.user.name}.log"

    def _spec(self, no_sandbox: Problem | None, no_limits: Problem | None) -> box.Spec:
        """What to run, after the home is there. Raises `SpawnRefused`."""
        name = str(self.user.name)
        if no_sandbox and os.geteuid() == 0:
            self.log.error("No server of root's runs without a sandbox. %s", no_sandbox.advice)
            raise SpawnRefused(f"This machine can make no sandbox for your server. {ASK}")
        for problem in filter(None, (no_sandbox, no_limits)):
            self._admit_unprotected(problem)
        uid = uid_for(self.user.id, self.instructor)
        home, inside = self.site.homes / name, f"{INSIDE_HOME}/{name}"
        try:
            prepare_home(home, uid, self.user.id)
        except HomeError as error:
            self.log.error("%s", error)
            raise SpawnRefused(
                "Your home cannot be used: the operator finds why in the Hub's log."
            ) from error
        mounts = [*python_mounts(), Mount(str(home), inside, writable=True)]
        if self.instructor:
            if os.geteuid() == 0:
                give(self.site.course, uid)
            mounts.append(Mount(str(self.site.course), str(INSIDE_COURSE), writable=True))
            mounts.append(Mount(str(self.site.grader_sockets), str(INSIDE_GRADER_SOCKETS)))
        limits = Limits(int(self.mem_limit), float(self.cpu_limit), self.pids_limit)
        self.site.log.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.site.boxes.mkdir(mode=0o700, parents=True, exist_ok=True)
        return box.Spec(
            user=name,
            uid=uid,
            argv=(*self.cmd, *self.get_args()),
            env={**self.get_env(), **({"HOME": str(home)} if no_sandbox else {})},
            cwd=str(home) if no_sandbox else inside,
            log=str(self.site.log / f"{name}.log"),
            site_sockets=str(self.site.site_sockets),
            mounts=tuple(mounts),
            limits=None if no_limits else limits,
            protected=not no_sandbox,
        )

    def _admit_unprotected(self, problem: Problem) -> None:
        """Admit one single learner, for good, where learners cannot be kept apart; refuse all others.

        Instructors are not counted.
        """
        name = self.user.name
        if not self.instructor and claim_single_learner(self.site, name) != name:
            self.log.error("Refused a second learner, %s. %s", name, problem.advice)
            raise SpawnRefused(
                f"This machine cannot keep learners apart, so that it serves one alone, and another came first. {ASK}"
            )
        self.log.warning("THE SERVER OF %s IS NOT FULLY PROTECTED. %s", name, problem.advice)

    async def poll(self) -> int | None:
        """None while the server runs; where it ended, what it left is removed."""
        if self.process:
            self.process.poll()  # takes a zombie's status
        if self.supervisor is None:
            return 0
        if self.supervisor.alive():
            return None
        await asyncio.to_thread(box.stop, self.folder)
        return 1

    async def stop(self, now: bool = False) -> None:
        """End the server with everything in it. `now`: without giving its kernels time to end themselves."""
        await asyncio.to_thread(box.stop, self.folder, now=now)
        if self.process:
            await asyncio.to_thread(self.process.wait)

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        if self.supervisor:
            state["supervisor"] = dataclasses.asdict(self.supervisor)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if "supervisor" in state:
            self.supervisor = ProcessId(**state["supervisor"])

    def clear_state(self) -> None:
        super().clear_state()
        self.supervisor = self.process = None


def claim_single_learner(site: Site, name: str) -> str:
    """The one learner that an unprotected site serves: whoever asks first, until the file is deleted."""
    claim = site.hub / "single-learner"
    site.hub.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(claim, "x") as file:
            file.write(name)
    except FileExistsError:
        return claim.read_text()
    return name
