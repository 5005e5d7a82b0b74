"""Any mix of jobs, users, hosts and what is decided about them keeps what always holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orqal.models import BatchPolicy, Resources, Shape
from orqal.scheduling import LineKey, Policy, impossible, standing_of
from orqal.scheduling.planner import PATIENCE
from tests.support.scheduling_scene import GPU, Scene, host


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
        self.decided = False

    @rule(
        user=st.sampled_from("uvw"),
        shape=st.builds(Shape, amounts, amounts, st.sampled_from([frozenset(), GPU]), st.just(())),
        image=st.sampled_from([None, "x:1", "y:1"]),
        avoid=st.frozensets(st.sampled_from("abc"), max_size=2),
        count=st.integers(1, 5),
    )
    def submit(self, user: str, shape: Shape, image: str | None, avoid: frozenset[str], count: int) -> None:
        self.decided = False
        key = LineKey(user, shape, image, avoid)
        for _ in range(count):
            self.jobs += 1
            self.scene.planner.push(str(self.jobs), key)
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
        self.decided = True

    @precondition(lambda self: self.scene.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.decided = False
        self.scene.end(data.draw(st.sampled_from(sorted(self.scene.running))))

    @precondition(lambda self: self.scene.running)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        self.decided = False
        job = data.draw(st.sampled_from(sorted(self.scene.running)))
        key = self.scene.running[job].key
        self.scene.end(job)
        self.scene.planner.push(job, key, first=True)
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
        self.decided = False
        self.scene.change(name, open=not self.scene.hosts[name].open)

    @rule(name=st.sampled_from("abc"))
    def suspect_or_trust(self, name: str) -> None:
        self.decided = False
        self.scene.change(name, on_trial=not self.scene.hosts[name].on_trial)

    @rule(name=st.sampled_from("abc"), part=st.sampled_from([0.0, 0.3, 1.0]))
    def others_take_and_give_back(self, name: str, part: float) -> None:
        """Another Ray program holds a part of what is free. It cannot hold more, because Ray gives it only that."""
        self.decided = False
        at = self.scene.hosts[name]
        free = at.capacity.minus(at.used)
        self.scene.change(name, others=Resources(int(free.threads * part), int(free.ram * part)))

    @invariant()
    def no_host_is_overbooked(self) -> None:
        for name, at in self.scene.hosts.items():
            used = [placed.resources for placed in self.scene.running.values() if placed.host == name]
            total = Resources(sum(part.threads for part in used), sum(part.ram for part in used))
            assert total == at.used
            assert total.plus(at.others).fits(at.capacity)

    @invariant()
    def the_index_is_right(self) -> None:
        """What the index of the hosts says of a kind is what a look at each host says."""
        room = self.scene.planner.room
        kept = {slot.host.id for slot in room.slots(room.kept)}
        for kind in room.kinds():
            usable = [
                at for at in self.scene.hosts.values() if at.open and not at.on_trial and at.could_ever(kind.key.shape)
            ]
            able = [at for at in usable if at.id not in kind.key.avoid] or usable
            own = {slot.host.id for slot in room.slots(kind.kept)}
            fitting = {
                at.id for at in able if at.request(kind.key.shape).fits(at.room) and (at.id not in kept or at.id in own)
            }
            assert {slot.host.id for slot in room.slots(room.candidates(kind))} == fitting
            assert bool(room.roomy & kind.bit) == bool(fitting)

    @invariant()
    def no_room_is_left_unused(self) -> None:
        """After a decision, only hosts that are kept free or on trial have room for a job that waits."""
        if self.decided:
            assert not self.scene.planner.room.roomy & self.scene.queue.waiting_kinds

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = {job for jobs in self.lines.values() for job in jobs}
        assert len(self.scene.queue) == len(waiting)
        assert all(job in self.scene.queue for job in waiting)
        assert {line.jobs[0] for line in self.scene.queue.lines()} == {jobs[0] for jobs in self.lines.values() if jobs}

    def teardown(self) -> None:
        """Once there is room, every job that could ever run does run."""
        for at in self.scene.hosts.values():
            self.scene.change(at.id, open=True, on_trial=False, others=Resources(0, 0))
        while self.scene.running or self.scene.place():
            self.scene.end(*self.scene.running)
        assert all(impossible(line.key.shape, self.scene.hosts.values()) for line in self.scene.queue.lines())


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=settings().max_examples * 3 // 5, stateful_step_count=40)


class AnyOrder(RuleBasedStateMachine):
    """Jobs with priorities, limits, time limits and batches, on hosts that come and go, over time."""

    def __init__(self) -> None:
        super().__init__()
        policy = Policy(limits={"licence": 2, "app:A": 3}, per_user=6, preempts_from=2)
        self.scene = Scene(host("h1", 4, 8), host("h2", 2, 2), policy=policy)
        self.waiting: set[str] = set()
        self.decided: dict[str, BatchPolicy] = {}
        self.stopping: set[str] = set()
        self.jobs = self.hosts_made = 0

    @rule(
        user=st.sampled_from("uvw"),
        shape=st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 6), (None, 1)]),
        claims=st.sampled_from([(), (("licence", 1),), (("licence", 2),), (("app:A", 1),), (("free", 5),)]),
        seconds=st.sampled_from([None, 5.0, 100.0]),
        priority=st.integers(-1, 2),
        batch=st.sampled_from([None, "x", "y"]),
        count=st.integers(1, 4),
    )
    def submit(self, user: str, shape: tuple[float, float], count: int, **more: Any) -> None:
        for _ in range(count):
            self.jobs += 1
            self.scene.push(str(self.jobs), user=user, shape=shape, **more)
            self.waiting.add(str(self.jobs))

    @rule(
        batch=st.sampled_from("xy"),
        held=st.booleans(),
        priority=st.none() | st.integers(-1, 2),
        max_running=st.none() | st.integers(1, 3),
    )
    def decide_about_a_batch(self, batch: str, **decided: Any) -> None:
        self.decided[batch] = BatchPolicy(**decided)
        self.scene.planner.set_rule(batch, self.decided[batch])

    @rule(seconds=st.sampled_from([0.0, 1.0, PATIENCE, 50.0]))
    def decide(self, seconds: float) -> None:
        self.scene.now += seconds
        planner, before = self.scene.planner, dict(self.scene.running)
        started = self.scene.place()
        assert len(started) == len(set(started)) and set(started) <= self.waiting
        self.waiting -= set(started)
        for job in started:
            batch = self.scene.running[job].key.batch
            assert not self.decided.get(batch or "", BatchPolicy()).held
        taken = Counter(dict.fromkeys(("licence", "app:A"), 0) | {f"batch:{batch}": 0 for batch in "xy"})
        for placed in self.scene.running.values():
            for name, amount in placed.key.claims:
                taken[name] += amount
            if f"batch:{placed.key.batch}" in taken:
                taken[f"batch:{placed.key.batch}"] += not any(n.startswith("batch:") for n, _ in placed.key.claims)
        limits = {"licence": 2, "app:A": 3} | {
            f"batch:{batch}": rule.max_running for batch, rule in self.decided.items()
        }
        for name, limit in limits.items():
            newly = any(name.removeprefix("batch:") == self.scene.running[job].key.batch for job in started)
            if limit is not None and (newly or not name.startswith("batch:")):
                assert taken[name] <= limit, name
        users = Counter(placed.key.user for placed in self.scene.running.values())
        assert max(users.values(), default=0) <= 6
        for job in self.scene.stops:
            assert job in before or job in started
            key = self.scene.running[job].key
            changed = self.decided.get(key.batch or "", BatchPolicy()).priority
            assert (key.priority if changed is None else changed) < 2
            self.stopping.add(job)
        unused = planner.room.roomy & self.scene.queue.waiting_kinds & ~planner.limits.full
        for level in self.scene.queue.levels:
            for *_, owner in level.order:
                assert not owner.mask & unused or users[owner.user] >= 6, "a job waits that could start"

    @precondition(lambda self: self.scene.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.scene.running)))
        key = self.scene.running[job].key
        self.scene.end(job)
        if job in self.stopping:
            self.stopping.discard(job)
            self.scene.planner.push(job, key, first=True)
            self.waiting.add(job)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.scene.queue.remove(job)
        self.waiting.discard(job)

    @rule(threads=st.integers(1, 6))
    def join(self, threads: int) -> None:
        self.hosts_made += 1
        new = host(f"n{self.hosts_made}", threads, 8)
        self.scene.hosts[new.id] = new
        self.scene.planner.add(new)

    @precondition(lambda self: len(self.scene.hosts) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.scene.hosts)))
        self.scene.planner.remove(self.scene.hosts.pop(name))

    @rule(data=st.data())
    def open_or_close(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.scene.hosts)))
        self.scene.change(name, open=not self.scene.hosts[name].open)

    @invariant()
    def no_host_has_more_in_use_than_it_has(self) -> None:
        for at in self.scene.hosts.values():
            assert Resources(0, 0).fits(at.used) and at.used.fits(at.capacity)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert set(self.scene.queue.jobs()) == self.waiting
        assert {job for line in self.scene.queue.lines() for job in line.jobs if job not in line.blanks} == self.waiting
        planner = self.scene.planner
        assert {job for job, _ in planner.running()} == self.scene.running.keys()
        for user in "uvw":
            running = [placed for placed in self.scene.running.values() if placed.key.user == user]
            assert planner.shares.running(user) == len(running)

    @invariant()
    def where_each_job_stands_can_be_told(self) -> None:
        for job in sorted(self.waiting)[:2]:
            standing = standing_of(self.scene.planner, job, self.scene.now)
            assert standing is not None and standing.older < len(self.waiting)

    def teardown(self) -> None:
        """Once everything is open and allowed, all jobs that could ever run do run, and no one holds anything then."""
        for name in list(self.scene.hosts):
            self.scene.change(name, open=True)
        for batch in "xy":
            self.scene.planner.set_rule(batch, BatchPolicy())
        while self.scene.running or self.scene.place():
            self.scene.now += PATIENCE
            self.scene.end(*self.scene.running)
        left = list(self.scene.queue.lines())
        assert all(impossible(line.key.shape, self.scene.hosts.values()) for line in left)
        self.scene.planner.decide(self.scene.now)
        assert not self.scene.planner.room.kept or left
        if not left:
            assert all(share.part == 0 for share in self.scene.planner.shares.all(self.scene.now))


TestOrder = AnyOrder.TestCase
TestOrder.settings = settings(max_examples=settings().max_examples * 3 // 5, stateful_step_count=40)
