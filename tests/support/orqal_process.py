"""An Orqal of its own for a test: a home, a port, `orqal up`, and the check that `orqal down` leaves nothing."""

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

from tests.support.api import Api

UP_WITHIN = 100
ORQAL = (str(Path(sys.executable).with_name("orqal")),)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Orqal(Api):
    """A real one: Ray head, scheduler, host actor, REST."""

    home: Path
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    """More environment variables of its processes and of those that talk to it."""
    options: tuple[str, ...] = ()
    """More options of `orqal up`."""
    _seen: set[psutil.Process] = field(default_factory=set)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a user of it."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ORQAL_", "RAY_"))}
        return clean | {"ORQAL_HOME": str(self.home), "COLUMNS": "120", "TERM": "dumb"} | self.settings

    def cli(
        self, *args: str, check: bool = True, timeout: float = 60, input: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line. `check`: it must exit with 0."""
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
        """Run the command line; its output as it is."""
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
        """Start the command line, in a process group of its own as a shell would."""
        return subprocess.Popen(
            [*ORQAL, *args],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Where the tests run in the background of a script, SIGINT is ignored, and that is inherited.
            preexec_fn=_heed_interrupts,
        )

    def python(self, code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a user's Python program."""
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
        """Start it."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.cli("up", "--port", str(self.port), *self.options, timeout=UP_WITHIN)
        self._seen = _marked(self.cluster)

    def down(self) -> None:
        """Stop it, with all its jobs; nothing may be left."""
        self._seen |= _marked(self.cluster)
        self.cli("down", "--kill-jobs", timeout=UP_WITHIN)
        assert self.processes() == []
        assert self.containers() == []
        assert cgroups_of(self.cluster) == []

    @property
    def cluster(self) -> str:
        """Its mark."""
        file = self.home / "cluster_id"
        return file.read_text().strip() if file.exists() else "none yet"

    def processes(self) -> list[psutil.Process]:
        """Its processes, those too that hide their environment: they are below others, or nobody's."""
        return [process for process in self._seen | _marked(self.cluster) if process.is_running()]

    def process(self, actor: str) -> psutil.Process:
        """The process of a Ray actor: by its class, or what its name begins with."""
        found = []
        for each in self.processes():
            with contextlib.suppress(psutil.Error):  # it ends at this moment
                if "".join(each.cmdline()[:1]).startswith(f"ray::{actor}"):
                    found.append(each)
        [process] = found
        return process

    @contextmanager
    def frozen(self, actor: str) -> Iterator[psutil.Process]:
        """Meanwhile one of its actors does nothing: its process, which may be killed."""
        process = self.process(actor)
        process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def kill(self, actor: str) -> None:
        """End one of its actors as a crash would."""
        process = self.process(actor)
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=10)

    def containers(self) -> list[Any]:
        """Its containers, running or not."""
        client = docker.from_env()
        try:
            return list(
                # What is removed between the list and a look at it is not there.
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
    """The cgroups that a cluster has on this machine, at the top of each hierarchy."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(f"orqal/{cluster}"), *root.glob(f"*/orqal/{cluster}")]


@contextmanager
def an_orqal(settings: dict[str, str], *options: str, services: str = "") -> Iterator[Orqal]:
    """One that is up, in a home of its own; in the end it is down, and nothing of it is left.

    `services`: the text of its wrapper file. `options`: those of `orqal up`.
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


def _marked(cluster: str) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ORQAL_CLUSTER_ID") == cluster:
                found |= {process, *process.children(recursive=True)}
    return found


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
