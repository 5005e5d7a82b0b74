"""The collections, indexes and documents of the MongoDB store.

`seq` is the order of submission, and shows which insert added a document. The `_id` of a job is its id, of a batch its
name, of a leftover the job and the host, and of an output its name and the number of the piece. Other ids mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.operations import IndexModel

from orqal.models import JobRecord, Output
from orqal.scheduling import cache
from orqal.store.encoding import encode, seconds
from orqal.store.protocol import TABLES

T = TypeVar("T")
Document = dict[str, Any]

DOCUMENTS_AT_ONCE = 500
"""Documents that one command reads or writes."""
PIECE_BYTES = 4 << 20
"""Bytes of each stream and of the result in one document. Three of them stay below MongoDB's limit of 16 MiB."""
MAX_RECORD_BYTES = 15 << 20
"""A record must fit into a document of 16 MiB."""

INDEXES = {
    "jobs": [
        IndexModel([("seq", -1)], unique=True),
        *(IndexModel([(name, 1), ("seq", -1)]) for name in ("status", "app", "user", "host", "batches")),
        IndexModel([("ctime", 1), ("seq", 1)]),
        IndexModel([("batches", 1), ("status", 1)]),
        IndexModel([("batches", 1), ("ok", 1)]),
        IndexModel([("kept_from", 1)]),
        IndexModel([("failed_ancestor", 1), ("seq", 1)]),
        IndexModel([("cache_key", 1), ("seq", 1), ("ok", 1)]),
    ],
    "outputs": [IndexModel([("job", 1)])],
    "batches": [IndexModel([("seq", -1)]), IndexModel([("touched", 1)])],
    "members": [IndexModel([("seq", 1)]), IndexModel([("batch", 1), ("seq", 1)]), IndexModel([("job", 1)])],
    "documents": [
        IndexModel([("seq", 1)]),
        IndexModel([("key", 1), ("number", 1)], unique=True),
        IndexModel([("job", 1)]),
    ],
    "leftovers": [IndexModel([("host", 1)]), IndexModel([("job", 1)])],
}

JOB_FIELDS = (
    *("seq", "status", "ok", "app", "user", "host", "ctime", "etime", "kept_from"),
    *("cache_key", "cache_hits", "cache_last_hit", "retried_as", "failed_ancestor", "record"),
)
"""The fields of a job that are copied to other stores; the others follow from them and from other documents."""
OUTPUT_FIELDS = ("stdout", "stderr", "result")


@dataclass(frozen=True)
class Collections:
    """The collections of a database. `meta` has one document, which CommitLog keeps."""

    jobs: Collection[Document]
    outputs: Collection[Document]
    batches: Collection[Document]
    members: Collection[Document]
    documents: Collection[Document]
    leftovers: Collection[Document]
    meta: Collection[Document]

    @classmethod
    def of(cls, database: Database[Document]) -> Collections:
        """Return the collections of this database. They need not exist yet."""
        return cls(*(database[name] for name in (*TABLES, "meta")))

    def tables(self) -> dict[str, Collection[Document]]:
        """Return the collections that hold jobs and what belongs to them, by name."""
        return {name: getattr(self, name) for name in TABLES}


def new_job(job: JobRecord, seq: int, batches: list[str], at: float, cache_key: str) -> Document:
    """Return the document of a new job. `at` is the present, in seconds since 1970.

    Raises:
        ValueError: the record is too large for a document.
    """
    return {
        "_id": job.id,
        "seq": seq,
        "app": job.app,
        "user": job.user,
        "ctime": job.ctime.timestamp(),
        "cache_hits": 0,
        "cache_last_hit": None,
        "retried_as": None,
        "batches": batches,
        "hit": 0,  # the number of the submission that last counted a hit
        "output": None,  # the name of its output
        "pieces": 0,  # of its output
        **job_state(job, at, cache_key),
    }


def job_state(job: JobRecord, at: float | None, cache_key: str | None = None) -> Document:
    """Return the fields that change until a job's end. `at` is the present, in seconds since 1970; None stands for the
    job's `etime`. `cache_key`: its `cache.key_of`, if that is known.

    Raises:
        ValueError: the record is too large for a document.
    """
    record = encode(job)
    if len(record) > MAX_RECORD_BYTES // 4 and len(record.encode()) > MAX_RECORD_BYTES:
        raise ValueError(f"The record of job {job.id} is larger than {MAX_RECORD_BYTES >> 20} MiB.")
    return {
        "status": job.current_status.value,
        "ok": job.ok,
        "cache_key": cache_key or cache.key_of(job),
        "host": job.host,
        "etime": seconds(job.etime),
        "kept_from": (seconds(job.etime) if at is None else at) if job.current_status.final else None,
        "failed_ancestor": job.failed_ancestor,
        "record": record,
    }


def output_texts(output: Output) -> dict[str, str]:
    """Return an output as text, by field."""
    return {"stdout": output.stdout, "stderr": output.stderr, "result": json.dumps(output.result)}


def output_pieces(name: str, job_id: str, texts: Mapping[str, str]) -> list[Document]:
    """Split an output into documents that are small enough. Most outputs are one."""
    data = {field: text.encode() for field, text in texts.items()}
    pieces = max(1, *(-(-len(text) // PIECE_BYTES) for text in data.values()))
    return [
        {
            "_id": f"{name}.{number}",
            "job": job_id,
            **{field: text[number * PIECE_BYTES : (number + 1) * PIECE_BYTES] for field, text in data.items()},
        }
        for number in range(pieces)
    ]


def joined_texts(pieces: Sequence[Document], fields: Sequence[str]) -> dict[str, str]:
    """Return the texts of an output from all its pieces: the opposite of `output_pieces`."""
    return {field: b"".join(piece[field] for piece in pieces).decode("utf-8", "replace") for field in fields}


def parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split values into parts that one command can take."""
    return (values[start : start + DOCUMENTS_AT_ONCE] for start in range(0, len(values), DOCUMENTS_AT_ONCE))


def in_parts(command: Any, documents: Sequence[Any]) -> None:
    """Call a writing command of pymongo for each part of the documents."""
    for part in parts(documents):
        command(part)
