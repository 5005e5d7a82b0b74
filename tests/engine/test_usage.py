"""What containers of a real engine took, as the kernel and as the daemon tell it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from orqal.engine import this_machine
from orqal.engine.client import ContainerKey, ContainerSpec, Ended, Engine
from orqal.engine.errors import EngineError
from orqal.engine.usage import Cgroups, Usage
from orqal.logstream import Decoder
from orqal.models import ContainerOptions, Resources
from tests.support.orqal_process import cgroups_of

pytestmark = pytest.mark.docker

MEGABYTES = 10**6
WORK = "dd if=/dev/zero of=/dev/null bs=50M count=1 2>&0; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; times"
"""Takes 50 MiB and about half a second, and prints its CPU time."""


@pytest.fixture
def engine(image: str) -> Iterator[Engine]:
    engine = Engine(f"test{secrets.token_hex(4)}")
    yield engine
    for _, container, _ in engine.own_containers():
        engine.remove(container)
    engine.close()


@pytest.fixture
def cgroups(engine: Engine) -> Iterator[Cgroups]:
    cgroups = Cgroups.of(engine.info(), engine.cluster)
    if cgroups is None:
        pytest.skip("needs root, and a daemon of this machine with the cgroup driver cgroupfs")
    yield cgroups
    for _, container, _ in engine.own_containers():
        engine.remove(container)
    cgroups.close(keep=[])
    assert cgroups_of(engine.cluster) == []


def make(engine: Engine, cgroups: Cgroups | None, *cmd: str, **options: Any) -> tuple[ContainerKey, str]:
    """A container, not yet started."""
    key = ContainerKey(secrets.token_hex(12), 1)
    spec = ContainerSpec(
        key=key,
        image="orqal/demo",
        cmd=list(cmd),
        resources=Resources.of(threads=1, ram_gb=0.1),
        volumes={},
        environment={},
        working_dir=None,
        network="none",
        pids_limit=64,
        cgroup_parent=cgroups.parent(key) if cgroups else None,
        log_cap=0,
        options=ContainerOptions(**options),
    )
    return key, engine.create(spec)


def start(engine: Engine, cgroups: Cgroups | None, script: str) -> tuple[ContainerKey, str]:
    """A container that has been started."""
    key, container = make(engine, cgroups, "sh", "-c", script)
    engine.start(container)
    return key, container


def output(engine: Engine, container: str, until: bytes | None = None) -> str:
    """What it prints, up to its end or a word."""
    printed = b""
    logs = engine.logs(container, follow=True)
    decoder = Decoder()
    for piece in logs:
        printed += b"".join(frame.data for frame in decoder.feed(piece))
        if until and until in printed:
            logs.close()
            break
    return printed.decode()


def end(engine: Engine, container: str) -> Ended:
    with contextlib.closing(docker.from_env()) as client:
        client.api.wait(container)
    ended = engine.ended(container)
    assert ended is not None
    return ended


def cpu_seconds(times: str) -> float:
    """What the shell's `times` told: two lines, user and system, of itself and of its children."""
    total = 0.0
    for word in times.split():
        minutes, _, seconds = word.rstrip("s").partition("m")
        total += 60 * float(minutes) + float(seconds)
    return total


def plausible(usage: Usage, times: str) -> None:
    assert usage.peak_memory is not None and usage.cpu_seconds is not None
    assert 50 << 20 <= usage.peak_memory <= 65 * MEGABYTES
    # The runtime's own work at the start comes on top.
    assert cpu_seconds(times) - 0.05 <= usage.cpu_seconds <= cpu_seconds(times) + 1


def test_the_kernel_tells_after_the_end(engine: Engine, cgroups: Cgroups) -> None:
    key, container = start(engine, cgroups, WORK)
    times = output(engine, container)
    assert end(engine, container).exit_code == 0
    plausible(cgroups.usage(key), times)
    engine.remove(container)
    plausible(cgroups.usage(key), times)
    assert cgroups.attempts() == {key}
    cgroups.remove([key])
    assert cgroups.attempts() == set()


def test_the_cgroup_of_a_container_that_runs_stays(engine: Engine, cgroups: Cgroups) -> None:
    key, container = start(engine, cgroups, "sleep 1000")
    assert cgroups.counts(key)
    cgroups.remove([key])
    assert cgroups.counts(key)
    assert None not in Usage.of_stats(engine.stats(container))
    engine.remove(container)
    cgroups.remove([key])
    assert cgroups.attempts() == set()


def test_limits_hold_below_a_cgroup_of_ours(engine: Engine, cgroups: Cgroups) -> None:
    key, container = start(engine, cgroups, "dd if=/dev/zero of=/dev/null bs=200M count=1")
    ended = end(engine, container)
    assert (ended.exit_code, ended.out_of_memory) == (137, True)
    peak = cgroups.usage(key).peak_memory
    assert peak is not None and 90 * MEGABYTES <= peak <= 105 * MEGABYTES


def test_a_start_that_fails_leaves_a_cgroup_that_can_be_removed(engine: Engine, cgroups: Cgroups) -> None:
    key, container = make(engine, cgroups, "true", tmpfs={"/x": "size=nonsense"})
    with pytest.raises(EngineError):
        engine.start(container)
    assert cgroups.attempts() == {key}
    cgroups.close(keep=[key])
    assert cgroups.attempts() == {key}
    cgroups.close(keep=[])
    assert cgroups.attempts() == set()


def test_the_daemon_tells_while_it_runs(engine: Engine) -> None:
    _, container = start(engine, None, f"{WORK}; echo done; sleep 1000")
    times = output(engine, container, until=b"done").removesuffix("done\n")
    # Docker 20.10 answers with a measurement of its own once a second: the second one is after the work.
    seen = Usage()
    for _ in range(2):
        seen = seen.at_least(Usage.of_stats(engine.stats(container)))
    plausible(seen, times)


def test_the_daemon_tells_nothing_of_what_does_not_run(engine: Engine) -> None:
    _, container = start(engine, None, "exit 0")
    end(engine, container)
    assert Usage.of_stats(engine.stats(container)) == Usage()


@pytest.mark.parametrize("on_this_machine", [True, False])
def test_whether_a_container_has_ended(engine: Engine, monkeypatch: pytest.MonkeyPatch, on_this_machine: bool) -> None:
    if not on_this_machine:
        monkeypatch.setattr(this_machine, "is_in", lambda process, container: False)
    _, runs = start(engine, None, "trap 'echo woken' CONT; echo on; while :; do sleep 0.1; done")
    output(engine, runs, until=b"on")
    assert not engine.has_ended(runs)
    engine.stop(runs, 0)
    assert output(engine, runs) == "on\n", "it was sent a signal although it runs"
    _, over = start(engine, None, "exit 0")
    end(engine, over)
    assert engine.has_ended(over)
