"""Jobs on their way to the server, in requests that can be repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING
from uuid import uuid4

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable, SubmissionFailed
from orqal.client.retry import Patience

if TYPE_CHECKING:
    from orqal.client.api import Client

SLICE = 1_000
"""Jobs in one request. Another number, and a batch that an older client left unfinished could not be resumed."""


class Submission(Iterator[str]):
    """The ids of jobs as they are submitted, in the order of the jobs.

    A request that broke is sent again with the same key, so no job is submitted twice.
    """

    def __init__(
        self, client: Client, documents: Iterable[bytes], batch: str | None = None, *, resume: bool = False
    ) -> None:
        """See Client.submit_many."""
        self.cached = 0
        """How many, so far, were there already: a job of the same app, input and params answers for them."""
        self._client = client
        self._batch = batch
        self._resumed = batch if resume else None
        self._ids = self._submit(documents)

    def __next__(self) -> str:
        return next(self._ids)

    def _submit(self, documents: Iterable[bytes]) -> Iterator[str]:
        documents = iter(documents)
        submitted: list[str] = []
        try:
            while part := list(islice(documents, SLICE)):
                for id in self._submit_slice(part, len(submitted)):
                    submitted.append(id)
                    yield id
        except OrqalError as error:
            # Of all that can be wrong with a job, the server names the key in this case alone.
            if self._resumed is not None and "idempotency" in str(error).lower():
                message = f"The batch {self._resumed!r} exists with other jobs: choose another name."
                raise OrqalError(message) from error
            if not submitted:
                raise
            again = (
                "Submitting the same batch again goes on where it stopped."
                if self._resumed is not None
                else "Submitting all again is safe where use_cache is on: what has succeeded or runs is not run twice."
            )
            raise SubmissionFailed(
                f"{error} The first {len(submitted):,} jobs are submitted and go on. {again}", submitted
            ) from error

    def _submit_slice(self, documents: Sequence[bytes], start: int) -> Iterator[str]:
        key = uuid4().hex if self._resumed is None else batch_key(self._resumed, start)
        patience = Patience(self._client)
        told = 0
        while told < len(documents):
            error: OrqalError = ServerUnreachable(f"The server at {self._client.base_url} ended its answer early.")
            try:
                for number, line in enumerate(self._client.submit_slice(documents, key, self._batch), 1):
                    if "error" in line:
                        # The server counts within this request.
                        wrong = int(line["document"])
                        why = str(line["error"]).removeprefix(f"document {wrong}: ").rstrip(".")
                        raise OrqalError(f"The server did not take job number {start + wrong:,}: {why}.")
                    if number > told:
                        told = number
                        patience.renew()
                        self.cached += line.get("cached") is True
                        yield str(line["_id"])
            except (ServerUnreachable, RequestFailed) as broken:
                error = broken
            if told < len(documents):
                patience.fail(error)


def batch_key(name: str, start: int) -> str:
    """The idempotency key of a batch's jobs from number `start` on: the same whenever they are submitted."""
    key = f"batch {name} {start}"
    return key if len(key) <= 200 and key.isascii() and key.isprintable() else sha256(key.encode()).hexdigest()
