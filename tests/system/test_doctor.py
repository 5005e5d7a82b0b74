"""`orqal doctor` on a real Orqal: leftovers of each kind are planted, found and repaired; everything else stays."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.orqal_process import ORQAL, Orqal, cgroups_of

LEFTOVERS = """
import time, ray
from ray.util.placement_group import placement_group, placement_group_table

@ray.remote(num_cpus=0)
class Host:
    pass

ray.init(namespace="orqal", logging_level="error", log_to_driver=False)
Host.options(name="host " + "9" * 56, lifetime="detached").remote()
group = placement_group([{"ram_gb": 1}], name="orqal planted", lifetime="detached")
ray.get(group.ready())
"""

GONE = """
class Gone(AbstractWrapper):
    docker_url = "orqal/demo"

    def get_cmd(self, params):
        return "true"
"""


def checkup(orqal: Orqal, *options: str, code: int) -> dict[tuple[str, str], dict[str, Any]]:
    """What `orqal doctor` finds, by kind and subject. Folders that others left in /tmp are not this test's."""
    done = orqal.cli("doctor", "--json", *options, check=False, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    findings = {(found["kind"], found["subject"]): found for found in json.loads(done.stdout)["findings"]}
    strange = {key for key in findings if key[0] == "stale_folder" and "deadbeef" not in key[1]}
    if not strange:
        assert done.returncode == code, done.stdout + done.stderr
    return {key: found for key, found in findings.items() if key not in strange}


def container(orqal: Orqal, cluster: str, job: str) -> Any:
    """One that runs and bears the labels of a job."""
    client = docker.from_env()
    labels = {"orqal.cluster": cluster, "orqal.job": job, "orqal.attempt": "1"}
    return client.containers.run("orqal/demo", ["sleep", "1000"], labels=labels, detach=True, network_mode="none")


@pytest.fixture
def stranger(orqal: Orqal) -> Iterator[Any]:
    """A container of another cluster."""
    made = container(orqal, "another", secrets.token_hex(12))
    yield made
    made.remove(force=True)


@pytest.fixture(scope="module", autouse=True)
def forgotten(running: Orqal) -> None:
    """The apps of the wrapper files that earlier tests removed are forgotten."""
    running.cli("doctor", "--fix", check=False, timeout=120)


@pytest.fixture
def folder() -> Iterator[Path]:
    """The place of what a Ray node that died long ago left."""
    folder = Path(f"/tmp/orqal-{os.getuid()}-deadbeef")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
def test_planted_leftovers_are_found_and_repaired_and_all_else_stays(
    orqal: Orqal, services: Path, stranger: Any, folder: Path
) -> None:
    assert checkup(orqal, code=0) == {}
    runs = orqal.submit("Run", params={"image": "orqal/demo", "cmd": ["sh", "-c", "echo up; sleep 1000"]}, threads=0.5)
    orqal.logs_until(runs, b"up")
    [its_container] = orqal.containers()
    with_directory = orqal.command("true")
    [node] = {host["node_id"] for host in orqal.http().get("/hosts").json()}

    job = secrets.token_hex(12)
    planted = {("stray_container", container(orqal, orqal.cluster, job).id)}
    (orqal.home / "jobs" / job).mkdir(parents=True)
    (orqal.home / "jobs" / job / "file").write_text("left")
    folder.mkdir()
    os.utime(folder, (time.time() - 100_000,) * 2)
    planted |= {("stray_directory", job), ("stale_folder", str(folder))}
    environ = orqal.environ | json.loads(orqal.cli("env", "--json").stdout)
    python = str(Path(ORQAL[0]).with_name("python"))
    subprocess.run([python, "-c", LEFTOVERS], env=environ, check=True, timeout=60)
    planted |= {("stray_lease", "orqal planted"), ("stray_actor", "9" * 56)}
    (orqal.home / "token").chmod(0o644)
    planted.add(("open_secret", str(orqal.home / "token")))
    for cgroup in cgroups_of(orqal.cluster):
        for of_engine in filter(Path.is_dir, cgroup.iterdir()):
            (of_engine / f"{job}_2").mkdir()  # the container may need the other
            planted.add(("stray_cgroup", f"{job}_2"))
    (services / "broken.py").write_text("import no_such_module\n")
    (services / "gone.py").write_text(GONE)
    assert "Gone" in {app["name"] for app in orqal.http().get("/apps").json()}
    (services / "gone.py").unlink()
    planted.add(("broken_wrapper", "Gone"))
    try:
        found = checkup(orqal, code=1)
        assert found.keys() == planted | {("broken_wrapper", "broken")}
        assert all(finding["mended"] is None for finding in found.values())
        shown = orqal.cli("doctor", check=False, timeout=120).stdout
        for finding in found.values():
            assert finding["what"] in " ".join(shown.split()) and finding["remedy"] in " ".join(shown.split())
        after = checkup(orqal, "--fix", code=1)
        assert {key: finding["mended"] for key, finding in after.items()} == {
            **dict.fromkeys(planted, True),
            ("broken_wrapper", "broken"): None,
        }
    finally:
        (services / "broken.py").unlink()
    assert checkup(orqal, code=0) == {}
    assert "All is well." in orqal.cli("doctor", check=False, timeout=120).stdout or _strangers_in_tmp(folder)
    assert not folder.exists() and not (orqal.home / "jobs" / job).exists()
    stranger.reload()
    assert stranger.status == "running"
    its_container.reload()
    assert its_container.status == "running" and orqal.job(runs)["current_status"] == "running"
    assert orqal.job(with_directory["_id"]) == with_directory
    assert {host["node_id"] for host in orqal.http().get("/hosts").json()} == {node}
    assert orqal.http().post(f"/job/{runs}/cancel").json() == {"cancelled": 1}


def _strangers_in_tmp(folder: Path) -> bool:
    return any(folder.parent.glob(f"orqal-{os.getuid()}-*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_nearly_full(orqal: Orqal) -> None:
    jobs = orqal.home / "jobs"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(jobs)], check=True)
    try:
        found = checkup(orqal, code=1)
        assert found.keys() == {("disk_full", str(jobs))}
        assert "0.01 of 0.0 GB are free" in found["disk_full", str(jobs)]["what"]
    finally:
        subprocess.run(["umount", str(jobs)], check=True)


def test_while_it_is_down_this_machine_is_looked_at() -> None:
    home = Path(tempfile.mkdtemp(prefix="orqal-test-"))
    alone = Orqal(home)
    try:
        done = alone.cli("doctor", check=False)
        assert done.returncode == 1 and "Nor is there an Orqal on this machine" in done.stderr
        # It was up, and was killed; then its file was damaged.
        (home / "cluster_id").write_text(alone.cluster + secrets.token_hex(4))
        (home / "cluster.json").write_text(json.dumps({"api_url": f"{alone.root}/api"}))
        (home / "token").write_text("secret")
        (home / "token").chmod(0o644)
        with contextlib.closing(sqlite3.connect(home / "orqal.sqlite")) as connection:
            connection.execute("CREATE TABLE jobs (id)")
        (home / "orqal.sqlite").write_bytes((home / "orqal.sqlite").read_bytes()[:100] + b"\xff" * 8_000)
        wanted = {"orqal_died", "store_damaged", "open_secret"}
        assert {kind for kind, _ in checkup(alone, code=1)} == wanted
        shown = alone.cli("doctor", check=False)
        assert "only this machine was checked" in shown.stderr and "`orqal up`" in shown.stdout
        repaired = {kind: found["mended"] for (kind, _), found in checkup(alone, "--fix", code=1).items()}
        assert repaired == {"orqal_died": None, "store_damaged": None, "open_secret": True}
        assert (home / "token").stat().st_mode & 0o777 == 0o600
    finally:
        shutil.rmtree(home)
