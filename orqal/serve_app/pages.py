"""The pages for people: what there is to do and who does it, lists of jobs, one job, the logs.

They only read. What jobs bring along (inputs, names, output, messages) is hostile: Jinja escapes it, `_plain` takes
the control characters out, and the Content-Security-Policy allows no script but our own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib import resources
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import ray
from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from ray.util.state import get_log
from ray.util.state.exception import RayStateApiException

from orqal import __version__
from orqal.actors.handles import HostClient, SchedulerClient
from orqal.actors.interfaces import ActorAway
from orqal.actors.ray_internals import actor_id
from orqal.models import AppInfo, BatchInfo, HostInfo, Status, now
from orqal.serve_app.backend import Away, Backend, NotThere
from orqal.serve_app.explain import explained
from orqal.serve_app.routes.shared import Inside
from orqal.store import JobFilter, Page

log = logging.getLogger("orqal.pages")
T = TypeVar("T")

PAGE = 30
"""Jobs on a page of a list."""
MAX_PAGE = 10**9
RECENT_BATCHES = 10
LOG_LINES = 500
SHOWN = 60_000
"""Characters of an output, a result or an input on a job's page; links lead to the whole."""
LOG_WITHIN = 15.0
"""Seconds that Ray may take to hand out a log."""
SCHEDULER_WITHIN = 5.0
"""Seconds that a page waits for the Scheduler."""

STATUSES: dict[str, Status | None] = {"all": None} | {status.value: status for status in Status}
FORMER_STATUSES = {"created": "running"}
FORMER_PROCESSES = {"app": "api", "worker": "scheduler"}

# Ray asks over HTTP, without a limit of time of its own: what hangs there must not take the threads of the store.
_log_readers = ThreadPoolExecutor(2, "logs")


# Values as people read them


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_TERMINAL_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,1000}(\x07|\x1b\\))")


def _plain(value: Any) -> Any:
    """Text with a sign in the place of all that turns its direction or is no character of a page.

    Jinja calls it for every value that a template shows; Markup is our own and stays as it is.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _lines(text: str) -> str:
    """A program's output without colours and other commands to a terminal, its lines ended by \\n alone."""
    return _TERMINAL_SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def _end(text: str, limit: int = SHOWN) -> tuple[str, bool]:
    """The end of a text, of whole lines where there are any; whether something was left out."""
    if len(text) <= limit:
        return text, False
    end = text[-limit:]
    return end.partition("\n")[2] or end, True


def _cut(text: str, limit: int = SHOWN) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _json(value: Any, limit: int = SHOWN, indent: int | None = 2) -> tuple[str, bool]:
    """The beginning of a value as JSON; whether something was left out."""
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        text += part[: limit + 1]
        if len(text) > limit:
            return text[:limit], True
    return text, False


def _brief(value: Any, limit: int = 80) -> str:
    """An input on one line. The end of a path tells more than its middle."""
    if value is None:
        return ""
    if not isinstance(value, str):
        text, cut = _json(value, limit, indent=None)
        return text + "…" * cut
    ends = value if len(value) <= 10 * limit else f"{value[: 5 * limit]}…{value[-5 * limit :]}"
    text = " ".join(ends.split())
    return text if len(text) <= limit else f"{text[: limit // 3]}…{text[-(limit - limit // 3 - 1) :]}"


def _moment(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else ""


def _seconds(span: float | None) -> str:
    """A duration: seconds with two digits of them, more than a minute in two units."""
    if span is None:
        return ""
    span = max(span, 0)
    if span < 59.95:
        return f"{span:.2f} s" if span < 9.995 else f"{span:.1f} s"
    minutes, seconds = divmod(round(span), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _bytes(size: float) -> str:
    """An amount of bytes, in powers of ten as all of Orqal."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size < 999.5 else f"{size:,.0f} GB"


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


class Segment(NamedTuple):
    """A part of a bar: all figures in percent of its length."""

    name: str
    start: float
    width: float


def _bar(amounts: Iterable[tuple[str, int]]) -> list[Segment]:
    """A bar of these amounts. What is there at all can be seen, however small its share."""
    present = [(name, amount) for name, amount in amounts if amount > 0]
    total = sum(amount for _, amount in present)
    widths = [max(100 * amount / total, 0.6) for _, amount in present]
    scale = 100 / sum(widths) if widths else 0
    segments, start = list[Segment](), 0.0
    for (name, _), width in zip(present, widths, strict=True):
        segments.append(Segment(name, round(start, 3), round(width * scale, 3)))
        start += width * scale
    return segments


def _pages(jobs: int) -> int:
    """How many pages so many jobs fill; an empty list is one page."""
    return max(1, -(-jobs // PAGE))


def _list_url(status: str, page: int = 1, batch: str | None = None) -> str:
    path = f"/jobs/{status}" if page == 1 else f"/jobs/{status}/{page}"
    return f"{path}?{urlencode({'batch': batch})}" if batch is not None else path


def _command(cmd: str | list[str]) -> str:
    return cmd if isinstance(cmd, str) else shlex.join(cmd)


# The templates


def _file(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("utf-8")


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _file("style.css"), _file("live.js")

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_source_hash(_STYLE)}; script-src {_source_hash(_SCRIPT)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_templates = Environment(
    loader=PackageLoader(__package__ or ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_plain,
)
_templates.globals.update(
    style=Markup(_STYLE),  # noqa: S704 - a file of this package
    script=Markup(_SCRIPT),  # noqa: S704
    version=__version__,
    list_url=_list_url,
    between=_between,
    now=now,
)
_templates.filters.update(
    brief=_brief,
    bytes=_bytes,
    command=_command,
    count="{:,}".format,
    cut=_cut,
    end=_end,
    lines=_lines,
    moment=_moment,
    pretty=_json,
    quoted=quote,
    seconds=_seconds,
)


async def _page(template: str, code: int = 200, /, **values: Any) -> HTMLResponse:
    # In a thread: a job's output may be a megabyte.
    html = await asyncio.to_thread(_templates.get_template(template).render, values)
    return HTMLResponse(html, code)


def _no_such_page(request: Request) -> NotThere:
    return NotThere(f"There is no page {_brief(request.url.path)}.")


class _PageRoute(APIRoute):
    """Answers people, whatever happens: with a page, and with the headers that keep it harmless."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except NotThere as error:
                response = await _page("problem.html", 404, title="Not found", message=str(error))
            except RequestValidationError:
                response = await _page("problem.html", 404, title="Not found", message=str(_no_such_page(request)))
            except Away as error:
                message = f"{str(error)[0].upper()}{str(error)[1:]}."
                response = await _page("problem.html", 503, title="Something is wrong", message=message)
            response.headers.update(HEADERS)
            return response

        return answer


pages = APIRouter(include_in_schema=False, route_class=_PageRoute)


async def _told(answer: Awaitable[T]) -> T | None:
    """The Scheduler's answer; None: it restarts. What the store knows is shown all the same."""
    try:
        return await asyncio.wait_for(answer, SCHEDULER_WITHIN)
    except (ActorAway, asyncio.TimeoutError):
        return None


@pages.get("/")
async def overview(backend: Inside) -> Response:
    """How many jobs there are in each state, the latest batches, the hosts, the apps."""
    counts, batches = await asyncio.gather(
        backend.read(backend.store.counts), backend.read(backend.store.batches, RECENT_BATCHES)
    )
    hosts, apps = await asyncio.gather(_told(backend.scheduler.hosts()), _told(_apps(backend)))
    return await _page(
        "overview.html",
        counts={status.value: counts.get(status, 0) for status in Status},
        shares=_bar((status.value, counts.get(status, 0)) for status in reversed(Status)),
        batches=[(batch, _batch_bar(batch)) for batch in batches.batches],
        hosts=hosts,
        apps=apps,
    )


async def _apps(backend: Backend) -> list[AppInfo]:
    """What is broken comes first."""
    return sorted(await backend.scheduler.apps(), key=lambda app: (app.error is None, app.name))


def _batch_bar(batch: BatchInfo) -> list[Segment]:
    waiting = {status.value: batch.status.get(status, 0) for status in Status if not status.final}
    return _bar([("exited", batch.ok), ("error", batch.failed), *reversed(waiting.items())])


OfBatch = Annotated[str | None, Query(max_length=1_000)]


@pages.get("/jobs/{status}")
async def first_jobs(backend: Inside, status: str, batch: OfBatch = None) -> Response:
    """The first page of the list below."""
    return await job_list(backend, status, 1, batch)


@pages.get("/jobs/{status}/{page}")
async def job_list(
    backend: Inside, status: str, page: Annotated[int, Path(ge=1, le=MAX_PAGE)], batch: OfBatch = None
) -> Response:
    """Jobs of a state, the newest first, 30 a page; of a batch, where the query says so."""
    status = FORMER_STATUSES.get(status, status)
    if status not in STATUSES:
        raise NotThere(f"There is no state {_brief(status)!r} that a job can be in. There are {', '.join(STATUSES)}.")
    info: BatchInfo | None = None
    if batch is None:
        counts = await backend.read(backend.store.counts)
    else:
        info = await backend.read(backend.store.batch, batch)
        if info is None:
            raise NotThere(f"There is no batch {_brief(batch)!r}.")
        counts = info.status
    wanted = STATUSES[status]
    total = sum(counts.values()) if wanted is None else counts.get(wanted, 0)
    found = Page([], None)
    if page <= _pages(total):  # what is skipped is counted one by one
        selected = JobFilter(status=wanted, batch=batch)
        found = await backend.read(backend.store.find, selected, PAGE, None, (page - 1) * PAGE)
    return await _page(
        "jobs.html",
        status=status,
        batch=info,
        counts={"all": sum(counts.values())} | {one.value: counts.get(one, 0) for one in Status},
        jobs=found.jobs,
        page=page,
        # A batch counts a job as often as it answers, the list has it once: the last page is where the list ends.
        last=max(page, _pages(total)) if found.cursor else page,
        more=found.cursor is not None,
    )


@pages.get("/job/{job_id}")
async def one_job(backend: Inside, job_id: str) -> Response:
    """All there is to know of a job."""
    try:
        job = await backend.job(job_id)
    except NotThere:
        raise NotThere(f"There is no job {_brief(job_id)!r}. Ended jobs are deleted after a time.") from None
    output = await backend.read(backend.store.output, job.id)
    reasons: dict[str, str] | None = {}
    if job.current_status is Status.TODO:
        reasons = await _told(backend.scheduler.reasons(job.id))
    explanation = explained(job, reasons or {}, await backend.doing(job), moment=now())
    waiting = "It waits. The scheduler is restarting; it will tell why in a few seconds."
    summary = waiting if reasons is None else explanation.summary
    return await _page("job.html", job=job, output=output, summary=summary, cache=explanation.cache)


@pages.get("/logs/{process}")
async def process_log(backend: Inside, process: str) -> Response:
    """The last lines that a part of Orqal has logged."""
    process = FORMER_PROCESSES.get(process, process)
    hosts = await _told(backend.scheduler.hosts()) or []
    processes = ["scheduler", "api", *(host.name for host in hosts)]
    if process not in processes:
        raise NotThere(f"There is no process {_brief(process)!r}. There are {', '.join(processes)}.")
    try:
        reading = asyncio.get_running_loop().run_in_executor(_log_readers, _log_of, process, hosts)
        text = await asyncio.wait_for(reading, LOG_WITHIN)
        problem = None
    except (asyncio.TimeoutError, RayStateApiException, OSError, ValueError) as error:
        text, problem = "", str(error) or f"Ray did not answer within {LOG_WITHIN:g} s"
    code = 200 if problem is None else 503
    return await _page("log.html", code, process=process, processes=processes, text=text, problem=problem)


def _log_of(process: str, hosts: list[HostInfo]) -> str:
    """The end of the log of an actor's process. RayStateApiException, OSError, ValueError: it cannot be had now."""
    here = ray.get_runtime_context()
    if process == "api":
        actor = here.get_actor_id()
    elif process == "scheduler":
        actor = actor_id(SchedulerClient.find().actor)
    else:
        node_id = next(host.node_id for host in hosts if host.name == process)
        actor = actor_id(HostClient.find(node_id).actor)
    pieces: Iterable[bytes] = get_log(
        address=here.gcs_address,  # it would look for one itself, and there may be another Ray on this machine
        actor_id=actor,
        tail=LOG_LINES,
        suffix="err",
        encoding=None,  # as bytes: the pieces may end within a character
    )
    return _log_text(b"".join(pieces))


def _log_text(data: bytes) -> str:
    """A log without Ray's own marks (`:job_id:`, `:actor_name:`) and without what no one reads in a line."""
    lines = _lines(data.decode("utf-8", "replace")).split("\n")
    return "\n".join(_cut(line, 2_000) for line in lines if not line.startswith((":job_id:", ":actor_name:")))


@pages.get("/doc")
async def documentation() -> Response:
    """Where older clients' users look for the API's documentation."""
    return RedirectResponse("/docs")


@pages.get("/jobs/{status}/{page}/{rest:path}")
@pages.get("/job/{job_id}/{rest:path}")
@pages.get("/logs/{process}/{rest:path}")
async def elsewhere(request: Request) -> Response:
    """What has more parts than the pages above."""
    raise _no_such_page(request)
