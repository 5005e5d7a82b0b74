"""Handles of the two actors in a Ray cluster: the only place where they are found and called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from orqal.actors.attempts import ANSWER_WITHIN, Attempts, Ended
from orqal.actors.batching import Batches
from orqal.actors.interfaces import ActorAway, HostApi, SchedulerApi
from orqal.actors.messages import (
    CleanTarget,
    Cursor,
    Document,
    Examined,
    HostReport,
    InHand,
    News,
    Order,
    Planned,
    Started,
    Taken,
    WhyWaiting,
)
from orqal.actors.metrics import Family
from orqal.engine.client import ContainerKey
from orqal.engine.file_listing import FilePage
from orqal.engine.job_directory import Piece, Removed
from orqal.models import (
    AppInfo,
    AppUsage,
    BatchForecast,
    BatchPolicy,
    HostInfo,
    JobRecord,
    JobSpec,
    Outcome,
    UserShare,
)
from orqal.scheduling.lifecycle import Wish
from orqal.wrappers.base import ParentJob

NAMESPACE = "orqal"
"""Ray's namespace of the actors' names."""
SCHEDULER = "scheduler"
LONGEST = 300.0
"""Seconds after which the answer of the Scheduler counts as lost: Ray may lose one when processes die. Asking again
does no harm."""
LATE = 30.0
"""The same for an answer that is due at a certain time: seconds after that time."""

RELEASE_WITHIN = 0.02
"""Seconds for which attempts that are to be released are collected."""

T = TypeVar("T")


def log_to_ray() -> None:
    """Write this process's log to its file among Ray's logs, which `ray logs` and the page /logs show."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def host_actor_name(node_id: str) -> str:
    """The name of the HostActor of a Ray node."""
    return f"host {node_id}"


async def answer(reference: Awaitable[T], within: float | None = None) -> T:
    """The value of a Ray reference. `within`: seconds to wait for it.

    Raises:
        ActorAway: the actor does not answer, or not in time.
        Exception: what the called method raised.
    """
    try:
        return await asyncio.wait_for(_awaited(reference), within)
    except asyncio.TimeoutError:
        raise ActorAway(f"no answer within {within:g} s") from None
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except RayError as error:
        raise ActorAway(str(error).strip().partition("\n")[0] or type(error).__name__) from error


async def _awaited(reference: Awaitable[T]) -> T:
    return await reference


@dataclass(frozen=True)
class ReadParents:
    """Reads the parents of a job in the process of its wrapper, which waits meanwhile."""

    after: tuple[str, ...]

    @classmethod
    def of(cls, job: JobRecord) -> ReadParents:
        """What reads the parents of this job."""
        return cls(tuple(job.after))

    def ids(self) -> Sequence[str]:
        """See ParentReader."""
        return list(ray.get(self._scheduler().parent_ids.remote(self.after))) if self.after else []

    def read(self, ids: Sequence[str]) -> Sequence[ParentJob]:
        """See ParentReader."""
        return list(ray.get(self._scheduler().parents.remote(list(ids))))

    def _scheduler(self) -> Any:
        return ray.get_actor(SCHEDULER, namespace=NAMESPACE)


class SchedulerClient(SchedulerApi):
    """The Scheduler of this Ray cluster."""

    def __init__(self, actor: Any) -> None:
        """`actor`: the handle that Ray gives."""
        self.actor = actor
        self._started: Batches[Started] = Batches(self._report_started)

    @classmethod
    def find(cls) -> SchedulerClient:
        """The Scheduler that runs.

        Raises:
            ValueError: none runs in this Ray cluster.
        """
        return cls(ray.get_actor(SCHEDULER, namespace=NAMESPACE))

    async def submit(
        self,
        specs: Sequence[JobSpec],
        *,
        key: str | None = None,
        first: int = 1,
        after: Document | None = None,
        replace_batch: str | None = None,
    ) -> list[Taken]:
        taken = self.actor.submit.remote(specs, key=key, first=first, after=after, replace_batch=replace_batch)
        return await answer(taken, LONGEST)

    async def plan(self, specs: Sequence[JobSpec]) -> list[Planned]:
        return await answer(self.actor.plan.remote(specs), LONGEST)

    async def retry(self, jobs: Sequence[str]) -> dict[str, str]:
        return await answer(self.actor.retry.remote(jobs), LONGEST)

    async def cancel(self, jobs: Sequence[str]) -> int:
        return await answer(self.actor.cancel.remote(jobs), LONGEST)

    async def unfinished(self) -> int:
        return await answer(self.actor.unfinished.remote(), LONGEST)

    async def cancel_some(self) -> int:
        return await answer(self.actor.cancel_some.remote(), LONGEST)

    async def clean(self, what: CleanTarget) -> int:
        return await answer(self.actor.clean.remote(what))

    async def why_waiting(self, job: str) -> WhyWaiting:
        return await answer(self.actor.why_waiting.remote(job), LONGEST)

    async def shares(self) -> list[UserShare]:
        return await answer(self.actor.shares.remote(), LONGEST)

    async def batch_forecasts(self) -> Mapping[str, BatchForecast]:
        return await answer(self.actor.batch_forecasts.remote(), LONGEST)

    async def batch_policies(self) -> Mapping[str, BatchPolicy]:
        return await answer(self.actor.batch_policies.remote(), LONGEST)

    async def change_batch(self, batch: str, changes: Mapping[str, bool | int | None]) -> BatchPolicy:
        return await answer(self.actor.change_batch.remote(batch, changes), LONGEST)

    async def parent_ids(self, after: Sequence[str]) -> list[str]:
        return await answer(self.actor.parent_ids.remote(after), LONGEST)

    async def parents(self, jobs: Sequence[str]) -> list[ParentJob]:
        return await answer(self.actor.parents.remote(jobs), LONGEST)

    async def job_of(self, container: str) -> str | None:
        return await answer(self.actor.job_of.remote(container), LONGEST)

    async def apps(self) -> list[AppInfo]:
        return await answer(self.actor.apps.remote(), LONGEST)

    async def usage(self, app: str) -> AppUsage | None:
        return await answer(self.actor.usage.remote(app), LONGEST)

    async def hosts(self) -> list[HostInfo]:
        return await answer(self.actor.hosts.remote(), LONGEST)

    async def host(self, name: str) -> HostInfo | None:
        return await answer(self.actor.host.remote(name), LONGEST)

    async def wake(self, name: str) -> None:
        return await answer(self.actor.wake.remote(name), LONGEST)

    async def drain(self, name: str, now: bool = False) -> HostInfo | None:
        return await answer(self.actor.drain.remote(name, now), LONGEST)

    async def dismiss(self, name: str, now: bool = False) -> HostInfo | None:
        return await answer(self.actor.dismiss.remote(name, now), LONGEST)

    async def undrain(self, name: str) -> HostInfo | None:
        return await answer(self.actor.undrain.remote(name), LONGEST)

    async def changes(self, cursor: Cursor | None, timeout: float) -> News:
        return await answer(self.actor.changes.remote(cursor, timeout), timeout + LATE)

    async def ready(self) -> bool:
        return await answer(self.actor.ready.remote(), LONGEST)

    async def in_hand(self) -> InHand:
        return await answer(self.actor.in_hand.remote(), LONGEST)

    async def metrics(self) -> list[Family]:
        return await answer(self.actor.metrics.remote(), LONGEST)

    async def repair(
        self, node_id: str | None, containers: Sequence[ContainerKey], leases: Sequence[str], apps: Sequence[str] = ()
    ) -> None:
        return await answer(self.actor.repair.remote(node_id, containers, leases, apps), LONGEST)

    async def bundle(self, digest: str) -> Mapping[str, bytes] | None:
        return await answer(self.actor.bundle.remote(digest), LONGEST)

    async def started(self, started: Started) -> None:
        await self._started.add(started)

    async def _report_started(self, started: Sequence[Started]) -> None:
        await answer(self.actor.started_many.remote(started))

    async def report(self, node_id: str, report: HostReport) -> None:
        return await answer(self.actor.report.remote(node_id, report))

    async def found(self, node_id: str, containers: Sequence[ContainerKey]) -> None:
        return await answer(self.actor.found.remote(node_id, containers))


class HostClient(HostApi):
    """The HostActor of a Ray node."""

    def __init__(self, actor: Any) -> None:
        """`actor`: the handle that Ray gives."""
        self.actor = actor
        self._attempts = Attempts(self)
        self._releases: Batches[ContainerKey] = Batches(self._release, linger=RELEASE_WITHIN)

    @classmethod
    def find(cls, node_id: str) -> HostClient:
        """The HostActor of a node.

        Raises:
            ValueError: the node has none.
        """
        return cls(ray.get_actor(host_actor_name(node_id), namespace=NAMESPACE))

    async def run(self, order: Order) -> Outcome:
        return await self._attempts.run(order)

    async def take(self, orders: Sequence[Order]) -> str:
        """See HostEnd."""
        return await answer(self.actor.take.remote(orders))

    async def outcomes(self, incarnation: str, had: Sequence[int]) -> list[Ended]:
        """See HostEnd."""
        return await answer(self.actor.outcomes.remote(incarnation, had), ANSWER_WITHIN)

    async def stop(self, job: str, attempt: int, wish: Wish) -> None:
        return await answer(self.actor.stop.remote(job, attempt, wish))

    async def release(self, job: str, attempt: int) -> None:
        await self._releases.add(ContainerKey(job, attempt))

    async def _release(self, keys: Sequence[ContainerKey]) -> None:
        await answer(self.actor.release_many.remote(keys))

    async def incarnation(self) -> str:
        return await answer(self.actor.incarnation.remote())

    async def report(self) -> HostReport:
        return await answer(self.actor.report.remote())

    async def image_digests(self, images: Sequence[str]) -> Mapping[str, str]:
        return await answer(self.actor.image_digests.remote(images))

    async def attempts(self) -> list[ContainerKey]:
        return await answer(self.actor.attempts.remote())

    async def strays(self) -> list[ContainerKey]:
        return await answer(self.actor.strays.remote())

    async def remove_directories(self, jobs: Sequence[str]) -> Removed:
        return await answer(self.actor.remove_directories.remote(jobs))

    async def is_empty(self) -> bool:
        return await answer(self.actor.is_empty.remote())

    async def open_logs(self, job: str, attempt: int, stdout: bool, stderr: bool, follow: bool) -> str | None:
        return await answer(self.actor.open_logs.remote(job, attempt, stdout, stderr, follow))

    async def read_logs(self, handle: str) -> bytes | None:
        return await answer(self.actor.read_logs.remote(handle))

    async def close_logs(self, handle: str) -> None:
        return await answer(self.actor.close_logs.remote(handle))

    async def doing(self, job: str, attempt: int) -> str | None:
        return await answer(self.actor.doing.remote(job, attempt))

    async def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return await answer(self.actor.overview.remote())

    async def directories(self) -> list[str]:
        return await answer(self.actor.directories.remote())

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        return await answer(self.actor.read_file.remote(job, name, offset, size))

    async def list_files(self, job: str, after: str | None, limit: int) -> FilePage | None:
        return await answer(self.actor.list_files.remote(job, after, limit))

    async def have_directories(self, jobs: Sequence[str]) -> list[str]:
        return await answer(self.actor.have_directories.remote(jobs))

    async def examine(self, images: Sequence[str] = ()) -> Examined:
        return await answer(self.actor.examine.remote(images))

    async def metrics(self) -> list[Family]:
        return await answer(self.actor.metrics.remote())

    async def repair(self, paths: Sequence[str], cgroups: Sequence[ContainerKey]) -> None:
        return await answer(self.actor.repair.remote(paths, cgroups))
