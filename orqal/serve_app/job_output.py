"""A job's output, wherever it is: in the container on its host, in the store, or in a file on its host."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import NoReader
from orqal.engine.output import NAMES
from orqal.logstream import ATTEMPT, STDERR, STDOUT, Decoder, Frame
from orqal.models import JobRecord, Status
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.errors import NotFound
from orqal.serve_app.job_files import find_file
from orqal.serve_app.news import NewsFeed

STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


async def job_output(
    cluster: ClusterAccess,
    news: NewsFeed,
    job_id: str,
    streams: frozenset[int],
    follow: bool,
    attempts: bool = False,
) -> AsyncGenerator[list[Frame], None]:
    """A job's output so far, in parts as they come. With `follow`, until the job ends, through all further attempts.
    With `attempts`, a frame ATTEMPT comes before the output of each.

    Raises:
        NotFound: there is no job with this id.
        Unavailable: the output is a file on a host that is away, or the store cannot be read now.
    """
    with news.watch([job_id]) as changes:
        job = await cluster.job(job_id)
        sent: _Sent | None = None
        while True:
            if sent is None or job.attempt != sent.attempt:
                sent = _Sent(job.attempt)
                if attempts:
                    yield [Frame(ATTEMPT, bytes([job.attempt % 256]))]
            if job.current_status.final:
                for stream in sorted(streams):
                    async for data in _stored(cluster, job, stream, start=sent.bytes[stream]):
                        yield [Frame(stream, data)]
                return
            if job.current_status in (Status.INIT, Status.RUNNING):
                broke_off = False
                sent.begin_again()
                async with aclosing(_live(cluster, job, streams, follow)) as live:
                    try:
                        async for frames in live:
                            if fresh := sent.fresh(frames):
                                yield fresh
                    except NoReader:
                        broke_off = True
                job = await cluster.job(job_id)
                if broke_off or job.current_status.final:
                    continue
            if not follow:
                return
            await changes.get()
            job = await cluster.job(job_id)


class _Sent:
    """How much of an attempt's output the client has. A container's output is always read from its start."""

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.bytes = dict.fromkeys(STREAM_NAMES, 0)
        self._skip = dict(self.bytes)

    def begin_again(self) -> None:
        """Note that the output is read from its start once more."""
        self._skip = dict(self.bytes)

    def fresh(self, frames: Iterable[Frame]) -> list[Frame]:
        """The parts of these frames that the client does not have yet. They count as sent from now on."""
        found = []
        for stream, data in frames:
            known = min(self._skip[stream], len(data))
            self._skip[stream] -= known
            if fresh := data[known:]:
                self.bytes[stream] += len(fresh)
                found.append(Frame(stream, fresh))
        return found


async def _live(
    cluster: ClusterAccess, job: JobRecord, streams: frozenset[int], follow: bool
) -> AsyncGenerator[list[Frame], None]:
    """The output of a job's container, from its host; nothing if the container is gone.

    Raises:
        NoReader: the host closed the output, because nothing was read from it for long.
    """
    with suppress(ActorAway):
        host = await cluster.host_of(job)
        reader = await host.open_logs(job.id, job.attempt, STDOUT in streams, STDERR in streams, follow)
        if reader is None:
            return
        decoder = Decoder()
        try:
            while (piece := await host.read_logs(reader)) is not None:
                yield list(decoder.feed(piece))
        finally:
            await host.close_logs(reader)


async def _stored(cluster: ClusterAccess, job: JobRecord, stream: int, start: int) -> AsyncGenerator[bytes, None]:
    """The output of a job that has ended, from byte `start` on."""
    if STREAM_NAMES[stream] in job.truncated:
        with suppress(NotFound):  # the file may have been removed
            file = await find_file(cluster, job, NAMES[stream])
            async for piece in file.pieces(start, file.size):
                yield piece
        return
    output = await cluster.read(cluster.store.output, job.id)
    data = (output.stdout if stream == STDOUT else output.stderr).encode()[start:]
    if data:
        yield data
