"""The options of a container, with a real Docker daemon: each is in force, and an impossible one is told at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from orqal.actors.host.host import Host
from orqal.actors.messages import Order
from orqal.engine.client import Engine
from orqal.models import GPU, UNITS, ErrorType, JobRecord, Outcome, Part, Resources, now
from tests.support.docker_answers import again
from tests.support.host_actor import Actors
from tests.support.waiting import until
from tests.support.wrappers import ref_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def lab(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actors]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORQAL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("ORQAL_STOP_GRACE", "5")
        actors = Actors(f"test-{ObjectId()}")
        actors.host = actors.actor()  # type: ignore[attr-defined]
        yield actors
        actors.clear()


def run(
    lab: Actors,
    cmd: str | list[str],
    attributes: str = "",
    user: str = "u",
    timeout: float | None = None,
    options: dict[str, Any] | None = None,
) -> Outcome:
    """Run a command in the demo's image; `attributes` is a part of the wrapper's text."""
    ref = ref_of(
        f"docker_url = 'orqal/demo'\nnetwork = 'none'\nworking_dir = None\n{attributes}\n"
        f"def get_cmd(self, params): return {cmd!r}\n"
    )
    job = JobRecord(app="W", id=str(ObjectId()), ctime=now(), user=user, options=options or {})
    # A trusted one needs no process of its own, and so no Ray.
    order = Order(job, replace(ref, trusted=True, makes_result=False), Resources.of(1, 0.1), timeout)
    host: Host = lab.host  # type: ignore[attr-defined]
    outcome = lab.do(host.run(order)).result(60)
    lab.do(host.release(job.id, 1)).result(60)
    return outcome


def printed(lab: Actors, script: str, attributes: str = "", **more: Any) -> str:
    outcome = run(lab, ["sh", "-c", script], attributes, **more)
    assert outcome.error is None, outcome
    return outcome.output.stdout


@pytest.mark.parametrize(
    ("attributes", "script", "expected"),
    [
        ("", "cat /proc/1/comm", "docker-init\n"),
        ("init = False", "cat /proc/1/comm", "sh\n"),
        ("user = '1234:99'", "while read n a b; do case $n in [UG]id:) echo $a;; esac; done </proc/self/status",
         "1234\n99\n"),
        ("user = 'nobody'", "while read n a b; do case $n in Uid:) echo $a;; esac; done </proc/self/status", "65534\n"),
        ("read_only = True", "echo x 2>/dev/null >/new || echo refused", "refused\n"),
        ("read_only = True\ntmpfs = {'/new': 'size=1m'}", "echo x >/new/file && cat /new/file", "x\n"),
        ("tmpfs = ['/new']", "while read d m t r; do test $m = /new && echo $t; done </proc/mounts; :", "tmpfs\n"),
        ("shm_size = '3m'", "while read d m t o r; do test $m = /dev/shm && echo $o; done </proc/mounts; :",
         "rw,nosuid,nodev,noexec,relatime,size=3072k\n"),
        ("", "ulimit -c; ulimit -Hc", "0\n0\n"),
        ("ulimits = {'nofile': (99, 100), 'core': (0, -1)}", "ulimit -n; ulimit -Hn; ulimit -Hc",
         "99\n100\nunlimited\n"),
        ("extra_hosts = {'base': '10.0.0.5'}", "while read a n; do test $n = base && echo $a; done </etc/hosts; :",
         "10.0.0.5\n"),
    ],
)  # fmt: skip
def test_what_a_wrapper_says_is_in_force(lab: Actors, attributes: str, script: str, expected: str) -> None:
    assert printed(lab, script, attributes) == expected


def test_what_a_job_asks_for_is_in_force(lab: Actors) -> None:
    wrapper = "shm_size = '9m'\nenvironment = {'A': 'a'}\njobs_may_set = ('shm_size', 'environment', 'working_dir')"
    script = "while read d m t o r; do test $m = /dev/shm && echo $o; done </proc/mounts; echo $A $B; pwd"
    options = {"shm_size": "3m", "environment": {"B": "b"}, "working_dir": "/proc"}
    assert printed(lab, script, wrapper, options=options).split() == [
        "rw,nosuid,nodev,noexec,relatime,size=3072k",
        *("a", "b", "/proc"),
    ]


CDI = {
    "cdiVersion": "0.6.0",
    "kind": "orqal.test/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "env": [f"GPU_{name}=here"],
                "deviceNodes": [{"path": f"/dev/gpu{name}", "hostPath": "/dev/null"}],
            },
        }
        for name in ("0", "1")
    ],
}
"""Devices that are made up, as a vendor describes its own."""
SEEN = "for gpu in /dev/gpu?; do echo $gpu; done; echo $GPU_0 $GPU_1"


@pytest.fixture
def two_gpus(lab: Actors) -> Iterator[list[str]]:
    """The ids of two GPUs. The newest engine that scripts/engine_newest.sh starts looks for them in its own folder."""
    folders = [Path(folder) for folder in lab.client.info().get("CDISpecDirs") or ()]
    own = next((folder for folder in folders if folder.is_relative_to("/run/orqal-engine-newest")), None)
    if own is None:
        pytest.skip("needs an engine that knows CDI: make test ENGINE=newest")
    own.mkdir(exist_ok=True)
    (own / "orqal.json").write_text(json.dumps(CDI))
    names = [f"orqal.test/gpu={number}" for number in (0, 1)]
    until(lambda: set(names) <= {each["ID"] for each in lab.client.info().get("DiscoveredDevices") or ()})
    try:
        yield names
    finally:
        (own / "orqal.json").unlink()


def test_a_device_by_its_cdi_name(lab: Actors, two_gpus: list[str]) -> None:
    devices = {"gpus": two_gpus[:1]}
    assert printed(lab, SEEN, f"gpus = {devices['gpus']}") == "/dev/gpu0\nhere\n"
    assert printed(lab, SEEN, options=devices) == "/dev/gpu0\nhere\n"


def test_a_host_finds_its_devices_and_each_of_two_jobs_sees_exactly_its_own(
    lab: Actors, two_gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host: Host = lab.host  # type: ignore[attr-defined]
    lab.do(host._look_for_devices()).result(60)
    assert [device.id for device in lab.do(host.report()).result(60).devices] == two_gpus

    def started(gpu: str, script: str) -> tuple[JobRecord, Any]:
        ref = ref_of(
            f"docker_url = 'orqal/demo'\nnetwork = 'none'\nworking_dir = None\ngpus = 1\n"
            f"def get_cmd(self, params): return ['sh', '-c', {script!r}]\n"
        )
        job = JobRecord(app="W", id=str(ObjectId()), ctime=now(), user="u")
        resources = Resources.of(0.5, 0.1, [Part(GPU, gpu, UNITS)])
        order = Order(job, replace(ref, trusted=True, makes_result=False), resources, None)
        return job, lab.do(host.run(order))

    def container(job: JobRecord) -> Any:
        found = lab.client.containers.list(all=True, filters={"label": f"orqal.job={job.id}"})
        return found[0] if found else None

    both = [started(gpu, f"{SEEN}; until [ -e /go ]; do sleep 0.1; done") for gpu in two_gpus]
    until(lambda: all((own := container(job)) is not None and own.status == "running" for job, _ in both))
    assert [container(job).labels["orqal.devices"] for job, _ in both] == two_gpus
    # Its device is in use: an order that comes too early makes no container.
    look, looked = Engine.device_holders, threading.Semaphore(0)

    def counted(engine: Engine) -> Any:
        looked.release()
        return look(engine)

    monkeypatch.setattr(Engine, "device_holders", counted)
    third, outcome_of_third = started(two_gpus[0], SEEN)
    assert looked.acquire(timeout=30) and looked.acquire(timeout=30), "it looks again while the device is in use"
    assert container(third) is None
    for job, _ in both:
        assert container(job).exec_run(["sh", "-c", ": > /go"]).exit_code == 0
    outcomes = [outcome.result(60) for _, outcome in [*both, (third, outcome_of_third)]]
    seen = [(outcome.error, outcome.output.stdout) for outcome in outcomes]
    assert seen == [(None, f"/dev/gpu{number}\nhere\n") for number in (0, 1, 0)]
    for job in (*(job for job, _ in both), third):
        lab.do(host.release(job.id, 1)).result(60)


def test_the_entrypoint(lab: Actors) -> None:
    assert run(lab, ["hello"], "entrypoint = ['echo', 'well,']").output.stdout == "well, hello\n"
    assert run(lab, "hello there", "entrypoint = 'echo well,'").output.stdout == "well, hello there\n"
    assert run(lab, ["echo", "alone"], "entrypoint = []").output.stdout == "alone\n"


def test_the_submitter_s_files_are_the_submitter_s(lab: Actors, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    volume = f"user = '@submitter'\nvolumes = {{{str(tmp_path)!r}: {{'bind': '/data', 'mode': 'rw'}}}}"
    printed(lab, "echo x >/data/mine", volume, user="nobody")
    assert (tmp_path / "mine").stat().st_uid == 65534
    refused = run(lab, ["true"], volume, user="no-such-user")
    assert refused.error is not None and "has no account 'no-such-user'" in refused.error.message


def test_a_program_ends_at_once_by_a_signal_that_it_does_not_handle(lab: Actors) -> None:
    """Process 1 of a container would ignore it, and use up the time between SIGTERM and SIGKILL."""
    outcome = run(lab, ["sleep", "1000"], timeout=1)
    assert (outcome.error and outcome.error.type, outcome.exit_code) == (ErrorType.TIMEOUT, 143)
    outcome = run(lab, ["sh", "-c", "kill -9 $$; echo on"])
    assert (outcome.error, outcome.exit_code, outcome.output.stdout) == (None, 137, "")


def test_processes_that_are_left_behind_are_reaped(lab: Actors) -> None:
    script = """
        sh -c 'sleep 0.2 & :'
        (sleep 1
         for one in /proc/[0-9]*/stat; do read pid name state rest <$one && test $state = Z && echo $pid $name; done) &
        exec sleep 2
    """
    assert printed(lab, script) == ""
    assert "(sleep)" in printed(lab, script, "init = False")


@pytest.mark.parametrize(
    ("attributes", "type", "words"),
    [
        ("user = 'nobodyhere'", ErrorType.DOCKER_ERROR, "unable to find user nobodyhere"),
        ("user = '0:nogrp'", ErrorType.DOCKER_ERROR, "unable to find group nogrp"),
        ("runtime = 'nope'", ErrorType.DOCKER_ERROR, "nknown.* runtime"),
        ("gpus = 'all'", ErrorType.DOCKER_ERROR, "could not select device driver|no known GPU vendor"),
        ("gpus = ['nvidia.com/gpu=0']", ErrorType.DOCKER_ERROR, "could not select device driver|unresolvable CDI"),
        ("ulimits = {'nofile': 1 << 40}", ErrorType.DOCKER_ERROR, "the limit nofile so high.*LimitNOFILE="),
        ("working_dir = '/bin/sh'", ErrorType.DOCKER_ERROR, "is not a directory"),
        (
            "volumes = {'/no/such': {'bind': '/x', 'mode': 'ro'}}",
            ErrorType.DOCKER_ERROR,
            "/no/such, which does not exist",
        ),
        ("volumes = {'/no/such': {'bind': '/x'}}", ErrorType.DOCKER_ERROR, "/no/such, which does not exist"),
        (
            "volumes = {'/no/such': {'bind': '/x', 'mode': 'rw,z'}}",
            ErrorType.DOCKER_ERROR,
            "/no/such, which does not exist",
        ),
        (
            "volumes = {'nosuch': {'bind': '/x', 'mode': 'rw'}}",
            ErrorType.DOCKER_ERROR,
            "volume 'nosuch', which the host does not have",
        ),
        ("volumes = {'/tmp': {'bind': '/bin/sh', 'mode': 'ro'}}", ErrorType.DOCKER_ERROR, "not a directory"),
        ("tmpfs = {'/x': 'size=nonsense'}", ErrorType.DOCKER_ERROR, "invalid argument"),
        ("extra_hosts = {'x': 'nonsense'}", ErrorType.DOCKER_ERROR, "invalid IP address"),
        ("volumes = {'/usr': {'bind': '/x', 'mode': 'nope'}}", ErrorType.DOCKER_ERROR, "invalid mode"),
        ("network = 'nope'", ErrorType.DOCKER_ERROR, "network nope not found"),
        ("docker_url = 'orqal/none:such'\npull = 'never'", ErrorType.IMAGE_NOT_FOUND, "is never pulled"),
        ("user = 'a b'", ErrorType.WRAPPER_ERROR, "W.user is invalid: must be USER"),
        ("ulimits = {'files': 1}", ErrorType.WRAPPER_ERROR, "W.ulimits.files.* is invalid: must be one of as, core"),
        ("ulimits = {'nofile': (2, 1)}", ErrorType.WRAPPER_ERROR, "the soft limit 2 is above the hard limit 1"),
    ],
)
def test_what_will_never_be_is_told_at_once(lab: Actors, attributes: str, type: ErrorType, words: str) -> None:
    outcome = run(lab, ["true"], attributes)
    assert outcome.error is not None and outcome.error.type is type, outcome
    assert not outcome.passing, "it would be tried again"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(outcome.error.message)
    if outcome.error.message.startswith("Docker would not"):
        assert again(outcome.error.message) == {"no"}, f"docs/docker-answers.md: {outcome.error.message}"


def test_a_command_line_that_cannot_be_split_is_told_at_once(lab: Actors) -> None:
    outcome = run(lab, "cat it's.txt")
    assert outcome.error is not None and outcome.error.type is ErrorType.WRAPPER_ERROR and not outcome.passing
    assert "cannot be split as a shell would (No closing quotation)" in outcome.error.message


def test_what_is_mounted(lab: Actors, tmp_path: Path) -> None:
    volume = f"orqal-test-{ObjectId()}"
    (tmp_path / "file").write_text("x")
    mounts = f"""{{
        {str(tmp_path)!r}: {{'bind': '/rw'}},
        {str(tmp_path / "file")!r}: {{'bind': '/file', 'mode': 'ro'}},
        {volume!r}: {{'bind': '/volume', 'mode': 'rw'}},
    }}"""
    script = "cat /file; echo y >/rw/new; echo y 2>/dev/null >/file || echo refused; echo kept >/volume/x"
    lab.client.volumes.create(volume)
    try:
        assert printed(lab, script, f"volumes = {' '.join(mounts.split())}") == "xrefused\n"
        assert printed(lab, "cat /x/x", f"volumes = {{{volume!r}: {{'bind': '/x', 'mode': 'ro'}}}}") == "kept\n"
    finally:
        lab.client.volumes.get(volume).remove()
    assert (tmp_path / "new").read_text() == "y\n"
    assert not Path("/no").exists()
