"""An attempt on its host: from the wrapper's command to the outcome of its container."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from time import perf_counter
from typing import Any, TypeVar

from orqal import mounts
from orqal.actors.host import closed_files, container_options, disk_use
from orqal.actors.host.disk_use import DiskUse
from orqal.actors.host.engine_watch import EngineWatch
from orqal.actors.host.image_pulls import ImagePulls, WantedImage
from orqal.actors.interfaces import NoProcess, WrapperCalls
from orqal.actors.messages import Order
from orqal.actors.metrics import CONTAINER_START, Metrics
from orqal.engine import archive, file_listing, job_directory, usage
from orqal.engine.client import ContainerKey, ContainerSpec, Ended
from orqal.engine.devices import NVIDIA_RUNTIME, nvidia_variable
from orqal.engine.errors import EngineError, Unreachable, not_executed
from orqal.engine.image_names import with_tag
from orqal.engine.output import CollectedOutput, Collecting
from orqal.engine.usage import Usage
from orqal.models import GPU, UNITS, ContainerOptions, ContainerStart, ErrorType, JobError, JobRecord, Outcome, Output
from orqal.scheduling.lifecycle import WHY_STOPPED, Wish
from orqal.scheduling.retries import will_retry
from orqal.settings import Settings
from orqal.text import exit_code
from orqal.wrappers import calls
from orqal.wrappers.base import GivenParents, ParentReader, WrapperJob
from orqal.wrappers.loading import WrapperRef

T = TypeVar("T")

_FETCH_AFTER_STOP = 10.0
"""Seconds within which the files of a stopped job must arrive, if they come from another machine."""
_COLLECT_AFTER_CANCEL = 1.0
"""Seconds within which the output of a cancelled job must be collected: much more than one of usual length takes."""
_DEVICE_PAUSE = 0.5
"""Seconds between two looks whether a device is free that another container still has."""
_KILLED = {128 + signal.SIGTERM, 128 + signal.SIGKILL}
"""Exit codes of programs that a stop has ended."""


@dataclass
class HostParts:
    """What all attempts on a host work with."""

    settings: Settings
    engine: EngineWatch
    wrappers: WrapperCalls
    pulls: ImagePulls
    metrics: Metrics
    samplers: ThreadPoolExecutor
    """Threads that ask what containers use, where that must be asked."""
    file_opener: ThreadPoolExecutor
    """One thread, which has jobs' closed files opened, so that nothing else waits for that."""
    on_start: Callable[[ContainerKey, ContainerStart], None]
    """Called when a container runs."""
    on_change: Callable[[], None]
    """Called when the host has another image."""
    end_earlier: Callable[[ContainerKey], Awaitable[None]]
    """Ends and removes what earlier attempts at a job have left on this host: two of them must never run at once."""
    measure_disks: Callable[[], Awaitable[None]]
    """Finds out whether Docker's disk is full, so that it may have lost what containers have printed."""
    remove_late: Callable[[ContainerKey, Awaitable[str]], object]
    """Called with an attempt that is over, and with the call that may still create its container: the container is
    removed when it is there."""
    have_bundle: Callable[[WrapperRef], Awaitable[WrapperRef]]
    """Brings what a wrapper needs from beside its file to this host."""
    parents: Callable[[JobRecord], ParentReader] = lambda job: GivenParents()
    """What reads the parents of a job in the process of its wrapper."""
    found: dict[ContainerKey, str] = field(default_factory=dict)
    """Containers that no attempt holds."""


class _End(Enum):
    """What ended a container."""

    BY_ITSELF = "by itself"
    TIMED_OUT = "timed out"
    OUT_OF_DISK = "out of disk"
    STOPPED = "stopped"


class _Stopped(Exception):
    """The attempt must end before its container was started."""


class ContainerRun:
    """An attempt that is under way on this host. It begins at once.

    If an earlier process of the actor has made a container for it, it attaches to that. `task` leads to the outcome.
    """

    def __init__(self, order: Order, parts: HostParts) -> None:
        self.container: str | None = None
        self.image: WantedImage | None = None
        """The image that it waits for before it has a container."""
        self._order = order
        self._key = ContainerKey(order.job.id, order.job.attempt)
        self._parts, self._engine, self._settings = parts, parts.engine, parts.settings
        self._directory = parts.settings.jobs_dir / order.job.id
        self._must_end = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._wish = Wish.NONE
        self._ended: _End | None = None
        """What ended its container; None until that is known."""
        self._stopping = False
        """The daemon was asked to stop the container because the attempt must end."""
        self._start: ContainerStart | None = None
        """What is known of the container's start; None if the Scheduler knows it."""
        self._disk_cap: int | None = None
        """Bytes that the container may write; 0 is no limit, and None is not known yet."""
        self._disk_use = DiskUse(parts.engine, parts.samplers)
        self._too_much = asyncio.Event()
        """It was found to have written more."""
        self._usage = Usage()
        """What the daemon has reported while the container ran."""
        self.stop(order.wish)
        self.task = asyncio.create_task(self._run())

    def stop(self, wish: Wish) -> None:
        """End the attempt, unless it has ended by itself. Its error is `cancelled`, or `host_lost` if it must leave."""
        if wish is not Wish.NONE:
            self._wish = max(self._wish, wish)
            self._must_end.set()
        if wish is Wish.CANCEL:
            self._cancelled.set()

    async def _run(self) -> Outcome:
        """Run to the end, however often the daemon goes away for a while."""
        while True:
            try:
                return await self._run_once()
            except Unreachable as error:
                # A daemon that is silent can start nothing, whatever the job.
                silent = self._engine.silent.is_set() and self._order.job.container_id is None
                container = self.container = self.container or self._parts.found.get(self._key)
                if container is None or not await self._engine.has_again(container, self._settings.host_lost_after):
                    failed = self._failed(error.type, error.message, passing=error.passing)
                    return replace(failed, host_failed=silent and self._start is None)

    async def _run_once(self) -> Outcome:
        try:
            # If the daemon goes away, an attempt without a container should run elsewhere. So only one with a
            # container waits for a daemon that has answered before.
            if self.container is not None:
                await self._engine.is_connected(self._settings.host_lost_after)
            elif self._engine.client is None:
                await self._unless_stopped(self._engine.is_connected(self._settings.host_lost_after))
            elif self._engine.silent.is_set():
                raise Unreachable(self._engine.state)
            self.container = self._parts.found.pop(self._key, None) or self.container
            ran = await self._ran_for(self.container)
            if ran is None:
                if self._must_end.is_set():
                    raise _Stopped
                await self._engine.unless_silent(self._parts.end_earlier(self._key))
                await self._start_container()
            elif self._disk_cap is None or (self._order.job.container_id is None and self._start is None):
                await self._attach(ran)
            if self._ended is None:
                with self._sampled(), self._disk_watched():
                    self._ended = await self._end(ran or 0.0)
            return await self._outcome(await self._how_it_ended(), self._ended)
        except _Stopped:
            return self._stopped()
        except Unreachable:
            raise
        except EngineError as error:
            return self._failed(error.type, error.message, exit_code=error.exit_code, passing=error.passing)
        except OSError as error:
            message = f"the host could not keep the job's files: {error}. Is there room in {self._directory}?"
            return self._failed(ErrorType.DOCKER_ERROR, message, passing=True)

    async def _ran_for(self, container: str | None) -> float | None:
        """Seconds since its start; None if it has not been started, or does not exist."""
        return None if container is None else await self._engine.do(lambda engine: engine.ran_for(container))

    # The start

    async def _start_container(self) -> None:
        """Ask the wrapper, get the image, create and start the container."""
        command = await self._unless_stopped(self._prepare())
        if not self._carries_files:
            self._check_volumes(command)
        engine_info = self._engine.info
        assert engine_info is not None  # connected once, and never forgotten
        options, groups = container_options.resolved(command.options, self._order.job.user, engine_info)
        digest = await self._engine.unless_silent(self._have_image(command.image, options))
        if (name := with_tag(command.image)) not in self._engine.images:
            self._engine.images |= {name}
            self._parts.on_change()  # other jobs that need this image should come here too
        params = json.dumps(self._order.job.params).encode()
        if command.create_dir and not self._carries_files:
            await self._in_thread(job_directory.make_directory, self._directory, params)
        devices = self._order.resources.devices
        environment = dict(command.environment)
        if NVIDIA_RUNTIME in (options.runtime, engine_info.default_runtime) and options.gpus != "all":
            given = options.gpus if isinstance(options.gpus, list) else devices.get(GPU, ())
            environment["NVIDIA_VISIBLE_DEVICES"] = nvidia_variable(given)
        await self._devices_are_free([id for ids in devices.values() for id in ids])
        spec = ContainerSpec(
            key=self._key,
            image=command.image,
            cmd=command.cmd,
            resources=self._order.resources,
            volumes=command.volumes,
            environment=environment,
            working_dir=command.working_dir,
            network=command.network,
            pids_limit=self._settings.pids_limit,
            log_cap=int(command.output_in_gb * 1e9) if command.output_in_gb else self._settings.log_cap,
            options=options,
            groups=groups,
            fail_on_oom=command.fail_on_oom,
            disk_cap=int((command.disk_in_gb or self._settings.job_disk_gb) * 1e9),
            cgroup_parent=self._engine.cgroups.parent(self._key) if self._engine.cgroups else None,
            mounted=str(self._directory) if command.create_dir and not self._carries_files else None,
            fetched=str(self._directory) if command.create_dir and self._carries_files else None,
        )
        self._disk_cap = spec.disk_cap
        begun = perf_counter()
        container = self.container = await self._create(spec)
        # Before the start, so that no end is missed.
        self._engine.death(container)
        if spec.disk_cap:
            await self._engine.unless_silent(self._disk_use.note_volumes(container))
        if self._must_end.is_set():
            raise _Stopped
        if spec.fetched:
            files = archive.packed(spec.fetched, params)
            await self._engine.unless_silent(self._engine.do(lambda engine: engine.put(container, files)))
        await self._engine.unless_silent(self._engine.do(lambda engine: engine.start(container)))
        self._parts.metrics.observe(CONTAINER_START, perf_counter() - begun)
        self._report_start(ContainerStart(command.image, digest, command.cmd, container, str(self._directory)))

    async def _devices_are_free(self, ids: Sequence[str]) -> None:
        """Return when no other container of this cluster has one of these devices.

        One may have it that its host has brought back after its job was given up: the Scheduler has it removed.
        """
        parts = {part.device: part.units for part in self._order.resources.parts}
        whole = {id for id in ids if parts[id] == UNITS}
        while whole:
            holders = await self._engine.unless_silent(self._engine.do(lambda engine: engine.device_holders()))
            if not any(has & whole for key, has in holders.items() if key != self._key):
                return
            await self._unless_stopped(asyncio.sleep(_DEVICE_PAUSE))

    def _check_volumes(self, command: calls.Command) -> None:
        """Check that the job cannot put links into what Orqal uses itself.

        Raises:
            EngineError: it could.
        """
        writable = {
            source: False
            for source, mount in command.volumes.items()
            if source.startswith("/") and "ro" not in mount.get("mode", "").split(",")
        }
        try:
            mounts.check_own(writable, self._settings.kept_from_jobs, [self._settings.jobs_dir])
        except ValueError as error:
            raise EngineError(ErrorType.WRAPPER_ERROR, f"the wrapper's volumes: {error}") from None

    async def _create(self, spec: ContainerSpec) -> str:
        """Create the container. If it is not known whether the daemon has done so, it is found, or removed later."""
        call = asyncio.ensure_future(self._engine.do(lambda engine: engine.create(spec)))
        try:
            return await self._engine.unless_silent(asyncio.shield(call))
        except Unreachable:
            if not self._engine.silent.is_set():
                with suppress(EngineError):
                    self.container = await self._engine.do(lambda engine: engine.find(self._key))
            if self.container is None:
                self._parts.remove_late(self._key, call)
            raise

    async def _attach(self, ran: float) -> None:
        """Find out what an earlier process of the actor knew of the container. `ran`: seconds since its start."""
        container = self.container
        assert container is not None
        made = await self._engine.do(lambda engine: engine.made_of(container))
        self._disk_cap = made.disk_cap
        if self._order.job.container_id is None and self._start is None:
            # That process died before it could report the start.
            self._report_start(
                ContainerStart(made.image, made.image_digest, made.cmd, container, str(self._directory), ago=ran)
            )

    def _report_start(self, start: ContainerStart) -> None:
        self._start = start
        self._parts.on_start(self._key, start)

    async def _have_image(self, image: str, options: ContainerOptions) -> str:
        """The id of an image, once it is here."""
        engine = self._engine.client
        assert engine is not None  # connected once, and never forgotten
        with self._parts.pulls.of(engine, image, options.pull, options.platform) as self.image:
            try:
                return await self._unless_stopped(self.image.id)
            finally:
                self.image = None

    @property
    def _carries_files(self) -> bool:
        """True if the daemon does not see this machine's files. A job's files are then copied to its container and
        back."""
        return self._engine.info is not None and not self._engine.info.local and not self._settings.jobs_dir_is_shared

    async def _unless_stopped(self, work: Awaitable[T], grace: float = 0) -> T:
        """Wait for work that may be abandoned: after a stop this waits for `grace` more seconds only.

        Raises:
            _Stopped: the attempt must end, and the work was not done in time.
        """
        task = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._must_end.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if self._must_end.is_set() and grace:
                await asyncio.wait({task}, timeout=grace)
            if self._must_end.is_set() and not (grace and task.done()):
                task.add_done_callback(_forget)
                raise _Stopped
            return await task
        finally:
            waiting.cancel()

    # The end

    async def _end(self, ran: float) -> _End:
        """Wait for the container's end, and return what ended it. `ran`: seconds that it has run.

        Nothing else stops the container. If the daemon goes away meanwhile, this is called again and stops it then.
        """
        container, timeout = self.container, self._order.timeout
        assert container is not None
        death = self._engine.death(container)
        if (ended := await self._engine.do(lambda engine: engine.ended(container))) is not None:
            # An earlier process of the actor may have stopped it, and died before it could report that. A program that
            # ended before a stop reached it, or for lack of memory, has ended by itself.
            if timeout is not None and ended.exit_code != 0 and ended.ran >= timeout:
                return _End.TIMED_OUT
            signalled = ended.exit_code in _KILLED and not ended.out_of_memory
            stopped = self._stopping or death.killed or signalled
            if stopped and self._must_end.is_set():
                return _End.STOPPED
            cap = self._disk_cap if stopped else 0
            return _End.OUT_OF_DISK if cap and await self._measure_written() > cap else _End.BY_ITSELF
        waits = {asyncio.ensure_future(event.wait()) for event in (death.reported, self._must_end, self._too_much)}
        try:
            left = None if timeout is None else max(0.0, timeout - ran)
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        # It may have ended a moment ago.
        if death.reported.is_set() or await self._engine.do(lambda engine: engine.ended(container)) is not None:
            return _End.BY_ITSELF
        self._stopping = self._must_end.is_set()
        otherwise = _End.OUT_OF_DISK if self._too_much.is_set() else _End.TIMED_OUT
        end = _End.STOPPED if self._stopping else otherwise
        await self._engine.do(lambda engine: engine.stop(container, self._settings.stop_grace))
        return end

    @contextmanager
    def _disk_watched(self) -> Iterator[None]:
        """Find out meanwhile whether the container writes more than it may."""
        watching = asyncio.create_task(self._watch_disk(self._disk_cap)) if self._disk_cap else None
        try:
            yield
        finally:
            if watching:
                watching.cancel()

    async def _watch_disk(self, cap: int) -> None:
        await disk_use.above(cap, self._measure_written)
        self._too_much.set()

    async def _measure_written(self) -> int:
        container = self.container
        assert container is not None
        return await self._disk_use.written(container, None if self._carries_files else self._directory)

    @contextmanager
    def _sampled(self) -> Iterator[None]:
        """Ask the daemon meanwhile what the container uses, unless the kernel reports it after the end."""
        if self._engine.cgroups and self._engine.cgroups.counts(self._key):
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
        for delay in usage.delays():
            await asyncio.sleep(delay)
            with suppress(EngineError):
                stats = await self._engine.do(lambda engine: engine.stats(container), self._parts.samplers)
                self._usage = self._usage.at_least(Usage.of_stats(stats))

    async def _how_it_ended(self) -> Ended:
        """How the container ended, once its end has been reported.

        A daemon that was restarted may show that a container has ended before its events have said why: that it was
        the daemon itself that stopped it, for instance.
        """
        container = self.container
        assert container is not None
        await self._engine.death(container).reported.wait()
        ended = await self._engine.do(lambda engine: engine.ended(container))
        if ended is None:
            raise EngineError(
                ErrorType.DOCKER_ERROR, "the container runs though Docker had reported its end", passing=True
            )
        return ended

    async def _outcome(self, ended: Ended, end: _End) -> Outcome:
        """Collect what the ended container has left behind."""
        all_fetched = not ended.fetched or await self._fetch(ended.container, ended.fetched)
        output = await self._collect(ended)
        files = await self._in_thread(file_listing.top_level, self._directory)
        oom_killed = self._ran_out_of_memory(ended)
        error, passing, result = self._error(ended, end, oom_killed), False, None
        if error is None and not all_fetched:
            error = self._stopped(
                f"after its program had exited with {exit_code(ended.exit_code)}, before its files were here"
            ).error
        never_ran = not_executed(ended.exit_code, output.stdout.text, output.stderr.text)
        if error is None and never_ran:
            error = JobError(type=ErrorType.DOCKER_ERROR, message=never_ran)
        if error is None:
            await self._parts.measure_disks()
        if error is None and (others := self._engine.death(ended.container).by_others(ended.exit_code)):
            error, passing = JobError(type=ErrorType.DOCKER_ERROR, message=others), True
        goes_on = error is None and not self._must_end.is_set() and will_retry(self._order.job, ended.exit_code)
        if not goes_on and not self._carries_files:  # the next attempt should find its files as they were
            await closed_files.make_readable(self._engine, self._directory, self._parts.file_opener)
        if error is None and not goes_on:
            result, error = await self._result(ended, output, files)
        counted = self._engine.cgroups.usage(self._key) if self._engine.cgroups else Usage()
        used = Usage() if never_ran else self._usage.at_least(counted)
        return Outcome(
            error=error,
            passing=passing,
            start=self._start,
            exit_code=ended.exit_code,
            peak_memory=used.peak_memory,
            cpu_seconds=used.cpu_seconds,
            inspect={"State": ended.state},
            files=files,
            stdout_bytes=output.stdout.size,
            stderr_bytes=output.stderr.size,
            truncated=[name for name in ("stdout", "stderr") if getattr(output, name).file],
            output_cut=output.cut,
            oom_killed=oom_killed,
            output=Output(stdout=output.stdout.text, stderr=output.stderr.text, result=result),
        )

    async def _collect(self, ended: Ended) -> CollectedOutput:
        """The output of the ended container. A cancel ends this soon, with what has been read until then."""
        collecting = Collecting(self._directory, self._settings.output_cap)
        work = self._engine.do(
            lambda engine: collecting.run(engine, ended.container, ended.log_cap), self._engine.collectors
        )
        task = asyncio.ensure_future(work)
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=_COLLECT_AFTER_CANCEL)
            if not task.done():
                collecting.stop()
            return await task
        finally:
            cancelled.cancel()
            collecting.stop()

    async def _fetch(self, container: str, path: str) -> bool:
        """Copy the job's directory from the container to here. If this is repeated, all of it is made anew.

        Return False if the attempt had to end before all of it was here.
        """
        files = await self._engine.do(lambda engine: engine.fetch(container, path))
        if files is None:  # the container has removed it
            return True
        unpacking = self._in_thread(archive.unpack, files, self._directory)
        try:
            await self._unless_stopped(unpacking, _FETCH_AFTER_STOP)
        except _Stopped:
            return False
        finally:
            files.close()
        return True

    def _ran_out_of_memory(self, ended: Ended) -> bool:
        """True if the kernel has killed a process of the container for lack of memory, whether or not it was the one
        that the exit code is of. Not every version of Docker says so in the container's state."""
        cgroups, death = self._engine.cgroups, self._engine.death(ended.container)
        return ended.out_of_memory or death.out_of_memory or (cgroups is not None and cgroups.out_of_memory(self._key))

    def _error(self, ended: Ended, end: _End, oom_killed: bool) -> JobError | None:
        """Why the container did not end by itself; None if it did."""
        if end is _End.TIMED_OUT:
            message = f"it ran longer than its timeout of {self._order.timeout:g} s and was stopped"
            return JobError(type=ErrorType.TIMEOUT, message=message)
        if end is _End.OUT_OF_DISK:
            message = f"its files took more than the {(self._disk_cap or 0) / 1e9:g} GB that it may write"
            advice = "give the app more disk_in_gb, or the host more ORQAL_JOB_DISK_GB"
            return JobError(type=ErrorType.OUT_OF_DISK, message=f"{message}, and it was stopped; {advice}")
        if end is _End.STOPPED:
            return self._stopped().error
        if oom_killed and (ended.exit_code or ended.fail_on_oom):
            gigabytes = self._order.resources.mem_bytes / 1e9
            which = "it" if ended.exit_code else "a process of it"
            message = f"{which} wanted more than its memory of {gigabytes:g} GB"
            advice = "give the app or the job more memory_in_gb"
            return JobError(type=ErrorType.OUT_OF_MEMORY, message=f"{message}; {advice}")
        return None

    def _stopped(self, when: str = "") -> Outcome:
        """The outcome of an attempt that had to end. `when`: the end of a sentence, if that needs to be said."""
        if (why := WHY_STOPPED.get(self._wish)) is not None:
            return self._failed(ErrorType.HOST_LOST, f"{why} {when}".rstrip())
        return self._failed(ErrorType.CANCELLED, f"cancelled {when}".rstrip())

    def _failed(self, type: ErrorType, message: str, *, exit_code: int | None = None, passing: bool = False) -> Outcome:
        """The outcome of an attempt whose container did not end, or whose end cannot be read."""
        error = JobError(type=type, message=message)
        return Outcome(error=error, passing=passing, start=self._start, exit_code=exit_code)

    # The wrapper's methods

    async def _prepare(self) -> calls.Command:
        """What the wrapper wants to be run."""
        ref, job = self._order.ref, self._wrapper_job()
        assert ref is not None  # only a stop comes without it
        if ref.trusted:
            command = calls.prepare(ref, job, None)
        else:
            command = await self._call("get_cmd", calls.prepare, await self._parts.have_bundle(ref), job)
        if isinstance(command, calls.Failure):
            raise EngineError(ErrorType.WRAPPER_ERROR, command.message)
        assert isinstance(command, calls.Command)
        return command

    async def _result(self, ended: Ended, output: CollectedOutput, files: Sequence[str]) -> tuple[Any, JobError | None]:
        """What the wrapper makes of the output: a result, or an error."""
        ref = self._order.ref
        if ref is None or not ref.makes_result:
            return None, None
        if output.stopped:
            when = f"after its program had exited with {exit_code(ended.exit_code)}, before its result was made"
            return None, self._stopped(when).error
        job = self._wrapper_job(ended.exit_code, output, files)
        ref = await self._parts.have_bundle(ref)
        result = await self._call("set_result", calls.conclude, ref, job, self._settings.result_cap)
        if isinstance(result, calls.Failure):
            # A program that failed is mostly why its output cannot be read.
            first = f"its program exited with {exit_code(ended.exit_code)}, and then " if ended.exit_code else ""
            return None, JobError(type=ErrorType.WRAPPER_ERROR, message=first + result.message)
        return json.loads(result), None

    def _wrapper_job(
        self,
        exit_code: int | None = None,
        output: CollectedOutput | None = None,
        files: Sequence[str] = (),
    ) -> WrapperJob:
        return calls.as_seen(
            self._order.job,
            self._directory,
            exit_code=exit_code,
            lswd=list(files),
            outputs=(output.stdout.whole, output.stderr.whole) if output else ("", ""),
            output_cut=output.cut if output else None,
            parents=self._parts.parents(self._order.job),
        )

    async def _call(self, method: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a wrapper's method where it can do no harm."""
        app, memory = self._order.job.app, int(self._settings.wrapper_memory_gb * 1e9)
        limit = self._settings.wrapper_timeout
        try:
            return await self._parts.wrappers.call(app, f"{app}.{method}", limit, function, *args, memory)
        except NoProcess as error:
            raise EngineError(ErrorType.HOST_LOST, str(error), passing=True) from error

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._engine.threads, call, *args)


def _forget(task: asyncio.Future[Any]) -> None:
    """Retrieve the exception of abandoned work, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
