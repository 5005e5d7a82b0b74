"""The API does what its OpenAPI document says, whatever it is sent: schemathesis makes the requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.orqal_process import Orqal, an_orqal

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = ("/api/events",)
"""Answers that never end."""
EXAMPLES = 20
"""Requests to each route."""


@schemathesis.serializer("application/x-ndjson")
def ndjson(context: Any, value: Any) -> bytes:
    """A list as it is sent: an object a line. What is no list is sent as it is."""
    return b"\n".join(json.dumps(each).encode() for each in (value if isinstance(value, list) else [value]))


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Orqal]:
    """An Orqal of its own: requests may cancel and delete whatever there is. Nobody may run an image there."""
    with an_orqal({"ORQAL_RUN": "off"}, "--no-token") as orqal:
        yield orqal


@pytest.mark.timeout(600)
def test_no_request_is_answered_otherwise_than_documented(fuzzed: Orqal) -> None:
    api = schemathesis.openapi.from_url(f"{fuzzed.root}/openapi.json").exclude(path=list(ENDLESS))
    problems: dict[str, str] = {}
    tried = 0
    for found in api.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case[Any]) -> None:
            try:
                case.call_and_validate(checks=CHECKS, timeout=30)
            except requests.exceptions.ChunkedEncodingError:
                # The binary answer has no other way to say that a later document is no job.
                assert case.operation.path.startswith("/api/batch")

        try:
            check()
        except (Exception, FailureGroup) as error:
            problems[operation.label] = str(error) or repr(getattr(error, "exceptions", error))
        tried += 1
    assert tried > 25
    assert not problems, "\n\n".join(f"{label}:\n{problem}" for label, problem in problems.items())


def test_run_that_is_switched_off(fuzzed: Orqal) -> None:
    params = {"image": "orqal/demo", "cmd": ["true"]}
    job = fuzzed.run("Run", params=params)
    assert (job["error"]["type"], job["container_id"]) == ("no_such_app", None)
    assert "ORQAL_RUN=off" in job["error"]["message"]
    assert "Run" not in [app["name"] for app in fuzzed.http().get("/apps").json()]
    done = fuzzed.cli("run", "orqal/demo", "--", "true", check=False)
    assert done.returncode == 125 and "switched it off" in " ".join(done.stderr.split()), done
