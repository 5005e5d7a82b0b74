"""The result cache: whether a job is reused for a later one with the same app, input and params.

Pure: the store finds the candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection

from orqal.models import JobRecord, JobSpec, Status

NO_CANDIDATE = "no job of the same app, input and params waits, runs or has succeeded"
SWITCHED_OFF = "use_cache was off"


def key(job: JobSpec) -> str:
    """Equal for jobs of the same app, input and params; the order of keys does not matter."""
    text = json.dumps([job.app, job.input, job.params], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def changed(candidate: JobRecord, wrapper_digest: str, image_digests: Collection[str]) -> str | None:
    """Why a job that waits, runs or succeeded is not reused for another one with its key; None if it is.

    `wrapper_digest` is that of the app's present wrapper. `image_digests` are those of the images that hosts have now
    under the name of the candidate's image; if no host has it, it counts as unchanged.
    """
    if candidate.current_status is Status.TODO:
        return None  # it will run with the wrapper and the image of that time
    if candidate.wrapper_digest != wrapper_digest:
        return f"the wrapper of {candidate.app} has changed since {candidate.id}"
    if candidate.image_digest and image_digests and candidate.image_digest not in image_digests:
        return f"the image {candidate.image} has changed since {candidate.id}"
    if candidate.output_cut is not None:
        return f"a part of the output of {candidate.id} is missing"
    return None
