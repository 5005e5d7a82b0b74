"""Jobs on their way to the server, in requests that can be sent again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any
from uuid import uuid4

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable, SubmissionFailed
from orqal.client.retry import Backoff
from orqal.client.transport import Transport

JOBS_PER_REQUEST = 1_000
"""Jobs in one request. Never change this: a batch that an older client left unfinished could not be resumed."""
JOBS_PER_CHUNK = 100
"""Jobs in one write to the connection. More would copy more memory, and fewer would need more system calls."""


def submit_one(transport: Transport, document: bytes) -> str:
    """Submit one job and return its id. If the connection breaks, the request is sent again with the same idempotency
    key, so there is only one job.

    Raises:
        OrqalError: the server cannot be reached, or refuses the job.
    """
    headers = {"content-type": "application/json", "idempotency-key": uuid4().hex}
    backoff = Backoff()
    while True:
        try:
            return transport.request("POST", "job", content=document, headers=headers).text.strip()
        except (ServerUnreachable, RequestFailed) as error:
            backoff.pause(error)


def plan(transport: Transport, documents: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield what would become of jobs if they were submitted now. See Client.plan."""
    documents = iter(documents)
    made = set[str]()
    start = 0
    # Not in one request, because its answer would come only after all of it is sent.
    while part := list(islice(documents, JOBS_PER_REQUEST)):
        headers = {"content-type": "application/x-ndjson"}
        body = b"".join(document + b"\n" for document in part)
        for answer in transport.ndjson("POST", "jobs/plan", content=body, headers=headers):
            if "error" in answer:
                raise _refused(answer, start)
            same = answer.pop("same")
            repeated = same in made
            if same is not None:
                made.add(same)
            yield answer | {"repeated": repeated}
        start += len(part)


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
            while part := list(islice(documents, JOBS_PER_REQUEST)):
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
        """Submit the jobs of one request, and yield their ids. The first one is job number `start`, counted from 0."""
        key = uuid4().hex if self._resumed is None else batch_key(self._resumed, start)
        backoff = Backoff()
        submitted = 0
        while submitted < len(documents):
            failure: OrqalError = self._transport.ended_early()
            try:
                for number, line in enumerate(self._answer(documents, key), 1):
                    if "error" in line:
                        raise _refused(line, start)
                    # After a break the answer starts again, with ids that are known already.
                    if number > submitted:
                        submitted = number
                        backoff.reset()
                        self.cached += line.get("cached") is True
                        yield str(line["_id"])
            except (ServerUnreachable, RequestFailed) as error:
                failure = error
            if submitted < len(documents):
                backoff.pause(failure)

    def _answer(self, documents: Sequence[bytes], key: str) -> Iterator[dict[str, Any]]:
        """Send one request and yield the lines of its answer.

        If a request with this `key` was sent before, its n-th document makes no second job.
        """
        chunks = (
            b"".join(document + b"\n" for document in documents[at : at + JOBS_PER_CHUNK])
            for at in range(0, len(documents), JOBS_PER_CHUNK)
        )
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        params = {} if self._batch is None else {"batch": self._batch}
        return self._transport.ndjson(
            "POST", "jobs", wait_if_busy=False, content=chunks, headers=headers, params=params
        )


def _refused(line: dict[str, Any], start: int) -> OrqalError:
    """Return the error for a job that the server refused. The server counts the jobs of one request, from 1."""
    number = int(line["document"])
    reason = str(line["error"]).removeprefix(f"document {number}: ").rstrip(".")
    return OrqalError(f"The server refused job number {start + number:,}: {reason}.")


def batch_key(name: str, start: int) -> str:
    """Return the idempotency key of a batch's jobs from number `start` on: the same whenever they are submitted."""
    key = f"batch {name} {start}"
    return key if len(key) <= 200 and key.isascii() and key.isprintable() else sha256(key.encode()).hexdigest()
