"""Settings come from ORQAL_* variables, and secrets are for their owner alone."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from orqal.settings import Settings, write_secret


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("ORQAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_defaults(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.home == tmp_path / ".orqal"
    assert settings.store_path == tmp_path / ".orqal" / "orqal.sqlite"
    assert settings.jobs_dir == tmp_path / ".orqal" / "jobs"
    assert settings.token_path == tmp_path / ".orqal" / "token"
    assert settings.service_paths == [tmp_path / "services.py"]
    assert settings.token is None
    assert settings.api_url == ""
    numbers = {f.name: getattr(settings, f.name) for f in fields(Settings) if f.type in ("int", "float")}
    assert numbers == {
        "keep_threads": 0,
        "keep_ram_gb": 0,
        "wrapper_timeout": 60,
        "wrapper_memory_gb": 4,
        "output_cap": 1 << 20,
        "result_cap": 16 << 20,
        "pids_limit": 4096,
        "stop_grace": 5,
        "load_period": 3,
    }


@pytest.mark.parametrize("name", [f.name for f in fields(Settings) if f.type in ("int", "float")])
def test_each_number_has_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "7")
    assert getattr(Settings(), name) == 7
    assert f"ORQAL_{name.upper()}" in (Path(__file__).parents[2] / "orqal" / "settings.py").read_text()
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "")
    assert getattr(Settings(), name) == getattr(Settings(), name)
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "much")
    with pytest.raises(ValueError, match=f"^ORQAL_{name.upper()}='much' is not a number$"):
        Settings()


def test_paths_and_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "HOME": "~/home",
        "API_URL": "http://x/api//",
        "SERVICES": "~/a.py::b:/c",
        "STORE": "~/s.sqlite",
        "JOBS_DIR": "jobs",
    }.items():
        monkeypatch.setenv(f"ORQAL_{name}", value)
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.home == tmp_path / "home"
    assert settings.api_url == "http://x/api"
    assert settings.service_paths == [tmp_path / "a.py", tmp_path / "b", Path("/c")]
    assert settings.store_path == tmp_path / "s.sqlite"
    assert settings.jobs_dir == tmp_path / "jobs"


def test_the_token_is_the_variable_or_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    write_secret(settings.token_path, "from the file\n")
    assert settings.token == "from the file"
    monkeypatch.setenv("ORQAL_TOKEN", " given ")
    assert settings.token == "given"
    monkeypatch.delenv("ORQAL_TOKEN")
    write_secret(settings.token_path, " \n")
    assert settings.token is None


def test_a_secret_is_for_its_owner_alone(tmp_path: Path) -> None:
    new, old = tmp_path / "deep" / "new", tmp_path / "old"
    old.write_text("longer than the new one")
    old.chmod(0o644)
    mask = os.umask(0)
    try:
        for path in (new, old):
            write_secret(path, "s")
    finally:
        os.umask(mask)
    for path in (new, old):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == "s"
