"""A job that kills its host's actor again and again: each time that the actor asks the Docker daemon about the job's
container, it dies. What kills it stands between the two, and passes on all else."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.orqal_process import Orqal, an_orqal

DEADLY = ["sleep", "1000"]
"""The command of the container about which nobody may ask."""
_ASKS = re.compile(rb"(?:GET|POST) /v[\d.]+/containers/([0-9a-f]{64})/(?:json|start|logs|stats|stop)")


@dataclass
class DeadlyDaemon:
    """The Docker daemon, at another address, where who asks about a certain container is killed."""

    path: Path
    deaths: int = 0
    _daemon: Any = field(default_factory=docker.from_env)
    _listener: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    def __enter__(self) -> DeadlyDaemon:
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._daemon.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                caller, _ = self._listener.accept()
                daemon = socket.socket(socket.AF_UNIX)
                daemon.connect(self._daemon.api.get_adapter("http+docker://").socket_path)
                threading.Thread(target=self._pass_on, args=(caller, daemon, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(daemon, caller, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, asked: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asked and (found := _ASKS.search(data)) is not None and self._is_deadly(found[1].decode()):
                    self.deaths += 1
                    os.kill(_pid(source), signal.SIGKILL)
                    break
                target.sendall(data)
        for end in source, target:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_deadly(self, container: str) -> bool:
        with contextlib.suppress(docker.errors.NotFound):
            command: list[str] = self._daemon.api.inspect_container(container)["Config"]["Cmd"]
            return command == DEADLY
        return False


def _pid(caller: socket.socket) -> int:
    """Whose end of a Unix socket it is: struct ucred, unix(7)."""
    pid: int = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
    return pid


@pytest.fixture
def deadly(image: str, tmp_path: Path) -> Iterator[tuple[Orqal, DeadlyDaemon]]:
    with (
        DeadlyDaemon(tmp_path / "docker.sock") as daemon,
        an_orqal({"DOCKER_HOST": f"unix://{daemon.path}", "ORQAL_LOAD_PERIOD": "1"}) as orqal,
    ):
        yield orqal, daemon


@pytest.mark.timeout(400)
def test_it_is_stopped_and_no_other_pays(deadly: tuple[Orqal, DeadlyDaemon]) -> None:
    orqal, daemon = deadly
    waiting = ["sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.2; done; echo whole"]

    def submit(*cmd: str, **more: Any) -> str:
        params = {"image": "orqal/demo", "cmd": cmd, "network": "none"}
        return orqal.submit("Run", params=params, threads=0.2, memory_in_gb=0.05, **more)

    others = [submit(*waiting) for _ in range(2)]
    for other in others:
        orqal.running(other)
    killer = submit(*DEADLY, retries=50)
    others.append(submit(*waiting))  # one that begins under fire
    began = time.monotonic()
    job = orqal.ended(killer)
    print(f"over after {daemon.deaths} deaths in {time.monotonic() - began:.0f} s")
    assert (job["current_status"], job["error"]["type"]) == ("error", "host_lost")
    assert "the infrastructure failed this job 5 times" in job["error"]["message"]
    assert [each["fault"] for each in job["attempts"]] == ["infrastructure"] * 4
    # It was found out at the third death, and has cost no other job a second one from then on.
    assert 5 <= daemon.deaths <= 9

    orqal.running(others[-1])
    for container in orqal.containers():
        if container.labels["orqal.job"] == killer:
            container.wait(condition="removed", timeout=30)
        else:
            container.exec_run(["sh", "-c", ": > /tmp/go"])
    for other in others:
        ended = orqal.ended(other)
        assert (ended["ok"], ended["attempt"], ended["attempts"], ended["stdout"]) == (True, 1, [], ["whole", ""])
