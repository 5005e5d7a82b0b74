"""Submitted documents become jobs, or are answered with earlier jobs that are reused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from bson import ObjectId

from orqal.actors.messages import OtherDocument, Taken
from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.hosts import Hosts
from orqal.actors.scheduler.job_registry import JobRegistry
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.actors.scheduler.waiting_room import shape
from orqal.clock import Clock
from orqal.models import ErrorType, JobRecord, JobSpec
from orqal.scheduling import cache, impossible
from orqal.store import JobFilter, JobGone, Store, Submission


class _Found(NamedTuple):
    """What the cache has for a key: a job to reuse, or why there is none."""

    job: str | None
    miss: str | None


_NOTHING = _Found(None, cache.NO_CANDIDATE)


class Submissions:
    """Takes each document at most once: one request at a time decides about a cache key or an idempotency key."""

    def __init__(
        self,
        *,
        store: Store,
        writer: JobWriter,
        apps: Apps,
        hosts: Hosts,
        jobs: JobRegistry,
        clock: Clock,
        stamp: Callable[[], datetime],
        new_id: Callable[[], str] = lambda: str(ObjectId()),
    ) -> None:
        """`stamp` returns the present, from which jobs are kept for their time to live. `new_id` makes the ids of jobs:
        BSON ObjectIds in 24 hex digits."""
        self._store, self._writer, self._apps, self._hosts = store, writer, apps, hosts
        self._jobs, self._clock, self._stamp, self._new_id = jobs, clock, stamp, new_id
        self._deciding: dict[str, asyncio.Future[str | None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        newest = store.find(JobFilter(), 1).jobs
        self._latest = newest[0].ctime if newest else clock.now()

    async def take(
        self, specs: Sequence[JobSpec], *, key: str | None = None, first: int = 1, replace_batch: str | None = None
    ) -> list[Taken]:
        """The answers to these documents, in order, once what is new is on disk. See SchedulerApi.submit."""
        if key is None:
            return await self._take(specs, replace_batch=replace_batch)
        async with self._alone(key):
            known = await asyncio.to_thread(self._store.documents, key, first, first + len(specs) - 1)
            await self._compare(specs, first, known)
            fresh = [number for number in range(first, first + len(specs)) if number not in known]
            taken = await self._take(
                [specs[number - first] for number in fresh],
                documents=[(key, number) for number in fresh],
                replace_batch=None if known else replace_batch,
            )
        answers = {number: Taken(job, False) for number, job in known.items()} | dict(zip(fresh, taken, strict=True))
        return [answers[number] for number in sorted(answers)]

    async def retry(self, ids: Sequence[str]) -> dict[str, str]:
        """Make new jobs in place of the failed ones, and return new ids by old ids. See SchedulerApi.retry."""
        async with self._alone("retry"):
            records = await asyncio.to_thread(self._store.get_many, ids)
            failed = [job for job in records.values() if job.ok is False]
            later = [job.retried_as for job in failed if job.retried_as]
            there = await asyncio.to_thread(self._store.get_many, later) if later else {}
            done = {job.id: job.retried_as for job in failed if job.retried_as in there}
            todo = [job for job in failed if job.id not in done]
            specs = [JobSpec(**job.model_dump(include=set(JobSpec.model_fields))) for job in todo]
            taken = await self._take(specs, retry_of=[job.id for job in todo])
        new = {job.id: answer.id for job, answer in zip(todo, taken, strict=True)}
        return new | {old: again for old, again in done.items() if again is not None}

    async def _compare(self, specs: Sequence[JobSpec], first: int, known: Mapping[int, str]) -> None:
        records = await asyncio.to_thread(self._store.get_many, list(known.values())) if known else {}
        for number, job in known.items():
            if job in records and cache.key(records[job]) != cache.key(specs[number - first]):
                raise OtherDocument(number - first + 1, job)

    async def _take(
        self,
        specs: Sequence[JobSpec],
        *,
        documents: Sequence[tuple[str, int]] = (),
        retry_of: Sequence[str] = (),
        replace_batch: str | None = None,
    ) -> list[Taken]:
        await self._apps.up_to_date({spec.app for spec in specs})
        keys = [cache.key(spec) if spec.use_cache and self._apps.is_known(spec.app) else None for spec in specs]
        own: dict[str, asyncio.Future[str | None]] = {}
        others: dict[str, asyncio.Future[str | None]] = {}
        for key in keys:
            # All in one go, without an await: two requests with keys in common never wait for each other.
            if key is None or key in own:
                continue
            if key in self._deciding:
                others[key] = self._deciding[key]
            else:
                own[key] = self._deciding[key] = asyncio.get_running_loop().create_future()
        try:
            found = await self._search(list(own))
            for key, deciding in others.items():
                found[key] = _Found(await asyncio.shield(deciding), cache.NO_CANDIDATE)
            while True:
                try:
                    return await self._insert(specs, keys, found, own, documents, retry_of, replace_batch)
                except JobGone:  # it was cleaned away between the search and the answer
                    found = await self._search([*own, *others])
        finally:
            for key, decision in own.items():
                del self._deciding[key]
                if not decision.done():  # this request failed: those that wait for it decide for themselves
                    decision.set_result(None)

    async def _insert(
        self,
        specs: Sequence[JobSpec],
        keys: Sequence[str | None],
        found: dict[str, _Found],
        own: Mapping[str, asyncio.Future[str | None]],
        documents: Sequence[tuple[str, int]],
        retry_of: Sequence[str],
        replace_batch: str | None,
    ) -> list[Taken]:
        moment = self._moment()
        new: list[JobRecord] = []
        taken: list[Taken] = []
        for number, (spec, key) in enumerate(zip(specs, keys, strict=True)):
            there = found[key] if key is not None else _Found(None, None if spec.use_cache else cache.SWITCHED_OFF)
            if there.job is not None:
                taken.append(Taken(there.job, True))
                continue
            record = self._record(spec, moment, there.miss, retry_of[number] if retry_of else None)
            new.append(record)
            taken.append(Taken(record.id, False))
            if key is not None and not record.current_status.final:
                found[key] = _Found(record.id, None)  # for the same document in this very request
        submission = Submission(
            at=self._stamp(),
            jobs=new,
            # A retry takes the place of what failed; it does not join a second time.
            members=[
                (spec.batch, answer.id)
                for spec, answer in zip(specs, taken, strict=True)
                if spec.batch is not None and not retry_of
            ],
            documents=[(*document, answer.id) for document, answer in zip(documents, taken, strict=False)],
            hits=[answer.id for answer in taken if answer.cached],
            retries={old: answer.id for old, answer in zip(retry_of, taken, strict=False)},
            replace_batch=replace_batch,
        )
        # Finished even if the caller goes away: what is on disk must be in the queue.
        await asyncio.shield(asyncio.ensure_future(self._add(submission)))
        for key, decision in own.items():
            decision.set_result(found[key].job)
        return taken

    async def _add(self, submission: Submission) -> None:
        ids = [job.id for job in submission.jobs]
        self._jobs.submitting(submission.jobs)
        try:
            await self._writer.insert(submission)
        except BaseException:
            self._jobs.inserted(ids, well=False)
            raise
        self._jobs.inserted(ids, well=True)

    def _record(self, spec: JobSpec, moment: datetime, miss: str | None, retry_of: str | None) -> JobRecord:
        """A new job. One that can never run has ended as `error`."""
        record = JobRecord.submitted(spec, self._new_id(), moment, cache_miss=miss, retry_of=retry_of)
        app = self._apps.last_good(spec.app)
        if app is None:
            return record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(spec.app), moment)
        asked = shape(record, app)
        if impossible(asked, self._hosts.conceivable()):
            return record.failed(ErrorType.IMPOSSIBLE_REQUEST, self._hosts.why_impossible(asked), moment)
        return record

    async def _search(self, keys: Sequence[str]) -> dict[str, _Found]:
        candidates = await asyncio.to_thread(self._store.cached, keys) if keys else {}
        images = {job.image for job in candidates.values() if job.image and job.image_digest}
        digests = await self._hosts.image_digests(sorted(images)) if images else {}
        found = dict.fromkeys(keys, _NOTHING)
        for key, job in candidates.items():
            app = self._apps.last_good(job.app)
            if self._jobs.is_ending(job.id):
                miss: str | None = f"{job.id} is being cancelled"
            elif app is None:
                miss = f"there is no app {job.app} any more"
            else:
                miss = cache.changed(job, app.ref.digest, digests.get(job.image or "", ()))
            found[key] = _Found(None if miss else job.id, miss)
        return found

    def _moment(self) -> datetime:
        """The present, but never before an earlier job's time, however the clock is set."""
        self._latest = max(self._latest, self._clock.now())
        return self._latest

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Let requests with the same key in one at a time."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._waiting[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key], self._locks[key]
