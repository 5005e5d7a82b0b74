"""The cluster: its apps and hosts, and the changes of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Body, Path
from fastapi.responses import Response

from orqal.models import MAX_NAME, AppInfo, AppUsage, HostInfo, UserShare
from orqal.serve_app import examples, metrics_page
from orqal.serve_app.dependencies import ClusterDep, NewsDep
from orqal.serve_app.errors import NotFound
from orqal.serve_app.routes.documentation import ALWAYS, problems
from orqal.serve_app.routes.streaming import EMPTY_LINE, NDJSON, StreamedResponse, line, with_heartbeats
from orqal.serve_app.schemas import Drain, Health

NO_HOST = problems(_404="there is no such host", _422="invalid host name or body")
HostName = Annotated[str, Path(max_length=MAX_NAME, description="The host's name.", examples=["h1"])]
AppName = Annotated[str, Path(max_length=MAX_NAME, description="The app's name.", examples=["Checksum"])]

health = APIRouter(tags=["health"])
router = APIRouter(tags=["cluster"], responses=ALWAYS)


@health.get("/healthz", responses=examples.shown(examples.HEALTH))
async def healthz() -> Health:
    """Answers if the API works. This needs no token."""
    return Health(status="ok")


@router.get("/apps", responses=examples.shown([examples.APP]))
async def get_apps(cluster: ClusterDep) -> list[AppInfo]:
    """The apps that jobs can name, and the wrappers that could not be loaded, with the reason."""
    return await cluster.scheduler.apps()


@router.get(
    "/apps/{name}/usage",
    responses={**problems(_404="there is no such app", _422="invalid name"), **examples.shown(examples.USAGE)},
)
async def get_usage(name: AppName, cluster: ClusterDep) -> AppUsage:
    """What the jobs of an app have used so far: memory, time and CPU time, by image and size of input. Only jobs that
    succeeded count, and for memory also those that ran out of it."""
    usage = await cluster.scheduler.usage(name)
    if usage is None:
        raise NotFound(f"there is no app {name!r}")
    return usage


@router.get("/hosts", responses=examples.shown([examples.HOST]))
async def get_hosts(cluster: ClusterDep) -> list[HostInfo]:
    """The Docker hosts, with their capacity and what is in use."""
    return await cluster.scheduler.hosts()


@router.get("/shares", responses=examples.shown(examples.SHARES))
async def get_shares(cluster: ClusterDep) -> list[UserShare]:
    """What each user has of the cluster, and has had lately: the one who is served next comes first."""
    return await cluster.scheduler.shares()


@router.post("/hosts/{name}/drain", responses={**NO_HOST, **examples.shown(examples.HOST)})
async def post_drain(name: HostName, cluster: ClusterDep, drain: Annotated[Drain | None, Body()] = None) -> HostInfo:
    """Give a host no more work until it is undrained, also after a restart of Orqal. Its jobs run to their end; with
    `now` they are stopped and run again on other hosts."""
    return _known(await cluster.scheduler.drain(name, drain is not None and drain.now), name)


@router.post("/hosts/{name}/undrain", responses={**NO_HOST, **examples.shown(examples.HOST)})
async def post_undrain(name: HostName, cluster: ClusterDep) -> HostInfo:
    """Give a host work again."""
    return _known(await cluster.scheduler.undrain(name), name)


def _known(host: HostInfo | None, name: str) -> HostInfo:
    if host is None:
        raise NotFound(f"there is no host {name}")
    return host


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {metrics_page.TEXT_FORMAT: {"example": examples.METRICS}}}},
)
async def get_metrics(cluster: ClusterDep) -> Response:
    """What Orqal counts and measures, in the text format of Prometheus: jobs, hosts, images, and Orqal itself."""
    return Response(await metrics_page.page(cluster), media_type=metrics_page.TEXT_FORMAT)


@router.get(
    "/events",
    response_class=Response,
    responses={
        200: {"content": {NDJSON: {"example": examples.line(examples.CHANGE) + examples.line(examples.MISSED)}}}
    },
)
async def get_events(news: NewsDep) -> Response:
    """The changes of jobs' states from now on, a line for each; an empty line every 10 s while there are none. A line
    `{"missed": true}` means that changes are missing there, because they were read too slowly or a part of Orqal was
    restarted: look at the jobs themselves."""

    async def lines() -> AsyncGenerator[bytes, None]:
        with news.listen() as changes:
            yield EMPTY_LINE  # The client can rely on it: no change after this line is missed.
            async for part in changes:
                yield b"".join(map(line, part))

    return StreamedResponse(with_heartbeats(lines()), media_type=NDJSON)
