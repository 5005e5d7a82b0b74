"""A Docker daemon, or its whole machine, ends under a job, and comes back."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from bson import ObjectId

from orqal.actors.host import engine_watch
from orqal.models import ErrorType
from orqal.scheduling.probation import could_not_start
from tests.cluster.faults import wait_for
from tests.cluster.host import Host
from tests.cluster.lab import give_image
from tests.cluster.namespaces import Namespaces
from tests.support.checkout import REPOSITORY
from tests.support.host_actor import Actors, ended, shell

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def host(cluster: Namespaces) -> Iterator[Host]:
    """A host whose daemon or power a test may switch off. In the end it is as it was."""
    host = cluster.hosts[-1]
    yield host
    if not host.on:
        host.power_on()
    host.stop_docker()
    host.start_docker()


@pytest.fixture(scope="module", params=["--live-restore=true", "--live-restore=false"])
def option(host: Host, request: pytest.FixtureRequest) -> str:
    """The option that the daemon has been started with."""
    option: str = request.param
    host.stop_docker()
    host.start_docker(option)
    return option


@pytest.fixture
def actors(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Actors]:
    monkeypatch.setenv("DOCKER_HOST", host.docker_host)
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_STOP_GRACE", "1")
    actors = Actors(f"test-{ObjectId()}")
    yield actors
    actors.clear()


WAIT = "trap 'exit 143' TERM; echo on; until test -e /tmp/go; do sleep 0.1; done; echo over"
"""Ends at once when the daemon stops its container."""


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_daemon_that_ends_and_starts_again(host: Host, option: str, actors: Actors, signal: str) -> None:
    running = actors.begin(actors.actor(), shell(WAIT))
    process = actors.container().attrs["State"]["Pid"]
    host.stop_docker(signal)
    wait_for(lambda: actors.recorder.reports[-1].state != "ready", "the host has noticed it", 60)
    host.start_docker(option)
    if "true" in option:
        # The container went on all the time, and its output is whole. It does not end before the host has found the
        # daemon again, because then it would run again.
        wait_for(lambda: actors.recorder.reports[-1].state == "ready", "the host is back", 60)
        host.run(["touch", f"/proc/{process}/root/tmp/go"])
        assert ended(running.result(60)) == (None, 0, "on\nover\n")
    else:
        outcome = running.result(60)
        assert (ended(outcome), outcome.passing) == ((ErrorType.DOCKER_ERROR, 143, "on\n"), True)


LINES, MANY = 300, 20
"""Lines that a container prints before and after a while, and how many such containers there are."""


def test_what_ends_while_a_daemon_comes_back_is_whole_or_runs_again(host: Host, option: str, actors: Actors) -> None:
    """Containers end by themselves at each moment of the daemon's absence and of its start."""
    script = f"seq {LINES}; until test -e /tmp/go; do sleep 0.05; done; sleep {{}}; seq {LINES}"
    actor = actors.actor()
    running = [actors.begin(actor, shell(script.format(number / 5))) for number in range(MANY)]
    signs = [f"/proc/{each.attrs['State']['Pid']}/root/tmp/go" for each in actors.containers()]
    host.run(["touch", *signs])
    host.stop_docker("KILL")
    host.start_docker(option)
    outcomes = [each.result(60) for each in running]
    whole = [f"{number}" for number in range(1, LINES + 1)] * 2
    ended_well = {number: outcome for number, outcome in enumerate(outcomes) if outcome.error is None}
    output = {number: outcome.output.stdout.splitlines() for number, outcome in ended_well.items()}
    cut = {number: (len(lines), lines[-1:]) for number, lines in output.items() if lines != whole}
    assert not cut, {number: ended_well[number].inspect for number in cut}
    assert all(outcome.passing for outcome in outcomes if outcome.error is not None)


def test_one_that_ends_while_there_is_no_daemon_runs_again(host: Host, option: str, actors: Actors) -> None:
    """Docker says that all went well, and has lost what it printed."""
    running = actors.begin(actors.actor(), shell(WAIT))
    process = actors.container().attrs["State"]["Pid"]
    host.stop_docker("KILL")
    host.run(["touch", f"/proc/{process}/root/tmp/go"])
    gone = f"while test -e /proc/{process}/root/tmp; do sleep 0.1; done"
    host.run(["bash", "-c", gone])
    host.start_docker(option)
    outcome = running.result(60)
    assert (ended(outcome), outcome.passing) == ((ErrorType.DOCKER_ERROR, 0, "on\n"), True)


@pytest.mark.parametrize("same_actor", [True, False])
def test_a_machine_that_loses_power(host: Host, actors: Actors, same_actor: bool) -> None:
    actor, wanted = actors.actor(), shell("echo on; sleep 1000")
    running = actors.begin(actor, wanted)
    if not same_actor:
        actors.forget(actor)
    host.power_off()
    host.power_on()
    outcome = (running if same_actor else actors.do(actors.actor().run(wanted))).result(60)
    assert (ended(outcome)[:2], outcome.passing) == ((ErrorType.DOCKER_ERROR, 255), True)
    assert outcome.error is not None and "was down" in outcome.error.message


def test_a_frozen_daemon_is_silent_and_what_runs_goes_on(host: Host, actors: Actors) -> None:
    actor = actors.actor()
    running = actors.begin(actor, shell(WAIT))
    container = actors.container()
    host.run(["pkill", "-STOP", "-x", "dockerd"])
    try:
        outcome = actors.do(actor.run(shell("true"))).result(60)
        assert (outcome.host_failed, outcome.start) == (True, None)
        assert actors.recorder.reports[-1].state.startswith("silent: ")
    finally:
        host.run(["pkill", "-CONT", "-x", "dockerd"])
    container.exec_run(["sh", "-c", ": >/tmp/go"])
    assert ended(running.result(60)) == (None, 0, "on\nover\n")
    deadline = time.monotonic() + 60
    label = f"orqal.cluster={actors.cluster}"
    while [left.id for left in actors.client.containers.list(all=True, filters={"label": label})] != [container.id]:
        assert time.monotonic() < deadline, "the daemon has created a container later, and it is left"
        time.sleep(0.1)


def test_a_daemon_that_can_start_nothing_says_so_of_each_job(host: Host, option: str, actors: Actors) -> None:
    """Its network is gone, but it answers all questions. The Scheduler sees that different jobs fail alike."""
    actor = actors.actor()
    host.run(["ip", "link", "delete", "docker0"])
    try:
        for wanted in (shell("echo one"), shell("echo two")):
            del wanted.job.params["network"]
            outcome = actors.do(actor.run(wanted)).result(60)
            assert could_not_start(outcome, started=False), outcome
            assert outcome.error is not None and outcome.error.type is ErrorType.DOCKER_ERROR and outcome.passing
        assert actors.recorder.reports[-1].state == "ready"
    finally:
        host.stop_docker()
        host.start_docker(option)


def test_a_daemon_that_gives_containers_users_of_their_own(host: Host, actors: Actors, tmp_path: Path) -> None:
    """With userns-remap root in a container is another user on the host."""
    ranges = "echo daemon:200000:65536 >/etc/subuid; cp /etc/subuid /etc/subgid"  # the host's own /etc
    home, job = "/root/orqal-remapped", str(ObjectId())
    body = "umask 077; echo x >file; mkdir folder; echo y >folder/file"
    source = (
        "class W(AbstractWrapper):\n    docker_url = 'orqal/demo'\n    network = 'none'\n    create_dir = True\n"
        f"    def get_cmd(self, params): return ['sh', '-c', {body!r}]\n"
    )
    host.stop_docker()
    host.run(["bash", "-c", ranges])
    try:
        host.start_docker("--userns-remap=daemon")
        give_image([host])
        program = [sys.executable, "-m", "tests.support.one_job", "0", "test-remapped", job, source]
        env = {"ORQAL_HOME": home, "PYTHONPATH": str(REPOSITORY), "REMOVE": "1"}
        done = host.run([*program, "file", "folder/file"], env)
        error, exit_code, listed, contents, left = json.loads(done.stdout.splitlines()[-1])
        assert (error, exit_code) == (None, 0)
        assert contents == {"file": "x\n", "folder/file": "y\n"}
        assert sorted(listed) == ["file", "folder/file", "params.json"]
        assert left == {}
        assert host.run(["ls", f"{home}/jobs"]).stdout == ""
    finally:
        host.stop_docker()
        host.run(["rm", "-rf", home])
        host.start_docker()


def test_a_container_whose_shim_is_killed_runs_again(host: Host, option: str, actors: Actors) -> None:
    """The process that holds a container and reads its output dies. Docker reports an end as of a program."""
    running = actors.begin(actors.actor(), shell(WAIT))
    container = actors.container().id
    host.run(["pkill", "-KILL", "-f", f"containerd-shim.*{container}"])
    outcome = running.result(60)
    assert outcome.error is not None, ended(outcome)
    assert (outcome.error.type, outcome.passing) == (ErrorType.DOCKER_ERROR, True)


@pytest.mark.parametrize("same_actor", [True, False])
def test_the_end_of_a_container_while_containerd_is_away_is_noticed(
    host: Host, option: str, actors: Actors, monkeypatch: pytest.MonkeyPatch, same_actor: bool
) -> None:
    """As during an upgrade. The daemon believes that it runs for ever."""
    monkeypatch.setattr(engine_watch, "_LOOK_EVERY", 1.0)
    actor, wanted = actors.actor(), shell(WAIT)
    ending = actors.begin(actor, wanted)
    process = actors.container().attrs["State"]["Pid"]
    going_on = actors.begin(actor, shell(WAIT))
    before = host.run(["pidof", "containerd"]).stdout
    if not same_actor:
        actors.forget(actor)
    host.run(["bash", "-c", f"pkill -KILL -x containerd; touch /proc/{process}/root/tmp/go"])
    if not same_actor:
        ending = actors.do(actors.actor().run(wanted))
    assert ended(ending.result(100)) == (None, 0, "on\nover\n")
    wait_for(lambda: host.run(["pidof", "containerd"], check=False).stdout not in (before, ""), "another one", 60)
    if same_actor:
        [container] = actors.client.containers.list(filters={"label": f"orqal.cluster={actors.cluster}"})
        host.run(["touch", f"/proc/{container.attrs['State']['Pid']}/root/tmp/go"])
        assert ended(going_on.result(60)) == (None, 0, "on\nover\n")


@pytest.fixture
def small_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The host with a disk for its daemon's data that can be filled, and actors that look as if they were on it."""
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=host.name, release=here.release))
    host.power_off()
    host.add_docker_disk(megabytes=1_500)
    host.power_on()
    give_image([host])
    yield host
    host.power_off()
    host.remove_docker_disk()
    host.power_on()


@pytest.mark.parametrize("emptied", [True, False], ids=["before the end", "after the end"])
def test_what_prints_while_docker_s_disk_is_full_runs_again(small_disk: Host, actors: Actors, emptied: bool) -> None:
    """Docker loses what it cannot write, says so to nobody, and reports a normal end."""
    script = "trap 'echo over; exit 0' USR2; trap 'echo lost; sleep 77 & wait' USR1; while :; do sleep 0.1; done"
    running = actors.begin(actors.actor(), shell(script))
    process = str(actors.container().attrs["State"]["Pid"])
    small_disk.fill_docker_disk()
    small_disk.run(["kill", "-USR1", process])
    wait_for(lambda: small_disk.run(["pgrep", "-x", "-f", "sleep 77"], check=False).returncode == 0, "it prints", 60)
    if emptied:
        wait_for(lambda: actors.recorder.reports[-1].shortage is not None, "the host has noticed it", 60)
        small_disk.empty_docker_disk()
    small_disk.run(["kill", "-USR2", process])
    outcome = running.result(60)
    assert "lost" not in outcome.output.stdout
    assert (ended(outcome)[:2], outcome.passing) == ((ErrorType.DOCKER_ERROR, 0), True)
    assert outcome.error is not None and "disk" in outcome.error.message
