"""An Orqal on the hosts of a cluster of namespaces that Ray's launcher starts: `ray up`, with this checkout's
cluster.yaml."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.host import ROOT_HOME
from tests.cluster.lab import Lab
from tests.cluster.namespaces import Namespaces
from tests.support.checkout import REPOSITORY

UP_WITHIN = 300
"""Seconds that `ray up` and `ray down` may take."""
CLUSTER_FILE = "cluster.yaml"
"""Its name in the laptop's HOME."""


def filled_in(text: str, cluster: Namespaces) -> str:
    """A cluster.yaml, changed where its comments tell a lab to change it: addresses, user, key, installation."""
    config: dict[str, Any] = yaml.safe_load(text)
    head, *workers = (host.address for host in cluster.hosts)
    config["provider"].update(head_ip=head, worker_ips=workers)
    config["auth"].update(ssh_user="root", ssh_private_key=str(cluster.key))
    # The hosts have no network to install from, and this checkout's environment on the PATH.
    config["setup_commands"][0] = "command -v orqal ray"
    return yaml.safe_dump(config, sort_keys=False)


def how_to_make_the_token(text: str) -> str:
    """The command that the comments of a cluster.yaml name."""
    (command,) = (line.lstrip(" #") for line in text.splitlines() if "openssl rand" in line)
    return command


class Launched(Lab):
    """A lab that is started and used from the laptop."""

    def prepare(self) -> None:
        """What a user does before `ray up`: fill in the file, make the token."""
        text = (REPOSITORY / "cluster.yaml").read_text()
        laptop = self.cluster.laptop
        (laptop.home / CLUSTER_FILE).write_text(filled_in(text, self.cluster))
        laptop.run(["bash", "-c", how_to_make_the_token(text)])

    def popen(self, command: str, *args: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a command of Ray's launcher, as a user in the checkout's folder on the laptop: see Host.popen."""
        line, environ = self._line(command, *args)
        process: subprocess.Popen[str] = self.cluster.laptop.popen(line, environ, **options)
        return process

    def ray(self, command: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one; it must succeed. Its output, with what is said on the head."""
        line, environ = self._line(command, *args)
        return self.cluster.laptop.run(line, environ, timeout=UP_WITHIN)

    @staticmethod
    def _line(command: str, *args: str | Path) -> tuple[list[str | Path], dict[str, str]]:
        # Said as in a terminal, wherever the output goes.
        options = ["--log-style", "pretty", *(["-y"] if command in ("up", "down") else [])]
        line = ["env", "-C", REPOSITORY, "ray", command, *options, f"{ROOT_HOME}/{CLUSTER_FILE}", *args]
        return line, {"RAY_USAGE_STATS_ENABLED": "0"}

    def await_hosts(self, names: Iterable[str], within: float = UP_WITHIN) -> None:
        """Return when these hosts take work: `ray up` itself waits for the head alone."""
        deadline = time.monotonic() + within
        wanted = set(names)
        while missing := wanted - {name for name, host in self.hosts().items() if host["state"] == "ready"}:
            assert time.monotonic() < deadline, f"{missing} take no work after {within:g} s"
            time.sleep(0.2)
