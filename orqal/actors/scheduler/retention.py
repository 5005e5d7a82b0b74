"""Deletes ended jobs, after their time or on request, and their directories on the hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from orqal.actors.directories import removed_directories
from orqal.actors.interfaces import ActorAway, HostApi
from orqal.actors.scheduler.hosts import Hosts
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.clock import Clock
from orqal.models import Status
from orqal.settings import Settings
from orqal.store import Store

log = logging.getLogger("orqal.retention")

DELETED_AT_ONCE = 500
"""Jobs that are deleted in one transaction: others can write in between."""
LONGEST_PAUSE = 600.0
"""Seconds between two looks for jobs whose time is over."""
STUCK_PAUSE = 3_600.0
"""Seconds before a directory that could not be removed is tried again. It may be one of very many."""


class Retention:
    """Deletes ended jobs and their directories.

    The transaction that deletes jobs notes their directories as left over; a note goes when the host has removed the
    directory. So no directory is left for ever, whatever crashes in between.
    """

    def __init__(self, store: Store, writer: JobWriter, settings: Settings, hosts: Hosts, clock: Clock) -> None:
        self._store, self._writer, self._settings = store, writer, settings
        self._hosts, self._clock = hosts, clock
        self._aside: dict[str, dict[str, float]] = {}
        """Directories that a host could not remove: host -> job -> when to try again, in monotonic seconds."""

    async def forever(self) -> None:
        """Delete jobs once their time is over (ORQAL_JOB_TTL), and directories that could not be removed before."""
        ttl = self._settings.job_ttl
        while True:
            try:
                if ttl > 0 and (deleted := await self.delete(before=self._clock.now() - timedelta(seconds=ttl))):
                    log.info("deleted %d jobs that ended more than %g s ago", deleted, ttl)
                for host in self._hosts.awake():
                    await self.sweep(host.name, host.api)
            except Exception as error:
                log.error("deleting old jobs failed (%s: %s); trying again later", type(error).__name__, error)
            await asyncio.sleep(min(max(ttl / 100, 0.2), LONGEST_PAUSE) if ttl > 0 else LONGEST_PAUSE)

    async def delete(self, before: datetime | None = None, status: Status | None = None) -> int:
        """Delete ended jobs and their directories, and return how many. See Store.delete_ended."""
        deleted = 0
        while part := await self._writer.apart(self._store.delete_ended, DELETED_AT_ONCE, before, status):
            deleted += len(part)
            for host in self._hosts.awake():
                await self.sweep(host.name, host.api)
        return deleted

    async def sweep(self, name: str, host: HostApi) -> None:
        """Have a host remove the directories of deleted jobs, but not those that it could not remove lately."""
        while left := await self._due(name):
            unfinished = set(left)
            try:
                async for removed in removed_directories(host, left):
                    await self._writer.apart(self._store.forget_leftovers, name, removed.gone)
                    self._set_aside(name, removed.stuck, STUCK_PAUSE)
                    unfinished -= {*removed.gone, *removed.stuck}
            except ActorAway as error:
                log.warning("the directories of deleted jobs stay on %s for now: %s", name, error)
                return
            self._set_aside(name, unfinished, LONGEST_PAUSE)

    def _set_aside(self, host: str, jobs: Iterable[str], seconds: float) -> None:
        again = self._clock.monotonic() + seconds
        self._aside.setdefault(host, {}).update(dict.fromkeys(jobs, again))

    async def _due(self, host: str) -> list[str]:
        """Deleted jobs whose directories may be on a host and are not set aside."""
        moment, aside = self._clock.monotonic(), self._aside.get(host, {})
        for job in [job for job, again in aside.items() if again <= moment]:
            del aside[job]
        known = await asyncio.to_thread(self._store.leftovers, host, DELETED_AT_ONCE + len(aside))
        return [job for job in known if job not in aside][:DELETED_AT_ONCE]
