"""Which earlier job is reused for a new one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.models import JobRecord, JobSpec, Status
from orqal.scheduling import cache
from tests.support.stores import job

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def turned(value: Any) -> Any:
    """Return the same value, with the keys of all objects in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(each) for key, each in reversed(value.items())}
    return [turned(each) for each in value] if isinstance(value, list) else value


@given(input=JSON, params=st.dictionaries(st.text(max_size=9), JSON, max_size=4))
def test_the_order_of_keys_does_not_matter(input: Any, params: dict[str, Any]) -> None:
    one = JobSpec(app="A", input=input, params=params)
    assert cache.identity(one) == cache.identity(
        JobSpec(app="A", input=turned(input), params=turned(params), user="other")
    )


@given(first=JSON, second=JSON)
def test_what_differs_has_another_key(first: Any, second: Any) -> None:

    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (cache.identity(JobSpec(app="A", input=first)) == cache.identity(JobSpec(app="A", input=second))) is same
    assert cache.identity(JobSpec(app="A", input=first)) != cache.identity(JobSpec(app="B", input=first))
    assert cache.identity(JobSpec(app="A", params={"p": first})) != cache.identity(JobSpec(app="A", input={"p": first}))


def ran(**values: Any) -> JobRecord:
    return job(
        current_status=Status.EXITED, exit_code=0, wrapper_digest="w", image="i", image_digest="sha256:1", **values
    )


@pytest.mark.parametrize(
    ("candidate", "wrapper", "images", "why"),
    [
        (ran(), "w", {"sha256:1"}, None),
        (ran(), "w", {"sha256:2", "sha256:1"}, None),
        (ran(), "w", set(), None),
        (ran(), "v", {"sha256:1"}, "the wrapper of A has changed"),
        (ran(), "w", {"sha256:2"}, "the image i has changed"),
        (ran(output_cut="it was too long"), "w", {"sha256:1"}, "a part of the output of"),
        (job(), "v", {"sha256:2"}, None),  # it waits, and will run with what there is then
        (job(current_status=Status.RUNNING, wrapper_digest="v"), "w", set(), "the wrapper of A has changed"),
        (job(current_status=Status.EXITED, exit_code=0), "w", set(), "the wrapper of A has changed"),  # not known
    ],
)
def test_a_changed_wrapper_or_image_is_a_miss(
    candidate: JobRecord, wrapper: str, images: set[str], why: str | None
) -> None:
    reason = cache.reason_against(
        candidate, cache.Wanted.by(candidate, None), wrapper_digest=wrapper, image_digests=images, by_user=False
    )
    assert reason is None if why is None else reason is not None and why in reason and candidate.id in reason


LIMITS: list[dict[str, Any]] = [
    {"threads": 2},
    {"memory_in_gb": 2},
    {"timeout": 2},
    {"retries": 2},
    {"retry_on": [2]},
    {"retry_delay": 2},
    {"retry_memory_factor": 2},
]


@pytest.mark.parametrize("others", [*LIMITS, {"user": "eve"}])
def test_a_job_that_has_not_ended_is_shared_only_with_its_user_and_its_limits(others: dict[str, Any]) -> None:
    asked, other = cache.Wanted.by(job(user="ada"), None), cache.Wanted.by(job(**{"user": "ada"} | others), None)
    for unfinished in (job(user="ada"), job(user="ada", current_status=Status.RUNNING)):
        assert cache.key_of(unfinished) == asked.unfinished_key != other.unfinished_key
        for wanted, shared in ((asked, True), (other, False)):
            why = cache.reason_against(unfinished, wanted, wrapper_digest="", image_digests=(), by_user=False)
            assert ("of another user or has other limits" in (why or "")) is not shared
    assert cache.key_of(ran(user="ada")) == asked.key == other.key != asked.unfinished_key


def test_a_result_that_depends_on_the_user_is_the_users_own() -> None:
    for user, shared in (("ada", True), ("eve", False)):
        asked = cache.Wanted.by(job(user=user), None)
        reason = cache.reason_against(ran(user="ada"), asked, wrapper_digest="w", image_digests=(), by_user=True)
        assert (reason is None) is shared


def test_other_options_are_another_key() -> None:
    for make in (job, ran):
        options: list[dict[str, Any]] = [{}, {"shm_size": "1g"}, {"shm_size": "2g"}, {"init": False}]
        assert len({cache.key_of(make(options=each)) for each in options}) == 4
    assert cache.identity(job(options={})) == cache.identity(job())
    for user, shared in (("ada", True), ("eve", False)):
        asked = cache.Wanted.by(job(user=user, options={"user": "@submitter"}), None)
        candidate = ran(user="ada", options={"user": "@submitter"})
        why = cache.reason_against(candidate, asked, wrapper_digest="w", image_digests=(), by_user=False)
        assert (why is None) is shared


def test_other_input_files_are_another_key() -> None:
    for make in (job, ran):
        assert len({cache.key_of(make(input_digest=digest)) for digest in (None, "a", "b")}) == 3
    assert cache.identity(job()) == cache.identity(job(input_digest="a")) == cache.key_of(ran())
