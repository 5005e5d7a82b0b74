"""What is on each page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import WhyWaiting
from orqal.models import AppInfo, BatchInfo, BatchPolicy, JobRecord, Status, now
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.dependencies import ClusterDep
from orqal.serve_app.errors import ApiError, NotFound, Unavailable
from orqal.serve_app.explain import NOT_WAITING, explained
from orqal.serve_app.job_files import list_files, view
from orqal.serve_app.pages.formatting import JOBS_PER_PAGE, Segment, bar, brief, page_count
from orqal.serve_app.pages.process_logs import LogUnavailable, process_log
from orqal.serve_app.pages.rendering import HEADERS, render
from orqal.serve_app.schemas import FileList
from orqal.store import JobFilter, Page
from orqal.text import batch_policy, sentence, usage_in_words

T = TypeVar("T")

LAST_PAGE = 10**9
RECENT_BATCHES = 10
FILES_SHOWN = 200
"""Files of a job on its page."""
SCHEDULER_TIMEOUT = 5.0
"""Seconds that a page waits for the Scheduler."""

STATUSES: dict[str, Status | None] = {"all": None} | {status.value: status for status in Status}
FORMER_STATUSES = {"created": "running"}
"""The predecessor's names of states, in addresses that users may have kept."""
FORMER_PROCESSES = {"app": "api", "worker": "scheduler"}
"""The predecessor's names of processes."""


class _PageRoute(APIRoute):
    """Answers errors with a page too, and adds the headers that keep a page harmless."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except RequestValidationError:
                response = await _error_page(_no_such_page(request))
            except ApiError as error:
                response = await _error_page(error)
            response.headers.update(HEADERS)
            return response

        return answer


pages = APIRouter(include_in_schema=False, route_class=_PageRoute)


async def _error_page(error: ApiError) -> Response:
    title = "Not found" if isinstance(error, NotFound) else "Something is wrong"
    return await render("problem.html", error.status, title=title, message=sentence(str(error)))


def _no_such_page(request: Request) -> NotFound:
    return NotFound(f"There is no page {brief(request.url.path)}.")


async def _unless_restarting(answer: Awaitable[T]) -> T | None:
    """The Scheduler's answer; None if it is restarting. A page then shows what the store knows."""
    try:
        return await asyncio.wait_for(answer, SCHEDULER_TIMEOUT)
    except (ActorAway, asyncio.TimeoutError):
        return None


@pages.get("/")
async def overview(cluster: ClusterDep) -> Response:
    """The number of jobs in each state, the latest batches, the hosts and the apps."""
    counts, batches, policies = await asyncio.gather(
        cluster.read(cluster.store.counts), cluster.read(cluster.store.batches, RECENT_BATCHES), cluster.policies()
    )
    hosts, apps = await asyncio.gather(
        _unless_restarting(cluster.scheduler.hosts()), _unless_restarting(_apps(cluster))
    )
    return await render(
        "overview.html",
        counts={status.value: counts.get(status, 0) for status in Status},
        shares=bar((status.value, counts.get(status, 0)) for status in reversed(Status)),
        batches=[(batch, _batch_bar(batch), _decided(policies, batch)) for batch in batches.batches],
        hosts=hosts,
        apps=apps,
    )


async def _apps(cluster: ClusterAccess) -> list[AppInfo]:
    """The apps; those that could not be loaded come first."""
    return sorted(await cluster.scheduler.apps(), key=lambda app: (app.error is None, app.name))


def _batch_bar(batch: BatchInfo) -> list[Segment]:
    waiting = {status.value: batch.status.get(status, 0) for status in Status if not status.final}
    return bar([("exited", batch.ok), ("error", batch.failed), *reversed(waiting.items())])


def _decided(policies: Mapping[str, BatchPolicy], batch: BatchInfo) -> str:
    """What was decided about a batch, in words."""
    policy = policies.get(batch.name)
    return "" if policy is None else batch_policy(**dict(policy))


OfBatch = Annotated[str | None, Query(max_length=1_000)]


@pages.get("/jobs/{status}")
async def first_jobs(cluster: ClusterDep, status: str, batch: OfBatch = None) -> Response:
    """The first page of a list of jobs."""
    return await job_list(cluster, status, 1, batch)


@pages.get("/jobs/{status}/{page}")
async def job_list(
    cluster: ClusterDep, status: str, page: Annotated[int, Path(ge=1, le=LAST_PAGE)], batch: OfBatch = None
) -> Response:
    """The jobs in a state, or in a state and a batch, the newest first."""
    status = FORMER_STATUSES.get(status, status)
    if status not in STATUSES:
        raise NotFound(f"There is no state {brief(status)!r} of jobs. The states are {', '.join(STATUSES)}.")
    info: BatchInfo | None = None
    decided, forecast = "", None
    if batch is None:
        counts = await cluster.read(cluster.store.counts)
    else:
        info = await cluster.read(cluster.store.batch, batch)
        if info is None:
            raise NotFound(f"There is no batch {brief(batch)!r}.")
        policies, forecasts = await asyncio.gather(cluster.policies(), cluster.forecasts())
        counts, decided, forecast = info.status, _decided(policies, info), forecasts.get(batch)
    wanted = STATUSES[status]
    total = sum(counts.values()) if wanted is None else counts.get(wanted, 0)
    found = Page([], None)
    if page <= page_count(total):  # otherwise the store would read all the jobs that it skips, for nothing
        selected = JobFilter(status=wanted, batch=batch)
        skip = (page - 1) * JOBS_PER_PAGE
        found = await cluster.read(cluster.store.find, selected, JOBS_PER_PAGE, None, skip)
    return await render(
        "jobs.html",
        status=status,
        batch=info,
        decided=decided,
        forecast=forecast,
        counts={"all": sum(counts.values())} | {one.value: counts.get(one, 0) for one in Status},
        jobs=found.jobs,
        page=page,
        # A batch counts a reused job several times, but the list has it once. So the last page is where the list ends.
        last=max(page, page_count(total)) if found.cursor else page,
        more=found.cursor is not None,
    )


@pages.get("/job/{job_id}")
async def one_job(cluster: ClusterDep, job_id: str) -> Response:
    """Everything about a job."""
    try:
        job = await cluster.job(job_id)
    except NotFound:
        raise NotFound(f"There is no job {brief(job_id)!r}. Ended jobs are deleted after a time.") from None
    output = await cluster.read(cluster.store.output, job.id)
    why: WhyWaiting | None = NOT_WAITING
    if job.current_status is Status.TODO:
        why = await _unless_restarting(cluster.scheduler.why_waiting(job.id))
    explanation = explained(job, why or NOT_WAITING, await cluster.doing(job), moment=now())
    files = await _files(cluster, job)
    restarting = "It waits. The scheduler is restarting; in a few seconds the reason will be shown here."
    summary = restarting if why is None else explanation.summary
    return await render("job.html", job=job, output=output, summary=summary, cache=explanation.cache, files=files)


async def _files(cluster: ClusterAccess, job: JobRecord) -> FileList | None:
    """The first files of a job; None if the host with them does not answer."""
    if job.host is None:
        return FileList(files=[], cursor=None)
    try:
        page = await asyncio.wait_for(list_files(cluster, job, None, FILES_SHOWN), SCHEDULER_TIMEOUT)
    except (ActorAway, Unavailable, asyncio.TimeoutError):
        return None
    files = [view(file) for file in page.files]
    return FileList(files=files, cursor=files[-1].path if page.more else None)


@pages.get("/apps/{name}")
async def one_app(cluster: ClusterDep, name: str) -> Response:
    """What the jobs of an app have used so far."""
    usage = await cluster.scheduler.usage(name)
    if usage is None:
        raise NotFound(f"There is no app {brief(name)!r}.")
    memory = usage.total.memory_bytes
    about = usage_in_words(name, usage.memory_in_gb, usage.total.jobs, None if memory is None else dict(memory))
    return await render("app.html", usage=usage, about=about)


@pages.get("/logs/{process}")
async def log(cluster: ClusterDep, process: str) -> Response:
    """The last lines in the log of one of Orqal's processes."""
    process = FORMER_PROCESSES.get(process, process)
    hosts = await _unless_restarting(cluster.scheduler.hosts()) or []
    processes = ["scheduler", "api", *(host.name for host in hosts)]
    if process not in processes:
        raise NotFound(f"There is no process {brief(process)!r}. The processes are {', '.join(processes)}.")
    text, problem = "", None
    try:
        text = await process_log(process, hosts)
    except LogUnavailable as error:
        problem = str(error)
    status = 200 if problem is None else 503
    return await render("log.html", status, process=process, processes=processes, text=text, problem=problem)


@pages.get("/doc")
async def documentation() -> Response:
    """The predecessor's address of the API's documentation."""
    return RedirectResponse("/docs")


@pages.get("/jobs/{status}/{page}/{rest:path}")
@pages.get("/job/{job_id}/{rest:path}")
@pages.get("/logs/{process}/{rest:path}")
async def elsewhere(request: Request) -> Response:
    """Addresses with more parts than those of the pages above."""
    raise _no_such_page(request)
