"""How a job is written down, in every store: what changes after its end has a place of its own, the rest is JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from orqal.models import JobRecord, Status

FINAL = [status.value for status in Status if status.final]
UNFINISHED = [status.value for status in Status if not status.final]

_KEPT_BY_STORE = {"cache_hits", "cache_last_hit", "retried_as"}


def encode(job: JobRecord) -> str:
    """The JSON of a record, without what the store keeps itself."""
    return job.model_dump_json(exclude=_KEPT_BY_STORE)


def decode(record: str, cache_hits: int, cache_last_hit: float | None, retried_as: str | None) -> JobRecord:
    """A record from its JSON and what the store keeps itself."""
    job = JobRecord.model_validate_json(record)
    if cache_hits or retried_as:
        last_hit = None if cache_last_hit is None else moment(cache_last_hit)
        job = job.model_copy(update={"cache_hits": cache_hits, "cache_last_hit": last_hit, "retried_as": retried_as})
    return job


def seconds(moment: datetime | None) -> float | None:
    """A time in seconds since 1970."""
    return None if moment is None else moment.timestamp()


def moment(seconds: float) -> datetime:
    """A time, from seconds since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def distinct(names: Iterable[str]) -> list[str]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(names))
