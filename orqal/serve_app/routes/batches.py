"""Batches: jobs with a common name."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from enum import Enum
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Body, HTTPException
from fastapi.responses import Response

from orqal.actors.messages import BadParent, TooHigh
from orqal.extended_json import decoded
from orqal.models import BatchInfo, BatchName, BatchPolicy, JobRecord, Output
from orqal.serve_app import examples
from orqal.serve_app.cluster_access import ClusterAccess, slices
from orqal.serve_app.dependencies import ClusterDep
from orqal.serve_app.errors import NotFound
from orqal.serve_app.routes.documentation import ALWAYS, BAD_VALUE, NO_BATCH, TOO_HIGH
from orqal.serve_app.routes.parameters import Cursor, Limit
from orqal.serve_app.routes.selection import cancel_selected
from orqal.serve_app.routes.streaming import NDJSON, StreamedResponse, line, prefetched, slow_json
from orqal.serve_app.schemas import BatchChange, BatchList, BatchView, Cancelled, ResultView, Retried, ToCancel

router = APIRouter(tags=["batches"], responses=ALWAYS)

RESULTS_AT_ONCE = 16
"""Results in one query of the store. They are few, because each may have megabytes."""


class Format(str, Enum):
    """The formats of a batch's results."""

    JSONL = "jsonl"
    CSV = "csv"


@router.get("/batches", responses={**BAD_VALUE, **examples.shown(examples.BATCHES)})
async def list_batches(cluster: ClusterDep, limit: Limit = 100, cursor: Cursor = None) -> BatchList:
    """Batches, the newest first, with their progress, and what was decided about their waiting jobs."""
    page = await cluster.read(cluster.store.batches, limit, cursor)
    policies, forecasts = await asyncio.gather(cluster.policies(), cluster.forecasts()) if page.batches else ({}, {})
    views = [
        BatchView(**dict(info), policy=policies.get(info.name), forecast=forecasts.get(info.name))
        for info in page.batches
    ]
    return BatchList(batches=views, cursor=page.cursor)


@router.get("/batches/{name}", responses={**NO_BATCH, **examples.shown(examples.BATCH)})
async def get_batch(name: BatchName, cluster: ClusterDep) -> BatchView:
    """The progress of a batch, and what was decided about its waiting jobs."""
    info = await _info(name, cluster)
    policies, forecasts = await asyncio.gather(cluster.policies(), cluster.forecasts())
    return BatchView(**dict(info), policy=policies.get(name), forecast=forecasts.get(name))


async def _info(name: str, cluster: ClusterAccess) -> BatchInfo:
    info = await cluster.read(cluster.store.batch, name)
    if info is None:
        raise NotFound(f"there is no batch {name!r}")
    return info


@router.patch("/batches/{name}", responses={**NO_BATCH, **TOO_HIGH, **examples.shown(examples.BATCH)})
async def change_batch(name: BatchName, change: Annotated[BatchChange, Body()], cluster: ClusterDep) -> BatchView:
    """Decide about the jobs of a batch that wait, and those that come: hold or release them, give them a priority, or
    limit how many run at once. Jobs that run go on. What is not given stays as it is. Also a restart of Orqal keeps
    this; it ends when the batch is deleted."""
    info = await _info(name, cluster)
    try:
        policy = await cluster.scheduler.change_batch(name, change.model_dump(exclude_unset=True))
    except TooHigh as error:
        raise HTTPException(422, str(error)) from None
    return BatchView(**dict(info), policy=None if policy == BatchPolicy() else policy)


@router.get(
    "/batches/{name}/ids",
    response_class=Response,
    responses={**NO_BATCH, 200: {"content": {NDJSON: {"example": f'"{examples.JOB_ID}"\n'}}}},
)
async def get_batch_ids(name: BatchName, cluster: ClusterDep) -> Response:
    """The ids of a batch's jobs, a JSON string on each line, in the order of submission. A job that was reused for
    several documents of the batch is listed once for each of them."""

    async def lines() -> AsyncGenerator[bytes, None]:
        async for part in cluster.batch_ids(name):
            yield "".join(f'"{job_id}"\n' for job_id in part).encode()

    return StreamedResponse(await prefetched(lines()), media_type=NDJSON)


@router.post(
    "/batches/{name}/cancel", response_model=Cancelled, responses={**NO_BATCH, **examples.shown(examples.CANCELLED)}
)
async def cancel_batch(name: BatchName, cluster: ClusterDep) -> Response:
    """Cancel a batch's jobs, whether they wait, start or run. An empty line is sent before the answer whenever it takes
    another 10 s."""

    async def cancelled() -> Cancelled:
        return Cancelled(cancelled=await cancel_selected(ToCancel(batch=name), cluster))

    return await slow_json(cancelled())


@router.post("/batches/{name}/retry", responses={**NO_BATCH, **examples.shown(examples.RETRIED)})
async def retry_batch(name: BatchName, cluster: ClusterDep) -> Retried:
    """Run the failed jobs of a batch again. Each new job takes the place of the one that failed, so repeating the
    request does nothing."""
    await cluster.check_batch(name)
    failed = await cluster.read(cluster.store.batch_failed, name)
    try:
        return Retried(retried=sum([len(await cluster.scheduler.retry(part)) for part in slices(failed)]))
    except BadParent as error:
        raise HTTPException(409, error.reason) from None


@router.get(
    "/batches/{name}/results",
    response_class=Response,
    responses={
        **NO_BATCH,
        200: {
            "content": {
                NDJSON: {"example": examples.line(examples.RESULT)},
                "text/csv": {"example": "_id,app,input\r\n65f0,Checksum,/usr/bin/env\r\n"},
            }
        },
    },
)
async def get_results(name: BatchName, cluster: ClusterDep, format: Format = Format.JSONL) -> Response:
    """The results of a batch's jobs so far, a line for each, in the order of submission. In CSV each param, and each
    key of the results, has its own column."""
    await cluster.check_batch(name)
    lines, media_type = (_json_lines, NDJSON) if format is Format.JSONL else (_csv, "text/csv; charset=utf-8")
    return StreamedResponse(
        lines(name, cluster),
        media_type=media_type,
        headers={"Content-Disposition": _attachment(name, format.value)},
    )


def _attachment(name: str, suffix: str) -> str:
    # The second form is that of RFC 6266 for names that are not ASCII.
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_" for letter in name
    )
    return f"attachment; filename=\"{plain}.{suffix}\"; filename*=UTF-8''{quote(name, safe='')}.{suffix}"


async def _rows(name: str, cluster: ClusterAccess) -> AsyncIterator[list[tuple[JobRecord, Output]]]:
    rows = cluster.store.batch_results(name)
    while part := await cluster.read(lambda: list(islice(rows, RESULTS_AT_ONCE))):
        yield part


async def _json_lines(name: str, cluster: ClusterAccess) -> AsyncGenerator[bytes, None]:
    async for part in _rows(name, cluster):
        for job, output in part:
            yield line(ResultView.of(job, output))


async def _csv(name: str, cluster: ClusterAccess) -> AsyncGenerator[bytes, None]:
    # The results are read twice, because the columns are known only at their end, and all of them may not fit into
    # memory.
    columns: dict[str, None] = {}
    async for part in _rows(name, cluster):
        columns |= dict.fromkeys(column for row in _flat(part) for column in row)
    # The columns that every row has come first.
    fixed = [column for column in columns if "." not in column and column != "result"]
    names = [*fixed, *(column for column in columns if column not in fixed)]
    yield _csv_text(names, [dict(zip(names, names, strict=True))])
    async for part in _rows(name, cluster):
        yield _csv_text(names, _flat(part))


def _flat(part: Iterable[tuple[JobRecord, Output]]) -> Iterator[dict[str, Any]]:
    for job, output in part:
        row: dict[str, Any] = {
            "_id": job.id,
            "app": job.app,
            "input": job.input,
            "current_status": job.current_status.value,
            "ok": job.ok,
            "exit_code": job.exit_code,
            "error": f"{job.error.type.value}: {job.error.message}" if job.error else None,
        }
        row |= {f"params.{key}": value for key, value in job.params.items()}
        result = output.result
        row |= (
            {f"result.{key}": value for key, value in result.items()}
            if isinstance(result, dict) and isinstance(decoded(result), dict)
            else {"result": result}
        )
        yield row


def _csv_text(names: list[str], rows: Iterable[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    # Programs that read tables know NaN, Infinity and -Infinity.
    number = decoded(value)
    return json.dumps(number if isinstance(number, float) else value)
