"""The HTTP API of a server as a Python object."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import quote, unquote
from uuid import uuid4

from orqal.client.errors import NotFound, OrqalError, RequestFailed, ServerUnreachable, Unauthorized
from orqal.client.retry import PATIENCE, Patience, busy, cut_off
from orqal.client.streams import MULTIPLEXED, LogParser, split_lines
from orqal.client.submission import Submission
from orqal.settings import DEFAULT_API_URL, Settings

if TYPE_CHECKING:
    import httpx

    from orqal.models import Change

PAGE = 1_000
"""Jobs or batches in one answer to a question for a list."""
SILENCE = 30.0
"""Seconds of silence after which a stream of changes counts as broken; the server sends a line every 10."""
ANSWER = 60.0
"""Seconds in which the server must begin its answer, and go on with it."""
CLEANING = 600.0
"""The same where it has jobs or containers to remove first."""

JOBS_GO_ON = "The jobs themselves go on."
"""For those who have stopped looking at them."""


def find_api(settings: Settings) -> str:
    """Where the API is: ORQAL_API_URL, else the Orqal that runs in `home`, else localhost:5001."""
    if settings.api_url:
        return settings.api_url
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((settings.home / "cluster.json").read_text())["api_url"]).rstrip("/")
    return DEFAULT_API_URL


class Client:
    """The HTTP API of one server, over one persistent connection. Thread-safe."""

    def __init__(self, base_url: str | None = None, token: str | None = None, *, timeout: float = ANSWER) -> None:
        """`base_url` and `token`: None is what the environment and the Orqal of this machine say.

        `base_url` may hold a user and a password (`http://x:TOKEN@host:5001/api`): they are sent instead of the token.
        `timeout`: seconds in which the server must begin its answer, and go on with it.
        """
        settings = Settings()
        # Without the password: it stands in messages.
        self.base_url, self._credentials = _without_credentials((base_url or find_api(settings)).rstrip("/"))
        self.token = token or settings.token
        self.timeout = timeout
        self.met = False
        """True once a connection to the server has stood."""

    # Jobs

    def submit(self, document: bytes) -> str:
        """Submit one job, a JSON document; the answer is its id. It is sent again if the connection breaks, and yet
        there is one job."""
        headers = {"content-type": "application/json", "idempotency-key": uuid4().hex}
        patience = Patience(self)
        while True:
            try:
                return self._request("POST", "job", content=document, headers=headers).text.strip()
            except (ServerUnreachable, RequestFailed) as error:
                patience.fail(error)

    def submit_many(self, documents: Iterable[bytes], batch: str | None = None, *, resume: bool = False) -> Submission:
        """Submit jobs, a JSON document each, in slices as the ids are taken; iterates over the ids in that order.

        `batch`: the name of the batch that they join. `resume`: they are that batch from its first job on, so what
        an earlier call has submitted of it is not submitted again. SubmissionFailed: it went wrong after the first
        ids. OrqalError: with `resume`, the batch has other jobs.
        """
        if batch is not None:
            _check_batch_name(batch)
        return Submission(self, documents, batch, resume=resume)

    def submit_slice(self, documents: Sequence[bytes], key: str, batch: str | None = None) -> Iterator[dict[str, Any]]:
        """One request to submit: the lines of its answer, as they come. The n-th document of a request with the same
        `key` is the same job as the first time."""
        # Chunks of some 100 documents: few enough system calls, and no copy of the whole.
        chunks = (b"".join(d + b"\n" for d in documents[i : i + 100]) for i in range(0, len(documents), 100))
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        params = {} if batch is None else {"batch": batch}
        return self._ndjson("POST", "jobs", again=False, content=chunks, headers=headers, params=params)

    def job(self, id: str) -> dict[str, Any]:
        """All of a job: its record, output and result."""
        job: dict[str, Any] = self._json("GET", f"job/{quote(id, safe='')}")
        return job

    def jobs(
        self,
        limit: int = 100,
        *,
        submitted_after: datetime | None = None,
        submitted_before: datetime | None = None,
        **filters: str | None,
    ) -> Iterator[dict[str, Any]]:
        """The newest jobs, without output and result. Filters: status, app, user, batch, host.

        Submitted from the one time on, before the other; a time without a zone is local.
        """
        params = {name: value for name, value in filters.items() if value is not None}
        if "batch" in params:
            _check_batch_name(params["batch"])
        for name, moment in (("submitted_after", submitted_after), ("submitted_before", submitted_before)):
            if moment is not None:
                params[name] = moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
        return self._pages("jobs", limit, params)

    def counts(self) -> dict[str, int]:
        """How many jobs are in which state."""
        counts: dict[str, int] = self._json("GET", "jobs/status")
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
        """Cancel these jobs, or `all`, or those to which all of these apply: in a batch, in a state (todo, init or
        running), of an app, of a user, on a host. The answer is how many had not ended yet."""
        if batch is not None:
            _check_batch_name(batch)
        filters = {"batch": batch, "status": status, "app": app, "user": user, "host": host}
        which: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
        if all:
            which["all"] = True
        if ids or not which:
            which["ids"] = list(ids)
        answer = self._json("POST", "jobs/cancel", json=which)
        return int(answer["cancelled"])

    def retry(self, id: str) -> str:
        """Run a job that failed again: the id of the new job, which takes its place in its batches. Asked again, it
        is the same id. RequestFailed: it has not ended, or is ok."""
        return str(self._json("POST", f"job/{quote(id, safe='')}/retry")["_id"])

    def explain(self, id: str) -> dict[str, Any]:
        """Why a job is where it is: `summary` and `cache`, sentences; `hosts`: for one that waits, why each host
        (`name`) does not take it now (`reason`)."""
        explanation: dict[str, Any] = self._json("GET", f"job/{quote(id, safe='')}/explain")
        return explanation

    def changes(
        self, ids: Iterable[str] = (), *, batch: str | None = None, timeout: float | None = None
    ) -> Iterator[Change]:
        """The ends of these jobs, or of all of a batch, as they come; those that have ended already at once.

        One stream, no polling. When it breaks it is opened again for the rest. TimeoutError: not all ended in
        `timeout` seconds. NotFound: a job does not exist. ServerUnreachable: a minute without the server.
        """
        from orqal.models import Change

        left = dict.fromkeys(id.lower() for id in ids)
        told: set[str] = set()
        patience = Patience(self, timeout, comfort=JOBS_GO_ON)
        while left or batch is not None:
            try:
                with (
                    self._stream(
                        "POST",
                        "jobs/wait",
                        again=False,
                        json=_which(list(left), batch),
                        timeout=patience.cut(SILENCE),
                    ) as response,
                    cut_off(response, patience.left()),
                ):
                    for line in split_lines(response.iter_bytes()):
                        patience.renew()
                        if not line.strip():
                            continue
                        document = _parse(line)
                        if document.get("unknown"):
                            raise NotFound(f"There is no job {document['_id']}.", 404)
                        change = Change.model_validate(document)
                        if change.id not in told:
                            told.add(change.id)
                            left.pop(change.id, None)
                            yield change
                if not left:
                    return
                raise ServerUnreachable(f"The server at {self.base_url} ended its answer early.")
            except (ServerUnreachable, RequestFailed) as error:
                patience.fail(error)

    # Batches

    def batch_ids(self, name: str) -> list[str]:
        """The ids of a batch's jobs, in the order of submission. NotFound: no such batch."""
        return [job["$oid"] for job in self._json("GET", f"batch/{_batch_part(name)}")["jobs"]]

    def batches(self, limit: int = 100) -> Iterator[dict[str, Any]]:
        """The newest batches, as models.BatchInfo in JSON."""
        return self._pages("batches", limit, {})

    def batch(self, name: str) -> dict[str, Any]:
        """How far a batch is, as models.BatchInfo in JSON. NotFound: no such batch."""
        batch: dict[str, Any] = self._json("GET", f"batches/{_batch_part(name)}")
        return batch

    def retry_batch(self, name: str) -> int:
        """Run again what failed of a batch; the answer is how many jobs. NotFound: no such batch."""
        return int(self._json("POST", f"batches/{_batch_part(name)}/retry")["retried"])

    @overload
    def results(self, name: str, format: Literal["jsonl"] = "jsonl") -> Iterator[dict[str, Any]]: ...

    @overload
    def results(self, name: str, format: Literal["csv"]) -> Iterator[str]: ...

    def results(self, name: str, format: Literal["jsonl", "csv"] = "jsonl") -> Iterator[dict[str, Any]] | Iterator[str]:
        """The results of a batch, in the order of submission: `jsonl` one by one; `csv` as the text of a table, in
        pieces. NotFound: no such batch."""
        path = f"batches/{_batch_part(name)}/results"
        return self._ndjson("GET", path) if format == "jsonl" else self._text("GET", path, params={"format": format})

    # Output and files

    def logs(self, id: str, *, follow: bool = False, stream: str = "both") -> Iterator[tuple[int, bytes]]:
        """A job's output: (STDOUT or STDERR, bytes). `stream`: stdout, stderr or both.

        `follow`: from its start to its end, live. When the connection breaks, it goes on where it was.
        """
        seen: Counter[int] = Counter()
        patience = Patience(self, comfort=JOBS_GO_ON)
        while True:
            skip = Counter(seen)
            parser = LogParser()
            try:
                with self._stream(
                    "GET",
                    f"job/{quote(id, safe='')}/logs",
                    params={"follow": str(int(follow)), "stream": stream},
                    headers={"accept": MULTIPLEXED},
                    timeout=None if follow else self.timeout,
                ) as response:
                    for chunk in response.iter_bytes():
                        patience.renew()
                        for source, data in parser.feed(chunk):
                            known = min(skip[source], len(data))
                            skip[source] -= known
                            if fresh := data[known:]:
                                seen[source] += len(fresh)
                                yield source, fresh
                if parser.complete:
                    return
                raise ServerUnreachable(f"The server at {self.base_url} ended its answer early.")
            except (ServerUnreachable, RequestFailed) as error:
                if not follow:
                    raise
                patience.fail(error)

    def download(self, id: str, name: str, to: Path) -> Path:
        """Save a file of the job's directory as `to`, which appears when it is complete. When the connection breaks, it
        goes on where it was."""
        partial = to.with_name(f".{to.name}.part")
        patience = Patience(self)
        headers: dict[str, str] = {}
        try:
            with partial.open("wb") as file:
                while True:
                    try:
                        with self._stream("GET", download_path(id, name), headers=headers) as response:
                            if response.status_code != 206:  # all of it, perhaps because it has changed
                                file.seek(0)
                                file.truncate()
                            headers = {"if-range": response.headers.get("etag", "")}
                            for chunk in response.iter_bytes():
                                patience.renew()
                                file.write(chunk)
                        break
                    except (ServerUnreachable, RequestFailed) as error:
                        if not headers.get("if-range"):
                            raise
                        patience.fail(error)
                        headers["range"] = f"bytes={file.tell()}-"
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)
        return to

    # The cluster

    def apps(self) -> list[dict[str, Any]]:
        """The apps, as models.AppInfo in JSON."""
        apps: list[dict[str, Any]] = self._json("GET", "apps")
        return apps

    def hosts(self) -> list[dict[str, Any]]:
        """The Docker hosts, as models.HostInfo in JSON."""
        hosts: list[dict[str, Any]] = self._json("GET", "hosts")
        return hosts

    def drain(self, host: str, *, now: bool = False) -> dict[str, Any]:
        """Give a host no more work: the host. Its jobs go on to their end; `now`: they are stopped and run again
        elsewhere."""
        return dict(self._json("POST", f"hosts/{quote(host, safe='')}/drain", json={"now": now}))

    def undrain(self, host: str) -> dict[str, Any]:
        """Give a host work again: the host."""
        return dict(self._json("POST", f"hosts/{quote(host, safe='')}/undrain"))

    def doctor(self, *, fix: bool = False) -> dict[str, Any]:
        """What is wrong with the cluster, as doctor.Checkup in JSON. `fix`: what can be mended without harm is."""
        method, path = ("POST", "doctor/fix") if fix else ("GET", "doctor")
        return dict(self._json(method, path, timeout=CLEANING))

    def services(self) -> list[str]:
        """The names of the apps."""
        return list(self._json("GET", "status")["_services"])

    def clean(self, action: Literal["all", "scheduled", "containers", "old"]) -> str:
        """Clean up; the answer is the server's own words.

        all: cancel what waits, delete all jobs that do not run, and their directories. scheduled: the same, but keep
        the jobs that exited. containers: end the jobs that run, and remove left-over containers. old: remove the
        directories of jobs that are gone.
        """
        return self._request("GET", f"clean/{quote(action, safe='')}", timeout=CLEANING).text

    # HTTP

    @functools.cached_property
    def _http(self) -> httpx.Client:
        import httpx

        headers = {}
        if self.token:
            if not (self.token.isascii() and self.token.isprintable()):
                raise OrqalError("The token (ORQAL_TOKEN) holds characters that no token has.")
            headers["authorization"] = f"Bearer {self.token}"
        url = httpx.URL(self.base_url)
        return httpx.Client(
            # These take the place of the token's header.
            auth=self._credentials,
            headers=headers,
            timeout=httpx.Timeout(self.timeout, connect=min(5, self.timeout)),
            # A proxy from the environment is never the way to this very machine.
            trust_env=url.host not in ("localhost", "127.0.0.1", "::1"),
            # Loading the certificates takes a while that plain HTTP need not wait for.
            verify=url.scheme != "http",
        )

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._stream(method, path, **options) as response:
            response.read()
            return response

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return _parse(self._request(method, path, **options).content)

    def _ndjson(self, method: str, path: str, **options: Any) -> Iterator[dict[str, Any]]:
        with self._stream(method, path, **options) as response:
            for line in split_lines(response.iter_bytes()):
                if line.strip():
                    yield _parse(line)

    def _text(self, method: str, path: str, **options: Any) -> Iterator[str]:
        with self._stream(method, path, **options) as response:
            yield from response.iter_text()

    def _pages(self, what: str, limit: int, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """The first `limit` of a list that the server gives in parts."""
        cursor: dict[str, str] = {}
        while limit > 0:
            page = self._json("GET", what, params={**params, "limit": str(min(limit, PAGE)), **cursor})
            yield from page[what][:limit]
            limit -= len(page[what])
            if not page.get("cursor"):
                return
            cursor = {"cursor": page["cursor"]}

    @contextmanager
    def _stream(
        self, method: str, path: str, *, again: bool = True, **options: Any
    ) -> Generator[httpx.Response, None, None]:
        """An answer of which the body is still to be read; errors, here or while it is read, as ours. `again`: a
        server that is too busy to begin is asked again, for a while."""
        import httpx

        if "timeout" in options:
            options["timeout"] = httpx.Timeout(options["timeout"], connect=min(5, self.timeout))
        patience: Patience | None = None
        while True:
            try:
                with self._http.stream(method, f"{self.base_url}/{path}", **options) as response:
                    self.met = True
                    if response.is_success:
                        yield response
                        return
                    response.read()
                    failure = self._failure(response)
                    if not (again and busy(failure)):
                        raise failure
            except (
                httpx.ConnectError,
                httpx.ConnectTimeout,
                httpx.InvalidURL,
                httpx.ProxyError,
                httpx.UnsupportedProtocol,
            ) as error:
                raise ServerUnreachable(
                    f"No Orqal server at {self.base_url} ({error}). "
                    "Is it up? Start it with `orqal up`, or set ORQAL_API_URL."
                ) from error
            except httpx.TransportError as error:
                self.met = True
                what = str(error) or type(error).__name__
                raise ServerUnreachable(f"The connection to the server at {self.base_url} broke: {what}.") from error
            patience = patience or Patience(self)
            patience.fail(failure)

    def _failure(self, response: httpx.Response) -> RequestFailed:
        status = response.status_code
        detail = _detail(response)
        if status == 401:
            if self._credentials:
                sentence = f"The server at {self.base_url} wants its token as the password in ORQAL_API_URL."
            elif self.token:
                sentence = f"The server at {self.base_url} does not accept this token: set ORQAL_TOKEN to its own."
            else:
                sentence = f"The server at {self.base_url} wants a token: set ORQAL_TOKEN."
            return Unauthorized(f"{sentence} `orqal up` left it in the file ~/.orqal/token of its machine.", status)
        if status == 404:
            return NotFound(detail or f"{response.url} does not exist: is this an Orqal server?", status)
        wait = response.headers.get("retry-after", "")
        retry_after = min(float(wait), PATIENCE) if wait.isdecimal() else 0.0
        if status >= 500:
            return RequestFailed(
                f"The server failed ({status}): {detail or response.reason_phrase}", status, retry_after
            )
        return RequestFailed(detail or f"The server refused ({status} {response.reason_phrase}).", status, retry_after)


def _which(ids: Sequence[str], batch: str | None) -> dict[str, Any]:
    if batch is None:
        return {"ids": list(ids)}
    _check_batch_name(batch)
    return {"batch": batch}


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without user and password, and these, if it has them."""
    scheme, colon, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    given, _, host = authority.rpartition("@")
    user, _, password = given.partition(":")
    return f"{scheme}{colon}{host}{slash}{path}", (unquote(user), unquote(password)) if password else None


def _batch_part(name: str) -> str:
    """A batch's name as a part of a URL."""
    _check_batch_name(name)
    return quote(name, safe="")


def _check_batch_name(name: str) -> None:
    from orqal.models import check_batch_name

    try:
        check_batch_name(name)
    except ValueError as error:
        raise OrqalError(f"{name!r} is no name of a batch: {error}.") from None


def download_path(id: str | None, name: str) -> str:
    """Where, below the API, a file of a job's directory is."""
    return f"job/{quote(id or '', safe='')}/download/{quote(name, safe='/')}"


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise OrqalError("The answer is not JSON: is this an Orqal server?") from None


def _detail(response: httpx.Response) -> str:
    """What a FastAPI error says: a sentence, or a list of what is wrong where."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    if isinstance(detail, list):
        wrongs = [d for d in detail if isinstance(d, dict)]
        return "; ".join(f"{'.'.join(str(part) for part in d.get('loc', ()))}: {d.get('msg', '')}" for d in wrongs)
    return str(detail)
