"""Runs a wrapper for one input without a cluster, so that its author can test it.

    from orqal.testing import Container, run

    def test_words_are_counted():
        ended = run(CountWords, "in.txt", container=Container(stdout="12 in.txt"))
        assert ended.command.cmd == ["wc", "-w", "in.txt"] and ended.result == {"words": 12}

Its methods are called as Orqal calls them, but in this process. Its container is played by default, because a test of a
wrapper needs no Docker; with engine="docker" it is a real one.
"""

from __future__ import annotations

import asyncio
import json
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from orqal.actors.host.container_run import ContainerRun, HostParts
from orqal.actors.host.engine_watch import EngineWatch
from orqal.actors.host.image_pulls import ImagePulls
from orqal.actors.messages import Order
from orqal.actors.metrics import Metrics
from orqal.engine import file_listing, job_directory
from orqal.engine.errors import Unreachable
from orqal.extended_json import decoded
from orqal.models import AppInfo, ErrorType, JobError, JobRecord, JobSpec, Outcome, Output, Resources, Status, now
from orqal.scheduling.lifecycle import Wish
from orqal.settings import Settings
from orqal.testing.run_folders import clear, make_folder
from orqal.wrappers import calls
from orqal.wrappers.base import AbstractWrapper, GivenParents, ParentJob, ParentReader
from orqal.wrappers.calls import Command
from orqal.wrappers.description import describe
from orqal.wrappers.loading import WrapperRef, checked

CONNECT_WITHIN = 10.0
"""Seconds within which the Docker daemon must answer."""
_ID = "0" * 24
"""The id of the job: a wrapper's command may contain it, so it is the same each time."""


@dataclass(frozen=True)
class Container:
    """What a played container does."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """The files that it writes to the job's directory: name -> content."""


@dataclass(frozen=True, eq=False)
class WrapperRun:
    """How the run of a wrapper went."""

    status: Status
    """`exited`: the container has ended by itself. `error`: see `error`."""
    error: JobError | None
    command: Command | None
    """What the wrapper wanted to run; None if get_cmd failed."""
    exit_code: int | None
    stdout: str
    stderr: str
    """The output as it is kept with a job. If it is larger than ORQAL_OUTPUT_CAP, this is its end."""
    result: Any
    """What set_result made of the output."""
    files: tuple[str, ...]
    """The names of the files in the job's directory."""
    directory: Path
    """The job's directory. If `run` was given no folder, it exists as long as this object."""

    @property
    def ok(self) -> bool:
        """True if the program exited with 0 and the wrapper made its result."""
        return self.status is Status.EXITED and self.exit_code == 0


class _GivenClass(WrapperRef):
    """A wrapper whose class is at hand: it need not be loaded."""

    def __init__(self, wrapper: type[AbstractWrapper]) -> None:
        makes_result = wrapper.set_result is not AbstractWrapper.set_result
        super().__init__(wrapper.__name__, trusted=True, makes_result=makes_result)
        object.__setattr__(self, "_wrapper", wrapper)

    def load(self) -> type[AbstractWrapper]:
        return self._wrapper  # type: ignore[attr-defined, no-any-return] # WrapperRef is frozen


async def _nothing(*_: object) -> None:
    """What an attempt need not do here."""


async def _itself(ref: WrapperRef) -> WrapperRef:
    """A class that is given needs nothing."""
    return ref


class _ThisProcess:
    """Calls a wrapper's methods in this process, so that a debugger can follow."""

    async def call(self, app: str, what: str, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def run(
    wrapper: type[AbstractWrapper],
    input: Any = None,
    params: Mapping[str, Any] | None = None,
    *,
    engine: Literal["played", "docker"] = "played",
    container: Container | Callable[[Command, Path], Container] = Container(),
    folder: Path | None = None,
    user: str = "",
    options: Mapping[str, Any] | None = None,
    parents: Sequence[ParentJob] = (),
) -> WrapperRun:
    """Run a wrapper for one input, and return how it went.

    `options`: what the job asks of its container, such as {"shm_size": "1g"}. `parents`: the jobs that it has waited
    for, such as ParentJob("1", "CountWords", result={"words": 12}).

    `container`: what a played container does, or a function that says so, given the command and the job's directory.
    `folder`: where the job's directory is made; by default a temporary folder. With engine="docker" the container runs
    on this machine's Docker, is removed afterwards, and its image must be there or be pulled.

    Raises:
        ValueError: an attribute of the wrapper or an option has an impossible value, or a played container writes files
            though the wrapper has create_dir = False.
        ConnectionError: no Docker daemon answers.
    """
    wrapper = checked(wrapper, getattr(wrapper, "__name__", str(wrapper)))
    app = describe(wrapper, wrapper.__name__, "given")
    if app.error:
        raise ValueError(app.error)
    spec = JobSpec(app=wrapper.__name__, input=input, params=dict(params or {}), user=user, options=dict(options or {}))
    job = JobRecord.submitted(spec, _ID, now())
    ref = _GivenClass(wrapper)
    if folder is not None:
        return _run_in(folder, job, app, ref, engine, container, GivenParents(parents))
    home = make_folder()
    try:
        ended = _run_in(home, job, app, ref, engine, container, GivenParents(parents))
    except BaseException:
        clear(home)
        raise
    weakref.finalize(ended, clear, home)
    return ended


def _run_in(
    home: Path,
    job: JobRecord,
    app: AppInfo,
    ref: WrapperRef,
    engine: Literal["played", "docker"],
    container: Container | Callable[[Command, Path], Container],
    parents: ParentReader,
) -> WrapperRun:
    """Run a wrapper for a job whose directory is made below `home`."""
    settings = replace(Settings(), home=home, jobs_dir_text="", pull_patience=0.0)
    directory = settings.jobs_dir / job.id
    command = calls.prepare(ref, calls.as_seen(job, directory, parents=parents), None)
    if isinstance(command, calls.Failure):
        outcome = Outcome(error=JobError(type=ErrorType.WRAPPER_ERROR, message=command.message))
    elif engine == "docker":
        outcome = asyncio.run(_on_docker(settings, job, app, ref, parents))
    else:
        outcome = _played(settings, job, ref, command, container, parents)
    return _ended(job.ended(outcome, now()), outcome, command if isinstance(command, Command) else None, directory)


def _played(
    settings: Settings,
    job: JobRecord,
    ref: WrapperRef,
    command: Command,
    container: Container | Callable[[Command, Path], Container],
    parents: ParentReader,
) -> Outcome:
    directory = settings.jobs_dir / job.id
    if command.create_dir:
        job_directory.make_directory(directory, json.dumps(job.params).encode())
    played = container(command, directory) if callable(container) else container
    if played.files and not command.create_dir:
        raise ValueError(f"{ref.name}.create_dir is False, so a container has no directory to write files to")
    for name, content in played.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    files = file_listing.top_level(directory)
    result, error = None, None
    if ref.makes_result:
        outputs = played.stdout, played.stderr
        seen = calls.as_seen(job, directory, exit_code=played.exit_code, lswd=files, outputs=outputs, parents=parents)
        made = calls.conclude(ref, seen, settings.result_cap, None)
        if isinstance(made, calls.Failure):
            error = JobError(type=ErrorType.WRAPPER_ERROR, message=made.message)
        else:
            result = json.loads(made)
    output = Output(stdout=played.stdout, stderr=played.stderr, result=result)
    return Outcome(error=error, exit_code=played.exit_code, files=files, output=output)


async def _on_docker(
    settings: Settings, job: JobRecord, app: AppInfo, ref: WrapperRef, parents: ParentReader
) -> Outcome:
    engine = EngineWatch(f"testing-{uuid.uuid4().hex}", settings.registry_auth, lambda seen: None, lambda: None)
    samplers = ThreadPoolExecutor(1, thread_name_prefix="docker stats")
    try:
        try:
            await engine.is_connected(CONNECT_WITHIN)
        except Unreachable as error:
            raise ConnectionError(error.message) from error
        parts = HostParts(
            settings=settings,
            engine=engine,
            wrappers=_ThisProcess(),
            pulls=ImagePulls(settings.pull_patience, lambda: None),
            metrics=Metrics("host"),
            samplers=samplers,
            file_opener=samplers,
            on_start=lambda key, start: None,
            on_change=lambda: None,
            end_earlier=_nothing,
            measure_disks=_nothing,
            parents=lambda job: parents,
            have_bundle=_itself,
            remove_late=lambda key, creating: None,
        )
        assert engine.info is not None
        threads, ram_gb = app.threads or engine.info.threads, app.memory_in_gb or engine.info.ram_bytes / 1e9
        attempt = ContainerRun(Order(job, ref, Resources.of(threads, ram_gb), app.timeout), parts)
        try:
            return await asyncio.shield(attempt.task)
        finally:
            attempt.stop(Wish.CANCEL)  # after Ctrl-C; otherwise it has ended
            await attempt.task
            await _remove(engine, attempt.container)
    finally:
        samplers.shutdown(wait=False)
        engine.close()


async def _remove(engine: EngineWatch, container: str | None) -> None:
    """Leave nothing of an attempt on the machine but its directory."""
    if container is not None:
        await engine.do(lambda client: client.remove(container))
    if engine.cgroups is not None:
        engine.cgroups.close(keep=())


def _ended(job: JobRecord, outcome: Outcome, command: Command | None, directory: Path) -> WrapperRun:
    return WrapperRun(
        status=job.current_status,
        error=job.error,
        command=command,
        exit_code=job.exit_code,
        stdout=outcome.output.stdout,
        stderr=outcome.output.stderr,
        result=decoded(outcome.output.result),
        files=tuple(job.lswd),
        directory=directory,
    )
