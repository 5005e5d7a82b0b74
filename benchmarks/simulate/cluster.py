"""The course of a trace under a policy, in virtual time.

A job starts when it is decided, and ends after its run time: what images, containers and messages take is left out.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf

from benchmarks.simulate.policies import Decides
from benchmarks.simulate.workload import Job
from orqal.models import Resources


class Overbooked(AssertionError):
    """More runs on a host than it has room for."""


class Course:
    """What happened. After each event there is one entry in `times` and in what is listed for them."""

    def __init__(self, hosts: Mapping[str, Resources], users: Sequence[str]) -> None:
        self.hosts, self.users = dict(hosts), list(users)
        self.started: dict[int, float] = {}
        """When each job started."""
        self.host_of: dict[int, str] = {}
        self.times = array("d")
        self.waiting = array("l")
        """How many jobs wait."""
        self.in_use: tuple[array[int], array[int]] = array("q"), array("q")
        """Threads and memory, in the units of `Resources`."""
        self.held = {user: (array("q"), array("q")) for user in users}
        """The same, by user."""
        self.all_wait = array("b")
        """1 if every user has a job that waits."""
        self.end = 0.0
        """When the last job ended."""
        self.cpu = 0.0
        """Seconds of CPU time for all decisions."""

    @property
    def totals(self) -> Resources:
        """What all hosts have."""
        return Resources(
            sum(capacity.threads for capacity in self.hosts.values()),
            sum(capacity.ram for capacity in self.hosts.values()),
        )


def run(
    jobs: Sequence[Job],
    hosts: Mapping[str, Resources],
    users: Sequence[str],
    policy: Decides,
    progress: Callable[[int], None] = lambda ended: None,
) -> Course:
    """Let all jobs arrive, start and end. `progress` is told how many have ended."""
    course = Course(hosts, users)
    free = dict(hosts)
    waiting = dict.fromkeys(users, 0)
    held = dict.fromkeys(users, Resources(0, 0))
    ends: list[tuple[float, int]] = []
    arrived = ended = 0
    look: float | None = None
    while arrived < len(jobs) or ends:
        arrives = jobs[arrived].arrives if arrived < len(jobs) else inf
        now = min(arrives, ends[0][0] if ends else inf, inf if look is None else look)
        begun = time.process_time()
        while ends and ends[0][0] <= now:
            job = jobs[heappop(ends)[1]]
            asked, host = Resources.of(job.threads, job.ram_gb), course.host_of[job.number]
            free[host], held[job.user] = free[host].plus(asked), held[job.user].minus(asked)
            policy.end(job, now)
            ended, course.end = ended + 1, now
            progress(ended)
        while arrived < len(jobs) and jobs[arrived].arrives <= now:
            waiting[jobs[arrived].user] += 1
            policy.push(jobs[arrived])
            arrived += 1
        for number, host in policy.decide(now):
            job = jobs[number]
            asked = Resources.of(job.threads, job.ram_gb)
            if not asked.fits(free[host]) or number in course.started:
                raise Overbooked(f"job {number} starts on {host}, which has {free[host]} free, or runs twice")
            free[host], held[job.user] = free[host].minus(asked), held[job.user].plus(asked)
            waiting[job.user] -= 1
            course.started[number], course.host_of[number] = now, host
            heappush(ends, (now + job.seconds, number))
        look = policy.next_look(now)
        course.cpu += time.process_time() - begun
        _note(course, now, waiting, held)
    return course


def _note(course: Course, now: float, waiting: Mapping[str, int], held: Mapping[str, Resources]) -> None:
    course.times.append(now)
    course.waiting.append(sum(waiting.values()))
    course.all_wait.append(all(waiting.values()))
    for user, (threads, ram) in course.held.items():
        threads.append(held[user].threads)
        ram.append(held[user].ram)
    threads_in_use, ram_in_use = course.in_use
    threads_in_use.append(sum(each.threads for each in held.values()))
    ram_in_use.append(sum(each.ram for each in held.values()))
