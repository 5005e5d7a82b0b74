"""Cleaning up: deletes ended jobs and leftovers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import Response

from orqal.actors.messages import CleanTarget
from orqal.serve_app import examples
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.dependencies import ClusterDep
from orqal.serve_app.old_directories import remove_old_directories
from orqal.serve_app.routes.documentation import ALWAYS, BAD_VALUE
from orqal.serve_app.routes.streaming import NDJSON, StreamedResponse, prefetched, with_heartbeats
from orqal.serve_app.schemas import ToClean

router = APIRouter(tags=["cluster"], responses=ALWAYS)


@router.post(
    "/clean",
    response_class=Response,
    responses={**BAD_VALUE, 200: {"content": {NDJSON: {"example": examples.CLEANED}}}},
)
async def clean(which: Annotated[ToClean, Body()], cluster: ClusterDep) -> Response:
    """Delete ended jobs, or leftovers of jobs.

    - `all`: cancel the jobs that wait, and delete all jobs that do not run, with their directories.
    - `scheduled`: the same, but keep the jobs that exited.
    - `containers`: end the jobs whose containers run, and remove leftover containers. Containers that Orqal did not
      start, and those of ORQAL_PROTECTED_CONTAINERS, are left alone.
    - `old`: remove the directories on the hosts whose jobs are gone.
    - `expired`: delete the jobs whose time to live is over. This happens by itself, unless the head's clock has jumped:
      then this confirms that the clock is right.

    The last line of the answer is `{"deleted": N}`: the number of jobs that were deleted or, for `containers`, ended;
    for `old`, of directories. Before it, `old` sends a line `{"directory": NAME}` for each directory as it is removed.
    An empty line is sent whenever there is no other for 10 s."""
    lines = await prefetched(with_heartbeats(_lines(which.what, cluster)))
    return StreamedResponse(lines, media_type=NDJSON)


async def _lines(what: CleanTarget, cluster: ClusterAccess) -> AsyncGenerator[bytes, None]:
    if what is CleanTarget.OLD:
        deleted = 0
        async with aclosing(remove_old_directories(cluster)) as names:
            async for name in names:
                deleted += 1
                yield _line(directory=name)
    else:
        deleted = await cluster.scheduler.clean(what)
    yield _line(deleted=deleted)


def _line(**values: str | int) -> bytes:
    return json.dumps(values).encode() + b"\n"
