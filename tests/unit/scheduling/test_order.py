"""The order of the jobs: priority, shares, limits, held batches, gaps and preemption, in scenes."""

from __future__ import annotations

import random
from collections import Counter
from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orqal.models import BatchPolicy, Resources, Shape
from orqal.scheduling import LineKey, Policy, standing_of
from orqal.scheduling.planner import IN_GAP, KEPT, PATIENCE, RANK_PERIOD
from orqal.settings import Settings
from tests.support.scheduling_scene import WHOLE, Scene, host, numbered

DAY = 86_400.0


# Priority


def test_a_higher_priority_goes_first_whoever_has_less() -> None:
    scene = Scene(host(threads=2))
    scene.push(*numbered("a", 3), user="anna")
    scene.place()
    scene.push("low", user="ben", priority=-1)
    scene.push("high", user="anna", priority=1)
    scene.end("a0", "a1")
    assert scene.place() == ["high", "a2"]
    scene.end("a2")
    assert scene.place() == ["low"]


def test_a_higher_priority_that_finds_no_room_lets_others_run_for_a_while() -> None:
    scene = Scene(host(threads=4))
    scene.push("runs", shape=(1, 1))
    scene.place()
    scene.push("large", shape=(4, 1), priority=5)
    scene.push("small")
    assert scene.place() == ["small"]
    scene.end("small")
    scene.push("small2")
    scene.now = PATIENCE
    assert scene.place() == []


# Shares


def test_what_a_user_has_had_counts_and_fades() -> None:
    scene = Scene(host(threads=1))
    scene.push("a0", user="anna")
    assert scene.place() == ["a0"]
    scene.now = DAY
    scene.end("a0")
    scene.push("a1", user="anna")
    scene.push("b0", user="ben")
    assert scene.place() == ["b0"], "anna came first, and has had the host for a day"
    shares = {share.user: share for share in scene.planner.shares.all(scene.now)}
    assert shares["anna"].past == pytest.approx(0.5)
    shares = {share.user: share for share in scene.planner.shares.all(scene.now + 2 * DAY)}
    assert shares["anna"].past == pytest.approx(0.125)


def test_without_a_half_life_only_what_is_held_counts() -> None:
    scene = Scene(host(threads=1), policy=Policy(half_life=0))
    scene.push("a0", user="anna")
    scene.place()
    scene.now = DAY
    scene.end("a0")
    assert scene.planner.shares.rank("anna")[0] == 0


def test_a_weight_of_two_gives_twice_as_much() -> None:
    scene = Scene(host(threads=9, ram=90), policy=Policy(weights={"anna": 2}))
    scene.push(*numbered("a", 20), user="anna")
    scene.push(*numbered("b", 20), user="ben")
    assert Counter(job[0] for job in scene.place()) == {"a": 6, "b": 3}


def test_what_counts_is_the_resource_of_which_a_user_has_the_largest_part() -> None:
    """The example of the paper on dominant resource fairness: 9 cores and 18 GB; 1 core and 4 GB, 3 cores and 1 GB."""
    scene = Scene(host(threads=9, ram=18))
    scene.push(*numbered("a", 20), user="anna", shape=(1, 4))
    scene.push(*numbered("b", 20), user="ben", shape=(3, 1))
    assert Counter(job[0] for job in scene.place()) == {"a": 3, "b": 2}


def test_shares_survive_a_restart_and_fade_meanwhile() -> None:
    scene = Scene(host(threads=1))
    scene.push("a0", user="anna")
    scene.place()
    scene.now = DAY
    scene.end("a0")
    past = scene.planner.shares.past(scene.now)
    again = Scene(host(threads=1))
    again.planner.shares.restore(past, away=DAY, now=7.0)
    (share,) = again.planner.shares.all(7.0)
    assert share.past == pytest.approx(0.25)
    again.push("a1", user="anna")
    again.push("b0", user="ben")
    assert again.place() == ["b0"]


def test_time_alone_changes_the_order() -> None:
    scene = Scene(host("g", threads=4), host("h", threads=1, labels={"slow": "yes"}))
    scene.push("long", user="anna", shape=Shape(1, 1, frozenset({("slow", "yes")})))
    scene.push(*numbered("b", 4), user="ben")
    assert len(scene.place()) == 5
    scene.now = 60.0
    scene.end(*numbered("b", 4))
    scene.push("a1", user="anna")
    scene.push("b9", user="ben")
    scene.push("c", user="cleo", shape=(4, 1))
    assert scene.place()[0] == "c", "she has had nothing"
    scene.now = 20 * DAY + RANK_PERIOD
    scene.end("c")
    assert scene.place()[0] == "b9", "anna has held a core all the time"


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.lists(st.sampled_from([(1, 1), (2, 1), (1, 4), (4, 2)]), min_size=2, max_size=5))
def test_with_the_default_settings_users_who_always_want_more_get_equal_parts(
    seed: int, shapes: list[tuple[int, int]]
) -> None:
    """Whatever the sizes of their jobs, which are up to a quarter of a host: in a day each user has at least four
    fifths of the fair part. What is too small for one user's jobs goes to others."""
    defaults = Settings()
    policy = Policy(defaults.share_half_life, defaults.share_weights, defaults.limits, defaults.user_jobs)
    rng = random.Random(seed)
    scene = Scene(*(host(f"h{number}", threads=16, ram=32) for number in range(4)), policy=policy)
    had, ends, jobs = dict.fromkeys(range(len(shapes)), 0.0), list[tuple[float, str]](), 0
    while scene.now < DAY:
        for user, shape in enumerate(shapes):
            while scene.queue.waiting(LineKey(f"u{user}", Shape(*shape))) < 10:
                jobs += 1
                scene.push(f"{user}-{jobs}", user=f"u{user}", shape=shape)
        for job in scene.place():
            seconds = rng.expovariate(1 / 1_800)
            heappush(ends, (scene.now + seconds, job))
            had[int(job.split("-")[0])] += _part(scene.running[job].resources) * seconds / DAY
        look = scene.planner.next_look(scene.now)
        if look is not None and look < ends[0][0]:
            scene.now = look
        else:
            scene.now, job = heappop(ends)
            scene.end(job)
    assert min(had.values()) >= 0.8 * _fair(shapes)


def _part(resources: Resources) -> float:
    """The part of four hosts with 16 cores and 32 GB."""
    whole = Resources.of(64, 128)
    return max(resources.threads / whole.threads, resources.ram / whole.ram)


def _fair(shapes: list[tuple[int, int]]) -> float:
    """The part that each user could have if jobs could be cut into pieces: then one resource is used up."""
    parts = [_part(Resources.of(*shape)) for shape in shapes]
    cores = sum(shape[0] / 64 / part for shape, part in zip(shapes, parts, strict=True))
    memory = sum(shape[1] / 128 / part for shape, part in zip(shapes, parts, strict=True))
    return 1 / max(cores, memory)


# Limits


def test_no_more_run_than_a_limit_allows_and_others_go_on() -> None:
    scene = Scene(host(threads=8), policy=Policy(limits={"licence": 3}))
    scene.push(*numbered("a", 4), claims=(("licence", 2),))
    scene.push(*numbered("b", 4), claims=(("licence", 1),), user="ben")
    scene.push("free", user="cleo")
    assert scene.place() == ["a0", "b0", "free"]
    scene.end("b0")
    assert scene.place() == ["b1"], "two are not left for anna"
    scene.end("a0", "b1")
    assert len(scene.place()) == 2
    taken = sum(amount for placed in scene.running.values() for _, amount in placed.key.claims)
    assert taken <= 3


def test_what_is_not_limited_is_not_counted() -> None:
    scene = Scene(host(threads=4))
    scene.push(*numbered("a", 4), claims=(("app:Blast", 1),))
    assert len(scene.place()) == 4
    assert {placed.key.claims for placed in scene.running.values()} == {()}


def test_a_user_runs_no_more_jobs_than_allowed_and_holds_up_no_one() -> None:
    scene = Scene(host(threads=8), policy=Policy(per_user=2))
    scene.push(*numbered("a", 5), user="anna")
    scene.push(*numbered("b", 1), user="ben")
    assert sorted(scene.place()) == ["a0", "a1", "b0"]
    scene.end("a0")
    assert scene.place() == ["a2"]


def test_a_batch_runs_no_more_jobs_than_was_decided_even_of_those_that_ran_before() -> None:
    scene = Scene(host(threads=8))
    scene.push(*numbered("a", 3), batch="x")
    assert len(scene.place()) == 3
    scene.push(*numbered("b", 3), batch="x")
    scene.push("other")
    scene.planner.set_rule("x", BatchPolicy(max_running=2))
    assert scene.place() == ["other"]
    scene.end("a0")
    assert scene.place() == []
    scene.end("a1")
    assert scene.place() == ["b0"]
    scene.planner.set_rule("x", BatchPolicy(max_running=4))
    assert scene.place() == ["b1", "b2"]
    scene.planner.set_rule("x", BatchPolicy())
    scene.end(*list(scene.running))
    scene.push(*numbered("c", 8), batch="x")
    assert len(scene.place()) == 8


# Batches that are held, and priorities that change


def test_a_held_batch_starts_nothing_until_it_is_released() -> None:
    scene = Scene(host(threads=4))
    scene.push("a", "b", batch="x")
    scene.push("c", batch="y")
    scene.planner.set_rule("x", BatchPolicy(held=True))
    assert scene.place() == ["c"]
    scene.push("d", batch="x")
    assert scene.queue.remove("b")
    scene.now = 100 * PATIENCE
    assert scene.place() == [] and scene.planner.next_look(scene.now) is None
    scene.planner.set_rule("x", BatchPolicy())
    assert scene.place() == ["a", "d"]


def test_a_batch_of_which_nothing_is_decided_any_more_has_its_own_priorities_again() -> None:
    scene = Scene(host(threads=1), policy=Policy(preempts_from=5))
    scene.push("runs", batch="x", priority=1)
    scene.place()
    scene.push("a", batch="x", priority=2)
    scene.push("b", batch="x", priority=3)
    scene.planner.set_rule("x", BatchPolicy(priority=-1))
    assert {line.key.priority for line in scene.queue.lines()} == {-1}
    scene.planner.set_rule("x", BatchPolicy())
    assert {line.key.priority for line in scene.queue.lines()} == {2, 3}
    assert [running.key.priority for _, running in scene.planner.running()] == [1]


def test_a_batch_that_becomes_empty_while_it_is_held_leaves_nothing_behind() -> None:
    scene = Scene(host(threads=4))
    scene.planner.set_rule("x", BatchPolicy(held=True))
    scene.push("a", batch="x")
    assert scene.queue.remove("a")
    scene.planner.set_rule("x", BatchPolicy())
    assert scene.place() == [] and not scene.queue.levels and not list(scene.queue.lines())


def test_the_priority_of_waiting_jobs_can_change_and_they_keep_their_order() -> None:
    scene = Scene(host(threads=1))
    scene.push("runs")
    scene.place()
    scene.push("x0", batch="x")
    scene.push("y0", batch="y", priority=3)
    scene.push("x1", batch="x", priority=3)
    scene.push("x2", batch="x")
    scene.planner.set_rule("x", BatchPolicy(priority=3))
    scene.push("x3", batch="x")
    order = []
    scene.end("runs")
    while started := scene.place():
        order += started
        scene.end(*started)
    assert order == ["x0", "y0", "x1", "x2", "x3"]


# Gaps


def test_a_short_job_runs_where_a_host_is_kept_free_and_a_long_one_does_not() -> None:
    scene = Scene(host(threads=4))
    scene.push("runs", shape=(2, 1), seconds=100.0)
    scene.place()
    scene.push("large", shape=(4, 1))
    scene.push("first")
    assert scene.place() == ["first"]
    scene.now = PATIENCE
    scene.push("unknown", user="ben")
    scene.push("long", user="cleo", seconds=91.0)
    scene.push("short", user="dora", seconds=90.0)
    scene.end("first")
    (placement,) = scene.planner.decide(scene.now).starts
    assert (placement.job, placement.why) == ("short", IN_GAP)
    scene.now = 100.0
    scene.planner.end("short", scene.now)
    scene.end("runs")
    assert scene.place() == ["large"]


def test_a_higher_priority_may_use_a_host_that_is_kept_free() -> None:
    scene = Scene(host(threads=4))
    scene.push("runs", shape=(2, 1))
    scene.place()
    scene.push("large", shape=(4, 1))
    scene.push("overtaker")
    scene.place()
    scene.end("overtaker")
    scene.now = PATIENCE
    scene.push("same", user="ben")
    assert scene.place() == []
    scene.push("higher", user="ben", priority=1)
    assert scene.place() == ["higher"]


@given(st.integers(0, 10_000))
def test_a_large_job_waits_a_bounded_time_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(host("a", threads=4), host("b", threads=4))
    ends: dict[str, float] = {}
    jobs = 0
    for _ in range(40):
        jobs += 1
        scene.push(f"s{jobs}", shape=(rng.choice([1, 2]), 1), user=f"u{rng.randrange(3)}")
    scene.push("large", shape=WHOLE, user="large")
    while "large" not in scene.running:
        for job in scene.place():
            ends[job] = scene.now + rng.uniform(1, 30)
        assert scene.now < PATIENCE + 31, "it waits longer than its patience and the jobs of one host"
        scene.now += 1.0
        for job in [job for job in scene.running if ends.get(job, scene.now + 1) <= scene.now]:
            scene.end(job)
        for _ in range(rng.randrange(4)):
            jobs += 1
            scene.push(f"s{jobs}", shape=(rng.choice([1, 2]), 1), user=f"u{rng.randrange(3)}")


def test_the_host_is_kept_on_which_the_fewest_jobs_must_end() -> None:
    scene = Scene(host("a", threads=4), host("b", threads=4), host("c", threads=4))
    scene.push("whole", shape=(4, 1))
    scene.push(*numbered("small", 8))
    scene.place()
    (host_of_whole,) = {placed.host for job, placed in scene.running.items() if job == "whole"}
    scene.push("large", shape=(4, 1))
    scene.push("overtaker")
    scene.end("small0")
    assert scene.place() == ["overtaker"]
    scene.now = PATIENCE
    scene.place()
    standing = standing_of(scene.planner, "large", scene.now)
    assert standing is not None and standing.kept == host_of_whole


def test_few_hosts_are_kept_free_however_many_kinds_of_jobs_wait() -> None:
    scene = Scene(*(host(f"h{number}", threads=8, ram=100) for number in range(3 * KEPT)))
    scene.push(*numbered("small", 8 * 3 * KEPT))
    scene.place()
    for ram in range(1, 20):
        scene.push(f"large{ram}", shape=(8, ram), user="ben")
    scene.push("overtaker")
    scene.end("small0")
    assert scene.place() == ["overtaker"]
    scene.now = PATIENCE
    scene.place()
    assert scene.planner.room.kept.bit_count() == 3


def test_a_host_is_kept_first_for_the_user_who_is_served_next() -> None:
    scene = Scene(host("h0", threads=4, ram=100), host("h1", threads=4, ram=100))
    scene.push(*numbered("a", 7), user="anna")
    scene.push("b", user="ben")
    scene.place()
    scene.push("large of anna", user="anna", shape=(4, 1))
    scene.push("overtaker", user="anna")
    scene.end("a0")
    assert scene.place() == ["overtaker"]
    scene.now = 1.0
    scene.push("large of ben", user="ben", shape=(4, 2))
    scene.push("another", user="anna")
    scene.end("overtaker")
    assert scene.place() == ["another"]
    scene.now = 1.0 + PATIENCE
    scene.place()
    kept = {job: standing_of(scene.planner, job, scene.now) for job in ("large of anna", "large of ben")}
    assert [job for job, standing in kept.items() if standing is not None and standing.kept] == ["large of ben"]


# Preemption


def test_only_a_priority_that_may_preempt_stops_others_and_as_few_as_possible() -> None:
    scene = Scene(host("a", threads=4), host("b", threads=4), policy=Policy(preempts_from=10))
    scene.push("a0", shape=(4, 1))
    scene.place()
    scene.now = 5.0
    scene.push("b0", "b1", shape=(2, 1))
    scene.place()
    scene.push("asks", shape=(2, 1), priority=9)
    scene.place()
    assert scene.stops == []
    scene.now = 6.0
    scene.push("takes", shape=(2, 1), priority=10)
    assert scene.place() == []
    (stopped,) = scene.stops
    assert stopped in ("b0", "b1"), "it has run for the shortest time"
    scene.place()
    assert scene.stops == [], "it is asked once"
    key = scene.running[stopped].key
    scene.end(stopped)
    scene.planner.push(stopped, key, first=True)
    assert scene.place() == ["takes"]


def test_jobs_of_the_same_or_a_higher_priority_are_not_stopped() -> None:
    scene = Scene(host(threads=2), policy=Policy(preempts_from=0))
    scene.push("a", "b", priority=5)
    scene.place()
    scene.push("c", priority=5)
    scene.push("d", priority=4)
    assert scene.place() == [] and scene.stops == []


def test_no_job_is_stopped_where_that_makes_too_little_room() -> None:
    scene = Scene(host(threads=4), policy=Policy(preempts_from=1))
    scene.push("high", shape=(3, 1), priority=2)
    scene.push("low", shape=(1, 1))
    scene.place()
    scene.push("wants", shape=(2, 1), priority=1)
    assert scene.place() == [] and scene.stops == []


# Where a job stands


def test_where_a_job_stands() -> None:
    scene = Scene(host(threads=2), policy=Policy(limits={"licence": 0}, per_user=3))
    scene.push("a0", "a1", user="anna", seconds=50.0)
    scene.place()
    scene.push("urgent", user="zoe", priority=1)
    scene.push("b0", user="ben")
    scene.push("a2", "a3", "a4", user="anna")
    scene.push("a5", user="anna", shape=(2, 1), claims=(("licence", 1),), batch="x")
    scene.planner.set_rule("x", BatchPolicy(held=True))
    scene.now = 10.0
    standing = standing_of(scene.planner, "a4", scene.now)
    assert standing is not None
    assert (standing.priority, standing.higher, standing.older) == (0, 1, 2)
    assert ([share.user for share in standing.users_before], standing.all_before) == (["ben"], 1)
    assert (standing.share.user, standing.share.running) == ("anna", 2)
    assert standing.share.part == 1.0
    assert (standing.lacking, standing.user_limit, standing.held, standing.kept) == ([], None, False, None)
    assert standing.starts_within == 40.0
    held = standing_of(scene.planner, "a5", scene.now)
    assert held is not None and held.held and held.lacking == ["licence"]
    assert standing_of(scene.planner, "a0", scene.now) is None


def test_a_host_with_what_nobody_needs_is_no_obstacle() -> None:
    """Kinds of jobs come and go: their numbers are used again, and what was known of the old ones does not count."""
    scene = Scene(host(threads=4, ram=1000), policy=Policy(limits={"licence": 0}))
    for number in range(2_500):
        scene.push(f"x{number}", shape=(1, 1 + number / 10), claims=(("licence", 1),) if number % 2 else ())
        started = scene.place()
        assert started == ([] if number % 2 else [f"x{number}"])
        if started:
            scene.end(*started)
        else:
            assert scene.queue.remove(f"x{number}")
    assert len(list(scene.planner.room.kinds())) <= 1_001
    assert scene.hosts["h"].room == Resources.of(4, 1000)
    key = LineKey("u", WHOLE)
    scene.planner.push("whole", key)
    assert scene.place() == ["whole"]


def test_the_room_of_a_host_that_is_kept_for_others_is_promised_to_nobody_else() -> None:
    scene = Scene(host(threads=3))
    scene.push("runs", shape=(2, 1), seconds=100.0)
    scene.place()
    scene.push("large", shape=(3, 1), user="anna")
    scene.push("small", user="ben")
    assert scene.place() == ["small"]
    scene.push("late", user="ben", shape=(2, 1))
    before = standing_of(scene.planner, "late", scene.now)
    assert before is not None and before.starts_within == 100.0
    scene.end("small")
    scene.now = PATIENCE
    assert scene.place() == []
    large, late = (standing_of(scene.planner, job, scene.now) for job in ("large", "late"))
    assert large is not None and late is not None
    assert (large.kept, large.starts_within) == ("h", 90.0)
    assert (late.kept, late.starts_within) == (None, None)


def test_jobs_that_are_held_are_in_front_of_nobody() -> None:
    scene = Scene(host(threads=1))
    scene.push("runs")
    scene.place()
    scene.push(*numbered("a", 3), priority=5, batch="b")
    scene.push(*numbered("c", 2), priority=5)
    scene.push("low", user="ben")
    for held, higher in (True, 2), (False, 5):
        scene.planner.set_rule("b", BatchPolicy(held=held))
        standing = standing_of(scene.planner, "low", scene.now)
        assert standing is not None and standing.higher == higher


def test_no_job_is_stopped_that_need_not_be() -> None:
    scene = Scene(host(threads=4), policy=Policy(preempts_from=1))
    scene.push("large", shape=(3, 1))
    scene.place()
    scene.now = 5.0
    scene.push("small", shape=(1, 1))
    scene.place()
    scene.push("urgent", shape=(3, 1), priority=1)
    scene.place()
    assert scene.stops == ["large"], "without the small one, which began last, there would be too little room"
