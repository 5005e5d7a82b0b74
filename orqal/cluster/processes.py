"""The cluster's processes on this machine: finds them by a mark in their environment, runs and stops them."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import psutil

from orqal import privacy
from orqal.files import write_secret
from orqal.settings import Settings

Report = Callable[[str], None]
"""A function that is called with a sentence about each step that takes a while."""

MARK = "ORQAL_CLUSTER_ID"
"""An environment variable of all processes that belong to a home, by which they are found again."""
NODE_MARK = "ORQAL_NODE"
"""An environment variable with the name of the host whose Ray node a process belongs to."""
_END_WITHIN_S = 1.0
"""Seconds that processes get to end after SIGTERM. Ray's raylet and its workers often take longer than several seconds,
and nothing is lost if they are killed."""
_DIE_WITHIN_S = 3.0
"""Seconds that processes get to end after SIGKILL."""
_LOOK_AGAIN_S = 0.5
"""Seconds after which processes that were started meanwhile are looked for."""
_SPARE_PORTS = range(20000, 32768)
"""Ray gives 10002 to 19999 to its workers, and Linux 32768 and above to connections."""
_LINES_SHOWN = 15
"""Lines of a failed command's output in the error."""
_RAYLET, _GCS = "raylet", "gcs_server"


class Node(NamedTuple):
    """A Ray node on this machine."""

    head_address: str
    """ADDRESS:PORT of the cluster's head."""
    is_head: bool


class ClusterError(Exception):
    """Orqal could not be started or stopped. The message says what happened and what to do."""


class NodeEnded(ClusterError):
    """A Ray node ended while it was being started. Another try may succeed."""


def home_id(settings: Settings) -> str:
    """Return the mark of this home's cluster. It is made once."""
    path = settings.cluster_path
    if not path.exists():
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, uuid.uuid4().hex[:16] + "\n")
    return path.read_text().strip()


def keep_private(settings: Settings, report: Report) -> None:
    """Make the home and the folder of the jobs' directories, and keep other users of this machine out of them.

    What cannot be closed is reported. It does not prevent the start, because many a shared file system has no modes.

    Raises:
        ClusterError: they cannot be made.
    """
    try:
        still = privacy.establish(settings)
    except OSError as error:
        raise ClusterError(f"Orqal cannot use its folders: {error}") from error
    for path, why in still.items():
        report(f"Warning: {path} {why}, so other users may read or change it. `orqal doctor` says what to do")


def find(home: str, node: str | None = None) -> set[psutil.Process]:
    """Return the processes of a home, or of one of its nodes, and their descendants, but not this process.

    Descendants are included because a wrapper may start programs in another environment. This process may be one of
    them: a host that stops itself starts it.
    """
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            ours = environ.get(MARK) == home and node in (None, environ.get(NODE_MARK))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
    return found - {psutil.Process()}


def await_end(home: str, node: str) -> str:
    """Wait until a process that a node cannot do without (its raylet, or the head's GCS) ends, and return its name."""
    ended = _first_end(home, node)
    assert ended is not None
    return ended


def _first_end(home: str, node: str, helper: int | None = None) -> str | None:
    """As `await_end`, but return None if the process with the id `helper` ends first."""
    with contextlib.ExitStack() as stack:
        ends = select.poll()
        names: dict[int, str | None] = {}

        def listen(pid: int, name: str | None) -> None:
            end = os.pidfd_open(pid)  # becomes readable when the process ends
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
    """Return the Ray nodes of a home that run on this machine, by name."""
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
    # Look again and again, because a process may start others meanwhile. Remember those found so far, because an orphan
    # without a mark is not found again after its parent has ended.
    found = find(home, node)
    for signal, within in ((psutil.Process.terminate, _END_WITHIN_S), (psutil.Process.kill, _DIE_WITHIN_S)):
        deadline = time.monotonic() + within
        while found and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    signal(process)
            found = _alive_after(found, _LOOK_AGAIN_S) | find(home, node)


def _alive_after(processes: set[psutil.Process], within: float) -> set[psutil.Process]:
    """Wait until all these processes have ended, up to `within` seconds, and return those that have not.

    A process that has ended and is still in the process table, because its parent has not asked for its exit code, has
    ended: psutil.wait_procs would wait for the parent.
    """
    deadline = time.monotonic() + within
    with contextlib.ExitStack() as stack:
        ends = select.poll()
        alive: dict[int, psutil.Process] = {}
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                end = os.pidfd_open(process.pid)  # becomes readable when the process ends
                stack.callback(os.close, end)
                if process.is_running():  # it is still this process that has the pid
                    ends.register(end, select.POLLIN)
                    alive[end] = process
        while alive and (left := deadline - time.monotonic()) > 0:
            for end, _ in ends.poll(left * 1000):
                ends.unregister(end)
                del alive[end]
        return set(alive.values())


def run(
    command: list[str],
    settings: Settings,
    doing: str,
    environ: Mapping[str, str],
    *,
    node: str | None = None,
    heard: Callable[[str], None] | None = None,
) -> None:
    """Run a command to its end, and write its output to the home's log. An interrupt kills it.

    `doing` says what the command does; an error begins with it. `node` is a Ray node that the command waits for.
    `heard` is called with each line of its stdout, which then is not in the log.

    Raises:
        NodeEnded: that node ended first, so the command would wait in vain.
        ClusterError: the command failed.
    """
    log = settings.home / "orqal.log"
    with log.open("ab") as file:
        start = file.tell()
        with subprocess.Popen(
            command,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=file if heard is None else subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        ) as process:
            try:
                ended = _first_end(home_id(settings), node, process.pid) if node else None
                if ended is not None:
                    process.kill()
                if heard is not None:
                    assert process.stdout is not None
                    for line in process.stdout:
                        heard(line.decode("utf-8", "replace").rstrip("\n"))
                process.wait()
            except BaseException:
                process.kill()
                raise
    if ended is not None:
        raise NodeEnded(f"{doing} failed: Ray's {ended} ended soon after its start. {log} says more.")
    if process.returncode != 0:
        with log.open("rb") as file:
            file.seek(start)
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        shown = "\n".join(lines[-_LINES_SHOWN:])
        raise ClusterError(f"{doing} failed:\n{shown}\n(The whole output is in {log}.)")


def free_ports(*wanted: tuple[str, int], taken: Collection[int] = ()) -> list[int]:
    """Return a port for each address and the number wanted there, which is kept if it is free.

    All differ, on whatever address they are, as Ray demands, and none is in `taken`. Those that replace a number are
    neither among the ports of Ray's workers nor among those that the kernel gives to any connection that goes out.
    """
    ports: list[int] = []
    spare = random.sample(_SPARE_PORTS, len(_SPARE_PORTS))
    for address, number in wanted:
        choice = (each for each in (number, *spare) if each and each not in {*taken, *ports})
        ports.append(next(each for each in choice if _is_free(address, each)))
    return ports


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # Closed connections of a server that has just ended do not occupy its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
