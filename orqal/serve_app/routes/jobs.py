"""Jobs: submit, show, list, cancel and retry them, and wait for them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Body, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import AwareDatetime

from orqal.actors.messages import BadParent, Document, Planned, Taken
from orqal.job_stream import BadDocument, DocumentReader
from orqal.models import MAX_NAME, BatchName, JobSpec, Status, now
from orqal.serve_app import examples
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.dependencies import ClusterDep, NewsDep
from orqal.serve_app.explain import NOT_WAITING, explained
from orqal.serve_app.job_ends import End, UnknownJob, job_ends
from orqal.serve_app.routes.documentation import (
    ALWAYS,
    BAD_BODY,
    BAD_VALUE,
    JOB_BODY,
    JOBS_BODY,
    NO_BATCH,
    NO_JOB,
    problems,
)
from orqal.serve_app.routes.parameters import After, Cursor, IdempotencyKey, JobId, Limit
from orqal.serve_app.routes.selection import cancel_selected, selected_ids
from orqal.serve_app.routes.streaming import (
    EMPTY_LINE,
    NDJSON,
    StreamedResponse,
    json_response,
    line,
    prefetched,
    slow_json,
    with_heartbeats,
)
from orqal.serve_app.routes.submission import plan_body, submit_body, submit_one
from orqal.serve_app.schemas import Cancelled, Explanation, JobPage, JobView, PlanView, Selection, Submitted, ToCancel
from orqal.store import JobFilter

router = APIRouter(tags=["jobs"], responses=ALWAYS)


# Submit


@router.post(
    "/job",
    response_class=Response,
    responses={**BAD_BODY, 200: {"content": {"text/plain": {"example": examples.JOB_ID}}}},
    openapi_extra=JOB_BODY,
)
async def create_job(request: Request, cluster: ClusterDep, idempotency_key: IdempotencyKey = None) -> Response:
    """Submit a job: the body is its JSON, the answer its id. The header `Orqal-Cache` is `hit` if an earlier job with
    the same app, input and params is reused, otherwise `miss`."""
    reader = DocumentReader()
    specs: list[JobSpec] = []
    async for chunk in request.stream():
        specs += reader.feed(chunk)
        if len(specs) > 1:
            raise HTTPException(400, "the body is more than one JSON object; POST /api/jobs takes many")
    reader.close()
    if not specs:
        raise HTTPException(400, "the body is empty; it must be one JSON object, a job")
    taken = await submit_one(cluster, specs[0], idempotency_key)
    return PlainTextResponse(taken.id, headers={"Orqal-Cache": "hit" if taken.cached else "miss"})


@router.post(
    "/jobs",
    response_class=Response,
    responses={**BAD_BODY, 200: {"content": {NDJSON: {"example": examples.line(examples.SUBMITTED)}}}},
    openapi_extra=JOBS_BODY,
)
async def create_jobs(
    request: Request,
    cluster: ClusterDep,
    batch: BatchName | None = None,
    idempotency_key: IdempotencyKey = None,
    first: Annotated[
        int, Query(ge=1, le=10**9, description="The first document's number under the idempotency key.")
    ] = 1,
    after: After = None,
) -> Response:
    """Submit many jobs: the body is JSON objects, one per line or back to back. The answer has a line for each,
    `{"_id": id}`, which is sent once the job is on disk; it has `"cached": true` if an earlier job with the same app,
    input and params is reused. If a document is not a job, the last line is `{"error": …, "document": n}`, and the
    documents before it are submitted."""
    before = None
    if after is not None:
        number, _, key = after.partition(" ")
        before = Document(key, int(number))
    answers = await prefetched(
        submit_body(request, cluster, key=idempotency_key, first=first, after=before, batch=batch)
    )
    return StreamedResponse(_submitted_lines(answers), media_type=NDJSON)


@router.post(
    "/jobs/plan",
    response_class=Response,
    responses={**BAD_BODY, 200: {"content": {NDJSON: {"example": examples.line(examples.PLAN)}}}},
    openapi_extra=JOBS_BODY,
)
async def plan_jobs(request: Request, cluster: ClusterDep) -> Response:
    """What would become of these documents if they were submitted now, a line for each: the earlier job that would be
    reused, or why none would. Nothing is submitted. If a document is not a job, the last line is `{"error": …,
    "document": n}`."""
    answers = await prefetched(plan_body(request, cluster))
    return StreamedResponse(_plan_lines(answers), media_type=NDJSON)


async def _plan_lines(answers: AsyncGenerator[list[Planned], None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(answers):
            async for part in answers:
                yield b"".join(map(_plan_line, part))
    except BadDocument as error:
        yield json.dumps({"error": str(error), "document": error.number}).encode() + b"\n"


def _plan_line(planned: Planned) -> bytes:
    job, miss, same, never = planned
    return line(PlanView(job=job, miss=miss, same=same if job is None and never is None else None, never=never))


async def _submitted_lines(answers: AsyncGenerator[list[Taken], None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(answers):
            async for part in answers:
                yield b"".join(
                    b'{"_id": "%s"%s}\n' % (job.encode(), b', "cached": true' if cached else b"")
                    for job, cached in part
                )
    except BadDocument as error:
        yield json.dumps({"error": str(error), "document": error.number}).encode() + b"\n"


# Show and list


@router.get("/job/{job_id}", response_model=JobView, responses={**NO_JOB, **examples.shown(examples.JOB)})
async def get_job(job_id: JobId, cluster: ClusterDep) -> Response:
    """A job with its output and result."""
    job = await cluster.job(job_id)
    output = await cluster.read(cluster.store.output, job_id)
    return json_response(JobView.of(job, output))


@router.get("/job/{job_id}/explain", responses={**NO_JOB, **examples.shown(examples.EXPLANATION)})
async def explain_job(job_id: JobId, cluster: ClusterDep) -> Explanation:
    """Why a job is in its state: what it waits for, why it ended as it did, and why no earlier job was reused."""
    job = await cluster.job(job_id)
    why = await cluster.scheduler.why_waiting(job_id) if job.current_status is Status.TODO else NOT_WAITING
    return explained(job, why, await cluster.doing(job), moment=now())


@router.get("/jobs", response_model=JobPage, responses={**BAD_VALUE, **examples.shown(examples.PAGE)})
async def list_jobs(
    cluster: ClusterDep,
    status: Status | None = None,
    app: Annotated[str | None, Query(max_length=MAX_NAME)] = None,
    user: Annotated[str | None, Query(max_length=MAX_NAME)] = None,
    batch: BatchName | None = None,
    host: Annotated[str | None, Query(max_length=MAX_NAME)] = None,
    submitted_after: AwareDatetime | None = None,
    submitted_before: AwareDatetime | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Jobs, the newest first. New jobs and changes of state do not move a job from one part of the list to another."""
    wanted = JobFilter(status, app, user, batch, host, submitted_after, submitted_before)
    page = await cluster.read(cluster.store.find, wanted, limit, cursor)
    return json_response(JobPage(jobs=page.jobs, cursor=page.cursor))


@router.get("/jobs/status", responses=examples.shown(examples.COUNTS))
async def count_jobs(cluster: ClusterDep, response: Response) -> dict[str, int]:
    """The number of jobs in each state; `todo` is always present."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    return await cluster.counts()


# Wait for


@router.post(
    "/jobs/wait",
    response_class=Response,
    responses={
        **NO_BATCH,
        200: {"content": {NDJSON: {"example": examples.line(examples.CHANGE)}}},
    },
)
async def wait_for_jobs(selection: Annotated[Selection, Body()], cluster: ClusterDep, news: NewsDep) -> Response:
    """The ends of jobs, a line for each job when it ends, and an empty line every 10 s while none ends. The answer is
    complete when all have ended."""
    ids = await selected_ids(selection, cluster)

    async def lines() -> AsyncGenerator[bytes, None]:
        yield EMPTY_LINE  # The headers are sent now, not with the first end.
        async with aclosing(job_ends(cluster, news, ids)) as ends:
            async for part in ends:
                yield b"".join(map(_end_line, part))

    return StreamedResponse(with_heartbeats(lines()), media_type=NDJSON)


def _end_line(end: End) -> bytes:
    if isinstance(end, UnknownJob):
        return json.dumps({"_id": end.id, "unknown": True}).encode() + b"\n"
    return line(end)


# Cancel and retry


@router.post("/job/{job_id}/cancel", responses={**NO_JOB, **examples.shown(examples.CANCELLED)})
async def cancel_job(job_id: JobId, cluster: ClusterDep) -> Cancelled:
    """Cancel a job, whether it waits, starts or runs. A job that has ended stays as it is."""
    await cluster.job(job_id)
    return Cancelled(cancelled=await cluster.scheduler.cancel([job_id]))


@router.post("/jobs/cancel", response_model=Cancelled, responses={**NO_BATCH, **examples.shown(examples.CANCELLED)})
async def cancel_jobs(which: Annotated[ToCancel, Body()], cluster: ClusterDep) -> Response:
    """Cancel jobs, whether they wait (also for a retry), pull their image, start or run. Repeating the request does no
    harm. Once this is answered the jobs end, whatever fails; a job that ends by itself at that moment keeps its own
    end. An empty line is sent before the answer whenever it takes another 10 s."""
    return await slow_json(_cancelled(which, cluster))


async def _cancelled(which: ToCancel, cluster: ClusterAccess) -> Cancelled:
    return Cancelled(cancelled=await cancel_selected(which, cluster))


@router.post(
    "/job/{job_id}/retry",
    responses={
        **NO_JOB,
        **problems(_409="the job has not ended, or it is ok: there is nothing to retry"),
        **examples.shown(examples.SUBMITTED),
    },
)
async def retry_job(job_id: JobId, cluster: ClusterDep) -> Submitted:
    """Run a failed job again: a new job with the same app, input and params, which takes its place in its batches. The
    jobs that ended because of it run again after it.
    Repeating the request returns the same new job."""
    await cluster.job(job_id)
    try:
        new = await cluster.scheduler.retry([job_id])
    except BadParent as error:
        raise HTTPException(409, error.reason) from None
    if job_id not in new:
        raise HTTPException(409, f"the job {job_id} has not ended, or it is ok: there is nothing to retry")
    return Submitted(id=new[job_id])
