"""Orqal from Python: jobs, batches, waiting for them. Speaks HTTP only.

`Job`, `batch`, `wait` and `services` are for notebooks and scripts. They share one `Client`, which the
command line uses too: a thin, typed face of the HTTP API over a persistent connection.
"""

from __future__ import annotations

import codecs
import functools
import getpass
import html
import json
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orqal.models import Change, JobRecord, Status
from orqal.settings import DEFAULT_API_URL, Settings

if TYPE_CHECKING:
    import httpx
    from rich.progress import Task
    from rich.text import Text

SLICE = 1_000
"""Jobs in one request to submit."""
PATIENCE = 60.0
"""Seconds without the server after which a wait gives up."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries to reach the server again, at most."""
SILENCE = 30.0
"""Seconds of silence after which a stream of changes counts as broken; the server sends a line every 10."""
ANSWER = 60.0
"""Seconds in which the server must begin its answer, and go on with it."""
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
"""The media type of a job's output with both streams in it."""
STDOUT, STDERR = 1, 2
"""The streams' numbers in it."""


# Errors -------------------------------------------------------------------------------------------


class OrqalError(Exception):
    """What went wrong, in a sentence that says what to do. The base of all errors here."""


class ServerUnreachable(OrqalError):
    """No connection to the server, or it broke."""


class RequestFailed(OrqalError):
    """The server answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status code."""


class Unauthorized(RequestFailed):
    """The server wants a token, or another one."""


class NotFound(RequestFailed):
    """There is no such job, batch or file."""


class SubmissionFailed(OrqalError):
    """Some jobs were submitted, and then no more."""

    def __init__(self, message: str, submitted: Sequence[str]) -> None:
        super().__init__(message)
        self.submitted = list(submitted)
        """The ids of the first jobs, which are submitted."""


# The streams --------------------------------------------------------------------------------------


class LogParser:
    """Takes Docker's multiplexed stream apart, however it is cut into chunks.

    Each frame is 8 bytes of header (the stream's number, three zeros, the length as a big-endian uint32) and
    the bytes themselves. These are handed on as they come: a frame need not be complete, nor fit into memory.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._source = STDOUT
        self._missing = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The pieces of output in this chunk: (STDOUT or STDERR, bytes). OrqalError: it is no such stream."""
        view = memoryview(chunk)
        while view:
            if self._missing:
                piece = bytes(view[: self._missing])
                view = view[len(piece) :]
                self._missing -= len(piece)
                yield self._source, piece
                continue
            wanted = 8 - len(self._header)
            self._header += view[:wanted]
            view = view[wanted:]
            if len(self._header) == 8:
                if self._header[0] not in (STDOUT, STDERR) or any(self._header[1:4]):
                    raise OrqalError("The job's output came in a form that this client does not know.")
                self._source = self._header[0]
                self._missing = int.from_bytes(self._header[4:], "big")
                self._header.clear()

    @property
    def complete(self) -> bool:
        """True between two frames: the stream may end here."""
        return not self._header and not self._missing


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream of bytes, ended by "\\n" and nothing else: U+2028, say, may stand in JSON."""
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        pieces.append(first)
        for piece in rest:
            yield b"".join(pieces)
            pieces = [piece]
    if last := b"".join(pieces):
        yield last


# The connection -----------------------------------------------------------------------------------


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

        `timeout`: seconds in which the server must begin its answer, and go on with it.
        """
        settings = Settings()
        self.base_url = (base_url or find_api(settings)).rstrip("/")
        self.token = token or settings.token
        self.timeout = timeout
        self._met = False

    # Jobs

    def submit(self, document: bytes) -> str:
        """Submit one job, a JSON document; the answer is its id."""
        content = {"content-type": "application/json"}
        return self._request("POST", "job", content=document, headers=content).text.strip()

    def submit_many(self, documents: Iterable[bytes], batch: str | None = None) -> Iterator[str]:
        """Submit jobs, a JSON document each, in slices as the ids are taken; yields the ids in that order.

        `batch`: the name that they join. SubmissionFailed: it went wrong after the first ids.
        """
        documents = iter(documents)
        submitted: list[str] = []
        try:
            while part := list(islice(documents, SLICE)):
                before = len(submitted)
                for id in self._submit_slice(part, batch, before):
                    submitted.append(id)
                    yield id
                if len(submitted) - before != len(part):
                    raise OrqalError("The server's answer ended early.")
        except OrqalError as error:
            if not submitted:
                raise
            raise SubmissionFailed(
                f"{error} The first {len(submitted):,} jobs are submitted and go on, the others are not. Submitting "
                "all again is safe where use_cache is on: what has succeeded or runs is not run twice.",
                submitted,
            ) from error

    def _submit_slice(self, documents: Sequence[bytes], batch: str | None, before: int) -> Iterator[str]:
        # Chunks of some 100 documents: few enough system calls, and no copy of the whole.
        chunks = (b"".join(d + b"\n" for d in documents[i : i + 100]) for i in range(0, len(documents), 100))
        headers = {"content-type": "application/x-ndjson"}
        params = {} if batch is None else {"batch": batch}
        for line in self._ndjson("POST", "jobs", content=chunks, headers=headers, params=params):
            if "error" in line:
                # The server counts within this request.
                number = int(line["document"])
                why = str(line["error"]).removeprefix(f"document {number}: ").rstrip(".")
                raise OrqalError(f"The server did not take job number {before + number:,}: {why}.")
            yield str(line["_id"])

    def job(self, id: str) -> dict[str, Any]:
        """All of a job: its record, output and result."""
        job: dict[str, Any] = self._json("GET", f"job/{quote(id, safe='')}")
        return job

    def jobs(self, limit: int = 100, **filters: str | None) -> Iterator[dict[str, Any]]:
        """The newest jobs, without output and result. Filters: status, app, user, batch, host."""
        params = {name: value for name, value in filters.items() if value is not None}
        while limit > 0:
            page = self._json("GET", "jobs", params={**params, "limit": str(min(limit, SLICE))})
            yield from page["jobs"][:limit]
            limit -= len(page["jobs"])
            if not page.get("cursor"):
                return
            params["cursor"] = page["cursor"]

    def counts(self) -> dict[str, int]:
        """How many jobs are in which state."""
        counts: dict[str, int] = self._json("GET", "jobs/status")
        return counts

    def cancel(self, ids: Sequence[str] = (), *, batch: str | None = None) -> int:
        """Cancel these jobs, or all of a batch; the answer is how many had not ended yet."""
        answer = self._json("POST", "jobs/cancel", json=_which(ids, batch))
        return int(answer["cancelled"])

    def changes(
        self, ids: Iterable[str] = (), *, batch: str | None = None, timeout: float | None = None
    ) -> Iterator[Change]:
        """The ends of these jobs, or of all of a batch, as they come; those that have ended already at once.

        One stream, no polling. When it breaks it is opened again for the rest. TimeoutError: not all ended in
        `timeout` seconds. NotFound: a job does not exist. ServerUnreachable: a minute without the server.
        """
        left = dict.fromkeys(id.lower() for id in ids)
        told: set[str] = set()
        patience = _Patience(self, timeout)
        while left or batch is not None:
            try:
                with (
                    self._stream(
                        "POST", "jobs/wait", json=_which(list(left), batch), timeout=patience.cut(SILENCE)
                    ) as response,
                    _cut_off(response, patience.left()),
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
        return [job["$oid"] for job in self._json("GET", f"batch/{quote(name, safe='')}")["jobs"]]

    def batch(self, name: str) -> dict[str, Any]:
        """How far a batch is: `jobs`, `status`, `ok`, `failed`. NotFound: no such batch."""
        batch: dict[str, Any] = self._json("GET", f"batches/{quote(name, safe='')}")
        return batch

    def results(self, name: str) -> Iterator[dict[str, Any]]:
        """The results of a batch, one by one, in the order of submission. NotFound: no such batch."""
        return self._ndjson("GET", f"batches/{quote(name, safe='')}/results")

    # Output and files

    def logs(self, id: str, *, follow: bool = False, stream: str = "both") -> Iterator[tuple[int, bytes]]:
        """A job's output: (STDOUT or STDERR, bytes). `stream`: stdout, stderr or both.

        `follow`: from its start to its end, live. When the connection breaks, it goes on where it was.
        """
        seen: Counter[int] = Counter()
        patience = _Patience(self)
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
        """Save a file of the job's directory as `to`, which appears when it is complete."""
        partial = to.with_name(f".{to.name}.part")
        try:
            with self._stream("GET", _download_path(id, name)) as response, partial.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
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

    def services(self) -> list[str]:
        """The names of the apps."""
        return list(self._json("GET", "status")["_services"])

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

    @contextmanager
    def _stream(self, method: str, path: str, **options: Any) -> Generator[httpx.Response, None, None]:
        """An answer of which the body is still to be read; errors, here or while it is read, as ours."""
        import httpx

        if "timeout" in options:
            options["timeout"] = httpx.Timeout(options["timeout"], connect=min(5, self.timeout))
        try:
            with self._http.stream(method, f"{self.base_url}/{path}", **options) as response:
                if not response.is_success:
                    response.read()
                    raise self._failure(response)
                self._met = True
                yield response
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.InvalidURL,
            httpx.UnsupportedProtocol,
        ) as error:
            raise ServerUnreachable(
                f"No Orqal server at {self.base_url} ({error}). "
                "Is it up? Start it with `orqal up`, or set ORQAL_API_URL."
            ) from error
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise ServerUnreachable(f"The connection to the server at {self.base_url} broke: {what}.") from error

    def _failure(self, response: httpx.Response) -> RequestFailed:
        status = response.status_code
        detail = _detail(response)
        if status == 401:
            if self.token:
                sentence = f"The server at {self.base_url} does not accept this token: set ORQAL_TOKEN to its own."
            else:
                sentence = f"The server at {self.base_url} wants a token: set ORQAL_TOKEN."
            return Unauthorized(f"{sentence} `orqal up` left it in the file ~/.orqal/token of its machine.", status)
        if status == 404:
            return NotFound(detail or f"{response.url} does not exist: is this an Orqal server?", status)
        if status >= 500:
            return RequestFailed(f"The server failed ({status}): {detail or response.reason_phrase}", status)
        return RequestFailed(detail or f"The server refused ({status} {response.reason_phrase}).", status)


def _which(ids: Sequence[str], batch: str | None) -> dict[str, Any]:
    return {"ids": list(ids)} if batch is None else {"batch": batch}


def _download_path(id: str | None, name: str) -> str:
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


class _Patience:
    """How long a stream that broke is tried again: until PATIENCE or the caller's own timeout is over."""

    def __init__(self, client: Client, timeout: float | None = None) -> None:
        self._client = client
        self._timeout = timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        self._pause = 0.1
        self._since = monotonic()

    def left(self) -> float | None:
        """Seconds of the caller's timeout that are left; None: it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def cut(self, seconds: float) -> float:
        """So many seconds, or what is left if that is less."""
        left = self.left()
        return seconds if left is None else max(min(seconds, left), 0.001)

    def renew(self) -> None:
        """The server is there."""
        self._pause = 0.1
        self._since = monotonic()

    def fail(self, error: OrqalError) -> None:
        """Pause before the next try, or raise: it makes no sense, or has been tried long enough."""
        left = self.left()
        if left == 0:
            raise TimeoutError(f"Not all jobs have ended after {self._timeout:g} seconds.") from error
        if not self._client._met or (isinstance(error, RequestFailed) and error.status < 500):
            raise error
        if monotonic() - self._since >= PATIENCE:
            raise ServerUnreachable(
                f"Gave up after {PATIENCE:g} seconds without the server. {error} The jobs themselves go on."
            ) from error
        sleep(self.cut(self._pause))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


@contextmanager
def _cut_off(response: httpx.Response, seconds: float | None) -> Generator[None, None, None]:
    """Break the connection after so many seconds; heartbeats keep the read timeout from doing that."""
    if seconds is None:
        yield
        return
    sock = response.extensions["network_stream"].get_extra_info("socket")

    def shut() -> None:
        with suppress(OSError):
            sock.shutdown(2)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@functools.lru_cache(maxsize=1)
def _connection(base_url: str, token: str | None, pid: int) -> Client:
    return Client(base_url, token)


def _client() -> Client:
    """The client that jobs share: as the environment is now, and never one that a fork has inherited."""
    settings = Settings()
    return _connection(find_api(settings), settings.token, os.getpid())


# Progress -----------------------------------------------------------------------------------------


class Progress:
    """How far a work is. This one shows nothing; its subclasses are bars in a terminal or a notebook."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self.failed = 0
        self._begun = monotonic()

    def advance(self, *, failed: bool = False) -> None:
        """One more is done."""
        self.done += 1
        self.failed += failed

    @property
    def rate(self) -> float:
        """How many a second, so far."""
        return self.done / max(monotonic() - self._begun, 0.001)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _TerminalProgress(Progress):
    """A bar on stderr: done of total, failed, rate, time left."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar
        from rich.text import Text

        outer = self

        class Figures(ProgressColumn):
            def render(self, task: Task) -> Text:
                text = Text(f"{outer.rate:,.1f}/s")
                if outer.failed:
                    text = Text.assemble((f"{outer.failed:,} failed", "red"), "  ", text)
                return text

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Figures(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=5,
        )
        self._task = self._bar.add_task(self.what, total=self.total)
        self._bar.start()
        return self

    def advance(self, *, failed: bool = False) -> None:
        super().advance(failed=failed)
        self._bar.advance(self._task)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _NotebookProgress(Progress):
    """A bar in the output of a notebook's cell: plain HTML, so that it needs no widgets."""

    def __enter__(self) -> Progress:
        display = import_module("IPython.display")
        self._html = display.HTML
        self._shown = monotonic()
        self._handle = display.display(self._html(self._text()), display_id=True)
        return self

    def _text(self) -> str:
        left = (self.total - self.done) / self.rate if self.done else 0
        parts = [f"{self.done:,} of {self.total:,}", f"{self.rate:,.1f}/s"]
        if self.failed:
            parts.insert(1, f'<span style="color:#c00">{self.failed:,} failed</span>')
        if left:
            parts.append(f"{int(left) // 60}:{int(left) % 60:02} left")
        bar = f'<progress value="{self.done}" max="{max(self.total, 1)}"></progress>'
        return f"<div>{html.escape(self.what)} {bar} {' · '.join(parts)}</div>"

    def _show(self) -> None:
        if self._handle is not None:
            self._handle.update(self._html(self._text()))

    def advance(self, *, failed: bool = False) -> None:
        super().advance(failed=failed)
        if monotonic() - self._shown > 0.2:
            self._shown = monotonic()
            self._show()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()


def progress_bar(what: str, total: int, show: bool | None = None) -> Progress:
    """What shows how far a work is. `show`: None is a bar in a notebook or a terminal, else nothing."""
    if show is False or total == 0:
        return Progress(what, total)
    ipython = sys.modules.get("IPython")
    if ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None:
        return _NotebookProgress(what, total)
    return _TerminalProgress(what, total) if show or sys.stderr.isatty() else Progress(what, total)


# For users ----------------------------------------------------------------------------------------

_FIELDS = frozenset(JobRecord.model_fields) - {"id"} | {"ok", "container", "stdout", "stderr", "result"}
"""What the server tells of a job, beside its id."""
_LISTS = frozenset({"lswd", "stdout", "stderr"})
_ASKED = ("app", "input", "params", "user", "use_cache", "threads", "memory_in_gb", "timeout")
"""What the user says of a job."""


class Job:
    """One app on one input.

    Attributes are the keys of the server's JSON: `app`, `input`, `params`, `user`, `current_status`, `host`,
    `image`, `cmd`, `exit_code`, `error`, `ok`, and once it has ended `stdout` and `stderr` (lists of lines),
    `result` and `lswd` (the names of the files in its directory). `load()` brings them up to date; what the
    job does not hold yet (after `wait()`, or with an id alone) is loaded when it is first looked at.
    """

    _id: str | None
    app: str | None
    input: Any
    params: dict[str, Any]
    user: str
    use_cache: bool
    threads: float | None
    memory_in_gb: float | None
    timeout: float | None
    batch: str | None
    current_status: str | None
    ok: bool | None
    exit_code: int | None
    error: dict[str, str] | None
    container: None
    host: str | None
    image: str | None
    cmd: Any
    container_id: str | None
    wd: str | None
    inspect: Any
    ctime: str | None
    stime: str | None
    etime: str | None
    lswd: list[str]
    stdout: list[str]
    stderr: list[str]
    result: Any

    def __init__(
        self,
        id: str | None = None,
        app: str | None = None,
        input: Any = None,
        params: Mapping[str, Any] | None = None,
        use_cache: bool = True,
        start: bool = False,
        *,
        threads: float | None = None,
        memory_in_gb: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """`id`: of a job that exists; otherwise the `app` to run on `input`, with `params`.

        `use_cache`: take the job of the same app, input and params if one waits, runs or has succeeded.
        `start`: submit it at once. `threads` (cores), `memory_in_gb` (10^9 bytes) and `timeout` (seconds):
        None is what the app says.
        """
        self._id = id
        self._loaded = False
        self.current_status = None
        if id is None or app is not None:
            self.app = app
            self.input = input
            self.params = dict(params or {})
            self.user = user_name()
            self.use_cache = use_cache
            self.threads = threads
            self.memory_in_gb = memory_in_gb
            self.timeout = timeout
        if start:
            self.create()

    def __getattr__(self, name: str) -> Any:
        # Called for what is not there yet.
        if name not in _FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self._id is not None and not self._loaded:
            self.load()
        return self.__dict__.setdefault(name, [] if name in _LISTS else None)

    @property
    def id(self) -> str | None:
        """24 hex digits; None before it is submitted."""
        return self._id

    @property
    def files(self) -> dict[str, str]:
        """The files of its directory, and where to download them (with the token; `download` sends it)."""
        return {name: f"{_client().base_url}/{_download_path(self._id, name)}" for name in self.lswd}

    def create(self) -> None:
        """Submit it. OrqalError says what is wrong with it."""
        self._id = _client().submit(self._document())
        self.load()

    def load(self) -> str | None:
        """Bring all attributes up to date; returns `current_status`."""
        record = _client().job(self._submitted())
        # A key of a later server must not hide a method of this class.
        self.__dict__.update({key: value for key, value in record.items() if not hasattr(type(self), key)})
        self._loaded = True
        return self.current_status

    def wait(self, timeout: float | None = None, progress: bool | None = False) -> None:
        """Return when it has ended. TimeoutError: it has not after `timeout` seconds."""
        wait([self], timeout, progress)

    def cancel(self) -> bool:
        """End it; False when it had ended already."""
        return _client().cancel([self._submitted()]) > 0

    def logs(self, follow: bool = False) -> Iterator[str]:
        """Its output so far, stdout and stderr as they came; `follow`: live, until it ends."""
        decode = {source: codecs.getincrementaldecoder("utf-8")("replace").decode for source in (STDOUT, STDERR)}
        for source, data in _client().logs(self._submitted(), follow=follow):
            if text := decode[source](data):
                yield text
        for flush in decode.values():
            if text := flush(b"", True):
                yield text

    def download(self, name: str, to: str | os.PathLike[str] = ".") -> Path:
        """Save the file `name` of its directory as `to`, or into the folder `to`; returns the path."""
        target = Path(to)
        if target.is_dir():
            target /= Path(name).name
        return _client().download(self._submitted(), name, target)

    def _submitted(self) -> str:
        if self._id is None:
            raise OrqalError(f"{self} has not been submitted: start=True, create() or batch() does that.")
        return self._id

    def _document(self) -> bytes:
        spec = {key: value for key in _ASKED if (value := getattr(self, key)) is not None}
        try:
            return json.dumps(spec, default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise OrqalError(f"{self} cannot be submitted, for it is not JSON: {error}.") from None

    def _end(self, change: Change) -> None:
        """Take in how it ended; the rest is loaded when it is looked at."""
        for name in _FIELDS.difference(_ASKED):
            self.__dict__.pop(name, None)
        self._loaded = False
        self.__dict__.update(change.model_dump(mode="json", exclude={"id"}))

    def _known(self, name: str) -> Any:
        return self.__dict__.get(name)

    def __str__(self) -> str:
        about = (self._id, self._known("app"), self._known("input"), self.current_status)
        return f"Job <{' | '.join(str(part) for part in about)}>"

    def __repr__(self) -> str:
        parts = [repr(self._id)]
        parts += [f"{key}={self._known(key)!r}" for key in ("app", "input", "params") if self._known(key)]
        parts += [self.current_status] if self.current_status else []
        parts += [f"exit_code={self._known('exit_code')}"] if self._known("exit_code") is not None else []
        if error := self._known("error"):
            parts.append(f"{error['type']}: {error['message']}")
        return f"Job({', '.join(parts)})"

    def _repr_html_(self) -> str:
        if self.current_status in (Status.EXITED, Status.ERROR):
            with suppress(OrqalError):
                _ = self.stdout
        rows = []
        for key in (
            "_id",
            "app",
            "input",
            "params",
            "current_status",
            "host",
            "exit_code",
            "error",
            "result",
        ):
            value = self._known(key)
            if value is not None and value != {}:
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                rows.append(f"<tr><th>{key.strip('_')}</th><td>{html.escape(_short(text))}</td></tr>")
        for key in ("stdout", "stderr"):
            if any(lines := self._known(key) or ()):
                text = html.escape(_short("\n".join(lines[-20:])))
                rows.append(f"<tr><th>{key}</th><td><pre>{text}</pre></td></tr>")
        return f'<table style="text-align:left">{"".join(rows)}</table>'


def user_name() -> str:
    """Who submits: the name that this machine has for the user, if any."""
    # In a container there may be no name for the user's number.
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _plain(value: Any) -> Any:
    """JSON for what users put into inputs and params: paths, and the numbers of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _short(text: str, limit: int = 2_000) -> str:
    return text if len(text) <= limit else text[:limit] + " …"


def batch(jobs: Iterable[Job], name: str | None = None, progress: bool | None = None) -> list[Job]:
    """Submit jobs, thousands if need be; returns them in the same order, with their ids.

    `name`: the batch can be asked for under it; if it exists already, nothing is submitted and the jobs that
    it names are returned. `progress`: None is a bar in a terminal or a notebook. A job that has an id already
    is submitted anew, as another job. SubmissionFailed: it went wrong midway.
    """
    jobs = list(jobs)
    client = _client()
    if name is not None:
        with suppress(NotFound):
            ids = client.batch_ids(name)
            if len(ids) != len(jobs):
                warnings.warn(
                    f"The batch {name!r} exists and has {len(ids):,} jobs, not the {len(jobs):,} given: those "
                    "are returned and nothing is submitted. Use another name to submit.",
                    stacklevel=2,
                )
            return [Job(id) for id in ids]
    # All are made into JSON before the first is sent: an input that cannot be costs nothing then.
    documents = [job._document() for job in jobs]
    submitted = []
    with progress_bar("Submitting", len(jobs), progress) as bar:
        for job, id in zip(jobs, client.submit_many(documents, name), strict=True):
            new = job if job._id is None else _again(job)
            new._id = id
            submitted.append(new)
            bar.advance()
    return submitted


def _again(job: Job) -> Job:
    twin = Job()
    twin.__dict__.update({key: getattr(job, key) for key in _ASKED})
    return twin


def wait(jobs: Iterable[Job], timeout: float | None = None, progress: bool | None = None) -> None:
    """Return when all these jobs have ended, well or not: see `ok`, `exit_code`, `error`, `result`.

    TimeoutError: they have not after `timeout` seconds. `progress`: None is a bar in a terminal or a
    notebook. A connection that breaks is made again; after a minute without the server it raises ServerUnreachable.
    """
    waiting: dict[str, list[Job]] = {}
    for job in jobs:
        waiting.setdefault(job._submitted().lower(), []).append(job)
    with progress_bar("Waiting", len(waiting), progress) as bar:
        for change in _client().changes(list(waiting), timeout=timeout):
            for job in waiting.get(change.id, ()):
                job._end(change)
            bar.advance(failed=not change.ok)


def services() -> list[str]:
    """The names of the apps."""
    return _client().services()
