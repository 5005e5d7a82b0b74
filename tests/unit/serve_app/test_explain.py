"""The sentences that explain a job's state."""

from __future__ import annotations

from datetime import timedelta

from orqal.actors.messages import WhyWaiting
from orqal.models import ErrorType, Fault, RetryPolicy, Status
from orqal.serve_app.explain import explained
from tests.support.stores import NOON, done, job


def test_a_waiting_job_names_the_reason_of_each_host() -> None:
    explanation = explained(job(), WhyWaiting(hosts={"a": "no room now", "b": "too small"}), moment=NOON)
    assert explanation.summary == "It waits: a: no room now; b: too small."
    assert [(host.name, host.reason) for host in explanation.hosts] == [("a", "no room now"), ("b", "too small")]
    assert explained(job(), moment=NOON).summary == "It waits because there is no host."
    versioned = explained(job(), WhyWaiting(version="0123456789abcdef", hosts={"a": "no room now"}), moment=NOON)
    assert versioned.summary.endswith(" It will run with version 0123456789ab of its wrapper, or a newer one.")


def test_a_job_whose_app_cannot_be_used_says_why() -> None:
    why = WhyWaiting(app="the app 'A' is not there now: its file /s/a.py is missing")
    assert explained(job(), why, moment=NOON).summary == (
        "It waits because the app 'A' is not there now: its file /s/a.py is missing. "
        "It goes on by itself when its app can be used."
    )


def test_each_state_has_a_sentence() -> None:
    on = {"host": "h"}
    assert explained(job(current_status=Status.INIT, **on), moment=NOON).summary.startswith("h is preparing")
    pulling = explained(job(current_status=Status.INIT, **on), doing="pulling tool:1: 120 of 800 MB", moment=NOON)
    assert pulling.summary == "h is pulling tool:1: 120 of 800 MB."
    assert explained(job(current_status=Status.RUNNING, **on), moment=NOON).summary == "It runs on h."
    assert explained(done(job(**on)), moment=NOON).summary == "It ran on h and exited with 0."
    assert "exited with 3" in explained(done(job(**on), 3), moment=NOON).summary
    cut = done(job(**on)).model_copy(update={"output_cut": "it was too long"})
    assert explained(cut, moment=NOON).summary.endswith(" A part of its output is missing: it was too long.")
    killed = done(job(**on)).model_copy(update={"oom_killed": True})
    assert (
        "exited with 0. A process of it was killed because the job's memory" in explained(killed, moment=NOON).summary
    )
    failed = job(**on).failed(ErrorType.TIMEOUT, "it took too long.")
    assert explained(failed, moment=NOON).summary == "It ended as timeout: it took too long."


def test_attempts_and_retries_are_named() -> None:
    again = job(host="h").to_do_again(job(host="h").failed(ErrorType.HOST_LOST, "gone").over(Fault.INFRASTRUCTURE))
    record = done(again).model_copy(update={"retry_of": "x", "retried_as": "y"})
    summary = explained(record, moment=NOON).summary
    assert "Attempt 1 on h ended as host_lost: gone." in summary
    assert "the retry of x" in summary and "Its retry is y" in summary


def test_attempts_that_ended_alike_are_told_once() -> None:
    record = job()
    for message in ("gone", "gone", "broken"):
        placed = record.model_copy(update={"host": "h"})
        record = placed.to_do_again(placed.failed(ErrorType.HOST_LOST, message).over(Fault.INFRASTRUCTURE))
    summary = explained(record, moment=NOON).summary
    assert "Attempts 1 to 2 on h ended as host_lost: gone. Attempt 3 on h ended as host_lost: broken." in summary


def test_a_failure_of_the_infrastructure_promises_no_last_attempt() -> None:
    first = job(host="h").failed(ErrorType.HOST_LOST, "gone").over(Fault.INFRASTRUCTURE)
    again = {"attempt": 2, "attempts": [first], "not_before": NOON + timedelta(seconds=9)}
    summary = explained(job(**again, retry_policy=RetryPolicy(retries=3)), moment=NOON).summary
    assert summary.startswith("It waits 9 s before attempt 2 because attempt 1 ended as host_lost.")


def test_a_cancelled_job_says_so_once() -> None:
    cancelled = job().failed(ErrorType.CANCELLED, "cancelled")
    assert explained(cancelled, moment=NOON).summary == "It ended as cancelled."


def test_the_cache_is_explained() -> None:
    cache = explained(job(cache_miss="use_cache was off"), moment=NOON).cache
    assert cache == "No earlier job was reused: use_cache was off."
    hit = job(cache_miss="none was there", cache_hits=1, cache_last_hit=NOON + timedelta(minutes=1))
    cache = explained(hit, moment=NOON).cache
    assert "It was reused once for a later job" in cache and "the last time at 2026-01-01 12:01:00 UTC" in cache
    assert "3 times" in explained(job(cache_hits=3), moment=NOON).cache


def test_a_job_that_pauses_before_a_retry_says_when_and_why() -> None:
    policy = RetryPolicy(retries=3)
    first = job(host="h", exit_code=1, retry_policy=policy).over(Fault.JOB)
    record = job(attempt=2, attempts=[first], retry_policy=policy, not_before=NOON + timedelta(seconds=39.5))
    summary = explained(record, moment=NOON).summary
    assert summary.startswith("It waits 40 s before attempt 2 of 4 because attempt 1 exited with 1.")
    assert "Attempt 1 on h exited with 1." in summary
    later = explained(record, WhyWaiting(hosts={"h": "no room now"}), moment=NOON + timedelta(seconds=40)).summary
    assert later.startswith("It waits: h: no room now.")
