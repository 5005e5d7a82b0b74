"""What the two actors offer each other and the API, and what the Scheduler asks of its cluster: typed methods.

`handles.py` and `ray_cluster.py` implement these for a Ray cluster, `orqal.testing` for an in-process cluster. The
actors themselves have the same methods, so a caller can be followed from a route to the method that does the work.

A method of an actor raises `ActorAway` if the actor does not answer; otherwise it raises what the method itself raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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
from orqal.models import AppInfo, AppUsage, BatchForecast, BatchPolicy, HostInfo, JobSpec, Outcome, Resources, UserShare
from orqal.scheduling.demand import Bundle
from orqal.scheduling.lifecycle import Wish
from orqal.wrappers.base import ParentJob


class ActorAway(Exception):
    """An actor does not answer: it is restarting, its node is gone, or the answer did not come in time."""


class NoProcess(Exception):
    """No process can be started here for a wrapper's methods: the host is going down, or in trouble."""


class WrapperCalls(Protocol):
    """Calls the methods of wrappers."""

    async def call(self, app: str, what: str, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function returns, or a Failure.

        `limit`: seconds that the call may take. `what` names the call for people.

        Raises:
            NoProcess: no process could be started for it.
        """
        ...


class SchedulerApi(Protocol):
    """The Scheduler: owns the queue and is the only writer of the store."""

    # For the API

    async def submit(
        self,
        specs: Sequence[JobSpec],
        *,
        key: str | None = None,
        first: int = 1,
        after: Document | None = None,
        replace_batch: str | None = None,
    ) -> list[Taken]:
        """Add jobs, or find jobs that already answer for them; return when they are on disk.

        `key`: an idempotency key, under which the first document has the number `first`. `after`: a document of another
        request, which is waited for, so that a client may send several requests without losing their order.
        `replace_batch`: a batch whose earlier jobs leave it. A job that can never run is stored as `error` at once.

        Raises:
            OtherDocument: the key was used before with another document of the same number.
            TooEarly: the document before these does not come. Nothing is submitted.
            BadParent: a document waits after a job or batch that does not exist, or jobs would wait for each other.
        """
        ...

    async def plan(self, specs: Sequence[JobSpec]) -> list[Planned]:
        """What would become of these documents if they were submitted now. Nothing is."""
        ...

    async def retry(self, jobs: Sequence[str]) -> dict[str, str]:
        """Run failed jobs again, and those that ended because of them. Return the ids of the new jobs by the ids of the
        failed ones that were named.

        Jobs that have not failed are left out. A new job waits after the new jobs of its parents.

        Raises:
            BadParent: the new jobs would wait for each other.
        """
        ...

    async def cancel(self, jobs: Sequence[str]) -> int:
        """End jobs wherever they are, and return how many had not ended. When this returns, the wish is on disk."""
        ...

    async def unfinished(self) -> int:
        """How many jobs have not ended or, once all have, have containers that must still be removed."""
        ...

    async def cancel_some(self) -> int:
        """Cancel some of all jobs, and return how many are left: see `unfinished`.

        The wishes are on disk then. If there is nothing left to cancel, this returns when a job changes, or after a
        second.
        """
        ...

    async def clean(self, what: CleanTarget) -> int:
        """Delete ended jobs, or end jobs with containers, and return how many. `what` is not `CleanTarget.OLD`."""
        ...

    async def why_waiting(self, job: str) -> WhyWaiting:
        """Why a waiting job does not start now."""
        ...

    async def shares(self) -> list[UserShare]:
        """What each user has and has had: the one who is served next comes first."""
        ...

    async def batch_forecasts(self) -> Mapping[str, BatchForecast]:
        """When batches will have ended, by name; those about which nothing can be foretold are left out."""
        ...

    async def batch_policies(self) -> Mapping[str, BatchPolicy]:
        """The batches about whose waiting jobs something was decided."""
        ...

    async def change_batch(self, batch: str, changes: Mapping[str, bool | int | None]) -> BatchPolicy:
        """Decide about the jobs of a batch that wait, and those that come. When this returns, it is on disk.

        `changes`: fields of BatchPolicy; the others stay as they are.

        Raises:
            TooHigh: jobs may not have this priority.
        """
        ...

    async def parent_ids(self, after: Sequence[str]) -> list[str]:
        """The ids of the jobs that these parents are, as texts of Parent: the jobs of a batch in the order of
        submission. Each is there once."""
        ...

    async def parents(self, jobs: Sequence[str]) -> list[ParentJob]:
        """These jobs as the wrapper of a job that has waited for them sees them. Jobs that are gone are left out."""
        ...

    async def job_of(self, container: str) -> str | None:
        """The job that runs in this container."""
        ...

    async def apps(self) -> list[AppInfo]:
        """All apps, those that failed to load included."""
        ...

    async def usage(self, app: str) -> AppUsage | None:
        """What jobs of an app have used so far; None if there is no such app and none of its jobs is known."""
        ...

    async def hosts(self) -> list[HostInfo]:
        """All hosts, with what is in use of them now."""
        ...

    async def host(self, name: str) -> HostInfo | None:
        """One host; None if there is none of this name."""
        ...

    async def wake(self, name: str) -> None:
        """Make sure that a host's actor runs, if there is such a host."""
        ...

    async def drain(self, name: str, now: bool = False) -> HostInfo | None:
        """Give a host no more work until `undrain`, also after a restart; None if there is no such host.

        `now`: also stop its jobs; they run again elsewhere.
        """
        ...

    async def dismiss(self, name: str, now: bool = False) -> HostInfo | None:
        """As `drain`, but only as long as the host stays: it is about to leave the cluster."""
        ...

    async def undrain(self, name: str) -> HostInfo | None:
        """Give a host work again; None if there is no such host."""
        ...

    async def changes(self, cursor: Cursor | None, timeout: float) -> News:
        """What has changed since the cursor; waits up to `timeout` seconds for a change."""
        ...

    async def ready(self) -> bool:
        """True if a host takes work, or would if its disks had room."""
        ...

    async def in_hand(self) -> InHand:
        """The work that is under way, for the doctor."""
        ...

    async def metrics(self) -> list[Family]:
        """The metrics of the Scheduler, and of the hosts as it sees them."""
        ...

    async def repair(
        self, node_id: str | None, containers: Sequence[ContainerKey], leases: Sequence[str], apps: Sequence[str] = ()
    ) -> None:
        """Remove what the doctor found left over: containers of a host's ended attempts, leases of no job, and missing
        apps that no job needs."""
        ...

    # For the hosts

    async def bundle(self, digest: str) -> Mapping[str, bytes] | None:
        """The files of a bundle of a wrapper by name; None if no app has this bundle now."""
        ...

    async def started(self, started: Started) -> None:
        """Report that a container runs."""
        ...

    async def report(self, node_id: str, report: HostReport) -> None:
        """Report how a host is: every few seconds, and at once when its daemon comes or goes."""
        ...

    async def found(self, node_id: str, containers: Sequence[ContainerKey]) -> None:
        """Report containers on a host that belong to no attempt under way there."""
        ...


class HostApi(Protocol):
    """The HostActor of a Ray node: drives the node's Docker daemon."""

    # For the Scheduler

    async def run(self, order: Order) -> Outcome:
        """Run an attempt to its end, or attach to it if it is under way or has ended and was not released."""
        ...

    async def stop(self, job: str, attempt: int, wish: Wish) -> None:
        """End an attempt, unless it has ended by itself. Its error is `cancelled`, or `host_lost` if it must leave."""
        ...

    async def release(self, job: str, attempt: int) -> None:
        """An attempt's outcome is in the store: remove its container."""
        ...

    async def incarnation(self) -> str:
        """A different value for each process that this actor has been."""
        ...

    async def report(self) -> HostReport:
        """How this host is."""
        ...

    async def image_digests(self, images: Sequence[str]) -> Mapping[str, str]:
        """The ids of these images by name. Images that are not on the host are left out."""
        ...

    async def attempts(self) -> list[ContainerKey]:
        """All attempts that are under way on the host, or have left a container there.

        Raises:
            EngineError: the daemon does not answer.
        """
        ...

    async def strays(self) -> list[ContainerKey]:
        """The containers on the host that belong to no attempt under way there.

        Raises:
            EngineError: the daemon does not answer.
        """
        ...

    async def remove_directories(self, jobs: Sequence[str]) -> Removed:
        """Remove the directories of deleted jobs, for some seconds. See `removed_directories`, which goes on."""
        ...

    # For the API and for what stops a host

    async def is_empty(self) -> bool:
        """True if no container of a job is left on the host."""
        ...

    async def open_logs(self, job: str, attempt: int, stdout: bool, stderr: bool, follow: bool) -> str | None:
        """Start to read a container's output: a handle for `read_logs`; None if there is no such container."""
        ...

    async def read_logs(self, handle: str) -> bytes | None:
        """The next piece of output; empty if nothing came for a while, None at the end.

        Raises:
            NoReader: the handle is unknown or was given up.
        """
        ...

    async def close_logs(self, handle: str) -> None:
        """Stop reading."""
        ...

    async def doing(self, job: str, attempt: int) -> str | None:
        """What an attempt without a container waits for, in words; None if it has one or is unknown."""
        ...

    async def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What the daemon reports of itself, and `docker inspect` of each running container of Orqal."""
        ...

    async def directories(self) -> list[str]:
        """The ids of the jobs that have directories on the host."""
        ...

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        """Up to `size` bytes of a file of a job's directory; None if there is no such file.

        Raises:
            PermissionError: Orqal's user on the host may not read it.
        """
        ...

    async def list_files(self, job: str, after: str | None, limit: int) -> FilePage | None:
        """The first `limit` files of a job's directory, and of its folders, that come after the file `after`; None if
        the job has no directory here."""
        ...

    async def have_directories(self, jobs: Sequence[str]) -> list[str]:
        """Those of these jobs whose directories are on the host."""
        ...

    async def examine(self, images: Sequence[str] = ()) -> Examined:
        """Everything of Orqal that is on the host, and what these images are there, for the doctor."""
        ...

    async def metrics(self) -> list[Family]:
        """The metrics of this process, without the host's name."""
        ...

    async def repair(self, paths: Sequence[str], cgroups: Sequence[ContainerKey]) -> None:
        """Remove stale folders and unused cgroups, and close files of tokens to others, for the doctor."""
        ...


class Node(NamedTuple):
    """A Ray node with a Docker daemon, which Orqal uses as a host."""

    id: str
    name: str
    address: str
    capacity: Resources
    labels: Mapping[str, str]
    is_head: bool


class Contended(Exception):
    """Ray has no room for a lease, though Orqal counts some: another Ray program holds it."""


class ClusterApi(Protocol):
    """What the Scheduler asks of the cluster that it runs in."""

    async def nodes(self) -> list[Node]:
        """The living nodes that have threads for jobs."""
        ...

    async def free(self) -> dict[str, Resources]:
        """The resources of each node that no program holds, by node id. Up to a second old."""
        ...

    def host(self, node: Node) -> HostApi:
        """The node's HostActor, which is started if it does not run."""
        ...

    def end_host(self, host: HostApi) -> None:
        """End a HostActor; `host` starts another."""
        ...

    async def create_lease(self, name: str, node_id: str, resources: Resources) -> None:
        """Hold resources of a node under this name.

        Raises:
            Contended: there was no room within a few seconds.
        """
        ...

    async def has_lease(self, name: str) -> bool:
        """True if a lease of this name exists."""
        ...

    def remove_lease(self, name: str) -> None:
        """Give a lease back, if it exists."""
        ...

    async def lease_names(self) -> set[str]:
        """The names of all leases that exist, those of earlier Schedulers included."""
        ...

    async def request(self, bundles: Sequence[Bundle]) -> None:
        """Have the cluster grow until all these fit into it at once. If there are none, idle nodes may go."""
        ...
