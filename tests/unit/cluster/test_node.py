"""What a daemon offers to jobs, and the environment of a Ray node."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orqal.cluster import ClusterError, node
from orqal.doctor.rules import RAY_FOLDER
from orqal.engine.client import EngineInfo
from orqal.engine.errors import Unreachable
from orqal.settings import Settings

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def info(threads: int, ram_bytes: int) -> EngineInfo:
    return EngineInfo("h", "27", threads, ram_bytes, "id", "cgroupfs", True)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_KEEP_THREADS", "0.5")
    monkeypatch.setenv("ORQAL_KEEP_RAM_GB", "1")
    return Settings()


def test_jobs_get_what_is_not_kept_back_rounded_down(settings: Settings) -> None:
    assert node.resources(settings, info(4, int(25.3e9))) == {"threads": 3.0, "ram_gb": 24.0}
    # Below 1 Ray accepts fractions.
    assert node.resources(settings, info(1, int(1.53999e9))) == {"threads": 0.5, "ram_gb": 0.5399}


@pytest.mark.parametrize(("threads", "ram_bytes"), [(0, 10**10), (4, 10**9)])
def test_a_daemon_with_nothing_left_for_jobs_is_an_error(settings: Settings, threads: int, ram_bytes: int) -> None:
    with pytest.raises(ClusterError, match=r"ORQAL_KEEP_THREADS=0\.5 and ORQAL_KEEP_RAM_GB=1"):
        node.resources(settings, info(threads, ram_bytes))


@pytest.mark.parametrize(
    ("host", "words"), [(None, "Orqal needs a Docker daemon"), ("tcp://127.0.0.1:1", "DOCKER_HOST=tcp")]
)
def test_without_a_daemon_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, host: str | None, words: str
) -> None:
    def silent(cluster: str) -> None:
        raise Unreachable("the Docker daemon does not answer.")

    monkeypatch.setattr(node, "Engine", silent)
    monkeypatch.setenv("DOCKER_HOST", host or "")
    with pytest.raises(ClusterError, match=words):
        node.daemon()


def test_a_nodes_environment_names_the_home_and_never_the_users_no_token(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORQAL_NO_TOKEN", "1")
    environ = node.ray_environment(settings, "h1", "10.0.0.1:6379")
    assert environ["ORQAL_NO_TOKEN"] == "0" and environ["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert (environ["ORQAL_HOME"], environ["ORQAL_NODE"]) == (str(settings.home), "h1")
    assert len(environ["ORQAL_CLUSTER_ID"]) == 16
    assert node.ray_environment(settings, "h1", "x:1", no_token=True)["ORQAL_NO_TOKEN"] == "1"


def test_what_ray_keeps_of_the_past_is_bounded(settings: Settings) -> None:
    environ = node.ray_environment(settings, "h1", "10.0.0.1:6379")
    tables = [int(value) for name, value in environ.items() if "_cached_count" in name or "RAY_task_events_max" in name]
    assert len(tables) == 4 and max(tables) <= 10_000
    logs = int(environ["RAY_ROTATION_MAX_BYTES"]) * (1 + int(environ["RAY_ROTATION_BACKUP_COUNT"]))
    assert 40 * logs < 1.01 * RAY_FOLDER


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is read from /proc")
def test_large_blocks_of_memory_are_given_back(settings: Settings) -> None:
    # By itself glibc keeps as much as was once freed, for each of several threads.
    program = """
import pathlib, threading
def pages():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1])
def use_for_a_moment():
    large = b"x" * 20_000_000
    all_have_some.wait(30)
before, all_have_some = pages(), threading.Barrier(4)
largest = b"x" * 30_000_000
del largest
threads = [threading.Thread(target=use_for_a_moment) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((pages() - before) * 4_096)
"""
    environ = node.ray_environment(settings, "h1", "10.0.0.1:6379")
    child = subprocess.run([sys.executable, "-c", program], env=environ, check=True, capture_output=True, timeout=60)
    assert int(child.stdout) < 4_000_000


@pytest.mark.parametrize("wanted", [False, True])
def test_ray_serves_its_metrics_to_no_one_unless_that_is_wanted(settings: Settings, wanted: bool) -> None:
    assert not settings.ray_metrics
    environ = node.ray_environment(replace(settings, ray_metrics=wanted), "h1", "10.0.0.1:6379")
    assert environ["RAY_enable_metrics_collection"] == ("1" if wanted else "0")
    for name in ("DASHBOARD_METRIC_PORT", "AUTOSCALER_METRIC_PORT"):
        with socket.socket() as server, pytest.raises(OverflowError):
            server.bind(("", int(environ[name])))


def test_the_temporary_folder_leaves_room_for_sockets(settings: Settings) -> None:
    folder = node.temporary_folder(settings, "a-long-name" * 20)
    # The longest name that Ray makes below it has 67 characters.
    assert len(f"{folder}/session_2026-11-27_06-10-48_402102_4194304/sockets/dash_ReportHead") <= 107
    assert len(str(folder)) < 40
    assert folder != node.temporary_folder(settings, "another")


@pytest.fixture
def tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like /tmp, which other users can enter, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    monkeypatch.setattr(node, "_TMP", folder)
    yield folder
    shutil.rmtree(folder)


def start(settings: Settings) -> None:
    node.start_worker(settings, {}, head="127.0.0.1:1", name="h1", address="127.0.0.1", offered={}, labels={})


AS_NOBODY = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
folder = sys.argv[1]
raylet = f"{folder}/session_1/sockets/raylet"
for attack in (lambda: os.rename(raylet, raylet + "-old"),
               lambda: socket.socket(socket.AF_UNIX).connect(raylet),
               lambda: os.symlink("/etc", f"{folder}/session_1/logs/planted"),
               lambda: os.rename(f"{folder}/session_1", f"{folder}/mine"),
               lambda: os.rename(folder, folder + "-mine"),
               lambda: os.listdir(os.path.dirname(folder))):
    try:
        attack()
    except OSError:
        continue
    print("succeeded")
"""


@as_root
def test_another_user_cannot_swap_ray_s_sockets_or_plant_links(
    settings: Settings, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as raylet:

        def as_ray_does(command: list[str], *args: object) -> None:
            folder = Path(command[command.index("--temp-dir") + 1])
            for part in ("session_1/sockets", "session_1/logs"):
                (folder / part).mkdir(parents=True)
            for shared in (folder, *folder.rglob("*")):
                shared.chmod(0o777)
            raylet.bind(str(folder / "session_1/sockets/raylet"))
            raylet.listen()

        monkeypatch.setattr(node, "run", as_ray_does)
        start(settings)
        folder = node.temporary_folder(settings, "h1")
        assert (folder / "session_1" / "sockets" / "raylet").is_socket()
        attack = [sys.executable, "-c", AS_NOBODY, str(folder)]
        assert subprocess.run(attack, capture_output=True, text=True, check=True).stdout == ""
        node.remove_temporary_folder(settings, "h1")
        assert list(tmp.iterdir()) == []


@as_root
@pytest.mark.parametrize("planted", ["folder", "link", "file"])
def test_a_place_that_another_user_has_taken_is_not_used(
    settings: Settings, tmp: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    monkeypatch.setattr(node, "run", lambda *args: pytest.fail("Ray was started"))
    # As root, rmtree would remove what another user cannot prevent from being removed.
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)
    private = node.temporary_folder(settings, "h1").parent
    elsewhere = tmp / "elsewhere"
    elsewhere.mkdir()
    match planted:
        case "folder":
            private.mkdir()
        case "link":
            private.symlink_to(elsewhere)
        case "file":
            private.touch()
    os.chown(private, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ClusterError, match="it belongs to the user with the id 65534"):
        start(settings)
    assert list(elsewhere.iterdir()) == []
    monkeypatch.undo()
