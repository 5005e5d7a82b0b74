"""The sentences that explain a job's state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orqal.actors.messages import Awaited, Cap, WhyWaiting
from orqal.models import ErrorType, Fault, Resources, RetryPolicy, Status
from orqal.scheduling import Standing
from orqal.scheduling.shares import Share
from orqal.serve_app.explain import explained
from tests.support.stores import NOON, done, job


def test_a_waiting_job_names_the_reason_of_each_host() -> None:
    explanation = explained(job(), WhyWaiting(hosts={"a": "no room now", "b": "too small"}), moment=NOON)
    assert explanation.summary == "It waits: a: no room now; b: too small."
    assert [(host.name, host.reason) for host in explanation.hosts] == [("a", "no room now"), ("b", "too small")]
    assert explained(job(), moment=NOON).summary == "It waits because there is no host."
    versioned = explained(job(), WhyWaiting(version="0123456789abcdef", hosts={"a": "no room now"}), moment=NOON)
    assert versioned.summary.endswith(" It will run with version 0123456789ab of its wrapper, or a newer one.")


def share(user: str, part: float = 0.0, past: float = 0.0, weight: float = 1.0) -> Share:
    return Share(user, 0, Resources(0, 0), part, past, weight)


def standing(**values: Any) -> Standing:
    """Where a job of ben stands: nothing holds it, and nobody is in front of it."""
    nothing = Standing(
        priority=0,
        higher=0,
        users_before=[],
        all_before=0,
        share=share("ben", 0.5, 0.25),
        older=0,
        lacking=[],
        user_limit=None,
        held=False,
        kept=None,
        starts_within=None,
    )
    return nothing._replace(**values)


def why_of(stands: Standing, *caps: Cap, hosts: dict[str, str] | None = None) -> WhyWaiting:
    return WhyWaiting(hosts={"h": "no room now"} if hosts is None else hosts, standing=stands, caps=caps)


def summary(stands: Standing, *caps: Cap, hosts: dict[str, str] | None = None) -> str:
    return explained(job(batch="my sums"), why_of(stands, *caps, hosts=hosts), moment=NOON).summary


def test_a_job_that_only_lacks_room_says_just_that() -> None:
    assert summary(standing()) == "It waits: h: no room now."
    assert summary(standing(), hosts={}) == "It waits because there is no host."


def test_a_job_of_a_held_batch_says_first_how_to_release_it() -> None:
    held = standing(held=True, older=3, higher=1, starts_within=5.0)
    assert summary(held, hosts={"h": "it has room"}) == (
        "It waits because its batch my sums is held, until `orqal release 'my sums'`. Hosts: h: it has room."
    )
    capped = summary(held, Cap("licence", 10, 10, 1))
    assert capped.startswith("It waits because its batch my sums is held")
    assert "`. 10 of 10 licence are taken. Hosts:" in capped


@pytest.mark.parametrize(
    ("cap", "says"),
    [
        (Cap("licence", 10, 10, 1), "10 of 10 licence are taken"),
        (Cap("licence", 8, 10, 3), "8 of 10 licence are taken, and it takes 3"),
        (Cap("batch:sums", 5, 5, 1), "its batch sums runs 5 jobs, and may run 5 at once"),
        (Cap("user:ben", 50, 50, 1), "its user ben runs 50 jobs, and may run 50 at once"),
        (Cap("app:Blast", 40, 40, 1), "its app Blast runs 40 jobs, and may run 40 at once"),
        (Cap("team:a", 1, 1, 1), "1 of 1 team:a are taken"),
    ],
)
def test_a_limit_says_what_is_taken_of_it(cap: Cap, says: str) -> None:
    # Nothing is said of when it may start, because that depends on the limit.
    capped = standing(lacking=[cap.name], starts_within=5.0)
    assert summary(capped, cap) == f"It waits because {says}. Hosts: h: no room now."


def test_who_is_in_front_is_named_with_the_shares() -> None:
    assert summary(standing(higher=1)) == (
        "It waits for a host. 1 waiting job has a higher priority than its 0. Hosts: h: no room now."
    )
    users = [share("anna", 0.1, 0.004), share("cleo", 0.2, 1 / 3, weight=2)]
    behind = standing(priority=-5, higher=1_200, users_before=users, all_before=7, older=4)
    assert summary(behind) == (
        "It waits for a host. 1,200 waiting jobs have a higher priority than its -5. "
        "anna (10 % of the cluster now, 0.4 % lately), cleo (20 % of the cluster now, 33.3 % lately, weight 2) and "
        "5 other users are served before its user ben (50 % of the cluster now, 25 % lately). "
        "4 older jobs of its user wait. Hosts: h: no room now."
    )
    one = standing(users_before=users[:1], all_before=1, older=1)
    assert "lately) is served before its user ben" in summary(one) and "1 older job of its user waits." in summary(one)


def test_a_job_says_when_it_may_start_as_far_as_that_is_known() -> None:
    assert summary(standing(kept="h", starts_within=39.2)) == (
        "It waits: h: no room now. h is kept free for it. "
        "If no other job gets the room, it can start in 40 s at the latest."
    )


def test_what_is_in_front_of_a_job_is_there_for_programs_too() -> None:
    stands = standing(
        held=True,
        priority=3,
        higher=2,
        users_before=[share("anna", 0.1, 0.3, weight=2)],
        all_before=1,
        older=4,
        kept="h",
        starts_within=7.5,
    )
    found = explained(job(), why_of(stands, Cap("licence", 8, 10, 3)), moment=NOON).standing
    assert found is not None
    assert found.model_dump() == {
        "held": True,
        "caps": [{"name": "licence", "taken": 8, "limit": 10, "wanted": 3}],
        "priority": 3,
        "higher": 2,
        "users_before": [{"user": "anna", "part": 0.1, "past": 0.3, "weight": 2.0, "usage": pytest.approx(0.2)}],
        "all_users_before": 1,
        "own": {"user": "ben", "part": 0.5, "past": 0.25, "weight": 1.0, "usage": 0.75},
        "older": 4,
        "kept_host": "h",
        "starts_within": 7.5,
    }
    assert explained(job(), moment=NOON).standing is None


def test_a_job_says_why_it_was_given_to_its_host() -> None:
    there = {"host": "h", "why_there": "it had the image"}
    running = explained(job(current_status=Status.RUNNING, **there), moment=NOON)
    assert (running.summary, running.why_there) == ("It runs on h. Why h: it had the image.", "it had the image")
    ended = explained(done(job(**there)), moment=NOON)
    assert ended.summary == "It ran on h and exited with 0. Why h: it had the image."


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


def test_a_job_that_waits_after_others_says_after_which() -> None:
    def told(*after: Awaited, others: int = 0) -> str:
        return explained(job(), WhyWaiting(after=after, after_others=others), moment=NOON).summary

    end = ", and is not in the queue yet."
    assert told(Awaited("1", False, 1, 1)) == f"It waits after the job 1{end}"
    assert told(Awaited("1", False, 1, 1), Awaited("2", False, 1, 1)) == f"It waits after the jobs 1 and 2{end}"
    assert told(Awaited("1", False, 1, 1), others=7) == f"It waits after the jobs 1 and 7 others{end}"
    batch = Awaited("prepare", True, 3, 1_000)
    assert told(batch) == f"It waits after 3 of 1,000 jobs of the batch prepare{end}"
    held = batch._replace(held=True)
    assert told(Awaited("1", False, 1, 1), held) == (
        f"It waits after the job 1, and 3 of 1,000 jobs of the batch prepare{end} "
        "The batch prepare is held, until `orqal release prepare`."
    )
    assert told(batch._replace(open=None)) == f"It waits after the batch prepare{end}"
    shown = explained(job(), WhyWaiting(after=[batch], after_others=2), moment=NOON)
    assert [(each.job, each.batch, each.open, each.jobs) for each in shown.after] == [(None, "prepare", 3, 1_000)]
    assert shown.after_others == 2
