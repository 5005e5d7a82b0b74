"""An attempt at a job, on its host: from the wrapper's command to the outcome of its container."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from orqal.actors.host.engine_watch import Daemon
from orqal.actors.host.image_pulls import Pulls, Wanted
from orqal.actors.messages import Order, Outcome, Started
from orqal.actors.wrapper_processes import NoRunner, Runners
from orqal.engine import archive, job_directory
from orqal.engine import usage as metering
from orqal.engine.client import ContainerKey, ContainerSpec, Ended, with_tag
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.output import Collected, collect
from orqal.engine.usage import Usage
from orqal.models import ErrorType, Fault, JobError, JobRecord, Output, now
from orqal.scheduling.retries import Again, decide
from orqal.settings import Settings
from orqal.wrappers import calls
from orqal.wrappers.base import WrapperJob

T = TypeVar("T")

_CANCELLED_FETCH = 10.0
"""Seconds in which the files of a job that is cancelled must be here, when they come from another machine."""


@dataclass
class Shared:
    """What all attempts on a host work with."""

    settings: Settings
    daemon: Daemon
    runners: Runners
    pulls: Pulls
    samplers: ThreadPoolExecutor
    """Threads that ask what containers use, where that must be asked."""
    scheduler: Any
    """The handle of the Scheduler, which is told of starts."""
    tell: Callable[[], None]
    """To be called when the host has changed: it has another image."""
    found: dict[ContainerKey, str] = field(default_factory=dict)
    """Containers that no attempt holds."""


class _Cancelled(Exception):
    """The attempt's user, or its Scheduler, wants it to end."""


class Execution:
    """An attempt that is under way here. It begins at once; where an earlier actor has made a container for it, it
    attaches to that. `task` is its way to the outcome."""

    def __init__(self, order: Order, shared: Shared) -> None:
        self.container: str | None = None
        self.image: Wanted | None = None
        """What it waits for before there is a container."""
        self._order = order
        self._key = ContainerKey(order.job.id, order.job.attempt)
        self._shared, self._daemon, self._settings = shared, shared.daemon, shared.settings
        self._cancelled = asyncio.Event()
        self._evicted = False
        """It was cancelled for the host's sake: the job is to run elsewhere."""
        self._usage = Usage()
        """What the daemon has told while the container ran."""
        self.task = asyncio.create_task(self._run())

    async def cancel(self, evicted: bool) -> None:
        """End it: the error of its outcome is `cancelled`, or `host_lost` if it is `evicted`, unless it has ended by
        itself before."""
        self._evicted |= evicted
        self._cancelled.set()
        if self.container is not None:
            await self._stop(self.container)

    async def _run(self) -> Outcome:
        """To its end, however often its daemon goes away for a while."""
        while True:
            try:
                return await self._run_once()
            except Unreachable as error:
                container = self.container = self.container or self._shared.found.get(self._key)
                if container is None or not await self._daemon.has_again(container, self._settings.host_lost_after):
                    return self._failed(
                        self._order.job, JobError(type=error.type, message=error.message), passing=error.passing
                    )

    async def _run_once(self) -> Outcome:
        job = self._order.job
        directory = self._settings.jobs_dir / job.id
        try:
            # Without a container, and with a daemon that has gone meanwhile, it had better run elsewhere.
            if self.container is not None or self._daemon.engine is None:
                await self._unless_cancelled(self._daemon.is_connected(self._settings.host_lost_after))
            self.container = self._shared.found.pop(self._key, None) or self.container
            ran = await self._ran_for(self.container)
            if ran is None:
                job = await self._start(directory)
            elif job.container_id is None:  # the actor died before it could tell of the start
                began = now() - timedelta(seconds=ran)
                job = job.model_copy(update={"container_id": self.container, "wd": str(directory), "stime": began})
            with self._sampled():
                timed_out = await self._end(ran or 0.0)
            ended = await self._how_it_ended()
            if ended.fetched:
                await self._fetch(ended.fetched, directory)
            streams = await self._collect(directory)
            usage = self._usage.at_least(self._daemon.cgroups.usage(self._key) if self._daemon.cgroups else Usage())
            job = await self._ended(job, directory, ended, streams, usage)
            if error := self._error(ended, timed_out):
                return self._failed(job, error, streams)
            if others := self._daemon.death(ended.container).by_others:
                error = JobError(type=ErrorType.DOCKER_ERROR, message=others)
                return self._failed(job, error, streams, passing=True)
            if self._cancelled.is_set() or not _is_repeated(job):
                return await self._concluded(job, streams)
            return Outcome(job.exited(), _output(streams))
        except _Cancelled:
            return self._failed(job, self._why_cancelled())
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
        return None if container is None else await self._daemon.do(lambda engine: engine.ran_for(container))

    async def _start(self, directory: Path) -> JobRecord:
        """Ask the wrapper, have the image, make and start the container. The job, with what is known of it now."""
        command = await self._unless_cancelled(self._prepare(directory))
        image = command.image
        digest = await self._have_image(image)
        if (name := with_tag(image)) not in self._daemon.images:
            self._daemon.images |= {name}
            self._shared.tell()  # others that want it had better come here, too
        params = json.dumps(self._order.job.params).encode()
        if command.create_dir and not self._carries:
            await self._in_thread(job_directory.make_directory, directory, params)
        spec = ContainerSpec(
            key=self._key,
            image=image,
            cmd=command.cmd,
            resources=self._order.resources,
            volumes=command.volumes,
            environment=command.environment,
            working_dir=command.working_dir,
            network=command.network,
            pids_limit=self._settings.pids_limit,
            cgroup_parent=self._daemon.cgroups.parent(self._key) if self._daemon.cgroups else None,
            mounted=str(directory) if command.create_dir and not self._carries else None,
            fetched=str(directory) if command.create_dir and self._carries else None,
        )
        container = self.container = await self._daemon.do(lambda engine: engine.create(spec))
        # Before the start, so that no end is missed.
        self._daemon.death(container)
        if self._cancelled.is_set():
            raise _Cancelled
        if spec.fetched:
            files = archive.packed(spec.fetched, params)
            await self._daemon.do(lambda engine: engine.put(container, files))
        await self._daemon.do(lambda engine: engine.start(container))
        started = Started(
            job=self._key.job,
            attempt=self._key.attempt,
            image=image,
            image_digest=digest,
            cmd=command.cmd,
            container_id=container,
            wd=str(directory),
            at=now(),
        )
        self._shared.scheduler.started.remote(started)
        return self._order.job.started(image, digest, started.cmd, container, started.wd, started.at)

    async def _have_image(self, image: str) -> str:
        engine = self._daemon.engine
        assert engine is not None  # connected once, and never forgotten
        with self._shared.pulls.of(engine, image) as self.image:
            try:
                return await self._unless_cancelled(self.image.id)
            finally:
                self.image = None

    @property
    def _carries(self) -> bool:
        """The daemon does not see this machine's files: those of a job are put into its container, and fetched."""
        return self._daemon.info is not None and not self._daemon.info.local and not self._settings.jobs_dir_is_shared

    async def _unless_cancelled(self, work: Awaitable[T], grace: float = 0) -> T:
        """Wait for work that may be left behind half done: `cancel` does not wait for it, or `grace` seconds."""
        task = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if self._cancelled.is_set() and grace:
                await asyncio.wait({task}, timeout=grace)
            if self._cancelled.is_set() and not (grace and task.done()):
                task.add_done_callback(_forget)
                raise _Cancelled
            return await task
        finally:
            waiting.cancel()

    async def _end(self, ran: float) -> bool:
        """Wait for the container's end; True: it was over its time and was stopped. `ran`: seconds that it has."""
        container, timeout = self.container, self._order.timeout
        assert container is not None
        death = self._daemon.death(container)
        if (ended := await self._daemon.do(lambda engine: engine.ended(container))) is not None:
            # An earlier actor may have stopped it, and died before it could tell.
            return timeout is not None and ended.exit_code != 0 and ended.ran >= timeout
        if self._cancelled.is_set():
            # It was being started when `cancel` came.
            await self._stop(container)
        try:
            await asyncio.wait_for(death.told.wait(), None if timeout is None else max(0.0, timeout - ran))
        except asyncio.TimeoutError:
            await self._stop(container)
            return True
        return False

    async def _stop(self, container: str) -> None:
        await self._daemon.do(lambda engine: engine.stop(container, self._settings.stop_grace))

    @contextmanager
    def _sampled(self) -> Iterator[None]:
        """Meanwhile the daemon is asked what the container uses, if the kernel will not tell after its end."""
        if self._daemon.cgroups and self._daemon.cgroups.counts(self._key):
            yield
            return
        sampling = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            sampling.cancel()

    async def _sample(self) -> None:
        container = self.container
        assert container is not None
        for delay in metering.delays():
            await asyncio.sleep(delay)
            with suppress(EngineError):
                stats = await self._daemon.do(lambda engine: engine.stats(container), self._shared.samplers)
                self._usage = self._usage.at_least(Usage.of_stats(stats))

    async def _how_it_ended(self) -> Ended:
        container = self.container
        assert container is not None
        ended = await self._daemon.do(lambda engine: engine.ended(container))
        if ended is None:
            raise EngineError(
                ErrorType.DOCKER_ERROR, "the container runs though Docker had told of its end", passing=True
            )
        return ended

    async def _fetch(self, path: str, directory: Path) -> None:
        """Have the job's directory here, as it is in the container. Done again, it is all made anew."""
        container = self.container
        assert container is not None
        files = await self._daemon.do(lambda engine: engine.fetch(container, path))
        if files is None:  # the container has removed it
            return
        unpacking = self._in_thread(archive.unpack, files, directory)
        try:
            await self._unless_cancelled(unpacking, _CANCELLED_FETCH)
        finally:
            files.close()

    async def _collect(self, directory: Path) -> tuple[Collected, Collected]:
        container, cap = self.container, self._settings.output_cap
        assert container is not None
        return await self._daemon.do(lambda engine: collect(engine.logs(container), directory, cap))

    async def _ended(
        self, job: JobRecord, directory: Path, ended: Ended, streams: tuple[Collected, Collected], usage: Usage
    ) -> JobRecord:
        names = await self._in_thread(job_directory.listing, directory)
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

    def _error(self, ended: Ended, timed_out: bool) -> JobError | None:
        if timed_out:
            message = f"it ran longer than its timeout of {self._order.timeout:g} s and was stopped"
            return JobError(type=ErrorType.TIMEOUT, message=message)
        if ended.out_of_memory and ended.exit_code:
            gigabytes = self._order.resources.mem_bytes / 1e9
            message = f"it wanted more than its memory of {gigabytes:g} GB; give the app or the job more memory_in_gb"
            return JobError(type=ErrorType.OUT_OF_MEMORY, message=message)
        if self._cancelled.is_set():
            return self._why_cancelled()
        return None

    def _why_cancelled(self) -> JobError:
        if self._evicted:
            return JobError(type=ErrorType.HOST_LOST, message="it was stopped because its host was drained")
        return JobError(type=ErrorType.CANCELLED, message="cancelled")

    async def _concluded(self, job: JobRecord, streams: tuple[Collected, Collected]) -> Outcome:
        """The outcome of a container that ended by itself: the wrapper makes its result."""
        ref = self._order.ref
        if not ref.makes_result:
            return Outcome(job.exited(), _output(streams))
        seen = _wrapper_job(job, Path(job.wd or ""), streams)
        result = await self._call("set_result", calls.conclude, ref, seen, self._settings.result_cap)
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

    async def _prepare(self, directory: Path) -> calls.Command:
        ref, job = self._order.ref, _wrapper_job(self._order.job, directory)
        if ref.trusted:
            command = calls.prepare(ref, job, None)
        else:
            command = await self._call("get_cmd", calls.prepare, ref, job)
        if isinstance(command, calls.Failure):
            raise EngineError(ErrorType.WRAPPER_ERROR, command.message)
        assert isinstance(command, calls.Command)
        return command

    async def _call(self, method: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a wrapper's method where it can do no harm."""
        app, memory = self._order.job.app, int(self._settings.wrapper_memory_gb * 1e9)
        limit = self._settings.wrapper_timeout
        try:
            return await self._shared.runners.call(app, f"{app}.{method}", limit, function, *args, memory)
        except NoRunner as error:
            raise EngineError(ErrorType.HOST_LOST, str(error), passing=True) from error

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._daemon.threads, call, *args)


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
