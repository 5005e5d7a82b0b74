"""Jobs with a name in common."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from enum import Enum
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response

from orqal.models import BatchInfo, BatchName, JobRecord, Output
from orqal.serve_app import examples
from orqal.serve_app.backend import Backend, NotThere
from orqal.serve_app.routes.shared import (
    ALWAYS,
    BAD_VALUE,
    NDJSON,
    NO_BATCH,
    SLICE,
    Inside,
    Streamed,
    batch_ids,
    cancelled,
    cursor_of,
)
from orqal.serve_app.schemas import BatchList, Cancelled, ResultView, Retried

router = APIRouter(tags=["batches"], responses=ALWAYS)

AT_ONCE = 16
"""Results that are read at a time: each may be of megabytes."""


class Format(str, Enum):
    """The forms of a batch's results."""

    JSONL = "jsonl"
    CSV = "csv"


@router.get("/batches", responses={**BAD_VALUE, **examples.shown(examples.BATCHES)})
async def list_batches(
    backend: Inside,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$")] = None,
) -> BatchList:
    """Batches, the newest first, and how far they are."""
    page = await backend.read(backend.store.batches, limit, cursor_of(cursor))
    return BatchList(batches=page.batches, cursor=page.cursor)


@router.get("/batches/{name}", responses={**NO_BATCH, **examples.shown(examples.BATCH)})
async def get_batch(name: BatchName, backend: Inside) -> BatchInfo:
    """How far a batch is."""
    info = await backend.read(backend.store.batch, name)
    if info is None:
        raise NotThere(f"there is no batch {name!r}")
    return info


@router.post("/batches/{name}/cancel", responses={**NO_BATCH, **examples.shown(examples.CANCELLED)})
async def cancel_batch(name: BatchName, backend: Inside) -> Cancelled:
    """End a batch's jobs, wherever they are on their way."""
    return Cancelled(cancelled=await cancelled(await batch_ids(name, backend), backend))


@router.post("/batches/{name}/retry", responses={**NO_BATCH, **examples.shown(examples.RETRIED)})
async def retry_batch(name: BatchName, backend: Inside) -> Retried:
    """Run again those of a batch's jobs that have ended and are not ok. Each new job takes the place of the one that
    failed, so asked again there is nothing to do."""
    await batch_ids(name, backend)
    failed = await backend.read(backend.store.batch_failed, name)
    count = 0
    for start in range(0, len(failed), SLICE):
        count += len(await backend.scheduler.retry(failed[start : start + SLICE]))
    return Retried(retried=count)


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
async def get_results(name: BatchName, backend: Inside, format: Format = Format.JSONL) -> Response:
    """The results of a batch's jobs so far, a line each, in the order of submission. As CSV the params and the keys of
    results have columns of their own."""
    await batch_ids(name, backend)
    lines, media_type = (_json_lines, NDJSON) if format is Format.JSONL else (_csv, "text/csv; charset=utf-8")
    # The second form is that of RFC 6266 for names that are not ASCII.
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_" for letter in name
    )
    disposition = (
        f"attachment; filename=\"{plain}.{format.value}\"; filename*=UTF-8''{quote(name, safe='')}.{format.value}"
    )
    return Streamed(lines(name, backend), media_type=media_type, headers={"Content-Disposition": disposition})


async def _rows(name: str, backend: Backend) -> AsyncIterator[list[tuple[JobRecord, Output]]]:
    rows = backend.store.batch_results(name)
    while part := await backend.read(lambda: list(islice(rows, AT_ONCE))):
        yield part


async def _json_lines(name: str, backend: Backend) -> AsyncGenerator[bytes, None]:
    async for part in _rows(name, backend):
        for job, output in part:
            yield ResultView.of(job, output).model_dump_json().encode() + b"\n"


async def _csv(name: str, backend: Backend) -> AsyncGenerator[bytes, None]:
    # Read twice: which columns there are is known when all have been seen, and all need not be held.
    columns: dict[str, None] = {}
    async for part in _rows(name, backend):
        columns |= dict.fromkeys(column for row in _flat(part) for column in row)
    # Those that all rows have come first, in their order.
    fixed = [column for column in columns if "." not in column and column != "result"]
    names = [*fixed, *(column for column in columns if column not in fixed)]
    yield _csv_text(names, [dict(zip(names, names, strict=True))])
    async for part in _rows(name, backend):
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
            if isinstance(result, dict)
            else {"result": result}
        )
        yield row


def _csv_text(names: list[str], rows: Iterable[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        values = (row.get(name) for name in names)
        writer.writerow(
            ["" if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
        )
    return text.getvalue().encode()
