"""What a course is worth, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.simulate.cluster import Course
from benchmarks.simulate.workload import Job
from orqal.models import Resources

MAKESPAN_WITHIN = 0.05
"""The target: by how much the makespan may exceed the lower bound."""
SHARE_WITHIN = 0.10
"""The target: by how much a user's share may differ from the fair one."""
LARGE = 0.5
"""A job is large if it asks for more than this part of a host's cores: no two of them run on one host."""


@dataclass(frozen=True)
class Waits:
    """How long jobs waited, in seconds."""

    jobs: int
    median: float
    most_of_95: float
    """The 95th percentile."""
    most: float

    @classmethod
    def of(cls, waits: Sequence[float]) -> Waits:
        """Of jobs that waited so long."""
        if not waits:
            return cls(0, 0.0, 0.0, 0.0)
        ordered = sorted(waits)
        return cls(len(ordered), *(ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.95, 1.0)))


@dataclass(frozen=True)
class UserShare:
    """What a user had while all users had jobs waiting, as a part of what all users had."""

    weight: float
    fair: float
    """Their weight as a part of all weights."""
    had: float

    @property
    def ratio(self) -> float:
        """What they had in relation to the fair share."""
        return self.had / self.fair


@dataclass(frozen=True)
class Figures:
    """Of one policy."""

    makespan: float
    """Seconds from the beginning until the last job has ended."""
    lower_bound: float
    threads_in_use: float
    """The mean part of all threads until the end."""
    ram_in_use: float
    busy: float
    """The mean part of all threads while all users have jobs waiting."""
    all_wait: float
    """The part of the makespan in which all users have jobs waiting."""
    waits: Waits
    waits_of_large: Waits
    shares: dict[str, UserShare]
    cpu: float
    """Seconds of CPU time for all decisions."""
    decisions: int
    """How often it was decided."""

    @property
    def over(self) -> float:
        """The part by which the makespan exceeds the lower bound."""
        return self.makespan / self.lower_bound - 1

    @property
    def farthest(self) -> float:
        """The largest relative difference between a user's share and the fair one."""
        return max(abs(share.ratio - 1) for share in self.shares.values()) if self.all_wait else 0.0


def lower_bound(jobs: Sequence[Job], totals: Resources) -> float:
    """A time before which no policy can have ended all jobs.

    On a cluster without limits each job would start on its arrival. At no moment can more have been done elsewhere than
    would be done there. So at each moment there is work left that the cluster has still to do, and it needs at least
    the time in which all its cores (or all its memory) would do that if none was ever idle. The bound is the latest of
    these times, over all moments; so it is also not before any job's arrival and run time. That a job runs on one host,
    and that nobody knows run times and arrivals beforehand, is not in it: the best that is possible may be later.
    """
    changes = sorted(
        change
        for job in jobs
        for asked in [Resources.of(job.threads, job.ram_gb)]
        for change in (
            (job.arrives, asked.threads, asked.ram),
            (job.arrives + job.seconds, -asked.threads, -asked.ram),
        )
    )
    threads_left = sum(-at * threads for at, threads, _ in changes)
    ram_left = sum(-at * ram for at, _, ram in changes)
    bound, before, threads_in_use, ram_in_use = 0.0, 0, 0, 0
    for at, threads, ram in changes:
        threads_left -= threads_in_use * (at - before)
        ram_left -= ram_in_use * (at - before)
        bound = max(bound, at + max(threads_left / totals.threads, ram_left / totals.ram))
        before, threads_in_use, ram_in_use = at, threads_in_use + threads, ram_in_use + ram
    return bound


def figures(jobs: Sequence[Job], course: Course, weights: Mapping[str, float]) -> Figures:
    """What is printed of a course."""
    totals = course.totals
    threads, ram = (_integral(series, course.times) for series in course.in_use)
    in_wait = sum(seconds for number, seconds in _steps(course.times) if course.all_wait[number])
    busy = sum(
        course.in_use[0][number] * seconds for number, seconds in _steps(course.times) if course.all_wait[number]
    )
    largest_host = max(capacity.threads for capacity in course.hosts.values())
    waits = {job.number: course.started[job.number] - job.arrives for job in jobs}
    return Figures(
        makespan=course.end,
        lower_bound=lower_bound(jobs, totals),
        threads_in_use=threads / totals.threads / course.end,
        ram_in_use=ram / totals.ram / course.end,
        busy=busy / totals.threads / in_wait if in_wait else 0.0,
        all_wait=in_wait / course.end,
        waits=Waits.of(list(waits.values())),
        waits_of_large=Waits.of(
            [waits[job.number] for job in jobs if Resources.of(job.threads, 0).threads > LARGE * largest_host]
        ),
        shares=_shares(course, weights),
        cpu=course.cpu,
        decisions=len(course.times),
    )


def _shares(course: Course, weights: Mapping[str, float]) -> dict[str, UserShare]:
    """What users had while all had jobs waiting: at each moment the larger of the part of all threads and the part of
    all memory that their jobs held, summed over that time."""
    totals, had = course.totals, dict.fromkeys(course.users, 0.0)
    for number, seconds in _steps(course.times):
        if course.all_wait[number]:
            for user, (threads, ram) in course.held.items():
                had[user] += max(threads[number] / totals.threads, ram[number] / totals.ram) * seconds
    all_had, all_weights = sum(had.values()) or 1.0, sum(weights[user] for user in course.users)
    return {user: UserShare(weights[user], weights[user] / all_weights, had[user] / all_had) for user in course.users}


def _integral(series: Sequence[int], times: Sequence[float]) -> float:
    return sum(series[number] * seconds for number, seconds in _steps(times))


def _steps(times: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Each event but the last one, and the seconds until the next one."""
    for number in range(len(times) - 1):
        yield number, times[number + 1] - times[number]
