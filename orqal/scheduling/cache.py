"""The result cache: whether a job is reused for a later one with the same app, input and params.

Pure: the store finds the candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from orqal.models import SUBMITTER, JobRecord, JobSpec, Parent, Status

NO_CANDIDATE = "no job of the same app, input, params and options waits, runs or has succeeded"
SWITCHED_OFF = "use_cache was off"

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

_limits_of = attrgetter(
    "user", "threads", "memory_in_gb", "timeout", "retries", "retry_on", "retry_delay", "retry_memory_factor"
)


class Wanted(NamedTuple):
    """What a submitted document asks of the cache. Equal documents in one request, or in several at the same time,
    share a job."""

    key: str
    """The key of a job that has succeeded and may be reused: the same app, input, params, input files and parents."""
    unfinished_key: str
    """The key of a job that waits or runs and may be reused. It is also of the same user, and has the same limits:
    its user may cancel it, and its limits may end it."""
    user: str

    @classmethod
    def by(cls, spec: JobSpec, input_digest: str | None, parents_digest: str | None = None) -> Wanted:
        """What this document asks. `input_digest` and `parents_digest`: see JobRecord."""
        key = _key(spec, input_digest, parents_digest)
        return cls(key, _unfinished_key(spec, key), spec.user)


def identity(job: JobSpec) -> str:
    """Equal for jobs of the same app, input, params and options; the order of keys does not matter."""
    same = [job.app, job.input, job.params, *([job.options] if job.options else [])]
    return hashlib.sha256(_encode(same).encode()).hexdigest()


def key_of(record: JobRecord) -> str:
    """The key under which the store finds a job for the cache. It changes when the job has succeeded."""
    key = _key(record, record.input_digest, record.parents_digest)
    return key if record.current_status.final else _unfinished_key(record, key)


def parents_digest(after: Sequence[str], batches: Mapping[str, Iterable[str]]) -> str | None:
    """What the parents of a job are: the same jobs in the same order; None if it has none.

    `batches`: the ids of the jobs of each batch among them.
    """
    if not after:
        return None
    digest = hashlib.sha256()
    for text in after:
        parent = Parent.of(text)
        digest.update(f"{'any' if parent.any else 'ok'} ".encode())
        digest.update("".join(batches[parent.name] if parent.is_batch else [parent.name]).encode() + b"\n")
    return digest.hexdigest()


def _key(job: JobSpec, input_digest: str | None, parents_digest: str | None) -> str:
    # Without them the key is that of an Orqal before these.
    key = identity(job)
    for kind, digest in (("", input_digest), ("parents ", parents_digest)):
        if digest is not None:
            key = hashlib.sha256(f"{key} {kind}{digest}".encode()).hexdigest()
    return key


def _unfinished_key(job: JobSpec, key: str) -> str:
    user, *limits = _limits_of(job)
    encoded = _encoded(user, *(tuple(each) if isinstance(each, list) else each for each in limits))
    return hashlib.sha256(f'["{key}", {encoded[1:]}'.encode()).hexdigest()


@lru_cache(maxsize=1_000, typed=True)
def _encoded(*limits: Hashable) -> str:
    """A user and limits as JSON. They are the same for most jobs of a batch."""
    return json.dumps(limits)


def reason_against(
    candidate: JobRecord, wanted: Wanted, *, wrapper_digest: str, image_digests: Collection[str], by_user: bool
) -> str | None:
    """Why a job that waits, runs or succeeded is not reused for what is wanted by its key; None if it is.

    `wrapper_digest` is that of the app's present wrapper. `image_digests` are those of the images that hosts have now
    under the name of the candidate's image; if no host has it, it counts as unchanged. `by_user`: the app's results
    depend on the user.
    """
    by_user = by_user or candidate.options.get("user") == SUBMITTER
    if by_user and candidate.user != wanted.user:
        return f"{candidate.id} is of another user, and what {candidate.app} does depends on the user"
    if not candidate.current_status.final and key_of(candidate) != wanted.unfinished_key:
        # An Orqal before this rule has stored it under the other key.
        return f"{candidate.id}, which has not ended, is of another user or has other limits"
    if candidate.current_status is Status.TODO:
        return None  # it will run with the wrapper and the image of that time
    if candidate.wrapper_digest != wrapper_digest:
        return f"the wrapper of {candidate.app} has changed since {candidate.id}"
    if candidate.image_digest and image_digests and candidate.image_digest not in image_digests:
        return f"the image {candidate.image} has changed since {candidate.id}"
    if candidate.output_cut is not None:
        return f"a part of the output of {candidate.id} is missing"
    return None
