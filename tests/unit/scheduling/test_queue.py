"""The lines of waiting jobs, and what they and a decision cost."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from orqal.models import Shape
from orqal.scheduling import LineKey, Planner, Queue
from orqal.scheduling.room import Kind, Room
from orqal.scheduling.usage import Sort
from tests.support.scheduling_scene import Scene, host, numbered

# The queue


@pytest.mark.parametrize("gone", range(5))
def test_a_job_is_removed_wherever_it_stands(gone: int) -> None:
    queue, key = Planner().queue, LineKey("u", Shape(1, 1))
    for job in numbered("a", 5):
        queue.push(job, key)
    assert queue.remove(f"a{gone}")
    assert not queue.remove(f"a{gone}")
    assert f"a{gone}" not in queue
    left = [pop(queue, key) for _ in range(len(queue))]
    assert left == [job for job in numbered("a", 5) if job != f"a{gone}"]
    assert list(queue.lines()) == []


def test_a_job_that_was_removed_can_come_again_at_the_end() -> None:
    queue, key = Planner().queue, LineKey("u", Shape(1, 1))
    for job in ("a", "b", "c"):
        queue.push(job, key)
    queue.remove("b")
    queue.push("b", key)
    assert [pop(queue, key) for _ in range(3)] == ["a", "c", "b"]


def pop(queue: Queue, key: LineKey) -> str:
    line = queue.line(key)
    assert line is not None
    return queue.pop(line)


def test_a_job_that_was_removed_again_and_again_counts_once() -> None:
    queue, key = Planner().queue, LineKey("u", Shape(1, 1))
    for job in ("a", "b", "c"):
        queue.push(job, key)
    for _ in range(3):
        queue.remove("b")
        queue.push("b", key)
    queue.remove("b")
    queue.push_front("b", key)
    assert queue.waiting(key) == len(queue) == 3
    assert [pop(queue, key) for _ in range(3)] == ["b", "a", "c"]
    assert list(queue.lines()) == []


# Its cost, in operations


def _looks(jobs: int, hosts: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return for how many kinds a host is looked for when one job ends; so many jobs of each of 50 kinds wait."""
    scene = Scene(*(host(f"h{number}", threads=4, ram=100) for number in range(hosts)))
    for number in range(50):
        scene.push(
            *(f"{number} {job}" for job in range(jobs)), user=f"u{number % 7}", shape=(1 + number % 3, 1 + number)
        )
    ended = scene.place()[0]
    looks, candidates = 0, Room.candidates

    def counted(self: Room, kind: Kind) -> int:
        nonlocal looks
        looks += 1
        return candidates(self, kind)

    with monkeypatch.context() as patch:
        patch.setattr(Room, "candidates", counted)
        scene.end(ended)
        assert scene.place()
    return looks


def test_a_decision_costs_the_same_however_many_jobs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _looks(2_000, 4, monkeypatch) == _looks(10, 4, monkeypatch)


def test_a_decision_looks_once_at_each_kind_that_gains_or_loses_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _looks(500, 200, monkeypatch) <= 60


def test_removing_searches_nothing() -> None:
    """A job's removal from a long line moves none of the others, until half of them have gone."""
    queue, key = Planner().queue, LineKey("u", Shape(1, 1))
    for job in numbered("a", 1_000):
        queue.push(job, key)
    (line,) = queue.lines()
    for job in numbered("a", 500)[1:]:
        queue.remove(job)
        assert len(line.jobs) == 1_000  # blanks
    for job in numbered("a", 1_000)[500:]:
        queue.remove(job)
        assert len(line.jobs) == len(line.numbers) <= 2 * line.waiting + 65
    queue.remove("a0")
    assert not line.jobs


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
    queue = Planner().queue
    for number in range(count):
        queue.push(f"{number:024x}", LineKey(f"u{number % 3}", Shape(1, 1)))
    return queue


def test_a_waiting_job_costs_bounded_memory() -> None:
    assert _bytes_of(lambda: _full(20_000)) / 20_000 < 300


def test_jobs_that_were_taken_out_cost_no_memory_behind_one_that_waits_for_ever() -> None:
    def churned() -> Queue:
        queue = _full(3)
        for number in range(20_000):
            queue.push(f"x{number}", LineKey("u0", Shape(1, 1)))
            queue.remove(f"x{number}")
        assert len(queue) == 3
        return queue

    assert _bytes_of(churned) < 100_000


def test_the_queue_knows_its_jobs_and_their_lines() -> None:
    queue = Planner().queue
    key = LineKey("u", Shape(1, 1))
    for job in ("a", "b"):
        queue.push(job, key)
    queue.remove("a")
    assert list(queue.jobs()) == ["b"]
    assert queue.key("b") == key and queue.key("a") is None


# Memory that is learned


def test_jobs_that_wait_get_the_memory_that_is_learned_and_keep_their_order() -> None:
    scene, sort = Scene(host(threads=8, ram=8)), Sort("A", 0)
    scene.push("a1", "a2", "a3", shape=(1, 8), learns=sort, at_first=8.0)
    scene.push("b", shape=(1, 8))
    assert scene.place() == ["a1"]
    scene.planner.learn(sort, 2.0)
    scene.planner.end("a1", 1.0)
    assert scene.place() == ["a2", "a3"]
    scene.push("a4", shape=(1, 8), learns=sort, at_first=8.0)
    assert scene.place() == ["a4"] and scene.running["a4"].resources.ram == 20_000
    scene.planner.learn(sort, None)
    scene.push("a5", shape=(1, 8), learns=sort, at_first=8.0)
    key = scene.queue.key("a5")
    assert key is not None and key.shape.ram_gb == 8.0


def test_a_held_batch_stays_held_when_its_memory_is_learned() -> None:
    scene, sort = Scene(host(threads=8, ram=8)), Sort("A", 0)
    scene.push("a1", "a2", shape=(1, 8), learns=sort, at_first=8.0, batch="b")
    scene.queue.hold("b")
    scene.planner.learn(sort, 2.0)
    assert scene.place() == []
    scene.queue.release("b")
    assert scene.place() == ["a1", "a2"]


def test_what_is_learned_costs_the_same_however_many_jobs_wait() -> None:
    def touched(jobs: int) -> int:
        scene, sort = Scene(host(ram=1)), Sort("A", 0)
        scene.push(*numbered("a", jobs), shape=(1, 8), learns=sort, at_first=8.0)
        gc.collect()
        tracemalloc.start()
        scene.planner.learn(sort, 2.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(scene.queue) == jobs
        return peak

    assert touched(20_000) < 2 * touched(20) + 10_000
