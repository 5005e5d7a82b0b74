"""Commands that start and stop Orqal on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import orqal
from tests.support.command_line import Done


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for orqal.cluster, which needs Ray and Docker."""

    class ClusterError(Exception):
        pass

    def up(
        settings: Any, *, address: str, port: int, no_token: bool, report: Callable[[str], None], **more: Any
    ) -> dict[str, Any]:
        if port == 1:
            raise ClusterError("Port 1 is in use: choose another with --port.")
        report("Starting [Ray]" + " without a token" * no_token)
        about = {"api_url": f"http://{address}:{port}/api", "dashboard_url": "http://127.0.0.1:8265"}
        return about | {"ray_address": f"{address}:6379", "labels": more["labels"]}

    def join(settings: Any, head: str, *, report: Callable[[str], None], **more: Any) -> dict[str, Any]:
        report(f"Joining {head}")
        return {**more, "head": head, "name": more["name"] or "h2"}

    def leave(settings: Any, name: str | None, *, now: bool, report: Callable[[str], None]) -> str:
        report(f"now={now}")
        return name or "h2"

    def down(
        settings: Any,
        *,
        kill_jobs: bool,
        everywhere: bool,
        report: Callable[[str], None],
        progress: Callable[..., None],
    ) -> None:
        if kill_jobs:
            progress("Cancelling", 7, 9)
        if kill_jobs and everywhere:
            report("Interrupted.")
            raise KeyboardInterrupt
        report(f"everywhere={everywhere}")

    module = ModuleType("orqal.cluster")
    module.__dict__.update(
        ClusterError=ClusterError,
        up=up,
        join=join,
        leave=leave,
        down=down,
        environment=lambda settings: {"RAY_ADDRESS": "a b", "RAY_AUTH_MODE": "token"},
        resources=lambda settings: {"threads": 2.0, "ram_gb": 8.5},
    )
    monkeypatch.setitem(sys.modules, "orqal.cluster", module)
    monkeypatch.setattr(orqal, "cluster", module, raising=False)
    return module


def test_up_reports_its_steps_and_what_to_do_next(run: Callable[..., Done], cluster: ModuleType) -> None:
    done = run("up", "--port", "5005")
    assert done.code == 0
    assert done.err == "Starting [Ray]\n"
    for text in ("http://127.0.0.1:5005/api", "http://127.0.0.1:8265", "orqal status", "orqal apps"):
        assert text in done.out
    assert "No token" not in done.out
    assert run("up", "--json").documents[0]["api_url"] == "http://127.0.0.1:5001/api"


def test_up_without_a_token_says_who_has_access(run: Callable[..., Done], cluster: ModuleType) -> None:
    done = run("up", "--no-token")
    assert "without a token" in done.err
    assert "open to every program and every user of this machine" in done.out


def test_up_for_other_hosts_says_how_they_join(run: Callable[..., Done], cluster: ModuleType) -> None:
    assert "orqal join 10.0.0.5:6379" in run("up", "--address", "10.0.0.5").out
    assert "join" not in run("up").out


def test_labels_are_keys_and_values(run: Callable[..., Done], cluster: ModuleType) -> None:
    done = run("up", "--json", "--label", "gpu=a100", "--label", "site=north-1")
    assert done.documents[0]["labels"] == {"gpu": "a100", "site": "north-1"}
    for wrong in ("gpu", "gpu=", "=a", "a b=c", "ray.io/x=y", "-a=b"):
        done = run("up", "--label", wrong)
        assert done.code == 2
        assert "KEY=VALUE" in done.err


def test_join_and_leave(run: Callable[..., Done], cluster: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_JOIN_TOKEN", " secret\n")
    done = run("join", "10.0.0.5", "--label", "gpu=a100", "--docker-host", "tcp://h2:2376")
    assert (done.code, done.err) == (0, "Joining 10.0.0.5\n")
    assert "h2 is a host of the cluster" in done.out
    about = run("join", "10.0.0.5", "--json").documents[0]
    assert about == {"name": "h2", "head": "10.0.0.5", "token": "secret", "docker_host": None, "labels": {}}
    assert run("leave", "--now") == (0, "h2 has left the cluster.\n", "now=True\n")


def test_a_failure_is_reported(run: Callable[..., Done], cluster: ModuleType) -> None:
    assert run("up", "--port", "1") == (1, "", "Port 1 is in use: choose another with --port.\n")


def test_down_env_resources(run: Callable[..., Done], cluster: ModuleType) -> None:
    assert run("down").err == "everywhere=False\n"
    assert run("down", "--kill-jobs").err == "Cancelling: 7 of 9 jobs\neverywhere=False\n"
    assert run("down", "--everywhere").err == "everywhere=True\n"
    interrupted = run("down", "--kill-jobs", "--everywhere")
    assert interrupted.code == 130 and interrupted.err.startswith("Cancelling: 7 of 9 jobs\nInterrupted.\n")
    assert run("env").out == "export RAY_ADDRESS='a b'\nexport RAY_AUTH_MODE=token\n"
    assert run("resources").documents == [{"threads": 2.0, "ram_gb": 8.5}]
