"""How the MongoDB store writes several documents all or none, without transactions (a standalone server has none).

There is one writer, so at most one such write is open at a time. The document `meta` says whose database this is, the
highest number given out, and under `open` what to do about the write in progress:

- **Inserting submissions.** The writer takes the numbers that it needs and sets `open` to {"undo": [first, last]}, in
  one step that fails if another writer took numbers meanwhile. It adds jobs, members and documents, each with one of
  these numbers as its `seq`. Then one write of `open` commits: to null, or to {"redo": …} with the changes to older
  documents (hits, retries, replaced batches), which follow.
- **Deleting jobs.** The writer sets `open` to {"redo": …} with everything that must go, and then deletes it.
- **After a failure or a crash** the writer, or the next process that opens the store for writing, carries out what
  `open` says. Undoing and redoing may be repeated. So once the store is open, a submission is there whole or not at
  all; until then readers may see jobs that will be undone.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from orqal.models import Parent
from orqal.store.encoding import distinct
from orqal.store.mongo_documents import Collections, Document, in_parts, new_job, parts
from orqal.store.protocol import JobGone, ParentGone, StoreError, Submission

SCHEMA_VERSION = 2

_META = {"_id": "cluster"}
"""The one document of the collection `meta`."""


class CommitLog:
    """Commits writes of several documents, and completes or undoes those that were interrupted."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._meta = collections.meta
        self._lock = threading.RLock()
        self._failed: tuple[int, int] | None = None
        """The first and last number of a failed insert that must be undone."""
        self._remaining: list[Document] = []
        """Committed changes that have not been made yet."""
        self.seq = 0
        """The highest number given out."""
        self.schema = SCHEMA_VERSION
        """The schema of the documents. `MongoStore` upgrades those of an older one."""

    # Opening

    def claim(self, place: str, cluster: str, loading: bool) -> None:
        """Check that the database belongs to this cluster. A database without an owner becomes this cluster's.

        Raises:
            StoreError: it belongs to another cluster or a newer Orqal, or loading it was interrupted.
        """
        ours = {"cluster": cluster, "schema": SCHEMA_VERSION, "seq": 0, "loading": False}
        self._meta.update_one(_META, {"$setOnInsert": ours}, upsert=True)
        found = self._read()
        if found["cluster"] != cluster:
            raise StoreError(
                f"The database {place} holds the jobs of another Orqal ({found['cluster']}; this one is {cluster}). "
                "Name another database in ORQAL_STORE. If that Orqal is gone for good and this one should take over "
                "its jobs, write that name into the file cluster_id of ORQAL_HOME."
            )
        if found["schema"] > SCHEMA_VERSION:
            raise StoreError(
                f"A newer Orqal wrote {place} (schema {found['schema']}; this one knows {SCHEMA_VERSION}). Install "
                "that version."
            )
        self.schema = found["schema"]
        if found["loading"] and not loading:
            raise StoreError(f"A copy of jobs into {place} was not finished. Run `orqal copy-store` again.")

    def recover(self) -> None:
        """Complete or undo what the previous writer left open."""
        meta = self._read()
        self.seq = meta["seq"]
        entry = meta.get("open") or {}
        if "undo" in entry:
            first, last = entry["undo"]
            self._failed = (first, last)
        self._remaining = json.loads(entry.get("redo", "[]"))
        self.settle()

    # Writing

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads of the writer out, after completing or undoing what is open."""
        with self._lock:
            self.settle()
            yield

    def insert(self, submissions: Sequence[Submission]) -> None:
        """Add submissions, all of them or none.

        If the server is unreachable, a failed insert is undone before the next write or when the store is opened again.

        Raises:
            JobGone: one of the hits has been deleted.
            ParentGone: one of the parents has been deleted.
            StoreError: another process writes this store.
            PyMongoError: the server is unreachable.
        """
        collections = self._collections
        with self.exclusive():
            self._check_hits(submissions)
            self._check_parents(submissions)
            plan = _InsertPlan(self.seq, submissions)
            first, last = self.seq + 1, plan.seq
            self._failed = (first, last)  # until it is committed
            try:
                self._begin(first, last)
                in_parts(collections.jobs.insert_many, plan.jobs)
                in_parts(collections.batches.bulk_write, plan.batches)
                in_parts(collections.members.insert_many, plan.members)
                in_parts(collections.documents.insert_many, plan.documents)
                self._set_open({"redo": json.dumps(plan.changes)} if plan.changes else None)
            except BaseException:
                with contextlib.suppress(PyMongoError):
                    self.settle()
                raise
            self._failed, self._remaining = None, plan.changes
            with contextlib.suppress(PyMongoError):  # it is committed, so a later `settle` makes the changes
                self.settle()

    def delete(
        self,
        jobs: Sequence[str],
        leftovers: Sequence[tuple[str, str]],
        batches: Sequence[str],
        leave: tuple[str, Sequence[str]] | None = None,
    ) -> None:
        """Delete jobs with everything that belongs to them, and add leftovers as (job id, host).

        `leave` is a batch and the ids of jobs that leave it and stay. Those of the `batches` that have no members left
        are deleted too.
        """
        changes: list[Document] = [
            {"delete": jobs, "leftovers": list(map(list, leftovers)), "batches": batches, "leave": leave}
        ]
        with self._lock:
            self._set_open({"redo": json.dumps(changes)})
            self._remaining = changes
            self.settle()

    def settle(self) -> None:
        """Undo what failed, and make the changes that are committed.

        Raises:
            PyMongoError: the server is unreachable; the next call tries again.
        """
        if self._failed is None and not self._remaining:
            return
        with self._lock:
            if self._failed is not None:
                self._undo(*self._failed)
            if self._remaining:
                for change in self._remaining:
                    if "delete" in change:
                        self._make_deletion(change)
                    else:
                        self._make_changes(change)
                self._set_open(None)
                self._remaining = []

    def upgraded(self) -> None:
        """Note that all documents have the present schema."""
        self._meta.update_one(_META, {"$set": {"schema": SCHEMA_VERSION}})
        self.schema = SCHEMA_VERSION

    # Loading from another store

    def start_loading(self) -> None:
        """Mark the database, so that nothing but a further load can use it until `finish_loading`.

        Raises:
            StoreError: it already holds jobs.
        """
        tables = self._collections.tables().values()
        if not self._read()["loading"] and any(collection.find_one() for collection in tables):
            raise StoreError("it already holds jobs")
        self._meta.update_one(_META, {"$set": {"loading": True}})

    def finish_loading(self, seq: int) -> None:
        """Remove the mark. `seq` is the highest number of the loaded documents."""
        self._meta.update_one(_META, {"$set": {"seq": seq, "open": None, "loading": False}})
        self.seq = seq

    # Steps

    def _read(self) -> Document:
        return self._meta.find_one(_META) or {}

    def _set_open(self, entry: Document | None) -> None:
        self._meta.update_one(_META, {"$set": {"open": entry}})

    def _begin(self, first: int, last: int) -> None:
        """Take these numbers, and open the write."""
        taken = self._meta.update_one(
            {**_META, "seq": first - 1}, {"$set": {"seq": last, "open": {"undo": [first, last]}}}
        )
        if taken.matched_count == 0:
            self._failed = None  # nothing is written, and the documents with these numbers are another writer's
            raise StoreError("Another process writes this store. Only one Orqal may.")
        self.seq = last

    def _check_hits(self, submissions: Sequence[Submission]) -> None:
        hits = {job_id for submission in submissions for job_id in submission.hits}
        hits -= {job.id for submission in submissions for job in submission.jobs}
        for part in parts(sorted(hits)):
            if self._collections.jobs.count_documents({"_id": {"$in": part}}) < len(part):
                raise JobGone

    def _check_parents(self, submissions: Sequence[Submission]) -> None:
        parents = dict.fromkeys(text for submission in submissions for text in submission.parents)
        new = {job.id for submission in submissions for job in submission.jobs}
        new |= {batch for submission in submissions for batch, _ in submission.members}
        for text, parent in ((text, Parent.of(text)) for text in parents):
            collection = self._collections.batches if parent.is_batch else self._collections.jobs
            if parent.name not in new and collection.find_one({"_id": parent.name}, {"_id": 1}) is None:
                raise ParentGone(text)

    def _undo(self, first: int, last: int) -> None:
        # The error may have been a lost answer to the commit itself. So the write is opened again before it is undone.
        self._meta.update_one(_META, {"$set": {"seq": last, "open": {"undo": [first, last]}}})
        self.seq = last
        found = self._collections
        for collection in (found.documents, found.members, found.batches, found.jobs):
            collection.delete_many({"seq": {"$gte": first, "$lte": last}})
        self._set_open(None)
        self._failed = None

    def _make_changes(self, change: Document) -> None:
        """Make the changes of a submission to older documents. Repeating them changes nothing."""
        found = self._collections
        if replace := change["replace"]:
            self._replace_batch(replace, change["at"])
        number = change["number"]
        hit = {"cache_last_hit": change["at"], "hit": number}
        updates = [
            UpdateOne({"_id": job, "hit": {"$lt": number}}, {"$inc": {"cache_hits": times}, "$set": hit})
            for job, times in change["hits"]
        ]
        # One that has not ended has no `kept_from`, and is not changed.
        updates += [
            UpdateOne({"_id": job, "kept_from": {"$lt": change["at"]}}, {"$set": {"kept_from": change["at"]}})
            for job, _ in change["hits"]
        ]
        updates += [UpdateOne({"_id": job}, {"$addToSet": {"batches": batch}}) for job, batch in change["joins"]]
        in_parts(found.jobs.bulk_write, updates)
        for part in parts(change["retries"]):
            failed = found.jobs.find({"_id": {"$in": [old for old, _ in part]}}, {"batches": 1})
            batches = {document["_id"]: document["batches"] for document in failed}
            for old, new in part:
                for collection in (found.members, found.documents):
                    collection.update_many({"job": old}, {"$set": {"job": new}})
                found.jobs.update_one({"_id": new}, {"$addToSet": {"batches": {"$each": batches.get(old, [])}}})
                found.jobs.update_one({"_id": old}, {"$set": {"retried_as": new, "batches": []}})
                touch(found, batches.get(old, []), change["at"])

    def _replace_batch(self, replace: Document, at: float) -> None:
        """Take the older jobs out of a batch. `seq` is the batch's new number, or None if it has no new members."""
        found, name = self._collections, replace["batch"]
        older = {"$lt": replace["before"]}
        found.members.delete_many({"batch": name, "seq": older})
        found.jobs.update_many({"batches": name, "seq": older}, {"$pull": {"batches": name}})
        if replace["seq"] is None:
            found.batches.delete_one({"_id": name})
        else:
            new = {"seq": replace["seq"], "created": at, "touched": at}
            found.batches.update_one({"_id": name}, {"$set": new})

    def _make_deletion(self, change: Document) -> None:
        found = self._collections
        in_parts(
            found.leftovers.bulk_write,
            [
                UpdateOne({"_id": f"{job} {host}"}, {"$set": {"job": job, "host": host}}, upsert=True)
                for job, host in change["leftovers"]
            ],
        )
        batch, leaving = change.get("leave") or ("", [])
        for part in parts(leaving):
            found.members.delete_many({"batch": batch, "job": {"$in": part}})
            found.jobs.update_many({"_id": {"$in": part}}, {"$pull": {"batches": batch}})
        for part in parts(change["delete"]):
            for collection in (found.members, found.documents, found.outputs):
                collection.delete_many({"job": {"$in": part}})
        for batch in change["batches"]:
            if found.members.find_one({"batch": batch}) is None:
                found.batches.delete_one({"_id": batch})
        for part in parts(change["delete"]):
            found.jobs.delete_many({"_id": {"$in": part}})


def touch(collections: Collections, batches: Sequence[str], at: float) -> None:
    """Note that something was added to these batches, or ended in them. `at` is in seconds since 1970."""
    for part in parts(batches):
        collections.batches.update_many({"_id": {"$in": part}, "touched": {"$lt": at}}, {"$set": {"touched": at}})


class _InsertPlan:
    """The documents that submissions add, and the changes that they make to older documents."""

    def __init__(self, seq: int, submissions: Sequence[Submission]) -> None:
        """`seq` is the highest number given out before; afterwards it is the highest that this plan uses."""
        self._numbers = count(seq + 1)
        self.seq = seq
        self.jobs: list[Document] = []
        self.batches: list[UpdateOne] = []
        self.members: list[Document] = []
        self.documents: list[Document] = []
        self.changes: list[Document] = []
        for submission in submissions:
            self._add(submission)

    def _next(self) -> int:
        self.seq = next(self._numbers)
        return self.seq

    def _add(self, submission: Submission) -> None:
        number, at = self._next(), submission.at.timestamp()
        new: dict[str, list[str]] = {job.id: [] for job in submission.jobs}
        joins = []
        for batch, job_id in dict.fromkeys(submission.members):
            if job_id in new:
                new[job_id].append(batch)
            else:
                joins.append([job_id, batch])
        for job in submission.jobs:
            self.jobs.append(new_job(job, self._next(), new[job.id], at, submission.cache_key(job)))
        named = distinct(batch for batch, _ in submission.members)
        for batch in named:
            created = {"seq": self._next(), "created": at}
            # If this is undone, a batch that was there before stays touched. It is only kept longer for that.
            change = {"$setOnInsert": created, "$max": {"touched": at}}
            self.batches.append(UpdateOne({"_id": batch}, change, upsert=True))
        for batch, job_id in submission.members:
            self.members.append({"seq": self._next(), "batch": batch, "job": job_id})
        for key, place, job_id in submission.documents:
            self.documents.append({"seq": self._next(), "key": key, "number": place, "job": job_id})
        replace: dict[str, Any] | None = None
        if submission.replace_batch is not None:
            again = self._next() if submission.replace_batch in named else None
            replace = {"batch": submission.replace_batch, "before": number, "seq": again}
        if replace or joins or submission.hits or submission.retries:
            hits = [[job_id, times] for job_id, times in Counter(submission.hits).items()]
            retries = [[old, new] for old, new in submission.retries.items()]
            self.changes.append(
                {"number": number, "at": at, "replace": replace, "joins": joins, "hits": hits, "retries": retries}
            )
