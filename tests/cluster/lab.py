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


@dataclass
class Lab(Api):
    """An Orqal whose head is the cluster's first host.

    Its wrapper file is ~/services.py of the head. Wherever something runs on a host that is not named, it is the head.
    """

    cluster: Namespaces
    settings: dict[str, str] = field(default_factory=dict)
    """More environment variables of its processes and of those that talk to it, on every host."""

    @property
    def head(self) -> Host:
        """Where the Scheduler and the API are."""
        return self.cluster.hosts[0]

    @property
    def root(self) -> str:
        return f"http://{self.head.address}:{PORT}"

    @property
    def token(self) -> str:
        return (self.head.home / ".orqal/token").read_text().strip()

    @property
    def services(self) -> Path:
        """The wrapper file, as seen from outside."""
        return self.head.home / "services.py"

    def orqal(
        self,
        *args: str,
        on: Host | None = None,
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Orqal's command line on a host: its output, errors in between."""
        environ = {"COLUMNS": "120", "TERM": "dumb"} | self.settings | (env or {})
        return (on or self.head).run(["orqal", *args], environ, check=check, timeout=timeout)

    def up(self, *options: str) -> None:
        """Start the head."""
        self.orqal("up", "--address", self.head.address, *options, timeout=UP_WITHIN)

    def join(self, host: Host, *options: str, env: dict[str, str] | None = None) -> None:
        """Make a host's daemon one of the cluster; the host must not have joined."""
        token = (self.head.home / ".orqal/ray_token").read_text()
        environ = {"ORQAL_JOIN_TOKEN": token} | (env or {})
        self.orqal("join", self.head.address, *options, on=host, timeout=UP_WITHIN, env=environ)

    def down(self, hosts: Sequence[Host] | None = None) -> None:
        """End all jobs and stop everything on all hosts; nothing may be left."""
        hosts = [host for host in hosts or self.cluster.hosts if host.on]
        # Jobs are ended while all hosts are there.
        ordered = sorted(hosts, key=lambda host: host is not self.head)
        for host in ordered:
            if processes(host):
                self.orqal("down", *(["--kill-jobs"] if host is self.head else []), on=host, timeout=UP_WITHIN)
        assert {host.name: left for host in hosts if (left := processes(host))} == {}
        assert {host.name: left for host in hosts if (left := self.containers(host))} == {}

    def containers(self, host: Host) -> list[Any]:
        """The containers of jobs, of whatever cluster, that a host's daemon has, running or not."""
        with contextlib.closing(host.docker()) as client:
            return list(client.containers.list(all=True, filters={"label": "orqal.cluster"}, ignore_removed=True))

    def hosts(self) -> dict[str, dict[str, Any]]:
        """What the API says of each host, by name."""
        with self.http() as http:
            return {host["name"]: host for host in http.get("/hosts").raise_for_status().json()}


@contextlib.contextmanager
def a_lab(
    cluster: Namespaces, settings: dict[str, str] | None = None, *, services: str = "", joined: int | None = None
) -> Iterator[Lab]:
    """One that is up; in the end it is down, and nothing of it is left on the hosts that are on.

    `services`: the text of its wrapper file. `joined`: so many hosts join, unless it is all.
    """
    lab = Lab(cluster, {"ORQAL_STOP_GRACE": "1"} | (settings or {}))
    lab.services.write_text(services)
    others = cluster.hosts[1:] if joined is None else cluster.hosts[1 : 1 + joined]
    try:
        lab.up()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lab.join, others))
        yield lab
        lab.down()
    finally:
        for host in cluster.hosts:
            if host.on:
                wipe(host, lab)


def give_image(hosts: Sequence[Host]) -> None:
    """Have these hosts' daemons have the image orqal/demo, with all the programs that tests need."""
    for host in hosts:
        with contextlib.closing(host.docker()) as client:
            make_image(DEMO_IMAGE, PROGRAMS, client=client)


def wipe(host: Host, lab: Lab) -> None:
    """Leave nothing on a host, whatever happened there."""
    for process in processes(host):
        with contextlib.suppress(psutil.Error):
            process.kill()
    for container in lab.containers(host):
        container.remove(force=True)
    host.run(["bash", "-c", "rm -rf ~/.orqal ~/services.py /tmp/orqal-*"])


def processes(host: Host) -> list[psutil.Process]:
    """Those of Orqal and its Ray on a host: what bears their mark, and what is below that."""
    found: set[psutil.Process] = set()
    for process in psutil.Process(host.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ORQAL_CLUSTER_ID") and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
    return sorted(found, key=lambda process: process.pid)


def told(done: subprocess.CompletedProcess[str]) -> Any:
    """What a command with --json has told: the last line, or all lines from the first bracket on."""
    start = min(place for bracket in "[{" if (place := done.stdout.find(bracket)) >= 0)
    return json.loads(done.stdout[start:])
