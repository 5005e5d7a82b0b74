"""The routes that only clients of orqal 0.0.12 and older use, with the answers that they expect."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from orqal.actors.messages import CleanTarget, Taken
from orqal.models import BatchName
from orqal.serve_app import examples
from orqal.serve_app.dependencies import ClusterDep, NewsDep
from orqal.serve_app.errors import NotFound
from orqal.serve_app.job_output import job_output
from orqal.serve_app.old_directories import remove_old_directories
from orqal.serve_app.routes.documentation import ALWAYS, BAD_BODY, BAD_VALUE, JOBS_BODY, NO_BATCH, problems
from orqal.serve_app.routes.output import STREAMS, plain_text
from orqal.serve_app.routes.parameters import IdempotencyKey
from orqal.serve_app.routes.streaming import StreamedResponse, prefetched
from orqal.serve_app.routes.submission import submit_body
from orqal.serve_app.schemas import ClusterStatus, HostLoad, NodeStatus, OldBatch
from orqal.settings import Settings

router = APIRouter(tags=["older clients"], responses=ALWAYS)

_IDS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {}},
        "description": "the jobs' ObjectIds, 12 bytes each, in the order of the documents",
    }
}
_CLEANED = {
    CleanTarget.ALL: "all jobs purged",
    CleanTarget.SCHEDULED: "all jobs scheduled purged",
    CleanTarget.CONTAINERS: "containers removed",
    CleanTarget.EXPIRED: "expired jobs purged",
}


@router.post("/batch", response_class=Response, responses={**BAD_BODY, **_IDS}, openapi_extra=JOBS_BODY)
async def create_nameless_batch(
    request: Request, cluster: ClusterDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Submit many jobs. The answer is their ObjectIds, 12 bytes each. If a document after the first is not a job, the
    answer breaks off after the ids of the documents before it, which are submitted."""
    return await _ids(submit_body(request, cluster, key=idempotency_key))


@router.post("/batch/{name}", response_class=Response, responses={**BAD_BODY, **_IDS}, openapi_extra=JOBS_BODY)
async def create_batch(
    request: Request, name: BatchName, cluster: ClusterDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Submit a batch. If there is a batch of this name, the new one replaces it. The answer is that of
    POST /api/batch."""
    return await _ids(submit_body(request, cluster, key=idempotency_key, batch=name, replace_batch=True))


async def _ids(answers: AsyncGenerator[list[Taken], None]) -> Response:
    answers = await prefetched(answers)
    body = (b"".join(bytes.fromhex(taken.id) for taken in part) async for part in answers)
    return StreamedResponse(body, media_type="application/octet-stream")


@router.get("/batch/{name}", response_model=OldBatch, responses={**NO_BATCH, **examples.shown(examples.OLD_BATCH)})
async def get_old_batch(name: BatchName, cluster: ClusterDep) -> Response:
    """The ids of a batch's jobs, each in the form of an ObjectId in extended JSON."""
    ids = [job_id async for part in cluster.batch_ids(name) for job_id in part]
    return JSONResponse({"_id": name, "jobs": [{"$oid": job_id} for job_id in ids]})


@router.get(
    "/stream/{where:path}",
    response_class=Response,
    responses={
        **BAD_VALUE,
        **problems(_404="no container with this id runs a job on this host"),
        200: {"content": {"text/plain": {"example": "hello\n"}}},
    },
)
async def stream(
    where: Annotated[str, Path(description="`http://HOST/CONTAINER`: a job's `host` and `container_id`.")],
    cluster: ClusterDep,
    news: NewsDep,
) -> Response:
    """The output of a running job's container, so far and then live."""
    address, _, container = where.rpartition("/")
    job_id = await cluster.scheduler.job_of(container)
    if job_id is None:
        raise NotFound(f"no job runs in a container {container!r}")
    host = address.rpartition("//")[2].removeprefix("http:/")
    job = await cluster.job(job_id)
    known = [info for info in await cluster.scheduler.hosts() if info.name == job.host]
    names = {name for info in known for name in (info.name, info.address)}
    if not {host, host.rpartition(":")[0]} & names:
        raise NotFound(f"the container {container} does not run on {host!r}")
    return plain_text(job_output(cluster, news, job_id, STREAMS["both"], follow=True))


@router.get("/load", responses=examples.shown(examples.LOADS))
async def get_load(cluster: ClusterDep) -> list[dict[str, HostLoad]]:
    """How busy each host is: its memory and cores in percent, and the running containers of each image."""
    return [{host.name: HostLoad(**host.load.model_dump())} for host in await cluster.scheduler.hosts()]


@router.get("/status", response_model=ClusterStatus, responses=examples.shown(examples.STATUS))
async def get_status(cluster: ClusterDep) -> Response:
    """An overview of the cluster: apps, jobs in each state, hosts, and the containers that Orqal started on them."""
    apps = await cluster.scheduler.apps()
    nodes: dict[str, NodeStatus] = {}
    short: list[dict[str, list[tuple[str, str, str]]]] = []
    for host in await cluster.scheduler.hosts():
        info, containers = await cluster.overview(host)
        nodes[host.name] = NodeStatus(info=info, containers=containers)
        short.append({host.name: [(c["Id"], c["Config"]["Image"], c["State"]["Status"]) for c in containers]})
    status = ClusterStatus(
        id=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        services=[app.name for app in apps if app.error is None],
        status=await cluster.counts(),
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
async def clean(action: CleanTarget, cluster: ClusterDep) -> Response:
    """Delete ended jobs or leftovers: see POST /api/clean. For `old` the answer is the names of removed directories."""
    if action is CleanTarget.OLD:
        names = (f"{name}\n".encode() async for name in remove_old_directories(cluster))
        return StreamedResponse(names, media_type="text/plain; charset=utf-8")
    await cluster.scheduler.clean(action)
    return PlainTextResponse(_CLEANED[action])


@router.get(
    "/dataset.json", response_class=Response, responses={200: {"content": {"application/json": {"example": []}}}}
)
async def get_dataset() -> Response:
    """The documents of the collection `dataset` of a system older than 0.0.11, to back them up. It is the file
    `dataset.json` that an administrator has put into ORQAL_HOME; an empty list if there is no such file."""
    path = Settings().dataset_path
    return FileResponse(path, media_type="application/json") if path.is_file() else JSONResponse([])
