"""A host of an in-process cluster: a machine whose containers run by script, and the actor in front of it.

It needs no Docker daemon and no Ray, because a simulation runs thousands of hosts a minute, in virtual time. It behaves
as orqal/actors/host does in front of a real daemon. What only a real daemon can show is tested on one.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from orqal.actors.background import Background
from orqal.actors.interfaces import HostApi, SchedulerApi
from orqal.actors.messages import Examined, HostReport, Order, Started
from orqal.actors.metrics import Family
from orqal.doctor.facts import Machine
from orqal.engine.client import ContainerKey
from orqal.engine.file_listing import FilePage
from orqal.engine.job_directory import Piece, Removed
from orqal.models import (
    GPU,
    UNITS,
    ContainerStart,
    Device,
    ErrorType,
    JobError,
    Load,
    Outcome,
    Output,
    Part,
    Resources,
)
from orqal.scheduling.lifecycle import WHY_STOPPED, Wish
from orqal.scheduling.retries import will_retry
from orqal.testing.virtual_time import Process

IMAGES = frozenset({"orqal/demo:latest"})
"""The images on every scripted machine: those of the built-in apps for tests."""
REPORT_PERIOD = 5.0
"""Seconds between two reports of a host."""
SILENT_AFTER = 13.0
"""Seconds after which a host notices that its daemon answers nothing."""


@dataclass(frozen=True)
class Behaviour:
    """What a container does."""

    seconds: float = 1.0
    exit_code: int = 0
    stdout: str = ""
    result: Any = None
    files: Sequence[str] = ()
    """The names of the files that it leaves in its directory."""
    memory_gb: float = 0.0
    """What it uses; more than it was granted ends it as out_of_memory."""
    start_error: JobError | None = None
    """Why it cannot be started."""
    passing: bool = False
    """True if another attempt may be able to start it."""
    crashes_actor: bool = False
    """True if the actor crashes whenever it works on this job."""
    image: str = "image:latest"
    image_digest: str = "sha256:1"

    @classmethod
    def of_params(cls, order: Order) -> Behaviour:
        """As the job's params say: their keys are the names of these fields."""
        known = cls.__dataclass_fields__.keys() - {"start_error"}
        return cls(**{name: value for name, value in order.job.params.items() if name in known})  # type: ignore[arg-type]


@dataclass
class Container:
    """A container of a scripted machine."""

    key: ContainerKey
    id: str
    behaviour: Behaviour
    granted: Resources
    started: float | None = None
    ended: float | None = None
    exit_code: int = 0
    out_of_memory: bool = False
    killed: bool = False
    """True if a signal from its daemon ended it: Orqal or someone else asked for that, or the daemon itself ended."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Life:
    """A container's life on a machine, kept for checks after a simulation."""

    key: ContainerKey
    machine: str
    container: Container


class ScriptedMachine:
    """A machine with a Docker daemon, whose containers outlive the actor in front of it."""

    def __init__(
        self,
        name: str,
        capacity: Resources,
        rng: random.Random,
        labels: Mapping[str, str] | None = None,
        script: Callable[[Order], Behaviour] = Behaviour.of_params,
    ) -> None:
        """`script` says what the container of an order does."""
        self.name, self.capacity, self.labels = name, capacity, labels or {}
        self.rng, self.script = rng, script
        self.devices: list[Device] = []
        """Those that it has now. Its Ray nodes offer as many of them as it has when they join."""
        self.shared = frozenset[str]()
        """The resources whose devices several jobs may share at the same time."""
        self.backed = frozenset([GPU])
        """The resources that are devices."""
        self.power = Process(f"machine {name}")
        self.containers: dict[ContainerKey, Container] = {}
        self.shortage: str | None = None
        """Why its disks have too little room; None if they have enough."""
        self.directories: set[str] = set()
        self.stuck: set[str] = set()
        """The jobs whose directories cannot be removed."""
        self.endless: set[str] = set()
        """The jobs whose directories are so large that their removal does not end."""
        self.tried: list[str] = []
        """The jobs whose directories someone has tried to remove, in this order."""
        self.daemon_up, self.daemon_down = asyncio.Event(), asyncio.Event()
        self.daemon_up.set()
        self.daemon_frozen, self.daemon_thawed = asyncio.Event(), asyncio.Event()
        self.daemon_thawed.set()
        self.start_error: JobError | None = None
        """Why its daemon can start no container, though it answers."""
        self.lives: list[Life] = []

    def offers(self) -> Resources:
        """What a Ray node of it offers when it joins now."""
        count = Counter(device.resource for device in self.devices)
        parts = [Part(resource, "", units * UNITS) for resource, units in count.items()]
        return self.capacity._replace(parts=tuple(sorted((*self.capacity.parts, *parts))))

    def create(self, key: ContainerKey, behaviour: Behaviour, granted: Resources) -> Container:
        """Make a container, or find it if it exists."""
        if key not in self.containers:
            self.containers[key] = Container(key, f"{self.name}-{uuid.uuid4().hex[:12]}", behaviour, granted)
        return self.containers[key]

    def start(self, container: Container) -> None:
        """Start a container; nothing happens if it runs already."""
        if container.started is None:
            container.started = asyncio.get_running_loop().time()
            self.lives.append(Life(container.key, self.name, container))
            self.directories.add(container.key.job)
            self.power.spawn(self._live(container))

    async def _live(self, container: Container) -> None:
        behaviour = container.behaviour
        too_much = behaviour.memory_gb > container.granted.ram / 10_000
        await asyncio.sleep(behaviour.seconds / 2 if too_much else behaviour.seconds)
        container.out_of_memory = too_much
        self.end(container, 137 if too_much else behaviour.exit_code)

    def end(self, container: Container, exit_code: int, *, killed: bool = False) -> None:
        """End a container, unless it has ended."""
        if container.ended is None and container.started is not None:
            container.ended = asyncio.get_running_loop().time()
            container.exit_code, container.killed = exit_code, killed
            container.over.set()

    def remove(self, key: ContainerKey) -> None:
        """Remove a container, running or not."""
        container = self.containers.pop(key, None)
        if container is not None:
            self.end(container, 137, killed=True)
            container.over.set()

    def stop_daemon(self, *, kills_containers: bool) -> None:
        """Stop the daemon. `kills_containers`: without `live-restore` its containers end too."""
        self.daemon_up.clear()
        self.daemon_down.set()
        if kills_containers:
            for container in self.containers.values():
                self.end(container, 137, killed=True)

    def start_daemon(self) -> None:
        """Start the daemon."""
        self.daemon_down.clear()
        self.daemon_up.set()

    def freeze_daemon(self) -> None:
        """Stop the daemon as SIGSTOP would: it keeps its connections, and answers nothing. Its containers go on."""
        self.daemon_thawed.clear()
        self.daemon_frozen.set()

    def thaw_daemon(self) -> None:
        """Let a frozen daemon go on."""
        self.daemon_frozen.clear()
        self.daemon_thawed.set()

    def power_off(self) -> None:
        """Take the machine's power away. What it has on disk stays."""
        self.stop_daemon(kills_containers=True)
        self.power.kill()

    def power_on(self) -> None:
        """Start the machine again."""
        self.power = Process(f"machine {self.name}")
        self.start_daemon()


@dataclass
class _Run:
    """An attempt that is under way."""

    must_end: asyncio.Event = field(default_factory=asyncio.Event)
    wish: Wish = Wish.NONE
    task: asyncio.Task[Outcome] | None = None

    def stop(self, wish: Wish) -> None:
        if wish is not Wish.NONE:
            self.wish = max(self.wish, wish)
            self.must_end.set()


class _Unreachable(Exception):
    """The daemon does not answer."""


class ScriptedHost(HostApi):
    """The actor of a host, for as long as its process lives."""

    def __init__(
        self, machine: ScriptedMachine, node_id: str, scheduler: SchedulerApi, process: Process, lost_after: float
    ) -> None:
        """`lost_after`: seconds that an attempt waits for the daemon."""
        self._machine, self._node_id, self._scheduler, self._process = machine, node_id, scheduler, process
        self._lost_after = lost_after
        self._incarnation = uuid.uuid4().hex
        self._background = Background()
        self._runs: dict[ContainerKey, _Run] = {}
        self._early_stops: dict[ContainerKey, Wish] = {}
        self._silent = asyncio.Event()
        """Set once the host has noticed that its daemon answers nothing."""

    async def live(self) -> None:
        """Find the containers of the machine, and report for as long as the process lives."""
        self._background.spawn(self._watch_daemon())
        self._background.spawn(self._watch_for_silence())
        while True:
            self._report_now()
            await asyncio.sleep(REPORT_PERIOD)

    async def _watch_daemon(self) -> None:
        while True:
            await self._machine.daemon_up.wait()
            self._report_now()
            await self._report_found()
            await self._machine.daemon_down.wait()
            self._report_now()

    async def _watch_for_silence(self) -> None:
        while True:
            await self._machine.daemon_frozen.wait()
            if await _within(self._machine.daemon_thawed, SILENT_AFTER):
                continue
            self._silent.set()
            self._report_now()
            await self._machine.daemon_thawed.wait()
            self._silent.clear()
            self._report_now()
            await self._report_found()

    async def _report_found(self) -> None:
        held = set(self._runs)
        await self._scheduler.found(self._node_id, [key for key in self._machine.containers if key not in held])

    def _report_now(self) -> None:
        self._background.spawn(self._scheduler.report(self._node_id, self._present()))

    def _present(self) -> HostReport:
        state = "ready" if self._machine.daemon_up.is_set() else "the Docker daemon does not answer"
        if self._silent.is_set():
            state = "silent: its Docker daemon does not answer"
        shortage = self._machine.shortage
        report = HostReport(state, "scripted", Load(), IMAGES, frozenset(), self._incarnation, shortage)
        machine = self._machine
        return report._replace(devices=tuple(machine.devices), backed=machine.backed, shared=machine.shared)

    # An attempt

    async def run(self, order: Order) -> Outcome:
        key = ContainerKey(order.job.id, order.job.attempt)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = _Run()
            run.task = asyncio.ensure_future(self._attempt(order, run))
        run.stop(max(order.wish, self._early_stops.pop(key, Wish.NONE)))
        assert run.task is not None
        return await asyncio.shield(run.task)

    async def _attempt(self, order: Order, run: _Run) -> Outcome:
        key = ContainerKey(order.job.id, order.job.attempt)
        while True:
            try:
                return await self._attempt_once(order, run, key)
            except _Unreachable:
                if key not in self._machine.containers:
                    failed = _failed(ErrorType.DOCKER_ERROR, "the daemon does not answer", passing=True)
                    return replace(failed, host_failed=self._silent.is_set())

    async def _attempt_once(self, order: Order, run: _Run, key: ContainerKey) -> Outcome:
        machine, loop = self._machine, asyncio.get_running_loop()
        behaviour = machine.script(order)
        if behaviour.crashes_actor:
            await asyncio.sleep(0.3)
            self._process.kill()
            await asyncio.sleep(0)
        # As on a real host: an attempt without a container should run elsewhere.
        await self._daemon(self._lost_after if key in machine.containers else 0.0)
        container, start = machine.containers.get(key), None
        if container is None or container.started is None:
            if run.must_end.is_set() or await self._stopped_within(run, machine.rng.uniform(0.01, 0.3)):
                return self._stopped(run)
            await self._daemon()
            await self._end_earlier(key)
            while not self._devices_are_free(order, key):
                if await self._stopped_within(run, 0.5):
                    return self._stopped(run)
                await self._daemon()
            if machine.start_error is not None:
                return Outcome(error=machine.start_error, passing=True)
            if behaviour.start_error is not None:
                return Outcome(error=behaviour.start_error, passing=behaviour.passing)
            container = machine.create(key, behaviour, order.resources)
            await asyncio.sleep(machine.rng.uniform(0.01, 0.1))
            if run.must_end.is_set():
                return self._stopped(run)
            await self._daemon()
            machine.start(container)
        assert container.started is not None
        if order.job.container_id is None:
            image = behaviour.image, behaviour.image_digest
            start = ContainerStart(*image, "true", container.id, "/wd", loop.time() - container.started)
            self._background.spawn(self._scheduler.started(Started(*key, start)))
        stopped = await self._until_over(order, run, container)
        await self._daemon()
        return self._outcome(order, run, container, start, stopped)

    def _devices_are_free(self, order: Order, key: ContainerKey) -> bool:
        """True if no other container has one of these devices: see ContainerRun."""
        wanted = {part for part in order.resources.parts if part.device and part.units == UNITS}
        others = (c.granted.parts for other, c in self._machine.containers.items() if other != key and c.ended is None)
        return not any(wanted & set(parts) for parts in others)

    async def _end_earlier(self, key: ContainerKey) -> None:
        """End and remove what earlier attempts at the job have left here."""
        for earlier in [*self._runs, *self._machine.containers]:
            if earlier.job == key.job and earlier.attempt < key.attempt:
                if (run := self._runs.get(earlier)) is not None and run.task is not None:
                    run.stop(Wish.CANCEL)
                    await asyncio.wait({run.task})
                    self._runs.pop(earlier, None)
                self._machine.remove(earlier)

    async def _until_over(self, order: Order, run: _Run, container: Container) -> str | None:
        """Wait for a container's end, and return why it was stopped; None if it ended by itself."""
        assert container.started is not None
        loop = asyncio.get_running_loop()
        if container.over.is_set():
            # An earlier process of the actor may have stopped it, and died before it could report that.
            ran = (container.ended or loop.time()) - container.started
            if order.timeout is not None and container.exit_code and ran >= order.timeout:
                return "timeout"
            return "cancel" if run.must_end.is_set() else None
        over, must_end = (asyncio.ensure_future(event.wait()) for event in (container.over, run.must_end))
        left = None if order.timeout is None else max(0.0, order.timeout - (loop.time() - container.started))
        await asyncio.wait({over, must_end}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        must_end.cancel()
        if container.over.is_set():
            return None
        await self._daemon()
        self._machine.end(container, 143, killed=True)
        return "cancel" if run.must_end.is_set() else "timeout"

    def _outcome(
        self, order: Order, run: _Run, container: Container, start: ContainerStart | None, stopped: str | None
    ) -> Outcome:
        error, passing = None, False
        if stopped == "timeout":
            error = JobError(type=ErrorType.TIMEOUT, message="it ran too long")
        elif container.out_of_memory:
            error = JobError(type=ErrorType.OUT_OF_MEMORY, message="it wanted more memory")
        elif stopped == "cancel":
            error = self._stopped(run).error
        elif stopped is None and container.killed:
            error, passing = JobError(type=ErrorType.DOCKER_ERROR, message="it was stopped from outside"), True
        result = None if error or will_retry(order.job, container.exit_code) else container.behaviour.result
        output = Output(stdout=container.behaviour.stdout, result=result)
        return Outcome(
            error=error,
            passing=passing,
            start=start,
            exit_code=container.exit_code,
            peak_memory=round(min(container.behaviour.memory_gb, container.granted.ram / UNITS) * 10**9),
            output=output,
            files=list(container.behaviour.files),
        )

    def _stopped(self, run: _Run) -> Outcome:
        if run.wish is Wish.CANCEL:
            return _failed(ErrorType.CANCELLED, "cancelled")
        return _failed(ErrorType.HOST_LOST, WHY_STOPPED[run.wish])

    async def _stopped_within(self, run: _Run, seconds: float) -> bool:
        return await _within(run.must_end, seconds)

    async def _daemon(self, within: float = 0.0) -> None:
        """Return if the daemon answers.

        Raises:
            _Unreachable: it does not.
        """
        if not self._silent.is_set() and not self._machine.daemon_thawed.is_set():
            thawed, silent = (asyncio.ensure_future(e.wait()) for e in (self._machine.daemon_thawed, self._silent))
            await asyncio.wait({thawed, silent}, return_when=asyncio.FIRST_COMPLETED)
            thawed.cancel()
            silent.cancel()
        if self._silent.is_set() and not await _within(self._machine.daemon_thawed, max(within, 0.01)):
            raise _Unreachable
        if not await _within(self._machine.daemon_up, max(within, 0.01)):
            raise _Unreachable

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
        if run is not None and run.task is not None and not run.task.done() and key not in self._machine.containers:
            run.stop(Wish.CANCEL)
            await asyncio.wait({run.task})
        self._runs.pop(key, None)
        with suppress(_Unreachable):
            await self._daemon()
            self._machine.remove(key)

    # Questions

    async def incarnation(self) -> str:
        return self._incarnation

    async def report(self) -> HostReport:
        return self._present()

    async def image_digests(self, images: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(images, "sha256:1")

    async def attempts(self) -> list[ContainerKey]:
        return [*self._runs, *(key for key in self._machine.containers if key not in self._runs)]

    async def strays(self) -> list[ContainerKey]:
        return [key for key in self._machine.containers if key not in self._runs]

    async def remove_directories(self, jobs: Sequence[str]) -> Removed:
        stuck = {job: "Permission denied" for job in jobs if job in self._machine.stuck}
        gone = [job for job in jobs if job not in stuck and job not in self._machine.endless]
        self._machine.directories -= set(gone)
        self._machine.tried.extend(jobs)
        return Removed(gone, stuck)

    async def is_empty(self) -> bool:
        return not self._machine.containers

    async def open_logs(self, job: str, attempt: int, stdout: bool, stderr: bool, follow: bool) -> str | None:
        return None

    async def read_logs(self, handle: str) -> bytes | None:
        return None

    async def close_logs(self, handle: str) -> None:
        return None

    async def doing(self, job: str, attempt: int) -> str | None:
        return None

    async def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return {}, []

    async def directories(self) -> list[str]:
        return sorted(self._machine.directories)

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        return None

    async def list_files(self, job: str, after: str | None, limit: int) -> FilePage | None:
        return None

    async def have_directories(self, jobs: Sequence[str]) -> list[str]:
        return [job for job in jobs if job in self._machine.directories]

    async def examine(self, images: Sequence[str] = ()) -> Examined:
        moment = asyncio.get_running_loop().time()
        containers = {key: container.id for key, container in self._machine.containers.items()}
        directories = frozenset(self._machine.directories)
        return Examined(moment, None, containers, directories, frozenset(), Machine(), moment)

    async def metrics(self) -> list[Family]:
        return []

    async def repair(self, paths: Sequence[str], cgroups: Sequence[ContainerKey]) -> None:
        return None


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Return True when an event is set; False if it is not within so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def _failed(type: ErrorType, message: str, *, passing: bool = False) -> Outcome:
    return Outcome(error=JobError(type=type, message=message), passing=passing)
