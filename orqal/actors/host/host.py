"""A host: drives the Docker daemon of its machine, and reports to the Scheduler."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import psutil

from orqal.actors.background import Background
from orqal.actors.host.container_run import ContainerRun, HostParts
from orqal.actors.host.disk_space import DiskSpace
from orqal.actors.host.engine_watch import EngineWatch, Seen
from orqal.actors.host.image_pulls import ImagePulls
from orqal.actors.host.log_readers import LogReaders
from orqal.actors.host.wrapper_bundles import WrapperBundles
from orqal.actors.interfaces import HostApi, SchedulerApi, WrapperCalls
from orqal.actors.messages import Examined, HostReport, Order, Started
from orqal.actors.metrics import HOST_LAG, Family, Meter, Metrics
from orqal.doctor import machine as checkup
from orqal.doctor.facts import Machine
from orqal.engine import file_listing, job_directory
from orqal.engine.client import ContainerKey
from orqal.engine.devices import NVIDIA_RUNTIME, find, nvidia_gpus
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.file_listing import FilePage
from orqal.engine.image_identity import ImageIdentity
from orqal.engine.job_directory import Piece, Removed
from orqal.models import GPU, REFUSED, ContainerStart, Device, JobRecord, Load, Outcome
from orqal.scheduling.lifecycle import Wish
from orqal.settings import Settings
from orqal.text import counted
from orqal.wrappers.base import GivenParents, ParentReader

log = logging.getLogger("orqal.host")
T = TypeVar("T")

_LATE = 1.0, 10.0, 60.0
"""Seconds between the looks for a container whose creation was not answered: a daemon that goes on after a while may
still do what it was asked before."""
_RETRY = 5.0
"""Seconds before what a daemon refused is asked of it again."""
_SAMPLERS = 8
"""Threads that ask what containers use, where that must be asked: each waits up to a second for its answer."""
_DEVICES_EVERY = 60.0
"""Seconds between two looks for devices."""
_CLAIM_AGAIN = 5.0
"""Seconds between two looks whether the folder of jobs' directories can be used now."""
_REMOVAL_TIME = 10.0
"""Seconds after which a call that removes directories answers, whether all are gone or not."""
_DIRECTORY_TIME = 5.0
"""Seconds for one of them: those after it have their turn even if it is very large."""


class Host(HostApi):
    """Runs attempts in containers, each once: an order that is repeated attaches to what exists."""

    def __init__(
        self,
        settings: Settings,
        cluster: str,
        node_id: str,
        scheduler: SchedulerApi,
        wrappers: WrapperCalls,
        also: Meter | None = None,
        parents: Callable[[JobRecord], ParentReader] = lambda job: GivenParents(),
    ) -> None:
        """`cluster` marks the containers of this cluster. `parents`: see HostParts. `also`: see Metrics. Call this on
        the event loop on which the host lives."""
        self._settings = settings
        self._cluster = cluster
        self._node_id = node_id
        self._incarnation = uuid.uuid4().hex
        self._scheduler = scheduler
        self._background = Background()
        self._loop = asyncio.get_running_loop()
        self._load = Load()
        self._disks = DiskSpace(settings)
        self._logs = LogReaders(self._loop)
        self._metrics = Metrics("host", also)
        self._pulls = ImagePulls(settings.pull_patience, self._report_now, settings.registries, self._metrics)
        self._engine = EngineWatch(cluster, self._settings.registry_auth, self._on_connect, self._on_change)
        self._pool = self._engine.threads
        self._runs: dict[ContainerKey, ContainerRun] = {}
        # One thread, so that a disk that hangs costs no other.
        self._cleaner = ThreadPoolExecutor(1, thread_name_prefix="cleaning")
        self._device_finder = ThreadPoolExecutor(1, thread_name_prefix="devices")
        """A driver that hangs costs this thread only."""
        self._devices: list[Device] | None = None
        """None until they are known."""
        self._looked_for_devices = 0.0
        self._stuck: dict[str, str] = {}
        """Why a directory could not be removed, by the id of its job."""
        self._daemon_removes: asyncio.Task[None] | None = None
        """The daemon removes directories that this process may not remove, or has done so."""
        self._early_stops: dict[ContainerKey, Wish] = {}
        """Stops that came before their orders."""
        self._parts = HostParts(
            settings=self._settings,
            engine=self._engine,
            wrappers=wrappers,
            pulls=self._pulls,
            metrics=self._metrics,
            samplers=ThreadPoolExecutor(_SAMPLERS, thread_name_prefix="docker stats"),
            file_opener=ThreadPoolExecutor(1, thread_name_prefix="closed files"),
            on_start=self._on_start,
            on_change=self._report_now,
            end_earlier=self._end_earlier,
            measure_disks=self._measure_disks,
            parents=parents,
            have_bundle=WrapperBundles(settings.bundles_dir, scheduler).have,
            remove_late=lambda key, creating: self._background.spawn(self._remove_late(key, creating)),
        )
        self._refusal: str | None = "opening the folder of jobs' directories"
        """Why the host can do nothing, in the words of its state; None if it can."""
        self._background.spawn(self._claim_folder())
        self._background.spawn(self._report_forever())

    async def _claim_folder(self) -> None:
        """Claim the folder of jobs' directories for this cluster. Until that is done the host gets no work."""
        while self._refusal is not None:
            try:
                problem = await self._loop.run_in_executor(
                    self._cleaner, job_directory.claimed_before, self._settings.jobs_dir, self._cluster
                )
            except OSError as error:
                problem = f"the folder of jobs' directories cannot be used ({error})"
            self._refusal = None if problem is None else f"{REFUSED}: {problem}"
            await self._measure_and_report()
            if problem is not None:
                await asyncio.sleep(_CLAIM_AGAIN)

    # For the Scheduler

    async def run(self, order: Order) -> Outcome:
        key = ContainerKey(order.job.id, order.job.attempt)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = ContainerRun(order, self._parts)
        run.stop(max(order.wish, self._early_stops.pop(key, Wish.NONE)))
        return await asyncio.shield(run.task)

    async def stop(self, job: str, attempt: int, wish: Wish) -> None:
        key = ContainerKey(job, attempt)
        if (run := self._runs.get(key)) is not None:
            run.stop(wish)
        else:
            self._early_stops[key] = wish

    async def release(self, job: str, attempt: int) -> None:
        key = ContainerKey(job, attempt)
        self._early_stops.pop(key, None)
        run = self._runs.get(key)
        if run is not None and run.container is None and not run.task.done():
            # Its job has ended, and its container is still to come: a cancel after a restart of the Scheduler.
            run.stop(Wish.CANCEL)
            self._background.spawn(self._release_after(run, key))
            return
        self._runs.pop(key, None)
        container = (run.container if run else None) or self._parts.found.pop(key, None)
        if container is None:
            return
        try:
            await self._remove(container)
            if cgroups := self._engine.cgroups:
                await self._in_thread(cgroups.remove, [key])
        except EngineError as error:
            log.warning("the container of %s stays for now: %s", job, error)

    async def _release_after(self, run: ContainerRun, key: ContainerKey) -> None:
        await asyncio.wait({run.task})
        await self.release(*key)

    async def _remove(self, container: str) -> None:
        self._engine.forget(container)
        await self._engine.do(lambda engine: engine.remove(container))

    async def _end_earlier(self, key: ContainerKey) -> None:
        """See HostParts. An earlier attempt can be here if the host was given up, and is back with its containers.

        Raises:
            EngineError: the daemon refuses, or does not answer.
        """
        if key.attempt == 1:
            return
        earlier = [other for other in self._runs if other.job == key.job and other.attempt < key.attempt]
        for other in earlier:
            run = self._runs[other]
            run.stop(Wish.CANCEL)
            await asyncio.wait({run.task})
            self._runs.pop(other, None)
        for other, container, _ in await self._engine.do(lambda engine: list(engine.own_containers(key.job))):
            if other.attempt < key.attempt:
                log.warning("attempt %d at %s is still here; it is removed before the next one begins", *other[::-1])
                self._parts.found.pop(other, None)
                await self._remove(container)

    async def _remove_late(self, key: ContainerKey, creating: Awaitable[str]) -> None:
        """Remove a container that a daemon made, or is about to make, though the answer has not come in time."""
        with suppress(EngineError):
            await creating
        for pause in _LATE:
            while True:
                await self._engine.connected.wait()
                try:
                    container = await self._engine.do(lambda engine: engine.find(key))
                    if container is not None and container not in {run.container for run in self._runs.values()}:
                        log.warning("the container of %s, which was created too late, is removed", key.job)
                        await self._remove(container)
                        return
                    break
                except EngineError as error:
                    log.warning("a container of %s may be left: %s", key.job, error)
                    await asyncio.sleep(_RETRY)
            await asyncio.sleep(pause)

    async def incarnation(self) -> str:
        return self._incarnation

    async def report(self) -> HostReport:
        await self._look()
        return self._present()

    async def image_digests(self, images: Sequence[str]) -> dict[str, str]:
        return await self._engine.do(lambda engine: engine.image_digests(images))

    async def attempts(self) -> list[ContainerKey]:
        await self.strays()
        return [*self._runs, *(key for key in self._parts.found if key not in self._runs)]

    async def strays(self) -> list[ContainerKey]:
        held = {run.container for run in self._runs.values()}
        containers = await self._engine.do(lambda engine: list(engine.own_containers()))
        self._parts.found |= {key: container for key, container, _ in containers if container not in held}
        return [key for key, container, _ in containers if container not in held]

    async def remove_directories(self, jobs: Sequence[str]) -> Removed:
        removed = await self._remove_what_may_be(jobs)
        if removed.denied and self._engine.info is not None and self._engine.info.local:
            await self._have_the_daemon_remove(removed.denied)
            again = await self._remove_what_may_be(sorted(removed.denied))
            stuck = {job: why for job, why in removed.stuck.items() if job not in removed.denied}
            removed = Removed([*removed.gone, *again.gone], stuck | again.stuck)
        new = removed.stuck.keys() - self._stuck.keys()
        self._stuck |= removed.stuck
        for job in removed.gone:
            self._stuck.pop(job, None)
        if new:
            log.warning(
                "%s of deleted jobs cannot be removed now: %s",
                counted(len(new), "directory", "directories"),
                self._stuck[min(new)],
            )
        return removed

    async def _remove_what_may_be(self, jobs: Sequence[str]) -> Removed:
        return await self._loop.run_in_executor(
            self._cleaner,
            job_directory.remove_directories,
            *(self._settings.jobs_dir, jobs, _REMOVAL_TIME, _DIRECTORY_TIME),
        )

    async def _have_the_daemon_remove(self, jobs: Collection[str]) -> None:
        """Have root's files removed that this process may not remove. This ends in time, done or not.

        The daemon may then go on. Until it has done what it was asked before, it is asked nothing more.
        """
        if self._daemon_removes is None or self._daemon_removes.done():
            folder = self._settings.jobs_dir
            removing = self._engine.do(lambda engine: engine.replace_by_empty_files(folder, sorted(jobs)))
            self._daemon_removes = self._background.spawn(_logged(removing))
        await asyncio.wait({self._daemon_removes}, timeout=_REMOVAL_TIME)

    # For the API and for what stops a host

    async def is_empty(self) -> bool:
        return not await self._engine.do(lambda engine: list(engine.own_containers()))

    async def open_logs(self, job: str, attempt: int, stdout: bool, stderr: bool, follow: bool) -> str | None:
        key = ContainerKey(job, attempt)
        run = self._runs.get(key)
        container = (run.container if run else None) or self._parts.found.get(key)
        if container is None:
            return None
        try:
            logs = await self._engine.do(
                lambda engine: engine.logs(container, stdout=stdout, stderr=stderr, follow=follow)
            )
        except EngineError:
            return None
        return self._logs.open(logs)

    async def read_logs(self, handle: str) -> bytes | None:
        return await self._logs.read(handle)

    async def close_logs(self, handle: str) -> None:
        self._logs.close(handle)

    async def doing(self, job: str, attempt: int) -> str | None:
        run = self._runs.get(ContainerKey(job, attempt))
        return str(run.image) if run and run.image else None

    async def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return await self._engine.do(lambda engine: engine.overview())

    async def directories(self) -> list[str]:
        return await self._in_thread(job_directory.directories, self._settings.jobs_dir)

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        try:
            return await self._in_thread(job_directory.read_piece, self._settings.jobs_dir / job, name, offset, size)
        except FileNotFoundError:
            return None

    async def list_files(self, job: str, after: str | None, limit: int) -> FilePage | None:
        try:
            return await self._in_thread(file_listing.files_below, self._settings.jobs_dir / job, after, limit)
        except OSError:
            return None

    async def have_directories(self, jobs: Sequence[str]) -> list[str]:
        def there() -> list[str]:
            return [job for job in jobs if (self._settings.jobs_dir / job).is_dir()]

        return await self._in_thread(there)

    async def examine(self, images: Sequence[str] = ()) -> Examined:
        begun = time.time()
        containers, root, silent = dict[ContainerKey, str](), None, None
        identities: Mapping[str, ImageIdentity] = {}
        try:
            if self._engine.silent.is_set():
                raise Unreachable(self._engine.state)
            engine_info = await self._engine.do(lambda engine: engine.info())
            root = engine_info.data_root if engine_info.local else None
            containers = {key: name for key, name, _ in await self._engine.do(lambda e: list(e.own_containers()))}
            identities = await self._engine.do(lambda engine: engine.image_identities(images))
        except EngineError as error:
            silent = error.message

        def look() -> tuple[list[str], set[ContainerKey], Machine]:
            cgroups = self._engine.cgroups.attempts() if self._engine.cgroups else set()
            return job_directory.directories(self._settings.jobs_dir), cgroups, checkup.machine(self._settings, root)

        directories, cgroups, machine = await self._in_thread(look)
        return Examined(
            begun=begun,
            daemon_silent=silent,
            containers=containers,
            directories=frozenset(directories),
            stuck={job: self._stuck[job] for job in directories if job in self._stuck},
            cgroups=frozenset(cgroups - set(self._runs)),
            machine=machine,
            answered=time.time(),
            images=identities,
        )

    async def metrics(self) -> list[Family]:
        return self._metrics.collect()

    async def repair(self, paths: Sequence[str], cgroups: Sequence[ContainerKey]) -> None:
        def work() -> None:
            checkup.repair(self._settings, paths)
            if self._engine.cgroups:
                self._engine.cgroups.remove([key for key in cgroups if key not in self._runs])

        await self._in_thread(work)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await self._loop.run_in_executor(self._pool, call, *args)

    # Reports to the Scheduler

    def _on_connect(self, seen: Seen) -> None:
        ours = {run.container for run in self._runs.values()}
        self._parts.found = {key: container for key, container, _ in seen.containers if container not in ours}
        if cgroups := self._engine.cgroups:
            left_over = seen.metered - set(self._runs) - {key for key, _, _ in seen.containers}
            self._loop.run_in_executor(self._pool, cgroups.remove, left_over)
        self._background.spawn(self._scheduler.found(self._node_id, list(self._parts.found)))
        self._background.spawn(self._greet_daemon())

    async def _greet_daemon(self) -> None:
        """A daemon that was started again may have other devices."""
        await self._look_for_devices()
        self._report_now()

    def _on_start(self, key: ContainerKey, start: ContainerStart) -> None:
        self._background.spawn(self._scheduler.started(Started(key.job, key.attempt, start)))

    def _on_change(self) -> None:
        if self._engine.state != "ready":
            self._load = Load()
        self._background.spawn(self._measure_and_report())

    async def _measure_and_report(self) -> None:
        """Report at once, but no host as ready whose disk is full."""
        await self._measure_disks()
        self._report_now()

    async def _measure_disks(self) -> None:
        info = self._engine.info
        await self._disks.look(info.data_root if info is not None and info.local else None)
        if self._disks.room.docker_is_full:
            self._engine.logs_are_lost()

    def _report_now(self) -> None:
        self._background.spawn(self._scheduler.report(self._node_id, self._present()))

    async def _report_forever(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("looking at the host's load failed")
            self._report_now()
            await self._metrics.sleep(HOST_LAG, self._settings.load_period)

    async def _look(self) -> None:
        """Find out how busy the host is, how much room its disks have, and which images and devices it has."""
        await self._measure_disks()
        if self._devices is None or self._loop.time() - self._looked_for_devices >= _DEVICES_EVERY:
            await self._look_for_devices()
        in_use: dict[str, int] = {}
        if self._engine.connected.is_set():
            with suppress(EngineError):
                in_use, self._engine.images = await self._engine.unless_silent(
                    asyncio.gather(
                        self._engine.do(lambda engine: engine.images_in_use()),
                        self._engine.do(lambda engine: engine.images()),
                    )
                )
        self._load = Load(images=in_use)
        # The load of another machine, on which only the daemon can be reached, is not known.
        if self._engine.info is not None and self._engine.info.local:
            self._load.cpu, self._load.mem = psutil.cpu_percent(), psutil.virtual_memory().percent

    def _present(self) -> HostReport:
        return HostReport(
            state=self._refusal or self._state(),
            docker_version=self._engine.info.version if self._engine.info else "",
            load=self._load,
            images=self._engine.images,
            pulling=self._pulls.under_way,
            incarnation=self._incarnation,
            shortage=self._disks.room.shortage,
            devices=tuple(self._devices or ()),
            backed=frozenset((GPU, *self._settings.declared_devices)),
            shared=self._settings.shared_resources,
        )

    def _state(self) -> str:
        if self._engine.state == "ready" and self._devices is None:
            return "looking for its devices"
        return self._engine.state

    async def _look_for_devices(self) -> None:
        """Find out which devices there are now. If their driver does not answer, those that are known stay."""
        engine = self._engine.info
        if engine is None:
            return
        self._looked_for_devices = self._loop.time()
        try:
            if self._engine.connected.is_set():
                engine = await self._engine.unless_silent(self._engine.do(lambda engine: engine.info()))
            nvidia = await self._loop.run_in_executor(self._device_finder, nvidia_gpus) if engine.local else []
        except (EngineError, OSError) as error:
            log.warning("the devices of this host are not known now: %s", error)
            self._devices = self._devices or []
            return
        self._devices = find(
            engine.cdi,
            nvidia,
            has_nvidia_runtime=NVIDIA_RUNTIME in engine.runtimes,
            visible=self._settings.gpus,
            declared=self._settings.declared_devices,
        )


async def _logged(removing: Awaitable[None]) -> None:
    try:
        await removing
    except EngineError as error:
        log.warning("the Docker daemon does not remove directories of deleted jobs: %s", error)
