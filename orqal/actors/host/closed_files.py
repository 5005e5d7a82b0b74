"""Files that a job's program has, as root, written and closed to others: made readable where Orqal is another user."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orqal.actors.host.engine_watch import EngineWatch
from orqal.engine import job_directory
from orqal.engine.errors import EngineError, Unreachable

log = logging.getLogger("orqal.host")

_WITHIN = 10.0
"""Seconds to wait for the daemon."""


async def make_readable(engine: EngineWatch, directory: Path, thread: ThreadPoolExecutor) -> None:
    """Make the closed files in a job's directory on this machine readable, as far as that is possible in the time.

    `thread`: one thread for all jobs, so that nothing else waits for this.

    Raises:
        Unreachable: the daemon does not answer.
    """
    if os.geteuid() == 0:
        return
    if not await asyncio.get_running_loop().run_in_executor(engine.threads, job_directory.closed_files, directory):
        return
    opening = asyncio.ensure_future(_opened(engine, directory, thread))
    await asyncio.wait({opening}, timeout=_WITHIN)
    if opening.done() and (away := opening.result()):
        raise away


async def _opened(engine: EngineWatch, directory: Path, thread: ThreadPoolExecutor) -> Unreachable | None:
    """Do so. It raises nothing, because its caller may not wait for it: it returns that the daemon is away."""
    try:
        await engine.do(lambda engine: engine.open_files(directory, _WITHIN), thread)
    except Unreachable as error:
        return error
    except (EngineError, OSError) as error:
        log.warning("closed files in %s cannot be made readable: %s", directory, error)
    return None
