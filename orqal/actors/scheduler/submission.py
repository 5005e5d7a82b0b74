"""Submitted documents become jobs, or are answered with earlier jobs that are reused."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from bson import ObjectId

from orqal.actors.messages import BadParent, Document, OtherDocument, Planned, Taken, TooEarly
from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.hosts import Hosts
from orqal.actors.scheduler.input_files import InputFiles, Unreadable
from orqal.actors.scheduler.job_metrics import JobMetrics
from orqal.actors.scheduler.job_registry import JobRegistry
from orqal.actors.scheduler.job_writer import JobWriter, NotBehind
from orqal.actors.scheduler.keeping_clock import KeepingClock
from orqal.actors.scheduler.waiting_room import shape
from orqal.models import AppInfo, CacheOn, ErrorType, JobRecord, JobSpec, Parent, Shape, why_not_set
from orqal.scheduling import cache, impossible
from orqal.scheduling.dependencies import UnreadBatch
from orqal.settings import Settings
from orqal.store import JobFilter, JobGone, ParentGone, Store, Submission

JOBS_AT_ONCE = 1_000
"""Jobs that are looked up or retried at a time."""

_Size = tuple[str, float | None, float | None, str]
"""The app of a new job, and the threads, memory and options that it asks for itself: its shape follows from these."""


COMES_WITHIN = 10.0
"""Seconds for which the document before others is waited for."""


class _Found(NamedTuple):
    """What the cache has for what is wanted: a job to reuse, or why there is none."""

    job: str | None
    miss: str | None
    unfinished: bool = False
    """Whether the job had not ended then. It may have been cancelled since."""


_NOTHING = _Found(None, cache.NO_CANDIDATE)
_Written = asyncio.Future[None]
"""Done when a submission is on disk."""


class _Asked(NamedTuple):
    """A document, and what it asks of the cache."""

    spec: JobSpec
    wanted: cache.Wanted | None
    """None if no job may be reused for it."""
    miss: str | None
    """Why none may, for people; None if its app is not known either."""
    input_digest: str | None
    parents_digest: str | None


class _Request(NamedTuple):
    """Documents that are submitted together."""

    specs: Sequence[JobSpec]
    asked: Sequence[_Asked] | None = None
    """What they ask of the cache, if that is known already."""
    documents: Sequence[tuple[str, int]] = ()
    """Their idempotency key and numbers."""
    behind: _Written | None = None
    """They are submitted only if this earlier submission is."""
    retry_of: Sequence[str] = ()
    ids: Sequence[str] = ()
    """Those that the new jobs get. No earlier job is reused then."""
    replace_batch: str | None = None


class Submissions:
    """Takes each document at most once: one request at a time decides about a cache key or an idempotency key."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        writer: JobWriter,
        apps: Apps,
        hosts: Hosts,
        jobs: JobRegistry,
        metrics: JobMetrics,
        keeping: KeepingClock,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """`keeping` dates new jobs, and says from when on they are kept. `new_id` makes their ids: BSON ObjectIds."""
        self._settings = settings
        self._store, self._writer, self._apps, self._hosts = store, writer, apps, hosts
        self._jobs, self._keeping, self._new_id = jobs, keeping, new_id or (lambda: str(ObjectId()))
        self._metrics = metrics
        self._deciding: dict[cache.Wanted, asyncio.Future[str | None]] = {}
        self._input_files = InputFiles()
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._awaited: dict[str, asyncio.Event] = {}
        """What is set when documents of a key have come, or are being written, by the keys that others wait for."""
        self._being_written: dict[Document, _Written] = {}
        """By the last document of each submission."""
        newest = store.find(JobFilter(), 1).jobs
        self._latest = newest[0].ctime if newest else keeping.now()

    async def take(
        self,
        specs: Sequence[JobSpec],
        *,
        key: str | None = None,
        first: int = 1,
        after: Document | None = None,
        replace_batch: str | None = None,
    ) -> list[Taken]:
        """The answers to these documents, in order, once what is new is on disk. See SchedulerApi.submit."""
        # What does not depend on the documents before is done while those are being written.
        asked = None if any(spec.after for spec in specs) else await self._asked(specs)
        behind = None
        if after is not None:
            try:
                behind = await asyncio.wait_for(self._until_there(after), COMES_WITHIN)
            except asyncio.TimeoutError:
                raise TooEarly from None
        try:
            return await self._take_documents(specs, asked, key, first, behind, replace_batch)
        except NotBehind:
            raise TooEarly from None

    async def _take_documents(
        self,
        specs: Sequence[JobSpec],
        asked: Sequence[_Asked] | None,
        key: str | None,
        first: int,
        behind: _Written | None,
        replace_batch: str | None,
    ) -> list[Taken]:
        if key is None:
            return await self._take(_Request(specs, asked, behind=behind, replace_batch=replace_batch))
        async with self._alone(key):
            known = await asyncio.to_thread(self._store.documents, key, first, first + len(specs) - 1)
            await self._compare(specs, first, known)
            fresh = [number for number in range(first, first + len(specs)) if number not in known]
            request = _Request(
                [specs[number - first] for number in fresh],
                asked and [asked[number - first] for number in fresh],
                [(key, number) for number in fresh],
                behind,
                replace_batch=None if known else replace_batch,
            )
            taken = await self._take(request)
        if key in self._awaited:
            self._awaited.pop(key).set()
        answers = {number: Taken(job, False) for number, job in known.items()} | dict(zip(fresh, taken, strict=True))
        return [answers[number] for number in sorted(answers)]

    async def _until_there(self, document: Document) -> _Written | None:
        """Return when a document that may be on its way has become a job, or was answered with one; or, with what
        tells about its end, when it is being written."""
        key, number = document
        while True:
            if (written := self._being_written.get(document)) is not None:
                return written
            come = self._awaited.setdefault(key, asyncio.Event())
            try:
                if await asyncio.to_thread(self._store.documents, key, number, number):
                    return None
                await come.wait()
            finally:
                if self._awaited.get(key) is come:  # other requests that wait for this document check again
                    self._awaited.pop(key).set()

    async def retry(self, ids: Sequence[str]) -> dict[str, str]:
        """Make new jobs in place of the failed ones, and return new ids by old ids. See SchedulerApi.retry."""
        async with self._alone("retry"):
            records = await asyncio.to_thread(self._store.get_many, ids)
            failed = [job for job in records.values() if job.ok is False]
            hanging = await asyncio.to_thread(self._hanging, [job.id for job in failed])
            # Parents come before their children.
            new = await self._retry([job for job in failed if job.id not in hanging])
            for part in _parts(list(hanging)):
                again = await asyncio.to_thread(self._store.get_many, part)
                new |= await self._retry([again[job] for job in part if job in again], hanging=True)
        return {job.id: new[job.id] for job in failed if job.id in new}

    def _hanging(self, jobs: Sequence[str]) -> dict[str, None]:
        """The jobs that ended because of these, in the order of their submission."""
        return dict.fromkeys(child for job in jobs for child in self._store.dependents(job))

    async def _retry(self, failed: Sequence[JobRecord], *, hanging: bool = False) -> dict[str, str]:
        """The ids of the jobs in place of failed ones. A job that waits after a retried one waits after the new one.

        `hanging`: they ended because of others, which are retried too. The cache has nothing for them, and they may
        wait after each other, so their ids are made before.
        """
        parents = {Parent.of(text).name for job in failed for text in job.after}
        latest = await self._latest_retries([*(job.id for job in failed), *parents])
        done = {job.id: job.retried_as for job in failed if job.retried_as and job.id in latest}
        todo = [job for job in failed if job.id not in done]
        ids = [self._new_id() for _ in todo] if hanging else []
        latest |= dict(zip((job.id for job in todo), ids, strict=False))
        specs = []
        for job in todo:
            spec = JobSpec(**job.model_dump(include=set(JobSpec.model_fields)))
            after = (Parent.of(text) for text in spec.after)
            spec.after = [parent._replace(name=latest.get(parent.name, parent.name)).text for parent in after]
            specs.append(spec)
        taken = await self._take(_Request(specs, retry_of=[job.id for job in todo], ids=ids))
        return done | {job.id: answer.id for job, answer in zip(todo, taken, strict=True)}

    async def _latest_retries(self, jobs: Sequence[str]) -> dict[str, str]:
        """The last retry of each of these jobs that has been retried, if that is still there."""
        latest, asked = dict[str, str](), {job: job for job in jobs}
        while asked:
            there = await self._records(list(asked))
            for job, first in asked.items():
                if job in there and job != first:
                    latest[first] = job
            asked = {record.retried_as: asked[job] for job, record in there.items() if record.retried_as}
        return latest

    async def _records(self, jobs: Sequence[str]) -> dict[str, JobRecord]:
        records: dict[str, JobRecord] = {}
        for part in _parts(jobs):
            records |= await asyncio.to_thread(self._store.get_many, part)
        return records

    async def _check_parents(self, specs: Sequence[JobSpec], ids: Sequence[str] = ()) -> None:
        """Check that the jobs and batches exist that these documents wait after. A batch may be that of one of them,
        and a job one of `ids`, which they will have.

        Raises:
            BadParent: one does not exist.
        """
        wanted: dict[str, int] = {}
        for number, spec in enumerate(specs, 1):
            for text in spec.after:
                wanted.setdefault(text, number)
        parents = {Parent.of(text): number for text, number in wanted.items()}
        jobs = list({parent.name for parent in parents if not parent.is_batch})
        known = set(ids)
        for part in _parts(jobs):
            known.update(await asyncio.to_thread(self._store.get_many, part))
        names = {spec.batch for spec in specs}
        for parent, number in parents.items():
            if not parent.is_batch:
                if parent.name not in known:
                    raise BadParent(number, f"it waits after {parent}, which does not exist")
            elif parent.name not in names and not await asyncio.to_thread(self._is_batch, parent.name):
                raise BadParent(
                    number, f"it waits after {parent}, which does not exist; submit the jobs of the batch first"
                )

    def _is_batch(self, name: str) -> bool:
        return next(self._store.batch_ids(name), None) is not None

    def _check_circles(
        self,
        members: Sequence[tuple[str, str]],
        jobs: Sequence[JobRecord],
        asked: Sequence[_Asked],
        read: Mapping[str, Sequence[str]],
    ) -> None:
        """Check that no jobs would wait for each other. `read`: the unfinished jobs of some batches.

        Raises:
            BadParent: they would.
            UnreadBatch: those of another batch must be known to tell.
        """
        circle = self._jobs.blocked.cycle(members, {job.id: job.after for job in jobs if job.after}, read)
        if circle is None:
            return
        new = {job.id for job in jobs}
        names = ["this job" if not each.is_batch and each.name in new else str(each) for each in circle]
        number = next(n for n, each in enumerate(asked, 1) if each.spec.batch == circle[0].name)
        raise BadParent(number, f"jobs would wait for each other for ever: {' waits for '.join(names)}")

    async def _compare(self, specs: Sequence[JobSpec], first: int, known: Mapping[int, str]) -> None:
        records = await asyncio.to_thread(self._store.get_many, list(known.values())) if known else {}
        for number, job in known.items():
            if job in records and cache.identity(records[job]) != cache.identity(specs[number - first]):
                raise OtherDocument(number - first + 1, job)

    async def _take(self, request: _Request) -> list[Taken]:
        if any(spec.after and spec.batch is not None for spec in request.specs):
            # Two of them together could close a circle that neither closes alone.
            async with self._alone("circles"):
                return await self._take_now(request)
        return await self._take_now(request)

    async def _take_now(self, request: _Request) -> list[Taken]:
        specs = request.specs
        await self._check_parents(specs, request.ids)
        asked = request.asked
        if asked is None:
            asked = await self._asked(specs)
        read: dict[str, Sequence[str]] = {}
        if request.ids:
            asked = [each._replace(wanted=None, miss=cache.NO_CANDIDATE) for each in asked]
        own: dict[cache.Wanted, asyncio.Future[str | None]] = {}
        others: dict[cache.Wanted, asyncio.Future[str | None]] = {}
        for wanted in (each.wanted for each in asked):
            # All in one go, without an await: two requests that want the same never wait for each other.
            if wanted is None or wanted in own:
                continue
            if wanted in self._deciding:
                others[wanted] = self._deciding[wanted]
            else:
                own[wanted] = self._deciding[wanted] = asyncio.get_running_loop().create_future()
        try:
            found = await self._search(list(own))
            for wanted, deciding in others.items():
                job = await asyncio.shield(deciding)
                found[wanted] = _Found(job, cache.NO_CANDIDATE, job is not None and self._jobs.phase(job) is not None)
            while True:
                # What was found may have been cancelled or cleaned away while others were asked.
                unfinished = (there.job for there in found.values() if there.job and there.unfinished)
                if not any(map(self._jobs.why_not_reusable, unfinished)):
                    try:
                        return await self._insert(request, asked, found, own, read)
                    except JobGone:
                        pass
                    except UnreadBatch as batch:
                        read[batch.name] = await asyncio.to_thread(self._store.batch_open, batch.name)
                    except ParentGone as gone:
                        number = next(n for n, spec in enumerate(specs, 1) if str(gone) in spec.after)
                        raise BadParent(
                            number, f"it waits after {Parent.of(str(gone))}, which was just deleted"
                        ) from None
                found = await self._search([*own, *others])
        finally:
            for wanted, decision in own.items():
                del self._deciding[wanted]
                if not decision.done():  # this request failed: those that wait for it decide for themselves
                    decision.set_result(None)

    async def _insert(
        self,
        request: _Request,
        asked: Sequence[_Asked],
        found: dict[cache.Wanted, _Found],
        own: Mapping[cache.Wanted, asyncio.Future[str | None]],
        read: Mapping[str, Sequence[str]],
    ) -> list[Taken]:
        retry_of, ids = request.retry_of, request.ids
        moment = self._moment()
        never: dict[_Size, str | None] = {}
        new: list[JobRecord] = []
        keys: dict[str, str] = {}
        taken: list[Taken] = []
        for number, (spec, wanted, miss, input_digest, parents_digest) in enumerate(asked):
            there = found[wanted] if wanted is not None else _Found(None, miss)
            if there.job is not None:
                taken.append(Taken(there.job, True))
                continue
            retried = retry_of[number] if retry_of else None
            record = JobRecord.submitted(
                spec,
                ids[number] if ids else self._new_id(),
                moment,
                cache_miss=there.miss,
                input_digest=input_digest,
                parents_digest=parents_digest,
                retry_of=retried,
            )
            record = self._unless_impossible(record, moment, never)
            new.append(record)
            taken.append(Taken(record.id, False))
            if wanted is not None and not record.current_status.final:
                found[wanted] = _Found(record.id, None)  # for the same document in this very request
                keys[record.id] = wanted.unfinished_key
        submission = Submission(
            at=self._keeping.stamp(),
            jobs=new,
            # A retry takes the place of what failed; it does not join a second time.
            members=[
                (document.spec.batch, answer.id)
                for document, answer in zip(asked, taken, strict=True)
                if document.spec.batch is not None and not retry_of
            ],
            documents=[(*document, answer.id) for document, answer in zip(request.documents, taken, strict=False)],
            hits=[answer.id for answer in taken if answer.cached],
            retries={old: answer.id for old, answer in zip(retry_of, taken, strict=False)},
            replace_batch=request.replace_batch,
            cache_keys=keys,
            parents=list(dict.fromkeys(text for job in new for text in job.after)),
        )
        self._check_circles([*submission.members, *self._taken_over(submission)], new, asked, read)
        # Finished even if the caller goes away: what is on disk must be in the queue.
        await asyncio.shield(asyncio.ensure_future(self._add(submission, request.behind)))
        for wanted, decision in own.items():
            decision.set_result(found[wanted].job)
        self._metrics.taken((document.spec, answer.cached) for document, answer in zip(asked, taken, strict=True))
        return taken

    def _taken_over(self, submission: Submission) -> list[tuple[str, str]]:
        """The places in batches that retries take from failed jobs, as far as the records tell."""
        return [(job.batch, job.id) for job in submission.jobs if job.batch is not None and job.retry_of is not None]

    async def _add(self, submission: Submission, behind: _Written | None) -> None:
        ids = [job.id for job in submission.jobs]
        self._jobs.submitting(submission.jobs)
        last = Document(*submission.documents[-1][:2]) if submission.documents else None
        try:
            written = self._writer.insert(submission, behind)
            if last is not None:
                # What comes after it is got ready meanwhile.
                self._being_written[last] = written
                if last.key in self._awaited:
                    self._awaited.pop(last.key).set()
            await written
        except BaseException:
            self._jobs.inserted(ids, well=False)
            raise
        finally:
            if last is not None:
                self._being_written.pop(last, None)
        self._jobs.stored(submission)
        self._jobs.inserted(ids, well=True)

    def _unless_impossible(self, record: JobRecord, moment: datetime, known: dict[_Size, str | None]) -> JobRecord:
        """The new job; ended as `error` if it can never run.

        `known`: why jobs of an app and a size can never run, or None: what was found out for others of this request.
        """
        app = self._apps.last_good(record.app)
        if app is None:
            return record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(record.app), moment)
        if (why := why_not_set(record.app, record.options, app.info.jobs_may_set)) is not None:
            return record.failed(ErrorType.IMPOSSIBLE_REQUEST, why, moment)
        if (priority := record.priority or 0) > self._settings.max_priority:
            why = f"its priority is {priority}; jobs may have at most {self._settings.max_priority} here"
            return record.failed(ErrorType.IMPOSSIBLE_REQUEST, f"{why} (ORQAL_MAX_PRIORITY)", moment)
        wanted = record.app, record.threads, record.memory_in_gb, repr(record.options) if record.options else ""
        if wanted not in known:
            known[wanted] = self._never_enough(app.info) or self._too_large(shape(record, app))
        if (why := known[wanted]) is not None:
            return record.failed(ErrorType.IMPOSSIBLE_REQUEST, why, moment)
        return record

    def _too_large(self, wanted: Shape) -> str | None:
        """Why no host could ever take a job of this shape; None if one could."""
        return self._hosts.why_impossible(wanted) if impossible(wanted, self._hosts.conceivable()) else None

    def _never_enough(self, app: AppInfo) -> str | None:
        """Why there is never enough of what jobs of this app take by name; None if there is."""
        for name, amount in sorted(app.limits.items()):
            limit = self._settings.limits.get(name)
            if limit is None:
                return f"its app takes {name}, and ORQAL_LIMITS does not say how much there is of that"
            if limit < amount:
                return f"its app takes {amount} of {name}, and there is only {limit} (ORQAL_LIMITS)"
        return None

    async def plan(self, specs: Sequence[JobSpec]) -> list[Planned]:
        """What would become of these documents. See SchedulerApi.plan."""
        await self._check_parents(specs)
        asked = await self._asked(specs)
        found = await self._search(list({each.wanted for each in asked if each.wanted is not None}))
        plan, known = [], dict[_Size, str | None]()
        for spec, wanted, miss, _, _ in asked:
            there = found[wanted] if wanted is not None else _Found(None, miss)
            never = None
            if there.job is None:
                record = JobRecord.submitted(spec, self._new_id(), self._moment())
                never = self._unless_impossible(record, record.ctime, known).error
            same = None if wanted is None else hashlib.sha256(repr(wanted).encode()).hexdigest()
            plan.append(Planned(there.job, there.miss, same, None if never is None else never.message))
        return plan

    async def _asked(self, specs: Sequence[JobSpec]) -> list[_Asked]:
        """What each document asks of the cache. If its app wants that, the files that its input names are looked at."""
        await self._apps.up_to_date({spec.app for spec in specs})
        apps = {name: self._apps.last_good(name) for name in {spec.app for spec in specs}}
        looks: dict[int, tuple[Any, CacheOn]] = {}
        for number, spec in enumerate(specs):
            app = apps[spec.app]
            hows = () if app is None or not spec.use_cache else app.info.cache_on
            for how in (CacheOn.MTIME, CacheOn.CONTENT):  # the content counts for more than the time
                if how in hows:
                    looks[number] = spec.input, how
        digests = await self._input_files.digests(looks) if looks else {}
        parents = await asyncio.to_thread(self._parents_digests, {tuple(spec.after) for spec in specs if spec.after})
        asked = []
        for number, spec in enumerate(specs):
            digest, of_parents = digests.get(number), parents.get(tuple(spec.after))
            if not spec.use_cache:
                asked.append(_Asked(spec, None, cache.SWITCHED_OFF, None, of_parents))
            elif apps[spec.app] is None:
                asked.append(_Asked(spec, None, None, None, of_parents))
            elif isinstance(digest, Unreadable):
                asked.append(_Asked(spec, None, str(digest), None, of_parents))
            else:
                asked.append(_Asked(spec, cache.Wanted.by(spec, digest, of_parents), None, digest, of_parents))
        return asked

    async def _search(self, wanted: Sequence[cache.Wanted], *, again: bool = False) -> dict[cache.Wanted, _Found]:
        """What the cache has for each. `again`: this is the second look at them."""
        keys = sorted({key for each in wanted for key in (each.unfinished_key, each.key)})
        candidates = await asyncio.to_thread(self._store.cached, keys) if keys else {}
        jobs = {job.id: job for job in candidates.values()}
        images = {job.image for job in jobs.values() if job.image and job.image_digest}
        digests = await self._hosts.image_digests(sorted(images)) if images else {}
        gone = await self._hosts.without_files([job for job in jobs.values() if job.current_status.final and job.lswd])
        gone |= await asyncio.to_thread(self._other_parents, list(jobs.values()))
        found = dict.fromkeys(wanted, _NOTHING)
        ended_meanwhile = []
        for each in wanted:
            misses = []
            for job in filter(None, (candidates.get(each.unfinished_key), candidates.get(each.key))):
                if not job.current_status.final and self._jobs.phase(job.id) is None:
                    ended_meanwhile.append(each)
                miss = self._reason_against(job, each, digests.get(job.image or "", ()), gone.get(job.id))
                if miss is None:
                    found[each] = _Found(job.id, None, not job.current_status.final)
                    break
                misses.append(miss)
            else:
                found[each] = _Found(None, misses[0]) if misses else _NOTHING
        if ended_meanwhile and not again:  # how, the store knows now
            found |= await self._search(ended_meanwhile, again=True)
        return found

    def _parents_digests(self, wanted: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str | None]:
        """What parents are now: see cache.parents_digest."""
        wanted = list(wanted)
        parents = {parent for after in wanted for parent in map(Parent.of, after) if parent.is_batch}
        batches = {name: list(self._store.batch_ids(name)) for name in {parent.name for parent in parents}}
        return {after: cache.parents_digest(after, batches) for after in wanted}

    def _other_parents(self, jobs: Sequence[JobRecord]) -> dict[str, str]:
        """Why jobs are not reused that wait after a batch: it had other jobs when they were submitted."""
        of_batch = [job for job in jobs if any(Parent.of(text).is_batch for text in job.after)]
        now = self._parents_digests({tuple(job.after) for job in of_batch})
        changed = (job for job in of_batch if now[tuple(job.after)] != job.parents_digest)
        return {job.id: f"the batch that {job.id} waits after has changed since" for job in changed}

    def _reason_against(
        self, job: JobRecord, wanted: cache.Wanted, image_digests: Collection[str], gone: str | None
    ) -> str | None:
        """Why this job is not reused; None if it is. `gone`: why its files cannot be had any more."""
        app = self._apps.last_good(job.app)
        if not job.current_status.final and (late := self._jobs.why_not_reusable(job.id)) is not None:
            return late
        if app is None:
            return f"there is no app {job.app} any more"
        by_user = CacheOn.USER in app.info.cache_on
        return gone or cache.reason_against(
            job, wanted, wrapper_digest=app.ref.digest, image_digests=image_digests, by_user=by_user
        )

    def _moment(self) -> datetime:
        """The present, as new jobs show it."""
        self._latest = self._keeping.date_after(self._latest)
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


def _parts(jobs: Sequence[str]) -> Iterator[Sequence[str]]:
    return (jobs[start : start + JOBS_AT_ONCE] for start in range(0, len(jobs), JOBS_AT_ONCE))
