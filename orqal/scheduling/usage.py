"""What the jobs of an app use: memory, time and CPU time, as far as earlier jobs tell.

For each app, image and size of input there are three sketches. A sketch is a histogram whose buckets grow by a constant
factor, so a quantile is off by at most ACCURACY of itself, whatever the distribution is, and sketches can be added
(Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019).

Old observations fade: whenever a sketch has WINDOW of them, all count half as much as before (the "reset" of Einziger,
Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", ACM ToS 2017). Time alone lets nothing fade:
an app that was not used for a year needs what it needed then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, log, sqrt
from typing import Any, NamedTuple

ACCURACY = 0.05
"""A quantile is off by at most this part of itself."""
WINDOW = 1_000.0
"""As soon as a sketch has this weight of observations, each weighs half as much."""
KEPT = 2_000
"""Combinations of app, image and size of input that are remembered. The one that was observed longest ago goes."""
SMALLEST_SIZE = 1_024
"""Bytes up to which all inputs count as of one size. Each further class is twice as large."""

ENOUGH = 20
"""Jobs of a sort that must have succeeded before others get the memory that these needed."""
HEADROOM = 1.25
"""What jobs get for each byte that 99 of 100 needed."""
LEAST_MEMORY = 0.1
"""The least memory that jobs get by what was learned, in 10^9 bytes."""
STEP = 1.1
"""What jobs get changes by this factor at least, unless it is as much as it can be."""

_GROWTH = (1 + ACCURACY) / (1 - ACCURACY)
_LOG = log(_GROWTH)
_LEAST, _MOST = 1e-3, 1e15
"""Values outside of these count as these: a millisecond, and more bytes than any machine has. Between them there are
415 buckets, of which a sketch has those that are not empty: mostly one or two dozen."""
_FORGOTTEN = 0.01
"""A bucket with less weight is empty."""


class Sketch:
    """The distribution of one quantity."""

    __slots__ = "_buckets", "_weight", "most"

    def __init__(self, buckets: Mapping[int, float] | None = None, most: float = 0.0) -> None:
        self._buckets = dict(buckets or {})
        self._weight = sum(self._buckets.values())
        self.most = most
        """The largest value that was ever added."""

    def add(self, value: float) -> None:
        """Take in a value of 0 or more."""
        self.most = max(self.most, value)
        bucket = ceil(log(min(max(value, _LEAST), _MOST)) / _LOG)
        self._buckets[bucket] = self._buckets.get(bucket, 0.0) + 1.0
        self._weight += 1.0
        self._fade()

    def _fade(self) -> None:
        while self._weight >= WINDOW:
            halved = ((bucket, weight / 2) for bucket, weight in self._buckets.items())
            self._buckets = {bucket: weight for bucket, weight in halved if weight >= _FORGOTTEN}
            self._weight = sum(self._buckets.values())

    def merge(self, other: Sketch) -> None:
        """Take in all that another one has."""
        for bucket, weight in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0.0) + weight
        self._weight += other._weight
        self.most = max(self.most, other.most)
        self._fade()

    def quantile(self, part: float) -> float | None:
        """The value that this part of the values does not exceed, off by at most ACCURACY of itself; None without
        values."""
        if not self._buckets:
            return None
        left = part * self._weight
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 1e-9 * self._weight:
                break
        return min(_middle(bucket), self.most)

    def mean_and_deviation(self) -> tuple[float, float] | None:
        """The mean and the standard deviation, nearly; None without values."""
        if not self._buckets:
            return None
        values = [(_middle(bucket), weight) for bucket, weight in self._buckets.items()]
        mean = sum(value * weight for value, weight in values) / self._weight
        square = sum((value - mean) ** 2 * weight for value, weight in values) / self._weight
        return mean, sqrt(square)

    def dump(self) -> dict[str, Any]:
        """This sketch as JSON, for `load`."""
        return {"most": self.most, "buckets": [[bucket, round(weight, 3)] for bucket, weight in self._buckets.items()]}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Sketch:
        """The sketch that was dumped.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        lowest, highest = ceil(log(_LEAST) / _LOG), ceil(log(_MOST) / _LOG)
        buckets = {min(max(int(bucket), lowest), highest): float(weight) for bucket, weight in dumped["buckets"]}
        if any(not 0 <= weight <= WINDOW for weight in buckets.values()):
            raise ValueError("a weight is out of bounds")
        return cls(buckets, float(dumped["most"]))


def _middle(bucket: int) -> float:
    """The value that is off by at most ACCURACY from each one of a bucket."""
    return float(2 * _GROWTH**bucket / (_GROWTH + 1))


class Sort(NamedTuple):
    """What jobs have in common that are likely to use about as much."""

    app: str
    size: int
    """The class of the size of their input: see `size_class`."""


class Used(NamedTuple):
    """What an attempt that succeeded used. None: it is not known."""

    memory: int | None
    """Bytes, at most at any time."""
    seconds: float | None
    """From the start of its container to the end."""
    cpu_seconds: float | None


class Usage:
    """What jobs of one sort have used in one image."""

    __slots__ = "cpu_seconds", "jobs", "memory", "out_of_memory", "seconds"

    def __init__(self) -> None:
        self.jobs = 0
        """How many have succeeded."""
        self.out_of_memory = 0
        """How many attempts ran out of memory."""
        self.memory, self.seconds, self.cpu_seconds = Sketch(), Sketch(), Sketch()

    def add(self, used: Used) -> None:
        """An attempt has succeeded."""
        self.jobs += 1
        for sketch, value in (
            (self.memory, used.memory),
            (self.seconds, used.seconds),
            (self.cpu_seconds, used.cpu_seconds),
        ):
            if value is not None:
                sketch.add(max(0.0, value))

    def needs_more(self, than: int) -> None:
        """An attempt ran out of so many bytes of memory."""
        self.out_of_memory += 1
        self.memory.add(than)

    def merge(self, other: Usage) -> None:
        """Take in all that another one has."""
        self.jobs += other.jobs
        self.out_of_memory += other.out_of_memory
        self.memory.merge(other.memory)
        self.seconds.merge(other.seconds)
        self.cpu_seconds.merge(other.cpu_seconds)

    def dump(self) -> dict[str, Any]:
        """This as JSON, for `load`."""
        return {
            "jobs": self.jobs,
            "out_of_memory": self.out_of_memory,
            "memory": self.memory.dump(),
            "seconds": self.seconds.dump(),
            "cpu_seconds": self.cpu_seconds.dump(),
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Usage:
        """What was dumped.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        usage = cls()
        usage.jobs, usage.out_of_memory = int(dumped["jobs"]), int(dumped["out_of_memory"])
        usage.memory, usage.seconds = Sketch.load(dumped["memory"]), Sketch.load(dumped["seconds"])
        usage.cpu_seconds = Sketch.load(dumped["cpu_seconds"])
        return usage


def memory_for(usage: Usage, at_first: float, now: float | None = None) -> float | None:
    """The memory that the next jobs get, in 10^9 bytes; None while too little is known: `at_first`.

    It is HEADROOM times what 99 of 100 needed, at least LEAST_MEMORY, and no more than `at_first` or the most that any
    job has used. It goes up by steps of STEP, and down only when it could go two of them, so that it changes seldom.
    `now`: what they get now.
    """
    needed = usage.memory.quantile(0.99)
    if usage.jobs < ENOUGH or needed is None:
        return None
    wanted = max(LEAST_MEMORY, HEADROOM * needed / 1e9)
    most = max(at_first, usage.memory.most / 1e9)
    if now is not None and wanted <= now <= min(wanted * STEP**2, most):
        return now
    return float(min(STEP ** ceil(log(wanted) / log(STEP) - 1e-9), most))


class Usages:
    """What jobs of all sorts have used: the last KEPT of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Sort, str], Usage] = {}
        self._image: dict[str, str] = {}
        """The image that each app's jobs have used last."""

    def observe(self, sort: Sort, image: str) -> Usage:
        """What jobs of this sort have used in this image (its digest), to add to."""
        usage = self._known.pop((sort, image), None) or Usage()
        self._known[sort, image] = usage
        self._image[sort.app] = image
        if len(self._known) > KEPT:
            oldest, old_image = next(iter(self._known))
            del self._known[oldest, old_image]
            if self._image.get(oldest.app) == old_image and not any(self.of(oldest.app)):
                del self._image[oldest.app]
        return usage

    def find(self, sort: Sort) -> Usage | None:
        """What jobs of this sort have used in the image that their app's jobs have used last; None if none has run."""
        return self._known.get((sort, self._image.get(sort.app, "")))

    def of(self, app: str) -> Iterator[tuple[str, int, Usage]]:
        """What jobs of an app have used: the image, the class of their size, and the figures; the latest first."""
        for (sort, image), usage in reversed(self._known.items()):
            if sort.app == app:
                yield image, sort.size, usage

    def dump(self) -> list[dict[str, Any]]:
        """All of it as JSON, for `load`."""
        return [
            {"app": sort.app, "size": sort.size, "image": image, **usage.dump()}
            for (sort, image), usage in self._known.items()
        ]

    @classmethod
    def load(cls, dumped: list[Mapping[str, Any]]) -> Usages:
        """What was dumped.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        usages = cls()
        for each in dumped[-KEPT:]:
            sort, image = Sort(str(each["app"]), int(each["size"])), str(each["image"])
            usages._known[sort, image] = Usage.load(each)
            usages._image[sort.app] = image
        return usages


def size_class(size: int) -> int:
    """The class of an input of so many bytes: class n has inputs of up to SMALLEST_SIZE times 2 to the n."""
    return (max(0, size - 1) // SMALLEST_SIZE).bit_length()


def largest_of(size: int) -> int:
    """The bytes of the largest input of a class."""
    return SMALLEST_SIZE << size
