"""Which children are decided when: the graph follows a simple model of it, whatever happens in whatever order."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orqal.models import ErrorType, JobRecord, JobSpec, Parent
from orqal.scheduling.dependencies import Dependencies, Failure, UnreadBatch
from tests.support.lifecycle_scenes import NOON


def name(number: int) -> str:
    return f"{number:024x}"


def failure(job: str) -> Failure:
    record = JobRecord.submitted(JobSpec(app="A"), job, NOON).failed(ErrorType.TIMEOUT, "it ran for too long", NOON)
    found = Failure.of(record)
    assert found is not None
    return found


class Graph(RuleBasedStateMachine):
    """Jobs and batches that come and end; children that are decided are let go, or end, at any later time."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Dependencies()
        self.ok: dict[str, bool | None] = {}
        """Every job: None until it has ended."""
        self.after: dict[str, list[str]] = {}
        self.batches: dict[str, list[str]] = {}
        self.decided: set[str] = set()
        """Children that may run: what joins a batch from then on does not stop them."""
        self.released: set[str] = set()
        self.failing: set[str] = set()
        self.met: set[tuple[str, str]] = set()
        """Children and the batches that were over while they waited: what joins these later does not count for them."""

    def _is_open(self, job: str) -> bool:
        return self.ok[job] is None

    def _learn(self) -> None:
        """Answer all questions, as the store would."""
        while self.graph.has_work:
            unknown = self.graph.unknown()
            if not (unknown.jobs or unknown.batches):
                return
            for job in unknown.jobs:
                if not self._is_open(job):
                    self.graph.ended(job, None if self.ok[job] else failure(job))
            for batch, question in unknown.batches:
                jobs = self.batches[batch]
                failed = {job: failure(job) for job in jobs if self.ok[job] is False}
                self.graph.batch_is(batch, question, [job for job in jobs if self._is_open(job)], failed)

    @rule(data=st.data(), batch=st.sampled_from([None, "a", "b", "c"]))
    def submit(self, data: st.DataObject, batch: str | None) -> None:
        job = name(len(self.ok))
        parents = [*self.ok, *(f"batch:{each}" for each in self.batches)]
        wanted = data.draw(st.lists(st.sampled_from(parents), max_size=3, unique=True)) if parents else []
        after = [f"any:{each}" if data.draw(st.booleans()) else each for each in wanted]
        members = [(batch, job)] if batch is not None else []
        read = {each: [job for job in jobs if self._is_open(job)] for each, jobs in self.batches.items()}
        circle = self.graph.cycle(members, {job: after} if after else {}, read | {batch or "": []})
        assert (circle is not None) == self._waits_for_itself(job, after, batch)
        if circle is not None:
            return
        self.ok[job] = None
        if batch is not None:
            self.batches.setdefault(batch, []).append(job)
            self.graph.joined(batch, job)
        if after:
            self.after[job] = after
            self.graph.add(job, after)
            self.graph.block(job)

    def _waits_for_itself(self, job: str, after: list[str], batch: str | None) -> bool:
        if batch is None:
            return False
        met, looking = set[str](), list(after)
        while looking:
            parent = Parent.of(looking.pop())
            if parent.is_batch and parent.name == batch:
                return True
            key = parent._replace(any=False).text
            if key not in met:
                met.add(key)
                if parent.is_batch:
                    looking += [each for each in self.batches[parent.name] if self._is_open(each)]
                elif self._is_open(parent.name):
                    looking += self.after.get(parent.name, [])
        return False

    @precondition(lambda self: any(self._may_end(job) for job in self.ok))
    @rule(data=st.data(), ok=st.booleans())
    def end(self, data: st.DataObject, ok: bool) -> None:
        job = data.draw(st.sampled_from([job for job in self.ok if self._may_end(job)]))
        self._end(job, ok and job not in self.failing)

    def _may_end(self, job: str) -> bool:
        return self._is_open(job) and (job not in self.after or job in self.released or job in self.failing)

    def _end(self, job: str, ok: bool) -> None:
        self.ok[job] = ok
        self.graph.remove(job)
        self.graph.ended(job, None if ok else failure(job))

    @precondition(lambda self: any(job in self.graph for job in self.after))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.after if job in self.graph]))
        self.graph.unblock(job)
        self._end(job, False)

    @rule()
    def learn_and_take(self) -> None:
        self._learn()
        for job, why in self.graph.take(99):
            (self.released if why is None else self.failing).add(job)
            assert why is None or why.job is not None

    @rule()
    def restart(self) -> None:
        """A new Scheduler knows what is in the store, and has let no child go."""
        self.graph = Dependencies()
        self.met.clear()
        for job, after in self.after.items():
            if self._is_open(job):
                self.released.discard(job)
                self.failing.discard(job)
                self.decided.discard(job)
                self.graph.add(job, after)
                self.graph.block(job)

    @invariant()
    def children_are_decided_as_their_parents_say(self) -> None:
        self._learn()
        for job, after in self.after.items():
            if not self._is_open(job) or job in self.decided or job in self.failing:
                continue
            assert job in self.graph, "nobody knows it"
            open = [text for text in after if (job, text) not in self.met]
            if self.graph.is_failing(job):
                assert any(self._fails(text, soon=True) for text in open)
            elif self.graph.open(job, 9) == (0, [], {}):
                assert not any(self._waits(text) for text in open), "it would start before its parents have ended"
                self.decided.add(job)
            else:
                assert any(self._waits(text) for text in open), "it waits for nothing"
                assert not any(self._fails(text) for text in open), "it waits though it cannot run"
                over = (text for text in open if Parent.of(text).is_batch and not self._waits(text))
                self.met.update((job, text) for text in over)

    def _jobs(self, text: str) -> list[str]:
        parent = Parent.of(text)
        return self.batches[parent.name] if parent.is_batch else [parent.name]

    def _waits(self, text: str) -> bool:
        return any(map(self._is_open, self._jobs(text)))

    def _fails(self, text: str, *, soon: bool = False) -> bool:
        """True if a parent has failed or (`soon`) is about to because of its own parents."""
        if Parent.of(text).any:
            return False
        return any(
            self.ok[job] is False or (soon and (job in self.failing or self.graph.is_failing(job)))
            for job in self._jobs(text)
        )

    @invariant()
    def parents_of_unfinished_children_are_needed(self) -> None:
        for job, after in self.after.items():
            for parent in map(Parent.of, after):
                needed = self.graph.needs_batch(parent.name) if parent.is_batch else self.graph.needs_job(parent.name)
                assert needed or not self._is_open(job)


TestGraph = Graph.TestCase
TestGraph.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=25)


def test_a_long_chain_that_fails_is_decided_at_once_and_without_recursion() -> None:
    graph = Dependencies()
    for number in range(1, 50_000):
        graph.add(name(number), [name(number - 1)])
        graph.block(name(number))
    graph.ended(name(0), failure(name(0)))
    decided = graph.take(100_000)
    assert len(decided) == 49_999 and len(graph) == 0
    assert {each.failure.job for each in decided if each.failure} == {name(0)}
    last = decided[-1].failure
    assert last is not None and last.message == (
        f"its parent {name(49_998)} did not run, because {name(0)} (A) failed: timeout: it ran for too long"
    )


def test_however_many_generations_were_read_from_records_each_names_the_first_that_failed() -> None:
    """Nothing is known of parents but their records, as after a restart."""
    found, message = failure(name(0)), ""
    for number in range(1, 50):
        message = found.message
        assert name(0) in message and "timeout: it ran for too long" in message and len(message) < 200
        child = JobRecord.submitted(JobSpec(app="A"), name(number), NOON).hung_on(found.job, found.message, NOON)
        again = Failure.of(child)
        assert again is not None and again.job == name(0)
        found = again
    assert message == f"its parent {name(48)} did not run, because {name(0)} (A) failed: timeout: it ran for too long"
    deleted = Failure.gone(Parent("b", is_batch=True))
    child = JobRecord.submitted(JobSpec(app="A"), name(1), NOON).hung_on(None, deleted.message, NOON)
    grandchild = Failure.of(child)
    assert grandchild is not None and grandchild.message == (
        f"its parent {name(1)} did not run, because its parent, the batch b was deleted"
    )


def test_what_an_earlier_orqal_has_cut_off_is_named_all_the_same() -> None:
    nested = f"its parent {name(5)} (A) did not run: its parent…"
    record = JobRecord.submitted(JobSpec(app="A"), name(6), NOON).hung_on(name(0), nested, NOON)
    found = Failure.of(record)
    assert found is not None and found.message == f"its parent {name(6)} did not run, because {name(0)} failed"


def test_a_batch_whose_jobs_are_not_known_must_be_read_before_a_circle_is_ruled_out() -> None:
    graph = Dependencies()
    graph.add(name(1), ["batch:a"])
    with pytest.raises(UnreadBatch) as error:
        graph.cycle([("a", name(2))], {name(2): ["batch:b"]}, {"a": []})
    assert error.value.name == "b"
    assert graph.cycle([("a", name(2))], {name(2): ["batch:b"]}, {"a": [], "b": [name(3)]}) is None
    circle = graph.cycle([("a", name(2))], {name(2): ["batch:b"]}, {"a": [], "b": [name(1)]})
    assert circle == [Parent("a", True), Parent(name(2)), Parent("b", True), Parent(name(1)), Parent("a", True)]


MANY = 20_000


@pytest.mark.parametrize("shape", ["batches in a chain", "one after many", "many after one", "pairs"])
def test_the_memory_for_waiting_jobs_is_bounded(shape: str) -> None:
    """400 bytes each at most, the id included."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        graph = Dependencies()
        if shape == "one after many":
            graph.add(name(MANY), ["batch:b"])
            graph.block(name(MANY))
            for number in range(MANY):
                graph.joined("b", name(number))
        for number in range(MANY) if shape != "one after many" else ():
            child = name(number)
            batch = number // 1_000
            match shape:
                case "batches in a chain":
                    after = [f"batch:{batch - 1}"] if batch else ["f" * 24]
                case "many after one":
                    after = ["f" * 24]
                case _:
                    after = [name(MANY + number)]
            graph.add(child, after)
            graph.block(child)
            if shape == "batches in a chain":
                graph.joined(str(batch), child)
        for known in graph.unknown().batches:
            graph.batch_is(*known, [], {})
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"{shape}: {used / MANY:.0f} bytes")
    assert used / MANY < 400
