"""Jobs on their way to the server, in requests that can be sent again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable, SubmissionFailed
from orqal.client.retry import Backoff
from orqal.client.transport import Transport

T = TypeVar("T")

JOBS_PER_KEY = 1_000
"""Jobs with one idempotency key. Never change this: a batch that an older client left unfinished could not be
resumed."""
REQUEST_BYTES = 1 << 19
"""The most bytes in one request of several jobs. Proxies refuse bodies that are too large: nginx those of more than
1 MiB, unless it is told otherwise."""


class Child(NamedTuple):
    """The document of a job that waits after others of the same submission."""

    parents: Sequence[int]
    """The places of the documents of these, counted from 0. All of them come before it."""
    document: Callable[[Sequence[str | None]], bytes]
    """Makes the document from the ids of the jobs so far. One that would be new has None, and is left out."""


class Submitted(NamedTuple):
    """The answer to one job."""

    id: str
    reused: bool | None
    """True if an earlier job with the same app, input and params is reused; None if that is not known."""


def submit_one(transport: Transport, document: bytes) -> Submitted:
    """Submit one job. If the connection breaks, the request is sent again with the same idempotency key, so there is
    only one job.

    Raises:
        OrqalError: the server cannot be reached, or refuses the job.
    """
    headers = {"content-type": "application/json", "idempotency-key": uuid4().hex}
    backoff = Backoff()
    first = True
    while True:
        try:
            answer = transport.request("POST", "job", content=document, headers=headers)
        except (ServerUnreachable, RequestFailed) as error:
            backoff.pause(error)
            first = False
            continue
        reused = {"hit": True, "miss": False}.get(answer.headers.get("orqal-cache", ""))
        # If the first answer was lost, the second only says that the job is there.
        return Submitted(answer.text.strip(), reused if reused or first else None)


def plan(transport: Transport, documents: Iterable[bytes | Child]) -> Iterator[dict[str, Any]]:
    """Yield what would become of jobs if they were submitted now. See Client.plan."""
    documents = iter(documents)
    made = set[str]()
    jobs: list[str | None] = []
    # Not in one request, because its answer would come only after all of it is sent.
    while block := list(islice(documents, JOBS_PER_KEY)):
        while block:
            ready = _ready(block, jobs)
            for document, answer in zip(block, _planned(transport, ready, len(jobs)), strict=False):
                same = answer.pop("same")
                if isinstance(document, Child) and any(jobs[parent] is None for parent in document.parents):
                    answer |= {"job": None, "miss": "it waits after a job that would be new"}
                    same = None
                jobs.append(answer["job"])
                repeated = same in made
                if same is not None:
                    made.add(same)
                yield answer | {"repeated": repeated}
            block = block[len(ready) :]


def _planned(transport: Transport, documents: Sequence[bytes], start: int) -> Iterator[dict[str, Any]]:
    headers = {"content-type": "application/x-ndjson"}
    done = 0
    while done < len(documents):
        part = documents[done : done + _fitting(documents[done:])]
        body = b"".join(document + b"\n" for document in part)
        for answer in transport.ndjson("POST", "jobs/plan", content=body, headers=headers):
            if "error" in answer:
                raise _refused(answer, start + done)
            yield answer
        done += len(part)


class _Request(NamedTuple):
    """Jobs that are sent in one request."""

    documents: Sequence[bytes]
    start: int
    """The number of the first one in the whole submission, counted from 0."""
    key: str
    first: int
    """Its number under the idempotency key, counted from 1."""
    after: str | None
    """The number and the key of the document before it, which the server waits for; None if it is the very first."""


class _Answer(NamedTuple):
    """What the server says to one request."""

    lines: list[dict[str, Any]]
    """One for each job that is submitted."""
    error: OrqalError | None
    """Why the others are not; None if all are."""


class Submission(Iterator[str]):
    """The ids of jobs as they are submitted, in the order of the jobs. See Client.submit_many.

    If the connection breaks, the request is sent again with the same idempotency key, so no job is submitted twice.
    While the server works on one request the next is on its way, in a thread. The server takes them in turn.
    """

    def __init__(
        self,
        transport: Transport,
        documents: Iterable[bytes | Child],
        batch: str | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.cached = 0
        """How many of the ids so far belong to earlier jobs with the same app, input and params, which were reused."""
        self._transport = transport
        self._batch = batch
        self._resumed = batch if resume else None
        self._ids = self._submit(documents)

    def __next__(self) -> str:
        return next(self._ids)

    def _submit(self, documents: Iterable[bytes | Child]) -> Iterator[str]:
        submitted: list[str] = []
        for answer in self._in_turn(self._requests(documents, submitted)):
            for line in answer.lines:
                self.cached += line.get("cached") is True
                submitted.append(str(line["_id"]))
                yield submitted[-1]
            if answer.error is not None:
                raise self._failure(answer.error, submitted) from answer.error

    def _failure(self, error: OrqalError, submitted: list[str]) -> OrqalError:
        # The server mentions the key in no other error about a job.
        if self._resumed is not None and "idempotency" in str(error).lower():
            return OrqalError(f"The batch {self._resumed!r} exists with other jobs: choose another name.")
        if not submitted:
            return error
        return SubmissionFailed(
            f"{error} The first {len(submitted):,} jobs are submitted and go on. {self._how_to_go_on()}", submitted
        )

    def _how_to_go_on(self) -> str:
        if self._resumed is not None:
            return "Submit the same batch again to submit the rest."
        return "With use_cache it is safe to submit all of them again: jobs that succeeded or run are not run twice."

    def _requests(self, documents: Iterable[bytes | Child], submitted: Sequence[str]) -> Iterator[_Request | None]:
        """Yield the requests; None where the next one can only be made when more jobs are `submitted`."""
        documents = iter(documents)
        start, after = 0, None
        while part := list(islice(documents, JOBS_PER_KEY)):
            key = uuid4().hex if self._resumed is None else batch_key(self._resumed, start)
            done = 0
            while done < len(part):
                if not (ready := _ready(part[done:], submitted)):
                    yield None
                    continue
                sent = ready[: _fitting(ready)]
                yield _Request(sent, start + done, key, done + 1, after)
                done += len(sent)
                after = f"{done} {key}"
            start += len(part)

    def _in_turn(self, requests: Iterator[_Request | None]) -> Iterator[_Answer]:
        """Yield the answers. There are two requests under way, where there are as many."""
        under_way: deque[Future[_Answer]] = deque()
        start = list(islice(requests, 2))
        if len(start) == 1 and start[0] is not None:
            yield self._send(start[0], None)
            return
        for request in chain(start, requests):
            if request is not None:
                under_way.append(_started(partial(self._send, request, under_way[-1] if under_way else None)))
            if request is None or len(under_way) > 1:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _send(self, request: _Request, before: Future[_Answer] | None) -> _Answer:
        """Send one request until all its jobs are submitted or that has no use. `before`: the answer to the request
        before it."""
        lines: list[dict[str, Any]] = []
        backoff = Backoff()
        while len(lines) < len(request.documents):
            done = len(lines)
            failure: OrqalError = self._transport.ended_early()
            try:
                for line in self._lines(request, done):
                    if "error" in line:
                        return _Answer(lines, _refused(line, request.start + done))
                    lines.append(line)
                    backoff.reset()
            except (ServerUnreachable, RequestFailed) as error:
                failure = error
            except OrqalError as error:
                return _Answer(lines, error)
            if len(lines) < len(request.documents):
                # What failed may be that the one before has not come. If it never does, this must not either.
                if before is not None and before.result().error is not None:
                    return _Answer(lines, failure)
                try:
                    backoff.pause(failure)
                except OrqalError as error:
                    return _Answer(lines, error)
        return _Answer(lines, None)

    def _lines(self, request: _Request, done: int) -> Iterator[dict[str, Any]]:
        """Send a request without its first `done` documents, and yield the lines of the answer.

        A document that was sent before under its key and number makes no second job.
        """
        headers = {"content-type": "application/x-ndjson", "idempotency-key": request.key}
        if request.after is not None:
            headers["orqal-after"] = request.after
        params = {} if self._batch is None else {"batch": self._batch}
        if request.first + done > 1:
            params["first"] = str(request.first + done)
        body = b"".join(document + b"\n" for document in request.documents[done:])
        return self._transport.ndjson("POST", "jobs", wait_if_busy=False, content=body, headers=headers, params=params)


def _started(call: Callable[[], T]) -> Future[T]:
    """Call a function in a thread that does not keep the program from its end, and return what will be its result."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="orqal-submit", daemon=True).start()
    return future


def _ready(documents: Sequence[bytes | Child], jobs: Sequence[str | None]) -> list[bytes]:
    """Return the documents up to the first whose parents are not among the jobs so far."""
    ready = []
    for document in documents:
        if isinstance(document, Child):
            if max(document.parents) >= len(jobs):
                break
            document = document.document(jobs)
        ready.append(document)
    return ready


def _fitting(documents: Sequence[bytes]) -> int:
    """Return how many of the documents go into one request: at least one."""
    room = REQUEST_BYTES
    for count, document in enumerate(documents):
        room -= len(document) + 1
        if room < 0:
            return max(count, 1)
    return len(documents)


def _refused(line: dict[str, Any], start: int) -> OrqalError:
    """Return the error for a job that the server refused. The server counts the jobs of one request, from 1."""
    number = int(line["document"])
    reason = str(line["error"]).removeprefix(f"document {number}: ").rstrip(".")
    return OrqalError(f"The server refused job number {start + number:,}: {reason}.")


def batch_key(name: str, start: int) -> str:
    """Return the idempotency key of a batch's jobs from number `start` on: the same whenever they are submitted."""
    key = f"batch {name} {start}"
    return key if len(key) <= 200 and key.isascii() and key.isprintable() else sha256(key.encode()).hexdigest()
