"""Jobs on their way to the server, in requests that can be sent again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable, SubmissionFailed
from orqal.client.retry import Backoff
from orqal.client.transport import Transport

JOBS_PER_KEY = 1_000
"""Jobs with one idempotency key. Never change this: a batch that an older client left unfinished could not be
resumed."""
REQUEST_BYTES = 1 << 19
"""The most bytes in one request of several jobs. Proxies refuse bodies that are too large: nginx those of more than
1 MiB, unless it is told otherwise."""


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


def plan(transport: Transport, documents: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield what would become of jobs if they were submitted now. See Client.plan."""
    documents = iter(documents)
    made = set[str]()
    start = 0
    # Not in one request, because its answer would come only after all of it is sent.
    while block := list(islice(documents, JOBS_PER_KEY)):
        for answer in _planned(transport, block, start):
            same = answer.pop("same")
            repeated = same in made
            if same is not None:
                made.add(same)
            yield answer | {"repeated": repeated}
        start += len(block)


def _planned(transport: Transport, documents: Sequence[bytes], start: int) -> Iterator[dict[str, Any]]:
    headers = {"content-type": "application/x-ndjson"}
    done = 0
    while done < len(documents):
        part = documents[done : done + _fitting(documents, done)]
        body = b"".join(document + b"\n" for document in part)
        for answer in transport.ndjson("POST", "jobs/plan", content=body, headers=headers):
            if "error" in answer:
                raise _refused(answer, start + done)
            yield answer
        done += len(part)


class Submission(Iterator[str]):
    """The ids of jobs as they are submitted, in the order of the jobs. See Client.submit_many.

    If the connection breaks, the request is sent again with the same idempotency key, so no job is submitted twice.
    """

    def __init__(
        self, transport: Transport, documents: Iterable[bytes], batch: str | None = None, *, resume: bool = False
    ) -> None:
        self.cached = 0
        """How many of the ids so far belong to earlier jobs with the same app, input and params, which were reused."""
        self._transport = transport
        self._batch = batch
        self._resumed = batch if resume else None
        self._ids = self._submit(documents)

    def __next__(self) -> str:
        return next(self._ids)

    def _submit(self, documents: Iterable[bytes]) -> Iterator[str]:
        documents = iter(documents)
        submitted: list[str] = []
        try:
            while part := list(islice(documents, JOBS_PER_KEY)):
                for id in self._submit_part(part, len(submitted)):
                    submitted.append(id)
                    yield id
        except OrqalError as error:
            # The server mentions the key in no other error about a job.
            if self._resumed is not None and "idempotency" in str(error).lower():
                message = f"The batch {self._resumed!r} exists with other jobs: choose another name."
                raise OrqalError(message) from error
            if not submitted:
                raise
            raise SubmissionFailed(
                f"{error} The first {len(submitted):,} jobs are submitted and go on. {self._how_to_go_on()}", submitted
            ) from error

    def _how_to_go_on(self) -> str:
        if self._resumed is not None:
            return "Submit the same batch again to submit the rest."
        return "With use_cache it is safe to submit all of them again: jobs that succeeded or run are not run twice."

    def _submit_part(self, documents: Sequence[bytes], start: int) -> Iterator[str]:
        """Submit jobs with one key, and yield their ids. The first one is job number `start`, counted from 0."""
        key = uuid4().hex if self._resumed is None else batch_key(self._resumed, start)
        backoff = Backoff()
        submitted = 0
        while submitted < len(documents):
            sent = documents[submitted : submitted + _fitting(documents, submitted)]
            before = submitted
            failure: OrqalError = self._transport.ended_early()
            try:
                for line in self._answer(sent, key, before + 1):
                    if "error" in line:
                        raise _refused(line, start + before)
                    submitted += 1
                    backoff.reset()
                    self.cached += line.get("cached") is True
                    yield str(line["_id"])
            except (ServerUnreachable, RequestFailed) as error:
                failure = error
            if submitted < before + len(sent):
                backoff.pause(failure)

    def _answer(self, documents: Sequence[bytes], key: str, first: int) -> Iterator[dict[str, Any]]:
        """Send one request and yield the lines of its answer. The first document has the number `first` of this key.

        If a document of this `key` and number was sent before, it makes no second job.
        """
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        params = {} if self._batch is None else {"batch": self._batch}
        if first > 1:
            params["first"] = str(first)
        body = b"".join(document + b"\n" for document in documents)
        return self._transport.ndjson("POST", "jobs", wait_if_busy=False, content=body, headers=headers, params=params)


def _fitting(documents: Sequence[bytes], start: int) -> int:
    """Return how many of the documents from `start` on go into one request: at least one."""
    room = REQUEST_BYTES
    for count, document in enumerate(islice(documents, start, None)):
        room -= len(document) + 1
        if room < 0:
            return max(count, 1)
    return len(documents) - start


def _refused(line: dict[str, Any], start: int) -> OrqalError:
    """Return the error for a job that the server refused. The server counts the jobs of one request, from 1."""
    number = int(line["document"])
    reason = str(line["error"]).removeprefix(f"document {number}: ").rstrip(".")
    return OrqalError(f"The server refused job number {start + number:,}: {reason}.")


def batch_key(name: str, start: int) -> str:
    """Return the idempotency key of a batch's jobs from number `start` on: the same whenever they are submitted."""
    key = f"batch {name} {start}"
    return key if len(key) <= 200 and key.isascii() and key.isprintable() else sha256(key.encode()).hexdigest()
