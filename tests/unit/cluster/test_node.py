"""What a daemon offers to jobs, and the environment of a Ray node."""

from __future__ import annotations

from pathlib import Path

import pytest

from orqal.cluster import ClusterError, node
from orqal.doctor.rules import RAY_FOLDER
from orqal.engine.client import EngineInfo
from orqal.engine.errors import Unreachable
from orqal.settings import Settings


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


def test_the_temporary_folder_leaves_room_for_sockets(settings: Settings) -> None:
    folder = node.temporary_folder(settings, "a-long-name" * 20)
    assert len(str(folder)) < 40
    assert folder != node.temporary_folder(settings, "another")
