"""A job's directory goes into a real container, and comes back, where the daemon does not see this machine's files."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orqal.engine import archive
from orqal.engine.client import ContainerKey, ContainerSpec, Ended, Engine
from orqal.engine.errors import EngineError, Unreachable
from orqal.logstream import Decoder
from orqal.models import Resources

pytestmark = pytest.mark.docker

JOB = "a" * 24
DIRECTORY = f"/srv/orqal/jobs/{JOB}"


@pytest.fixture
def engine(image: str) -> Iterator[Engine]:
    engine = Engine(f"test{secrets.token_hex(4)}")
    yield engine
    for _, container, _ in engine.own_containers():
        engine.remove(container)
    engine.close()


def spec(script: str, fetched: str | None = DIRECTORY, mounted: str | None = None) -> ContainerSpec:
    return ContainerSpec(
        key=ContainerKey(JOB, 1),
        image="orqal/demo",
        cmd=["sh", "-c", script],
        resources=Resources.of(1, 0.1),
        volumes={},
        environment={},
        working_dir=DIRECTORY,
        network="none",
        pids_limit=100,
        cgroup_parent=None,
        log_cap=0,
        mounted=mounted,
        fetched=fetched,
    )


def ended(engine: Engine, script: str) -> tuple[str, Ended]:
    """Run it in its directory: the container, and how it ended."""
    container = engine.create(spec(script))
    for _ in range(2):  # an actor that died in between does it again
        engine.put(container, archive.packed(DIRECTORY, b'{"a": 1}'))
    engine.start(container)
    deadline = time.monotonic() + 60
    while (found := engine.ended(container)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return container, found


def text(engine: Engine, container: str) -> str:
    decoder = Decoder()
    return b"".join(frame.data for piece in engine.logs(container) for frame in decoder.feed(piece)).decode()


def test_there_and_back(engine: Engine, tmp_path: Path) -> None:
    script = (
        "cat params.json; ls -ld . ..; mkdir -p a/b; echo deep >a/b/c; ln a/b/c hard; ln -s a/b/c inner; "
        "ln -s /etc/passwd leak; dd if=/dev/zero of=big bs=1M count=30"
    )
    container, how = ended(engine, script)
    assert (how.exit_code, how.fetched) == (0, DIRECTORY)
    told = text(engine, container)
    # Anyone may write there; the folders above are as Docker makes them.
    assert '{"a": 1}' in told and "drwxrwxrwx" in told and "drwxr-xr-x" in told
    for _ in range(2):
        files = engine.fetch(container, DIRECTORY)
        assert files is not None
        archive.unpack(files, tmp_path / JOB)
        files.close()
        assert sorted(path.name for path in (tmp_path / JOB).iterdir()) == ["a", "big", "hard", "inner", "params.json"]
        assert (tmp_path / JOB / "big").stat().st_size == 30 << 20
        assert {(tmp_path / JOB / name).read_text() for name in ("a/b/c", "hard", "inner")} == {"deep\n"}


@pytest.mark.parametrize(
    ("script", "left"),
    [
        (f"cd /; mkdir x; echo gone >x/y; mv {DIRECTORY} /away", None),
        (f"cd /; mv {DIRECTORY} /away; ln -s /etc {DIRECTORY}", []),
        (f"cd /; mv {DIRECTORY} /away; echo x >{DIRECTORY}", []),
    ],
    ids=["gone", "a link", "a file"],
)
def test_a_directory_that_the_container_has_put_away(
    engine: Engine, tmp_path: Path, script: str, left: list[str] | None
) -> None:
    container, how = ended(engine, script)
    assert how.exit_code == 0, text(engine, container)
    files = engine.fetch(container, DIRECTORY)
    if left is None:
        assert files is None
    else:
        assert files is not None
        archive.unpack(files, tmp_path / JOB)
        files.close()
        assert [path.name for path in (tmp_path / JOB).iterdir()] == left


def test_fetching_is_stopped_from_another_thread(engine: Engine, tmp_path: Path) -> None:
    container, _ = ended(engine, "dd if=/dev/zero of=big bs=1M count=50")
    files = engine.fetch(container, DIRECTORY)
    assert files is not None
    fetched, reads = files, 0

    class Stopped:
        def read(self, size: int, /) -> bytes:
            nonlocal reads
            reads += 1
            if reads == 3:
                stopper = threading.Thread(target=fetched.close)
                stopper.start()
                stopper.join()
            return fetched.read(size)

    with pytest.raises(Unreachable):
        archive.unpack(Stopped(), tmp_path / JOB)
    assert reads < 10


def test_an_image_s_own_label_is_not_believed(engine: Engine) -> None:
    container = engine.create(spec("true", fetched=None))
    engine.start(container)
    deadline = time.monotonic() + 60
    while (how := engine.ended(container)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert how.fetched is None
    assert engine._api.inspect_container(container)["Config"]["Labels"]["orqal.files"] == ""


def test_a_mounted_directory_must_be_there(engine: Engine, tmp_path: Path) -> None:
    """As where ORQAL_JOBS_DIR is not on the daemon's machine: no folder is made in its place."""
    nowhere = tmp_path / "nowhere"
    with pytest.raises(EngineError, match=f"{nowhere} is not on the Docker daemon's machine. ORQAL_JOBS_DIR"):
        engine.create(spec("true", fetched=None, mounted=str(nowhere)))
    assert not nowhere.exists()
    with pytest.raises(EngineError, match="No such container"):
        engine.fetch("nothing", DIRECTORY)
