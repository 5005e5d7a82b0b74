"""For notebooks and scripts: jobs, batches, waiting for them. They share one `Client`."""

from __future__ import annotations

import codecs
import functools
import getpass
import html
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orqal.client.api import Client, find_api
from orqal.client.awaiting import end_of
from orqal.client.downloads import Downloaded
from orqal.client.errors import JobsGone, NotFound, OrqalError
from orqal.client.progress import progress_bar
from orqal.client.submission import Child
from orqal.extended_json import decoded
from orqal.logstream import STDERR, STDOUT
from orqal.settings import Settings
from orqal.states import Status
from orqal.text import shorten

if TYPE_CHECKING:
    from orqal.models import Change

_LISTS = frozenset({"after", "lswd", "stdout", "stderr", "attempts"})
_RETRIES = ("retries", "retry_on", "retry_delay", "retry_memory_factor")
_REQUESTED = (
    *("app", "input", "params", "user", "use_cache", "threads", "memory_in_gb", "timeout", *_RETRIES),
    *("priority", "options", "after"),
)
"""The attributes that the user sets; the server sets all others."""
MAX_PARENTS = 1_000
"""Jobs and batches that one job can wait after."""
SHOWN_CHARACTERS = 2_000
"""Characters of a value or an output that a notebook shows."""
SHOWN_LINES = 20
"""Lines of an output that a notebook shows."""


class Job:
    """One app on one input.

    Its attributes are the keys of the server's JSON: `app`, `input`, `params`, `user`, `priority`, `current_status`,
    `host`, `why_there` (why it was given to this host), `image`, `cmd`, `exit_code`, `error` and `ok`. After its end
    there are also `stdout` and `stderr` (lists of lines), `result`, `lswd` (the names of the files in its directory),
    `image_digest`, `wrapper_digest` (of the wrapper's source), `peak_memory` (bytes), `cpu_seconds`, `oom_killed`
    (whether a process was killed for lack of memory), and `output_cut` (why a part of the output is missing).
    `cache_miss` says why no earlier job was reused, and `cache_hits` is how often this job was reused; `reused` says
    whether an earlier job was reused for this one. `attempts` are the attempts before the present one, `attempt` is the
    number of the present one, and `not_before` is the time before which it does not begin. `retry_of` and `retried_as`
    are ids.

    `load()` brings all of them up to date. An attribute that is not known yet (of a job made from its id, or after
    `wait()`) is loaded when it is first read.
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
    retries: int | None
    retry_on: Sequence[int | str] | None
    retry_delay: float | None
    retry_memory_factor: float | None
    priority: int | None
    options: dict[str, Any] | None
    after: Sequence[Any]
    batch: str | None
    current_status: str | None
    ok: bool | None
    exit_code: int | None
    attempt: int | None
    attempts: list[dict[str, Any]]
    not_before: str | None
    error: dict[str, str] | None
    container: None
    host: str | None
    why_there: str | None
    image: str | None
    image_digest: str | None
    wrapper_digest: str | None
    cmd: Any
    container_id: str | None
    wd: str | None
    inspect: Any
    peak_memory: int | None
    cpu_seconds: float | None
    oom_killed: bool | None
    output_cut: str | None
    cache_miss: str | None
    cache_hits: int | None
    cache_last_hit: str | None
    retry_of: str | None
    retried_as: str | None
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
        retries: int | None = None,
        retry_on: Sequence[int | str] | None = None,
        retry_delay: float | None = None,
        retry_memory_factor: float | None = None,
        priority: int | None = None,
        options: Mapping[str, Any] | None = None,
        after: Parent | Sequence[Parent | Sequence[Job]] = (),
    ) -> None:
        """Give either the `id` of a job that exists, or the `app` to run on `input`, with `params`.

        `use_cache`: reuse a job with the same app, input and params that waits, runs or succeeded. `start`: submit it
        at once. `threads` (cores), `memory_in_gb` (10^9 bytes), `timeout` (seconds): None stands for the app's own.

        `retries`: how often it is tried again if its program fails, 100 at most. `retry_on`: the failures to retry:
        exit codes, "exit_code" (any but 0), "timeout", "out_of_memory". `retry_delay`: seconds before the first retry,
        and twice as many before each further one. `retry_memory_factor`: after "out_of_memory" the next attempt gets
        this many times the memory, at most that of the largest host. None stands for the app's own.

        `priority`: from -100 to 100; jobs with a higher one go first, those of other users too. None stands for 0.

        `after`: it starts when these have succeeded: jobs, their ids, or "batch:NAME" for all jobs of a batch. Of
        `any_of(…)` they must only have ended. It ends as "dependency_failed" if one fails that must not.

        `options`: of its container, instead of the app's: {"shm_size": "1g", "gpus": 1}. The app says which jobs may
        set.
        """
        self._id = id
        self._loaded = False
        self.reused: bool | None = None
        """True if an earlier job was reused for it when it was submitted, False if not; None if that is not known."""
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
            self.retries = retries
            self.retry_on = retry_on
            self.retry_delay = retry_delay
            self.retry_memory_factor = retry_memory_factor
            self.priority = priority
            self.options = dict(options) if options else None
            self.after = _parents(after)
        if start:
            self.create()

    def __getattr__(self, name: str) -> Any:
        # Python calls this for attributes that are not set.
        if name not in _fields():
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self._id is not None and not self._loaded:
            self.load()
        return self.__dict__.setdefault(name, [] if name in _LISTS else None)

    @property
    def id(self) -> str | None:
        """24 hex digits, or None before it is submitted."""
        return self._id

    @property
    def files(self) -> dict[str, str]:
        """The URL of each file in its directory and in all folders there, by name, also while it runs.

        The URLs need the token, which `download` sends.
        """
        if self._id is None:
            return {}
        client = _client()
        return {file.name: f"{client.base_url}/{file.path}" for file in client.files(self._id) if file.is_regular}

    def create(self) -> None:
        """Submit it.

        Raises:
            OrqalError: the server cannot be reached, or refuses the job.
        """
        self._id, self.reused = _client().submit_one(self._document())
        self.load()

    def load(self) -> str | None:
        """Bring all attributes up to date, and return `current_status`."""
        record = _client().job(self._submitted())
        record["result"] = decoded(record.get("result"))
        # A newer server may send a key that is the name of a method of this class; it must not hide the method.
        self.__dict__.update({key: value for key, value in record.items() if not hasattr(type(self), key)})
        self._loaded = True
        return self.current_status

    def wait(self, timeout: float | None = None, progress: bool | None = False) -> None:
        """Return when it has ended.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds.
        """
        wait([self], timeout, progress)

    def __await__(self) -> Generator[Any, None, Job]:
        """Return this job when it has ended: `await job`, or `await asyncio.gather(*jobs)` for many."""
        return self._awaited().__await__()

    async def _awaited(self) -> Job:
        self._end(await end_of(self._submitted().lower(), _client().changes))
        return self

    def cancel(self) -> bool:
        """Cancel it. Return False if it had ended already."""
        return _client().cancel([self._submitted()]) > 0

    def retry(self) -> Job:
        """Run it again. Return the new job, which takes its place in its batches.

        Raises:
            RequestFailed: it has not ended, or it succeeded.
        """
        self.retried_as = _client().retry(self._submitted())
        return Job(self.retried_as)

    def explain(self) -> str:
        """Return why it is in its state, in sentences."""
        return str(_client().explain(self._submitted())["summary"])

    def logs(self, follow: bool = False) -> Iterator[str]:
        """Yield its output so far, stdout and stderr mixed as they were written. `follow`: live, until it ends."""
        decode = {source: codecs.getincrementaldecoder("utf-8")("replace").decode for source in (STDOUT, STDERR)}
        for source, data in _client().logs(self._submitted(), follow=follow):
            if text := decode[source](data):
                yield text
        for flush in decode.values():
            if text := flush(b"", True):
                yield text

    def download(self, name: str, to: str | os.PathLike[str] = ".") -> Path:
        """Save the file `name` of its directory as `to`, or in the folder `to`. Return the path.

        Raises:
            NotFound: there is no such file.
        """
        target = Path(to)
        if target.is_dir():
            target /= Path(name).name
        return _client().download(self._submitted(), name, target)

    def download_all(
        self, to: str | os.PathLike[str], patterns: str | Sequence[str] = (), *, progress: bool | None = None
    ) -> Downloaded:
        """Save all files of its directory, or those that match a pattern, in the folder `to`. See `orqal.download`."""
        return _client().download_all(
            [self._submitted()], Path(to), _listed(patterns), folders=False, progress=progress
        )

    def _submitted(self) -> str:
        if self._id is None:
            raise OrqalError(f"{self} has not been submitted. Use start=True, create() or batch().")
        return self._id

    def _document(self, priority: int | None = None, id_of: Callable[[Job], str] | None = None) -> bytes:
        """Return it as JSON. `priority`: if it has none of its own. `id_of`: the ids of its parents."""
        defaults = {} if priority is None else {"priority": priority}
        spec = defaults | {key: value for key in _REQUESTED if (value := getattr(self, key)) is not None}
        if not spec.pop("after", None):  # older servers do not know it
            after = []
        else:
            after = list(_texts(self.after, id_of or Job._submitted))
            spec["after"] = after
        if len(after) > MAX_PARENTS:
            raise OrqalError(
                f"{self} waits after {len(after):,} jobs; {MAX_PARENTS:,} can be named. Give them a batch with a name, "
                'and write after="batch:NAME".'
            )
        try:
            return json.dumps(spec, default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise OrqalError(f"{self} cannot be submitted, because it is not JSON: {error}.") from None

    def _end(self, change: Change) -> None:
        """Set how it ended. All other attributes are loaded when they are read."""
        for name in _fields().difference(_REQUESTED):
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
                _ = self.stdout  # loads all attributes
        rows = []
        for key in ("_id", "app", "input", "params", "current_status", "host", "exit_code", "error", "result"):
            value = self._known(key)
            if value is not None and value != {}:
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                shown = html.escape(shorten(text, SHOWN_CHARACTERS))
                rows.append(f"<tr><th>{key.strip('_')}</th><td>{shown}</td></tr>")
        for key in ("stdout", "stderr"):
            if any(lines := self._known(key) or ()):
                shown = html.escape(shorten("\n".join(lines[-SHOWN_LINES:]), SHOWN_CHARACTERS))
                rows.append(f"<tr><th>{key}</th><td><pre>{shown}</pre></td></tr>")
        return f'<table style="text-align:left">{"".join(rows)}</table>'


class AnyOf:
    """Jobs and batches that must only have ended: see `any_of`."""

    def __init__(self, parents: Sequence[Parent | Sequence[Job]]) -> None:
        self.parents = parents

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(repr, self.parents))})"


def any_of(*parents: Parent | Sequence[Job]) -> AnyOf:
    """Return what `Job(after=…)` takes for jobs and batches that must have ended, whether they succeeded or not."""
    return AnyOf(parents)


Parent = str | Job | AnyOf


def _texts(parents: Iterable[Any], id_of: Callable[[Job], str], start: str = "") -> Iterator[str]:
    """Yield parents as a job's JSON has them."""
    for parent in parents:
        if isinstance(parent, str):
            yield parent if parent.startswith("any:") else start + parent
        elif isinstance(parent, Job):
            yield start + id_of(parent)
        elif isinstance(parent, AnyOf):
            yield from _texts(parent.parents, id_of, "any:")
        else:
            yield from _texts(parent, id_of, start)


def _documents(jobs: Sequence[Job], priority: int | None) -> list[bytes | Child]:
    """Return the jobs as JSON. One that waits after others of them is made when these have ids.

    Raises:
        OrqalError: a job is not JSON, or waits after a job that is not submitted and does not come before it.
    """
    places: dict[Job, int] = {}
    documents: list[bytes | Child] = []
    for place, job in enumerate(jobs):
        parents: list[int] = []

        def id_of(parent: Job, job: Job = job, parents: list[int] = parents) -> str:
            if parent._id is not None:
                return parent._id
            if parent not in places:
                raise OrqalError(f"{job} waits after {parent}, which is not submitted and does not come before it.")
            parents.append(places[parent])
            return "0" * 24  # as long as an id

        document = job._document(priority, id_of)
        documents.append(Child(parents, partial(_child, job, priority, places)) if parents else document)
        if job._id is None:
            places.setdefault(job, place)
    return documents


def _child(job: Job, priority: int | None, places: Mapping[Job, int], ids: Sequence[str | None]) -> bytes:
    return job._document(priority, lambda parent: str(ids[places[parent]]) if parent in places else parent._submitted())


def _parents(after: Parent | Sequence[Parent | Sequence[Job]]) -> list[Any]:
    return [after] if isinstance(after, str | Job | AnyOf) else list(after)


@functools.cache
def _fields() -> frozenset[str]:
    """Return the names of the attributes that the server may send, without the id."""
    from orqal.models import JobRecord

    return frozenset({*JobRecord.model_fields, *Job.__annotations__}) - {"id", "_id"}


def user_name() -> str:
    """Return the name of the user who submits, or an empty string if it is not known."""
    # In a container the user's id may have no name.
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _plain(value: Any) -> Any:
    """Return a path or a number of numpy, which users put into inputs and params, as a JSON value."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_time = getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")  # `item` may make a bare number of it
    if hasattr(value, "item") and getattr(value, "shape", None) == () and not is_time:
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


class _Batch:
    """What `batch` is: it submits jobs, and `batch.map` makes them first."""

    def __call__(
        self, jobs: Iterable[Job], name: str | None = None, progress: bool | None = None, *, priority: int | None = None
    ) -> list[Job]:
        """Submit jobs, from one to very many. Return them in the same order, with their ids.

        `name`: the name of the batch. If the batch exists already, nothing is submitted and its jobs are returned; if
        an earlier call stopped midway, the rest is submitted. `progress`: None shows a bar in a terminal or a notebook,
        and nothing elsewhere. `priority`: that of jobs without one of their own.

        A job can wait `after` others that come before it. A job that has an id already is submitted again, as another
        job.

        Raises:
            SubmissionFailed: some jobs were submitted, the others were not.
            OrqalError: no job was submitted.
        """
        return _submit(jobs, name, progress, priority=priority)

    def map(
        self,
        app: str,
        inputs: Iterable[Any],
        params: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
        name: str | None = None,
        progress: bool | None = None,
        *,
        after_each: Sequence[Parent | Sequence[Job]] | None = None,
        **fields: Any,
    ) -> list[Job]:
        """Submit a job of an app for each input, or, if `params` is a list such as that of `grid`, for each input with
        each of them. Return the jobs in this order.

        `after_each`: what the jobs of each input wait after: as many parents as there are inputs. `name` and
        `progress`: as of `batch`. `fields`: further arguments of `Job`, the same for all.

        Raises:
            ValueError: there are not as many parents as inputs.
            SubmissionFailed: some jobs were submitted, the others were not.
            OrqalError: no job was submitted.
        """
        inputs = list(inputs)
        if after_each is not None and len(after_each) != len(inputs):
            raise ValueError(f"after_each has {len(after_each):,} parents for {len(inputs):,} inputs")
        every = [params or {}] if params is None or isinstance(params, Mapping) else list(params)
        parents: Iterable[Parent | Sequence[Job]] = after_each or repeat(())
        common = _parents(fields.pop("after", ()))
        jobs = [
            Job(app=app, input=input, params=each, after=[*common, parent] if parent else common, **fields)
            for input, parent in zip(inputs, parents, strict=False)
            for each in every
        ]
        return _submit(jobs, name, progress)


batch = _Batch()


def _submit(
    jobs: Iterable[Job], name: str | None = None, progress: bool | None = None, *, priority: int | None = None
) -> list[Job]:
    jobs = list(jobs)
    client = _client()
    if name is not None:
        with suppress(NotFound):
            ids = client.batch_ids(name)
            if len(ids) > len(jobs):
                warnings.warn(
                    f"The batch {name!r} exists and has {len(ids):,} jobs, not the {len(jobs):,} given. Its jobs are "
                    "returned and nothing is submitted. Use another name to submit these.",
                    stacklevel=3,
                )
            if len(ids) >= len(jobs):
                return [Job(id) for id in ids]
    # All are made into JSON before the first one is sent, so that an impossible input costs nothing.
    documents = _documents(jobs, priority)
    submitted = []
    submission = client.submit_many(documents, name, resume=name is not None)
    with progress_bar("Submitting", len(jobs), progress) as bar:
        reused = 0
        for job, id in zip(jobs, submission, strict=True):
            new = job if job._id is None else _copy(job)
            new._id, new.reused, reused = id, submission.cached > reused, submission.cached
            submitted.append(new)
            if reused:
                bar.what = f"Submitting, {reused:,} reused"
            bar.advance()
    return submitted


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the params of each job of a sweep: all combinations of these values. The last parameter varies fastest."""
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


def _copy(job: Job) -> Job:
    copy = Job()
    copy.__dict__.update({key: getattr(job, key) for key in _REQUESTED})
    return copy


def wait(jobs: Iterable[Job], timeout: float | None = None, progress: bool | None = None) -> None:
    """Return when all these jobs have ended, successfully or not: see `ok`, `exit_code`, `error`, `result`.

    `progress`: None shows a bar in a terminal or a notebook, and nothing elsewhere. A broken connection is made again.

    A job that is not on the server any more has ended: a warning says how many there are.

    Raises:
        TimeoutError: some have not ended after `timeout` seconds.
        NotFound: none of them is on the server.
        ServerUnreachable: the server has been away for five minutes.
    """
    waiting: dict[str, list[Job]] = {}
    for job in jobs:
        waiting.setdefault(job._submitted().lower(), []).append(job)
    with progress_bar("Waiting", len(waiting), progress) as bar:
        try:
            for change in _client().changes(list(waiting), timeout=timeout):
                for job in waiting.get(change.id, ()):
                    job._end(change)
                bar.advance(failed=not change.ok)
        except JobsGone as error:
            if bar.done == 0:
                raise
            warnings.warn(str(error), stacklevel=2)


def download(
    jobs: Iterable[Job],
    to: str | os.PathLike[str],
    patterns: str | Sequence[str] = (),
    *,
    progress: bool | None = None,
) -> Downloaded:
    """Save the files of jobs in the folder `to`, in a folder for each job, named by its id. Return what came of it.

    `patterns`: only files that match one of them, as in a shell: "*.csv" in any folder, "plots/*" by the path. What is
    here already is kept, and what was interrupted is continued, so the same call again goes on. `progress`: None shows
    a bar in a terminal or a notebook, and nothing elsewhere.

    What cannot be downloaded, for example because its host is away, is in `failed` of what is returned.

    Raises:
        ServerUnreachable: the server has been away for five minutes.
    """
    ids = [job._submitted() for job in jobs]
    return _client().download_all(ids, Path(to), _listed(patterns), progress=progress)


def _listed(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def services() -> list[str]:
    """Return the names of the apps that jobs can use."""
    return _client().services()


@functools.lru_cache(maxsize=1)
def _connection(base_url: str, token: str | None, pid: int) -> Client:
    return Client(base_url, token)


def _client() -> Client:
    """Return the client that all jobs share. The settings may change, and a connection does not survive a fork, so
    there is one for each URL, token and process."""
    settings = Settings()
    return _connection(find_api(settings), settings.token, os.getpid())
