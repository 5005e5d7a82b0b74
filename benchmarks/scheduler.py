"""Measures the scheduler: how fast it decides, what a waiting job costs, and how long a restart takes.

`make bench-scheduler` calls this. There are four parts. Decisions: orqal.scheduling alone, with made-up hosts and
jobs; a checkout of the commit before gets the same ones. Waiting jobs: the whole Scheduler and a store on disk in one
process, without Ray. End to end: Orqal's own actors, store and API, with a host whose containers only take time.
Pipelines: the same with jobs that wait after others. The figures are printed beside their targets, and written to
build/bench-scheduler.json in the form of bench.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
from figure import Figure, show, write
from rich.console import Console

from orqal import scheduling
from orqal.client import Client
from orqal.models import JobSpec, Resources, Shape
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.virtual_time import run

ROOT = Path(__file__).resolve().parent.parent
SEED = 18
HOSTS, WAITING, USERS, SHAPES = 1_000, 1_000_000, 1_000, 100
LABELS = tuple(f"rack{number}" for number in range(5))
CHAIN = 100
"""Batches of a chain."""
CHURN = 20_000
"""Ends of jobs that are measured."""
BEFORE = "f16ae67"
"""The commit before the index of the hosts' room."""
BEFORE_SIZE = 100, 20_000, 50
"""Hosts, waiting jobs and shapes that both schedulers get: with ten times as many the earlier one takes hours."""
BEFORE_USERS, BEFORE_CHURN = 20, 200

console = Console(highlight=False)


@dataclass(frozen=True)
class Mix:
    """Hosts of mixed sizes, and the kinds of jobs that wait."""

    hosts: list[tuple[str, int, int, dict[str, str]]]
    """Name, cores, GB, labels."""
    shapes: list[tuple[float, float, frozenset[tuple[str, str]], str]]
    """Cores, GB, labels that are required, image."""
    users: list[str]

    @classmethod
    def of(cls, hosts: int, users: int, shapes: int) -> Mix:
        """The same ones at each call."""
        rng = random.Random(SEED)
        return cls(
            [
                (f"host{number}", cores, cores * rng.choice([2, 4, 8]), {"rack": rng.choice(LABELS)})
                for number in range(hosts)
                for cores in [rng.choice([8, 16, 32, 64])]
            ],
            [
                (
                    rng.choice([1, 1, 1, 2, 2, 4, 8]),
                    rng.choice([0.5, 1, 2, 3, 4, 6, 8, 16]) + number / 1_000,
                    frozenset({("rack", rng.choice(LABELS))} if number % 10 == 0 else ()),
                    f"tool{number % 20}:1",
                )
                for number in range(shapes)
            ],
            [f"user{number}" for number in range(users)],
        )


def _key(user: str, shape: Any) -> scheduling.LineKey:
    return scheduling.LineKey(user, Shape(*shape[:3]), shape[3])


class New:
    """orqal.scheduling as it is in this checkout."""

    def __init__(self, mix: Mix) -> None:
        self._planner = scheduling.Planner()
        for name, cores, ram, labels in mix.hosts:
            self._planner.add(scheduling.Host(name, Resources.of(cores, ram), labels=labels))

    def push(self, job: str, user: str, shape: Any) -> None:
        self._planner.push(job, _key(user, shape))

    def decide(self, now: float) -> list[str]:
        return [placement.job for placement in self._planner.decide(now).starts]

    def end(self, job: str, now: float) -> None:
        self._planner.end(job, now)


class Old:
    """orqal.scheduling as it was at BEFORE."""

    def __init__(self, mix: Mix) -> None:
        then: Any = scheduling
        self._queue, self._place = then.Queue(), then.place
        self._hosts = {
            name: then.Host(name, Resources.of(cores, ram), labels=labels) for name, cores, ram, labels in mix.hosts
        }
        self._in_use: dict[str, int] = {}
        self._running: dict[str, Any] = {}

    def push(self, job: str, user: str, shape: Any) -> None:
        self._queue.push(job, _key(user, shape), 0.0)

    def decide(self, now: float) -> list[str]:
        placed = self._place(self._queue, self._hosts.values(), self._in_use, now)
        self._running |= {placement.job: placement for placement in placed}
        return [placement.job for placement in placed]

    def end(self, job: str, now: float) -> None:
        placement = self._running.pop(job)
        host = self._hosts[placement.host]
        host.used = host.used.minus(placement.resources)
        self._in_use[placement.key.user] -= placement.resources.threads


class Times(NamedTuple):
    """How fast a scheduler decides."""

    filling: float
    """Jobs placed in a second on empty hosts."""
    churn: float
    """Jobs that end in a second, each with a decision about what starts in its place."""
    decision: float
    """Seconds for one such end and decision, at the median."""


def measure(contender: type[New] | type[Old], hosts: int, waiting: int, shapes: int, users: int, churn: int) -> Times:
    """Fill empty hosts, let more jobs wait, and then end one job after another, and decide after each."""
    mix, rng = Mix.of(hosts, users, shapes), random.Random(SEED)
    scheduler = contender(mix)
    number = 0

    def push() -> None:
        nonlocal number
        number += 1
        scheduler.push(f"{number:024x}", rng.choice(mix.users), rng.choice(mix.shapes))

    for _ in range(sum(cores for _, cores, _, _ in mix.hosts)):  # more than fit
        push()
    gc.collect()
    gc.freeze()
    begun = time.perf_counter()
    running = scheduler.decide(0.0)
    filling = len(running) / (time.perf_counter() - begun)
    for _ in range(waiting):
        push()
    gc.collect()
    gc.freeze()
    now, decisions = 0.0, []
    for _ in range(churn):
        place = rng.randrange(len(running))
        job, running[place] = running[place], running[-1]
        running.pop()
        push()
        now += 0.0001
        begun = time.perf_counter()
        scheduler.end(job, now)
        running += scheduler.decide(now)
        decisions.append(time.perf_counter() - begun)
    return Times(filling, len(decisions) / sum(decisions), median(decisions))


def decisions() -> Iterator[Figure]:
    """Measure the pure scheduler."""
    large = measure(New, HOSTS, WAITING, SHAPES, USERS, CHURN)
    few_jobs = measure(New, HOSTS, 1_000, SHAPES, USERS, CHURN)
    few_hosts = measure(New, 10, WAITING // 10, SHAPES, USERS, CHURN)
    yield Figure.at_least("placements on empty hosts", large.filling, "1/s", 20_000)
    yield Figure.at_least("ends and starts", large.churn, "1/s", 10_000)
    yield Figure.at_most("decision after one end, median", large.decision * 1e3, "ms", 0.2)
    yield Figure.at_most(
        "the same, 1,000,000 against 1,000 waiting jobs", large.decision / few_jobs.decision, "times", 1.5
    )
    yield Figure.at_most("the same, 1,000 against 10 hosts", large.decision / few_hosts.decision, "ratio", 3)


def against_before() -> Iterator[Figure]:
    """Give the same hosts and jobs to the scheduler of an earlier commit, in a checkout of its own."""
    new = measure(New, *BEFORE_SIZE, BEFORE_USERS, BEFORE_CHURN)
    folder = Path(tempfile.mkdtemp(prefix="orqal-before-"))
    try:
        subprocess.run(["git", "worktree", "add", "-q", "--detach", folder / "code", BEFORE], cwd=ROOT, check=True)
        done = subprocess.run(
            [sys.executable, __file__, "--old"],
            env={**os.environ, "PYTHONPATH": str(folder / "code")},
            check=True,
            capture_output=True,
            text=True,
        )
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder / "code"], cwd=ROOT, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    old = Times(*json.loads(done.stdout))
    size = "{} hosts, {:,} jobs".format(*BEFORE_SIZE)
    yield Figure(f"placements, {BEFORE} ({size})", old.filling, "1/s")
    yield Figure(f"decision after one end, {BEFORE} ({size})", old.decision * 1e3, "ms")
    yield Figure(f"decision after one end, now ({size})", new.decision * 1e3, "ms")
    yield Figure(f"decision, {BEFORE} / now", old.decision / new.decision, "ratio")


def waiting_jobs(jobs: int) -> Iterator[Figure]:
    """Submit jobs to a whole Scheduler whose one host is busy, then start another on the same store."""
    done = subprocess.run(
        [sys.executable, __file__, "--waiting", str(jobs)], check=True, stdout=subprocess.PIPE, text=True
    )
    figures = json.loads(done.stdout)
    yield Figure.at_most("memory of the Scheduler for a waiting job", figures["bytes"], "bytes", 400)
    yield Figure.at_most(f"restart with {jobs:,} waiting jobs", figures["restart"], "s", 30)


def live_with_waiting_jobs(jobs: int) -> dict[str, float]:
    """See waiting_jobs. This process does nothing else, so that its memory is the Scheduler's."""
    from orqal.actors.scheduler.scheduler import collect_seldom  # the commit before, which runs this file, has none

    collect_seldom()  # as the Scheduler's own process does
    process, figures = psutil.Process(), dict[str, float]()

    async def live(folder: Path) -> None:
        async with InProcessCluster(folder, {"host": (4.0, 16.0)}) as cluster:
            await cluster.ready()
            await cluster.scheduler.submit([JobSpec(app="Test", params={"seconds": 1e9}, threads=4, user="other")])
            await cluster.wait(5)
            await submit(cluster, 10_000, "first")
            gc.collect()
            before = process.memory_info().rss
            await submit(cluster, jobs, "many")
            gc.collect()
            figures["bytes"] = (process.memory_info().rss - before) / jobs
            cluster.kill_scheduler()
            await cluster.wait(1)
            gc.collect()
            begun = time.perf_counter()
            await cluster.start_scheduler()
            while await cluster.scheduler.unfinished() < jobs:
                await cluster.wait(0.1)
            figures["restart"] = time.perf_counter() - begun

    async def submit(cluster: InProcessCluster, count: int, batch: str) -> None:
        for first in range(0, count, 1_000):
            numbers = range(first, min(count, first + 1_000))
            await cluster.scheduler.submit(
                [
                    JobSpec(
                        app="Test",
                        input=f"/data/{batch}/{number}",
                        user=f"user{number % 1_000}",
                        batch=batch,
                        threads=1,
                    )
                    for number in numbers
                ]
            )

    with tempfile.TemporaryDirectory() as folder:
        run(live(Path(folder)), random.Random(SEED), longest=3_600)
    return figures


@contextmanager
def scripted_orqal() -> Iterator[Client]:
    """Yield the client of an Orqal of its own whose containers only take time. No Docker daemon is asked for them."""
    home = Path(tempfile.mkdtemp(prefix="orqal-bench-"))
    path = [str(ROOT / "benchmarks" / "scripted_host"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "ORQAL_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, path))}
    for name in ("ORQAL_API_URL", "ORQAL_TOKEN"):
        environment.pop(name, None)
    orqal = Path(sys.executable).with_name("orqal")
    try:
        subprocess.run([orqal, "up"], env=environment, check=True, stdout=subprocess.DEVNULL)
        os.environ["ORQAL_HOME"] = str(home)
        yield Client()
    finally:
        if (home / "cluster.json").exists():
            down = [str(orqal), "down", "--kill-jobs"]
            subprocess.run(down, env=environment, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)


def documents(count: int, prefix: str, seconds: float, threads: float, after: Sequence[str] = ()) -> list[bytes]:
    """Return jobs that take so long, and so many cores."""
    return [
        json.dumps(
            {
                "app": "Run",
                "input": f"{prefix}{number}",
                "params": {"image": "scripted:1", "cmd": ["sleep", str(seconds)]},
                "threads": threads,
                "memory_in_gb": 0.01,
                "user": f"user{number % 10}",
                "after": list(after),
            }
        ).encode()
        for number in range(count)
    ]


def submitted(client: Client, jobs: list[bytes], batch: str) -> str:
    """Submit jobs, and return the name of their batch."""
    assert len(list(client.submit_many(jobs, batch))) == len(jobs)
    return batch


def ended(client: Client, batch: str) -> None:
    """Wait until all jobs of a batch have ended well."""
    assert all(change.ok for change in client.changes(batch=batch))


def end_to_end(jobs: int, many: int) -> Iterator[Figure]:
    """Measure Orqal with Ray, store and API."""
    with scripted_orqal() as client:
        ended(client, submitted(client, documents(200, "warm", 0.05, 0.01), "warm"))
        to_run = documents(jobs, "run", 0.05, 0.01)
        begun = time.perf_counter()
        ended(client, submitted(client, to_run, "run"))
        speed = jobs / (time.perf_counter() - begun)
        yield Figure.at_least(f"from submission to the last end of {jobs:,} jobs", speed, "jobs/s", 1_000)
        # One job takes all cores, so that these wait.
        cores = client.hosts()[0]["threads"]
        list(client.submit_many(documents(1, "busy", 1e6, cores), "busy"))
        waiting = documents(many, "many", 0.05, 0.01)
        begun = time.perf_counter()
        submitted(client, waiting, "many")
        yield Figure.at_most(f"{many:,} jobs submitted from one client", time.perf_counter() - begun, "s", 10)
        client.cancel(batch="many")
        begun = time.perf_counter()
        assert sum(1 for _ in client.results("many")) == many
        yield Figure.at_most(f"{many:,} results read by one client", time.perf_counter() - begun, "s", 10)


def scheduler_process(home: str) -> psutil.Process:
    """Return the process of the Scheduler of the Orqal with this home."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        title, environ = "".join((process.info["cmdline"] or [""])[:1]), process.info["environ"] or {}
        if title.startswith("ray::Scheduler") and environ.get("ORQAL_HOME") == home:
            return process
    raise RuntimeError("there is no Scheduler")


def pipelines(jobs: int) -> Iterator[Figure]:
    """Submit a chain of batches, each after the one before, and a job after all of them, and let all of it run.

    The jobs before them fill what has a fixed size: the pages that each connection to the store keeps, for example.
    """
    with scripted_orqal() as client:
        ended(client, submitted(client, documents(20_000, "warm", 0.05, 0.01), "warm"))
        cores = client.hosts()[0]["threads"]
        [busy] = client.submit_many(documents(1, "busy", 1e6, cores), "busy")
        scheduler = scheduler_process(os.environ["ORQAL_HOME"])
        before = scheduler.memory_info().rss
        begun = time.perf_counter()
        for number in range(CHAIN):
            part = documents(jobs // CHAIN, f"chain{number}-", 0.05, 0.01, [f"batch:b{number - 1}"] if number else [])
            submitted(client, part, f"b{number}")
        yield Figure(f"{jobs:,} jobs in a chain of {CHAIN} batches submitted", time.perf_counter() - begun, "s")
        memory = (scheduler.memory_info().rss - before) / jobs
        yield Figure.at_most("memory of the Scheduler for a job that waits after others", memory, "bytes", 400)
        after = [f"batch:b{number}" for number in range(CHAIN)]
        last = submitted(client, documents(1, "last", 0.05, 0.01, after), "last")
        begun = time.perf_counter()
        client.cancel([busy])
        ended(client, last)
        yield Figure("the chain and the job after it", jobs / (time.perf_counter() - begun), "jobs/s")
        assert all(client.batch(f"b{number}")["ok"] == jobs // CHAIN for number in range(CHAIN))


PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "decisions": decisions,
    "before": against_before,
    "waiting": lambda: waiting_jobs(1_000_000),
    "pipelines": lambda: pipelines(100_000),
    "end-to-end": lambda: end_to_end(20_000, 100_000),
}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be given again")
    parser.add_argument("--old", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--waiting", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.old:
        print(json.dumps(measure(Old, *BEFORE_SIZE, BEFORE_USERS, BEFORE_CHURN)))
        return
    if given.waiting:
        print(json.dumps(live_with_waiting_jobs(given.waiting)))
        return
    figures: list[Figure] = []
    for part in given.only or PARTS:
        console.print(f"{part} …", style="dim")
        for figure in PARTS[part]():
            console.print(f"  {figure.name}: {figure.amount}")
            figures.append(figure)
    show(figures, console)
    file = ROOT / "build" / "bench-scheduler.json"
    write(figures, file)
    console.print(f"Written to {file.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
