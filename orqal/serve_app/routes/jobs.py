"""One job, and many at once."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Body, Header, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import AwareDatetime

from orqal.actors.messages import Taken
from orqal.engine.streams import STDERR, STDOUT, multiplexed
from orqal.models import MAX_NAME, BatchName, Change, JobSpec, Status, now
from orqal.serve_app import examples
from orqal.serve_app.explain import explained
from orqal.serve_app.job_files import wanted
from orqal.serve_app.json_stream import BadDocument, DocumentReader
from orqal.serve_app.routes.shared import (
    ALWAYS,
    BAD_BODY,
    BAD_VALUE,
    BODIES,
    BODY,
    HEARTBEAT,
    NDJSON,
    NO_BATCH,
    NO_JOB,
    IdempotencyKey,
    Inside,
    JobId,
    Streamed,
    begun,
    cancelled,
    cursor_of,
    formed,
    json_of,
    problems,
    selected,
    submit,
    taken_in,
    to_cancel,
)
from orqal.serve_app.schemas import Cancelled, Explanation, JobPage, JobView, Selection, Submitted, ToCancel
from orqal.store import JobFilter

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

router = APIRouter(tags=["jobs"], responses=ALWAYS)


@router.post(
    "/job",
    response_class=Response,
    responses={**BAD_BODY, 200: {"content": {"text/plain": {"example": examples.JOB_ID}}}},
    openapi_extra=BODY,
)
async def create_job(request: Request, backend: Inside, idempotency_key: IdempotencyKey = None) -> Response:
    """Submit a job: the body is its JSON, the answer its id. The header `Orqal-Cache` says `hit` if a job that was
    there already answers for it."""
    reader = DocumentReader()
    specs: list[JobSpec] = []
    async for chunk in request.stream():
        specs += reader.feed(chunk)
        if len(specs) > 1:
            raise HTTPException(400, "the body is more than one JSON object; POST /api/jobs takes many")
    reader.close()
    if not specs:
        raise HTTPException(400, "the body is empty; it is to be one JSON object, a job")
    [taken] = await submit(backend, specs, idempotency_key)
    return PlainTextResponse(taken.id, headers={"Orqal-Cache": "hit" if taken.cached else "miss"})


@router.get("/job/{job_id}", response_model=JobView, responses={**NO_JOB, **examples.shown(examples.JOB)})
async def get_job(job_id: JobId, backend: Inside) -> Response:
    """A job with its output and result."""
    job = await backend.job(job_id)
    output = await backend.read(backend.store.output, job_id)
    return json_of(JobView.whole(job, output))


@router.get("/job/{job_id}/explain", responses={**NO_JOB, **examples.shown(examples.EXPLANATION)})
async def explain_job(job_id: JobId, backend: Inside) -> Explanation:
    """Why a job is where it is: what it waits for, why it ended so, why it was run and not taken from the cache."""
    job = await backend.job(job_id)
    reasons: dict[str, str] = {}
    if job.current_status is Status.TODO:
        reasons = await backend.scheduler.reasons(job_id)
    return explained(job, reasons, await backend.doing(job), moment=now())


@router.get(
    "/job/{job_id}/logs",
    response_class=Response,
    responses={**NO_JOB, 200: {"content": {"text/plain": {"example": "hello\n"}, MULTIPLEXED: {}}}},
)
async def get_logs(
    request: Request,
    job_id: JobId,
    backend: Inside,
    follow: Annotated[bool, Query(description="go on until the job has ended")] = False,
    stream: Annotated[str, Query(pattern="^(stdout|stderr|both)$")] = "both",
) -> Response:
    """A job's output: so far, or to its end. `Accept: application/vnd.docker.multiplexed-stream` keeps the
    streams apart, in the format of the Docker Engine API."""
    job = await backend.job(job_id)
    streams = {"stdout": {STDOUT}, "stderr": {STDERR}, "both": {STDOUT, STDERR}}[stream]
    frames = backend.output(job_id, frozenset(streams), follow)
    if job.current_status.final:  # what is complete can be missing
        frames = await begun(frames)
    if MULTIPLEXED in request.headers.get("accept", ""):
        return Streamed(formed(frames, multiplexed), media_type=MULTIPLEXED)
    return Streamed(formed(frames, attrgetter("data")), media_type="text/plain; charset=utf-8")


@router.get(
    "/job/{job_id}/download/{path:path}",
    response_class=Response,
    responses={
        **NO_JOB,
        **problems(
            _404="there is no such job or file",
            _416="the file has no such part",
            _503="the file's host is away, or the scheduler is restarting; try again",
        ),
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "a part of the file", "content": {"application/octet-stream": {}}},
    },
)
async def download(
    job_id: JobId,
    path: str,
    backend: Inside,
    range: Annotated[str | None, Header(description="a part of the file: `bytes=1000-`, say")] = None,
    if_range: Annotated[str | None, Header(description="an ETag: all of the file, if it is another one now")] = None,
) -> Response:
    """A file of the job's directory, or a part of it, wherever its host is."""
    file = await backend.file(await backend.job(job_id), path)
    etag = f'"{file.version}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    try:
        part = wanted(range, file.size) if if_range in (None, etag) else None
    except ValueError as error:
        raise HTTPException(416, str(error), headers={"Content-Range": f"bytes */{file.size}"}) from None
    start, end = part or (0, file.size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return Streamed(
        file.pieces(start, end),
        status_code=200 if part is None else 206,
        headers=headers,
        media_type="application/octet-stream",
    )


@router.post("/job/{job_id}/cancel", responses={**NO_JOB, **examples.shown(examples.CANCELLED)})
async def cancel_job(job_id: JobId, backend: Inside) -> Cancelled:
    """End a job, wherever it is on its way. One that has ended stays as it is."""
    await backend.job(job_id)
    return Cancelled(cancelled=await backend.scheduler.cancel([job_id]))


@router.post(
    "/job/{job_id}/retry",
    responses={
        **NO_JOB,
        **problems(_409="it has not ended, or it is ok: there is nothing to retry"),
        **examples.shown(examples.SUBMITTED),
    },
)
async def retry_job(job_id: JobId, backend: Inside) -> Submitted:
    """Run a job again that failed: a new job of the same app, input and params, which takes its place in its batches.
    Asked again, the answer is the same new job."""
    await backend.job(job_id)
    new = await backend.scheduler.retry([job_id])
    if job_id not in new:
        raise HTTPException(409, f"the job {job_id} has not ended, or it is ok: there is nothing to retry")
    return Submitted(id=new[job_id])


@router.get("/jobs", response_model=JobPage, responses={**BAD_VALUE, **examples.shown(examples.PAGE)})
async def list_jobs(
    backend: Inside,
    status: Status | None = None,
    app: Annotated[str | None, Query(max_length=MAX_NAME)] = None,
    user: Annotated[str | None, Query(max_length=MAX_NAME)] = None,
    batch: BatchName | None = None,
    host: Annotated[str | None, Query(max_length=MAX_NAME)] = None,
    submitted_after: AwareDatetime | None = None,
    submitted_before: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$")] = None,
) -> Response:
    """Jobs, the newest first. Jobs that come and change meanwhile move none from one page to another."""
    wanted = JobFilter(status, app, user, batch, host, submitted_after, submitted_before)
    page = await backend.read(backend.store.find, wanted, limit, cursor_of(cursor))
    return json_of(JobPage(jobs=page.jobs, cursor=page.cursor))


@router.post(
    "/jobs",
    response_class=Response,
    responses={**BAD_BODY, 200: {"content": {NDJSON: {"example": examples.line(examples.SUBMITTED)}}}},
    openapi_extra=BODIES,
)
async def create_jobs(
    request: Request,
    backend: Inside,
    batch: BatchName | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit many jobs: the body is JSON objects, one a line or back to back. The answer has a line for each,
    `{"_id": id}`, which comes once the job is on disk, with `"cached": true` if a job that was there already answers
    for it; if one is no job, a last line `{"error": …, "document": n}`, and those before it are submitted."""
    answers = taken_in(request, backend, key=idempotency_key, batch=batch)

    async def lines(answers: AsyncIterator[list[Taken]]) -> AsyncGenerator[bytes, None]:
        try:
            async for part in answers:
                yield b"".join(
                    b'{"_id": "%s"%s}\n' % (job.encode(), b', "cached": true' if cached else b"")
                    for job, cached in part
                )
        except BadDocument as error:
            yield json.dumps({"error": str(error), "document": error.number}).encode() + b"\n"

    return Streamed(lines(await begun(answers)), media_type=NDJSON)


@router.post(
    "/jobs/wait",
    response_class=Response,
    responses={
        **NO_BATCH,
        200: {"content": {NDJSON: {"example": examples.line(examples.CHANGE)}}},
    },
)
async def wait_for_jobs(selection: Annotated[Selection, Body()], backend: Inside) -> Response:
    """The jobs as they end, a line each; an empty line every 10 s while none does. The answer ends when all have."""
    ids = await selected(selection, backend)

    async def lines() -> AsyncGenerator[bytes, None]:
        yield HEARTBEAT  # the headers go out now, not with the first end
        async with aclosing(backend.ended(ids)) as changes:
            async for change in changes:
                if change is None:
                    yield HEARTBEAT
                elif isinstance(change, Change):
                    yield change.model_dump_json().encode() + b"\n"
                else:
                    yield json.dumps({"_id": change, "unknown": True}).encode() + b"\n"

    return Streamed(lines(), media_type=NDJSON)


@router.post("/jobs/cancel", responses={**NO_BATCH, **examples.shown(examples.CANCELLED)})
async def cancel_jobs(which: Annotated[ToCancel, Body()], backend: Inside) -> Cancelled:
    """End jobs, wherever they are on their way: they wait, also for a retry, pull their image, start, or run. Asked
    again, there is nothing to do. Whatever happens after the answer, they end; one that ends by itself at that moment
    is told as it ended."""
    return Cancelled(cancelled=await cancelled(await to_cancel(which, backend), backend))


@router.get("/jobs/status", responses=examples.shown(examples.COUNTS))
async def count_jobs(backend: Inside, response: Response) -> dict[str, int]:
    """Jobs per state; `todo` is always there."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    return await backend.counts()
