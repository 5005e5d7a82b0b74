"""What only clients of orqal 0.0.12 and before ask for, in the form that they know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from orqal.actors.messages import CleanTarget, Taken
from orqal.engine.streams import STDERR, STDOUT
from orqal.models import BatchName
from orqal.serve_app import examples
from orqal.serve_app.backend import NotThere
from orqal.serve_app.routes.shared import (
    ALWAYS,
    BAD_BODY,
    BAD_VALUE,
    BODIES,
    NO_BATCH,
    IdempotencyKey,
    Inside,
    Streamed,
    batch_ids,
    begun,
    formed,
    problems,
    taken_in,
)
from orqal.serve_app.schemas import ClusterStatus, HostLoad, NodeStatus, OldBatch
from orqal.settings import Settings

router = APIRouter(tags=["older clients"], responses=ALWAYS)

_IDS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {}},
        "description": "12 bytes for each job, its ObjectId, in the order of the jobs",
    }
}


class Action(str, Enum):
    """What can be cleaned."""

    ALL = "all"
    SCHEDULED = "scheduled"
    CONTAINERS = "containers"
    OLD = "old"


@router.post("/batch", response_class=Response, responses={**BAD_BODY, **_IDS}, openapi_extra=BODIES)
async def create_nameless_batch(request: Request, backend: Inside, idempotency_key: IdempotencyKey = None) -> Response:
    """Submit many jobs, as older clients do: the answer is 12 bytes for each, its ObjectId.
    If a later document is no job, the answer breaks off after the ids of those before it, which are submitted."""
    return await _ids(taken_in(request, backend, key=idempotency_key))


@router.post("/batch/{name}", response_class=Response, responses={**BAD_BODY, **_IDS}, openapi_extra=BODIES)
async def create_batch(
    request: Request, name: BatchName, backend: Inside, idempotency_key: IdempotencyKey = None
) -> Response:
    """Submit a batch, as older clients do. If there is one of this name, the name is the new one's from now on. The
    answer is that of POST /api/batch."""
    return await _ids(taken_in(request, backend, key=idempotency_key, batch=name, replace=True))


async def _ids(answers: AsyncIterator[list[Taken]]) -> Response:
    answers = await begun(answers)
    body = (b"".join(bytes.fromhex(taken.id) for taken in part) async for part in answers)
    return Streamed(body, media_type="application/octet-stream")


@router.get("/batch/{name}", response_model=OldBatch, responses={**NO_BATCH, **examples.shown(examples.OLD_BATCH)})
async def get_old_batch(name: BatchName, backend: Inside) -> Response:
    """The ids of a batch's jobs, in older clients' form."""
    ids = await batch_ids(name, backend)
    return JSONResponse({"_id": name, "jobs": [{"$oid": job_id} for job_id in ids]})


@router.get(
    "/stream/{where:path}",
    response_class=Response,
    responses={
        **BAD_VALUE,
        **problems(_404="no such container runs there"),
        200: {"content": {"text/plain": {"example": "hello\n"}}},
    },
)
async def stream(
    where: Annotated[str, Path(description="`http://HOST/CONTAINER`: a job's `host` and `container_id`")],
    backend: Inside,
) -> Response:
    """The output so far, and then live, of a job's container that runs."""
    address, _, container = where.rpartition("/")
    job_id = await backend.scheduler.job_of(container)
    if job_id is None:
        raise NotThere(f"no container {container!r} of a job runs")
    host = address.rpartition("//")[2].removeprefix("http:/")
    job = await backend.job(job_id)
    known = [info for info in await backend.scheduler.hosts() if info.name == job.host]
    names = {name for info in known for name in (info.name, info.address)}
    if not {host, host.rpartition(":")[0]} & names:
        raise NotThere(f"the container {container} does not run on {host!r}")
    frames = backend.output(job_id, frozenset({STDOUT, STDERR}), follow=True)
    return Streamed(formed(frames, attrgetter("data")), media_type="text/plain; charset=utf-8")


@router.get("/load", responses=examples.shown(examples.LOADS))
async def get_load(backend: Inside) -> list[dict[str, HostLoad]]:
    """How busy each host is: percent of its memory and of its cores, and running containers per image."""
    return [{host.name: HostLoad(**host.load.model_dump())} for host in await backend.scheduler.hosts()]


@router.get("/status", response_model=ClusterStatus, responses=examples.shown(examples.STATUS))
async def get_status(backend: Inside) -> Response:
    """The whole at one look. Of a host's containers those are told that Orqal started."""
    apps = await backend.scheduler.apps()
    nodes: dict[str, NodeStatus] = {}
    short: list[dict[str, list[tuple[str, str, str]]]] = []
    for host in await backend.scheduler.hosts():
        info, containers = await backend.overview(host)
        nodes[host.name] = NodeStatus(info=info, containers=containers)
        short.append({host.name: [(c["Id"], c["Config"]["Image"], c["State"]["Status"]) for c in containers]})
    status = ClusterStatus(
        id=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        services=[app.name for app in apps if app.error is None],
        status=await backend.counts(),
        hosts=list(nodes),
        nodes=nodes,
        containers=short,
    )
    return Response(status.model_dump_json(by_alias=True), media_type="application/json")


@router.get(
    "/clean/{action}",
    response_class=Response,
    responses={**BAD_VALUE, 200: {"content": {"text/plain": {"example": "all jobs purged"}}}},
)
async def clean(action: Action, backend: Inside) -> Response:
    """Delete what is over. `all`: all jobs but those that run. `scheduled`: the same, but not those that have exited.
    `containers`: end the jobs whose containers run, and remove what was left over; containers that Orqal did not
    start, and those of ORQAL_PROTECTED_CONTAINERS, are left alone. `old`: the directories on the hosts whose jobs are
    gone; the answer is their names. Jobs that wait are cancelled first."""
    if action is Action.OLD:
        names = (f"{name}\n".encode() async for name in backend.clean_directories())
        return Streamed(names, media_type="text/plain; charset=utf-8")
    await backend.scheduler.clean(CleanTarget(action.value))
    words = {
        Action.ALL: "all jobs purged",
        Action.SCHEDULED: "all jobs scheduled purged",
        Action.CONTAINERS: "containers removed",
    }
    return PlainTextResponse(words[action])


@router.get(
    "/dataset.json", response_class=Response, responses={200: {"content": {"application/json": {"example": []}}}}
)
async def get_dataset() -> Response:
    """The documents of the collection `dataset` of a system of before 0.0.11, to back them up: the file `dataset.json`
    in ORQAL_HOME, where its administrator has put it; without it, none."""
    path = Settings().dataset_path
    return FileResponse(path, media_type="application/json") if path.is_file() else JSONResponse([])
