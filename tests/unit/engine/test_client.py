"""The parts of `orqal.engine.client` and its errors that need no daemon."""

from __future__ import annotations

import docker.errors
import pytest
import requests

from orqal.engine.client import _log_cap, _log_options
from orqal.engine.errors import EngineError, not_executed, not_pulled, translated
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


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "words"),
    [
        (127, "", "[FATAL tini (7)] exec /no/such failed: No such file or directory\n", "does not exist in the image"),
        (126, "", "[FATAL tini (7)] exec /etc failed: Permission denied\n", "cannot be executed in the image"),
        # What a program says and does by itself.
        (1, "", "[FATAL tini (7)] exec /no/such failed: No such file or directory\n", None),
        (127, "on\n", "[FATAL tini (7)] exec /no/such failed: No such file or directory\n", None),
        (127, "", "x\n[FATAL tini (7)] exec /no/such failed: No such file or directory\n", None),
        (127, "", "sh: 1: nosuch: not found\n", None),
        (127, "", "", None),
    ],
)
def test_a_command_that_the_init_could_not_start(code: int, stdout: str, stderr: str, words: str | None) -> None:
    why = not_executed(code, stdout, stderr)
    assert (why is None) if words is None else (why is not None and words in why)


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("unable to find user nobodyhere: no matching entries in passwd file", False),
        ("unable to find group nogrp: no matching entries in group file", False),
        ('could not select device driver "" with capabilities: [[gpu]]', False),
        ("OCI runtime create failed: runc create failed: wrong rlimit value: RLIMIT_NOPE: unknown", False),
        ("error setting rlimits for ready process: error setting rlimit type 7: operation not permitted", False),
        ("Cannot mkdir: /bin/sh is not a directory", False),
        ('error mounting "tmpfs" to rootfs at "/x": mount tmpfs:/x, data: size=nonsense: invalid argument', False),
        ("invalid volume specification: '/tmp:x:rw': invalid mount path: 'x' mount path must be absolute", False),
        ("invalid mode: nope", False),
        ("no space left on device", True),
        ("failed to create endpoint x on network bridge: adding interface to bridge failed", True),
        ("failed to create shim task: context deadline exceeded", True),
    ],
)
def test_what_a_daemon_would_refuse_again_does_not_pass(words: str, passes: bool) -> None:
    response = requests.Response()
    response.status_code = 500
    with pytest.raises(EngineError) as caught, translated("start the container"):
        raise docker.errors.APIError("500", response, explanation=words)
    assert caught.value.passing is passes
