"""How every store writes a job: as JSON, apart from the fields that may change after the job's end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from orqal.models import JobRecord, Output, Status

log = logging.getLogger("orqal.store")

FINAL = [status.value for status in Status if status.final]
UNFINISHED = [status.value for status in Status if not status.final]

_STORE_FIELDS = {"cache_hits", "cache_last_hit", "retried_as"}
"""Fields of a record that have places of their own in the store."""


def encode(job: JobRecord) -> str:
    """Return a record as JSON, without the store's own fields.

    Fields of None are left out, which halves the text of a waiting job: None is what they are when they are missing.
    """
    return job.model_dump_json(exclude=_STORE_FIELDS, exclude_none=True)


def decode(record: str | bytes, cache_hits: int, cache_last_hit: float | None, retried_as: str | None) -> JobRecord:
    """Return a record from its JSON and the store's own fields. `cache_last_hit` is in seconds since 1970."""
    job = JobRecord.model_validate_json(record)
    if cache_hits or retried_as:
        last_hit = None if cache_last_hit is None else moment(cache_last_hit)
        job = job.with_store_fields(cache_hits, last_hit, retried_as)
    return job


class Decoder:
    """Reads what a store keeps of jobs, and sets aside what this version of Orqal cannot read.

    A record may be damaged, or may have been written by a newer Orqal. It stays in the store as it is, and everything
    else goes on without it.
    """

    _WITH_REASON = 100
    """How many of them have their reason kept, so that very many take little memory."""

    def __init__(self) -> None:
        self._unreadable: dict[str, str] = {}

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The jobs that could not be read so far, and why: id -> reason, which is empty after the first 100."""
        return self._unreadable

    def record(
        self, job_id: str, record: str | bytes, hits: int, last_hit: float | None, retried_as: str | None
    ) -> JobRecord | None:
        """Return a record from what a store keeps of it; None if it cannot be read."""
        try:
            return decode(record, hits, last_hit, retried_as)
        except (ValueError, TypeError, OverflowError, OSError) as error:
            self._set_aside(job_id, error)
            return None

    def output(self, job_id: str, stdout: str, stderr: str, result: str | None) -> Output:
        """Return an output from its texts; without the result if that cannot be read."""
        try:
            return Output(stdout=stdout, stderr=stderr, result=None if result is None else json.loads(result))
        except ValueError as error:
            self._set_aside(job_id, error)
            return Output(stdout=stdout, stderr=stderr)

    def _set_aside(self, job_id: str, error: Exception) -> None:
        if job_id not in self._unreadable:
            reason = " ".join(str(error).split())[:300] if len(self._unreadable) < self._WITH_REASON else ""
            self._unreadable[job_id] = reason
            if reason:
                log.error("the job %s cannot be read, and is left alone: %s", job_id, reason)


def hosts_of(record: str | bytes) -> list[str]:
    """Return the names of the hosts of a job's earlier attempts; nothing if its record cannot be read."""
    try:
        attempts: list[Any] = json.loads(record).get("attempts") or []
        return [attempt["host"] for attempt in attempts if attempt.get("host") is not None]
    except (ValueError, TypeError, AttributeError):
        return []


def seconds(moment: datetime | None) -> float | None:
    """Return a time as seconds since 1970."""
    return None if moment is None else moment.timestamp()


def moment(seconds: float) -> datetime:
    """Return a time from seconds since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def distinct(names: Iterable[str]) -> list[str]:
    """Return each name once, in the order of first appearance."""
    return list(dict.fromkeys(names))
