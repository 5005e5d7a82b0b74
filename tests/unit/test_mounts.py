"""No mount that an administrator lists, and none of a wrapper, gives a job the host."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orqal import mounts
from orqal.settings import Settings
from tests.support.folders import mounted

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and be another user")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a home, a folder of jobs, wrappers and data of a lab."""
    for name in list(os.environ):
        if name.startswith("ORQAL_") or name == "DOCKER_HOST":
            monkeypatch.delenv(name)
    for name in ("user", "orqal", "jobs", "data", "services"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path / "orqal"))
    monkeypatch.setenv("ORQAL_JOBS_DIR", str(tmp_path / "jobs"))
    monkeypatch.setenv("ORQAL_SERVICES", str(tmp_path / "services"))
    monkeypatch.setenv("ORQAL_STORE", str(tmp_path / "data" / "store" / "orqal.sqlite"))
    return tmp_path


ATTACKS = [
    # A job replaces its directory, or the folder of all of them, by a link.
    *("{}", "{}/jobs", "{}/jobs/0123456789abcdef01234567"),
    # It reads a token, or writes the code that Orqal will load.
    *("{}/orqal", "{}/orqal:ro", "{}:ro", "{}/jobs:ro", "{}/services", "{}/services/below"),
    # It reads or changes all jobs.
    *("{}/data", "{}/data/store", "{}/data/store:ro", "{}/data/store/orqal.sqlite:ro"),
    # It lets someone log in as Orqal's user.
    *("{}/user", "{}/user/.ssh"),
    # It talks to the Docker daemon: a read-only mount does not prevent that.
    *("/", "/:ro", "/run", "/run:ro", "/var/run:ro", "/var:ro", "/var/run/docker.sock:ro", "/run/docker.sock"),
    # It changes the system.
    *("/etc", "/etc/cron.d", "/root", "/usr/local/bin", "/bin", "/proc", "/sys", "/dev", "/var/lib/docker", "/boot"),
    # By detours.
    *("{}/to-jobs", "{}/to-all", "/x/../etc", "//etc", "{}/to-etc", "/var/lib"),
]


@pytest.mark.parametrize("variable", ["ORQAL_RUN_MOUNTS", "ORQAL_VOLUMES"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_would_give_jobs_the_host_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, variable: str, attack: str
) -> None:
    (place / "to-jobs").symlink_to(place / "jobs")
    (place / "to-all").symlink_to(place)
    (place / "to-etc").symlink_to("/etc")
    monkeypatch.setenv(variable, attack.format(place))
    with pytest.raises(ValueError, match=f"^{variable}: .* may not be mounted"):
        Settings()


def test_jobs_that_are_reached_by_a_link_are_found_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "data" / "jobs").mkdir()
    (place / "link").symlink_to(place / "data" / "jobs")
    monkeypatch.setenv("ORQAL_STORE", str(place / "orqal" / "orqal.sqlite"))
    monkeypatch.setenv("ORQAL_JOBS_DIR", str(place / "link"))
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", str(place / "data"))
    with pytest.raises(ValueError, match="may not be mounted"):
        Settings()


def test_another_docker_socket_is_found_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", "/opt/docker:ro")
    Settings()
    monkeypatch.setenv("DOCKER_HOST", "unix:///opt/docker/my.sock")
    with pytest.raises(ValueError, match=r"/opt/docker/my\.sock"):
        Settings()


@pytest.mark.parametrize(
    ("run", "volumes"),
    [("/lab", "/lab/reference:ro"), ("/lab/reference:ro", "/lab"), ("/lab:ro,/lab/x", "/lab"), ("/lab/x", "/lab")],
)
def test_links_that_one_variable_lets_jobs_put_are_not_followed_by_the_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, run: str, volumes: str
) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", run)
    monkeypatch.setenv("ORQAL_VOLUMES", volumes)
    with pytest.raises(ValueError, match="lies below /lab, which jobs may write to"):
        Settings()


def test_a_path_that_leads_by_a_link_to_what_jobs_may_write_to_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "user" / "data" / "below").mkdir(parents=True)
    (place / "link").symlink_to(place / "user" / "data" / "below")
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", f"{place}/user/data")
    monkeypatch.setenv("ORQAL_VOLUMES", f"{place}/link:ro")
    with pytest.raises(ValueError, match=r"lies below .*/user/data, which jobs may write to"):
        Settings()


@pytest.mark.parametrize(
    ("run", "volumes"),
    [
        ("/lab", "/lab"),
        ("/lab", "/laboratory:ro"),
        ("/lab:ro", "/lab/reference,/other"),
        ("{}/user/data,/home/me/data", "/etc:ro,/usr/share:ro"),
        ("/run/media/me/disk,/var/data", "/bin-of-the-lab,/datasets:ro"),
        ("{}/orqal/data", ""),
    ],
)
def test_what_gives_nothing_is_accepted(place: Path, monkeypatch: pytest.MonkeyPatch, run: str, volumes: str) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", run.format(place))
    monkeypatch.setenv("ORQAL_VOLUMES", volumes)
    assert set(Settings().volumes) == {path.removesuffix(":ro") for path in volumes.split(",") if path}


# Programs with the setuid bit


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everyone may enter, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


AS_NOBODY = """
import os, subprocess, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    print(subprocess.check_output([sys.argv[1], "-u"], text=True).strip())
except OSError:
    print("refused")
"""


def effective_user(folder: Path) -> str:
    """Who a user of the host becomes by the program that a job has left in a folder."""
    program = folder / "program"
    shutil.copy("/usr/bin/id", program)
    program.chmod(stat.S_ISUID | 0o755)
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, program], capture_output=True, text=True, check=True
    ).stdout.strip()


@as_root
def test_a_writable_mount_lets_no_user_of_the_host_become_root(open_folder: Path) -> None:
    data = open_folder / "data"
    data.mkdir()
    # The attack works where the rule says so, and only there.
    assert effective_user(data) == "0" and mounts.lets_users_become_root(str(data))
    assert mounts.lets_users_become_root(str(data / "missing"))
    data.chmod(0o700)
    assert effective_user(data) == "refused" and not mounts.lets_users_become_root(str(data))
    os.chown(data, 65534, 65534)  # its owner may enter
    assert effective_user(data) == "0" and mounts.lets_users_become_root(str(data))
    os.chown(data, 0, 0)
    data.chmod(0o755)
    open_folder.chmod(0o700)
    assert effective_user(data) == "refused" and not mounts.lets_users_become_root(str(data))
    open_folder.chmod(0o755)
    (open_folder / "link").symlink_to(data)
    assert mounts.lets_users_become_root(str(open_folder / "link"))
    with mounted(data, "4m"):
        data.chmod(0o755)
        assert effective_user(data) == "0" and mounts.lets_users_become_root(str(data))
        subprocess.run(["mount", "-o", "remount,nosuid", data], check=True)
        assert effective_user(data) == "65534" and not mounts.lets_users_become_root(str(data))
