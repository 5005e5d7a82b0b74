"""What the routes stand on: the store to read, the Scheduler and the HostActors to ask, and news of changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from orqal.actors.handles import HostClient, SchedulerClient
from orqal.actors.interfaces import ActorAway, HostApi, SchedulerApi
from orqal.actors.messages import Cursor, News, NoReader
from orqal.engine.errors import EngineError
from orqal.engine.output import NAMES
from orqal.engine.streams import STDERR, STDOUT, Frame, frames
from orqal.models import Change, HostInfo, JobRecord, Status
from orqal.serve_app.job_files import JobFile
from orqal.serve_app.schemas import Missed
from orqal.settings import Settings
from orqal.store import Store, first_sentence, open_store

log = logging.getLogger("orqal.backend")
T = TypeVar("T")

NEWS_WITHIN = 20.0
"""Seconds that the Scheduler may keep a question for news."""
HEARTBEAT = 10.0
"""Seconds after which a waiting client is shown that the connection lives."""
EVENTS_AHEAD = 10_000
"""Changes that are kept for a reader of events who is slow; beyond that they are dropped, and the reader is told."""
OVERVIEW_WITHIN = 10.0
"""Seconds in which a daemon tells of itself."""
DOING_WITHIN = 3.0
"""Seconds in which a host tells what it does with a job."""
SLICE = 1_000
"""Jobs that are looked up at once."""

STREAMS = {STDOUT: "stdout", STDERR: "stderr"}


class NotThere(Exception):
    """What was asked for does not exist; the message is for the user."""


class Away(Exception):
    """What was asked for is on a host, or in a store, that is not there now; the message is for the user."""


class Backend:
    """One per replica."""

    def __init__(self, store: Store, scheduler: SchedulerApi, find_host: Callable[[str], HostApi]) -> None:
        """`find_host`: the HostActor of a Ray node, by the node's id; it raises ValueError if there is none."""
        self.store = store
        self.scheduler = scheduler
        self._find_host = find_host
        self._watchers: dict[str, set[asyncio.Queue[Change | None]]] = {}
        self._listeners: set[asyncio.Queue[Change | None]] = set()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    def of_cluster(cls) -> Backend:
        """The backend of the Ray cluster that this process is part of."""
        return cls(open_store(Settings(), read_only=True), SchedulerClient.find(), HostClient.find)

    def close(self) -> None:
        """The replica goes."""
        self._listening.cancel()
        self.store.close()

    async def counts(self) -> dict[str, int]:
        """Jobs per state; `todo` is always there."""
        counts = await self.read(self.store.counts)
        return {"todo": 0} | {status.value: count for status, count in counts.items()}

    async def read(self, call: Callable[..., T], *args: Any) -> T:
        """Call the store, in a thread. Away: it cannot be read now."""
        try:
            return await asyncio.to_thread(call, *args)
        except self.store.failures as error:
            log.warning("the store cannot be read: %s", error)
            what = f"the store of jobs cannot be read now ({first_sentence(error)})"
            raise Away(f"{what}; jobs that run go on. Try again in a few seconds") from error

    async def job(self, job_id: str) -> JobRecord:
        """One job. NotThere: no such id."""
        record = await self.read(self.store.get, job_id)
        if record is None:
            raise NotThere(f"there is no job {job_id}")
        return record

    # Waiting

    async def ended(self, job_ids: Sequence[str]) -> AsyncGenerator[Change | str | None, None]:
        """The jobs as they end, those that have already first. None: nothing for a while. A str: that id is unknown."""
        pending = dict.fromkeys(job_ids)
        with self._watch(pending) as news:
            async for found in self._ended_already(pending):
                yield found
            while pending:
                try:
                    change = await asyncio.wait_for(news.get(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if change is None:  # something was missed
                    async for found in self._ended_already(pending):
                        yield found
                elif change.current_status.final and change.id in pending:
                    del pending[change.id]
                    yield change

    async def events(self) -> AsyncGenerator[Change | Missed | None, None]:
        """All changes from now on. None: nothing for a while. Missed: by a reader who is too slow, or because the
        Scheduler was restarted."""
        queue: asyncio.Queue[Change | None] = asyncio.Queue(EVENTS_AHEAD)
        self._listeners.add(queue)
        try:
            while True:
                try:
                    yield await asyncio.wait_for(queue.get(), HEARTBEAT) or Missed()
                except asyncio.TimeoutError:
                    yield None
        finally:
            self._listeners.discard(queue)

    async def _ended_already(self, pending: dict[str, None]) -> AsyncIterator[Change | str]:
        for part in _slices(list(pending)):
            records = await self.read(self.store.get_many, part)
            for job_id in part:
                record = records.get(job_id)
                if record is None:
                    pending.pop(job_id, None)
                    yield job_id
                elif record.current_status.final and job_id in pending:
                    del pending[job_id]
                    yield Change.of(record)

    @contextlib.contextmanager
    def _watch(self, job_ids: Iterable[str]) -> Iterator[asyncio.Queue[Change | None]]:
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        watched = list(job_ids)
        for job_id in watched:
            self._watchers.setdefault(job_id, set()).add(queue)
        try:
            yield queue
        finally:
            for job_id in watched:
                watchers = self._watchers[job_id]
                watchers.discard(queue)
                if not watchers:
                    del self._watchers[job_id]

    async def _listen(self) -> None:
        """One question at a time to the Scheduler, for all who wait here."""
        cursor: Cursor | None = None
        while True:
            try:
                news: News = await self.scheduler.changes(cursor, NEWS_WITHIN)
            except ActorAway as error:
                log.warning("no news from the Scheduler: %s", error)
                cursor = None
                await asyncio.sleep(0.5)
                continue
            cursor = news.cursor
            if not news.complete:
                for queue in {queue for watchers in self._watchers.values() for queue in watchers}:
                    queue.put_nowait(None)
                for listener in self._listeners:
                    _tell(listener, None)
            for change in news.changes:
                for listener in self._listeners:
                    _tell(listener, change)
                for queue in self._watchers.get(change.id, ()):
                    queue.put_nowait(change)

    # Output and files, wherever their host is

    async def output(self, job_id: str, streams: frozenset[int], follow: bool) -> AsyncGenerator[Frame, None]:
        """A job's output so far and, to `follow`, until its end: of an attempt that is repeated, too."""
        with self._watch([job_id]) as news:
            record = await self.job(job_id)
            sent = dict.fromkeys(STREAMS, 0)
            attempt = record.attempt
            while True:
                if record.current_status in (Status.INIT, Status.RUNNING):
                    # From its beginning: it may be opened a second time, before the end is known.
                    known = dict(sent)
                    lost = False
                    async with aclosing(self._live(record, streams, follow)) as live:
                        try:
                            async for frame in live:
                                fresh = frame.data[known[frame.stream] :]
                                known[frame.stream] -= len(frame.data) - len(fresh)
                                sent[frame.stream] += len(fresh)
                                if fresh:
                                    yield Frame(frame.stream, fresh)
                        except NoReader:
                            lost = True
                    record = await self.job(job_id)
                    if lost:
                        continue
                if record.attempt != attempt:
                    sent, attempt = dict.fromkeys(STREAMS, 0), record.attempt
                if record.current_status.final:
                    for stream in sorted(streams):
                        async for data in self._stored(record, stream, sent[stream]):
                            yield Frame(stream, data)
                    return
                if not follow:
                    return
                await news.get()
                record = await self.job(job_id)

    async def _live(self, record: JobRecord, streams: frozenset[int], follow: bool) -> AsyncGenerator[Frame, None]:
        """From the container, through its host; nothing if that is over. NoReader: it broke off, for nobody has read
        for long."""
        try:
            host = await self._host(record)
            handle = await host.open_logs(record.id, record.attempt, STDOUT in streams, STDERR in streams, follow)
            if handle is None:
                return
            try:
                while (piece := await host.read_logs(handle)) is not None:
                    for frame in frames([piece]):
                        yield frame
            finally:
                await host.close_logs(handle)
        except (NotThere, ActorAway, ValueError):
            return

    async def _stored(self, record: JobRecord, stream: int, start: int) -> AsyncIterator[bytes]:
        """From byte `start` on, of an output that is complete. Away: it is a file, and its host is away."""
        if STREAMS[stream] in record.truncated:
            with contextlib.suppress(NotThere):
                file = await self.file(record, NAMES[stream])
                async for piece in file.pieces(start, file.size):
                    yield piece
            return
        output = await self.read(self.store.output, record.id)
        data = (output.stdout if stream == STDOUT else output.stderr).encode()[start:]
        if data:
            yield data

    async def file(self, record: JobRecord, name: str) -> JobFile:
        """A file of a job's directory: from the job's host or, while that is away, from one that sees the same
        directory. NotThere: no such file. Away: the host is away, and no other has the file."""
        hosts = await self.scheduler.hosts()
        own = [host for host in hosts if host.name == record.host]
        for info in own or hosts:
            with contextlib.suppress(ActorAway, ValueError):  # it goes away at this moment
                host = await self.actor(info) if own else self._find_host(info.node_id)
                if file := await JobFile.found(host, record.id, name):
                    return file
                if own:
                    raise NotThere(f"the job {record.id} has no file {name!r}")
        if record.host is None:
            raise NotThere(f"the job {record.id} has no file {name!r}: no host has run it")
        raise Away(
            f"the host {record.host} is away, and the files of the job {record.id} are there: they can be had again "
            "when it is back (`orqal hosts`)"
        )

    async def doing(self, record: JobRecord) -> str | None:
        """What the host of a job does before its container runs, in words; None: that is over, or it does not tell."""
        if record.current_status is not Status.INIT:
            return None
        try:
            host = await self._host(record)
            return await asyncio.wait_for(host.doing(record.id, record.attempt), DOING_WITHIN)
        except (NotThere, ActorAway, ValueError, asyncio.TimeoutError):
            return None

    async def overview(self, host: HostInfo) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a host's daemon says of itself, and of Orqal's running containers; empty while it does not answer."""
        try:
            actor = await self.actor(host)
            return await asyncio.wait_for(actor.overview(), OVERVIEW_WITHIN)
        except (ActorAway, EngineError, ValueError, asyncio.TimeoutError) as error:
            log.warning("%s does not tell of itself: %s", host.name, error)
            return {}, []

    async def clean_directories(self) -> AsyncIterator[str]:
        """Remove the directories on all hosts whose jobs are gone: their names, as they go."""
        for info in await self.scheduler.hosts():
            host = await self.actor(info)
            for part in _slices(await host.directories()):
                there = await self.read(self.store.get_many, part)
                for name in await host.remove_directories([name for name in part if name not in there]):
                    yield name

    async def _host(self, record: JobRecord) -> HostApi:
        host = await self.scheduler.host(record.host) if record.host else None
        if host is None:
            raise NotThere(f"the host of the job {record.id} is not there: {record.host}")
        return await self.actor(host)

    async def actor(self, host: HostInfo) -> HostApi:
        """The HostActor of a host, woken if it sleeps. ValueError: the host has just gone."""
        try:
            return self._find_host(host.node_id)
        except ValueError:
            await self.scheduler.wake(host.name)
            return self._find_host(host.node_id)


def _tell(listener: asyncio.Queue[Change | None], change: Change | None) -> None:
    """None: something was missed."""
    if listener.full():
        while not listener.empty():
            listener.get_nowait()
        listener.put_nowait(None)
    listener.put_nowait(change)


def _slices(job_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(job_ids), SLICE):
        yield job_ids[start : start + SLICE]
