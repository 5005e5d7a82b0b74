"""An Orqal on the hosts of a cluster of namespaces, started by hand as a lab would: `orqal up`, and `orqal join`."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from examples.local_image import DEMO_IMAGE, make_image
from tests.cluster.host import Host
from tests.cluster.namespaces import Namespaces
from tests.conftest import PROGRAMS
from tests.support.api import Api

PORT = 5001
UP_WITHIN = 120
"""Seconds that `orqal up`, `join` or `down` may take."""
STARTS = 3
"""How often a start is tried that a time limit of Ray's own ends."""
RAY_TOO_SLOW = ("The current node timed out during startup", "ended soon after its start")
"""What the error says when a Ray node has missed its own limit, or its agent's."""


@dataclass(frozen=True)
class Member:
    """How a host takes part in a lab."""

    labels: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)
    """More environment variables of `orqal join`."""

    @property
    def options(self) -> list[str]:
        """The options of `orqal join`."""
        return [word for key, value in self.labels.items() for word in ("--label", f"{key}={value}")]


@dataclass
class Lab(Api):
    """An Orqal whose head is the cluster's first host. Its wrapper file is ~/services.py of the head."""

    cluster: Namespaces
    settings: dict[str, str] = field(default_factory=dict)
    """More environment variables of its processes and of its clients, on every host."""

    @property
    def head(self) -> Host:
        """The host of the Scheduler and the API."""
        return self.cluster.hosts[0]

    @property
    def root(self) -> str:
        return f"http://{self.head.address}:{PORT}"

    @property
    def token(self) -> str:
        return (self.head.home / ".orqal/token").read_text().strip()

    @property
    def services(self) -> Path:
        """The wrapper file's path outside."""
        return self.head.home / "services.py"

    def orqal(
        self,
        *args: str,
        on: Host | None = None,
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Orqal's command line on a host, by default the head. Its output and errors are captured together."""
        environ = {"COLUMNS": "120", "TERM": "dumb"} | self.settings | (env or {})
        return (on or self.head).run(["orqal", *args], environ, check=check, timeout=timeout)

    def up(self, env: dict[str, str] | None = None) -> None:
        """Start the head."""
        self._start(["up", "--address", self.head.address], self.head, env)

    def join(self, host: Host, *options: str, env: dict[str, str] | None = None) -> None:
        """Make a host's daemon one of the cluster. The host must not have joined."""
        token = (self.head.home / ".orqal/ray_token").read_text()
        self._start(["join", self.head.address, *options], host, {"ORQAL_JOIN_TOKEN": token} | (env or {}))

    def _start(self, command: list[str], host: Host, env: dict[str, str] | None = None) -> None:
        """Run a command that starts a Ray node, and again if a time limit of Ray's own ends it.

        Ray limits a node's start to 30 s and the start of the node's agent to 15 s. No setting changes that. A machine
        whose cores are all busy may take longer, also the second time, which is Orqal's own.
        """
        for _ in range(STARTS):
            done = self.orqal(*command, on=host, check=False, timeout=UP_WITHIN, env=env)
            if done.returncode == 0:
                return
            if not any(words in done.stdout for words in RAY_TOO_SLOW):
                break
        raise AssertionError(f"{host.name}: orqal {' '.join(command)} exited with {done.returncode}:\n{done.stdout}")

    def stop(self, *hosts: Host) -> None:
        """Stop all of Orqal on these hosts, where there is any."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: self.orqal("down", on=host, timeout=UP_WITHIN), filter(processes, hosts)))

    def have_members(self, wanted: dict[Host, Member]) -> None:
        """Let exactly these hosts, beside the head, take part as described. Those that do so already are left alone."""
        known = self.hosts()
        ready = {name: host["labels"] for name, host in known.items() if host["state"] == "ready"}
        others = self.cluster.hosts[1:]
        wrong = [host for host in others if host not in wanted or ready.get(host.name) != wanted[host].labels]
        self.stop(*wrong)
        missing = [host for host in wrong if host in wanted]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: self.join(host, *wanted[host].options, env=wanted[host].env), missing))

    def settle(self) -> None:
        """End all jobs, and let all hosts that have joined take work."""
        for name, host in self.hosts().items():
            if host["state"] in ("draining", "drained"):
                self.orqal("undrain", name)
        with self.http() as http:
            http.post("/jobs/cancel", json={"all": True}).raise_for_status()
            with http.stream("POST", "/jobs/wait", json={"all": True}) as response:
                response.read()

    def down(self, hosts: Sequence[Host] | None = None) -> None:
        """End all jobs, and stop everything on all hosts. Nothing may be left."""
        hosts = [host for host in hosts or self.cluster.hosts if host.on]
        # The head first, because jobs are ended while all hosts are there.
        if self.head in hosts and processes(self.head):
            self.orqal("down", "--kill-jobs", timeout=UP_WITHIN)
        self.stop(*hosts)
        assert {host.name: left for host in hosts if (left := processes(host))} == {}
        assert {host.name: left for host in hosts if (left := self.containers(host))} == {}

    def containers(self, host: Host) -> list[Any]:
        """The containers of jobs of any cluster that a host's daemon has, running or not."""
        with contextlib.closing(host.docker()) as client:
            return list(client.containers.list(all=True, filters={"label": "orqal.cluster"}, ignore_removed=True))

    def hosts(self) -> dict[str, dict[str, Any]]:
        """The hosts as the API describes them, by name."""
        with self.http() as http:
            return {host["name"]: host for host in http.get("/hosts").raise_for_status().json()}


@contextlib.contextmanager
def a_lab(cluster: Namespaces, settings: dict[str, str], *, head_env: dict[str, str], services: str) -> Iterator[Lab]:
    """A lab whose head is up. In the end it is down, and nothing of it is left on the hosts that are on.

    `head_env` are more environment variables of the head alone. `services` is the text of the wrapper file.
    """
    lab = Lab(cluster, {"ORQAL_STOP_GRACE": "1"} | settings)
    lab.services.write_text(services)
    try:
        lab.up(head_env)
        yield lab
        lab.down()
    finally:
        for host in cluster.hosts:
            if host.on:
                wipe(host, lab)


def give_image(hosts: Sequence[Host]) -> None:
    """Make the image orqal/demo on these hosts, with all the programs that tests need."""

    def give(host: Host) -> None:
        with contextlib.closing(host.docker()) as client:
            make_image(DEMO_IMAGE, PROGRAMS, client=client)

    with ThreadPoolExecutor() as pool:
        list(pool.map(give, hosts))


def wipe(host: Host, lab: Lab) -> None:
    """Remove all of Orqal from a host, whatever happened there."""
    for process in processes(host):
        with contextlib.suppress(psutil.Error):
            process.kill()
    for container in lab.containers(host):
        container.remove(force=True)
    host.run(["bash", "-c", "rm -rf ~/.orqal ~/services.py /tmp/orqal-*"])


def processes(host: Host) -> list[psutil.Process]:
    """The processes of Orqal and its Ray on a host: those with their mark, and their descendants."""
    found: set[psutil.Process] = set()
    for process in psutil.Process(host.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ORQAL_CLUSTER_ID") and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
    return sorted(found, key=lambda process: process.pid)


def told(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command with --json has printed, from the first bracket on."""
    start = min(place for bracket in "[{" if (place := done.stdout.find(bracket)) >= 0)
    return json.loads(done.stdout[start:])
