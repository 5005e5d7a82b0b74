"""The HostActor: one per Ray node, drives that node's Docker daemon and reports its load."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from orqal import archive, checkup, metering, output
from orqal.actors.daemon import Daemon, Seen
from orqal.actors.logs import LogReaders
from orqal.actors.messages import Examined, Order, Outcome, Started
from orqal.actors.names import log_to_ray
from orqal.actors.pulls import Pulls, Wanted
from orqal.actors.runners import NoRunner, Runners
from orqal.docker_engine import ContainerKey, ContainerSpec, Ended, Engine, with_tag
from orqal.docker_errors import EngineError, Unreachable
from orqal.doctor import Machine
from orqal.metering import Usage
from orqal.models import ErrorType, Fault, JobError, JobRecord, Load, Output, now
from orqal.output import Collected, Piece
from orqal.scheduling.retries import Again, decide
from orqal.settings import Settings
from orqal.wrappers import calls
from orqal.wrappers.base import WrapperJob
from orqal.wrappers.catalog import WrapperRef

log = logging.getLogger("orqal.host")
T = TypeVar("T")

_SAMPLERS = 8
"""Threads that ask what containers use, where that must be asked: each waits up to a second for its answer."""
_CANCELLED_FETCH = 10.0
"""Seconds in which the files of a job that is cancelled must be here, when they come from another machine."""


class HostReport(NamedTuple):
    """What a host tells the Scheduler of itself."""

    state: str
    docker_version: str
    load: Load
    images: frozenset[str]
    """The images that it has, with their tags."""
    pulling: frozenset[str]
    """Those that are on their way to it."""
    incarnation: str
    """Another one for each process that this actor has been."""


class _Cancelled(Exception):
    """The attempt's user, or its Scheduler, wants it to end."""


@dataclass
class _Attempt:
    """An attempt that is under way here."""

    task: asyncio.Task[Outcome] | None = None
    container: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    evicted: bool = False
    """It was cancelled for the host's sake: the job is to run elsewhere."""
    usage: Usage = field(default_factory=Usage)
    """What the daemon has told while the container ran."""
    image: Wanted | None = None
    """What it waits for before there is a container."""

    def why_cancelled(self) -> JobError:
        """The error that it ends with."""
        if self.evicted:
            return JobError(type=ErrorType.HOST_LOST, message="it was stopped because its host was drained")
        return JobError(type=ErrorType.CANCELLED, message="cancelled")


class HostActor:
    """Runs attempts of jobs in containers, each once: an order that is repeated attaches to what is there."""

    async def __init__(self, cluster: str, node_id: str, scheduler: Any) -> None:  # type: ignore[misc] # Ray awaits it
        """`cluster` marks the containers as ours; `scheduler` is told of starts and load."""
        log_to_ray()
        self._settings = Settings()
        self._cluster = cluster
        self._node_id = node_id
        self._incarnation = uuid.uuid4().hex
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._samplers = ThreadPoolExecutor(_SAMPLERS, thread_name_prefix="docker stats")
        self._attempts: dict[ContainerKey, _Attempt] = {}
        self._found: dict[ContainerKey, str] = {}
        """Containers that no attempt holds."""
        self._load = Load()
        self._logs = LogReaders(self._loop)
        self._runners = Runners(node_id)
        self._pulls = Pulls(self._settings.pull_patience, self._tell)
        self._daemon = Daemon(cluster, self._settings.registry_auth, self._on_connect, self._on_change)
        self._pool = self._daemon.threads
        self._reporting = asyncio.create_task(self._report_forever())

    # What the Scheduler calls

    async def run(self, order: Order) -> Outcome:
        """Run an attempt to its end, or attach to it if it is under way or has ended but was not released."""
        key = ContainerKey(order.job.id, order.job.attempt)
        attempt = self._attempts.get(key)
        if attempt is None:
            attempt = self._attempts[key] = _Attempt()
            attempt.task = asyncio.create_task(self._run(key, order, attempt))
        assert attempt.task is not None
        return await asyncio.shield(attempt.task)

    async def cancel(self, job: str, number: int, evicted: bool = False) -> None:
        """End an attempt: its run answers with the error `cancelled`, or `host_lost` if it is `evicted`, unless it has
        ended by itself before."""
        attempt = self._attempts.get(ContainerKey(job, number))
        if attempt is None:
            return
        attempt.evicted |= evicted
        attempt.cancelled.set()
        if attempt.container is not None:
            await self._stop(attempt.container)

    async def release(self, job: str, number: int) -> None:
        """The attempt's outcome is in the store: its container may go."""
        key = ContainerKey(job, number)
        attempt = self._attempts.pop(key, None)
        container = (attempt.container if attempt else None) or self._found.pop(key, None)
        if container is None:
            return
        self._daemon.forget(container)
        try:
            await self._docker(lambda engine: engine.remove(container))
            if cgroups := self._daemon.cgroups:
                await self._loop.run_in_executor(self._pool, cgroups.remove, [key])
        except EngineError as error:
            log.warning("the container of %s stays for now: %s", job, error)

    async def image_digests(self, images: Sequence[str]) -> dict[str, str]:
        """The ids of those of these images that are here. EngineError: the daemon does not answer."""
        return await self._docker(lambda engine: engine.image_digests(images))

    async def strays(self) -> list[ContainerKey]:
        """Whose containers are here that no attempt holds."""
        held = {attempt.container for attempt in self._attempts.values()}
        containers = await self._docker(lambda engine: list(engine.own_containers()))
        self._found |= {key: container for key, container, _ in containers if container not in held}
        return [key for key, container, _ in containers if container not in held]

    async def is_empty(self) -> bool:
        """True when no container of a job is left here. EngineError: the daemon does not answer."""
        return not await self._docker(lambda engine: list(engine.own_containers()))

    async def remove_directories(self, jobs: Sequence[str]) -> list[str]:
        """Remove the directories of deleted jobs: those of which nothing is left."""
        return await self._loop.run_in_executor(self._pool, output.remove_directories, self._settings.jobs_dir, jobs)

    async def incarnation(self) -> str:
        """Another answer from each process that this actor has been."""
        return self._incarnation

    async def examine(self) -> Examined:
        """For the doctor: all that is here of Orqal."""
        begun = time.time()
        containers, root, silent = dict[ContainerKey, str](), None, None
        try:
            engine_info = await self._docker(lambda engine: engine.info())
            root = engine_info.data_root if engine_info.local else None
            containers = {key: name for key, name, _ in await self._docker(lambda e: list(e.own_containers()))}
        except EngineError as error:
            silent = error.message

        def look() -> tuple[list[str], set[ContainerKey], Machine]:
            cgroups = self._daemon.cgroups.attempts() if self._daemon.cgroups else set()
            return (
                output.directories(self._settings.jobs_dir),
                cgroups,
                checkup.machine(self._settings, root),
            )

        directories, cgroups, machine = await self._loop.run_in_executor(self._pool, look)
        return Examined(
            begun=begun,
            daemon_silent=silent,
            containers=containers,
            directories=frozenset(directories),
            cgroups=frozenset(cgroups - set(self._attempts)),
            machine=machine,
            answered=time.time(),
        )

    async def mend(self, paths: Sequence[str], cgroups: Sequence[ContainerKey]) -> None:
        """For the doctor: see checkup.mend, and remove these cgroups, unless something is in them."""

        def work() -> None:
            checkup.mend(self._settings, paths)
            if self._daemon.cgroups:
                self._daemon.cgroups.remove([key for key in cgroups if key not in self._attempts])

        await self._loop.run_in_executor(self._pool, work)

    async def report(self) -> HostReport:
        """How this host is."""
        await self._look()
        return self._report()

    # What Serve's replicas call

    async def open_logs(self, job: str, number: int, stdout: bool, stderr: bool, follow: bool) -> str | None:
        """Start to read a container's output: a handle for `read_logs`. None: there is no such container."""
        key = ContainerKey(job, number)
        attempt = self._attempts.get(key)
        container = (attempt.container if attempt else None) or self._found.get(key)
        if container is None:
            return None
        try:
            logs = await self._docker(
                lambda engine: engine.logs(container, stdout=stdout, stderr=stderr, follow=follow)
            )
        except EngineError:
            return None
        return self._logs.open(logs)

    async def read_logs(self, handle: str) -> bytes | None:
        """The next piece of output in Docker's stream format: see LogReaders.read."""
        return await self._logs.read(handle)

    async def close_logs(self, handle: str) -> None:
        """Stop reading."""
        self._logs.close(handle)

    async def doing(self, job: str, number: int) -> str | None:
        """What an attempt waits for while it has no container, in words; None: that is over, or not known."""
        attempt = self._attempts.get(ContainerKey(job, number))
        return str(attempt.image) if attempt and attempt.image else None

    async def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """See Engine.overview."""
        return await self._docker(lambda engine: engine.overview())

    async def directories(self) -> list[str]:
        """The ids of the jobs that have directories here."""
        return await self._loop.run_in_executor(self._pool, output.directories, self._settings.jobs_dir)

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        """Up to `size` bytes of a file of a job's directory. None: no such file."""
        directory = self._settings.jobs_dir / job
        try:
            return await self._loop.run_in_executor(self._pool, output.read_piece, directory, name, offset, size)
        except FileNotFoundError:
            return None

    # An attempt

    async def _run(self, key: ContainerKey, order: Order, attempt: _Attempt) -> Outcome:
        """An attempt, however often its daemon goes away for a while."""
        while True:
            try:
                return await self._run_once(key, order, attempt)
            except Unreachable as error:
                container = attempt.container = attempt.container or self._found.get(key)
                if container is None or not await self._daemon.has_again(container, self._settings.host_lost_after):
                    return self._failed(
                        order.job, JobError(type=error.type, message=error.message), passing=error.passing
                    )

    async def _run_once(self, key: ContainerKey, order: Order, attempt: _Attempt) -> Outcome:
        job = order.job
        directory = self._settings.jobs_dir / job.id
        try:
            # Without a container, and with a daemon that has gone meanwhile, it had better run elsewhere.
            if attempt.container is not None or self._daemon.engine is None:
                await self._unless_cancelled(attempt, self._daemon.is_connected(self._settings.host_lost_after))
            attempt.container = self._found.pop(key, None) or attempt.container
            ran = await self._ran_for(attempt.container)
            if ran is None:
                job = await self._start(key, order, attempt, directory)
            elif job.container_id is None:  # the actor died before it could tell of the start
                began = now() - timedelta(seconds=ran)
                job = job.model_copy(update={"container_id": attempt.container, "wd": str(directory), "stime": began})
            with self._sampled(key, attempt):
                timed_out = await self._end(attempt, order.timeout, ran or 0.0)
            ended = await self._how_it_ended(attempt)
            if ended.fetched:
                await self._fetch(attempt, ended.fetched, directory)
            streams = await self._collect(attempt, directory)
            usage = attempt.usage.at_least(self._daemon.cgroups.usage(key) if self._daemon.cgroups else Usage())
            job = await self._ended(job, directory, ended, streams, usage)
            if error := self._error(job, attempt, ended, order, timed_out):
                return self._failed(job, error, streams)
            if others := self._daemon.death(ended.container).by_others:
                error = JobError(type=ErrorType.DOCKER_ERROR, message=others)
                return self._failed(job, error, streams, passing=True)
            if attempt.cancelled.is_set() or not _is_repeated(job):
                return await self._concluded(job, order.ref, streams)
            return Outcome(job.exited(), _output(streams))
        except _Cancelled:
            return self._failed(job, attempt.why_cancelled())
        except Unreachable:
            raise
        except EngineError as error:
            job = job.model_copy(update={"exit_code": error.exit_code})
            return self._failed(job, JobError(type=error.type, message=error.message), passing=error.passing)
        except OSError as error:
            message = f"the host could not keep the job's files: {error}. Is there room in {directory}?"
            return self._failed(job, JobError(type=ErrorType.DOCKER_ERROR, message=message), passing=True)

    async def _ran_for(self, container: str | None) -> float | None:
        """Seconds since its start; None: it has not been started, or is not there."""
        return None if container is None else await self._docker(lambda engine: engine.ran_for(container))

    async def _start(self, key: ContainerKey, order: Order, attempt: _Attempt, directory: Path) -> JobRecord:
        """Ask the wrapper, have the image, make and start the container. The job, with what is known of it now."""
        command = await self._unless_cancelled(attempt, self._prepare(order, directory))
        image = command.image
        digest = await self._have_image(attempt, image)
        if (name := with_tag(image)) not in self._daemon.images:
            self._daemon.images |= {name}
            self._tell()  # others that want it had better come here, too
        params = json.dumps(order.job.params).encode()
        if command.create_dir and not self._carries:
            await self._loop.run_in_executor(self._pool, output.make_directory, directory, params)
        spec = ContainerSpec(
            key=key,
            image=image,
            cmd=command.cmd,
            resources=order.resources,
            volumes=command.volumes,
            environment=command.environment,
            working_dir=command.working_dir,
            network=command.network,
            pids_limit=self._settings.pids_limit,
            cgroup_parent=self._daemon.cgroups.parent(key) if self._daemon.cgroups else None,
            mounted=str(directory) if command.create_dir and not self._carries else None,
            fetched=str(directory) if command.create_dir and self._carries else None,
        )
        container = attempt.container = await self._docker(lambda engine: engine.create(spec))
        # Before the start, so that no end is missed.
        self._daemon.death(container)
        if attempt.cancelled.is_set():
            raise _Cancelled
        if spec.fetched:
            files = archive.packed(spec.fetched, params)
            await self._docker(lambda engine: engine.put(container, files))
        await self._docker(lambda engine: engine.start(container))
        started = Started(
            job=key.job,
            attempt=key.attempt,
            image=image,
            image_digest=digest,
            cmd=command.cmd,
            container_id=container,
            wd=str(directory),
            at=now(),
        )
        self._scheduler.started.remote(started)
        return order.job.started(image, digest, started.cmd, container, started.wd, started.at)

    async def _have_image(self, attempt: _Attempt, image: str) -> str:
        engine = self._daemon.engine
        assert engine is not None  # connected once, and never forgotten
        with self._pulls.of(engine, image) as attempt.image:
            try:
                return await self._unless_cancelled(attempt, attempt.image.id)
            finally:
                attempt.image = None

    @property
    def _carries(self) -> bool:
        """The daemon does not see this machine's files: those of a job are put into its container, and fetched."""
        return self._daemon.info is not None and not self._daemon.info.local and not self._settings.jobs_dir_is_shared

    async def _unless_cancelled(self, attempt: _Attempt, work: Awaitable[T], grace: float = 0) -> T:
        """Wait for work that may be left behind half done: `cancel` does not wait for it, or `grace` seconds."""
        task = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(attempt.cancelled.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if attempt.cancelled.is_set() and grace:
                await asyncio.wait({task}, timeout=grace)
            if attempt.cancelled.is_set() and not (grace and task.done()):
                task.add_done_callback(_forget)
                raise _Cancelled
            return await task
        finally:
            waiting.cancel()

    async def _end(self, attempt: _Attempt, timeout: float | None, ran: float) -> bool:
        """Wait for the container's end; True: it was over its time and was stopped. `ran`: seconds that it has."""
        container = attempt.container
        assert container is not None
        death = self._daemon.death(container)
        if (ended := await self._docker(lambda engine: engine.ended(container))) is not None:
            # An earlier actor may have stopped it, and died before it could tell.
            return timeout is not None and ended.exit_code != 0 and ended.ran >= timeout
        if attempt.cancelled.is_set():
            # It was being started when `cancel` came.
            await self._stop(container)
        try:
            await asyncio.wait_for(death.told.wait(), None if timeout is None else max(0.0, timeout - ran))
        except asyncio.TimeoutError:
            await self._stop(container)
            return True
        return False

    @contextmanager
    def _sampled(self, key: ContainerKey, attempt: _Attempt) -> Iterator[None]:
        """Meanwhile the daemon is asked what the container uses, if the kernel will not tell after its end."""
        if self._daemon.cgroups and self._daemon.cgroups.counts(key):
            yield
            return
        sampling = asyncio.create_task(self._sample(attempt))
        try:
            yield
        finally:
            sampling.cancel()

    async def _sample(self, attempt: _Attempt) -> None:
        container = attempt.container
        assert container is not None
        for delay in metering.delays():
            await asyncio.sleep(delay)
            with suppress(EngineError):
                stats = await self._daemon.do(lambda engine: engine.stats(container), self._samplers)
                attempt.usage = attempt.usage.at_least(Usage.of_stats(stats))

    async def _how_it_ended(self, attempt: _Attempt) -> Ended:
        container = attempt.container
        assert container is not None
        ended = await self._docker(lambda engine: engine.ended(container))
        if ended is None:
            raise EngineError(
                ErrorType.DOCKER_ERROR, "the container runs though Docker had told of its end", passing=True
            )
        return ended

    async def _fetch(self, attempt: _Attempt, path: str, directory: Path) -> None:
        """Have the job's directory here, as it is in the container. Done again, it is all made anew."""
        container = attempt.container
        assert container is not None
        files = await self._docker(lambda engine: engine.fetch(container, path))
        if files is None:  # the container has removed it
            return
        unpacking = self._loop.run_in_executor(self._pool, archive.unpack, files, directory)
        try:
            await self._unless_cancelled(attempt, unpacking, _CANCELLED_FETCH)
        finally:
            files.close()

    async def _collect(self, attempt: _Attempt, directory: Path) -> tuple[Collected, Collected]:
        container, cap = attempt.container, self._settings.output_cap
        assert container is not None
        return await self._docker(lambda engine: output.collect(engine.logs(container), directory, cap))

    async def _ended(
        self, job: JobRecord, directory: Path, ended: Ended, streams: tuple[Collected, Collected], usage: Usage
    ) -> JobRecord:
        names = await self._loop.run_in_executor(self._pool, output.listing, directory)
        return job.model_copy(
            update={
                "exit_code": ended.exit_code,
                "peak_memory": usage.peak_memory,
                "cpu_seconds": usage.cpu_seconds,
                "inspect": {"State": ended.state},
                "lswd": names,
                "stdout_bytes": streams[0].size,
                "stderr_bytes": streams[1].size,
                "truncated": [name for name, stream in zip(("stdout", "stderr"), streams, strict=True) if stream.file],
            }
        )

    @staticmethod
    def _error(job: JobRecord, attempt: _Attempt, ended: Ended, order: Order, timed_out: bool) -> JobError | None:
        if timed_out:
            message = f"it ran longer than its timeout of {order.timeout:g} s and was stopped"
            return JobError(type=ErrorType.TIMEOUT, message=message)
        if ended.out_of_memory and ended.exit_code:
            gigabytes = order.resources.mem_bytes / 1e9
            message = f"it wanted more than its memory of {gigabytes:g} GB; give the app or the job more memory_in_gb"
            return JobError(type=ErrorType.OUT_OF_MEMORY, message=message)
        if attempt.cancelled.is_set():
            return attempt.why_cancelled()
        return None

    async def _concluded(self, job: JobRecord, ref: WrapperRef, streams: tuple[Collected, Collected]) -> Outcome:
        """The outcome of a container that ended by itself: the wrapper makes its result."""
        if not ref.makes_result:
            return Outcome(job.exited(), _output(streams))
        seen = _wrapper_job(job, Path(job.wd or ""), streams)
        result = await self._call(job.app, "set_result", calls.conclude, ref, seen, self._settings.result_cap)
        if isinstance(result, calls.Failure):
            return self._failed(job, JobError(type=ErrorType.WRAPPER_ERROR, message=result.message), streams)
        return Outcome(job.exited(), _output(streams, json.loads(result)))

    def _failed(
        self,
        job: JobRecord,
        error: JobError,
        streams: tuple[Collected, Collected] | None = None,
        *,
        passing: bool = False,
    ) -> Outcome:
        return Outcome(job.failed(error.type, error.message), _output(streams), passing)

    # The wrapper's methods

    async def _prepare(self, order: Order, directory: Path) -> calls.Command:
        job = _wrapper_job(order.job, directory)
        if order.ref.trusted:
            command = calls.prepare(order.ref, job, None)
        else:
            command = await self._call(order.job.app, "get_cmd", calls.prepare, order.ref, job)
        if isinstance(command, calls.Failure):
            raise EngineError(ErrorType.WRAPPER_ERROR, command.message)
        assert isinstance(command, calls.Command)
        return command

    async def _call(self, app: str, method: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a wrapper's method where it can do no harm."""
        memory = int(self._settings.wrapper_memory_gb * 1e9)
        limit = self._settings.wrapper_timeout
        try:
            return await self._runners.call(app, f"{app}.{method}", limit, function, *args, memory)
        except NoRunner as error:
            raise EngineError(ErrorType.HOST_LOST, str(error), passing=True) from error

    # The daemon

    async def _stop(self, container: str) -> None:
        await self._docker(lambda engine: engine.stop(container, self._settings.stop_grace))

    async def _docker(self, call: Callable[[Engine], T]) -> T:
        return await self._daemon.do(call)

    def _on_connect(self, seen: Seen) -> None:
        ours = {attempt.container for attempt in self._attempts.values()}
        self._found = {key: container for key, container, _ in seen.containers if container not in ours}
        if cgroups := self._daemon.cgroups:
            left_over = seen.metered - set(self._attempts) - {key for key, _, _ in seen.containers}
            self._loop.run_in_executor(self._pool, cgroups.remove, left_over)
        self._scheduler.found.remote(self._node_id, list(self._found))

    def _on_change(self) -> None:
        if self._daemon.state != "ready":
            self._load = Load()
        self._tell()

    # Load

    async def _report_forever(self) -> None:
        while True:
            await self._look()
            self._tell()
            await asyncio.sleep(self._settings.load_period)

    async def _look(self) -> None:
        """See how busy this host is, and what images it has."""
        try:
            in_use, self._daemon.images = await asyncio.gather(
                self._docker(lambda engine: engine.images_in_use()), self._docker(lambda engine: engine.images())
            )
        except EngineError:
            in_use = {}
        self._load = Load(images=in_use)
        if (
            self._daemon.info is not None and self._daemon.info.local
        ):  # else its machine is not this one, or not known yet
            self._load.cpu, self._load.mem = psutil.cpu_percent(), psutil.virtual_memory().percent

    def _report(self) -> HostReport:
        version = self._daemon.info.version if self._daemon.info else ""
        return HostReport(
            self._daemon.state, version, self._load, self._daemon.images, self._pulls.under_way, self._incarnation
        )

    def _tell(self) -> None:
        self._scheduler.report.remote(self._node_id, self._report())


def _is_repeated(job: JobRecord) -> bool:
    """True for one whose container ended by itself and that is tried again for that: its result is the next one's."""
    if not job.exit_code or job.retry_policy is None:
        return False
    return isinstance(decide(job.over(Fault.JOB), job.attempts, job.retry_policy), Again)


def _wrapper_job(job: JobRecord, directory: Path, streams: tuple[Collected, Collected] | None = None) -> WrapperJob:
    return WrapperJob(
        id=job.id,
        app=job.app,
        input=job.input,
        params=job.params,
        user=job.user,
        wd=str(directory),
        exit_code=job.exit_code,
        lswd=job.lswd,
        outputs=(streams[0].whole, streams[1].whole) if streams else ("", ""),
    )


def _output(streams: tuple[Collected, Collected] | None, result: Any = None) -> Output:
    if streams is None:
        return Output()
    return Output(stdout=streams[0].text, stderr=streams[1].text, result=result)


def _forget(task: asyncio.Future[Any]) -> None:
    """Take note of the exception of work that was left behind."""
    if not task.cancelled():
        task.exception()
