"""Types of the values that users send, with their limits."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from orqal.resource_names import check_resource_name

MAX_NAME = 200
"""Characters in the name of an app, a user, a batch or a param, and in an idempotency key."""
MAX_PARAMS = 1_000
"""Params of one job."""

MAX_RETRIES = 100
"""Retries of a job that fails by itself."""
MAX_RETRY_DELAY = 86_400.0
"""Seconds between two attempts at a job."""
MAX_MEMORY_FACTOR = 16.0


Threads = Annotated[float, Field(ge=0.01, le=100_000, allow_inf_nan=False)]
"""Cores. Docker accepts no less than 0.01."""
MemoryGb = Annotated[float, Field(ge=0.0063, le=1_000_000, allow_inf_nan=False)]
"""10^9 bytes. Docker accepts no less than 6 MiB."""
SpaceGb = Annotated[float, Field(ge=1e-9, le=1_000_000, allow_inf_nan=False)]
"""10^9 bytes on a disk. Less than a byte would be no limit."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A time limit."""
MAX_PRIORITY = 100
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
"""Jobs with a higher one go first."""
MaxRunning = Annotated[int, Field(ge=1)]
"""How many jobs may run at once."""
Canary = Annotated[int, Field(ge=0, le=1_000_000)]
"""How many jobs of a batch try it before the others run; 0: none."""
Limits = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=MAX_NAME)], Annotated[int, Field(ge=1)]], Field(max_length=20)
]
"""What a job takes of what is counted by name."""
MAX_AMOUNT = 1_000_000
"""The most that a job can ask of a resource."""
LEAST_PART = 0.0001
"""The least part of a device. Ray counts in such steps."""


def _whole_or_part(amount: float) -> float:
    if amount > 1 and amount % 1:
        raise ValueError("must be a whole number, or less than 1 for a part of a device")
    return amount


DeclaredAmounts = Annotated[
    dict[
        Annotated[str, AfterValidator(check_resource_name)],
        Annotated[float, Field(ge=LEAST_PART, le=MAX_AMOUNT, allow_inf_nan=False), AfterValidator(_whole_or_part)],
    ],
    Field(max_length=20),
]
"""What a job takes of what administrators have declared on hosts, by name."""
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Retries = Annotated[int, Field(ge=0, le=MAX_RETRIES)]
RetryDelay = Annotated[float, Field(ge=0, le=MAX_RETRY_DELAY, allow_inf_nan=False)]
"""Seconds."""
MemoryFactor = Annotated[float, Field(ge=1, le=MAX_MEMORY_FACTOR, allow_inf_nan=False)]
CAUSES = ("exit_code", "timeout", "out_of_memory")


def _retry_cause(value: Any) -> Any:
    if (isinstance(value, str) and value in CAUSES) or (type(value) is int and 1 <= value <= 255):
        return value
    raise ValueError(f"must be an exit code from 1 to 255, or one of {', '.join(CAUSES)}")


RetryCause = Annotated[
    int | str,
    PlainValidator(_retry_cause),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 255}, {"enum": list(CAUSES)}]}),
]
"""A failure of the job itself: an exit code, `exit_code` for any but 0, or the error that it ended with."""
RetryOn = Annotated[list[RetryCause], Field(max_length=300)]
_NOT_IN_BATCH_NAMES = re.compile("[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_batch_name(name: str) -> str:
    """Return the name, which can be a part of a URL.

    Raises:
        ValueError: it cannot.
    """
    if not 1 <= len(name) <= MAX_NAME or name in (".", "..") or _NOT_IN_BATCH_NAMES.search(name):
        raise ValueError(
            f"it must be 1 to {MAX_NAME} characters, none of them a slash or a control character, and not . or .."
        )
    return name


BatchName = Annotated[str, AfterValidator(check_batch_name), Field(min_length=1, max_length=MAX_NAME)]
"""See `check_batch_name`."""
