"""The logs of Orqal's processes, which Ray keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import ray
from ray.util.state import get_log
from ray.util.state.exception import RayStateApiException

from orqal.actors.handles import HostClient, SchedulerClient
from orqal.actors.ray_internals import actor_id
from orqal.models import HostInfo
from orqal.serve_app.pages.formatting import output_lines
from orqal.text import shorten

LINES = 500
"""The number of lines at the end of a log that are shown."""
LINE_LENGTH = 2_000
"""The most characters of a line that are shown."""
TIMEOUT = 15.0
"""Seconds that Ray may take to return a log."""

# Ray reads logs over HTTP, without a timeout. A request that hangs must not occupy a thread that reads the store.
_threads = ThreadPoolExecutor(2, "process logs")


class LogUnavailable(Exception):
    """A log cannot be read now; the message says why."""


async def process_log(process: str, hosts: Sequence[HostInfo]) -> str:
    """The end of a process's log. `process`: `scheduler`, `api`, or a host's name for its actor.

    Raises:
        LogUnavailable: Ray does not answer, or the process does not run now.
    """
    try:
        reading = asyncio.get_running_loop().run_in_executor(_threads, _read_log, process, hosts)
        return await asyncio.wait_for(reading, TIMEOUT)
    except asyncio.TimeoutError:
        raise LogUnavailable(f"Ray did not answer within {TIMEOUT:g} s") from None
    except (RayStateApiException, OSError, ValueError) as error:
        raise LogUnavailable(str(error) or type(error).__name__) from error


def _read_log(process: str, hosts: Sequence[HostInfo]) -> str:
    context = ray.get_runtime_context()
    if process == "api":
        actor = context.get_actor_id()
    elif process == "scheduler":
        actor = actor_id(SchedulerClient.find().actor)
    else:
        node_id = next(host.node_id for host in hosts if host.name == process)
        actor = actor_id(HostClient.find(node_id).actor)
    pieces: Iterable[bytes] = get_log(
        address=context.gcs_address,  # otherwise Ray looks for a cluster, and may find another one on this machine
        actor_id=actor,
        tail=LINES,
        suffix="err",
        encoding=None,  # as bytes, because a piece may end within a character
    )
    return log_text(b"".join(pieces))


def log_text(data: bytes) -> str:
    """A log without Ray's own marks (`:job_id:`, `:actor_name:`). Very long lines are cut."""
    lines = output_lines(data.decode("utf-8", "replace")).split("\n")
    return "\n".join(shorten(line, LINE_LENGTH) for line in lines if not line.startswith((":job_id:", ":actor_name:")))
