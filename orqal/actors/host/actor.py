"""The HostActor: one per Ray node, drives that node's Docker daemon and reports its load."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psutil

from orqal.actors.host.container_run import Execution, Shared
from orqal.actors.host.engine_watch import Daemon, Seen
from orqal.actors.host.image_pulls import Pulls
from orqal.actors.host.log_readers import LogReaders
from orqal.actors.messages import Examined, HostReport, Order, Outcome
from orqal.actors.names import log_to_ray
from orqal.actors.wrapper_processes import Runners
from orqal.doctor import machine as checkup
from orqal.doctor.facts import Machine
from orqal.engine import job_directory
from orqal.engine.client import ContainerKey, Engine
from orqal.engine.errors import EngineError
from orqal.engine.job_directory import Piece
from orqal.models import Load
from orqal.settings import Settings

log = logging.getLogger("orqal.host")
T = TypeVar("T")

_SAMPLERS = 8
"""Threads that ask what containers use, where that must be asked: each waits up to a second for its answer."""


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
        self._load = Load()
        self._logs = LogReaders(self._loop)
        self._pulls = Pulls(self._settings.pull_patience, self._tell)
        self._daemon = Daemon(cluster, self._settings.registry_auth, self._on_connect, self._on_change)
        self._pool = self._daemon.threads
        self._attempts: dict[ContainerKey, Execution] = {}
        self._shared = Shared(
            settings=self._settings,
            daemon=self._daemon,
            runners=Runners(node_id),
            pulls=self._pulls,
            samplers=ThreadPoolExecutor(_SAMPLERS, thread_name_prefix="docker stats"),
            scheduler=scheduler,
            tell=self._tell,
        )
        self._reporting = asyncio.create_task(self._report_forever())

    # What the Scheduler calls

    async def run(self, order: Order) -> Outcome:
        """Run an attempt to its end, or attach to it if it is under way or has ended but was not released."""
        key = ContainerKey(order.job.id, order.job.attempt)
        attempt = self._attempts.get(key)
        if attempt is None:
            attempt = self._attempts[key] = Execution(order, self._shared)
        return await asyncio.shield(attempt.task)

    async def stop(self, job: str, number: int, evicted: bool = False) -> None:
        """End an attempt: see Execution.cancel."""
        if (attempt := self._attempts.get(ContainerKey(job, number))) is not None:
            await attempt.cancel(evicted)

    async def release(self, job: str, number: int) -> None:
        """The attempt's outcome is in the store: its container may go."""
        key = ContainerKey(job, number)
        attempt = self._attempts.pop(key, None)
        container = (attempt.container if attempt else None) or self._shared.found.pop(key, None)
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
        self._shared.found |= {key: container for key, container, _ in containers if container not in held}
        return [key for key, container, _ in containers if container not in held]

    async def is_empty(self) -> bool:
        """True when no container of a job is left here. EngineError: the daemon does not answer."""
        return not await self._docker(lambda engine: list(engine.own_containers()))

    async def remove_directories(self, jobs: Sequence[str]) -> list[str]:
        """Remove the directories of deleted jobs: those of which nothing is left."""
        return await self._loop.run_in_executor(
            self._pool, job_directory.remove_directories, self._settings.jobs_dir, jobs
        )

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
                job_directory.directories(self._settings.jobs_dir),
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
        container = (attempt.container if attempt else None) or self._shared.found.get(key)
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
        return await self._loop.run_in_executor(self._pool, job_directory.directories, self._settings.jobs_dir)

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        """Up to `size` bytes of a file of a job's directory. None: no such file."""
        directory = self._settings.jobs_dir / job
        try:
            return await self._loop.run_in_executor(self._pool, job_directory.read_piece, directory, name, offset, size)
        except FileNotFoundError:
            return None

    # The daemon

    async def _docker(self, call: Callable[[Engine], T]) -> T:
        return await self._daemon.do(call)

    def _on_connect(self, seen: Seen) -> None:
        ours = {attempt.container for attempt in self._attempts.values()}
        self._shared.found = {key: container for key, container, _ in seen.containers if container not in ours}
        if cgroups := self._daemon.cgroups:
            left_over = seen.metered - set(self._attempts) - {key for key, _, _ in seen.containers}
            self._loop.run_in_executor(self._pool, cgroups.remove, left_over)
        self._scheduler.found.remote(self._node_id, list(self._shared.found))

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
