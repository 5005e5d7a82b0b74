"""Apps, hosts, how it all is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from fastapi.responses import Response

from orqal.models import AppInfo, HostInfo
from orqal.serve_app import examples
from orqal.serve_app.routes.shared import ALWAYS, HEARTBEAT, NDJSON, Inside, Streamed
from orqal.serve_app.views import Health

health = APIRouter(tags=["health"])
router = APIRouter(tags=["cluster"], responses=ALWAYS)


@health.get("/healthz", responses=examples.shown(examples.HEALTH))
async def healthz() -> Health:
    """Whether the API answers. Open to all."""
    return Health(status="ok")


@router.get("/apps", responses=examples.shown([examples.APP]))
async def get_apps(backend: Inside) -> list[AppInfo]:
    """The apps that jobs can name, and those that could not be loaded, with the reason."""
    apps: list[AppInfo] = await backend.scheduler("apps")
    return apps


@router.get("/hosts", responses=examples.shown([examples.HOST]))
async def get_hosts(backend: Inside) -> list[HostInfo]:
    """The Docker hosts, what they have, and what is in use."""
    return await backend.hosts()


@router.get(
    "/events",
    response_class=Response,
    responses={
        200: {"content": {NDJSON: {"example": examples.line(examples.CHANGE) + examples.line(examples.MISSED)}}}
    },
)
async def get_events(backend: Inside) -> Response:
    """Changes of jobs' states as they come, a line each, from now on; an empty line every 10 s while there are none.
    A line `{"missed": true}` says that changes are missing there, which a reader was too slow to take or which came
    while a part of Orqal was restarted: look at the jobs themselves."""

    async def lines() -> AsyncGenerator[bytes, None]:
        yield HEARTBEAT
        async with aclosing(backend.events()) as changes:
            async for change in changes:
                yield HEARTBEAT if change is None else change.model_dump_json().encode() + b"\n"

    return Streamed(lines(), media_type=NDJSON)
