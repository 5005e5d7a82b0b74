"""An Orqal that a test starts: its home, its port, `orqal up`, and the check that `orqal down` leaves nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import psutil

from orqal.cluster.node import temporary_folder
from orqal.cluster.processes import free_ports
from orqal.settings import Settings
from tests.support.api import Api

UP_WITHIN = 100
ORQAL = (str(Path(sys.executable).with_name("orqal")),)


def free_port() -> int:
    """Return a port that no process uses."""
    [port] = free_ports(("127.0.0.1", 0))
    return port


@dataclass
class Orqal(Api):
    """A real Orqal: Ray's head, the Scheduler, a HostActor and the REST API."""

    home: Path
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    """More environment variables of its processes and of its clients."""
    options: tuple[str, ...] = ()
    """More options of `orqal up`."""
    _seen: set[psutil.Process] = field(default_factory=set)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a user of this Orqal."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ORQAL_", "RAY_"))}
        return clean | {"ORQAL_HOME": str(self.home), "COLUMNS": "120", "TERM": "dumb"} | self.settings

    def cli(
        self, *args: str, check: bool = True, timeout: float = 60, input: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of `orqal`. `check`: it must exit with 0."""
        done = self.cli_bytes(*args, timeout=timeout, input=input)
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )
        if check and text.returncode != 0:
            raise AssertionError(f"orqal {' '.join(args)} exited with {text.returncode}:\n{text.stdout}\n{text.stderr}")
        return text

    def cli_bytes(
        self, *args: str, timeout: float = 60, input: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command of `orqal`. Its output is returned as bytes."""
        return subprocess.run(
            [*ORQAL, *args],
            env=self.environ,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    def popen(self, *args: str) -> subprocess.Popen[bytes]:
        """Start a command of `orqal`, in a process group of its own as a shell would."""
        return subprocess.Popen(
            [*ORQAL, *args],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # A script ignores SIGINT in the processes that it starts in the background, and children inherit that.
            preexec_fn=_heed_interrupts,
        )

    def python(self, code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a Python program in the environment of a user."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def up(self) -> None:
        """Start this Orqal."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.cli("up", "--port", str(self.port), *self.options, timeout=UP_WITHIN)
        self._seen = _marked(self.cluster)
        started.append((self, self.cluster))

    def down(self) -> None:
        """Stop this Orqal and all its jobs, and check that nothing is left."""
        self._seen |= _marked(self.cluster)
        self.cli("down", "--kill-jobs", timeout=UP_WITHIN)
        assert self.processes() == []
        assert self.containers() == []
        assert cgroups_of(self.cluster) == []

    @property
    def cluster(self) -> str:
        """The cluster's id, which marks its processes and containers."""
        file = self.home / "cluster_id"
        return file.read_text().strip() if file.exists() else "none yet"

    def processes(self) -> list[psutil.Process]:
        """Return the cluster's processes. Those that hide their environment are found as descendants of others."""
        return [process for process in self._seen | _marked(self.cluster) if _runs(process)]

    def process(self, actor: str) -> psutil.Process:
        """Return the process of a Ray actor, by the class of the actor or the beginning of its name."""
        found = []
        for each in self.processes():
            with contextlib.suppress(psutil.Error):  # the process may end at this moment
                if "".join(each.cmdline()[:1]).startswith(f"ray::{actor}"):
                    found.append(each)
        [process] = found
        return process

    @contextmanager
    def frozen(self, actor: str) -> Iterator[psutil.Process]:
        """Stop the process of an actor while the block runs. Yield the process, which the block may kill."""
        process = self.process(actor)
        process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def kill(self, actor: str) -> None:
        """Kill the process of an actor, as a crash would."""
        process = self.process(actor)
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=10)

    def containers(self) -> list[Any]:
        """Return the cluster's containers, running or not."""
        client = docker.from_env()
        try:
            return list(
                # A container may be removed after it was listed and before it is inspected.
                client.containers.list(
                    all=True, filters={"label": f"orqal.cluster={self.cluster}"}, ignore_removed=True
                )
            )
        finally:
            client.close()

    @property
    def token(self) -> str:
        """The API's token."""
        return (self.home / "token").read_text().strip()

    @property
    def root(self) -> str:
        """The address, without /api."""
        return f"http://127.0.0.1:{self.port}"


def cgroups_of(cluster: str) -> list[Path]:
    """Return the cgroups of a cluster on this machine, at the top of each hierarchy."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(f"orqal/{cluster}"), *root.glob(f"*/orqal/{cluster}")]


started: list[tuple[Orqal, str]] = []
"""All that were started in this process, with their marks, which outlive their homes."""


def leftovers() -> list[str]:
    """Return what is left on this machine of the Orqals that were started in this process, and of nothing else."""
    left = []
    for orqal, cluster in started:
        settings = Settings(home=orqal.home)
        folders = [temporary_folder(settings, name).parent for name in (socket.gethostname(), "second")]
        left += [f"the process {process.pid} of {cluster}" for process in _marked(cluster) if _runs(process)]
        left += [str(path) for path in [*cgroups_of(cluster), *folders] if path.exists()]
        if orqal.home.parent == Path(tempfile.gettempdir()) and orqal.home.exists():  # pytest keeps its own folders
            left.append(str(orqal.home))
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", orqal.port), timeout=5):
            left.append(f"the port {orqal.port} of {cluster}")
    with contextlib.closing(docker.from_env()) as client:
        for _, cluster in started:
            for each in client.containers.list(all=True, filters={"label": f"orqal.cluster={cluster}"}):
                left.append(f"the container {each.id} of {cluster}")
    return left


@contextmanager
def an_orqal(settings: dict[str, str], *options: str, services: str = "") -> Iterator[Orqal]:
    """Yield an Orqal that is up, in a home of its own. Afterwards it is stopped, and nothing of it is left.

    `services`: the text of its wrapper file. `options`: more options of `orqal up`.
    """
    home = Path(tempfile.mkdtemp(prefix="orqal-test-"))
    wrappers = home / "services.py"
    wrappers.write_text(services)
    orqal = Orqal(home, settings={"ORQAL_SERVICES": str(wrappers), "ORQAL_STOP_GRACE": "1"} | settings, options=options)
    try:
        orqal.up()
        yield orqal
        orqal.down()
    finally:
        if orqal.processes():
            orqal.cli("down", check=False)
        for container in orqal.containers():
            container.remove(force=True)
        shutil.rmtree(home)


def _runs(process: psutil.Process) -> bool:
    """True if a process has not ended. One that has may be in the process table until its parent notices."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _marked(cluster: str) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ORQAL_CLUSTER_ID") == cluster:
                found |= {process, *process.children(recursive=True)}
    return found


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
