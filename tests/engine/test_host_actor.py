"""A host in front of a real Docker daemon. Ray and the Scheduler are played by a recorder."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import docker
import pytest
from bson import ObjectId

from orqal.actors.host import disk_use
from orqal.actors.host.container_run import ContainerRun
from orqal.actors.messages import Order
from orqal.engine.client import Engine
from orqal.engine.errors import Unreachable
from orqal.models import ErrorType, JobRecord, Outcome, RetryPolicy
from orqal.scheduling.lifecycle import Wish
from tests.support.host_actor import Actors, ended, order, seconds, shell
from tests.support.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]
T = TypeVar("T")

TIMEOUT = 8.0


@pytest.fixture
def lab(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Actors]:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_STOP_GRACE", "1")
    actors = Actors(f"test-{ObjectId()}")
    yield actors
    actors.clear()


def test_over_its_time_it_gets_sigterm_and_then_sigkill(lab: Actors) -> None:
    actor = lab.actor()
    loop = "while :; do sleep 0.2; done"
    deaf = lab.do(actor.run(shell(f"trap '' TERM; echo on; {loop}", 2)))
    polite = lab.do(actor.run(shell(f"trap 'echo bye; exit 3' TERM; echo on; {loop}", 2)))
    assert ended(deaf.result(60)) == (ErrorType.TIMEOUT, 137, "on\n")
    assert ended(polite.result(60)) == (ErrorType.TIMEOUT, 3, "on\nbye\n")


def test_its_time_goes_on_while_no_actor_is_there(lab: Actors) -> None:
    first = lab.actor()
    wanted = shell("trap '' TERM; echo on; while :; do sleep 0.2; done", TIMEOUT)
    lab.begin(first, wanted)
    lab.forget(first)
    container = lab.container()
    begun = seconds(container.attrs["State"]["StartedAt"])
    while time.time() < begun + TIMEOUT:
        time.sleep(0.1)
    attached = time.time()
    outcome = lab.do(lab.actor().run(wanted)).result(60)
    assert ended(outcome) == (ErrorType.TIMEOUT, 137, "on\n")
    start = outcome.start
    assert start is not None and start.container_id == container.id
    assert (start.image, start.image_digest) == ("orqal/demo:latest", container.attrs["Image"])
    assert start.cmd == wanted.job.params["cmd"]
    assert abs(start.ago - (attached - begun)) < TIMEOUT / 2
    assert lab.recorder.starts[-1].start == start, "the first may have died before it could report it"
    # From the order on it would have had as much time again.
    container.reload()
    assert seconds(container.attrs["State"]["FinishedAt"]) < attached + TIMEOUT


def test_the_doctor_learns_which_images_the_host_has(lab: Actors) -> None:
    actor = lab.actor()
    lab.do(actor.run(order("true"))).result(60)  # the daemon is known then
    examined = lab.do(actor.examine(["orqal/demo:latest", "orqal/no-such:1"])).result(30)
    assert examined.daemon_silent is None
    assert {name: image.id for name, image in examined.images.items()} == {
        "orqal/demo:latest": lab.client.images.get("orqal/demo").id
    }


def test_what_the_user_has_got_wrong_does_not_pass_and_what_others_did_does(lab: Actors) -> None:
    actor = lab.actor()
    for cmd, code in (("/no/such", 127), ("/etc", 126)):
        outcome = lab.do(actor.run(order(cmd))).result(60)
        assert (ended(outcome)[:2], outcome.passing) == ((ErrorType.DOCKER_ERROR, code), False)
    for container in lab.client.containers.list(all=True, filters={"label": f"orqal.cluster={lab.cluster}"}):
        assert container.labels["orqal.labels"] == "1"
        container.remove()
    running = lab.begin(actor, shell("echo on; sleep 1000"))
    lab.container().remove(force=True)
    outcome = running.result(60)
    assert (ended(outcome)[0], outcome.passing) == (ErrorType.DOCKER_ERROR, True)


def test_a_daemon_that_is_away_for_a_moment_costs_nothing(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = lab.actor()
    running = lab.begin(actor, shell("echo on; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo whole"))
    real, failures = Engine.logs, iter((1, 2))

    def away(self: Engine, *args: Any, **more: Any) -> Any:
        if next(failures, None):
            raise Unreachable("away")
        return real(self, *args, **more)

    monkeypatch.setattr(Engine, "logs", away)
    container = lab.container()
    assert container.exec_run(["sh", "-c", ": > /tmp/go"])[0] == 0
    outcome = running.result(60)
    assert ended(outcome) == (None, 0, "on\nwhole\n")
    assert outcome.start is not None and outcome.start.container_id == container.id


def test_a_daemon_that_stays_away_is_given_up(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_HOST_LOST_AFTER", "1")
    actor = lab.actor()
    running = lab.begin(actor, shell("echo on"))

    def away(*_: Any, **__: Any) -> Any:
        raise Unreachable("away")

    for name in ("logs", "ended", "ran_for"):
        monkeypatch.setattr(Engine, name, away)
    outcome = running.result(60)
    assert (ended(outcome)[0], outcome.passing) == (ErrorType.DOCKER_ERROR, True)


def test_a_cancel_ends_it_at_any_moment(lab: Actors) -> None:
    actor = lab.actor()
    for pause in (0, 0.01, 0.1, 0.3, 0.6, 1.0):
        wanted = shell("echo on; sleep 1000")
        running = lab.do(actor.run(wanted))
        time.sleep(pause)
        lab.do(actor.stop(wanted.job.id, 1, Wish.CANCEL)).result(60)
        assert ended(running.result(60))[0] is ErrorType.CANCELLED
        lab.do(actor.release(wanted.job.id, 1)).result(60)
    assert lab.client.containers.list(all=True, filters={"label": f"orqal.cluster={lab.cluster}"}) == []


@pytest.mark.parametrize("known", [True, False], ids=["the same actor", "another actor"])
def test_an_earlier_attempt_that_is_still_here_ends_before_the_next_one_begins(lab: Actors, known: bool) -> None:
    actor = lab.actor()
    first = shell("echo on; while :; do sleep 0.1; done")
    running = lab.begin(actor, first)
    before = lab.container().id
    if not known:
        lab.forget(actor)
        actor = lab.actor()
    job = JobRecord(**(first.job.model_dump() | {"attempt": 2, "params": shell("echo second").job.params}))
    again = lab.do(actor.run(Order(job, first.ref, first.resources, None)))
    assert ended(again.result(60)) == (None, 0, "second\n")
    container = lab.container()
    assert container.id != before
    if known:
        assert ended(running.result(60))[0] is ErrorType.CANCELLED


def test_a_stop_that_overtakes_its_order_is_heeded(lab: Actors) -> None:
    actor = lab.actor()
    wanted = shell("echo on; sleep 1000")
    lab.do(actor.stop(wanted.job.id, 1, Wish.EVICT)).result(60)
    assert ended(lab.do(actor.run(wanted)).result(60)) == (ErrorType.HOST_LOST, None, "")
    assert lab.recorder.starts == []


def test_a_stop_during_a_restart_of_the_daemon_is_carried_out(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = lab.actor()
    wanted = shell("echo on; sleep 1000")
    running = lab.begin(actor, wanted)
    real, failures = Engine.stop, iter((1, 2))

    def away(self: Engine, *args: Any, **more: Any) -> Any:
        if next(failures, None):
            raise Unreachable("away")
        return real(self, *args, **more)

    monkeypatch.setattr(Engine, "stop", away)
    lab.do(actor.stop(wanted.job.id, 1, Wish.CANCEL)).result(60)
    assert ended(running.result(60)) == (ErrorType.CANCELLED, 143, "on\n")


def test_a_job_that_will_be_tried_again_gets_no_result(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    async def result(*_: Any) -> Outcome:
        raise AssertionError

    monkeypatch.setattr(ContainerRun, "_result", result)
    wanted = order("sh", "-c", "echo on; exit 9", retry_policy=RetryPolicy(retries=1, retry_on=[9]))
    outcome = lab.do(lab.actor().run(wanted)).result(60)
    assert ended(outcome) == (None, 9, "on\n")


def test_a_process_that_is_killed_for_memory_is_noticed_though_the_command_exits_with_0(lab: Actors) -> None:
    actor = lab.actor()
    outcome = lab.do(actor.run(shell("dd if=/dev/zero of=/dev/null bs=200M count=1; echo on"))).result(60)
    assert ended(outcome) == (None, 0, "on\n") and outcome.oom_killed
    assert not lab.do(actor.run(shell("true"))).result(60).oom_killed


def test_a_flood_of_output_keeps_its_end_and_says_so(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    """5.8 MB in Docker's log, where a line of two bytes takes 29."""
    monkeypatch.setenv("ORQAL_LOG_CAP", "1000000")
    actor = lab.actor()
    outcome = lab.do(actor.run(shell("echo begin; yes | head -n 200000; echo the end"))).result(120)
    assert (outcome.error, outcome.exit_code) == (None, 0)
    assert "ORQAL_LOG_CAP" in (outcome.output_cut or "")
    assert outcome.output.stdout.endswith("y\ny\nthe end\n") and "begin" not in outcome.output.stdout
    # Between 9 and 10 of the files that an eighth of the cap fills.
    assert 1_000_000 < outcome.stdout_bytes / 2 * 29 < 1_300_000
    short = lab.do(actor.run(shell("yes | head -n 10000"))).result(60)
    assert (short.stdout_bytes, short.output_cut) == (20_000, None)


@pytest.mark.parametrize("known", [True, False], ids=["the same actor", "another actor"])
def test_who_writes_more_than_its_cap_is_stopped(lab: Actors, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    monkeypatch.setenv("ORQAL_JOB_DISK_GB", "0.02")
    monkeypatch.setattr(disk_use, "_PAUSE", 0.2)
    actor = lab.actor()
    small = shell("dd if=/dev/zero of=/some bs=1M count=10; sleep 1; echo on")
    assert ended(lab.do(actor.run(small)).result(60)) == (None, 0, "on\n")
    lab.do(actor.release(small.job.id, 1)).result(60)
    large = shell("while [ ! -e /tmp/go ]; do sleep 0.1; done; dd if=/dev/zero of=/much bs=1M count=30; sleep 1000")
    running = lab.begin(actor, large)
    if not known:
        lab.forget(actor)
        monkeypatch.setenv("ORQAL_JOB_DISK_GB", "0")  # what holds is what held at its start
        running = lab.do(lab.actor().run(large))
    assert lab.container().exec_run(["sh", "-c", ": > /tmp/go"])[0] == 0
    assert ended(running.result(60)) == (ErrorType.OUT_OF_DISK, 143, "")


def test_what_is_written_into_the_volumes_of_an_image_counts(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_JOB_DISK_GB", "0.02")
    monkeypatch.setattr(disk_use, "_PAUSE", 0.2)
    name = "orqal/test-volume"
    with contextlib.closing(docker.from_env()) as client:
        base = client.containers.create("orqal/demo", "true")
        try:
            base.commit(name, changes="VOLUME /data")
            wanted = shell("dd if=/dev/zero of=/data/much bs=1M count=30; sleep 1000")
            wanted.job.params["image"] = name
            assert ended(lab.do(lab.actor().run(wanted)).result(60)) == (ErrorType.OUT_OF_DISK, 143, "")
        finally:
            base.remove()
            lab.clear()
            client.images.remove(name, force=True)


def test_a_host_pulls_from_the_administrator_s_registries_only(lab: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_REGISTRIES", "registry.example.org")
    wanted = shell("true")
    wanted.job.params["image"] = "169.254.169.254/a"
    error = lab.do(lab.actor().run(wanted)).result(60).error
    assert error is not None and error.type is ErrorType.PULL_FAILED
    assert "does not pull from 169.254.169.254" in error.message and "ORQAL_REGISTRIES" in error.message


def test_who_stops_its_container_has_it_run_again(lab: Actors) -> None:
    actor = lab.actor()
    polite = lab.begin(actor, shell("trap 'exit 0' TERM; echo on; while :; do sleep 0.1; done"))
    lab.container().stop()
    outcome = polite.result(60)
    assert (ended(outcome), outcome.passing) == ((ErrorType.DOCKER_ERROR, 0, "on\n"), True)
    assert outcome.error is not None and "stopped from outside" in outcome.error.message
    lab.container().remove()
    # Other signals are between the program and who sends them.
    told = lab.begin(actor, shell("trap 'exit 3' HUP; while :; do sleep 0.1; done"))
    lab.container().exec_run(["sh", "-c", "kill -HUP 1"])
    assert ended(told.result(60)) == (None, 3, "")
    lab.container().remove()
    told = lab.begin(actor, shell("trap 'exit 3' HUP; while :; do sleep 0.1; done"))
    lab.container().kill("SIGHUP")
    assert ended(told.result(60)) == (None, 3, "")


def test_whoever_stopped_it_for_its_time_its_time_was_over(lab: Actors) -> None:
    """An actor stops it, and dies before it can tell."""
    first = lab.actor()
    wanted = shell("echo on; while :; do sleep 0.2; done", 2)
    lab.begin(first, wanted)
    lab.forget(first)
    container = lab.container()
    while time.time() < seconds(container.attrs["State"]["StartedAt"]) + 2:
        time.sleep(0.1)
    container.stop(timeout=1)
    assert ended(lab.do(lab.actor().run(wanted)).result(60)) == (ErrorType.TIMEOUT, 143, "on\n")


def test_a_job_makes_no_device_although_it_is_root(lab: Actors) -> None:
    status = "while read name value; do test $name = CapBnd: && echo $value; done < /proc/self/status"
    outcome = lab.do(lab.actor().run(shell(f"id -u; mknod /tmp/disk b 8 0 || echo refused; {status}"))).result(60)
    user, refused, bounds = outcome.output.stdout.split()
    assert (user, refused) == ("0", "refused"), outcome
    not_for_jobs = {"SETPCAP": 8, "NET_RAW": 13, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31}
    assert [name for name, bit in not_for_jobs.items() if int(bounds, 16) >> bit & 1] == []


def test_a_job_that_ended_while_its_container_was_prepared_starts_none(
    lab: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a cancel by a Scheduler that has just started, and did not know that the host was at it."""
    preparing, go, real = threading.Event(), threading.Event(), ContainerRun._have_image

    async def slowly(self: ContainerRun, *args: Any) -> str:
        preparing.set()
        await asyncio.to_thread(go.wait, 60)
        return await real(self, *args)

    monkeypatch.setattr(ContainerRun, "_have_image", slowly)
    actor = lab.actor()
    wanted = shell("sleep 1000")
    running = lab.do(actor.run(wanted))
    assert preparing.wait(60)
    lab.do(actor.release(wanted.job.id, 1)).result(60)
    go.set()
    assert ended(running.result(60))[0] is ErrorType.CANCELLED
    assert lab.recorder.starts == []
    until(lambda: not (lab.containers() or actor._runs))
