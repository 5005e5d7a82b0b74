"""Which job is next and where it runs: scenes, and a simulation of any mix of jobs, users and hosts."""

from __future__ import annotations

import gc
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orqal.models import Resources, Shape
from orqal.scheduling import Host, Line, LineKey, Placement, Queue, impossible, place, why_not
from orqal.scheduling.placement import PATIENCE

WHOLE = Shape(None, None)


def host(name: str = "h", threads: float = 4, ram: float = 8, **more: Any) -> Host:
    return Host(name, Resources.of(threads, ram), **more)


class Scene:
    """A queue, hosts, and the jobs that run."""

    def __init__(self, *hosts: Host) -> None:
        self.hosts = {host.id: host for host in hosts}
        self.queue = Queue()
        self.in_use: dict[str, int] = {}
        self.running: dict[str, Placement] = {}
        self.now = 0.0

    def push(
        self,
        *jobs: str,
        user: str = "u",
        shape: Shape | tuple[float | None, float | None] = (1, 1),
        image: str | None = None,
    ) -> None:
        for job in jobs:
            self.queue.push(job, LineKey(user, Shape(*shape), image), self.now)

    def place(self) -> list[str]:
        placed = place(self.queue, self.hosts.values(), self.in_use, self.now)
        self.running |= {placement.job: placement for placement in placed}
        return [placement.job for placement in placed]

    def end(self, *jobs: str) -> None:
        for job in jobs:
            placement = self.running.pop(job)
            at = self.hosts[placement.host]
            at.used = at.used.minus(placement.resources)
            self.in_use[placement.key.user] -= placement.resources.threads


def numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


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
    scene.queue.push_front("a", key, 0)
    assert scene.place() == ["a"]


def test_of_jobs_that_were_put_back_the_last_is_the_first_and_all_go_before_the_others_of_the_user() -> None:
    queue = Queue()
    small, large = LineKey("u", Shape(1, 1)), LineKey("u", Shape(2, 1))
    queue.push("old", small, 0)
    queue.push_front("back1", large, 0)
    queue.push_front("back2", small, 0)
    hosts = [host(threads=4)]
    assert [placement.job for placement in place(queue, hosts, {}, 0)] == ["back2", "back1", "old"]


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
    scene.now = PATIENCE / 2
    scene.end("s0")
    assert scene.place() == ["t0"]
    scene.now = PATIENCE
    for job in ("t0", "s1", "s2"):
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
    scene.now = PATIENCE
    on_a, on_b = ([job for job, placed in scene.running.items() if placed.host == name] for name in "ab")
    scene.end(on_a[0])
    assert scene.place() == []
    scene.end(on_b[0], on_b[1], on_a[1], on_a[2])
    placed = scene.place()
    assert {scene.running[job].host for job in placed} == {"b"} and len(placed) == 2
    scene.end(on_a[3])
    assert scene.place() == ["large"]


def test_patience_begins_when_a_job_comes_to_the_front() -> None:
    scene = Scene(host(threads=4))
    scene.push("s")
    scene.place()
    scene.push("large0", "large1", shape=(4, 1))
    scene.now = 100 * PATIENCE
    scene.end("s")
    assert scene.place() == ["large0"]
    scene.now += PATIENCE / 2
    scene.end("large0")
    scene.push("t0", user="v")
    scene.push("t1", user="w")
    scene.push("t2", user="u")
    assert scene.place() == ["t0", "t1", "t2"]  # v and w have had no turn yet, and then large1 finds no room
    scene.now += PATIENCE / 2
    scene.push("t3", user="u")
    assert scene.place() == []


# Where


def test_the_emptiest_host_is_taken() -> None:
    scene = Scene(host("small", threads=2), host("large", threads=8))
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
    scene.push("t")
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


# The queue


@pytest.mark.parametrize("gone", range(5))
def test_a_job_is_removed_wherever_it_stands(gone: int) -> None:
    queue, key = Queue(), LineKey("u", Shape(1, 1))
    for job in numbered("a", 5):
        queue.push(job, key, 0)
    assert queue.remove(f"a{gone}")
    assert not queue.remove(f"a{gone}")
    assert f"a{gone}" not in queue
    left = [queue.pop(key, 0) for _ in range(len(queue))]
    assert left == [job for job in numbered("a", 5) if job != f"a{gone}"]
    assert list(queue.lines()) == []


def test_a_job_that_was_removed_can_come_again_at_the_end() -> None:
    queue, key = Queue(), LineKey("u", Shape(1, 1))
    for job in ("a", "b", "c"):
        queue.push(job, key, 0)
    queue.remove("b")
    queue.push("b", key, 0)
    assert [queue.pop(key, 0) for _ in range(3)] == ["a", "c", "b"]


def test_popping_from_a_line_without_jobs_is_an_error() -> None:
    with pytest.raises(KeyError):
        Queue().pop(LineKey("u", WHOLE), 0)


# Its cost, in operations


class CountedQueue(Queue):
    """A queue that counts the lines that it returns."""

    looks = 0

    def lines(self) -> Iterator[Line]:
        for line in super().lines():
            self.looks += 1
            yield line


def _cost(jobs: int, lines: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return how many lines and shapes one decision looks at, with this many jobs in each of this many lines."""
    queue = CountedQueue()
    for line in range(lines):
        for job in range(jobs):
            queue.push(f"{line} {job}", LineKey("u", Shape(1 + line / 10_000, 1)), 0)
    asked = 0
    request = Host.request

    def counted(self: Host, shape: Shape) -> Resources:
        nonlocal asked
        asked += 1
        return request(self, shape)

    with monkeypatch.context() as patch:
        patch.setattr(Host, "request", counted)
        assert len(place(queue, [host(threads=2, ram=8)], {}, 0)) in (1, 2)
    return queue.looks, asked


def test_a_decision_costs_the_same_however_many_jobs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _cost(2_000, 5, monkeypatch) == _cost(3, 5, monkeypatch)


def test_a_decision_looks_at_each_line_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, asked = _cost(1, 300, monkeypatch)
    assert lines <= 2 * 300
    assert asked <= 3 * 300


def test_removing_searches_nothing() -> None:
    """A job's removal from a long line moves none of the others, until half of them have gone."""
    queue, key = Queue(), LineKey("u", Shape(1, 1))
    for job in numbered("a", 1_000):
        queue.push(job, key, 0)
    (line,) = queue.lines()
    for job in numbered("a", 500)[1:]:
        queue.remove(job)
        assert len(line.entries) == 1_000  # blanks
    for job in numbered("a", 1_000)[500:]:
        queue.remove(job)
        assert len(line.entries) <= 2 * line.waiting + 64
    queue.remove("a0")
    assert not line.entries


def _bytes_of(work: Callable[[], object]) -> int:
    """Return the bytes of memory that are held after the call and were not before."""
    tracemalloc.start()
    try:
        kept = work()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        del kept
        return held
    finally:
        tracemalloc.stop()


def _full(count: int) -> Queue:
    queue = Queue()
    for number in range(count):
        queue.push(f"{number:024x}", LineKey(f"u{number % 3}", Shape(1, 1)), 0.0)
    return queue


def test_a_waiting_job_costs_bounded_memory() -> None:
    assert _bytes_of(lambda: _full(20_000)) / 20_000 < 600


def test_jobs_that_were_taken_out_cost_no_memory_behind_one_that_waits_for_ever() -> None:
    def churned() -> Queue:
        queue = _full(3)
        for number in range(20_000):
            queue.push(f"x{number}", LineKey("u0", Shape(1, 1)), 0.0)
            queue.remove(f"x{number}")
        assert len(queue) == 3
        return queue

    assert _bytes_of(churned) < 100_000


# Labels and images

GPU = frozenset({("gpu", "a100")})


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
        scene.queue.push(job, key, scene.now)
    assert scene.place() == ["first"], "it waits for b, which is full, though there is room on a"
    assert scene.running["first"].host == "b"
    scene.hosts["b"].open = False
    assert scene.place() == ["second"]
    assert scene.running["second"].host == "a"
    # A job that is too large for the others has no other host.
    scene.hosts["b"].open = True
    scene.queue.push("large", key._replace(shape=Shape(4, 1)), scene.now)
    assert scene.place() == ["large"]


def test_no_host_to_avoid_is_kept_free() -> None:
    scene = Scene(host("a", threads=4), host("b", threads=4))
    scene.push("running", shape=Shape(3, 1))
    scene.place()
    assert scene.running["running"].host == "b"
    scene.queue.push("large", LineKey("u", Shape(4, 1), None, frozenset({"a"})), scene.now)
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
    scene.hosts["b"].open = True
    assert scene.place() == ["job3"]


def test_a_host_on_trial_gets_a_job_of_another_line_than_those_that_failed() -> None:
    scene = Scene(host("b", on_trial=True))
    failed = LineKey("u", Shape(1, 1), "x:1")
    scene.queue.push("again", failed._replace(avoid=frozenset("b")), scene.now)
    scene.queue.push("same line", failed, scene.now)
    scene.queue.push("other line", failed._replace(image="y:1"), scene.now)
    for expected in ("other line", "same line", "again"):
        scene.hosts["b"].open, scene.hosts["b"].tried = True, frozenset({failed})
        assert scene.place() == [expected]


def test_only_so_many_users_are_remembered_and_the_others_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orqal.scheduling.queue._USERS", 2)
    lines = Queue()
    for user in ("ada", "bob", "ada", "eve"):
        lines.push(user, LineKey(user, Shape(1, 1)), 0)
        lines.pop(LineKey(user, Shape(1, 1)), 0)
    assert lines._turns == {"ada": 3, "eve": 4}
    assert lines.turn("bob") == 0


# Any mix


class Cluster(RuleBasedStateMachine):
    """Users, hosts and jobs of any kind, over time; checked against plain lists."""

    amounts = st.sampled_from([None, 0.01, 0.1, 1 / 3, 0.5, 1, 1.5, 2, 3, 7])

    def __init__(self) -> None:
        super().__init__()
        labels = {"gpu": "a100"}
        self.scene = Scene(
            host("a", 1, 1, images=frozenset({"x:1"})), host("b", 4, 2, labels=labels), host("c", 7, 0.5, open=False)
        )
        self.lines: dict[LineKey, list[str]] = defaultdict(list)
        self.jobs = 0
        self.was_placed: set[str] = set()

    @rule(
        user=st.sampled_from("uvw"),
        shape=st.builds(Shape, amounts, amounts, st.sampled_from([frozenset(), GPU])),
        image=st.sampled_from([None, "x:1", "y:1"]),
        avoid=st.frozensets(st.sampled_from("abc"), max_size=2),
        count=st.integers(1, 5),
    )
    def submit(self, user: str, shape: Shape, image: str | None, avoid: frozenset[str], count: int) -> None:
        key = LineKey(user, shape, image, avoid)
        for _ in range(count):
            self.jobs += 1
            self.scene.queue.push(str(self.jobs), key, self.scene.now)
            self.lines[key].append(str(self.jobs))

    @rule(seconds=st.sampled_from([0.0, 1.0, PATIENCE]))
    def decide(self, seconds: float) -> None:
        self.scene.now += seconds
        was_closed = {name for name, at in self.scene.hosts.items() if not at.open}
        tried: set[str] = set()
        for job in self.scene.place():
            placed = self.scene.running[job]
            assert self.lines[placed.key].pop(0) == job, "not the first of its line"
            assert job not in self.was_placed, "placed twice"
            assert placed.host not in was_closed
            shape, others = placed.key.shape, self.scene.hosts.keys() - was_closed - placed.key.avoid
            if self.scene.hosts[placed.host].on_trial:
                assert not self.scene.hosts[placed.host].open
                assert placed.host not in tried, "two at once"
                tried.add(placed.host)
            elif placed.host in placed.key.avoid:
                others = {other for other in others if not self.scene.hosts[other].on_trial}
                assert not any(self.scene.hosts[other].could_ever(shape) for other in others)
            assert placed.key.shape.requires <= self.scene.hosts[placed.host].labels.items()
            assert placed.resources == self.scene.hosts[placed.host].request(placed.key.shape)
            self.was_placed.add(job)

    @precondition(lambda self: self.scene.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.scene.end(data.draw(st.sampled_from(sorted(self.scene.running))))

    @precondition(lambda self: self.scene.running)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.scene.running)))
        key = self.scene.running[job].key
        self.scene.end(job)
        self.scene.queue.push_front(job, key, self.scene.now)
        self.lines[key].insert(0, job)
        self.was_placed.discard(job)

    @precondition(lambda self: len(self.scene.queue) > 0)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted((key for key, jobs in self.lines.items() if jobs), key=repr)))
        job = data.draw(st.sampled_from(self.lines[key]))
        assert self.scene.queue.remove(job)
        self.lines[key].remove(job)

    @rule(name=st.sampled_from("abc"))
    def open_or_close(self, name: str) -> None:
        self.scene.hosts[name].open = not self.scene.hosts[name].open

    @rule(name=st.sampled_from("abc"))
    def suspect_or_trust(self, name: str) -> None:
        self.scene.hosts[name].on_trial = not self.scene.hosts[name].on_trial

    @rule(name=st.sampled_from("abc"), part=st.sampled_from([0.0, 0.3, 1.0]))
    def others_take_and_give_back(self, name: str, part: float) -> None:
        """Another Ray program holds a part of what is free. It cannot hold more, because Ray gives it only that."""
        at = self.scene.hosts[name]
        free = at.capacity.minus(at.used)
        at.others = Resources(int(free.threads * part), int(free.ram * part))

    @invariant()
    def no_host_is_overbooked(self) -> None:
        for name, at in self.scene.hosts.items():
            used = [placed.resources for placed in self.scene.running.values() if placed.host == name]
            total = Resources(sum(part.threads for part in used), sum(part.ram for part in used))
            assert total == at.used
            assert total.plus(at.others).fits(at.capacity)

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = {job for jobs in self.lines.values() for job in jobs}
        assert len(self.scene.queue) == len(waiting)
        assert all(job in self.scene.queue for job in waiting)
        assert {line.entries[0].job for line in self.scene.queue.lines()} == {
            jobs[0] for jobs in self.lines.values() if jobs
        }

    def teardown(self) -> None:
        """Once there is room, every job that could ever run does run."""
        for at in self.scene.hosts.values():
            at.open, at.on_trial, at.others = True, False, Resources(0, 0)
        while self.scene.running or self.scene.place():
            self.scene.end(*self.scene.running)
        assert all(impossible(line.key.shape, self.scene.hosts.values()) for line in self.scene.queue.lines())


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=settings().max_examples * 3 // 5, stateful_step_count=40)


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


def test_the_queue_knows_its_jobs_and_their_lines() -> None:
    queue = Queue()
    key = LineKey("u", Shape(1, 1))
    for job in ("a", "b"):
        queue.push(job, key, 0)
    queue.remove("a")
    assert list(queue.jobs()) == ["b"]
    assert queue.key("b") == key and queue.key("a") is None
