"""A whole cluster in one process, in virtual time: the real Scheduler and store, scripted hosts.

    async with InProcessCluster(folder, hosts={"h1": (4, 16)}) as cluster:
        [job] = await cluster.submit(JobSpec(app="Test", params={"seconds": 3}))
        cluster.kill_scheduler()
        await cluster.ended([job])

Everything that can die here can be killed: the Scheduler, a host's actor, its node, its machine, its daemon. See
`virtual_time.run` for how to run it.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from orqal.actors.interfaces import ActorAway, ClusterApi, Contended, HostApi, Node, SchedulerApi
from orqal.actors.messages import Order
from orqal.actors.scheduler.scheduler import Scheduler
from orqal.models import Device, JobRecord, JobSpec, Resources, Status
from orqal.scheduling.demand import Bundle
from orqal.settings import Settings
from orqal.store import SqliteStore, Store
from orqal.testing.scripted_host import Behaviour, Container, Life, ScriptedHost, ScriptedMachine
from orqal.testing.virtual_time import Process, VirtualClock
from orqal.wrappers import catalog
from orqal.wrappers.catalog import App, Source

RESTART = 0.7
"""Seconds after which Ray has started an actor again that died (measured with Ray 2.60: 0.7 to 1.2)."""
NODE_LOST = 3.0
"""Seconds after which Ray takes a node that does not answer for dead."""
LEASE_WITHIN = 5.0
"""Seconds within which a lease is given, if there is room."""
_RESERVE_BYTES = 4096


class _Calls:
    """Calls the methods of an actor in its own process, as Ray would: with latency, and an error if it dies."""

    def __init__(self, find: Callable[[], tuple[Process, Any] | None], rng: random.Random, *, again: bool) -> None:
        """`find`: the process and the object behind it; None while it cannot be reached. `again`: a call of an actor
        that dies is repeated, as Ray does for the Scheduler."""
        self._find, self._rng, self._again = find, rng, again

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            while True:
                await asyncio.sleep(self._rng.uniform(0.0005, 0.003))
                try:
                    return await self._once(name, args, options)
                except ActorAway:
                    if not self._again:
                        raise
                    await asyncio.sleep(0.2)

        return call

    async def _once(self, name: str, args: Any, options: Any) -> Any:
        found = self._find()
        if found is None or not found[0].alive:
            await asyncio.sleep(self._rng.uniform(0.1, 1.5))
            raise ActorAway("it is not there")
        process, target = found
        answer = await process.answer(getattr(target, name)(*args, **options))
        if answer is None:
            raise ActorAway("it died")
        await asyncio.sleep(self._rng.uniform(0.0005, 0.003))
        return answer.result()


@dataclass
class _NodeState:
    """A Ray node, as the cluster sees it."""

    node: Node
    machine: ScriptedMachine
    reachable: bool = True
    actor: tuple[Process, ScriptedHost] | None = None
    wanted: bool = False
    """Someone has asked for its actor, so Ray restarts it."""


class ScriptedCluster(ClusterApi):
    """Ray, with the part of it that the Scheduler uses."""

    def __init__(self, rng: random.Random, scheduler: SchedulerApi, lost_after: float) -> None:
        self._rng, self._scheduler, self._lost_after = rng, scheduler, lost_after
        self._nodes: dict[str, _NodeState] = {}
        self._leases: dict[str, tuple[str, Resources]] = {}
        self.others: dict[str, Resources] = {}
        """What other Ray programs hold, by node."""
        self.requested: Sequence[Bundle] = ()
        self._number = 0
        self._ray = Process("ray")

    # What happens to it

    def add(self, machine: ScriptedMachine, *, is_head: bool = False) -> str:
        """Let a machine join as a new node, and return the node's id."""
        self._number += 1
        node = Node(f"node{self._number}", machine.name, machine.name, machine.offers(), machine.labels, is_head)
        self._nodes[node.id] = _NodeState(node, machine)
        return node.id

    def node_of(self, machine: str) -> _NodeState | None:
        """The present node of a machine."""
        return next((state for state in reversed(self._nodes.values()) if state.node.name == machine), None)

    def kill_actor(self, machine: str) -> None:
        """Kill the process of a host's actor. Ray starts another."""
        state = self.node_of(machine)
        if state is not None and state.actor is not None:
            state.actor[0].kill()

    async def remove(self, machine: str) -> None:
        """Kill a node with its actor. Ray notices this after a while."""
        state = self.node_of(machine)
        if state is None:
            return
        self.kill_actor(machine)
        state.reachable, state.wanted = False, False
        await asyncio.sleep(self._rng.uniform(0.2, NODE_LOST))
        self._nodes.pop(state.node.id, None)

    # What the Scheduler asks

    async def nodes(self) -> list[Node]:
        await asyncio.sleep(self._rng.uniform(0, 0.005))
        return [state.node for state in self._nodes.values()]

    async def free(self) -> dict[str, Resources]:
        return {node: self._room(node) for node in self._nodes}

    def _room(self, node_id: str) -> Resources:
        room = self._nodes[node_id].node.capacity.minus(self.others.get(node_id, Resources(0, 0)))
        for node, resources in self._leases.values():
            if node == node_id:
                room = room.minus(resources.counted)
        return room

    def host(self, node: Node) -> HostApi:
        state = self._nodes.get(node.id)
        if state is not None:
            self._start_actor(state)
            state.wanted = True
        return cast(HostApi, _Calls(lambda: self._actor(node.id), self._rng, again=False))

    def _actor(self, node_id: str) -> tuple[Process, ScriptedHost] | None:
        state = self._nodes.get(node_id)
        return state.actor if state is not None and state.reachable else None

    def _start_actor(self, state: _NodeState) -> None:
        if state.actor is not None and state.actor[0].alive:
            return
        process = Process(f"actor of {state.node.name}")
        host = ScriptedHost(state.machine, state.node.id, self._scheduler, process, self._lost_after)
        state.actor = process, host
        process.spawn(host.live())
        self._ray.spawn(self._restart_actor(state, process))

    async def _restart_actor(self, state: _NodeState, process: Process) -> None:
        """Start another process when this one has died, as Ray does."""
        await process.died.wait()
        await asyncio.sleep(RESTART)
        if state.wanted and state.reachable:
            self._start_actor(state)

    def close(self) -> None:
        """Stop everything."""
        self._ray.kill()
        for state in self._nodes.values():
            if state.actor is not None:
                state.actor[0].kill()

    def end_host(self, host: HostApi) -> None:
        """Not simulated: only an autoscaler needs it."""

    async def create_lease(self, name: str, node_id: str, resources: Resources) -> None:
        deadline = asyncio.get_running_loop().time() + LEASE_WITHIN
        await asyncio.sleep(self._rng.uniform(0.001, 0.02))
        while node_id not in self._nodes or not resources.counted.fits(self._room(node_id)):
            if asyncio.get_running_loop().time() >= deadline:
                raise Contended
            await asyncio.sleep(0.5)
        self._leases[name] = node_id, resources

    async def has_lease(self, name: str) -> bool:
        return name in self._leases

    def remove_lease(self, name: str) -> None:
        self._leases.pop(name, None)

    async def lease_names(self) -> set[str]:
        return set(self._leases)

    async def request(self, bundles: Sequence[Bundle]) -> None:
        self.requested = bundles


class StoreWithFaults:
    """The store, which fails while `broken` is set."""

    def __init__(self, store: Store) -> None:
        self.whole = store
        """The store without faults."""
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.whole, name)
        if not callable(method) or name in ("close", "failures"):
            return method

        def call(*args: Any, **options: Any) -> Any:
            if self.broken:
                raise sqlite3.OperationalError("database or disk is full")
            return method(*args, **options)

        return call


class InProcessCluster:
    """A cluster in this process; the module's docstring has an example."""

    def __init__(
        self,
        folder: Path,
        hosts: Mapping[str, tuple[float, float]],
        *,
        rng: random.Random | None = None,
        script: Callable[[Order], Behaviour] = Behaviour.of_params,
        devices: Mapping[str, Sequence[Device]] | None = None,
        **settings: Any,
    ) -> None:
        """`folder`: where the store is. `hosts`: name -> (threads, memory in GB). `script`: what containers do.
        `devices`: those of the hosts that have any.

        `settings`: those of orqal.settings.Settings, by name; `services` names the wrapper files.
        """
        self.rng = rng or random.Random(0)  # noqa: S311 - a simulation
        self.settings = replace(Settings(home=folder, services="", host_lost_after=60.0), **settings)
        self._script, self._hosts, self._devices = script, hosts, devices or {}
        self.load_time = 0.05
        """Seconds that loading a wrapper file takes."""
        self._current: tuple[Process, Scheduler] | None = None
        self._ids = 0

    async def __aenter__(self) -> InProcessCluster:
        loop = asyncio.get_running_loop()
        self.clock = VirtualClock(loop)
        self.scheduler: SchedulerApi = cast(SchedulerApi, _Calls(lambda: self._current, self.rng, again=True))
        """The Scheduler, for clients and hosts: a call that it does not survive is repeated."""
        # The usual reserve would take longer to make, in a folder in memory, than the whole life of a cluster.
        self.store = StoreWithFaults(SqliteStore(self.settings.store_path, reserve_bytes=_RESERVE_BYTES))
        self.ray = ScriptedCluster(self.rng, self.scheduler, self.settings.host_lost_after)
        self.machines: dict[str, ScriptedMachine] = {}
        for number, (name, (threads, ram_gb)) in enumerate(self._hosts.items()):
            machine = ScriptedMachine(name, Resources.of(threads, ram_gb), self.rng, script=self._script)
            machine.devices = list(self._devices.get(name, ()))
            self.machines[name] = machine
            self.ray.add(machine, is_head=number == 0)
        await self.start_scheduler()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_scheduler()
        self.ray.close()
        for machine in self.machines.values():
            machine.power.kill()
        self.store.close()

    async def ready(self) -> None:
        """Wait until all hosts take work."""
        while not await self.scheduler.ready() or any(host.state != "ready" for host in await self.scheduler.hosts()):
            await self.wait(0.1)

    async def wait(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    # The Scheduler's life

    async def start_scheduler(self) -> None:
        """Start a Scheduler, which takes up the work of the one before."""
        process = Process("scheduler")

        async def start() -> Scheduler:
            scheduler = Scheduler(
                self.settings, cast(Store, self.store), self.ray, self._load, self.clock, self._new_id
            )
            await scheduler.start()
            return scheduler

        while True:
            with suppress(sqlite3.OperationalError):
                self._current = process, await process.spawn(start())
                return
            await asyncio.sleep(1)  # Ray starts it again

    def kill_scheduler(self) -> None:
        """End the Scheduler's process."""
        if self._current is not None:
            self._current[0].kill()
            self._current = None

    @property
    def scheduler_process(self) -> Process | None:
        """The process of the Scheduler that runs."""
        return self._current[0] if self._current is not None else None

    @property
    def frozen_until(self) -> float:
        """When the last of the processes that are frozen now goes on, on the loop's clock."""
        actors = [self.ray.node_of(name) for name in self._hosts]
        processes = [self.scheduler_process, *(state.actor[0] for state in actors if state and state.actor)]
        return max((process.frozen_until for process in processes if process is not None), default=0.0)

    async def _load(self, source: Source) -> list[App]:
        await asyncio.sleep(self.load_time)
        return catalog.load(source, 1 << 40, self.settings.bundles_dir)

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:024x}"

    # What a client does

    async def submit(self, *specs: JobSpec, key: str | None = None) -> list[str]:
        """Submit jobs, and return their ids once they are on disk."""
        self._ids += 1
        taken = await self.scheduler.submit(specs, key=key or f"key {self._ids}")
        return [job.id for job in taken]

    def record(self, job: str) -> JobRecord:
        """A job as the store has it."""
        return self._records([job])[job]

    def _records(self, jobs: Sequence[str]) -> dict[str, JobRecord]:
        return self.store.whole.get_many(jobs)

    async def until(self, condition: Callable[[], object], within: float = 600.0) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it does not, within so many virtual seconds.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not condition():
            waited = loop.time() - begun
            if waited > within:
                raise TimeoutError("the condition did not come true in time")
            await self.wait(max(0.01, waited / 100))  # what takes long need not be noticed so exactly

    async def running(self, *jobs: str) -> None:
        """Wait until these jobs run."""
        await self.until(lambda: all(self.record(job).current_status is Status.RUNNING for job in jobs))

    def container(self, job: str) -> Container | None:
        """The container of a job that is on a machine, running or not."""
        found = (c for machine in self.machines.values() for key, c in machine.containers.items() if key.job == job)
        return next(found, None)

    def lives(self, job: str) -> list[Life]:
        """The containers that a job has had, in the order of their start."""
        found = [life for machine in self.machines.values() for life in machine.lives if life.key.job == job]
        return sorted(found, key=lambda life: life.container.started or 0.0)

    async def ended(self, jobs: Iterable[str], within: float = 3_600.0) -> None:
        """Wait until these jobs have ended.

        Raises:
            TimeoutError: they have not, within so many virtual seconds.
        """
        deadline = asyncio.get_running_loop().time() + within
        left = list(jobs)
        while left := [job for job, record in self._records(left).items() if not record.current_status.final]:
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"{len(left)} jobs have not ended, {min(left)} among them")
            await self.wait(1)
