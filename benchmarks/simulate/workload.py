"""Jobs by a published model of what users of parallel computers send.

Sizes, run times and arrivals follow Lublin and Feitelson, "The Workload on Parallel Supercomputers: Modeling the
Characteristics of Rigid Jobs", Journal of Parallel and Distributed Computing 63(11), 2003, pages 1105-1122. The
parameters are those of the model for all jobs together, as published with the paper (m_lublin99.c in the Parallel
Workloads Archive). They were fitted to the logs of three machines (SDSC Paragon, CTC SP2, KTH SP2).

Two things are set as the authors say that they must be for another machine. An Orqal job runs on one host, so the
largest job has the cores of one host. And the times between arrivals are all multiplied by one factor, so that the
cluster is offered a given load.

The model knows neither memory nor users. What is assumed of them here is ours:

- A job asks for 1, 2 or 4 GB of memory for each thread, each as often. Hosts have 4 GB for each core. That requests
  have a few discrete sizes, and mostly ask for less than there is, is what Feitelson found ("Memory Usage in the LANL
  CM-5 Workload", JSSPP 1997). The sizes are not from there.
- Users are drawn by chance, each as often as `trace` is told.
- No job says how long it will run. Orqal then uses no gaps on hosts that are kept free.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

SERIAL, POWER_OF_TWO = 0.244, 0.576
"""The probabilities that a job has one thread, and that it has a power of two of them."""
SMALLEST, FIRST_PART, TO_THE_LARGEST = 0.8, 0.86, 2.5
"""Of the logarithm to base 2 of the size of the other jobs, which is uniform in two parts: where the first part begins,
its probability, and how far before the largest size it ends."""
SHORT, LONG = (4.2, 0.94), (312.0, 0.03)
"""Shape and scale of the two gamma distributions of the natural logarithm of the run time in seconds."""
SHORT_BY_SIZE, SHORT_OF_SMALL = -0.0054, 0.78
"""The probability of the first of them is a linear function of the size: slope, and value at 0."""
LONGEST = 12.0
"""The largest logarithm of a run time: 45 hours. Larger ones are drawn again."""
BETWEEN = (10.2303 * 1.0225, 0.4871)
"""Shape and scale of the gamma distribution of the logarithm of the time between two arrivals in seconds."""
LONGEST_BETWEEN = 13.0
DAY_CYCLE = (8.1737, 3.9631)
"""Shape and scale of the gamma distribution of arrivals over a day, in half hours."""
DAY_BEGINS = 11
"""The half hour in which that distribution begins."""
HALF_HOUR, HALF_HOURS = 1800.0, 48
GB_PER_THREAD = (1, 2, 4)
"""Ours: see above."""


class Job(NamedTuple):
    """A job of the trace."""

    number: int
    user: str
    threads: int
    ram_gb: int
    arrives: int
    """In seconds from the beginning."""
    seconds: int
    """How long it runs."""


def trace(
    jobs: int, *, largest: int, threads: int, ram_gb: float, demands: Mapping[str, float], load: float, seed: int
) -> list[Job]:
    """Jobs in the order of their arrival.

    `largest`: the threads of the largest job. `threads`, `ram_gb`: what the cluster has; it is offered `load` times as
    much of the resource that is asked for most as it could do until the last job arrives. `demands`: the users, and in
    which relation to each other they send jobs.
    """
    rng = random.Random(seed)
    sizes = [_size(rng, largest) for _ in range(jobs)]
    seconds = [_seconds(rng, size) for size in sizes]
    memory = [size * rng.choice(GB_PER_THREAD) for size in sizes]
    users = rng.choices(list(demands), list(demands.values()), k=jobs)
    gaps = list(accumulate(_between(rng) for _ in range(jobs)))
    work = max(
        sum(size * each for size, each in zip(sizes, seconds, strict=True)) / threads,
        sum(size * each for size, each in zip(memory, seconds, strict=True)) / ram_gb,
    )
    scale = work / load / gaps[-1]
    clock = _Clock()
    return [
        Job(number, users[number], sizes[number], memory[number], int(clock.at(gaps[number] * scale)), seconds[number])
        for number in range(jobs)
    ]


def _size(rng: random.Random, largest: int) -> int:
    kind = rng.random()
    if kind <= SERIAL:
        return 1
    highest = math.log2(largest)
    middle = highest - TO_THE_LARGEST
    power = rng.uniform(SMALLEST, middle) if rng.random() <= FIRST_PART else rng.uniform(middle, highest)
    if kind <= SERIAL + POWER_OF_TWO:
        power = int(power + 0.5)
    return min(largest, int(2**power + 0.5))


def _seconds(rng: random.Random, size: int) -> int:
    short = min(1.0, max(0.0, SHORT_BY_SIZE * size + SHORT_OF_SMALL))
    while True:
        logarithm = rng.gammavariate(*(SHORT if rng.random() <= short else LONG))
        if logarithm <= LONGEST:
            return int(math.exp(logarithm))


def _between(rng: random.Random) -> float:
    """The time between two arrivals, if all hours were alike."""
    while (logarithm := rng.gammavariate(*BETWEEN)) > LONGEST_BETWEEN:
        pass
    return math.exp(logarithm)


class _Clock:
    """Stretches the hours in which few jobs arrive, and shortens those in which many do. Days keep their length."""

    def __init__(self) -> None:
        cycle = [0.0] * HALF_HOURS
        for number in range(DAY_BEGINS, DAY_BEGINS + HALF_HOURS):
            cycle[(number - 1) % HALF_HOURS] = _in_half_hour(number)
        total = sum(cycle)
        self._weights = [each / total * HALF_HOURS for each in cycle]
        """The jobs of each half hour, in relation to those of a mean one."""
        self._begins = [0.0, *accumulate(each * HALF_HOUR for each in self._weights)]

    def at(self, even: float) -> float:
        """The time by which as many jobs have arrived as would have by `even` if all hours were alike."""
        days, rest = divmod(even, HALF_HOUR * HALF_HOURS)
        number = min(HALF_HOURS - 1, bisect_right(self._begins, rest) - 1)
        inside = (rest - self._begins[number]) / self._weights[number]
        return days * HALF_HOUR * HALF_HOURS + number * HALF_HOUR + inside


def _in_half_hour(number: int) -> float:
    """The part of the jobs that arrive in a half hour: the density's integral, by Simpson's rule."""
    return sum(_density(number + part) * of for part, of in ((-0.5, 1 / 6), (0.0, 4 / 6), (0.5, 1 / 6)))


def _density(at: float) -> float:
    shape, scale = DAY_CYCLE
    return float(at ** (shape - 1) * math.exp(-at / scale) / (math.gamma(shape) * scale**shape))
