"""Apps, hosts, how it all is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Body, Path
from fastapi.responses import Response

from orqal.models import MAX_NAME, AppInfo, HostInfo
from orqal.serve_app import examples
from orqal.serve_app.backend import NotThere
from orqal.serve_app.routes.shared import ALWAYS, HEARTBEAT, NDJSON, Inside, Streamed, problems
from orqal.serve_app.schemas import Drain, Health

NO_HOST = problems(_404="there is no such host", _422="a name or a body that is none")
HostName = Annotated[str, Path(max_length=MAX_NAME, description="the host's name", examples=["h1"])]

health = APIRouter(tags=["health"])
router = APIRouter(tags=["cluster"], responses=ALWAYS)


@health.get("/healthz", responses=examples.shown(examples.HEALTH))
async def healthz() -> Health:
    """Whether the API answers. Open to all."""
    return Health(status="ok")


@router.get("/apps", responses=examples.shown([examples.APP]))
async def get_apps(backend: Inside) -> list[AppInfo]:
    """The apps that jobs can name, and those that could not be loaded, with the reason."""
    return await backend.scheduler.apps()


@router.get("/hosts", responses=examples.shown([examples.HOST]))
async def get_hosts(backend: Inside) -> list[HostInfo]:
    """The Docker hosts, what they have, and what is in use."""
    return await backend.scheduler.hosts()


@router.post("/hosts/{name}/drain", responses={**NO_HOST, **examples.shown(examples.HOST)})
async def post_drain(name: HostName, backend: Inside, drain: Annotated[Drain | None, Body()] = None) -> HostInfo:
    """Give a host no more work, until it is undrained, also after a restart. Its jobs go on to their end; with `now`
    they are stopped and run again elsewhere."""
    return _known(await backend.scheduler.drain(name, drain is not None and drain.now), name)


@router.post("/hosts/{name}/undrain", responses={**NO_HOST, **examples.shown(examples.HOST)})
async def post_undrain(name: HostName, backend: Inside) -> HostInfo:
    """Give a host work again."""
    return _known(await backend.scheduler.undrain(name), name)


def _known(host: HostInfo | None, name: str) -> HostInfo:
    if host is None:
        raise NotThere(f"there is no host {name}")
    return host


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
