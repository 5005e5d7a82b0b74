"""Simulated lives of whole clusters in which everything dies at random: `python -m orqal.testing.simulate_faults`.

Each seed is one life: a few hosts, some jobs, users who submit, cancel and drain, and faults of every kind, several at
a time. Then everything is repaired, and what must hold for every job and every container is checked. A seed that fails
is printed, and `--seed N` replays it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import BadParent
from orqal.actors.metrics import JOBS
from orqal.models import GPU, Device, ErrorType, JobError, JobRecord, JobSpec, Parent, Resources
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.scripted_host import Container, Life
from orqal.testing.virtual_time import VirtualLoop, run

FAULTY_FOR = (10.0, 20.0, 45.0)
"""Virtual seconds during which faults happen: in short lives it is easier to see what went wrong, long ones have more
faults on top of each other."""
AT_ONCE = 0.5
"""Virtual seconds in which a container is ended that was started after its cancel was answered."""
SETTLED_WITHIN = 3_000.0
"""Virtual seconds after the last fault within which every job has ended."""
GONE_WITHIN = 30.0
"""Virtual seconds after the last job's end within which the last container is gone."""
DEVICES = tuple(Device(GPU, f"orqal.test/gpu={number}") for number in range(2))
"""What each machine has at first."""
UNEXPECTED = ("a task in the background failed", "failed inside", "ImpossibleEvent", "a decision failed", "is invalid")
"""Words in the log that no fault of the environment explains."""


class Broken(AssertionError):
    """Something that must always hold does not."""


@dataclass
class Report:
    """One simulated life."""

    seed: int
    jobs: int = 0
    reruns: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    problem: str = ""
    """Empty if all held."""


class _Log(logging.Handler):
    """What the parts logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unexpected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if any(words in text for words in UNEXPECTED):
            self.unexpected.append(text)


class FaultyLife:
    """A cluster's life under faults."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.report = Report(seed)
        self._rng = rng = random.Random(seed)  # noqa: S311 - a simulation
        self._hosts = {f"h{n}": (float(rng.choice([1, 2, 4])), 8.0) for n in range(1, rng.randint(2, 4) + 1)}
        lost_after = rng.choice([5.0, 20.0, 60.0])
        self._faulty_for = rng.choice(FAULTY_FOR)
        self._cluster = InProcessCluster(
            folder, self._hosts, rng=rng, host_lost_after=lost_after, devices=dict.fromkeys(self._hosts, DEVICES)
        )
        self._answered: dict[str, JobSpec] = {}
        self._cancelled: dict[str, float] = {}
        """When the cancel of a job was answered, in virtual seconds."""
        self._unwanted: set[str] = set()
        """Jobs that someone tried to cancel."""
        self._busy: set[str] = set()
        """Machines to which something happens now."""

    async def live(self) -> Report:
        """Live it, and check what must hold."""
        async with self._cluster as cluster:
            users = [asyncio.ensure_future(self._user(number)) for number in range(2)]
            faults = [asyncio.ensure_future(self._fault()) for _ in range(2)]
            await asyncio.gather(*users, *faults)
            await asyncio.sleep(max(0.0, cluster.frozen_until - asyncio.get_running_loop().time()))
            for name in self._hosts:
                await cluster.scheduler.undrain(name)
            try:
                await cluster.ended(self._answered, SETTLED_WITHIN)
                while retries := self._retries():
                    self._answered |= retries
                    await cluster.ended(retries, SETTLED_WITHIN)
            except TimeoutError as error:
                raise Broken(str(error)) from error
            # Containers and leases go a moment after their jobs' ends. What should not start then would do so soon.
            with contextlib.suppress(TimeoutError):
                await cluster.until(lambda: not any(each.containers for each in cluster.machines.values()), GONE_WITHIN)
            await asyncio.sleep(5)
            await self._check()
        return self.report

    # Users

    async def _user(self, number: int) -> None:
        """Submits jobs, waits, cancels some."""
        rng, loop = self._rng, asyncio.get_running_loop()
        while loop.time() < self._faulty_for:
            specs = [self._spec(f"user{number}") for _ in range(rng.randint(1, 4))]
            try:
                ids = await self._cluster.submit(*specs)
            except BadParent:  # jobs would wait for each other
                continue
            except Exception:  # the store is broken: the user sees an error, and nothing was promised
                await asyncio.sleep(2)
                continue
            self._answered |= dict(zip(ids, specs, strict=True))
            if rng.random() < 0.15:
                await self._retry(rng.choice(ids))
            await asyncio.sleep(rng.uniform(0, 20))
            for job in ids:
                if rng.random() < 0.25:
                    await self._cancel(job)

    async def _cancel(self, job: str) -> None:
        self._unwanted.add(job)
        try:
            if await self._cluster.scheduler.cancel([job]):
                self._cancelled[job] = asyncio.get_running_loop().time()
        except Exception:  # the store is broken: the user sees an error
            return

    async def _retry(self, job: str) -> None:
        """Run it again if it has failed, with all that hung on it."""
        with contextlib.suppress(Exception):  # the store is broken: the user sees an error
            await self._cluster.ended([job], within=30)
            await self._cluster.scheduler.retry([job])

    def _retries(self) -> dict[str, JobSpec]:
        """The jobs that retries have made, as far as they are not known."""
        records = (self._cluster.record(job) for job in self._answered)
        new = [record.retried_as for record in records if record.retried_as and record.retried_as not in self._answered]
        fields = set(JobSpec.model_fields)
        return {job: JobSpec(**self._cluster.record(job).model_dump(include=fields)) for job in new}

    def _after(self) -> list[str]:
        """Some jobs and batches to wait after, if there are any."""
        rng = self._rng
        if not self._answered or rng.random() < 0.5:
            return []
        batches = sorted({f"batch:{spec.batch}" for spec in self._answered.values() if spec.batch is not None})
        there = [*list(self._answered)[-12:], *batches[-2:]]
        chosen = rng.sample(there, min(len(there), rng.randint(1, 3)))
        return [f"any:{parent}" if rng.random() < 0.4 else parent for parent in chosen]

    def _spec(self, user: str) -> JobSpec:
        rng = self._rng
        params: dict[str, float | int | bool] = {"seconds": rng.choice([0.01, 0.5, 3.0, 15.0])}
        if rng.random() < 0.2:
            params["exit_code"] = 3
        if rng.random() < 0.01:
            params["crashes_actor"] = True
        return JobSpec(
            app="Test",
            input=rng.random(),
            params=dict(params),
            user=user,
            threads=rng.choice([0.5, 1.0]),
            options={"gpus": 1} if rng.random() < 0.3 else {},
            retries=rng.choice([0, 0, 2]),
            retry_delay=rng.choice([0.0, 1.0]),
            timeout=rng.choice([None, None, 8.0]),
            batch=rng.choice([None, None, "b1", "b2", "b3"]),
            after=self._after(),
        )

    # Faults

    async def _fault(self) -> None:
        rng, loop = self._rng, asyncio.get_running_loop()
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._scheduler_dies,
            self._scheduler_freezes,
            self._actor_dies,
            self._actor_freezes,
            self._node_dies,
            self._machine_loses_power,
            self._daemon_restarts,
            self._daemon_freezes,
            self._daemon_starts_nothing,
            self._store_breaks,
            self._others_hold,
            self._host_is_drained,
        ]
        while loop.time() < self._faulty_for:
            await asyncio.sleep(rng.expovariate(1 / 5))
            kind = rng.choice(kinds)
            self.report.faults[kind.__name__.strip("_").replace("_", " ")] += 1
            await kind()

    def _machine(self) -> str | None:
        """A machine to which nothing happens at this moment."""
        free = [name for name in self._hosts if name not in self._busy]
        return self._rng.choice(free) if free else None

    async def _scheduler_dies(self) -> None:
        if self._cluster.scheduler_process is None:
            return
        self._cluster.kill_scheduler()
        await asyncio.sleep(self._rng.choice([0.1, 1.0, 10.0]))
        await self._cluster.start_scheduler()

    async def _scheduler_freezes(self) -> None:
        process = self._cluster.scheduler_process
        if process is not None:
            process.freeze(self._rng.choice([0.5, 5.0, 30.0]))

    async def _actor_dies(self) -> None:
        for _ in range(self._rng.choice([1, 1, 3])):
            if (name := self._machine()) is not None:
                self._cluster.ray.kill_actor(name)
            await asyncio.sleep(self._rng.uniform(0, 2))

    async def _actor_freezes(self) -> None:
        name = self._machine()
        state = self._cluster.ray.node_of(name) if name else None
        if state is not None and state.actor is not None:
            lost_after = self._cluster.settings.host_lost_after
            state.actor[0].freeze(self._rng.choice([1.0, lost_after / 2, lost_after + 20]))

    async def _node_dies(self) -> None:
        """Its machine and containers go on, and it joins again."""
        if (name := self._machine()) is None:
            return
        self._busy.add(name)
        await self._cluster.ray.remove(name)
        await asyncio.sleep(self._away())
        # It may be back with fewer devices than before, or with all of them.
        machine = self._cluster.machines[name]
        machine.devices = list(DEVICES[: self._rng.choice([1, 2])])
        self._cluster.ray.add(machine)
        self._busy.discard(name)

    async def _machine_loses_power(self) -> None:
        if (name := self._machine()) is None:
            return
        self._busy.add(name)
        machine = self._cluster.machines[name]
        machine.power_off()
        await self._cluster.ray.remove(name)
        await asyncio.sleep(self._away())
        machine.power_on()
        self._cluster.ray.add(machine)
        self._busy.discard(name)

    def _away(self) -> float:
        lost_after = self._cluster.settings.host_lost_after
        return self._rng.choice([0.5, lost_after / 2, lost_after + 10])

    async def _daemon_restarts(self) -> None:
        if (name := self._machine()) is None:
            return
        self._busy.add(name)
        machine = self._cluster.machines[name]
        machine.stop_daemon(kills_containers=self._rng.random() < 0.5)
        await asyncio.sleep(self._away())
        machine.start_daemon()
        self._busy.discard(name)

    async def _daemon_freezes(self) -> None:
        if (name := self._machine()) is None:
            return
        self._busy.add(name)
        machine = self._cluster.machines[name]
        machine.freeze_daemon()
        await asyncio.sleep(self._rng.choice([5.0, self._away(), 60.0]))
        machine.thaw_daemon()
        self._busy.discard(name)

    async def _daemon_starts_nothing(self) -> None:
        if (name := self._machine()) is None:
            return
        machine = self._cluster.machines[name]
        machine.start_error = JobError(type=ErrorType.DOCKER_ERROR, message="Docker would not start the container")
        await asyncio.sleep(self._rng.choice([1.0, 10.0, 40.0]))
        machine.start_error = None

    async def _store_breaks(self) -> None:
        self._cluster.store.broken = True
        await asyncio.sleep(self._rng.choice([0.1, 3.0, 15.0]))
        self._cluster.store.broken = False

    async def _others_hold(self) -> None:
        """Another Ray program takes resources of a host for a while."""
        name = self._machine()
        state = self._cluster.ray.node_of(name) if name else None
        if state is not None:
            self._cluster.ray.others[state.node.id] = Resources.of(0.5, 1)
            await asyncio.sleep(self._rng.uniform(1, 15))
            self._cluster.ray.others.pop(state.node.id, None)

    async def _host_is_drained(self) -> None:
        if (name := self._machine()) is None:
            return
        await self._cluster.scheduler.drain(name, now=self._rng.random() < 0.5)
        await asyncio.sleep(self._rng.uniform(1, 20))
        await self._cluster.scheduler.undrain(name)

    # What must hold

    async def _check(self) -> None:
        lives = sorted(
            (life for machine in self._cluster.machines.values() for life in machine.lives),
            key=lambda life: life.container.started or 0.0,
        )
        self._check_devices(lives)
        by_job: dict[str, list[Life]] = {}
        for life in lives:
            by_job.setdefault(life.key.job, []).append(life)
        for job in self._answered:
            record = self._cluster.record(job)
            self._check_job(record, by_job.get(job, []))
            if self._answered[job].after:
                self._check_child(record, by_job.get(job, []))
            self.report.reruns += len(record.attempts)
        self.report.jobs = len(self._answered)
        left = {
            name: list(machine.containers) for name, machine in self._cluster.machines.items() if machine.containers
        }
        _require(not left, f"containers are left: {left}")
        hosts = await self._cluster.scheduler.hosts()
        _require(all(host.jobs == 0 and host.threads_in_use == 0 for host in hosts), f"something is in use: {hosts}")
        in_hand = await self._cluster.scheduler.in_hand()
        _require(not in_hand.jobs, f"jobs are still in hand: {in_hand.jobs}")
        [counted] = [family for family in await self._cluster.scheduler.metrics() if family.name == JOBS.name]
        _require(not any(sample.value for sample in counted.samples), f"jobs are still counted: {counted.samples}")
        leases = await self._cluster.ray.lease_names()
        _require(not leases, f"leases are left: {leases}")
        _require(len(hosts) == len(self._hosts), f"hosts are missing: {[host.name for host in hosts]}")

    def _check_child(self, record: JobRecord, lives: list[Life]) -> None:
        """It has run only after its parents had ended, and has not run if one has failed that must not."""
        named, failed = list[JobRecord](), list[JobRecord]()
        for parent in map(Parent.of, record.after):
            # Of a batch, those count that were there before. Ids are made in order.
            before = [job for job in self._answered if job < record.id] if parent.is_batch else [parent.name]
            jobs = map(self._cluster.record, before)
            parents = [job for job in jobs if not parent.is_batch or job.batch == parent.name]
            named += parents
            if not parent.any:
                failed += [job for job in parents if not job.ok and (not parent.is_batch or job.retried_as is None)]
        begun = min((life.container.started or 0.0 for life in lives), default=inf)
        for job in named:
            ended = self._cluster.clock.seconds_at(job.etime) if job.etime else inf
            _require(ended <= begun, f"{record.id} started at {begun}, before its parent {job.id} had ended at {ended}")
        hung = _is(record.error, ErrorType.DEPENDENCY_FAILED)
        _require(not (failed and lives), f"{record.id} ran, though {[job.id for job in failed]} had failed")
        _require(not failed or hung or record.id in self._unwanted, f"{record.id} ended as {record.error}, {failed}")
        if hung:
            ancestor = record.failed_ancestor
            _require(ancestor is not None and self._cluster.record(ancestor).ok is False, f"{record.id}: no {ancestor}")
            _require(str(ancestor) in str(record.error), f"{record.id}: {record.error} does not name {ancestor}")

    def _check_devices(self, lives: list[Life]) -> None:
        """No device was in two containers at once."""
        by_device: dict[tuple[str, str], list[Life]] = {}
        for life in lives:
            for part in life.container.granted.parts:
                by_device.setdefault((life.machine, part.device), []).append(life)
        for device, had in by_device.items():
            _require(bool(device[1]), f"it is not known which device {had[0].key} has")
            for earlier, later in pairwise(had):
                ended = earlier.container.ended
                in_time = ended is not None and ended <= (later.container.started or 0.0)
                _require(in_time, f"{device} was given to {earlier.key} and {later.key} at the same time")

    def _check_job(self, record: JobRecord, lives: list[Life]) -> None:
        spec = self._answered[record.id]
        keys = Counter(life.key for life in lives)
        _require(max(keys.values(), default=1) == 1, f"{record.id}: an attempt ran twice: {keys}")
        given_up = {attempt.number for attempt in record.attempts if _is(attempt.error, ErrorType.HOST_LOST)}
        for earlier, later in pairwise(lives):
            # A host that is given up may be away with its container. One that is back must not run two.
            if earlier.key.attempt not in given_up or earlier.machine == later.machine:
                ended = earlier.container.ended
                _require(
                    ended is not None and ended <= (later.container.started or 0.0),
                    f"{record.id}: attempts {earlier.key.attempt} and {later.key.attempt} ran at the same time",
                )
        asked = self._cancelled.get(record.id)
        if asked is not None:
            late = [
                life
                for life in lives
                # What a frozen actor or daemon was asked before the cancel is done when it goes on, and ended at once.
                if (life.container.started or 0.0) > asked + 0.5 and not _ended_at_once(life.container)
            ]
            _require(not late, f"{record.id}: started {late} after its cancel was answered at {asked}")
        if record.id in self._unwanted:
            return
        exit_code = int(spec.params.get("exit_code", 0))  # type: ignore[arg-type]
        if record.error is None:
            _require(record.exit_code == exit_code, f"{record.id}: exited with {record.exit_code}, not {exit_code}")
        elif record.error.type is ErrorType.DEPENDENCY_FAILED:
            _require(bool(spec.after) and not lives, f"{record.id}: {record.error}, {lives}")
        elif record.error.type is ErrorType.TIMEOUT:
            _require(spec.timeout is not None, f"{record.id}: {record.error}")
        else:
            passing = record.error.type in (ErrorType.HOST_LOST, ErrorType.DOCKER_ERROR)
            _require(passing and len(record.attempts) >= 4, f"{record.id}: {record.error}, {record.attempts}")


def _ended_at_once(container: Container) -> bool:
    return container.killed and (container.ended or inf) - (container.started or 0.0) < AT_ONCE


def _is(error: object, type: ErrorType) -> bool:
    return getattr(error, "type", None) is type


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def simulate(seed: int) -> Report:
    """One life. What is wrong with it is in the report."""
    log = _Log()
    logging.getLogger("orqal").addHandler(log)
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - memory, if there is such a folder
    try:
        with tempfile.TemporaryDirectory(prefix="orqal-simulation-", dir=folder) as place:
            life = FaultyLife(seed, Path(place))

            async def lived() -> Report:
                report = await life.live()
                loop = asyncio.get_running_loop()
                assert isinstance(loop, VirtualLoop)
                _require(not loop.problems, f"exceptions that no one took: {loop.problems}")
                return report

            run(lived(), life._rng)
            _require(not log.unexpected, "\n".join(log.unexpected[:3]))
            return life.report
    except Broken as broken:
        return Report(seed, problem=str(broken))
    except (Exception, ActorAway):
        return Report(seed, problem=traceback.format_exc())
    finally:
        logging.getLogger("orqal").removeHandler(log)


def _prepare() -> None:
    """Spare Python looking for garbage among what was imported, and often: lives are short."""
    # Coroutines of killed processes become garbage wherever they are. Some cannot even be closed.
    sys.unraisablehook = lambda _: None
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def main(args: list[str] | None = None) -> int:
    """Simulate lives until the seeds or the time are used up; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m orqal.testing.simulate_faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many lives (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="replay this life alone, with its log")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at a time (default: all cores)")
    options = parser.parse_args(args)
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a seed's course
        os.execve(sys.executable, [sys.executable, "-m", "orqal.testing.simulate_faults", *sys.argv[1:]],  # noqa: S606
                  os.environ | {"PYTHONHASHSEED": "0"})  # fmt: skip
    if options.seed is not None:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        logging.getLogger("orqal").setLevel(logging.DEBUG)
        report = simulate(options.seed)
        print(report)
        return 1 if report.problem else 0
    logging.getLogger("orqal").setLevel(logging.CRITICAL + 1 if options.seed else logging.ERROR)
    logging.getLogger("orqal").propagate = False
    warnings.simplefilter("ignore")  # coroutines of killed processes are never awaited
    begun, lives, failed = time.monotonic(), Report(0), list[Report]()
    told = begun
    seeds = range(options.first, options.first + options.seeds)
    with multiprocessing.Pool(options.processes, _prepare) as pool:
        for number, report in enumerate(pool.imap_unordered(simulate, seeds, chunksize=4), 1):
            lives.jobs, lives.reruns = lives.jobs + report.jobs, lives.reruns + report.reruns
            lives.faults += report.faults
            if report.problem:
                failed.append(report)
                print(f"\nseed {report.seed}: {report.problem}", file=sys.stderr, flush=True)
            if sys.stderr.isatty() or time.monotonic() > told + 60:
                told = time.monotonic()
                begin, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
                line = f"{begin}{number} of {len(seeds)} lives, {len(failed)} failed"
                print(line, end=end, file=sys.stderr, flush=True)
    took = time.monotonic() - begun
    print(
        f"{len(seeds)} lives of clusters in {took:.0f} s ({len(seeds) / took:.0f}/s): {lives.jobs:,} jobs, "
        f"{lives.reruns:,} reruns, {lives.faults.total():,} faults of {len(lives.faults)} kinds, {len(failed)} failed"
    )
    for kind, count in sorted(lives.faults.items()):
        print(f"  {count:8,} {kind}")
    for report in failed:
        print(f"replay: python -m orqal.testing.simulate_faults --seed {report.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
