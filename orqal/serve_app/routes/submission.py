"""Submits the jobs of a request's body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import islice
from uuid import uuid4

from fastapi import Request
from starlette.requests import ClientDisconnect

from orqal.actors.messages import BadParent, Document, OtherDocument, Planned, Taken, TooEarly
from orqal.job_stream import BadDocument, DocumentReader
from orqal.models import JobSpec
from orqal.serve_app.cluster_access import JOBS_AT_ONCE, ClusterAccess
from orqal.serve_app.errors import Unavailable

PIECE_BYTES = 1 << 18
"""The bytes of a body that are taken together at most: enough for a thousand jobs of the usual size."""
PAUSE = 0.02
"""Seconds without more of a body after which what has come is submitted."""


async def submit_body(
    request: Request,
    cluster: ClusterAccess,
    *,
    key: str | None = None,
    first: int = 1,
    after: Document | None = None,
    batch: str | None = None,
    replace_batch: bool = False,
) -> AsyncGenerator[list[Taken], None]:
    """Submit the jobs of a request's body as they come, and yield the answers when the jobs are on disk.

    `first`: the first document's number under the key. `after`: see SchedulerApi.submit. `batch`: the name of the batch
    that the jobs join; with `replace_batch`, its earlier jobs leave it.

    Raises:
        BadDocument: the next document is not a job, or waits after one that does not exist, or its idempotency key was
            used before with another document.
        Unavailable: the document before them does not come.
    """
    number = 1
    async for specs in _documents(request):
        if batch is not None:
            for spec in specs:
                spec.batch = batch
        try:
            yield await submit(cluster, specs, key, first, after=after, replace_batch=batch if replace_batch else None)
        except OtherDocument as error:
            raise _used_before(number + error.number - 1, error) from None
        except BadParent as error:
            raise BadDocument(number + error.number - 1, error.reason) from None
        first, number, replace_batch, after = first + len(specs), number + len(specs), False, None


async def plan_body(request: Request, cluster: ClusterAccess) -> AsyncGenerator[list[Planned], None]:
    """What would become of the jobs of a request's body, as they come.

    Raises:
        BadDocument: the next document is not a job.
    """
    number = 1
    async for specs in _documents(request):
        try:
            yield await cluster.scheduler.plan(specs)
        except BadParent as error:
            raise BadDocument(number + error.number - 1, error.reason) from None
        number += len(specs)


async def _documents(request: Request) -> AsyncGenerator[list[JobSpec], None]:
    """The jobs of a request's body as they come, at most JOBS_AT_ONCE in a list.

    Raises:
        BadDocument: the next document is not a job. The jobs before it were yielded.
    """
    reader = DocumentReader()
    try:
        async for piece in _pieces(request):
            jobs = reader.feed(piece)
            while True:
                specs: list[JobSpec] = []
                problem: BadDocument | None = None
                try:
                    specs.extend(islice(jobs, JOBS_AT_ONCE))
                except BadDocument as error:
                    problem = error
                if specs:
                    yield specs
                if problem is not None:
                    raise problem
                if len(specs) < JOBS_AT_ONCE:
                    break
    except ClientDisconnect:
        return  # The complete documents are submitted, but no client is left to read the answer.
    reader.close()


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body in pieces: what comes without a pause is one, because what each piece brings is a transaction.

    Raises:
        ClientDisconnect: the client went away. What came before was yielded.
    """
    stream = aiter(request.stream())
    piece = bytearray()
    coming = asyncio.ensure_future(anext(stream))
    try:
        while True:
            await asyncio.wait([coming], timeout=PAUSE if piece else None)
            if not coming.done() or len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
                continue
            try:
                piece += coming.result()
            except StopAsyncIteration:
                break
            except ClientDisconnect:
                yield bytes(piece)
                raise
            coming = asyncio.ensure_future(anext(stream))
        yield bytes(piece)
    finally:
        coming.cancel()


async def submit(
    cluster: ClusterAccess,
    specs: list[JobSpec],
    key: str | None,
    first: int = 1,
    *,
    after: Document | None = None,
    replace_batch: str | None = None,
) -> list[Taken]:
    """Submit jobs. The first one has the number `first` under the idempotency key.

    Raises:
        OtherDocument: the key was used before with another document of the same number.
        Unavailable: the document before these does not come.
    """
    # Ray repeats the call if the Scheduler dies during it. The next Scheduler finds by the key what was written.
    key = key or uuid4().hex
    try:
        return await cluster.scheduler.submit(specs, key=key, first=first, after=after, replace_batch=replace_batch)
    except TooEarly:
        raise Unavailable("the jobs before these have not come; send these again after those") from None


async def submit_one(cluster: ClusterAccess, spec: JobSpec, key: str | None) -> Taken:
    """Submit one job.

    Raises:
        BadDocument: the idempotency key was used before with another document.
    """
    try:
        [taken] = await submit(cluster, [spec], key)
    except OtherDocument as error:
        raise _used_before(1, error) from None
    except BadParent as error:
        raise BadDocument(1, error.reason) from None
    return taken


def _used_before(number: int, error: OtherDocument) -> BadDocument:
    message = f"this idempotency key was used before with another document, which became the job {error.job}"
    return BadDocument(number, message)
