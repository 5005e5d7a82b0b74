"""What the routes work with: the store to read, the Scheduler to ask, and the hosts' actors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from orqal.actors.handles import HostClient, SchedulerClient
from orqal.actors.interfaces import ActorAway, HostApi, SchedulerApi
from orqal.engine.errors import EngineError
from orqal.models import BatchForecast, BatchPolicy, HostInfo, JobRecord, Status
from orqal.serve_app.errors import NotFound, Unavailable
from orqal.settings import Settings
from orqal.store import Store, first_sentence, open_store

log = logging.getLogger("orqal.api")
T = TypeVar("T")

JOBS_AT_ONCE = 1_000
"""The most jobs in one query of the store, or in one call of the Scheduler."""
OVERVIEW_TIMEOUT = 10.0
"""Seconds that a host's Docker daemon may take to describe itself."""
DOING_TIMEOUT = 3.0
"""Seconds that a host may take to say what it is doing for a job."""
POLICIES_TIMEOUT = 5.0
"""Seconds that the Scheduler may take to say what was decided about batches."""


class ClusterAccess:
    """A replica's access to everything outside it. Each replica has one."""

    def __init__(self, store: Store, scheduler: SchedulerApi, find_host: Callable[[str], HostApi]) -> None:
        """`find_host` returns the HostActor of a Ray node by the node's id, and raises ValueError if there is none."""
        self.store = store
        self.scheduler = scheduler
        self.find_host = find_host

    @classmethod
    def of_this_cluster(cls) -> ClusterAccess:
        """Access to the Ray cluster that this process is part of.

        Raises:
            StoreError: the store cannot be used.
            ValueError: no Scheduler runs in this Ray cluster.
        """
        return cls(open_store(Settings(), read_only=True), SchedulerClient.find(), HostClient.find)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # The store

    async def read(self, call: Callable[..., T], *args: Any) -> T:
        """Call a method of the store, in a thread.

        Raises:
            Unavailable: the store cannot be read now.
        """
        try:
            return await asyncio.to_thread(call, *args)
        except self.store.failures as error:
            log.warning("the store cannot be read: %s", error)
            raise Unavailable(
                f"the store of jobs cannot be read now ({first_sentence(error)}); running jobs go on. "
                "Try again in a few seconds"
            ) from error

    async def job(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            NotFound: there is no job with this id.
        """
        record = await self.read(self.store.get, job_id)
        if record is None and job_id in self.store.unreadable:
            raise NotFound(f"the record of the job {job_id} cannot be read by this version of Orqal; it is kept")
        if record is None:
            raise NotFound(f"there is no job {job_id}")
        return record

    async def check_batch(self, name: str) -> None:
        """Check that a batch has this name.

        Raises:
            NotFound: there is none.
        """
        if await self.read(lambda: next(self.store.batch_ids(name), None)) is None:
            raise NotFound(f"there is no batch {name!r}")

    async def batch_ids(self, name: str) -> AsyncGenerator[list[str], None]:
        """The ids of a batch's jobs, in the order of submission, in lists of at most JOBS_AT_ONCE.

        Raises:
            NotFound: there is no batch of this name.
        """
        await self.check_batch(name)
        ids = await self.read(self.store.batch_ids, name)
        while part := await self.read(lambda: list(islice(ids, JOBS_AT_ONCE))):
            yield part

    async def counts(self) -> dict[str, int]:
        """The number of jobs in each state; `todo` is always present."""
        counts = await self.read(self.store.counts)
        return {"todo": 0} | {status.value: count for status, count in counts.items()}

    async def policies(self) -> Mapping[str, BatchPolicy]:
        """What was decided about batches; nothing if the Scheduler does not say so in time. Their progress, which the
        store has, is shown all the same."""
        return await _unless_away(self.scheduler.batch_policies())

    async def forecasts(self) -> Mapping[str, BatchForecast]:
        """When batches will have ended, as far as that can be foretold; nothing if the Scheduler does not answer."""
        return await _unless_away(self.scheduler.batch_forecasts())

    # The hosts

    async def host_actor(self, host: HostInfo) -> HostApi:
        """The HostActor of a host. It is started if it is not running.

        Raises:
            ActorAway: the host has just left the cluster.
        """
        try:
            return self.find_host(host.node_id)
        except ValueError:
            await self.scheduler.wake(host.name)
        try:
            return self.find_host(host.node_id)
        except ValueError as error:
            raise ActorAway(f"the host {host.name} has left the cluster") from error

    async def host_of(self, job: JobRecord) -> HostApi:
        """The HostActor of the host that a job is on.

        Raises:
            ActorAway: the job is on no host, or its host has left the cluster.
        """
        host = await self.scheduler.host(job.host) if job.host else None
        if host is None:
            raise ActorAway(f"the job {job.id} is on no host of the cluster")
        return await self.host_actor(host)

    async def doing(self, job: JobRecord) -> str | None:
        """What a job's host is doing before the job's container runs, in words; None if that is over or unknown."""
        if job.current_status is not Status.INIT:
            return None
        try:
            host = await self.host_of(job)
            return await asyncio.wait_for(host.doing(job.id, job.attempt), DOING_TIMEOUT)
        except (ActorAway, asyncio.TimeoutError):
            return None

    async def overview(self, host: HostInfo) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """`docker info` of a host, and `docker inspect` of Orqal's running containers; empty if it does not answer."""
        try:
            actor = await self.host_actor(host)
            return await asyncio.wait_for(actor.overview(), OVERVIEW_TIMEOUT)
        except (ActorAway, EngineError, asyncio.TimeoutError) as error:
            log.warning("the Docker daemon of %s does not describe itself: %s", host.name, error)
            return {}, []


async def _unless_away(answer: Awaitable[Mapping[str, T]]) -> Mapping[str, T]:
    try:
        return await asyncio.wait_for(answer, POLICIES_TIMEOUT)
    except (ActorAway, asyncio.TimeoutError):
        return {}


def slices(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The same ids in lists of at most JOBS_AT_ONCE."""
    for start in range(0, len(job_ids), JOBS_AT_ONCE):
        yield job_ids[start : start + JOBS_AT_ONCE]
