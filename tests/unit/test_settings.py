"""Settings come from ORQAL_* variables."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from orqal.files import write_secret
from orqal.settings import Settings
from tests.support.checkout import REPOSITORY

DOCUMENTED = {
    cells[0].strip("`"): cells
    for line in (REPOSITORY / "docs" / "settings.md").read_text().splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
"""The rows of the tables in docs/settings.md, by variable."""
NUMBERS = [f.name for f in fields(Settings) if f.type in ("int", "float")]


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
    assert {name: getattr(settings, name) for name in NUMBERS} == {
        "pull_patience": 60,
        "keep_threads": 0,
        "keep_ram_gb": 0,
        "min_free_space_gb": 1,
        "job_disk_gb": 0,
        "wrapper_timeout": 60,
        "wrapper_memory_gb": 4,
        "output_cap": 1 << 20,
        "log_cap": 1 << 30,
        "result_cap": 16 << 20,
        "pids_limit": 4096,
        "stop_grace": 5,
        "host_lost_after": 60,
        "share_half_life": 86_400,
        "max_priority": 100,
        "job_ttl": 604_800,
        "load_period": 3,
    }


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("SHARE_WEIGHTS", "anna", "'anna' is not NAME=NUMBER"),
        ("SHARE_WEIGHTS", "anna=-1", "'anna=-1' is not NAME=NUMBER"),
        ("SHARE_WEIGHTS", "anna=nan", "'anna=nan' is not NAME=NUMBER"),
        ("SHARE_WEIGHTS", "anna=0", "the weight of anna must be more than 0"),
        ("SHARE_WEIGHTS", "=2", "'=2' is not NAME=NUMBER"),
        ("LIMITS", "licence=1.5", "the amount of licence is not a whole number"),
        ("USER_JOBS", "many", "'many' is not a number"),
        ("USER_JOBS", "inf", "'inf' is not a whole number"),
        ("MAX_PRIORITY", "-1", "'-1' is not a number of 0 or more"),
        ("PREEMPT_FROM", "101", "101 is not between -100 and 100"),
        ("PREEMPT_FROM", "1.5", "'1.5' is not a whole number"),
    ],
)
def test_what_decides_about_the_order_is_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, problem: str
) -> None:
    monkeypatch.setenv(f"ORQAL_{name}", text)
    with pytest.raises(ValueError, match=f"^ORQAL_{name}.*{problem}"):
        Settings()


def test_what_decides_about_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert (settings.share_weights, settings.limits, settings.user_jobs, settings.preempt_from) == ({}, {}, None, None)
    monkeypatch.setenv("ORQAL_SHARE_WEIGHTS", "anna=2, ben = 0.5,")
    monkeypatch.setenv("ORQAL_LIMITS", "licence=10,app:Blast=4")
    monkeypatch.setenv("ORQAL_USER_JOBS", "50")
    monkeypatch.setenv("ORQAL_PREEMPT_FROM", "-5")
    settings = Settings()
    assert settings.share_weights == {"anna": 2, "ben": 0.5}
    assert settings.limits == {"licence": 10, "app:Blast": 4}
    assert (settings.user_jobs, settings.preempt_from) == (50, -5)


def test_by_default_programs_need_the_token_and_run_may_mount_nothing() -> None:
    settings = Settings()
    assert (settings.no_token, settings.run, settings.run_mounts) == (False, True, {})


@pytest.mark.parametrize(("text", "no_token"), [("1", True), ("0", False), ("", False), ("true", False), (" 1", False)])
def test_no_token_is_one_word_alone(monkeypatch: pytest.MonkeyPatch, text: str, no_token: bool) -> None:
    monkeypatch.setenv("ORQAL_NO_TOKEN", text)
    assert Settings().no_token is no_token


@pytest.mark.parametrize(
    ("text", "registries"),
    [("", set()), (" , ", set()), ("docker.io, Registry.Lab:5000", {"docker.io", "registry.lab:5000"})],
)
def test_registries(monkeypatch: pytest.MonkeyPatch, text: str, registries: set[str]) -> None:
    monkeypatch.setenv("ORQAL_REGISTRIES", text)
    assert Settings().registries == registries


@pytest.mark.parametrize(("text", "run"), [("on", True), ("off", False), ("", True)])
def test_run_is_on_or_off(monkeypatch: pytest.MonkeyPatch, text: str, run: bool) -> None:
    monkeypatch.setenv("ORQAL_RUN", text)
    assert Settings().run is run


@pytest.mark.parametrize("text", ["Off", "no", "0", "false", " off"])
def test_an_unknown_word_never_leaves_run_on(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ORQAL_RUN", text)
    with pytest.raises(ValueError, match=f"^ORQAL_RUN={text!r} is neither on nor off$"):
        Settings()


@pytest.mark.parametrize(
    ("text", "mounts"),
    [
        ("", {}),
        (",, ,", {}),
        ("/a", {"/a": False}),
        ("/a:ro", {"/a": True}),
        ("/a/,//b//c:ro , /d/./e/../f", {"/a": False, "/b/c": True, "/d/f": False}),
        ("/a b/ü", {"/a b/ü": False}),
        # Jobs cannot put a link below a read-only path.
        ("/a:ro,/a/b,/ab/c", {"/a": True, "/a/b": False, "/ab/c": False}),
    ],
)
def test_paths_that_may_be_mounted(monkeypatch: pytest.MonkeyPatch, text: str, mounts: dict[str, bool]) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", text)
    assert Settings().run_mounts == mounts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("data", "'data' is not an absolute path"),
        ("/a,../b:ro", "'../b' is not an absolute path"),
        ("/a:rw", "a path may be followed by ':ro', not by ':rw'"),
        ("/a:", "a path may be followed by ':ro', not by ':'"),
        ("/a:/b:ro", "a path may be followed by ':ro', not by ':/b:ro'"),
        ("/a,/a:ro", "/a is listed twice"),
        ("/a/b/c:ro,/a", "/a/b/c lies below /a, which jobs may write to"),
        ("/a,/a/../a/b", "/a/b lies below /a, which jobs may write to"),
        ("/,/a:ro", "/a lies below /, which jobs may write to"),
    ],
)
def test_invalid_mounts_are_refused(monkeypatch: pytest.MonkeyPatch, text: str, problem: str) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", text)
    with pytest.raises(ValueError, match=f"^ORQAL_RUN_MOUNTS: {problem}"):
        Settings()


def test_every_variable_is_documented_and_no_other() -> None:
    used = {
        variable
        for file in (REPOSITORY / "orqal").rglob("*.py")
        for variable in re.findall(r"\bORQAL_[A-Z_]+\b", file.read_text())
    }
    used -= {"ORQAL_DIED"}  # a finding of the doctor
    assert {variable for variable in DOCUMENTED if variable.startswith("ORQAL_")} == used
    assert all(len(cells) == 4 and all(cells) for cells in DOCUMENTED.values())
    # The docstring of each field begins with its variable.
    source = (REPOSITORY / "orqal" / "settings.py").read_text()
    for name in [f.name.removesuffix("_text").upper() for f in fields(Settings)]:
        assert f'"""ORQAL_{name} (' in source and f"ORQAL_{name}" in DOCUMENTED


@pytest.mark.parametrize("name", NUMBERS)
def test_the_documented_default_of_a_number_is_the_real_one(name: str) -> None:
    _, kind, default, _ = DOCUMENTED[f"ORQAL_{name.upper()}"]
    assert float(default) == getattr(Settings(), name)
    assert kind.startswith("whole number") == (Settings.__annotations__[name] == "int")


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_has_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = getattr(Settings(), name)
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "7")
    assert getattr(Settings(), name) == 7
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "")
    assert getattr(Settings(), name) == default
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "much")
    with pytest.raises(ValueError, match=f"^ORQAL_{name.upper()}='much' is not a number$"):
        Settings()
    for wrong in ("nan", "inf", "-1"):
        monkeypatch.setenv(f"ORQAL_{name.upper()}", wrong)
        with pytest.raises(ValueError, match=f"^ORQAL_{name.upper()}='{wrong}' is not a number of 0 or more$"):
            Settings()
    monkeypatch.setenv(f"ORQAL_{name.upper()}", "1.5")
    if Settings.__annotations__[name] == "int":
        with pytest.raises(ValueError, match=f"^ORQAL_{name.upper()}=1.5 is not a whole number$"):
            Settings()
    else:
        assert getattr(Settings(), name) == 1.5


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


def test_the_running_cluster_is_described_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    settings = Settings()
    assert settings.running_cluster() is None
    settings.running_path.write_text('{"api_url": "http://127.0.0.1:7/api"}')
    assert settings.running_cluster() == {"api_url": "http://127.0.0.1:7/api"}
    for damaged in ("", "{", "[]", "null"):
        settings.running_path.write_text(damaged)
        assert settings.running_cluster() is None


def test_the_token_is_the_variable_or_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    write_secret(settings.token_path, "from the file\n")
    assert settings.token == "from the file"
    monkeypatch.setenv("ORQAL_TOKEN", " given ")
    assert settings.token == "given"
    monkeypatch.delenv("ORQAL_TOKEN")
    write_secret(settings.token_path, " \n")
    assert settings.token is None


def test_the_token_of_the_metrics_is_a_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    monkeypatch.setenv("ORQAL_TOKEN", "the API's")
    assert settings.metrics_token is None
    write_secret(settings.metrics_token_path, "read only\n")
    assert settings.metrics_token == "read only"
