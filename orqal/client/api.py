"""The HTTP API of a server as a Python object: a method for each route."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload
from urllib.parse import quote, urlsplit

from orqal.client import downloads, streams
from orqal.client.downloads import Downloaded, RemoteFile, download_path
from orqal.client.errors import OrqalError
from orqal.client.streams import HEARTBEAT_TIMEOUT
from orqal.client.submission import Child, Submission, Submitted, plan, submit_one
from orqal.client.transport import Transport
from orqal.logstream import Frame
from orqal.settings import DEFAULT_API_URL, Settings

if TYPE_CHECKING:
    from orqal.models import Change

ITEMS_PER_PAGE = 1_000
"""Jobs or batches that one request for a list returns, at most."""
IDS_PER_REQUEST = 10_000
"""Jobs that one request names by their ids, at most: the server has them in memory."""
ANSWER_TIMEOUT = 60.0
"""Seconds that the server may take to begin its answer, and between two parts of it."""
CHECKUP_TIMEOUT = 600.0
"""The same for `doctor`, which asks every host."""


def find_api(settings: Settings) -> str:
    """Return the URL of the API: ORQAL_API_URL, or that of the Orqal that runs in `home`, or localhost:5001.

    An ORQAL_API_URL without a path is that of the server, whose API is at /api.
    """
    if settings.api_url:
        return settings.api_url if urlsplit(settings.api_url).path else f"{settings.api_url}/api"
    running = settings.running_cluster() or {}
    return str(running.get("api_url") or DEFAULT_API_URL).rstrip("/")


class Cleaned(NamedTuple):
    """What `Client.clean` removed."""

    deleted: int
    """The number of deleted jobs. For "containers" the number of ended jobs, for "old" of removed directories."""
    directories: list[str]
    """The names of the directories that "old" removed."""


class Client:
    """The HTTP API of one server, over one persistent connection. Thread-safe.

    All methods raise ServerUnreachable if the server does not answer, and RequestFailed if it answers with an error.
    """

    def __init__(
        self, base_url: str | None = None, token: str | None = None, *, timeout: float = ANSWER_TIMEOUT
    ) -> None:
        """`base_url` and `token`: None stands for those of the environment, or of the Orqal that runs on this machine.

        `base_url` may contain a user and a password (`http://x:TOKEN@host:5001/api`), which are sent instead of the
        token. `timeout`: seconds that the server may take to begin its answer, and between two parts of it.
        """
        settings = Settings()
        url = (base_url or find_api(settings)).rstrip("/")
        self._transport = Transport(url, token or settings.token, timeout)

    @property
    def base_url(self) -> str:
        """The URL of the API, without a password."""
        return self._transport.base_url

    # Jobs

    def submit(self, document: bytes) -> str:
        """Submit one job, a JSON document, and return its id.

        If the connection breaks, the request is sent again, and there is still only one job.
        """
        return self.submit_one(document).id

    def submit_one(self, document: bytes) -> Submitted:
        """Submit one job as `submit` does. Return its id, and whether it is an earlier job that is reused."""
        return submit_one(self._transport, document)

    def submit_many(
        self, documents: Iterable[bytes | Child], batch: str | None = None, *, resume: bool = False
    ) -> Submission:
        """Submit jobs, a JSON document each. Iterate over the result to send them; it yields their ids, in order. A
        document that contains ids of jobs before it is a Child.

        `batch`: the name of the batch that they join. `resume`: the documents are the batch's jobs from the first one
        on, and jobs that an earlier call submitted are not submitted again.

        Raises:
            SubmissionFailed: (while iterating) some jobs were submitted, the others were not.
            OrqalError: (while iterating) no job was submitted, or with `resume` the batch has other jobs.
        """
        if batch is not None:
            _check_batch_name(batch)
        return Submission(self._transport, documents, batch, resume=resume)

    def plan(self, documents: Iterable[bytes | Child]) -> Iterator[dict[str, Any]]:
        """Yield what would become of jobs if they were submitted now; see schemas.PlanView for the keys.

        `job` is the earlier job that would be reused. Otherwise `miss` says why a new one would be made, or `repeated`
        is true because an earlier document is the same. `never` says why it would fail at once.
        """
        return plan(self._transport, documents)

    def job(self, id: str) -> dict[str, Any]:
        """Return a job: its record, output and result.

        Raises:
            NotFound: there is no job with this id.
        """
        job: dict[str, Any] = self._transport.json("GET", f"job/{_part(id)}")
        return job

    def jobs(
        self,
        limit: int = 100,
        *,
        submitted_after: datetime | None = None,
        submitted_before: datetime | None = None,
        **filters: str | None,
    ) -> Iterator[dict[str, Any]]:
        """Yield jobs, the newest first, without output and result.

        `submitted_after` is included, `submitted_before` is not; a time without a zone is local. Filters: status, app,
        user, batch and host.
        """
        params = {name: value for name, value in filters.items() if value is not None}
        if "batch" in params:
            _check_batch_name(params["batch"])
        for name, moment in (("submitted_after", submitted_after), ("submitted_before", submitted_before)):
            if moment is not None:
                params[name] = moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
        return self._pages("jobs", limit, params)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        counts: dict[str, int] = self._transport.json("GET", "jobs/status")
        return counts

    def cancel(
        self,
        ids: Sequence[str] = (),
        *,
        batch: str | None = None,
        status: str | None = None,
        app: str | None = None,
        user: str | None = None,
        host: str | None = None,
        all: bool = False,
    ) -> int:
        """Cancel the jobs with these ids, or those that match all the given filters, or `all` jobs.

        `status`: todo, init or running. Return the number of jobs that had not ended yet.
        """
        if batch is not None:
            _check_batch_name(batch)
        filters = {"batch": batch, "status": status, "app": app, "user": user, "host": host}
        selection: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
        if all:
            selection["all"] = True
        if selection and not ids:
            return self._cancel(selection)
        parts = (ids[start : start + IDS_PER_REQUEST] for start in range(0, max(len(ids), 1), IDS_PER_REQUEST))
        return sum(self._cancel({**selection, "ids": list(part)}) for part in parts)

    def _cancel(self, selection: Mapping[str, Any]) -> int:
        return int(self._transport.json("POST", "jobs/cancel", json=selection)["cancelled"])

    def retry(self, id: str) -> str:
        """Run a failed job again. Return the id of the new job, which takes the place of the old one in its batches.

        The same request again returns the same id.

        Raises:
            RequestFailed: the job has not ended, or it succeeded.
        """
        return str(self._transport.json("POST", f"job/{_part(id)}/retry")["_id"])

    def explain(self, id: str) -> dict[str, Any]:
        """Return why a job is in its state: the sentences `summary` and `cache`; see schemas.Explanation for the keys.

        For a waiting job `hosts` has the `name` of each host and the `reason` why it does not take the job now, and
        `standing` says what is in front of it and what holds it.
        """
        explanation: dict[str, Any] = self._transport.json("GET", f"job/{_part(id)}/explain")
        return explanation

    def changes(
        self,
        ids: Iterable[str] = (),
        *,
        batch: str | None = None,
        timeout: float | None = None,
        on_silence: Callable[[], None] = lambda: None,
    ) -> Iterator[Change]:
        """Yield how each of these jobs, or each job of a batch, ended, as soon as it ends.

        The answer is one stream, without polling. If it breaks, it is opened again for the remaining jobs. `timeout`:
        in seconds. `on_silence` is called whenever no job has ended for 10 s; what it raises ends the waiting.

        Raises:
            TimeoutError: some jobs have not ended after `timeout`.
            NotFound: there is no such batch, or, after all others have ended, no job with one of these ids.
            ServerUnreachable: the server has been away for five minutes.
        """
        if batch is not None:
            _check_batch_name(batch)
        return streams.changes(self._transport, ids, batch, timeout, on_silence)

    # Batches

    def batch_ids(self, name: str) -> list[str]:
        """Return the ids of a batch's jobs, in the order of submission.

        Raises:
            NotFound: there is no such batch.
        """
        return [str(id) for id in self._transport.ndjson("GET", f"batches/{_batch_part(name)}/ids")]

    def batches(self, limit: int = 100) -> Iterator[dict[str, Any]]:
        """Yield batches, the newest first; see schemas.BatchView for their keys."""
        return self._pages("batches", limit, {})

    def batch(self, name: str) -> dict[str, Any]:
        """Return a batch, its progress, and what was decided about it; see schemas.BatchView for the keys.

        Raises:
            NotFound: there is no such batch.
        """
        batch: dict[str, Any] = self._transport.json("GET", f"batches/{_batch_part(name)}")
        return batch

    def hold(self, name: str) -> dict[str, Any]:
        """Start no more jobs of a batch until it is released, and return the batch. Its running jobs go on.

        Raises:
            NotFound: there is no such batch.
        """
        return self._change(name, {"held": True})

    def release(self, name: str) -> dict[str, Any]:
        """Start jobs of a held batch again, and return the batch.

        Raises:
            NotFound: there is no such batch.
        """
        return self._change(name, {"held": False})

    def change_batch(
        self,
        name: str,
        *,
        priority: int | EllipsisType | None = ...,
        max_running: int | EllipsisType | None = ...,
        canary: int | EllipsisType | None = ...,
    ) -> dict[str, Any]:
        """Decide about the jobs of a batch that wait, and those that come. Return the batch.

        `priority`: instead of the jobs' own; None: they have their own again. `max_running`: how many of them may run
        at once; None: as many as there is room for. `canary`: how many of them try the batch first: if they all fail
        alike, the rest is held; 0: none does; None: 20 if it is large. What is not given stays as it is.

        Raises:
            NotFound: there is no such batch.
            RequestFailed: jobs may not have this priority.
        """
        changes = {"priority": priority, "max_running": max_running, "canary": canary}
        return self._change(name, {key: value for key, value in changes.items() if value is not ...})

    def _change(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._transport.json("PATCH", f"batches/{_batch_part(name)}", json=changes))

    def retry_batch(self, name: str) -> int:
        """Run the failed jobs of a batch again, and return their number.

        Raises:
            NotFound: there is no such batch.
        """
        return int(self._transport.json("POST", f"batches/{_batch_part(name)}/retry")["retried"])

    @overload
    def results(self, name: str, format: Literal["jsonl"] = "jsonl") -> Iterator[dict[str, Any]]: ...

    @overload
    def results(self, name: str, format: Literal["csv"]) -> Iterator[str]: ...

    def results(self, name: str, format: Literal["jsonl", "csv"] = "jsonl") -> Iterator[dict[str, Any]] | Iterator[str]:
        """Yield the results of a batch, in the order of submission: one by one, or as pieces of a table in CSV.

        Raises:
            NotFound: there is no such batch.
        """
        path = f"batches/{_batch_part(name)}/results"
        if format == "jsonl":
            return self._transport.ndjson("GET", path)
        return self._transport.text("GET", path, params={"format": format})

    # Output and files

    def logs(self, id: str, *, follow: bool = False, stream: str = "both") -> Iterator[Frame]:
        """Yield a job's output. `stream`: stdout, stderr or both.

        `follow`: from its beginning to the job's end, live. If the connection breaks, the output is resumed where it
        stopped.

        Raises:
            NotFound: there is no job with this id.
        """
        return streams.output(self._transport, _part(id), follow, stream)

    def download(self, id: str, name: str, to: Path) -> Path:
        """Save a file of the job's directory as `to`, which appears when it is complete. Return `to`.

        If the connection breaks, the download is resumed where it stopped.

        Raises:
            NotFound: there is no such job or file.
        """
        streams.download(self._transport, download_path(id, name), to)
        return to

    def files(self, id: str, patterns: Sequence[str] = ()) -> Iterator[RemoteFile]:
        """Yield the files of a job's directory and of all folders in it, also while the job runs.

        `patterns`: only files that match one of them, as in a shell. A pattern without "/" is for a file's name in any
        folder, one with "/" for its path below the directory.

        Raises:
            NotFound: there is no such job.
            RequestFailed: the host with the files is away.
        """
        return downloads.files_of(self._transport, id, patterns)

    def download_all(
        self,
        ids: Sequence[str],
        to: Path,
        patterns: Sequence[str] = (),
        *,
        folders: bool = True,
        progress: bool | None = False,
    ) -> Downloaded:
        """Save the files of these jobs in the folder `to`, several at a time, and return what came of it.

        `folders`: in a folder for each job, named by its id. `patterns`: see `files`. If a
        call is interrupted, make the same call again: files with the right size and time are kept, and partial ones
        are continued. What cannot be downloaded keeps nothing else waiting.

        Raises:
            ServerUnreachable: the server has been away for five minutes.
        """
        return downloads.download_all(self._transport, ids, to, patterns, folders=folders, progress=progress)

    # The cluster

    def apps(self) -> list[dict[str, Any]]:
        """Return the apps; see models.AppInfo for their keys."""
        apps: list[dict[str, Any]] = self._transport.json("GET", "apps")
        return apps

    def usage(self, app: str) -> dict[str, Any]:
        """Return what the jobs of an app have used so far; see models.AppUsage for the keys.

        Raises:
            NotFound: there is no such app.
        """
        usage: dict[str, Any] = self._transport.json("GET", f"apps/{_part(app)}/usage")
        return usage

    def services(self) -> list[str]:
        """Return the names of the apps that jobs can use."""
        return [str(app["name"]) for app in self.apps() if not app.get("error")]

    def hosts(self) -> list[dict[str, Any]]:
        """Return the Docker hosts; see models.HostInfo for their keys."""
        hosts: list[dict[str, Any]] = self._transport.json("GET", "hosts")
        return hosts

    def shares(self) -> list[dict[str, Any]]:
        """Return what each user has of the cluster, and has had lately; see models.UserShare for the keys.

        The user who is served next comes first.
        """
        shares: list[dict[str, Any]] = self._transport.json("GET", "shares")
        return shares

    def drain(self, host: str, *, now: bool = False) -> dict[str, Any]:
        """Give a host no more work, and return the host. Its jobs run to their end.

        `now`: stop its jobs; they run again elsewhere.

        Raises:
            NotFound: there is no such host.
        """
        return dict(self._transport.json("POST", f"hosts/{_part(host)}/drain", json={"now": now}))

    def undrain(self, host: str) -> dict[str, Any]:
        """Give a host work again, and return the host.

        Raises:
            NotFound: there is no such host.
        """
        return dict(self._transport.json("POST", f"hosts/{_part(host)}/undrain"))

    def doctor(self, *, fix: bool = False) -> dict[str, Any]:
        """Return what is wrong with the cluster; see doctor.findings.Checkup for the keys.

        `fix`: repair what can be repaired without harm.
        """
        method, path = ("POST", "doctor/fix") if fix else ("GET", "doctor")
        return dict(self._transport.json(method, path, timeout=CHECKUP_TIMEOUT))

    def clean(self, what: Literal["all", "scheduled", "containers", "old", "expired"]) -> Cleaned:
        """Clean up, for all users, and return what was removed.

        all: cancel waiting jobs; delete all jobs except running ones, with their directories. scheduled: the same, but
        keep the jobs that exited. containers: end running jobs, and remove containers that were left over. old: remove
        the directories of jobs that were deleted. expired: delete the jobs whose time to live is over by the head's
        clock, which this confirms to be right after it has jumped.
        """
        deleted: int | None = None
        directories: list[str] = []
        for line in self._transport.ndjson("POST", "clean", json={"what": what}, timeout=HEARTBEAT_TIMEOUT):
            if "deleted" in line:
                deleted = int(line["deleted"])
            else:
                directories.append(str(line["directory"]))
        if deleted is None:
            raise self._transport.ended_early()
        return Cleaned(deleted, directories)

    def _pages(self, what: str, limit: int, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the first `limit` items of a list that the server returns page by page."""
        cursor: dict[str, str] = {}
        while limit > 0:
            query = {**params, "limit": str(min(limit, ITEMS_PER_PAGE)), **cursor}
            page = self._transport.json("GET", what, params=query)
            yield from page[what][:limit]
            limit -= len(page[what])
            if not page.get("cursor"):
                return
            cursor = {"cursor": page["cursor"]}


def _part(name: str) -> str:
    """Return an id or a name as a part of a URL's path."""
    return quote(name, safe="")


def _batch_part(name: str) -> str:
    """Return the name of a batch as a part of a URL's path."""
    _check_batch_name(name)
    return _part(name)


def _check_batch_name(name: str) -> None:
    from orqal.models import check_batch_name

    try:
        check_batch_name(name)
    except ValueError as error:
        raise OrqalError(f"{name!r} cannot be the name of a batch: {error}.") from None
