"""What the app Run may mount, and that it can be switched off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.scheduler.apps import Apps
from orqal.settings import Settings
from orqal.wrappers import WrapperJob, calls, catalog
from orqal.wrappers.calls import Command, Failure
from orqal.wrappers.catalog import App, Source


def asked(volumes: Any) -> Command | Failure:
    """What Run makes of a job with this param `volumes`."""
    run = next(app for app in catalog.built_in() if app.info.name == "Run")
    params = {"image": "i", "cmd": ["true"], "volumes": volumes}
    return calls.prepare(
        run.ref, WrapperJob(id="a" * 24, app="Run", input=None, params=params, user="", wd="/wd"), None
    )


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", "/data,/ref:ro")


@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_is_mounted_unless_asked_for(mounts: None, nothing: Any) -> None:
    command = asked(nothing)
    assert isinstance(command, Command) and command.volumes == {}


@pytest.mark.parametrize(
    ("volume", "mount"),
    [
        ("/data:/x", {"/data": {"bind": "/x", "mode": "rw"}}),
        ("/data:/x:rw", {"/data": {"bind": "/x", "mode": "rw"}}),
        ("/data:/x:ro", {"/data": {"bind": "/x", "mode": "ro"}}),
        ("/ref:/x", {"/ref": {"bind": "/x", "mode": "ro"}}),
        ("/ref:/ref:ro", {"/ref": {"bind": "/ref", "mode": "ro"}}),
        ("//data/./y/..//:/x", {"/data": {"bind": "/x", "mode": "rw"}}),
    ],
)
def test_allowed_mounts(mounts: None, volume: str, mount: dict[str, Any]) -> None:
    command = asked([volume])
    assert isinstance(command, Command) and command.volumes == mount


def test_several_mounts(mounts: None) -> None:
    command = asked(["/data:/a", "/ref:/b"])
    assert isinstance(command, Command) and list(command.volumes) == ["/data", "/ref"]
    twice = asked(["/data:/a", "/data/:/b"])
    assert isinstance(twice, Failure) and "/data is mounted twice" in twice.message


@pytest.mark.parametrize("host", ["/etc", "/", "/data/sub", "/data/../etc", "/database", "/dat", "/data\0", "/DATA"])
@pytest.mark.parametrize("mode", ["", ":ro", ":rw"])
def test_other_host_paths_are_refused(mounts: None, host: str, mode: str) -> None:
    refused = asked(["/ref:/r:ro", f"{host}:/x{mode}"])
    assert isinstance(refused, Failure)
    for words in ("may not be mounted", "nothing below them: /data, /ref:ro", "ORQAL_RUN_MOUNTS"):
        assert words in refused.message


def test_read_only_is_read_only(mounts: None) -> None:
    refused = asked(["/ref:/x:rw"])
    assert isinstance(refused, Failure)
    assert (
        "only be mounted read-only" in refused.message
        and "/ref:ro in the administrator's ORQAL_RUN_MOUNTS" in refused.message
    )


@pytest.mark.parametrize(
    "volumes",
    [
        *("/data:/x", {"/data": {"bind": "/x"}}, [None], [["/data", "/x"]], 5, True),
        *([""], ["/data"], ["/data:"], ["/data:x"], ["data:/x"], ["/data:/x:"], ["/data:/x:rw,Z"], ["/data:/x:ro:ro"]),
        *(["name:/x"], [":/x"], ["~:/x"], ["./data:/x"], ["/data:/x:z"]),
    ],
)
def test_what_is_no_volume(mounts: None, volumes: Any) -> None:
    refused = asked(volumes)
    assert isinstance(refused, Failure)
    assert "HOST:CONTAINER" in refused.message


def test_by_default_nothing_may_be_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORQAL_RUN_MOUNTS", raising=False)
    refused = asked(["/tmp:/x"])
    assert isinstance(refused, Failure) and "nothing below them: none." in refused.message


# The switch


async def load_here(source: Source) -> list[App]:
    return catalog.load(source, 1 << 40)


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Apps:
    """The apps where Run is switched off; wrapper files are loaded in this process."""

    monkeypatch.setenv("ORQAL_SERVICES", str(tmp_path))
    monkeypatch.setenv("ORQAL_RUN", "off")
    return Apps(Settings(), load_here)


def test_run_can_be_switched_off(apps: Apps) -> None:
    asyncio.run(apps.refresh())
    assert apps.get("Run") is None
    names = [info.name for info in apps.infos()]
    assert "Run" not in names and "Test" in names
    assert "administrator" in apps.missing("Run") and "ORQAL_RUN=off" in apps.missing("Run")
    assert "there is no app 'Ru'" in apps.missing("Ru") and "ORQAL_RUN" not in apps.missing("Ru")


def test_the_administrators_own_run_stays(apps: Apps, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Run(AbstractWrapper):\n    docker_url = 'i'\n    threads = 1")
    asyncio.run(apps.refresh())
    app = apps.get("Run")
    assert app is not None and app.info.docker_url == "i" and not app.ref.trusted
    (tmp_path / "mine.py").write_text("class Run(AbstractWrapper):\n    docker_url = 'i'\n    threads = -1")
    asyncio.run(apps.refresh())
    assert "could not be loaded" in apps.missing("Run")


def test_it_is_on_by_default(monkeypatch: pytest.MonkeyPatch, apps: Apps) -> None:
    monkeypatch.delenv("ORQAL_RUN")
    assert Apps(Settings(), load_here).get("Run") is not None
