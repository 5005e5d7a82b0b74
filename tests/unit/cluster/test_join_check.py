"""The sentences that say why a head refuses a machine."""

from __future__ import annotations

import platform

import pytest
import ray
from ray.exceptions import AuthenticationError, RpcError

from orqal import __version__
from orqal.cluster import join_check

HEAD = "10.0.0.1:6379"
OURS = {"ray": ray.__version__, "python": platform.python_version(), "orqal": __version__}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str | None] | Exception]:
    """What the head answers, one entry for each question."""
    answers: list[dict[str, str | None] | Exception] = []

    def versions_of(head: str, within: float) -> dict[str, str | None]:
        assert head == HEAD
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(join_check, "versions_of", versions_of)
    return answers


def test_the_same_versions_may_join(answers: list[dict[str, str | None] | Exception]) -> None:
    answers += [dict(OURS), {"ray": None, "python": None, "orqal": None}]
    assert join_check.refusal(HEAD) is None
    assert join_check.refusal(HEAD) is None, "a head that does not know its versions"


def test_all_differing_versions_are_listed(answers: list[dict[str, str | None] | Exception]) -> None:
    answers.append({**OURS, "ray": "1.2", "orqal": "0.0.1"})
    refusal = join_check.refusal(HEAD)
    assert refusal is not None
    assert f"Ray 1.2 ({ray.__version__}), Orqal 0.0.1 ({__version__})" in refusal and "Python" not in refusal


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AuthenticationError("no"), "does not accept this join token"),
        (RpcError("one\nlast line"), "does not answer as an Orqal head's Ray does (last line)"),
        (RuntimeError("first\nlast line"), "does not answer as an Orqal head's Ray does (last line)"),
    ],
)
def test_errors_are_explained(answers: list[dict[str, str | None] | Exception], error: Exception, words: str) -> None:
    answers.append(error)
    refusal = join_check.refusal(HEAD)
    assert refusal is not None and words in refusal and HEAD in refusal
    assert isinstance(error, AuthenticationError) or "not that of the API" in refusal
