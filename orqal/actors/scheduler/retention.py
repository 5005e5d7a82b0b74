"""Deletes ended jobs, after their time or on request, and their directories on the hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta

from orqal.actors.background import Background
from orqal.actors.directories import removed_directories
from orqal.actors.interfaces import ActorAway, HostApi
from orqal.actors.scheduler.hosts import Hosts
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.actors.scheduler.keeping_clock import KeepingClock
from orqal.clock import Clock
from orqal.models import Status
from orqal.settings import Settings
from orqal.store import Needed, Store

log = logging.getLogger("orqal.retention")

DELETED_AT_ONCE = 500
"""Jobs that are deleted in one transaction: others can write in between."""
LONGEST_PAUSE = 600.0
"""Seconds between two looks for jobs whose time is over."""
SILENT_AFTER = 30.0
"""Seconds without an answer after which nobody waits for a host that removes directories. It answers every 10 s."""
STUCK_PAUSE = 3_600.0
"""Seconds before a directory that could not be removed is tried again. It may be one of very many."""


class Retention:
    """Deletes ended jobs and their directories.

    The transaction that deletes jobs notes their directories as left over; a note goes when the host has removed the
    directory. So no directory is left for ever, whatever crashes in between.
    """

    def __init__(
        self,
        store: Store,
        writer: JobWriter,
        settings: Settings,
        hosts: Hosts,
        clock: Clock,
        keeping: KeepingClock,
        background: Background,
        needed: Needed,
    ) -> None:
        """`keeping`: the time by which jobs are kept. `background` sweeps the hosts, each by itself, so that one that
        hangs keeps no other waiting. `needed`: the jobs and batches that stay, because others wait after them."""
        self._store, self._writer, self._settings = store, writer, settings
        self._hosts, self._clock, self._keeping, self._background = hosts, clock, keeping, background
        self._needed = needed
        self._sweeps: dict[str, asyncio.Task[None]] = {}
        """The last sweep of each host. It may still be under way."""
        self._wanted: set[str] = set()
        """The hosts to sweep once more when the sweep that is under way ends."""
        self._answered: dict[str, float] = {}
        """When each host last answered, in monotonic seconds."""
        self._aside: dict[str, dict[str, float]] = {}
        """Directories that a host could not remove: host -> job -> when to try again, in monotonic seconds."""

    async def forever(self) -> None:
        """Delete jobs once their time is over (ORQAL_JOB_TTL), and directories that could not be removed before."""
        ttl = self._settings.job_ttl
        while True:
            await asyncio.to_thread(self._keeping.keep)
            try:
                if ttl > 0 and (deleted := await self._delete_expired(timedelta(seconds=ttl))):
                    log.info("deleted %d jobs that have been kept for more than %g s", deleted, ttl)
                await self._correct_times()  # on a full disk there may be room for that now
            except Exception as error:
                log.error("deleting old jobs failed (%s: %s); trying again later", type(error).__name__, error)
            self._sweep_all()
            await asyncio.sleep(min(max(ttl / 100, 0.2), LONGEST_PAUSE) if ttl > 0 else LONGEST_PAUSE)

    async def confirm_clock(self) -> int:
        """Follow the head's clock whatever it shows, delete the jobs whose time is over by it, and return how many."""
        self._keeping.confirm()
        ttl = self._settings.job_ttl
        deleted = await self._delete_expired(timedelta(seconds=ttl)) if ttl > 0 else 0
        await self._correct_times()
        return deleted

    async def _correct_times(self) -> None:
        """Once the head's clock can be trusted (again), correct what it was wrong about before."""
        now = self._keeping.now()
        if self._keeping.doubted and not self._keeping.refused:
            await self._writer.apart(self._store.correct_times, now)
            self._keeping.doubted = self._keeping.refused

    async def delete(self, status: Status | None = None) -> int:
        """Delete ended jobs and their directories, and return how many jobs. See Store.delete_ended.

        The directories on a host that is silent for SILENT_AFTER are removed later.
        """
        deleted = 0
        while part := await self._writer.apart(self._store.delete_ended, DELETED_AT_ONCE, status, self._needed):
            deleted += len(part)
            self._sweep_all()
        if deleted:
            await self._swept()
        return deleted

    async def _delete_expired(self, ttl: timedelta) -> int:
        """Delete the jobs whose time is over and their directories, and return how many. See Store.delete_expired."""
        now, deleted, more = self._keeping.now(), 0, True
        while more:
            part, more = await self._writer.apart(self._store.delete_expired, DELETED_AT_ONCE, now, ttl, self._needed)
            deleted += len(part)
            if part:
                self._sweep_all()
        if deleted:
            await self._swept()
        return deleted

    def sweep(self, name: str) -> None:
        """Begin to have a host remove the directories of deleted jobs, but not those that it could not remove lately.

        If that is under way, it begins once more at its end.
        """
        self._wanted.add(name)
        if (sweep := self._sweeps.get(name)) is None or sweep.done():
            self._answered[name] = self._clock.monotonic()
            self._sweeps[name] = self._background.spawn(self._sweep(name))

    def _sweep_all(self) -> None:
        for host in self._hosts.awake():
            self.sweep(host.name)

    async def _swept(self) -> None:
        """Return when no host that answers is being swept."""
        while True:
            moment = self._clock.monotonic()
            patience = {
                sweep: seconds
                for name, sweep in self._sweeps.items()
                if not sweep.done() and (seconds := self._answered[name] + SILENT_AFTER - moment) > 0
            }
            if not patience:
                return
            await asyncio.wait(patience, timeout=min(patience.values()), return_when=asyncio.FIRST_COMPLETED)

    async def _sweep(self, name: str) -> None:
        try:
            while name in self._wanted and (host := self._hosts.get(name)) is not None:
                self._wanted.discard(name)
                await self._sweep_once(name, host.api)
        except Exception as error:
            log.warning("directories of deleted jobs stay on %s for now (%s: %s)", name, type(error).__name__, error)

    async def _sweep_once(self, name: str, host: HostApi) -> None:
        while left := await self._due(name):
            unfinished = set(left)
            try:
                async for removed in removed_directories(host, left):
                    self._answered[name] = self._clock.monotonic()
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
