"""Parameters that several routes take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query

from orqal.models import MAX_NAME
from orqal.serve_app import examples

JobId = Annotated[str, Path(pattern="^[0-9a-f]{24}$", description="The job's id.", examples=[examples.JOB_ID])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_NAME,
        pattern="^[ -~]+$",
        description="If a request is repeated with the same key, its n-th document makes no second job.",
    ),
]
After = Annotated[
    str | None,
    Header(
        alias="Orqal-After",
        max_length=MAX_NAME + 11,
        pattern="^[1-9][0-9]{0,9} [ -~]+$",
        description="The number and the idempotency key of a document. The jobs of this request come after it: they "
        "are submitted once it is. If it does not come soon, the answer is 503.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="The most items in the answer.")]
Cursor = Annotated[
    str | None,
    Query(
        pattern="^[0-9]{1,18}$", description="The `cursor` of the previous answer, to get the next part of the list."
    ),
]
