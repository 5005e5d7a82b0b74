"""What jobs have used so far, learned as they end. It outlives restarts."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from orqal.actors.scheduler.batch_forecasts import BatchForecasts
from orqal.files import replacing
from orqal.models import AppUsage, AttemptFigures, ErrorType, Fault, JobRecord, Quantiles
from orqal.scheduling.lifecycle import OnHost, Phase, Storing
from orqal.scheduling.usage import Sketch, Sort, Usage, Usages, Used, largest_of, size_class

log = logging.getLogger("orqal.usage")

PERIOD = 60.0
"""Seconds between two times that it is written."""
_BYTES_PER_GB = 10**9


def size_of(record: JobRecord) -> int:
    """The class of the size of a job's input, as JSON."""
    value = record.input
    return size_class(len(value) if isinstance(value, str) else 0 if value is None else len(json.dumps(value)))


def sort_of(record: JobRecord) -> Sort:
    """The sort of a job."""
    return Sort(record.app, size_of(record))


class UsageMemory:
    """Learns from each attempt that is over, and writes what it knows to a file every minute.

    What is lost, of the last minute or with the file, is learned again.
    """

    def __init__(self, path: Path, forecasts: BatchForecasts) -> None:
        self._path, self._forecasts = path, forecasts
        self.usages = Usages()
        self._changed = False

    def load(self) -> None:
        """Take over what an earlier Scheduler has written."""
        try:
            known = json.loads(self._path.read_text())
            self.usages = Usages.load(known["usages"])
            self._forecasts.load(known["forecasts"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s cannot be read, so what jobs use is learned again: %s", self._path, error)

    def step(self, before: Phase | None, after: Phase | None) -> Sort | None:
        """Learn from a step of a job's life; return the sort of jobs about which more is known now."""
        if not isinstance(before, OnHost) or not isinstance(after, Storing):
            return None
        record = after.record
        # If the job is to be tried again, its record no longer has the details of the attempt.
        image = record.image_digest or before.record.image_digest
        if image is None:
            return None
        if record.ok:
            sort = sort_of(record)
            self.usages.observe(sort, image).add(_used(record))
        elif (had := _ran_out_of(record, before.record.attempt)) is not None:
            sort = sort_of(record)
            self.usages.observe(sort, image).needs_more(had)
        else:
            return None
        self._changed = True
        return sort

    def of(self, app: str) -> AppUsage:
        """What jobs of an app have used, for users."""
        total, figures = Usage(), []
        for image, size, usage in self.usages.of(app):
            total.merge(usage)
            figures.append(_figures(usage, image, largest_of(size)))
        return AppUsage(app=app, total=_figures(total, None, None), sorts=figures)

    async def forever(self) -> None:
        """Write it every minute, if it has changed."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.save()

    async def save(self) -> None:
        """Write it, if it has changed."""
        if not self._changed:
            return
        self._changed = False
        try:
            await asyncio.to_thread(self._write, {"usages": self.usages.dump(), "forecasts": self._forecasts.dump()})
        except Exception as error:
            self._changed = True
            log.error("%s cannot be written (%s: %s)", self._path, type(error).__name__, error)

    def _write(self, known: dict[str, Any]) -> None:
        with replacing(self._path, mode=0o600) as partial:
            partial.write_text(json.dumps(known))


def _used(record: JobRecord) -> Used:
    seconds = (record.etime - record.stime).total_seconds() if record.etime and record.stime else None
    return Used(record.peak_memory, seconds, record.cpu_seconds)


def _ran_out_of(record: JobRecord, attempt: int) -> int | None:
    """The bytes of memory that an attempt ran out of; None if it did not."""
    over = next((each for each in record.attempts if each.number == attempt), None)
    error, ram_gb = (record.error, record.granted.get("ram_gb")) if over is None else (over.error, over.ram_gb)
    guessed_too_low = over is not None and over.fault is Fault.GUESS
    if ram_gb is None or not (guessed_too_low or (error is not None and error.type is ErrorType.OUT_OF_MEMORY)):
        return None
    return round(ram_gb * _BYTES_PER_GB)


def _figures(usage: Usage, image: str | None, largest: int | None) -> AttemptFigures:
    return AttemptFigures(
        image_digest=image,
        input_up_to=largest,
        jobs=usage.jobs,
        out_of_memory=usage.out_of_memory,
        memory_bytes=_quantiles(usage.memory),
        seconds=_quantiles(usage.seconds),
        cpu_seconds=_quantiles(usage.cpu_seconds),
    )


def _quantiles(sketch: Sketch) -> Quantiles | None:
    half, most = sketch.quantile(0.5), sketch.quantile(0.95)
    return None if half is None or most is None else Quantiles(median=half, p95=most, most=sketch.most)
