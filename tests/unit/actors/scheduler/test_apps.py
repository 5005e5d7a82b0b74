"""The catalog of apps, and the switch for the app Run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orqal.actors.scheduler.apps import Apps
from orqal.settings import Settings
from orqal.wrappers import catalog
from orqal.wrappers.catalog import App, Source


async def load_here(source: Source) -> list[App]:
    return catalog.load(source, 1 << 40)


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Apps:
    """The apps while Run is switched off. Wrapper files are loaded in this process."""
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
