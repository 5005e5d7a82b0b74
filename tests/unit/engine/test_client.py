"""The parts of `orqal.engine.client` and its errors that need no daemon."""

from __future__ import annotations

import pytest

from orqal.engine.client import _log_cap, _log_options
from orqal.engine.errors import not_pulled
from orqal.models import ErrorType


@pytest.mark.parametrize(
    ("status", "words", "kind", "passing"),
    [
        (404, "manifest for a:1 not found: manifest unknown", ErrorType.IMAGE_NOT_FOUND, False),
        (500, "manifest unknown", ErrorType.IMAGE_NOT_FOUND, False),
        (404, "pull access denied for a, repository does not exist or …", ErrorType.IMAGE_NOT_FOUND, False),
        (400, "invalid reference format", ErrorType.IMAGE_NOT_FOUND, False),
        (500, "unauthorized: authentication required", ErrorType.PULL_FAILED, False),
        (500, 'Head "http://r/v2/": no basic auth credentials', ErrorType.PULL_FAILED, False),
        (500, "denied: requested access to the resource is denied", ErrorType.PULL_FAILED, False),
        (500, "x509: certificate signed by unknown authority", ErrorType.PULL_FAILED, False),
        (500, "http: server gave HTTP response to HTTPS client", ErrorType.PULL_FAILED, False),
        (500, "dial tcp 127.0.0.1:1: connect: connection refused", ErrorType.PULL_FAILED, True),
        (500, "dial tcp: lookup registry.lab: no such host", ErrorType.PULL_FAILED, True),
        (500, "received unexpected HTTP status: 503 Service Unavailable", ErrorType.PULL_FAILED, True),
        (500, "toomanyrequests: you have reached your pull rate limit", ErrorType.PULL_FAILED, True),
        (500, "unexpected EOF", ErrorType.PULL_FAILED, True),
    ],
)
def test_a_failed_pull_says_whether_a_retry_may_help(status: int, words: str, kind: ErrorType, passing: bool) -> None:
    error = not_pulled("a:1", words, status)
    assert (error.type, error.passing) == (kind, passing)
    assert words in error.message and "'a:1'" in error.message


def test_a_log_keeps_more_than_its_cap_and_its_container_says_which_cap() -> None:
    for cap in (1, 8, 1_000, 1 << 30):
        options = _log_options(cap)
        kept = (int(options["max-file"]) - 1) * int(options["max-size"])
        assert cap < kept and cap <= _log_cap(options) < cap + 8
    assert _log_options(0)["max-size"] == "1t" and _log_cap(_log_options(0)) == 0
    assert _log_cap({"max-size": "1t", "max-file": "1"}) == 0  # a container of an earlier version
    assert _log_cap({}) == 0
