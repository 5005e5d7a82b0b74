"""The routes. Those that older clients know answer in their form; see docs for each at /docs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from orqal.docker_engine import STDERR, STDOUT, multiplexed
from orqal.models import AppInfo, BatchName, Change, HostInfo, JobSpec, Status
from orqal.serve_app.backend import Backend, NotThere
from orqal.serve_app.documents import BadDocument, DocumentReader
from orqal.serve_app.views import (
    BatchView,
    Cancelled,
    ClusterStatus,
    JobPage,
    JobView,
    OldBatch,
    Problem,
    ResultView,
    Selection,
)
from orqal.store import JobFilter

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
NDJSON = "application/x-ndjson"
SLICE = 1_000
"""Jobs that are handed to the Scheduler at once."""

_ERRORS: dict[int | str, dict[str, Any]] = {401: {"model": Problem}, 503: {"model": Problem}}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}

health = APIRouter(tags=["health"])
jobs = APIRouter(tags=["jobs"], responses=_ERRORS)
batches = APIRouter(tags=["batches"], responses=_ERRORS)
cluster = APIRouter(tags=["cluster"], responses=_ERRORS)


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


Inside = Annotated[Backend, Depends(_backend)]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{24}$", description="the job's id")]


class _Streamed(StreamingResponse):
    """A response whose body is made while the request's is still being read.

    Starlette's own listens for the client's going away by reading the request, and so eats it; Serve cancels
    the handler of a client that has gone in any case.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the API answers."""
    return {"status": "ok"}


# Jobs


@jobs.post("/job", response_class=PlainTextResponse, responses={400: {"model": Problem}, 413: {"model": Problem}})
async def create_job(request: Request, backend: Inside) -> str:
    """Submit a job: the body is its JSON, the answer its id."""
    reader = DocumentReader()
    specs: list[JobSpec] = []
    async for chunk in request.stream():
        specs += reader.feed(chunk)
        if len(specs) > 1:
            raise HTTPException(400, "the body is more than one JSON object; POST /api/jobs takes many")
    reader.close()
    if not specs:
        raise HTTPException(400, "the body is empty; it is to be one JSON object, a job")
    ids: list[str] = await backend.scheduler("submit", specs)
    return ids[0]


@jobs.get("/job/{job_id}", response_model=JobView, responses=_NOT_FOUND)
async def get_job(job_id: JobId, backend: Inside) -> Response:
    """A job with its output and result."""
    job = await backend.job(job_id)
    output = await backend.read(backend.store.output, job_id)
    return _json(JobView.whole(job, output))


@jobs.get("/job/{job_id}/logs", responses={**_NOT_FOUND, 200: {"content": {"text/plain": {}, MULTIPLEXED: {}}}})
async def get_logs(
    request: Request,
    job_id: JobId,
    backend: Inside,
    follow: Annotated[bool, Query(description="go on until the job has ended")] = False,
    stream: Annotated[str, Query(pattern="^(stdout|stderr|both)$")] = "both",
) -> Response:
    """A job's output: so far, or to its end. `Accept: application/vnd.docker.multiplexed-stream` keeps the
    streams apart, in the format of the Docker Engine API."""
    await backend.job(job_id)
    wanted = {"stdout": {STDOUT}, "stderr": {STDERR}, "both": {STDOUT, STDERR}}[stream]
    frames = backend.output(job_id, frozenset(wanted), follow)
    if MULTIPLEXED in request.headers.get("accept", ""):
        return StreamingResponse((multiplexed(frame) async for frame in frames), media_type=MULTIPLEXED)
    return StreamingResponse((frame.data async for frame in frames), media_type="text/plain; charset=utf-8")


@jobs.get("/job/{job_id}/download/{path:path}", response_class=Response, responses=_NOT_FOUND)
async def download(job_id: JobId, path: str, backend: Inside) -> Response:
    """A file of the job's directory."""
    pieces = backend.file(await backend.job(job_id), path)
    body = await _begun(pieces)
    return StreamingResponse(body, media_type="application/octet-stream")


@jobs.post("/job/{job_id}/cancel", responses=_NOT_FOUND)
async def cancel_job(job_id: JobId, backend: Inside) -> Cancelled:
    """End a job, wherever it is on its way. One that has ended stays as it is."""
    await backend.job(job_id)
    return Cancelled(cancelled=await backend.scheduler("cancel", [job_id]))


@jobs.get("/jobs", response_model=JobPage, responses={400: {"model": Problem}})
async def list_jobs(
    backend: Inside,
    status: Status | None = None,
    app: str | None = None,
    user: str | None = None,
    batch: BatchName | None = None,
    host: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$")] = None,
) -> Response:
    """Jobs, the newest first."""
    wanted = JobFilter(status, app, user, batch, host)
    page = await backend.read(backend.store.find, wanted, limit, cursor)
    return _json(JobPage(jobs=page.jobs, cursor=page.cursor))


@jobs.post("/jobs", responses={400: {"model": Problem}, 413: {"model": Problem}, 200: {"content": {NDJSON: {}}}})
async def create_jobs(
    request: Request,
    backend: Inside,
    batch: BatchName | None = None,
) -> Response:
    """Submit many jobs: the body is JSON objects, one a line or back to back. The answer has a line for each,
    `{"_id": id}`, which comes once the job is on disk; if one is no job, a last line `{"error": …, "document": n}`,
    and those before it are submitted."""
    ids = _submitted(request, backend, batch)

    async def lines(ids: AsyncIterator[list[str]]) -> AsyncIterator[bytes]:
        try:
            async for part in ids:
                yield "".join(f'{{"_id": "{job_id}"}}\n' for job_id in part).encode()
        except BadDocument as error:
            yield json.dumps({"error": str(error), "document": error.number}).encode() + b"\n"

    return _Streamed(lines(await _begun(ids)), media_type=NDJSON)


@jobs.post("/jobs/wait", responses={**_NOT_FOUND, 200: {"content": {NDJSON: {}}}})
async def wait_for_jobs(selection: Annotated[Selection, Body()], backend: Inside) -> Response:
    """The jobs as they end, a line each; an empty line every 10 s while none does. The answer ends when all have."""
    ids = await _selected(selection, backend)

    async def lines() -> AsyncIterator[bytes]:
        yield b"\n"  # the headers go out now, not with the first end
        async for change in backend.ended(ids):
            if change is None:
                yield b"\n"
            elif isinstance(change, Change):
                yield change.model_dump_json().encode() + b"\n"
            else:
                yield json.dumps({"_id": change, "unknown": True}).encode() + b"\n"

    return StreamingResponse(lines(), media_type=NDJSON)


@jobs.post("/jobs/cancel", responses=_NOT_FOUND)
async def cancel_jobs(selection: Annotated[Selection, Body()], backend: Inside) -> Cancelled:
    """End jobs, wherever they are on their way."""
    ids = await _selected(selection, backend)
    cancelled = 0
    for start in range(0, len(ids), SLICE):
        cancelled += await backend.scheduler("cancel", ids[start : start + SLICE])
    return Cancelled(cancelled=cancelled)


@jobs.get("/jobs/status")
async def count_jobs(backend: Inside) -> Response:
    """Jobs per state; `todo` is always there."""
    return JSONResponse(await _counts(backend), headers={"Access-Control-Allow-Origin": "*"})


# Batches


@batches.post("/batch", response_class=Response, responses={400: {"model": Problem}, 413: {"model": Problem}})
async def create_nameless_batch(request: Request, backend: Inside) -> Response:
    """Submit many jobs, as older clients do: the answer is 12 bytes for each, its ObjectId."""
    return await _old_batch(request, backend, None)


@batches.post("/batch/{name}", response_class=Response, responses={400: {"model": Problem}, 413: {"model": Problem}})
async def create_batch(request: Request, name: BatchName, backend: Inside) -> Response:
    """Submit a batch, as older clients do. If there is one of this name, the name is the new one's from now on."""
    return await _old_batch(request, backend, name)


@batches.get("/batch/{name}", response_model=OldBatch, responses=_NOT_FOUND)
async def get_old_batch(name: BatchName, backend: Inside) -> Response:
    """The ids of a batch's jobs, in older clients' form."""
    ids = await _batch_ids(name, backend)
    return JSONResponse({"_id": name, "jobs": [{"$oid": job_id} for job_id in ids]})


@batches.get("/batches/{name}", responses=_NOT_FOUND)
async def get_batch(name: BatchName, backend: Inside) -> BatchView:
    """How far a batch is."""
    counts = await backend.read(backend.store.counts, name)
    if not counts:
        raise NotThere(f"there is no batch {name!r}")
    ok = await backend.read(backend.store.ok_count, name)
    ended = sum(count for status, count in counts.items() if status.final)
    return BatchView(name=name, jobs=sum(counts.values()), status=counts, ok=ok, failed=ended - ok)


@batches.get("/batches/{name}/results", responses={**_NOT_FOUND, 200: {"content": {NDJSON: {}}}})
async def get_results(name: BatchName, backend: Inside) -> Response:
    """The results of a batch's jobs so far, a line each, in the order of submission."""
    await _batch_ids(name, backend)

    async def lines() -> AsyncIterator[bytes]:
        rows = backend.store.batch_results(name)
        # A few rows a time: each may have a result of megabytes.
        while part := await backend.read(lambda: list(islice(rows, 16))):
            for job, output in part:
                yield ResultView.of(job, output).model_dump_json().encode() + b"\n"

    return StreamingResponse(lines(), media_type=NDJSON)


# The cluster


@cluster.get("/apps")
async def get_apps(backend: Inside) -> list[AppInfo]:
    """The apps that jobs can name, and those that could not be loaded, with the reason."""
    apps: list[AppInfo] = await backend.scheduler("apps")
    return apps


@cluster.get("/hosts")
async def get_hosts(backend: Inside) -> list[HostInfo]:
    """The Docker hosts, what they have, and what is in use."""
    hosts: list[HostInfo] = await backend.scheduler("hosts")
    return hosts


@cluster.get("/load")
async def get_load(backend: Inside) -> list[dict[str, Any]]:
    """How busy each host is."""
    hosts: list[HostInfo] = await backend.scheduler("hosts")
    return [{host.name: host.load.model_dump()} for host in hosts]


@cluster.get("/status", response_model=ClusterStatus)
async def get_status(backend: Inside) -> Response:
    """The whole at one look."""
    hosts: list[HostInfo] = await backend.scheduler("hosts")
    apps: list[AppInfo] = await backend.scheduler("apps")
    status = ClusterStatus(
        _id=datetime.now(timezone.utc),
        _services=[app.name for app in apps if app.error is None],
        status=await _counts(backend),
        hosts=[host.name for host in hosts],
        nodes=hosts,
    )
    return Response(status.model_dump_json(by_alias=True), media_type="application/json")


# What the routes share


def _json(view: Any) -> Response:
    return Response(view.model_dump_json(), media_type="application/json")


async def _counts(backend: Backend) -> dict[str, int]:
    counts = await backend.read(backend.store.counts)
    return {"todo": 0} | {status.value: count for status, count in counts.items()}


async def _batch_ids(name: str, backend: Backend) -> list[str]:
    ids = await backend.read(backend.store.batch_ids, name)
    if not ids:
        raise NotThere(f"there is no batch {name!r}")
    return ids


async def _selected(selection: Selection, backend: Backend) -> list[str]:
    if selection.all:
        return await backend.read(lambda: [job.id for job in backend.store.unfinished()])
    if selection.batch is not None:
        return await _batch_ids(selection.batch, backend)
    return selection.ids or []


async def _submitted(
    request: Request, backend: Backend, batch: str | None, replace: bool = False
) -> AsyncIterator[list[str]]:
    """Submit the jobs of a request's body as they come; their ids, as they are on disk."""
    reader = DocumentReader()
    async for chunk in request.stream():
        jobs = reader.feed(chunk)
        while True:
            specs: list[JobSpec] = []
            problem: BadDocument | None = None
            try:
                specs.extend(islice(jobs, SLICE))
            except BadDocument as error:
                problem = error
            if batch is not None:
                specs = [spec.model_copy(update={"batch": batch}) for spec in specs]
            if specs:
                yield await backend.scheduler("submit", specs, batch if replace else None)
                replace = False
            if problem is not None:
                raise problem
            if len(specs) < SLICE:
                break
    reader.close()


async def _old_batch(request: Request, backend: Backend, name: str | None) -> Response:
    ids = await _begun(_submitted(request, backend, name, replace=name is not None))
    body = (b"".join(bytes.fromhex(job_id) for job_id in part) async for part in ids)
    return _Streamed(body, media_type="application/octet-stream")


async def _begun(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same items, once the first is there: what fails before it can still be answered with its status."""
    try:
        first = [await anext(items)]
    except StopAsyncIteration:
        first = []

    async def all_items() -> AsyncIterator[Any]:
        for item in first:
            yield item
        async for item in items:
            yield item

    return all_items()
