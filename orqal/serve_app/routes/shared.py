"""What the routes share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from itertools import islice
from typing import Annotated, Any, TypeVar
from uuid import uuid4

from fastapi import Depends, Header, HTTPException, Path, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from orqal.actors.messages import OtherDocument, Taken
from orqal.engine.streams import Frame
from orqal.models import MAX_NAME, JobSpec
from orqal.serve_app import examples
from orqal.serve_app.backend import Backend, NotThere
from orqal.serve_app.json_stream import BadDocument, DocumentReader
from orqal.serve_app.schemas import Problem, Selection, ToCancel

T = TypeVar("T")

NDJSON = "application/x-ndjson"
SLICE = 1_000
"""Jobs that are handed to the Scheduler at once."""
HEARTBEAT = b"\n"
"""What a client that waits is sent now and then: an empty line."""

Responses = dict[int | str, dict[str, Any]]


def problems(**reasons: str) -> Responses:
    """The documentation of errors: `_404="when"`."""
    return {
        int(status[1:]): {
            "model": Problem,
            "description": reason,
            "content": {"application/json": {"example": {"detail": reason}}},
        }
        for status, reason in reasons.items()
    }


ALWAYS = problems(
    _401="the token is missing or wrong",
    _403="a web page of another origin made the browser send this",
    _429="too many requests are under way; try again after `Retry-After` seconds",
    _503="the scheduler is restarting, or the store cannot take it now; try again",
)
NO_JOB = problems(_404="there is no such job", _422="that is no job's id, or another value is none that there can be")
NO_BATCH = problems(
    _404="there is no batch of this name", _422="that is no batch's name, or another value is none that there can be"
)
BAD_VALUE = problems(_422="a value is none that there can be")
BAD_BODY = problems(
    _400="the body is not JSON",
    _413="a job's JSON is too large",
    _422="a document is no job, or repeats the idempotency key of another",
)


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


Inside = Annotated[Backend, Depends(_backend)]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{24}$", description="the job's id", examples=[examples.JOB_ID])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_NAME,
        pattern="^[ -~]+$",
        description="the n-th document of a request that is repeated with the same key makes no second job",
    ),
]
# Bodies are read as they come, so FastAPI does not see what they are.
_JOB = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
del _JOB["$defs"]  # JsonValue, which the answers have too
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _JOB,
                "example": {
                    "app": "Checksum",
                    "input": "/usr/bin/env",
                    "params": {},
                    "retries": 3,
                    "retry_on": [75, "out_of_memory"],
                    "retry_memory_factor": 2,
                },
            }
        },
    }
}
"""The documentation of a body that is one job."""
BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            NDJSON: {
                "schema": {"type": "array", "items": _JOB, "description": "JSON objects, one a line or back to back"},
                "example": '{"app": "Checksum", "input": "/usr/bin/env"}\n{"app": "Checksum", "input": "/bin/id"}\n',
            }
        },
    }
}
"""The documentation of a body that is many jobs."""


class Streamed(StreamingResponse):
    """A response whose body is made as it is sent, perhaps while the request's is still being read.

    Starlette's own listens for the client's going away by reading the request, and so eats it; Serve cancels
    the handler of a client that has gone in any case. Then what makes the body is closed at once: it may hold
    connections.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], **more: Any) -> None:
        super().__init__(content, **more)
        self._content = content
        # Jobs write what they like: a browser is not to find a page in it.
        self.headers["X-Content-Type-Options"] = "nosniff"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._content):
            await self.stream_response(send)


async def formed(frames: AsyncGenerator[Frame, None], form: Callable[[Frame], bytes]) -> AsyncGenerator[bytes, None]:
    """An output as it is sent."""
    async with aclosing(frames):
        async for frame in frames:
            yield form(frame)


def json_of(view: Any) -> Response:
    """A model as it is: no second check of what was checked when it was made."""
    return Response(view.model_dump_json(), media_type="application/json")


async def taken_in(
    request: Request, backend: Backend, *, key: str | None = None, batch: str | None = None, replace: bool = False
) -> AsyncIterator[list[Taken]]:
    """Submit the jobs of a request's body as they come; the answers, as they are on disk. BadDocument: what comes next
    is no job, or another one than before under the same idempotency key."""
    reader = DocumentReader()
    first = 1
    try:
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
                    yield await submit(backend, specs, key, first, batch if replace else None)
                    first, replace = first + len(specs), False
                if problem is not None:
                    raise problem
                if len(specs) < SLICE:
                    break
    except ClientDisconnect:
        return  # what it has sent is submitted; nobody is there to be told
    reader.close()


async def submit(
    backend: Backend, specs: list[JobSpec], key: str | None, first: int = 1, replace_batch: str | None = None
) -> list[Taken]:
    """Hand documents to the Scheduler. BadDocument: one is another than before under its idempotency key."""
    # Ray repeats the call when the Scheduler dies under it: what it had written by then is found by a key.
    key = key or uuid4().hex
    try:
        return await backend.scheduler.submit(specs, key=key, first=first, replace_batch=replace_batch)
    except OtherDocument as error:
        number = first + error.number - 1
        raise BadDocument(number, f"this idempotency key has another document there, that of {error.job}") from None


async def begun(items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The same items, once the first is there: what fails before it can still be answered with its status."""
    try:
        first = [await anext(items)]
    except StopAsyncIteration:
        first = []

    async def all_items() -> AsyncGenerator[T, None]:
        for item in first:
            yield item
        async for item in items:
            yield item

    return all_items()


async def batch_ids(name: str, backend: Backend) -> list[str]:
    """The ids of a batch's jobs. NotThere: no such batch."""
    ids = await backend.read(backend.store.batch_ids, name)
    if not ids:
        raise NotThere(f"there is no batch {name!r}")
    return ids


async def selected(selection: Selection, backend: Backend) -> list[str]:
    """The ids that are meant."""
    if selection.all:
        return await backend.read(lambda: [job.id for job in backend.store.unfinished()])
    if selection.batch is not None:
        return await batch_ids(selection.batch, backend)
    return selection.ids or []


async def to_cancel(which: ToCancel, backend: Backend) -> list[str]:
    """The ids that are meant. NotThere: no such batch."""
    if which.ids is not None:
        return which.ids
    members = None if which.batch is None else set(await batch_ids(which.batch, backend))

    def meant() -> list[str]:
        jobs = (job for job in backend.store.unfinished() if which.means(job))
        return [job.id for job in jobs if members is None or job.id in members]

    return await backend.read(meant)


async def cancelled(ids: list[str], backend: Backend) -> int:
    """Cancel these jobs: how many had not ended."""
    count = 0
    for start in range(0, len(ids), SLICE):
        count += await backend.scheduler.cancel(ids[start : start + SLICE])
    return count


def cursor_of(cursor: str | None) -> str | None:
    """A cursor that a store can take. HTTPException: it is too large a number."""
    if cursor is not None and int(cursor) >= 1 << 62:
        raise HTTPException(422, "that is no cursor")
    return cursor
