"""How every store writes a job: as JSON, apart from the fields that may change after the job's end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from orqal.models import JobRecord, Status

FINAL = [status.value for status in Status if status.final]
UNFINISHED = [status.value for status in Status if not status.final]

_STORE_FIELDS = {"cache_hits", "cache_last_hit", "retried_as"}
"""Fields of a record that have places of their own in the store."""


def encode(job: JobRecord) -> str:
    """Return a record as JSON, without the store's own fields."""
    return job.model_dump_json(exclude=_STORE_FIELDS)


def decode(record: str, cache_hits: int, cache_last_hit: float | None, retried_as: str | None) -> JobRecord:
    """Return a record from its JSON and the store's own fields. `cache_last_hit` is in seconds since 1970."""
    job = JobRecord.model_validate_json(record)
    if cache_hits or retried_as:
        last_hit = None if cache_last_hit is None else moment(cache_last_hit)
        job = job.with_store_fields(cache_hits, last_hit, retried_as)
    return job


def seconds(moment: datetime | None) -> float | None:
    """Return a time as seconds since 1970."""
    return None if moment is None else moment.timestamp()


def moment(seconds: float) -> datetime:
    """Return a time from seconds since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def distinct(names: Iterable[str]) -> list[str]:
    """Return each name once, in the order of first appearance."""
    return list(dict.fromkeys(names))
