"""The store in a MongoDB database, on a shared or existing server.

The server must only write single documents atomically; the store uses neither transactions nor joins. What must change
in several documents at once goes through the commit log (mongo_commits.py). Two writes do without it:

- `update` writes each job once, with a filter that excludes ended jobs. It stores the job's output first, under a new
  name, and the job's write refers to that name. An output that no job refers to is invisible, and is deleted with the
  job. After a crash some jobs of one call may be written and others not; repeating the call does no harm.
- `forget_leftovers` deletes documents that have nothing to do with each other.

Users' text is only ever a value, and records and outputs are opaque text. So no text can become a name or an operator.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, ClassVar

from bson import ObjectId
from pymongo import MongoClient, ReadPreference, UpdateOne, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from orqal.models import BatchInfo, JobRecord, Output, Status
from orqal.settings import MONGO_DATABASE, store_place
from orqal.store import mongo_copy, mongo_documents
from orqal.store.encoding import FINAL, UNFINISHED, Decoder, distinct, hosts_of, moment, seconds
from orqal.store.mongo_commits import SCHEMA_VERSION, CommitLog, touch
from orqal.store.mongo_documents import (
    INDEXES,
    JOB_FIELDS,
    OUTPUT_FIELDS,
    Collections,
    Document,
    in_parts,
    job_state,
    joined_texts,
    output_pieces,
    output_texts,
    parts,
)
from orqal.store.protocol import (
    NOTHING,
    BatchPage,
    Expired,
    Failures,
    JobFilter,
    Needed,
    Page,
    Row,
    StoreError,
    Submission,
    first_sentence,
)

_NEVER = 1 << 62
"""A `seq` above all others."""
_RECORD = ("_id", "record", "cache_hits", "cache_last_hit", "retried_as")
"""The fields that `Decoder.record` takes."""
_FOR_DELETION = dict.fromkeys(("batches", "host", *_RECORD), 1)
"""The fields of a job that a deletion needs."""
_COMMITTED = WriteConcern(w="majority", j=True, wtimeout=30_000)
"""A write returns when it is on disk at most members of a replica set, and fails after 30 s."""
_TIME_LIMITS_MS = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 60_000}
"""How long a server may take, unless the URL sets another limit."""


class MongoStore:
    """The Store protocol over a MongoDB database, which belongs to one cluster.

    One object writes; any number of objects, threads and processes read. An object belongs to the process that made it,
    because its connections do not survive a fork. While the server is unreachable, methods raise pymongo's errors after
    a few seconds.
    """

    failures: ClassVar[Failures] = (PyMongoError,)

    def __init__(
        self,
        url: str,
        cluster: str,
        *,
        read_only: bool = False,
        loading: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Connect. The writer makes the indexes, and completes what the previous writer began. If an older Orqal wrote
        the documents, it copies them, tells `report` where and how to go back, and upgrades them. `loading`: `load`
        will be called, so an earlier load may have been interrupted.

        Raises:
            StoreError: the URL is invalid. For the writer also: the server is unreachable or refuses, or the database
                belongs to another cluster. (A reader gets such errors when it reads.)
        """
        options = {name: limit for name, limit in _TIME_LIMITS_MS.items() if name.lower() not in url.lower()}
        try:
            self._client: MongoClient[Document] = MongoClient(url, appname="orqal", **options)  # type: ignore[arg-type]
            self._database = self._client.get_default_database(
                MONGO_DATABASE, read_preference=ReadPreference.PRIMARY, write_concern=_COMMITTED
            )
        except (PyMongoError, ValueError) as error:
            # Without the error's own message, which may quote parts of a password that was not encoded.
            raise StoreError(
                f"ORQAL_STORE is not a MongoDB URL that can be used ({type(error).__name__}). It looks like "
                "mongodb://user:password@host:27017/orqal. In the user and the password, write %40 for @, %3A for : "
                "and %2F for /."
            ) from None
        self._collections = Collections.of(self._database)
        self._log = CommitLog(self._collections)
        self._decoder = Decoder()
        if not read_only:
            try:
                self._prepare(store_place(url), cluster, loading, report)
            except BaseException:
                self.close()
                raise

    def _prepare(self, place: str, cluster: str, loading: bool, report: Callable[[str], None]) -> None:
        try:
            self._log.claim(place, cluster, loading)
            for name, indexes in INDEXES.items():
                for index in indexes:  # one by one, because FerretDB 1.24 fails at several that exist already
                    self._database[name].create_indexes([index])
            self._log.recover()
            if self._log.schema < SCHEMA_VERSION:
                report(mongo_copy.how_to_go_back(place, self._log.schema))
                mongo_copy.keep(self._database, self._log.schema)
                self._upgrade()
        except OperationFailure as error:
            raise StoreError(
                f"The MongoDB at {place} refuses: {error.details and error.details.get('errmsg')}. Check the user and "
                "the password in ORQAL_STORE, authSource, and the user's roles: readWrite is needed."
            ) from None
        except PyMongoError as error:
            raise StoreError(
                f"No MongoDB answers at {place} ({first_sentence(error)}). Start it, correct ORQAL_STORE, or leave "
                "ORQAL_STORE empty to keep jobs in SQLite."
            ) from None

    def _upgrade(self) -> None:
        """Give the documents of the first schema what they lack. This may be interrupted and repeated.

        The first schema judged the age of a job by its end alone.
        """
        touched: dict[str, float] = {}
        jobs = _in_order(self._collections.jobs, {})
        while part := list(islice(jobs, mongo_documents.DOCUMENTS_AT_ONCE)):
            changes = []
            for job in part:
                kept_from = None
                if job["status"] in FINAL:
                    kept_from = max(job["etime"] or job["ctime"], job["cache_last_hit"] or 0.0)
                    touched |= {batch: max(touched.get(batch, 0.0), kept_from) for batch in job["batches"]}
                changes.append(UpdateOne({"_id": job["_id"]}, {"$set": {"kept_from": kept_from}}))
            self._collections.jobs.bulk_write(changes)
        batches = [
            UpdateOne(
                {"_id": batch["_id"]}, {"$set": {"touched": max(batch["created"], touched.get(batch["_id"], 0.0))}}
            )
            for batch in self._collections.batches.find({})
        ]
        in_parts(self._collections.batches.bulk_write, batches)
        if "etime_1" in self._collections.jobs.index_information():
            self._collections.jobs.drop_index("etime_1")
        self._log.upgraded()

    # Writing

    def insert(self, *submissions: Submission) -> None:
        """See Store and CommitLog."""
        self._log.insert(submissions)

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output], at: datetime | None = None) -> None:
        """See Store. If it is interrupted, some of several jobs may be written.

        Raises:
            ValueError: a record is too large for a document.
        """
        names = {job_id: str(ObjectId()) for job_id in outputs}
        pieces = {
            job_id: output_pieces(names[job_id], job_id, output_texts(output)) for job_id, output in outputs.items()
        }
        changes = []
        ended: dict[str, float] = {}
        for job in jobs:
            fields = job_state(job, seconds(at))
            if fields["kept_from"] is not None:
                ended[job.id] = fields["kept_from"]
            if job.id in names:
                fields |= {"output": names[job.id], "pieces": len(pieces[job.id])}
            changes.append(UpdateOne({"_id": job.id, "status": {"$in": UNFINISHED}}, {"$set": fields}))
        # First, because a batch that was touched and whose job has not ended is kept in any case.
        self._touch_batches_of(ended)
        in_parts(self._collections.outputs.insert_many, [piece for job in jobs for piece in pieces.pop(job.id, ())])
        in_parts(self._collections.jobs.bulk_write, changes)

    def _touch_batches_of(self, ended: Mapping[str, float]) -> None:
        """Note the ends of jobs (id -> seconds since 1970) in their batches."""
        latest: dict[str, float] = {}
        for part in parts(list(ended)):
            wanted = {"_id": {"$in": part}, "status": {"$in": UNFINISHED}}
            for document in self._collections.jobs.find(wanted, {"batches": 1}):
                for batch in document["batches"]:
                    latest[batch] = max(latest.get(batch, 0.0), ended[document["_id"]])
        for moment_of_end in set(latest.values()):
            batches = [batch for batch, moment in latest.items() if moment == moment_of_end]
            touch(self._collections, batches, moment_of_end)

    def delete_ended(self, limit: int, status: Status | None = None, needed: Needed = NOTHING) -> list[str]:
        """See Store."""
        with self._log.exclusive():
            wanted: Document = {"kept_from": {"$gte": 0}}
            if status is not None:
                wanted["status"] = status.value
            order = [("kept_from", 1)] if status is None else [("seq", -1)]
            found = self._collections.jobs.find(wanted, _FOR_DELETION).sort(order)
            return self._delete(list(islice((job for job in found if not _is_needed(job, needed)), limit)))

    def delete_expired(self, limit: int, now: datetime, ttl: timedelta, needed: Needed = NOTHING) -> Expired:
        """See Store."""
        before = (now - ttl).timestamp()
        with self._log.exclusive():
            batch = self._expired_batch(before, needed)
            if batch is not None:
                members = self._collections.members.find({"batch": batch}).sort([("seq", 1)]).limit(limit)
                jobs = list(self._jobs_by("_id", distinct(member["job"] for member in members)))
                old = [job for job in jobs if job["batches"] == [batch] and job["kept_from"] < before]
                kept = [job for job in old if needed.needs_job(job["_id"])]
                changes = [UpdateOne({"_id": job["_id"]}, {"$set": {"kept_from": now.timestamp()}}) for job in kept]
                in_parts(self._collections.jobs.bulk_write, changes)
                gone = [job for job in old if job not in kept and self._record(job) is not None]
                leaving = sorted({job["_id"] for job in jobs} - {job["_id"] for job in gone})
                return Expired(self._delete(gone, batch, leaving), True)
            found = self._collections.jobs.find({"kept_from": {"$lt": before}}, _FOR_DELETION)
            jobs = list(found.sort([("kept_from", 1)]).limit(limit))
            gone = [
                job
                for job in jobs
                if not (job["batches"] or needed.needs_job(job["_id"])) and self._record(job) is not None
            ]
            deleted = {job["_id"] for job in gone}
            self._keep([job for job in jobs if job["_id"] not in deleted], now.timestamp(), before)
            return Expired(self._delete(gone), len(jobs) == limit)

    def _expired_batch(self, before: float, needed: Needed) -> str | None:
        """Return the name of a batch whose time is over; None if there is none."""
        for batch in self._collections.batches.find({"touched": {"$lt": before}}).sort([("touched", 1)]):
            name = str(batch["_id"])
            if needed.needs_batch(name):
                continue
            if self._collections.jobs.find_one({"batches": name, "status": {"$nin": FINAL}}, {"_id": 1}) is None:
                return name
        return None

    def _keep(self, jobs: Sequence[Document], now: float, before: float) -> None:
        """Note that these jobs are needed until the time of their batches is over or, if a batch has not ended, at
        least for a time to live from now. So they are not looked at each minute."""
        touched: dict[str, float] = {}
        for part in parts(distinct(batch for job in jobs for batch in job["batches"])):
            found = self._collections.batches.find({"_id": {"$in": part}})
            touched |= {batch["_id"]: batch["touched"] for batch in found}
        changes = []
        for job in jobs:
            latest = max((touched.get(batch, 0.0) for batch in job["batches"]), default=0.0)
            kept_from = latest if latest >= before else now
            changes.append(UpdateOne({"_id": job["_id"]}, {"$set": {"kept_from": kept_from}}))
        in_parts(self._collections.jobs.bulk_write, changes)

    def _delete(self, jobs: Sequence[Document], batch: str | None = None, leaving: Sequence[str] = ()) -> list[str]:
        """Delete jobs, and let others leave a batch; return the ids of the deleted ones."""
        if not jobs and batch is None:
            return []
        gone = [job["_id"] for job in jobs]
        leftovers = {
            (job["_id"], name) for job in jobs for name in (job["host"], *hosts_of(job["record"])) if name is not None
        }
        batches = {name for job in jobs for name in job["batches"]} | ({batch} if batch is not None else set())
        leave = None if batch is None else (batch, leaving)
        self._log.delete(gone, sorted(leftovers), sorted(batches), leave)
        return gone

    def correct_times(self, now: datetime) -> None:
        """See Store."""
        moment = now.timestamp()
        with self._log.exclusive():
            jobs, batches = self._collections.jobs, self._collections.batches
            for collection, name in ((jobs, "ctime"), (jobs, "kept_from"), (batches, "touched")):
                collection.update_many({name: {"$gt": moment}}, {"$set": {name: moment}})

    def forget_leftovers(self, host: str, job_ids: Sequence[str]) -> None:
        """See Store."""
        for part in parts(job_ids):
            self._collections.leftovers.delete_many({"host": host, "job": {"$in": part}})

    # Reading. What decides on new jobs calls `settle` first, so that it never sees a submission that failed.

    def leftovers(self, host: str, limit: int) -> list[str]:
        """See Store."""
        return [document["job"] for document in self._collections.leftovers.find({"host": host}).limit(limit)]

    def get(self, job_id: str) -> JobRecord | None:
        """See Store."""
        document = self._collections.jobs.find_one({"_id": job_id})
        return self._record(document) if document else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        self._log.settle()
        return {job.id: job for job in self._readable(self._jobs_by("_id", job_ids))}

    def output(self, job_id: str) -> Output:
        """See Store."""
        document = self._collections.jobs.find_one({"_id": job_id}, {"output": 1, "pieces": 1})
        if document is None or document["output"] is None:
            return Output()
        return self._output(job_id, self._read_texts([document], OUTPUT_FIELDS))

    def cached(self, keys: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        self._log.settle()
        newest: dict[str, int] = {}
        shown = {"_id": 0, "cache_key": 1, "seq": 1, "ok": 1}  # the index holds all of these
        for part in parts(keys):
            found = self._collections.jobs.find({"cache_key": {"$in": part}, "ok": {"$ne": False}}, shown)
            for document in found.sort([("cache_key", 1), ("seq", 1)]):
                newest[document["cache_key"]] = document["seq"]
        by_seq = self._jobs_by("seq", list(newest.values()))
        candidates = {document["cache_key"]: self._record(document) for document in by_seq}
        return {key: job for key, job in candidates.items() if job is not None}

    def documents(self, key: str, first: int, last: int) -> dict[int, str]:
        """See Store."""
        self._log.settle()
        found = self._collections.documents.find({"key": key, "number": {"$gte": first, "$lte": last}})
        return {document["number"]: document["job"] for document in found}

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None, skip: int = 0) -> Page:
        """See Store. The cursor is the `seq` of the page's last job."""
        asked: Document = {}
        for name, value in (
            ("status", wanted.status and wanted.status.value),
            ("app", wanted.app),
            ("user", wanted.user),
            ("host", wanted.host),
            ("batches", wanted.batch),
        ):
            if value is not None:
                asked[name] = value
        if wanted.unfinished:
            asked["status"] = {"$in": [status for status in UNFINISHED if status == asked.get("status", status)]}
        below = [] if cursor is None else [_number(cursor)]
        if wanted.submitted_before is not None:
            below.append(self._first_seq_from(wanted.submitted_before))
        seq: Document = {}
        if below:
            seq["$lt"] = min(below)
        if wanted.submitted_after is not None:
            seq["$gte"] = self._first_seq_from(wanted.submitted_after)
        if seq:
            asked["seq"] = seq
        while True:
            found = list(self._collections.jobs.find(asked).sort([("seq", -1)]).skip(skip).limit(limit + 1))
            jobs = list(self._readable(found[:limit]))
            if len(found) <= limit:
                return Page(jobs, None)
            last, skip = found[limit - 1]["seq"], 0
            if jobs:
                return Page(jobs, str(last))
            asked["seq"] = {**seq, "$lt": last}  # none of these could be read

    def unfinished(self) -> Iterator[JobRecord]:
        """See Store."""
        yield from self._readable(_in_order(self._collections.jobs, {"status": {"$in": UNFINISHED}}))
        # A newer Orqal may have other states. Such jobs are found here, so that they are known to be set aside.
        for document in self._collections.jobs.find({"status": {"$nin": [*FINAL, *UNFINISHED]}}):
            self._record(document)

    def counts(self) -> dict[Status, int]:
        """See Store."""
        return self._count_states({})

    def batch(self, name: str) -> BatchInfo | None:
        """See Store."""
        document = self._collections.batches.find_one({"_id": name})
        return self._batch_info(document) if document else None

    def batches(self, limit: int, cursor: str | None = None) -> BatchPage:
        """See Store. The cursor is the `seq` of the page's last batch."""
        wanted = {"seq": {"$lt": _number(cursor)}} if cursor is not None else {}
        found = list(self._collections.batches.find(wanted).sort([("seq", -1)]).limit(limit + 1))
        shown = [self._batch_info(document) for document in found[:limit]]
        return BatchPage(shown, str(found[limit - 1]["seq"]) if len(found) > limit else None)

    def batch_ids(self, batch: str) -> Iterator[str]:
        """See Store."""
        return (member["job"] for member in _in_order(self._collections.members, {"batch": batch}))

    def batch_open(self, batch: str) -> list[str]:
        """See Store."""
        wanted = {"batches": batch, "status": {"$in": UNFINISHED}}
        return [document["_id"] for document in self._collections.jobs.find(wanted, {"_id": 1})]

    def dependents(self, job_id: str) -> list[str]:
        """See Store."""
        found = self._collections.jobs.find({"failed_ancestor": job_id}, {"_id": 1}).sort([("seq", 1)])
        return [document["_id"] for document in found]

    def batch_failed(self, batch: str) -> list[str]:
        """See Store."""
        wanted = {"batches": batch, "ok": False}
        failed = {document["_id"] for document in self._collections.jobs.find(wanted, {"_id": 1})}
        return [job_id for job_id in distinct(self.batch_ids(batch)) if job_id in failed] if failed else []

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """See Store."""
        members = _in_order(self._collections.members, {"batch": batch})
        while part := list(islice(members, mongo_documents.DOCUMENTS_AT_ONCE)):
            jobs = {job["_id"]: job for job in self._jobs_by("_id", distinct(m["job"] for m in part))}
            texts = self._read_texts([job for job in jobs.values() if job["output"]], ["result"])
            for member in part:
                document = jobs.get(member["job"])
                if document is not None and (job := self._record(document)) is not None:
                    yield job, self._output(job.id, texts)

    def close(self) -> None:
        """See Store."""
        self._client.close()

    # Copying to and from other stores

    def dump(self) -> Iterator[tuple[str, Row]]:
        """See Store."""
        found = self._collections
        for job in found.jobs.find({}, {"batches": 0}).sort([("seq", 1)]):
            # An older Orqal has stored no `failed_ancestor`.
            row = {"id": job["_id"], **{name: job.get(name) for name in JOB_FIELDS}}
            yield "jobs", row | {"ok": None if job["ok"] is None else int(job["ok"])}
        jobs = _in_order(found.jobs, {})
        while part := list(islice(jobs, mongo_documents.DOCUMENTS_AT_ONCE)):
            for job_id, texts in self._read_texts([job for job in part if job["output"]], OUTPUT_FIELDS).items():
                yield "outputs", {"id": job_id, **texts}
        for batch in found.batches.find({}).sort([("seq", 1)]):
            times = {"created": batch["created"], "touched": batch["touched"]}
            yield "batches", {"seq": batch["seq"], "name": batch["_id"], **times}
        for member in found.members.find({}).sort([("seq", 1)]):
            yield "members", {"seq": member["seq"], "batch": member["batch"], "job": member["job"]}
        for document in found.documents.find({}).sort([("seq", 1)]):
            yield "documents", {name: document[name] for name in ("key", "number", "job")}
        for left in found.leftovers.find({}).sort([("_id", 1)]):
            yield "leftovers", {"id": left["job"], "host": left["host"]}

    def load(self, rows: Iterable[tuple[str, Row]]) -> None:
        """See Store. Until it ends, the database is marked and opens for another load only, which empties it first."""
        self._log.start_loading()
        for collection in self._collections.tables().values():
            collection.delete_many({})
        seq, rows = self._log.seq, iter(rows)
        while part := list(islice(rows, mongo_documents.DOCUMENTS_AT_ONCE)):
            seq = self._load(part, seq)
        self._log.finish_loading(seq)

    def _load(self, rows: Sequence[tuple[str, Row]], seq: int) -> int:
        """Load some rows, after rows with numbers up to `seq`, and return the highest number now."""
        for table, collection in self._collections.tables().items():
            documents, changes = list[Document](), list[UpdateOne]()
            for row in [row for name, row in rows if name == table]:
                if table == "jobs":
                    ok = None if row["ok"] is None else bool(row["ok"])
                    kept = {name: row[name] for name in JOB_FIELDS} | {"ok": ok}
                    documents.append({"_id": row["id"], **kept, "batches": [], "hit": 0, "output": None, "pieces": 0})
                elif table == "outputs":
                    name = str(ObjectId())
                    pieces = output_pieces(name, row["id"], {field: row[field] for field in OUTPUT_FIELDS})
                    documents += pieces
                    changes.append(UpdateOne({"_id": row["id"]}, {"$set": {"output": name, "pieces": len(pieces)}}))
                elif table == "batches":
                    documents.append(
                        {"_id": row["name"], **{name: row[name] for name in ("seq", "created", "touched")}}
                    )
                elif table == "members":
                    documents.append(dict(row))
                    changes.append(UpdateOne({"_id": row["job"]}, {"$addToSet": {"batches": row["batch"]}}))
                elif table == "documents":
                    seq += 1  # the rows have no number: they get those after all rows so far
                    documents.append({"seq": seq, **row})
                else:
                    documents.append({"_id": f"{row['id']} {row['host']}", "job": row["id"], "host": row["host"]})
                seq = max(seq, row.get("seq", 0))
            in_parts(collection.insert_many, documents)
            in_parts(self._collections.jobs.bulk_write, changes)
        return seq

    # Shared by the reading methods

    @property
    def unreadable(self) -> Mapping[str, str]:
        """See Store."""
        return self._decoder.unreadable

    def _record(self, document: Document) -> JobRecord | None:
        values: Any = (document.get(name) for name in _RECORD)
        return self._decoder.record(*values)

    def _readable(self, documents: Iterable[Document]) -> Iterator[JobRecord]:
        """Yield the records in jobs' documents, without those that cannot be read."""
        return (job for document in documents if (job := self._record(document)) is not None)

    def _output(self, job_id: str, texts: Mapping[str, Mapping[str, str]]) -> Output:
        """Return a job's output from what `_read_texts` returned. What is missing is empty."""
        found = texts.get(job_id, {})
        return self._decoder.output(job_id, found.get("stdout", ""), found.get("stderr", ""), found.get("result"))

    def _jobs_by(self, field: str, values: Sequence[str] | Sequence[int]) -> Iterator[Document]:
        for part in parts(values):
            yield from self._collections.jobs.find({field: {"$in": part}})

    def _first_seq_from(self, time: datetime) -> int:
        """Return the `seq` of the first job submitted at or after a time. `ctime` never decreases as `seq` grows."""
        later = self._collections.jobs.find({"ctime": {"$gte": time.timestamp()}}, {"seq": 1})
        first = list(later.sort([("ctime", 1), ("seq", 1)]).limit(1))
        return int(first[0]["seq"]) if first else _NEVER

    def _count_states(self, wanted: Document) -> dict[Status, int]:
        jobs = self._collections.jobs
        counts = {status: jobs.count_documents({**wanted, "status": status.value}) for status in Status}
        return {status: number for status, number in counts.items() if number}

    def _batch_info(self, document: Document) -> BatchInfo:
        name = document["_id"]
        status = self._count_states({"batches": name})
        ok = self._collections.jobs.count_documents({"batches": name, "ok": True})
        members = self._collections.members.count_documents({"batch": name})
        if members > sum(status.values()):  # some jobs answer several documents: they count once for each
            times = Counter(self.batch_ids(name))
            for job in self._jobs_by("_id", [job_id for job_id, number in times.items() if number > 1]):
                if job["status"] not in (*FINAL, *UNFINISHED):
                    continue  # a newer Orqal's
                more = times[job["_id"]] - 1
                status[Status(job["status"])] = status.get(Status(job["status"]), 0) + more
                ok += more if job["ok"] else 0
        ended = sum(number for state, number in status.items() if state.final)
        return BatchInfo(
            name=name,
            created=moment(document["created"]),
            jobs=sum(status.values()),
            status=status,
            ok=ok,
            failed=ended - ok,
        )

    def _read_texts(self, jobs: Sequence[Document], fields: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return these fields of the outputs of jobs, by job id. Every job must have an output."""
        names = [f"{job['output']}.{number}" for job in jobs for number in range(job["pieces"])]
        found = {
            document["_id"]: document
            for part in parts(names)
            for document in self._collections.outputs.find({"_id": {"$in": part}}, dict.fromkeys(fields, 1))
        }
        texts = {}
        for job in jobs:
            with contextlib.suppress(KeyError):  # the job has been deleted meanwhile
                pieces = [found[f"{job['output']}.{number}"] for number in range(job["pieces"])]
                texts[job["_id"]] = joined_texts(pieces, fields)
        return texts


def _is_needed(job: Document, needed: Needed) -> bool:
    """Return True if a job must stay, or a batch that it is in."""
    return needed.needs_job(job["_id"]) or any(map(needed.needs_batch, job["batches"]))


def _in_order(collection: Collection[Document], wanted: Document) -> Iterator[Document]:
    """Yield documents by `seq`, with one query for some at a time, so that a slow reader keeps no cursor open."""
    last, size = 0, mongo_documents.DOCUMENTS_AT_ONCE
    while True:
        found = list(collection.find({**wanted, "seq": {"$gt": last}}).sort([("seq", 1)]).limit(size))
        yield from found
        if len(found) < size:
            return
        last = found[-1]["seq"]


def _number(cursor: str) -> int:
    number = int(cursor)
    if not -_NEVER < number < _NEVER:
        raise ValueError(f"{cursor!r} is not a cursor")
    return number
