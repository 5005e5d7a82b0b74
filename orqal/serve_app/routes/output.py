"""A job's output, and the files of its directory."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.responses import Response
from starlette.convertors import PathConvertor, register_url_convertor

from orqal.logstream import MEDIA_TYPE, STDERR, STDOUT, Frame, encode
from orqal.serve_app import examples
from orqal.serve_app.byte_range import requested_range
from orqal.serve_app.dependencies import ClusterDep, NewsDep
from orqal.serve_app.job_files import find_file, list_files, view
from orqal.serve_app.job_output import job_output
from orqal.serve_app.routes.documentation import ALWAYS, NO_JOB, problems
from orqal.serve_app.routes.parameters import JobId
from orqal.serve_app.routes.streaming import StreamedResponse, prefetched, with_heartbeats
from orqal.serve_app.schemas import FileList

STREAMS = {"stdout": frozenset({STDOUT}), "stderr": frozenset({STDERR}), "both": frozenset({STDOUT, STDERR})}
FILES_AT_ONCE = 10_000
"""The most files in one answer."""
EMPTY_FRAME = encode(Frame(STDOUT, b""))
"""A heartbeat in the format of Docker's streams."""


class _AnyName(PathConvertor):
    """A path with any characters, line breaks included."""

    regex = "(?s:.*)"


register_url_convertor("any_name", _AnyName())

router = APIRouter(tags=["jobs"], responses=ALWAYS)


@router.get(
    "/job/{job_id}/logs",
    response_class=Response,
    responses={**NO_JOB, 200: {"content": {"text/plain": {"example": "hello\n"}, MEDIA_TYPE: {}}}},
)
async def get_logs(
    request: Request,
    job_id: JobId,
    cluster: ClusterDep,
    news: NewsDep,
    follow: Annotated[bool, Query(description="Continue until the job has ended.")] = False,
    stream: Annotated[str, Query(pattern="^(stdout|stderr|both)$")] = "both",
    attempts: Annotated[
        bool, Query(description="With streams kept apart: a frame of the stream 4 before each attempt's output.")
    ] = False,
) -> Response:
    """A job's output so far; with `follow`, to its end. `Accept: application/vnd.docker.multiplexed-stream` keeps the
    two streams apart, in the format of the Docker Engine API; then there is also a frame without data whenever nothing
    else has come for 10 s."""
    job = await cluster.job(job_id)
    apart = MEDIA_TYPE in request.headers.get("accept", "")
    output = job_output(cluster, news, job_id, STREAMS[stream], follow, attempts and apart)
    if job.current_status.final:  # Its output may be on a host that is away: then the answer is an error.
        output = await prefetched(output)
    if apart:
        return StreamedResponse(with_heartbeats(_joined(output, encode), EMPTY_FRAME), media_type=MEDIA_TYPE)
    return plain_text(output)


def plain_text(output: AsyncGenerator[list[Frame], None]) -> StreamedResponse:
    """An output as plain text, with both streams in one."""
    return StreamedResponse(_joined(output, lambda frame: frame.data), media_type="text/plain; charset=utf-8")


async def _joined(
    output: AsyncGenerator[list[Frame], None], form: Callable[[Frame], bytes]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(output):
        async for frames in output:
            yield b"".join(map(form, frames))


@router.get(
    "/job/{job_id}/files",
    responses={
        **NO_JOB,
        **problems(
            _503="the files' host is away, or the scheduler is restarting; try again after `Retry-After` seconds",
        ),
        **examples.shown(examples.FILES),
    },
)
async def get_files(
    job_id: JobId,
    cluster: ClusterDep,
    limit: Annotated[int, Query(ge=1, le=FILES_AT_ONCE, description="The most files in the answer.")] = 1000,
    cursor: Annotated[
        str | None,
        Query(
            pattern="^[!-~]+$",
            description="The `cursor` of the previous answer, to get the next part of the list.",
        ),
    ] = None,
) -> FileList:
    """The files of a job's directory and of all folders in it, also while the job runs, in the order of a walk in which
    each folder's names are sorted by their bytes."""
    job = await cluster.job(job_id)
    page = await list_files(cluster, job, None if cursor is None else _exact(cursor), limit)
    files = [view(file) for file in page.files]
    return FileList(files=files, cursor=files[-1].path if page.more else None)


def _exact(path: str) -> str:
    """The name of a file from its percent-encoded path. Bytes that are not UTF-8 become surrogates."""
    return os.fsdecode(unquote_to_bytes(path))


@router.get(
    "/job/{job_id}/download/{path:any_name}",
    response_class=Response,
    responses={
        **NO_JOB,
        **problems(
            _403="Orqal's user on the host may not read the file; or a web page of another origin sent this request",
            _404="there is no such job or file",
            _416="the file has no such part",
            _503="the file's host is away, or the scheduler is restarting; try again after `Retry-After` seconds",
        ),
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "a part of the file", "content": {"application/octet-stream": {}}},
    },
)
async def download(
    request: Request,
    job_id: JobId,
    path: str,
    cluster: ClusterDep,
    range: Annotated[str | None, Header(description="A part of the file, for example `bytes=1000-`.")] = None,
    if_range: Annotated[
        str | None, Header(description="An ETag: if the file has changed since, all of it is sent instead of a part.")
    ] = None,
) -> Response:
    """A file of the job's directory, or a part of it, from whichever host has it."""
    # In `path` bytes that are not UTF-8 have been replaced.
    _, found, exact = request.scope.get("raw_path", b"").partition(b"/download/")
    file = await find_file(cluster, await cluster.job(job_id), _exact(exact.decode("ascii")) if found else path)
    etag = file.etag
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    try:
        part = requested_range(range, file.size) if if_range in (None, etag) else None
    except ValueError as error:
        raise HTTPException(416, str(error), headers={"Content-Range": f"bytes */{file.size}"}) from None
    start, end = part or (0, file.size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return StreamedResponse(
        file.pieces(start, end),
        status_code=200 if part is None else 206,
        headers=headers,
        media_type="application/octet-stream",
    )
