"""Long answers that are resumed where they stopped if the connection breaks: ends of jobs, output, a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from orqal.client.errors import JobsGone, OrqalError, RequestFailed, ServerUnreachable
from orqal.client.retry import Backoff
from orqal.client.transport import Transport, connection_limit, parse_json, split_lines
from orqal.files import replacing
from orqal.logstream import ATTEMPT, MEDIA_TYPE, Decoder, Frame

if TYPE_CHECKING:
    from orqal.models import Change

HEARTBEAT_TIMEOUT = 30.0
"""Seconds of silence after which a stream with heartbeats counts as broken. The server sends one every 10."""

JOBS_GO_ON = "The jobs themselves go on."
"""The last sentence of the message when the client gives up watching jobs."""


def changes(
    transport: Transport,
    ids: Iterable[str],
    batch: str | None,
    timeout: float | None,
    on_silence: Callable[[], None] = lambda: None,
) -> Iterator[Change]:
    """Yield the end of each job once. See Client.changes."""
    waiting = dict.fromkeys(id.lower() for id in ids)
    seen: set[str] = set()
    unknown: list[str] = []
    backoff = Backoff(timeout, advice=JOBS_GO_ON)
    while waiting or batch is not None:
        selection = {"ids": list(waiting)} if batch is None else {"batch": batch}
        try:
            for change in _changes_until_broken(transport, selection, backoff, on_silence):
                if isinstance(change, UnknownJob):
                    # The others are worth waiting for.
                    waiting.pop(change.id, None)
                    unknown.append(change.id)
                elif change.id not in seen:
                    seen.add(change.id)
                    waiting.pop(change.id, None)
                    yield change
            if waiting:
                raise transport.ended_early()
            break
        except (ServerUnreachable, RequestFailed) as error:
            if timeout is not None and backoff.remaining() == 0:
                raise TimeoutError(f"Not all jobs have ended after {timeout:g} seconds.") from error
            backoff.pause(error)
    if unknown:
        others = f", and {len(unknown) - 1} others are not there either" if len(unknown) > 1 else ""
        raise JobsGone(f"There is no job {unknown[0]}{others}. Ended jobs are deleted after a time.", 404)


class UnknownJob(NamedTuple):
    """The server has no job with this id, perhaps because it was deleted after its end."""

    id: str


def _changes_until_broken(
    transport: Transport, selection: dict[str, Any], backoff: Backoff, on_silence: Callable[[], None]
) -> Iterator[Change | UnknownJob]:
    from orqal.models import Change

    timeout = backoff.at_most(HEARTBEAT_TIMEOUT)
    with (
        transport.stream("POST", "jobs/wait", wait_if_busy=False, json=selection, timeout=timeout) as response,
        connection_limit(response, backoff.remaining()),
    ):
        for line in split_lines(response.iter_bytes()):
            backoff.reset()
            if line.strip():
                document = parse_json(line)
                yield UnknownJob(document["_id"]) if document.get("unknown") else Change.model_validate(document)
            else:
                on_silence()


def output(transport: Transport, id: str, follow: bool, stream: str) -> Iterator[Frame]:
    """Yield a job's output, each byte once. `id`: as a part of a URL. See Client.logs."""
    received: Counter[int] = Counter()
    attempt: bytes | None = None
    backoff = Backoff(advice=JOBS_GO_ON)
    while True:
        # Each answer begins with the first byte of the present attempt's output, so the part that is known already is
        # left out.
        known = Counter(received)
        decoder = Decoder(attempts=follow)
        try:
            with transport.stream(
                "GET",
                f"job/{id}/logs",
                params={"follow": str(int(follow)), "stream": stream} | ({"attempts": "1"} if follow else {}),
                headers={"accept": MEDIA_TYPE},
                timeout=HEARTBEAT_TIMEOUT if follow else transport.timeout,
            ) as response:
                for chunk in response.iter_bytes():
                    backoff.reset()
                    for source, data in decoder.feed(chunk):
                        if source == ATTEMPT:
                            if data != attempt:
                                attempt = data
                                received.clear()
                                known.clear()
                            continue
                        repeated = min(known[source], len(data))
                        known[source] -= repeated
                        if fresh := data[repeated:]:
                            received[source] += len(fresh)
                            yield Frame(source, fresh)
            if decoder.complete:
                return
            raise transport.ended_early()
        except (ServerUnreachable, RequestFailed) as error:
            if not follow:
                raise
            backoff.pause(error)
        except ValueError as error:
            raise OrqalError("The server sent the job's output in a form that this client cannot read.") from error


def download(transport: Transport, path: str, to: Path) -> None:
    """Save the file at this path of the server as `to`, which appears when it is complete. See Client.download."""
    with replacing(to) as partial, partial.open("wb") as file:
        receive(transport, path, file)


def receive(
    transport: Transport,
    path: str,
    file: BinaryIO,
    *,
    etag: str | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the file at this path of the server into `file`, after the part that is there already.

    `etag`: that of the version of which `file` may hold a part. If the server has another version now, all of it is
    downloaded again. With `etag` a server that is away is waited for, also before anything has come. `on_bytes` is
    told how many bytes have come, and a negative number if they count no more.

    Raises:
        OrqalError: the file cannot be had. What has come of it stays.
    """
    backoff, begun = Backoff(), False
    headers = {"if-range": etag, "range": f"bytes={file.tell()}-"} if etag and file.tell() else {}
    while True:
        try:
            with transport.stream("GET", path, headers=headers) as response:
                if response.status_code != 206:  # the whole file, perhaps because it has changed
                    on_bytes(-file.tell())
                    file.seek(0)
                    file.truncate()
                begun = True
                headers = {"if-range": response.headers.get("etag", "")}
                for chunk in response.iter_bytes():
                    backoff.reset()
                    file.write(chunk)
                    on_bytes(len(chunk))
            return
        except (ServerUnreachable, RequestFailed) as error:
            if isinstance(error, RequestFailed) and error.status == 416:  # the part is the whole file
                return
            can_go_on = headers.get("if-range") if begun else etag and isinstance(error, ServerUnreachable)
            if not can_go_on:
                raise
            backoff.pause(error)
        if headers:
            headers["range"] = f"bytes={file.tell()}-"
