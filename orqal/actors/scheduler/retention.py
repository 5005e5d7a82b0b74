"""Deletes ended jobs, after their time or on request, and their directories on the hosts."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from orqal.actors.interfaces import ActorAway, HostApi
from orqal.actors.scheduler.hosts import Hosts
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.actors.scheduler.keeping_clock import KeepingClock
from orqal.models import Status
from orqal.settings import Settings
from orqal.store import Store

log = logging.getLogger("orqal.retention")

DELETED_AT_ONCE = 500
"""Jobs that are deleted in one transaction: others can write in between."""
LONGEST_PAUSE = 600.0
"""Seconds between two looks for jobs whose time is over."""


class Retention:
    """Deletes ended jobs and their directories.

    The transaction that deletes jobs notes their directories as left over; a note goes when the host has removed the
    directory. So no directory is left for ever, whatever crashes in between.
    """

    def __init__(self, store: Store, writer: JobWriter, settings: Settings, hosts: Hosts, clock: KeepingClock) -> None:
        self._store, self._writer, self._settings = store, writer, settings
        self._hosts, self._clock = hosts, clock
        self._times_are_right = False

    async def forever(self) -> None:
        """Delete jobs once their time is over (ORQAL_JOB_TTL), and directories that could not be removed before."""
        ttl = self._settings.job_ttl
        while True:
            try:
                await self._correct_times()
                if ttl > 0 and (deleted := await self._delete_expired(timedelta(seconds=ttl))):
                    log.info("deleted %d jobs that have been kept for more than %g s", deleted, ttl)
                await self._sweep_all()
            except Exception as error:
                log.error("deleting old jobs failed (%s: %s); trying again later", type(error).__name__, error)
            await asyncio.sleep(min(max(ttl / 100, 0.2), LONGEST_PAUSE) if ttl > 0 else LONGEST_PAUSE)

    async def confirm_clock(self) -> int:
        """Follow the head's clock whatever it shows, delete the jobs whose time is over by it, and return how many."""
        self._clock.confirm()
        ttl = self._settings.job_ttl
        return await self._delete_expired(timedelta(seconds=ttl)) if ttl > 0 else 0

    async def _correct_times(self) -> None:
        """Note the time; and once the head's clock can be trusted (again), correct what it was wrong about before."""
        now = self._clock.now()
        await asyncio.to_thread(self._clock.keep)
        if self._clock.refused:
            self._times_are_right = False
        elif not self._times_are_right:
            await self._writer.apart(self._store.correct_times, now)
            self._times_are_right = True

    async def delete(self, status: Status | None = None) -> int:
        """Delete ended jobs and their directories, and return how many. See Store.delete_ended."""
        deleted = 0
        while part := await self._writer.apart(self._store.delete_ended, DELETED_AT_ONCE, status):
            deleted += len(part)
            await self._sweep_all()
        return deleted

    async def _delete_expired(self, ttl: timedelta) -> int:
        """Delete the jobs whose time is over and their directories, and return how many. See Store.delete_expired."""
        now, deleted, more = self._clock.now(), 0, True
        while more:
            part, more = await self._writer.apart(self._store.delete_expired, DELETED_AT_ONCE, now, ttl)
            deleted += len(part)
            if part:
                await self._sweep_all()
        return deleted

    async def _sweep_all(self) -> None:
        """Have all hosts that answer remove the directories of deleted jobs."""
        for host in self._hosts.awake():
            await self.sweep(host.name, host.api)

    async def sweep(self, name: str, host: HostApi) -> None:
        """Have a host remove the directories of deleted jobs."""
        while left := await asyncio.to_thread(self._store.leftovers, name, DELETED_AT_ONCE):
            try:
                removed = await host.remove_directories(left)
            except ActorAway as error:
                log.warning("the directories of deleted jobs stay on %s for now: %s", name, error)
                return
            await self._writer.apart(self._store.forget_leftovers, name, removed)
            if len(removed) < len(left):
                log.warning("%d directories of deleted jobs cannot be removed on %s", len(left) - len(removed), name)
                return
