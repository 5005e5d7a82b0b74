"""The store in a MongoDB: a shared or existing server, by way of pymongo.

It needs nothing of the server but single documents that are written whole: no transactions (a standalone server has
none), no joins. What belongs together all the same is held together so:

- **One document, `meta`,** says whose database this is, the highest number given out, and what is `open`: the write
  that was begun and is not known to be complete. There is one writer, so there is one such write at most. It takes its
  numbers and opens its entry in one step, which fails if another writer has done so meanwhile.
- **insert**: the entry says "undo the numbers from … to …"; then jobs, members and documents are added, all with such
  numbers; then the entry is removed, and that one write makes it so. What changes older documents (hits, retries,
  batches that are replaced) is put into the entry at that moment, to be done, and is done after it. Whoever opens the
  store after a crash undoes or does what the entry says, and both can be repeated. So a submission is there whole or
  not at all once the store has been opened; meanwhile readers may see jobs that will be gone.
- **update**: each job is one write, whose own filter leaves ended jobs alone. Its output is stored before, under a name
  that this write makes the job's; an output that no job names is not seen, and goes with the job. A crash may leave
  some jobs of one call written and others not, never half of one; repeating the call is harmless.
- **delete_ended**: what is to go is put into the entry, then it goes.

Users' text is only ever a value, and records and outputs are opaque text: no name or operator of the server's is in it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count, islice
from typing import Any, ClassVar, TypeVar

from bson import ObjectId
from pymongo import MongoClient, ReadPreference, UpdateOne, WriteConcern
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.operations import IndexModel

from orqal.models import BatchInfo, JobRecord, Output, Status
from orqal.scheduling import cache
from orqal.settings import MONGO_DATABASE, store_place
from orqal.store.encoding import UNFINISHED, decode, distinct, encode, moment, seconds
from orqal.store.protocol import (
    TABLES,
    BatchPage,
    Failures,
    JobFilter,
    JobGone,
    Page,
    Row,
    StoreError,
    Submission,
    first_sentence,
)

T = TypeVar("T")
Document = dict[str, Any]

SCHEMA_VERSION = 1

_SLICE = 500
"""Documents that are written or read at once."""
_PIECE = 4 << 20
"""Bytes of a stream or result in one document: three of them stay below MongoDB's 16 MiB."""
_MAX_RECORD = 15 << 20
"""Bytes of a record: it must fit in a document of 16 MiB."""
_NEVER = 1 << 62
_META = "cluster"
_COMMITTED = WriteConcern(w="majority", j=True, wtimeout=30_000)
"""On disk at most members of a replica set; or an error after half a minute."""
_WITHIN = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 60_000}
"""How long a server may take, unless the URL says otherwise."""

_INDEXES = {
    "jobs": [
        IndexModel([("seq", -1)], unique=True),
        *(IndexModel([(name, 1), ("seq", -1)]) for name in ("status", "app", "user", "host", "batches")),
        IndexModel([("ctime", 1), ("seq", 1)]),
        IndexModel([("batches", 1), ("status", 1)]),
        IndexModel([("batches", 1), ("ok", 1)]),
        IndexModel([("etime", 1)]),
        IndexModel([("cache_key", 1), ("seq", 1), ("ok", 1)]),
    ],
    "outputs": [IndexModel([("job", 1)])],
    "batches": [IndexModel([("seq", -1)])],
    "members": [IndexModel([("seq", 1)]), IndexModel([("batch", 1), ("seq", 1)]), IndexModel([("job", 1)])],
    "documents": [
        IndexModel([("seq", 1)]),
        IndexModel([("key", 1), ("number", 1)], unique=True),
        IndexModel([("job", 1)]),
    ],
    "leftovers": [IndexModel([("host", 1)]), IndexModel([("job", 1)])],
}
# `seq` is the order of submission, and tells what was added by which insert. _id of a job: its id; of a batch: its
# name; of a leftover: job and host; of an output: its name and the number of the piece; of others: of no meaning.


class MongoStore:
    """The Store protocol over a MongoDB database, which is one cluster's.

    One object writes; any number of objects and processes read. Made in the process that uses it: its connections do
    not survive a fork. While the server is away, methods raise pymongo's errors after a few seconds.
    """

    failures: ClassVar[Failures] = (PyMongoError,)

    def __init__(self, url: str, cluster: str, *, read_only: bool = False, loading: bool = False) -> None:
        """Connect. The writer makes the indexes, and finishes what its predecessor began. `loading`: the database may
        hold a part of a copy, for `load` follows.

        StoreError: it cannot be reached, or is not this cluster's. A reader finds that out when it reads."""
        options = {name: limit for name, limit in _WITHIN.items() if name.lower() not in url.lower()}
        try:
            self._client: MongoClient[Document] = MongoClient(url, appname="orqal", **options)  # type: ignore[arg-type]
            self._database = self._client.get_default_database(
                MONGO_DATABASE, read_preference=ReadPreference.PRIMARY, write_concern=_COMMITTED
            )
        except (PyMongoError, ValueError) as error:
            # Not its message: it may show parts of a password that was not encoded.
            raise StoreError(
                f"ORQAL_STORE is not a MongoDB URL that can be used ({type(error).__name__}). It looks like "
                "mongodb://user:password@host:27017/orqal; in user and password, write %40 for @, %3A for :, %2F for /."
            ) from None
        self._jobs, self._outputs, self._batches, self._members, self._documents, self._leftovers = (
            self._database[name] for name in TABLES
        )
        self._meta = self._database["meta"]
        self._lock = threading.RLock()
        self._seq = 0
        self._failed: tuple[int, int] | None = None
        """The numbers of an insert that failed here and is not undone yet."""
        self._rest: list[Document] = []
        """What is committed and still to be done."""
        if not read_only:
            try:
                self._prepare(store_place(url), cluster, loading)
            except BaseException:
                self.close()
                raise

    def _prepare(self, place: str, cluster: str, loading: bool) -> None:
        try:
            self._claim(place, cluster, loading)
            for name, indexes in _INDEXES.items():
                for index in indexes:  # one by one: FerretDB 1.24 breaks off at several that are there already
                    self._database[name].create_indexes([index])
            self._recover()
        except OperationFailure as error:
            raise StoreError(
                f"the MongoDB at {place} refuses: {error.details and error.details.get('errmsg')}. Look at the "
                "user and the password in ORQAL_STORE, at authSource, and at the user's roles: it takes readWrite."
            ) from None
        except PyMongoError as error:
            raise StoreError(
                f"no MongoDB answers at {place} ({first_sentence(error)}). Start it, correct ORQAL_STORE, or "
                "leave ORQAL_STORE empty to keep jobs in SQLite."
            ) from None

    def _claim(self, place: str, cluster: str, loading: bool) -> None:
        """See whose database this is; one that is nobody's becomes ours."""
        ours = {"cluster": cluster, "schema": SCHEMA_VERSION, "seq": 0, "loading": False}
        self._meta.update_one({"_id": _META}, {"$setOnInsert": ours}, upsert=True)
        found = self._meta.find_one({"_id": _META}) or {}
        if found["cluster"] != cluster:
            raise StoreError(
                f"the database {place} holds the jobs of another Orqal ({found['cluster']}; this one is "
                f"{cluster}). Name another database in ORQAL_STORE. If that Orqal is gone for good and this one is to "
                "take its jobs over, write its name into the file cluster_id of ORQAL_HOME."
            )
        if found["schema"] > SCHEMA_VERSION:
            raise StoreError(
                f"{place} was written by a newer Orqal (schema {found['schema']}, this one knows {SCHEMA_VERSION})"
            )
        if found["loading"] and not loading:
            raise StoreError(f"a copy of jobs into {place} was begun and not finished: run `orqal copy-store` again.")

    # Writing

    def insert(self, *submissions: Submission) -> None:
        """See Store. An error leaves nothing of it: what cannot be undone at once, because the server is away, is
        undone before anything else is added, or when the store is opened again."""
        with self._lock:
            self._settle()
            self._check_hits(submissions)
            adding = _Adding(self._seq, submissions)
            first, last = self._seq + 1, adding.seq
            self._failed = (first, last)  # until it is complete
            try:
                self._open(first, last)
                _in_slices(self._jobs.insert_many, adding.jobs)
                _in_slices(self._batches.bulk_write, adding.batches)
                _in_slices(self._members.insert_many, adding.members)
                _in_slices(self._documents.insert_many, adding.documents)
                self._entry({"redo": json.dumps(adding.rest)} if adding.rest else None)
            except BaseException:
                with contextlib.suppress(PyMongoError):
                    self._settle()
                raise
            self._failed, self._rest = None, adding.rest
            with contextlib.suppress(PyMongoError):  # it is committed: `_settle` goes on with it
                self._settle()

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output]) -> None:
        """See Store; of several jobs, a crash may leave some written. ValueError: it can never be written."""
        names = {job_id: str(ObjectId()) for job_id in outputs}
        pieces = {job_id: _pieces(names[job_id], job_id, _texts(output)) for job_id, output in outputs.items()}
        changes = []
        for job in jobs:
            fields = _state(job)
            if job.id in names:
                fields |= {"output": names[job.id], "pieces": len(pieces[job.id])}
            changes.append(UpdateOne({"_id": job.id, "status": {"$in": UNFINISHED}}, {"$set": fields}))
        _in_slices(self._outputs.insert_many, [piece for job in jobs for piece in pieces.pop(job.id, ())])
        _in_slices(self._jobs.bulk_write, changes)

    def delete_ended(self, limit: int, before: datetime | None = None, status: Status | None = None) -> list[str]:
        """See Store."""
        with self._lock:
            self._settle()
            ended: Document = {"$gte": 0} if before is None else {"$gte": 0, "$lt": before.timestamp()}
            wanted: Document = {"etime": ended}
            if status is not None:
                wanted["status"] = status.value
            order = [("etime", 1)] if status is None else [("seq", -1)]
            found = list(self._jobs.find(wanted, {"batches": 1, "host": 1, "record": 1}).sort(order).limit(limit))
            if not found:
                return []
            gone = [document["_id"] for document in found]
            hosts = {
                (document["_id"], name)
                for document in found
                for name in (document["host"], *(a["host"] for a in json.loads(document["record"])["attempts"]))
                if name is not None
            }
            batches = sorted({batch for document in found for batch in document["batches"]})
            rest = [{"delete": gone, "leftovers": sorted(map(list, hosts)), "batches": batches}]
            self._entry({"redo": json.dumps(rest)})
            self._rest = rest
            self._settle()
            return gone

    def forget_leftovers(self, host: str, job_ids: Sequence[str]) -> None:
        """See Store."""
        for part in _parts(job_ids):
            self._leftovers.delete_many({"host": host, "job": {"$in": part}})

    # What is begun is completed, or undone

    def _open(self, first: int, last: int) -> None:
        """Take the numbers, and begin."""
        ours = self._meta.update_one(
            {"_id": _META, "seq": first - 1}, {"$set": {"seq": last, "open": {"undo": [first, last]}}}
        )
        if ours.matched_count == 0:
            self._failed = None  # nothing is begun, and what has these numbers is not ours
            raise StoreError("another process writes this store: only one Orqal may")
        self._seq = last

    def _entry(self, entry: Document | None) -> None:
        self._meta.update_one({"_id": _META}, {"$set": {"open": entry}})

    def _recover(self) -> None:
        """Take up what the writer before us left."""
        meta = self._meta.find_one({"_id": _META}) or {}
        self._seq = meta["seq"]
        entry = meta.get("open") or {}
        if "undo" in entry:
            first, last = entry["undo"]
            self._failed = (first, last)
        self._rest = json.loads(entry.get("redo", "[]"))
        self._settle()

    def _settle(self) -> None:
        """Undo what failed, do what is still to be done. An error: it is tried again at the next call."""
        if self._failed is None and not self._rest:
            return
        with self._lock:
            if self._failed is not None:
                first, last = self._failed
                # The error may have been the loss of an answer: whatever the entry says, this is to be undone.
                self._meta.update_one({"_id": _META}, {"$set": {"seq": last, "open": {"undo": [first, last]}}})
                self._seq = last
                numbers = {"$gte": first, "$lte": last}
                for collection in (self._documents, self._members, self._batches, self._jobs):
                    collection.delete_many({"seq": numbers})
                self._entry(None)
                self._failed = None
            if self._rest:
                for step in self._rest:
                    if "delete" in step:
                        self._delete(step)
                    else:
                        self._follow(step)
                self._entry(None)
                self._rest = []

    def _follow(self, step: Document) -> None:
        """What a submission changes of what was there before. Harmless to repeat."""
        if replace := step["replace"]:
            name = replace["batch"]
            self._members.delete_many({"batch": name, "seq": {"$lt": replace["before"]}})
            older = {"batches": name, "seq": {"$lt": replace["before"]}}
            self._jobs.update_many(older, {"$pull": {"batches": name}})
            if replace["seq"] is None:
                self._batches.delete_one({"_id": name})
            else:
                self._batches.update_one({"_id": name}, {"$set": {"seq": replace["seq"], "created": step["at"]}})
        number = step["number"]
        changes = [
            UpdateOne({"_id": job, "hit": {"$lt": number}}, {"$inc": {"cache_hits": times}, "$set": hit})
            for hit in [{"cache_last_hit": step["at"], "hit": number}]
            for job, times in step["hits"]
        ]
        changes += [UpdateOne({"_id": job}, {"$addToSet": {"batches": batch}}) for job, batch in step["joins"]]
        _in_slices(self._jobs.bulk_write, changes)
        for part in _parts(step["retries"]):
            found = self._jobs.find({"_id": {"$in": [old for old, _ in part]}}, {"batches": 1})
            batches = {document["_id"]: document["batches"] for document in found}
            for old, new in part:
                for collection in (self._members, self._documents):
                    collection.update_many({"job": old}, {"$set": {"job": new}})
                self._jobs.update_one({"_id": new}, {"$addToSet": {"batches": {"$each": batches.get(old, [])}}})
                self._jobs.update_one({"_id": old}, {"$set": {"retried_as": new, "batches": []}})

    def _delete(self, step: Document) -> None:
        _in_slices(
            self._leftovers.bulk_write,
            [
                UpdateOne({"_id": f"{job} {host}"}, {"$set": {"job": job, "host": host}}, upsert=True)
                for job, host in step["leftovers"]
            ],
        )
        for part in _parts(step["delete"]):
            for collection in (self._members, self._documents, self._outputs):
                collection.delete_many({"job": {"$in": part}})
        for batch in step["batches"]:
            if self._members.find_one({"batch": batch}) is None:
                self._batches.delete_one({"_id": batch})
        for part in _parts(step["delete"]):
            self._jobs.delete_many({"_id": {"$in": part}})

    def _check_hits(self, submissions: Sequence[Submission]) -> None:
        hits = {job_id for submission in submissions for job_id in submission.hits}
        hits -= {job.id for submission in submissions for job in submission.jobs}
        for part in _parts(sorted(hits)):
            if self._jobs.count_documents({"_id": {"$in": part}}) < len(part):
                raise JobGone

    # Reading

    def leftovers(self, host: str, limit: int) -> list[str]:
        """See Store."""
        return [document["job"] for document in self._leftovers.find({"host": host}).limit(limit)]

    def get(self, job_id: str) -> JobRecord | None:
        """See Store."""
        document = self._jobs.find_one({"_id": job_id})
        return _record(document) if document else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        self._settle()
        return {document["_id"]: _record(document) for document in self._by_id(self._jobs, job_ids)}

    def output(self, job_id: str) -> Output:
        """See Store."""
        document = self._jobs.find_one({"_id": job_id}, {"output": 1, "pieces": 1})
        if document is None or document["output"] is None:
            return Output()
        return _output(self._read_texts([document], _OUTPUT_FIELDS).get(job_id))

    def cached(self, keys: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        self._settle()
        newest: dict[str, int] = {}
        shown = {"_id": 0, "cache_key": 1, "seq": 1, "ok": 1}  # the index has all of it
        for part in _parts(keys):
            found = self._jobs.find({"cache_key": {"$in": part}, "ok": {"$ne": False}}, shown)
            for document in found.sort([("cache_key", 1), ("seq", 1)]):
                newest[document["cache_key"]] = document["seq"]
        by_seq = self._by_id(self._jobs, list(newest.values()), "seq")
        return {document["cache_key"]: _record(document) for document in by_seq}

    def documents(self, key: str, first: int, last: int) -> dict[int, str]:
        """See Store."""
        self._settle()
        found = self._documents.find({"key": key, "number": {"$gte": first, "$lte": last}})
        return {document["number"]: document["job"] for document in found}

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None, skip: int = 0) -> Page:
        """See Store. The cursor is the `seq` of the last job that was shown."""
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
        below = [] if cursor is None else [_number(cursor)]
        if wanted.submitted_before is not None:
            below.append(self._place(wanted.submitted_before))
        seq: Document = {}
        if below:
            seq["$lt"] = min(below)
        if wanted.submitted_after is not None:
            seq["$gte"] = self._place(wanted.submitted_after)
        if seq:
            asked["seq"] = seq
        found = list(self._jobs.find(asked).sort([("seq", -1)]).skip(skip).limit(limit + 1))
        jobs = [_record(document) for document in found[:limit]]
        return Page(jobs, str(found[limit - 1]["seq"]) if len(found) > limit else None)

    def unfinished(self) -> Iterator[JobRecord]:
        """See Store."""
        last = 0
        while True:
            wanted = {"status": {"$in": UNFINISHED}, "seq": {"$gt": last}}
            found = list(self._jobs.find(wanted).sort([("seq", 1)]).limit(_SLICE))
            for document in found:
                last = document["seq"]
                yield _record(document)
            if len(found) < _SLICE:
                return

    def counts(self) -> dict[Status, int]:
        """See Store."""
        return self._count_states({})

    def batch(self, name: str) -> BatchInfo | None:
        """See Store."""
        document = self._batches.find_one({"_id": name})
        return self._batch_info(document) if document else None

    def batches(self, limit: int, cursor: str | None = None) -> BatchPage:
        """See Store. The cursor is the `seq` of the last batch that was shown."""
        wanted = {"seq": {"$lt": _number(cursor)}} if cursor is not None else {}
        found = list(self._batches.find(wanted).sort([("seq", -1)]).limit(limit + 1))
        shown = [self._batch_info(document) for document in found[:limit]]
        return BatchPage(shown, str(found[limit - 1]["seq"]) if len(found) > limit else None)

    def batch_ids(self, batch: str) -> list[str]:
        """See Store."""
        return [document["job"] for document in self._members.find({"batch": batch}).sort([("seq", 1)])]

    def batch_failed(self, batch: str) -> list[str]:
        """See Store."""
        failed = {document["_id"] for document in self._jobs.find({"batches": batch, "ok": False}, {"_id": 1})}
        return [job_id for job_id in distinct(self.batch_ids(batch)) if job_id in failed] if failed else []

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """See Store."""
        last = 0
        while True:
            members = list(self._members.find({"batch": batch, "seq": {"$gt": last}}).sort([("seq", 1)]).limit(_SLICE))
            jobs = {job["_id"]: job for job in self._by_id(self._jobs, distinct(m["job"] for m in members))}
            texts = self._read_texts([job for job in jobs.values() if job["output"]], ["result"])
            for member in members:
                last = member["seq"]
                if member["job"] in jobs:
                    yield _record(jobs[member["job"]]), _output(texts.get(member["job"]))
            if len(members) < _SLICE:
                return

    def close(self) -> None:
        """See Store."""
        self._client.close()

    # What the readings share

    def _by_id(self, collection: Any, values: Sequence[Any], field: str = "_id") -> Iterator[Document]:
        for part in _parts(values):
            yield from collection.find({field: {"$in": part}})

    def _place(self, time: datetime) -> int:
        """The `seq` of the first job that was not submitted before; `ctime` never falls as `seq` grows."""
        later = self._jobs.find({"ctime": {"$gte": time.timestamp()}}, {"seq": 1})
        first = list(later.sort([("ctime", 1), ("seq", 1)]).limit(1))
        return int(first[0]["seq"]) if first else _NEVER

    def _count_states(self, wanted: Document) -> dict[Status, int]:
        counts = {status: self._jobs.count_documents({**wanted, "status": status.value}) for status in Status}
        return {status: number for status, number in counts.items() if number}

    def _batch_info(self, document: Document) -> BatchInfo:
        name = document["_id"]
        status = self._count_states({"batches": name})
        ok = self._jobs.count_documents({"batches": name, "ok": True})
        jobs = self._members.count_documents({"batch": name})
        if jobs > sum(status.values()):  # some jobs answer for several: they count as often
            times = Counter(self.batch_ids(name))
            for job in self._by_id(self._jobs, [job_id for job_id, number in times.items() if number > 1]):
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
        """The outputs of jobs that have one: these fields, by id."""
        names = [f"{job['output']}.{number}" for job in jobs for number in range(job["pieces"])]
        found = {
            document["_id"]: document
            for part in _parts(names)
            for document in self._outputs.find({"_id": {"$in": part}}, dict.fromkeys(fields, 1))
        }
        texts = {}
        for job in jobs:
            with contextlib.suppress(KeyError):  # it has been deleted this very moment
                pieces = [found[f"{job['output']}.{number}"] for number in range(job["pieces"])]
                texts[job["_id"]] = {field: b"".join(piece[field] for piece in pieces).decode() for field in fields}
        return texts

    # Moving

    def dump(self) -> Iterator[tuple[str, Row]]:
        """See Store."""
        for job in self._jobs.find({}, {"batches": 0}).sort([("seq", 1)]):
            row = {"id": job["_id"], **{name: job[name] for name in _JOB_FIELDS}}
            yield "jobs", row | {"ok": None if job["ok"] is None else int(job["ok"])}
        last = 0
        while True:
            jobs = list(self._jobs.find({"seq": {"$gt": last}}).sort([("seq", 1)]).limit(_SLICE))
            for job_id, texts in self._read_texts([job for job in jobs if job["output"]], _OUTPUT_FIELDS).items():
                yield "outputs", {"id": job_id, **texts}
            if len(jobs) < _SLICE:
                break
            last = jobs[-1]["seq"]
        for batch in self._batches.find({}).sort([("seq", 1)]):
            yield "batches", {"seq": batch["seq"], "name": batch["_id"], "created": batch["created"]}
        for member in self._members.find({}).sort([("seq", 1)]):
            yield "members", {"seq": member["seq"], "batch": member["batch"], "job": member["job"]}
        for document in self._documents.find({}).sort([("seq", 1)]):
            yield "documents", {name: document[name] for name in ("key", "number", "job")}
        for left in self._leftovers.find({}).sort([("_id", 1)]):
            yield "leftovers", {"id": left["job"], "host": left["host"]}

    def load(self, rows: Iterable[tuple[str, Row]]) -> None:
        """See Store. The database is marked meanwhile: one that a copy was broken off in is emptied here, and opened
        for nothing else."""
        meta = self._meta.find_one({"_id": _META}) or {}
        if not meta["loading"] and any(self._database[name].find_one() for name in TABLES):
            raise StoreError("there are jobs in it already")
        self._meta.update_one({"_id": _META}, {"$set": {"loading": True}})
        for name in TABLES:
            self._database[name].delete_many({})
        rows = iter(rows)
        while part := list(islice(rows, _SLICE)):
            self._load(part)
        self._meta.update_one({"_id": _META}, {"$set": {"seq": self._seq, "open": None, "loading": False}})

    def _load(self, rows: Sequence[tuple[str, Row]]) -> None:
        for table in TABLES:
            documents, changes = list[Document](), list[UpdateOne]()
            for row in [row for name, row in rows if name == table]:
                if table == "jobs":
                    ok = None if row["ok"] is None else bool(row["ok"])
                    kept = {name: row[name] for name in _JOB_FIELDS} | {"ok": ok}
                    documents.append({"_id": row["id"], **kept, "batches": [], "hit": 0, "output": None, "pieces": 0})
                elif table == "outputs":
                    name = str(ObjectId())
                    pieces = _pieces(name, row["id"], {field: row[field] for field in _OUTPUT_FIELDS})
                    documents += pieces
                    changes.append(UpdateOne({"_id": row["id"]}, {"$set": {"output": name, "pieces": len(pieces)}}))
                elif table == "batches":
                    documents.append({"_id": row["name"], "seq": row["seq"], "created": row["created"]})
                elif table == "members":
                    documents.append(dict(row))
                    changes.append(UpdateOne({"_id": row["job"]}, {"$addToSet": {"batches": row["batch"]}}))
                elif table == "documents":
                    self._seq += 1  # above the numbers of all that came before
                    documents.append({"seq": self._seq, **row})
                else:
                    documents.append({"_id": f"{row['id']} {row['host']}", "job": row["id"], "host": row["host"]})
                self._seq = max(self._seq, row.get("seq", 0))
            _in_slices(self._database[table].insert_many, documents)
            _in_slices(self._jobs.bulk_write, changes)


_JOB_FIELDS = (
    *("seq", "status", "ok", "app", "user", "host", "ctime", "etime"),
    *("cache_key", "cache_hits", "cache_last_hit", "retried_as", "record"),
)
_OUTPUT_FIELDS = ("stdout", "stderr", "result")


class _Adding:
    """The documents of submissions, and what is to be done once they are there."""

    def __init__(self, seq: int, submissions: Sequence[Submission]) -> None:
        """`seq` is the last number that was given out, before and after."""
        self._numbers = count(seq + 1)
        self.seq = seq
        self.jobs: list[Document] = []
        self.batches: list[UpdateOne] = []
        self.members: list[Document] = []
        self.documents: list[Document] = []
        self.rest: list[Document] = []
        for submission in submissions:
            self._add(submission)

    def _next(self) -> int:
        self.seq = next(self._numbers)
        return self.seq

    def _add(self, submission: Submission) -> None:
        number, at = self._next(), submission.at.timestamp()
        mine: dict[str, list[str]] = {job.id: [] for job in submission.jobs}
        joins = []
        for batch, job_id in dict.fromkeys(submission.members):
            if job_id in mine:
                mine[job_id].append(batch)
            else:
                joins.append([job_id, batch])
        for job in submission.jobs:
            self.jobs.append(_new(job, self._next(), mine[job.id]))
        named = distinct(batch for batch, _ in submission.members)
        for batch in named:
            created = {"seq": self._next(), "created": at}
            self.batches.append(UpdateOne({"_id": batch}, {"$setOnInsert": created}, upsert=True))
        for batch, job_id in submission.members:
            self.members.append({"seq": self._next(), "batch": batch, "job": job_id})
        for key, place, job_id in submission.documents:
            self.documents.append({"seq": self._next(), "key": key, "number": place, "job": job_id})
        replace = None
        if submission.replace_batch is not None:
            again = self._next() if submission.replace_batch in named else None
            replace = {"batch": submission.replace_batch, "before": number, "seq": again}
        if replace or joins or submission.hits or submission.retries:
            hits = [[job_id, times] for job_id, times in Counter(submission.hits).items()]
            retries = [[old, new] for old, new in submission.retries.items()]
            self.rest.append(
                {"number": number, "at": at, "replace": replace, "joins": joins, "hits": hits, "retries": retries}
            )


def _new(job: JobRecord, seq: int, batches: list[str]) -> Document:
    return {
        "_id": job.id,
        "seq": seq,
        "app": job.app,
        "user": job.user,
        "ctime": job.ctime.timestamp(),
        "cache_key": cache.key(job),
        "cache_hits": 0,
        "cache_last_hit": None,
        "retried_as": None,
        "batches": batches,
        "hit": 0,
        "output": None,
        "pieces": 0,
        **_state(job),
    }


def _state(job: JobRecord) -> Document:
    """What changes while a job is on its way. ValueError: it is too large for a document."""
    record = encode(job)
    if len(record) > _MAX_RECORD // 4 and len(record.encode()) > _MAX_RECORD:
        raise ValueError(f"the record of {job.id} is larger than {_MAX_RECORD >> 20} MiB")
    return {
        "status": job.current_status.value,
        "ok": job.ok,
        "host": job.host,
        "etime": seconds(job.etime),
        "record": record,
    }


def _record(document: Document) -> JobRecord:
    return decode(document["record"], document["cache_hits"], document["cache_last_hit"], document["retried_as"])


def _texts(output: Output) -> dict[str, str]:
    return {"stdout": output.stdout, "stderr": output.stderr, "result": json.dumps(output.result)}


def _output(texts: Mapping[str, str] | None) -> Output:
    texts = texts or {}
    result = json.loads(texts.get("result", "null"))
    return Output(stdout=texts.get("stdout", ""), stderr=texts.get("stderr", ""), result=result)


def _pieces(name: str, job_id: str, texts: Mapping[str, str]) -> list[Document]:
    """An output in documents that are small enough: mostly one."""
    data = {field: text.encode() for field, text in texts.items()}
    pieces = max(1, *(-(-len(text) // _PIECE) for text in data.values()))
    return [
        {
            "_id": f"{name}.{number}",
            "job": job_id,
            **{field: text[number * _PIECE : (number + 1) * _PIECE] for field, text in data.items()},
        }
        for number in range(pieces)
    ]


def _number(cursor: str) -> int:
    number = int(cursor)
    if not -_NEVER < number < _NEVER:
        raise ValueError(f"{cursor!r} is no cursor")
    return number


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[start : start + _SLICE] for start in range(0, len(values), _SLICE))


def _in_slices(call: Any, documents: Sequence[Any]) -> None:
    for part in _parts(documents):
        call(part)
