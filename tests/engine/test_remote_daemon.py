"""A daemon behind TLS that does not see this machine's files: what a HostActor makes of it.

Its Scheduler is a stand-in. The whole, with a machine of its own, is in tests/cluster/test_remote_daemon.py.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.host.host import Host
from orqal.actors.messages import Order
from orqal.engine.client import ContainerKey, Engine
from orqal.engine.errors import Unreachable
from orqal.models import ErrorType, JobRecord, Resources, Status, now
from orqal.scheduling.lifecycle import Wish
from orqal.wrappers.loading import WrapperRef
from tests.support import tls
from tests.support.host_actor import Recorder, make_host

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(180),
    # The actor's thread is meant to outlive everything but its process.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

SOURCE = """
class Make(AbstractWrapper):
    docker_url = "orqal/demo"
    create_dir = True
    network = "none"

    def get_cmd(self, params):
        return ["sh", "-c", params["script"]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def address(image: str, folder: Path) -> Iterator[str]:
    with tls.front(folder) as address:
        yield address


@pytest.fixture
def elsewhere(address: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a HostActor that fronts it."""
    monkeypatch.setenv("DOCKER_HOST", address)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(folder / "client"))
    # requests would believe it more than the daemon's ca.pem.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "others.pem"))
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_STOP_GRACE", "1")
    monkeypatch.delenv("ORQAL_JOBS_DIR", raising=False)
    return address


@pytest.fixture
def cluster(elsewhere: str) -> Iterator[str]:
    name = f"test{secrets.token_hex(4)}"
    yield name
    engine = Engine(name)
    for _, container, _ in engine.own_containers():
        engine.remove(container)
    engine.close()


async def an_actor(cluster: str) -> tuple[Host, Recorder]:
    """A host that runs in this process."""
    recorder = Recorder()
    return make_host(cluster, recorder), recorder


def order(script: str) -> Order:
    job = JobRecord(
        id=secrets.token_hex(12), app="Make", params={"script": script}, ctime=now(), current_status=Status.INIT
    )
    ref = WrapperRef("Make", source=SOURCE, trusted=True, makes_result=False)
    return Order(job, ref, Resources.of(0.5, 0.1), None)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - a daemon's events have no other form here
        await asyncio.sleep(0.05)


def test_a_job_s_directory_comes_back(cluster: str, tmp_path: Path) -> None:
    async def scene() -> None:
        actor, scheduler = await an_actor(cluster)
        given = order("cat params.json; mkdir a; echo deep >a/b; seq 1 300000; echo err >&2; sleep 1.5")
        outcome = await actor.run(given)
        job = given.job
        assert (outcome.exit_code, outcome.error) == (0, None)
        assert outcome.files == ["a", "orqal.stdout", "params.json"] and outcome.truncated == ["stdout"]
        assert outcome.output.stderr == "err\n"
        deep = await actor.read_file(job.id, "a/b", 0, 100)
        assert deep is not None and (deep.data, deep.size) == (b"deep\n", 5)
        assert outcome.start is not None and outcome.start.wd == str(tmp_path / "jobs" / job.id)
        # The daemon tells what it took; of its machine it does not.
        assert (outcome.peak_memory or 0) > 0 and (outcome.cpu_seconds or 0) > 0
        load = (await actor.report()).load
        assert (load.cpu, load.mem) == (None, None)
        assert len(scheduler.starts) == 1
        await actor.release(job.id, 1)
        assert await actor.strays() == []

    asyncio.run(asyncio.wait_for(scene(), 150))


def test_an_actor_that_died_finds_them_and_one_that_cancels_has_them(cluster: str) -> None:
    async def scene() -> None:
        before, _ = await an_actor(cluster)
        given = order("echo partial >file; sleep 100")
        before_run = asyncio.create_task(before.run(given))
        attempt = ContainerKey(given.job.id, 1)
        await until(lambda: attempt in before._runs and before._runs[attempt].container)
        task = before._runs[attempt].task
        engine = Engine(cluster)
        container = engine.find(attempt)
        assert container is not None
        await until(lambda: engine.started(container))
        task.cancel()
        await asyncio.wait({before_run})
        after, _ = await an_actor(cluster)
        again = asyncio.create_task(after.run(given))
        await until(lambda: attempt in after._runs and after._runs[attempt].container)
        await after.stop(given.job.id, 1, Wish.CANCEL)
        outcome = await again
        assert outcome.error is not None and outcome.error.type is ErrorType.CANCELLED
        assert outcome.files == ["file", "params.json"]
        engine.close()

    asyncio.run(asyncio.wait_for(scene(), 150))


@pytest.mark.parametrize("certificates", ["wrong", "distrusted", "nothing"])
def test_wrong_certificates(elsewhere: str, folder: Path, certificates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CERT_PATH", str(folder / certificates))
    with pytest.raises(Unreachable, match=f"{elsewhere} and this machine differ about TLS.*DOCKER_CERT_PATH"):
        Engine("test")


def test_it_is_not_here(elsewhere: str) -> None:
    engine = Engine("test")
    assert not engine.info().local
    engine.close()
