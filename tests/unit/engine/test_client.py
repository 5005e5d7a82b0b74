"""The parts of `orqal.engine.client` and its errors that need no daemon."""

from __future__ import annotations

import docker.errors
import pytest
import requests

from orqal.engine.client import _log_cap, _log_options
from orqal.engine.errors import EngineError, not_executed, not_pulled, translated
from orqal.models import ErrorType
from tests.support.docker_answers import PULLS, STARTS


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


def test_the_tables_are_there() -> None:
    assert len(STARTS) > 20 and len(PULLS) > 10
    assert {row[-1] for row in (*STARTS, *PULLS)} == {"yes", "no"}


@pytest.mark.parametrize(("words", "code", "again"), STARTS)
def test_what_a_daemon_would_refuse_again_does_not_pass_as_documented(words: str, code: str, again: str) -> None:
    response = requests.Response()
    response.status_code = int(code)
    with pytest.raises(EngineError) as caught, translated("start the container"):
        raise docker.errors.APIError(code, response, explanation=words)
    assert caught.value.passing is (again == "yes")
    assert words in caught.value.message and caught.value.type is ErrorType.DOCKER_ERROR


@pytest.mark.parametrize(("words", "code", "type", "again"), PULLS)
def test_a_refused_pull_is_what_is_documented(words: str, code: str, type: str, again: str) -> None:
    error = not_pulled("a:1", words, int(code))
    assert (error.type.value, error.passing) == (type, again == "yes")
    assert words in error.message and "'a:1'" in error.message
