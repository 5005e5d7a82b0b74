"""Which job is next and where it runs: scenes."""

from __future__ import annotations

import pytest

from orqal.models import Resources, Shape
from orqal.scheduling import Host, LineKey, impossible, why_not
from orqal.scheduling.planner import PATIENCE
from orqal.scheduling.shares import Shares
from tests.support.scheduling_scene import GPU, WHOLE, Scene, host, numbered

# The order


def test_jobs_of_a_line_are_served_in_order() -> None:
    scene = Scene(host(threads=3))
    scene.push(*numbered("a", 10))
    order = scene.place()
    while scene.running:
        scene.end(next(iter(scene.running)))
        order += scene.place()
    assert order == numbered("a", 10)


def test_the_oldest_of_a_users_lines_is_next() -> None:
    scene = Scene(host(threads=2, ram=8))
    scene.push("first", shape=(1, 2))
    scene.push("second", shape=(1, 1))
    scene.push("third", shape=(1, 2))
    assert scene.place() == ["first", "second"]


def test_users_share_a_host_whatever_they_have_waiting() -> None:
    scene = Scene(host(threads=4))
    scene.push(*numbered("a", 100), user="anna")
    scene.push(*numbered("b", 2), user="ben")
    assert sorted(scene.place()) == ["a0", "a1", "b0", "b1"]


def test_the_user_with_the_least_in_use_is_next() -> None:
    scene = Scene(host(threads=4, ram=100))
    scene.push(*numbered("a", 4), user="anna", shape=(2, 1))
    assert scene.place() == ["a0", "a1"]
    scene.push("b0", user="ben")
    scene.end("a0")
    assert scene.place() == ["b0"]  # and 1 thread is left, too little for anna


def test_what_counts_is_threads_not_jobs() -> None:
    scene = Scene(host(threads=5))
    scene.push(*numbered("a", 9), user="anna", shape=(2, 1))
    scene.push(*numbered("b", 9), user="ben", shape=(1, 1))
    assert scene.place() == ["a0", "b0", "b1", "b2"]


def test_users_take_turns_when_one_job_fills_the_host() -> None:
    """While nothing is in use, age alone would let a user with many jobs go first each time."""
    scene = Scene(host())
    scene.push(*numbered("a", 50), user="anna", shape=WHOLE)
    scene.push(*numbered("b", 3), user="ben", shape=WHOLE)
    order = scene.place()
    for _ in range(5):
        scene.end(*order[-1:])
        order += scene.place()
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_a_user_who_sends_one_job_at_a_time_does_not_push_others_out() -> None:
    scene = Scene(host())
    scene.push(*numbered("a", 50), user="anna", shape=WHOLE)
    order = []
    for number in range(6):
        scene.push(f"b{number}", user="ben", shape=WHOLE)
        order += scene.place()
        scene.end(order[-1])
    assert [job[0] for job in order] == ["a", "b", "a", "b", "a", "b"]


def test_a_job_that_was_put_back_is_the_first_of_its_line() -> None:
    scene = Scene(host(threads=1))
    scene.push("a", "b", "c")
    assert scene.place() == ["a"]
    key = scene.running["a"].key
    scene.end("a")
    scene.planner.push("a", key, first=True)
    assert scene.place() == ["a"]


def test_of_jobs_that_were_put_back_the_last_is_the_first_and_all_go_before_the_others_of_the_user() -> None:
    scene = Scene(host(threads=4))
    small, large = LineKey("u", Shape(1, 1)), LineKey("u", Shape(2, 1))
    scene.planner.push("old", small)
    scene.planner.push("back1", large, first=True)
    scene.planner.push("back2", small, first=True)
    assert scene.place() == ["back2", "back1", "old"]


def test_small_jobs_overtake_a_large_one_that_finds_no_room() -> None:
    scene = Scene(host(threads=4))
    scene.push("running", shape=(2, 1))
    scene.place()
    scene.push("large", shape=(4, 1))
    scene.push("small")
    assert scene.place() == ["small"]


def test_a_large_job_is_not_overtaken_beyond_patience() -> None:
    scene = Scene(host(threads=4))
    scene.push(*numbered("s", 4))
    scene.place()
    scene.push("large", shape=(4, 1))
    scene.push(*numbered("t", 100))
    scene.now = 3 * PATIENCE
    scene.end("s0")
    assert scene.place() == ["t0"], "it is overtaken for the first time"
    assert scene.planner.next_look(scene.now) == 4 * PATIENCE
    scene.now = 4 * PATIENCE - 1
    scene.end("t0")
    assert scene.place() == ["t1"]
    scene.now = 4 * PATIENCE
    for job in ("t1", "s1", "s2"):
        scene.end(job)
        assert scene.place() == []
    scene.end("s3")
    assert scene.place() == ["large"]


def test_only_one_host_is_kept_for_a_large_job_and_the_others_go_on() -> None:
    scene = Scene(host("a"), host("b"))
    scene.push(*numbered("s", 8))
    scene.place()
    scene.push("large", shape=(4, 1))
    scene.push(*numbered("t", 8))
    on_a, on_b = ([job for job, placed in scene.running.items() if placed.host == name] for name in "ab")
    scene.end(on_a[0])
    (overtaker,) = scene.place()
    scene.now = PATIENCE
    scene.end(overtaker)
    assert scene.place() == [], "a is kept"
    scene.end(on_b[0], on_b[1], on_a[1], on_a[2])
    placed = scene.place()
    assert {scene.running[job].host for job in placed} == {"b"} and len(placed) == 2
    scene.end(on_a[3])
    assert scene.place() == ["large"]


def test_a_host_that_is_no_longer_kept_free_is_offered_to_all_at_once() -> None:
    scene = Scene(host("a", labels={"rack": "a"}), host("b"))
    scene.push("on b", shape=(4, 1))
    scene.push("on a", shape=Shape(3, 1, frozenset({("rack", "a")})))
    assert len(scene.place()) == 2
    scene.push("large", shape=(4, 1), user="zoe")
    scene.push("overtakes")
    assert scene.place() == ["overtakes"]
    scene.now = PATIENCE
    scene.end("overtakes")
    scene.push("waits for a", user="amy", shape=Shape(1, 1, frozenset({("rack", "a")})))
    assert scene.place() == [], "a is kept free"
    scene.end("on b")
    assert scene.place() == ["large", "waits for a"]


def test_patience_begins_again_for_the_next_job_of_its_kind() -> None:
    scene = Scene(host(threads=4))
    scene.push("s")
    scene.place()
    scene.push("large0", "large1", shape=(4, 1))
    scene.push("t0")
    assert scene.place() == ["t0"]
    scene.now = PATIENCE
    scene.push("t1")
    assert scene.place() == [], "the host is kept for large0"
    scene.end("s", "t0")
    assert scene.place() == ["large0"]
    scene.end("large0")
    scene.push("v0", user="v")
    assert scene.place() == ["v0", "t1"], "v has had nothing yet, and then large1 is overtaken"
    scene.now = 2 * PATIENCE - 1
    scene.push("t2")
    assert scene.place() == ["t2"]
    scene.now = 2 * PATIENCE
    scene.push("t3")
    assert scene.place() == []


def test_who_waits_because_others_came_first_keeps_no_host_free() -> None:
    scene = Scene(host(threads=4))
    scene.push(*numbered("a", 8), shape=(2, 1))
    scene.place()
    scene.push("b", user="v")
    for _ in range(5):
        scene.now += PATIENCE
        assert scene.place() == []
        assert scene.planner.next_look(scene.now) is None


# Where


def test_the_emptiest_host_is_taken() -> None:
    scene = Scene(host("large", threads=8), host("small", threads=2))
    scene.push(*numbered("a", 5), shape=(1, 0.1))
    scene.place()
    assert [scene.running[job].host for job in numbered("a", 5)] == ["small", "large", "large", "large", "large"]


def test_a_whole_host_job_waits_for_an_empty_host_and_gets_all_of_it() -> None:
    scene = Scene(host(threads=4, ram=8))
    scene.push("small", shape=(0.5, 0.1))
    scene.place()
    scene.push("whole", shape=WHOLE)
    assert scene.place() == []
    scene.end("small")
    assert scene.place() == ["whole"]
    assert scene.running["whole"].resources == Resources.of(4, 8)
    scene.push("more", shape=(0.01, 0.01), user="v")
    assert scene.place() == []


def test_all_of_the_memory_and_some_threads() -> None:
    scene = Scene(host(threads=4, ram=8))
    scene.push("a", shape=(1, None))
    scene.push("b", shape=(1, 0.1))
    assert scene.place() == ["a"]
    assert scene.running["a"].resources == Resources.of(1, 8)


def test_tenths_add_up_exactly() -> None:
    scene = Scene(host(threads=1, ram=100))
    scene.push(*numbered("a", 11), shape=(0.1, 1))
    assert len(scene.place()) == 10


@pytest.mark.parametrize("closed", [host(open=False), host(threads=0, ram=8)])
def test_a_closed_host_and_one_without_cores_get_nothing(closed: Host) -> None:
    scene = Scene(closed)
    scene.push("a", shape=WHOLE)
    scene.push("b", shape=(1, 1))
    scene.now = 10 * PATIENCE
    assert scene.place() == []
    assert len(scene.queue) == 2


def test_a_closed_host_is_not_kept_for_anyone() -> None:
    scene = Scene(host("closed", open=False), host("open"))
    scene.push("s")
    scene.place()
    scene.push("large", shape=(4, 8))
    scene.push("t0")
    assert scene.place() == ["t0"]
    scene.end("t0")
    scene.push("t1")
    scene.now = PATIENCE
    assert scene.place() == []  # the open one is kept
    scene.end("s")
    assert scene.place() == ["large"]


def test_a_job_is_impossible_if_no_host_could_ever_run_it() -> None:
    hosts = [host("a", threads=2, ram=16), host("b", threads=8, ram=4, open=False)]
    assert not impossible(Shape(8, 4), hosts)
    assert not impossible(Shape(2, None), hosts)
    assert not impossible(WHOLE, hosts)
    assert impossible(Shape(8, 5), hosts)
    assert impossible(Shape(8.01, 1), hosts)
    assert not impossible(Shape(1000, 1000), [])  # nothing is known yet
    hosts[1].used = hosts[1].capacity
    assert not impossible(Shape(8, 4), hosts)
    assert impossible(WHOLE, [host(threads=0)])


def test_what_jobs_of_a_former_node_held_is_not_given_back_to_the_present_one() -> None:
    scene = Scene(host(threads=2))
    scene.push("a", "b", "c")
    assert scene.place() == ["a", "b"]
    scene.planner.remove(scene.hosts["h"])
    again = scene.hosts["h"] = host(threads=2)
    scene.planner.add(again)
    assert scene.place() == ["c"]
    scene.end("a", "b")
    assert again.used == Resources.of(1, 1)
    assert scene.planner.shares.running("u") == 1


# Labels and images


def test_a_job_goes_only_where_the_labels_are() -> None:
    scene = Scene(host("a", threads=8), host("b", threads=2, labels={"gpu": "a100", "site": "north"}))
    scene.push(*numbered("g", 3), shape=Shape(1, 1, GPU))
    scene.push(*numbered("j", 3))
    assert sorted(scene.place()) == ["g0", "g1", "j0", "j1", "j2"]
    assert {scene.running[job].host for job in ("g0", "g1")} == {"b"}


def test_a_job_whose_labels_no_host_has_is_impossible() -> None:
    hosts = [host("a"), host("b", labels={"gpu": "t4"})]
    assert impossible(Shape(1, 1, GPU), hosts)
    assert why_not(Shape(1, 1, GPU), hosts[1]) == "it does not have the label gpu=a100"
    assert not impossible(Shape(1, 1, GPU), [*hosts, host("c", labels=dict(GPU))])
    assert impossible(Shape(5, 1, GPU), [host("a", threads=8), host("c", labels=dict(GPU))])


def test_a_host_that_has_the_image_goes_before_one_that_must_pull() -> None:
    scene = Scene(host("a", threads=3, images=frozenset({"tool:1"})), host("b", threads=8))
    scene.push(*numbered("j", 5), image="tool:1")
    scene.place()
    assert [scene.running[job].host for job in numbered("j", 5)] == ["a", "a", "a", "b", "b"]


def test_a_host_that_pulls_the_image_goes_before_one_that_would_have_to() -> None:
    scene = Scene(host("a", threads=2, pulling=frozenset({"tool:1"})), host("b", threads=8))
    scene.push(*numbered("j", 3), image="tool:1")
    scene.place()
    assert [scene.running[job].host for job in numbered("j", 3)] == ["a", "a", "b"]
    has = Scene(host("a", threads=2, pulling=frozenset({"tool:1"})), host("b", threads=1, images=frozenset({"tool:1"})))
    has.push("first", image="tool:1")
    has.place()
    assert has.running["first"].host == "b"


def test_jobs_of_one_moment_make_one_host_pull_while_it_has_room() -> None:
    scene = Scene(host("a", threads=2), host("b", threads=2), host("c", threads=2))
    scene.push(*numbered("j", 3), image="tool:1")
    scene.push(*numbered("k", 3), image=None)
    scene.place()
    assert [scene.running[job].host for job in numbered("j", 3)] == ["c", "c", "b"]
    assert {scene.running[job].host for job in numbered("k", 3)} == {"a", "b"}


def test_a_full_host_with_the_image_delays_no_job() -> None:
    scene = Scene(host("a", threads=1, images=frozenset({"tool:1"})), host("b", threads=1))
    scene.push("other", image="other:1")  # it would go to b: the last by name, and equally free
    scene.push("first", "second", image="tool:1")
    assert scene.place() == ["other", "first"]
    assert (scene.running["other"].host, scene.running["first"].host) == ("b", "a")


def test_a_host_to_avoid_gets_it_only_if_no_other_is_open() -> None:
    scene = Scene(host("a", threads=8), host("b", threads=1), host("c", threads=8, open=False))
    key = LineKey("u", Shape(1, 1), None, frozenset({"a", "c"}))
    for job in ("first", "second"):
        scene.planner.push(job, key)
    assert scene.place() == ["first"], "it waits for b, which is full, though there is room on a"
    assert scene.running["first"].host == "b"
    scene.change("b", open=False)
    assert scene.place() == ["second"]
    assert scene.running["second"].host == "a"
    # A job that is too large for the others has no other host.
    scene.change("b", open=True)
    scene.planner.push("large", key._replace(shape=Shape(4, 1)))
    assert scene.place() == ["large"]


def test_no_host_to_avoid_is_kept_free() -> None:
    scene = Scene(host("a", threads=4), host("b", threads=4))
    scene.push("running", shape=Shape(3, 1))
    scene.place()
    assert scene.running["running"].host == "b"
    scene.planner.push("large", LineKey("u", Shape(4, 1), None, frozenset({"a"})))
    scene.place()
    scene.now += PATIENCE
    scene.push("small", user="v", shape=Shape(1, 1))
    assert scene.place() == ["small"] and scene.running["small"].host == "a", "b is kept"
    scene.end("running")
    assert scene.place() == ["large"]


def test_a_host_on_trial_gets_one_job_of_those_that_find_no_other_host() -> None:
    scene = Scene(host("a", threads=2), host("b", threads=4, on_trial=True))
    for number in range(4):
        scene.push(f"job{number}", shape=Shape(1, 1))
    assert scene.place() == ["job0", "job1", "job2"]
    assert [scene.running[f"job{number}"].host for number in range(3)] == ["a", "a", "b"]
    assert not scene.hosts["b"].open
    assert scene.place() == []
    scene.change("b", open=True)
    assert scene.place() == ["job3"]


def test_a_host_on_trial_gets_a_job_of_another_line_than_those_that_failed() -> None:
    scene = Scene(host("b", on_trial=True))
    failed = LineKey("u", Shape(1, 1), "x:1")
    scene.planner.push("again", failed._replace(avoid=frozenset("b")))
    scene.planner.push("same line", failed)
    scene.planner.push("other line", failed._replace(image="y:1"))
    for expected in ("other line", "same line", "again"):
        scene.change("b", open=True, tried=frozenset({failed}))
        assert scene.place() == [expected]


def test_only_so_many_users_are_remembered_and_the_others_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orqal.scheduling.shares._USERS", 2)
    shares = Shares()
    shares.set_totals(Resources.of(1, 1))
    for number, user in enumerate("abcdefgh"):
        shares.start(user, Resources.of(1, 1), number * 1000)
        if user != "a":  # it holds something
            shares.end(user, Resources.of(1, 1), number * 1000 + number)
    kept = {share.user for share in shares.all(9000)}
    assert "a" in kept and "h" in kept and len(kept) <= 4
    assert shares.rank("b") == (0, 0)


def test_a_reason_says_why_a_host_does_not_take_a_job() -> None:
    host = Host("h", Resources.of(4, 8), used=Resources.of(3, 2))
    assert why_not(Shape(1, 6), host) is None
    assert why_not(Shape(2, 1), host) == (
        "no room now: 1 threads and 6 GB of 4 threads and 8 GB are free, and the job asks for 2 threads and 1 GB"
    )
    host.others = Resources.of(1, 7)
    assert why_not(Shape(0.5, 1), host) == (
        "no room now: 0 threads and 0 GB of 4 threads and 8 GB are free (other Ray programs hold 1 threads and 7 GB), "
        "and the job asks for 0.5 threads and 1 GB"
    )
    host.others = Resources(0, 0)
    assert "too small: it has 4 threads and 8 GB in all" in (why_not(Shape(5, 1), host) or "")
    assert "asks for 4 threads" in (why_not(Shape(None, 1), host) or "")
    host.open = False
    assert why_not(Shape(1, 1), host) == "it gets no work now"
