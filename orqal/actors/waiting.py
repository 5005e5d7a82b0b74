"""The jobs that wait for a host."""

from __future__ import annotations

import time
from collections.abc import Callable

from orqal.actors.apps import Apps
from orqal.actors.ledger import Ledger
from orqal.docker_engine import with_tag
from orqal.models import ErrorType, JobRecord, Shape
from orqal.scheduling import LineKey, Queue
from orqal.wrappers.catalog import App


class Waiting:
    """Puts jobs into the queue. `changed` is to be called when more of them may start."""

    def __init__(self, apps: Apps, ledger: Ledger, changed: Callable[[], None]) -> None:
        self.queue = Queue()
        self.changed = changed
        self._apps, self._ledger = apps, ledger

    async def put(self, record: JobRecord) -> None:
        """It waits from now on, or has ended, for its app has gone."""
        if not self.push(record):
            await self._ledger.finish(record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(record.app)))

    def push(self, record: JobRecord) -> bool:
        """It waits from now on; False: its app has gone."""
        app = self._apps.get(record.app)
        if app is None:
            return False
        self.queue.push(record.id, line(record, app), time.monotonic())
        self.changed()
        return True

    def put_back(self, job: str, key: LineKey) -> None:
        """One that had been taken is the first of all again."""
        self.queue.push_front(job, key, time.monotonic())
        self.changed()


def line(record: JobRecord, app: App | None) -> LineKey:
    """The line that a job waits in: what it asks for itself goes before what its app says."""
    if app is None:
        return LineKey(record.user, Shape(None, None))
    threads = app.info.threads if record.threads is None else record.threads
    ram_gb = app.info.memory_in_gb if record.memory_in_gb is None else record.memory_in_gb
    requires = frozenset((app.info.requires or {}).items())
    image = app.info.docker_url and with_tag(app.info.docker_url)
    return LineKey(record.user, Shape(threads, ram_gb, requires), image)
