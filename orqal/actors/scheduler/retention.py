"""What goes: ended jobs, after their time or when somebody asks, and their directories on the hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from ray.exceptions import RayError

from orqal.actors.scheduler.job_writer import Journal
from orqal.models import Status, now
from orqal.settings import Settings
from orqal.store import Store

log = logging.getLogger("orqal.cleaning")

SLICE = 500
"""Jobs that are deleted in one transaction: others can write in between."""
LONGEST_PAUSE = 600.0
"""Seconds between looks for jobs that are over their time."""


class Cleaning:
    """Deletes ended jobs. Their directories are first written down as leftovers, in the transaction that deletes the
    jobs, and forgotten once the host has removed them: whoever dies in between, none is left for ever.

    `hosts` gives the names and actors of the hosts that are there.
    """

    def __init__(
        self, store: Store, journal: Journal, settings: Settings, hosts: Callable[[], Iterable[tuple[str, Any]]]
    ) -> None:
        self._store, self._journal, self._settings, self._hosts = store, journal, settings, hosts

    async def forever(self) -> None:
        """Delete jobs once they are over their time (ORQAL_JOB_TTL)."""
        ttl = self._settings.job_ttl
        while ttl > 0:
            try:
                if deleted := await self.delete(before=now() - timedelta(seconds=ttl)):
                    log.info("%d jobs are gone that ended more than %g s ago", deleted, ttl)
            except Exception:
                log.exception("cleaning old jobs failed")
            await asyncio.sleep(min(max(ttl / 100, 0.2), LONGEST_PAUSE))

    async def delete(self, before: datetime | None = None, status: Status | None = None) -> int:
        """Delete ended jobs and their directories: how many there were. See Store.delete_ended."""
        deleted = 0
        while part := await self._journal.apart(self._store.delete_ended, SLICE, before, status):
            deleted += len(part)
            for name, actor in self._hosts():
                await self.sweep(name, actor)
        return deleted

    async def sweep(self, name: str, actor: Any) -> None:
        """Have a host remove the directories of deleted jobs."""
        while left := await asyncio.to_thread(self._store.leftovers, name, SLICE):
            try:
                removed = await actor.remove_directories.remote(left)
            except RayError as error:
                log.warning("the directories of deleted jobs stay on %s for now: %s", name, error)
                return
            await self._journal.apart(self._store.forget_leftovers, name, removed)
            if len(removed) < len(left):
                log.warning("%d directories of deleted jobs cannot be removed on %s", len(left) - len(removed), name)
                return
