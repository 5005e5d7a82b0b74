"""Devices in the pure scheduler: none has two jobs at once, and none is idle while a job waits for it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orqal.models import GPU, UNITS, Device, Part, Resources, Shape, Wanted, wanted_of
from orqal.scheduling import Host, Policy, impossible, why_not
from orqal.scheduling.host import capacity_of, free_of
from orqal.scheduling.planner import PATIENCE
from tests.support.scheduling_scene import Scene, host


def with_gpus(name: str, *memories: float, threads: float = 8, shared: bool = False, **more: float) -> Host:
    """A host with GPUs of so much memory, and with so much of declared resources that are only counted."""
    devices = tuple(Device(GPU, f"gpu{number}", memory) for number, memory in enumerate(memories))
    node = Resources.from_ray({"threads": threads, "ram_gb": 64, GPU: len(devices), **more})
    sharing = frozenset([GPU] * shared)
    return Host(name, capacity_of(node, devices, frozenset()), devices=devices, shared=sharing)


def asks(gpus: Any = None, least: float | None = None, threads: float = 1, **resources: float) -> Shape:
    return Shape(threads, 1, frozenset(), wanted_of(gpus, least, resources))


class AnyDevices(RuleBasedStateMachine):
    """Jobs that want devices of every kind, on hosts whose devices come and go; checked against a look at each host."""

    def __init__(self) -> None:
        super().__init__()
        policy = Policy(preempts_from=2)
        hosts = with_gpus("a", 16, 24, 24), with_gpus("b", 16, shared=True, fpga=2), host("c", 8, 64)
        self.scene = Scene(*hosts, policy=policy)
        self.all = {at.id: (at.capacity, at.devices) for at in hosts}
        self.jobs = 0
        self.decided = False

    @rule(
        shape=st.builds(
            asks,
            st.sampled_from([None, None, 1, 2, 3, "all", 0.5, 0.25, ["gpu1"], ["gpu0", "elsewhere"]]),
            st.sampled_from([None, None, 16.0, 20.0, 40.0]),
            st.sampled_from([0.5, 1, 4]),
        )
        | st.builds(asks, fpga=st.sampled_from([1, 2])),
        user=st.sampled_from("uv"),
        priority=st.sampled_from([0, 0, 0, 2]),
        seconds=st.sampled_from([None, 5.0, 60.0]),
        count=st.integers(1, 3),
    )
    def submit(self, shape: Shape, count: int, **more: Any) -> None:
        self.decided = False
        for _ in range(count):
            self.jobs += 1
            self.scene.push(str(self.jobs), shape=shape, **more)

    @rule(seconds=st.sampled_from([0.0, PATIENCE, 60.0]))
    def decide(self, seconds: float) -> None:
        self.scene.now += seconds
        for job in self.scene.place():
            placed = self.scene.running[job]
            for wanted in placed.key.shape.wanted:
                got = [part for part in placed.resources.parts if part.resource == wanted.resource]
                memories = {device.id: device.memory_gb or 0 for device in self.scene.hosts[placed.host].devices}
                if wanted.units is not None:
                    assert sum(part.units for part in got) == wanted.units
                if wanted.least_gb is not None:
                    assert all(memories[part.device] >= wanted.least_gb for part in got)
                if wanted.resource == GPU and (wanted.units is None or wanted.units >= UNITS):
                    assert all(part.units == UNITS for part in got)
        self.decided = True

    @precondition(lambda self: self.scene.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.decided = False
        self.scene.end(data.draw(st.sampled_from(sorted(self.scene.running))))

    @rule(name=st.sampled_from("ab"), count=st.integers(0, 3))
    def devices_come_and_go(self, name: str, count: int) -> None:
        self.decided = False
        at, (capacity, devices) = self.scene.hosts[name], self.all[name]
        at.devices = devices[:count]
        self.scene.planner.refit(at, capacity_of(capacity, at.devices, frozenset()))

    @rule(name=st.sampled_from("ab"), held=st.booleans())
    def others_hold_a_gpu(self, name: str, held: bool) -> None:
        self.decided = False
        self.scene.change(name, others=Resources(0, 0, (Part(GPU, "", UNITS),) if held else ()))

    @invariant()
    def no_device_is_given_twice(self) -> None:
        for name, at in self.scene.hosts.items():
            used = Resources(0, 0)
            for placed in self.scene.running.values():
                used = used.plus(placed.resources) if placed.host == name else used
            assert used == at.used
            assert used.fits(self.all[name][0]), "more than there ever was"

    @invariant()
    def the_index_is_right(self) -> None:
        room = self.scene.planner.room
        kept = {slot.host.id for slot in room.slots(room.kept)}
        for kind in room.kinds():
            own = {slot.host.id for slot in room.slots(kind.kept)}
            fitting = {
                at.id
                for at in self.scene.hosts.values()
                if at.could_ever(kind.key.shape)
                and at.has_room(kind.key.shape, at.room)
                and (at.id not in kept or at.id in own)
            }
            assert {slot.host.id for slot in room.slots(room.candidates(kind))} == fitting
            assert bool(room.roomy & kind.bit) == bool(fitting)
            for at in fitting:
                assert why_not(kind.key.shape, self.scene.hosts[at]) is None

    @invariant()
    def none_is_idle_while_a_job_waits_for_it(self) -> None:
        if self.decided:
            assert not self.scene.planner.room.roomy & self.scene.queue.waiting_kinds

    def teardown(self) -> None:
        """Once all devices are there, every job that could ever run does run."""
        for name, (capacity, devices) in self.all.items():
            self.scene.hosts[name].devices = devices
            self.scene.hosts[name].others = Resources(0, 0)
            self.scene.planner.refit(self.scene.hosts[name], capacity)
        while self.scene.running or self.scene.place():
            self.scene.end(*self.scene.running)
        assert all(impossible(line.key.shape, self.scene.hosts.values()) for line in self.scene.queue.lines())


TestAnyDevices = AnyDevices.TestCase


def test_a_job_gets_the_smallest_gpu_that_will_do() -> None:
    scene = Scene(with_gpus("h", 24, 16, 48))
    scene.push("a", "b", shape=asks(1))
    scene.push("large", shape=asks(1, 40), user="v")
    assert set(scene.place()) == {"a", "b", "large"}
    given = {job: placed.resources.devices[GPU] for job, placed in scene.running.items()}
    assert given == {"a": ["gpu1"], "b": ["gpu0"], "large": ["gpu2"]}


def test_parts_of_a_shared_gpu_fill_it_before_another_is_begun() -> None:
    scene = Scene(with_gpus("h", 16, 16, shared=True))
    scene.push("a", "b", "c", shape=asks(0.4))
    scene.push("whole", shape=asks(1))
    scene.place()
    assert [scene.running[job].resources.devices[GPU] for job in "abc"] == [["gpu0"], ["gpu0"], ["gpu1"]]
    assert "whole" not in scene.running


def test_all_gpus_of_a_host_are_those_of_a_host_that_has_any() -> None:
    scene = Scene(host("none", 64, 64), with_gpus("h", 16, 16))
    scene.push("a", shape=asks("all"))
    scene.place()
    assert scene.running["a"].host == "h" and scene.running["a"].resources.devices == {GPU: ["gpu0", "gpu1"]}
    assert impossible(asks("all"), [host("none")])


def test_devices_by_their_names_are_counted_where_they_are_known() -> None:
    scene = Scene(with_gpus("h", 16, 16))
    scene.push("first", shape=asks(["gpu0", "vendor.com/net=0"]))
    scene.push("second", shape=asks(["gpu0"]))
    assert scene.place() == ["first"]
    assert scene.running["first"].resources.devices == {GPU: ["gpu0"]}
    assert not impossible(asks(["vendor.com/net=0"]), [host("h")]), "Docker is asked for it, as before"


def test_a_gpu_counts_for_its_user_s_share() -> None:
    scene = Scene(with_gpus("h", 16, 16, threads=100))
    scene.push("g1", user="gina", shape=asks(1))
    scene.push("t1", user="tom", shape=asks(threads=30))
    scene.place()
    parts = {share.user: share.part for share in scene.planner.shares.all(0.0)}
    assert parts == {"gina": 0.5, "tom": 0.3}
    scene.end("g1")
    assert {share.user: share.part for share in scene.planner.shares.all(0.0)}["gina"] == 0


def test_a_host_is_kept_free_for_a_job_that_wants_many_gpus() -> None:
    scene = Scene(with_gpus("h", 16, 16))
    scene.push("one", "two", shape=asks(1), seconds=100.0)
    scene.place()
    scene.push("both", user="v", shape=asks(2))
    scene.push("three", "four", user="w", shape=asks(1), seconds=1_000.0)
    scene.end("one")
    assert scene.place() == ["three"], "it is overtaken at first"
    scene.now = PATIENCE
    scene.place()
    scene.end("two")
    scene.place()
    assert "four" not in scene.running, "the gpu is kept for it"
    scene.end("three")
    assert scene.place() == ["both"]


def test_a_job_that_preempts_stops_only_whoever_has_what_it_wants() -> None:
    scene = Scene(with_gpus("h", 16), policy=Policy(preempts_from=5))
    scene.push("plain", shape=asks())
    scene.push("gpu", shape=asks(1))
    scene.place()
    scene.push("urgent", user="v", shape=asks(1), priority=5)
    scene.place()
    assert scene.stops == ["gpu"]


def test_why_a_host_does_not_take_it() -> None:
    at = with_gpus("h", 16, 16, fpga=3)
    at.used = Resources(0, 0, (Part(GPU, "gpu0", UNITS), Part("fpga", "", 2 * UNITS)))
    assert why_not(asks(2), at) == "it has 2 gpus, 1 of it free, and the job asks for 2 gpus"
    assert why_not(asks(fpga=2), at) == "it has 3 fpga, 1 of it free, and the job asks for 2 fpga"
    assert why_not(asks(1), at) is None
    assert why_not(asks(["gpu0"]), at) == "it has 2 gpus, 1 of it free, and the job asks for the gpu gpu0"
    at.used = at.used.plus(Resources(0, 0, (Part(GPU, "gpu1", UNITS),)))
    assert why_not(asks(1), at) == "it has 2 gpus, both are taken"


@st.composite
def amounts(draw: st.DrawFn) -> Resources:
    names = st.sampled_from([(GPU, "0"), (GPU, "1"), ("x", "")])
    parts = draw(st.dictionaries(names, st.integers(1, 3 * UNITS)))
    return Resources(
        draw(st.integers(0, 99)), draw(st.integers(0, 99)), tuple(sorted(Part(*k, n) for k, n in parts.items()))
    )


@given(amounts(), amounts())
def test_amounts_add_up(one: Resources, two: Resources) -> None:
    total = one.plus(two)
    assert total == two.plus(one) and total.minus(two) == one and one.fits(total)
    assert total.counted == one.counted.plus(two.counted)
    assert Resources.from_ray(one.to_ray()).totals == one.totals
    assert one.minus(one) == Resources(0, 0)


def test_free_of_a_room() -> None:
    assert free_of(Resources(1, 1, (Part("x", "", 5),))) == {("x", ""): 5}
    assert Wanted(GPU, UNITS, 16.0) in asks(1, 16).wanted
