"""News of jobs' changes. A replica asks the Scheduler once for all the clients that wait for changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager

from orqal.actors.interfaces import ActorAway, SchedulerApi
from orqal.actors.messages import Cursor, News
from orqal.models import Change
from orqal.serve_app.schemas import Missed

log = logging.getLogger("orqal.api")

NEWS_TIMEOUT = 20.0
"""Seconds that the Scheduler waits for a change before it answers that there is none."""
RETRY_AFTER = 0.5
"""Seconds before the Scheduler is asked again after it did not answer."""
CHANGES_AHEAD = 10_000
"""Changes that are kept for a slow listener. If there are more, they are dropped, and `Missed` takes their place."""

Queue = asyncio.Queue["Change | None"]
"""Changes on their way to a reader. None: some may have been missed here."""


class NewsFeed:
    """Passes changes on to all readers on this replica."""

    def __init__(self, scheduler: SchedulerApi) -> None:
        self._scheduler = scheduler
        self._watchers: dict[str, set[Queue]] = {}
        self._listeners: set[Queue] = set()
        self._asking = asyncio.create_task(self._ask_forever())

    def close(self) -> None:
        """Stop asking the Scheduler."""
        self._asking.cancel()

    @contextmanager
    def watch(self, job_ids: Iterable[str]) -> Iterator[Queue]:
        """The changes of these jobs while the block runs. None in the queue means: read the jobs themselves, because
        changes may be missing."""
        queue: Queue = asyncio.Queue()
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

    @contextmanager
    def listen(self) -> Iterator[AsyncGenerator[list[Change | Missed], None]]:
        """The changes of all jobs while the block runs, as they come.

        `Missed` stands where some are missing, because they were read too slowly or the Scheduler was restarted.
        """
        queue: Queue = asyncio.Queue(CHANGES_AHEAD)
        self._listeners.add(queue)
        try:
            yield _as_they_come(queue)
        finally:
            self._listeners.discard(queue)

    async def _ask_forever(self) -> None:
        cursor: Cursor | None = None
        while True:
            try:
                news = await self._scheduler.changes(cursor, NEWS_TIMEOUT)
                cursor = news.cursor
                self._pass_on(news)
                continue
            except ActorAway as error:
                log.warning("no news from the Scheduler: %s", error)
            except Exception:
                log.exception("no news from the Scheduler")
            cursor = None
            await asyncio.sleep(RETRY_AFTER)

    def _pass_on(self, news: News) -> None:
        if not news.complete:
            for queue in {queue for watchers in self._watchers.values() for queue in watchers}:
                queue.put_nowait(None)
            for listener in self._listeners:
                _put(listener, None)
        for change in news.changes:
            for listener in self._listeners:
                _put(listener, change)
            for queue in self._watchers.get(change.id, ()):
                queue.put_nowait(change)


def _put(listener: Queue, change: Change | None) -> None:
    if listener.full():
        drain(listener)
        listener.put_nowait(None)
    listener.put_nowait(change)


async def _as_they_come(queue: Queue) -> AsyncGenerator[list[Change | Missed], None]:
    while True:
        yield [change or Missed() for change in [await queue.get(), *drain(queue)]]


def drain(queue: Queue) -> list[Change | None]:
    """Take everything that is in a queue now."""
    return [queue.get_nowait() for _ in range(queue.qsize())]
