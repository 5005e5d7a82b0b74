"""The cluster's processes on this machine: found by a mark, run, stopped."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from typing import NamedTuple

import psutil

from orqal.files import write_secret
from orqal.settings import Settings

Report = Callable[[str], None]
"""Is told each step that takes a while."""

MARK = "ORQAL_CLUSTER_ID"
"""An environment variable that all processes of a home have: by it they are found again."""
NODE_MARK = "ORQAL_NODE"
"""The name of the host whose Ray node a process belongs to."""
_STOP_WITHIN = 3.0
_RAYLET, _GCS = "raylet", "gcs_server"


class Node(NamedTuple):
    """A Ray node on this machine."""

    head_address: str
    is_head: bool


class ClusterError(Exception):
    """Orqal could not be started or stopped; the message says what happened and what to do."""


class NodeEnded(ClusterError):
    """A Ray node ended while it was being started. Another try may succeed."""


def home_id(settings: Settings) -> str:
    """The home's own mark, made once."""
    path = settings.cluster_path
    if not path.exists():
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, uuid.uuid4().hex[:16] + "\n")
    return path.read_text().strip()


def find(home: str, node: str | None = None) -> set[psutil.Process]:
    """All processes that bear a home's mark, or those of one of its nodes, and those below them: Ray's agents write
    their title over their environment."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            ours = environ.get(MARK) == home and node in (None, environ.get(NODE_MARK))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
    return found


def await_end(home: str, node: str) -> str:
    """Wait until one of the processes that a node lives by, its raylet or the head's GCS, has ended: its name."""
    ended = _first_end(home, node)
    assert ended is not None
    return ended


def _first_end(home: str, node: str, helper: int | None = None) -> str | None:
    """As await_end; None: the process `helper` ended before."""
    with contextlib.ExitStack() as stack:
        ends = select.poll()
        names: dict[int, str | None] = {}

        def listen(pid: int, name: str | None) -> None:
            end = os.pidfd_open(pid)  # can be read once the process has ended
            stack.callback(os.close, end)
            ends.register(end, select.POLLIN)
            names[end] = name

        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ, name = process.environ(), process.name()
                if environ.get(MARK) == home and environ.get(NODE_MARK) == node and name in (_RAYLET, _GCS):
                    listen(process.pid, name)
        if _RAYLET not in names.values():
            return _RAYLET
        if helper is not None:
            listen(helper, None)
        ended = {names[end] for end, _ in ends.poll()}
        return None if None in ended else ended.pop()


def nodes(home: str) -> dict[str, Node]:
    """The Ray nodes of a home that run on this machine, by name."""
    raylets: dict[str, str] = {}
    heads: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            if environ.get(MARK) == home and process.name() == _RAYLET:
                raylets[environ[NODE_MARK]] = environ["RAY_ADDRESS"]
            elif environ.get(MARK) == home and process.name() == _GCS:
                heads.add(environ[NODE_MARK])
    return {name: Node(address, name in heads) for name, address in raylets.items()}


def stop(home: str, node: str | None = None) -> None:
    """End every process of a home, or of one of its nodes."""
    # Looked for again and again: a process may have been started meanwhile. Those once found are kept in mind,
    # for an orphan whose parent has ended may not be found again.
    found = find(home, node)
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        deadline = time.monotonic() + _STOP_WITHIN
        while found and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    ask(process)
            _, alive = psutil.wait_procs(found, timeout=0.5)
            found = set(alive) | find(home, node)


def run(
    command: list[str], settings: Settings, doing: str, environ: Mapping[str, str], node: str | None = None
) -> None:
    """Run a command to its end, with its output in the home's log. ClusterError: it failed. NodeEnded: this node ended
    first, without which the command has nothing to wait for."""
    log = settings.home / "orqal.log"
    with log.open("ab") as file:
        start = file.tell()
        with subprocess.Popen(
            command,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                ended = _first_end(home_id(settings), node, process.pid) if node else None
                if ended is not None:
                    process.kill()
                process.wait()
            except BaseException:
                process.kill()
                raise
    if ended is not None:
        raise NodeEnded(f"{doing} failed: Ray's {ended} ended soon after its start (more is in {log})")
    if process.returncode != 0:
        with log.open("rb") as file:
            file.seek(start)
            words = file.read().decode("utf-8", "replace").strip().splitlines()
        raise ClusterError(f"{doing} failed:\n" + "\n".join(words[-15:]) + f"\n(all of it is in {log})")


def free_port(address: str, wanted: int = 0) -> int:
    """The wanted port of this machine's address if nobody has it, else any that is free."""
    with socket.socket() as probe:
        # Connections of a server that has just ended do not hinder the next one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, wanted))
        except OSError:
            probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port
