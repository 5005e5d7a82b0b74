"""What the OpenAPI document says about several routes: their errors, and bodies that are jobs."""

from __future__ import annotations

from typing import Any

from orqal.models import JobSpec
from orqal.serve_app.routes.streaming import NDJSON
from orqal.serve_app.schemas import Problem

Responses = dict[int | str, dict[str, Any]]


def problems(**reasons: str) -> Responses:
    """The documentation of errors, given as `_404="the reason"`."""
    return {
        int(status[1:]): {
            "model": Problem,
            "description": reason,
            "content": {"application/json": {"example": {"detail": reason}}},
        }
        for status, reason in reasons.items()
    }


ALWAYS = problems(
    _401="the token is missing or wrong",
    _403="a web page of another origin made the browser send this request",
    _429="too many requests are being answered; try again after `Retry-After` seconds",
    _500="an unexpected error inside Orqal; its log has more (the pages /logs/api and /logs/scheduler)",
    _503="the scheduler is restarting, or the store cannot be used now; try again after `Retry-After` seconds",
)
NO_JOB = problems(_404="there is no such job", _422="invalid job id or parameter")
NO_BATCH = problems(_404="there is no batch of this name", _422="invalid batch name or parameter")
BAD_VALUE = problems(_422="invalid parameter or body")
TOO_HIGH = problems(_422="invalid batch name or body, or a priority higher than jobs may have (ORQAL_MAX_PRIORITY)")
BAD_BODY = problems(
    _400="the body is not JSON",
    _413="a job's JSON is too large",
    _422="a document is not a job, or its idempotency key was used before with another document",
)

# Routes read these bodies as streams, so FastAPI does not know their form.
_JOB = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
del _JOB["$defs"]  # JsonValue, which the answers define too
JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _JOB,
                "example": {
                    "app": "Checksum",
                    "input": "/usr/bin/env",
                    "params": {},
                    "retries": 3,
                    "retry_on": [75, "out_of_memory"],
                    "retry_memory_factor": 2,
                },
            }
        },
    }
}
"""A body that is one job."""
JOBS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            NDJSON: {
                "schema": {"type": "array", "items": _JOB, "description": "JSON objects, one per line or back to back"},
                "example": '{"app": "Checksum", "input": "/usr/bin/env"}\n{"app": "Checksum", "input": "/bin/id"}\n',
            }
        },
    }
}
"""A body that is many jobs."""
