"""Orqal with its jobs in a MongoDB, on a real engine."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.mongo_server import Server
from tests.support.orqal_process import Orqal, free_port

SECRET = "hush-hush"


@pytest.fixture
def home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="orqal-test-"))
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def on_mongo(image: str, mongo: Server) -> Iterator[Orqal]:
    """An Orqal with its jobs in a MongoDB."""
    home = Path(tempfile.mkdtemp(prefix="orqal-test-"))
    with mongo.database() as url:
        orqal = Orqal(home, settings={"ORQAL_STORE": url, "ORQAL_STOP_GRACE": "1"})
        try:
            orqal.up()
            yield orqal
            if orqal.processes():
                orqal.down()
        finally:
            if orqal.processes():
                orqal.cli("down", check=False)
            for container in orqal.containers():
                container.remove(force=True)
            shutil.rmtree(home)


def _everything(orqal: Orqal) -> list[dict[str, object]]:
    with orqal.http() as http:
        return [http.get(f"/job/{job['_id']}").json() for job in http.get("/jobs").json()["jobs"]]


@pytest.mark.timeout(240)
def test_while_the_server_is_away_the_api_says_so_and_nothing_is_lost(on_mongo: Orqal, mongo: Server) -> None:
    orqal = on_mongo
    if mongo.restart is None:
        pytest.skip("needs a MongoDB server that the test may kill")
    away = threading.Thread(target=mongo.restart, args=[20])
    command = ["sh", "-c", "sleep 5; echo whole"]
    job = orqal.submit("Run", params={"image": "orqal/demo", "cmd": command, "network": "none"})
    orqal.running(job)
    away.start()
    asked = [("GET", f"/api/job/{job}"), ("GET", f"/job/{job}"), ("POST", "/api/job")]

    def refused(asked: tuple[str, str]) -> httpx.Response:
        with orqal.http() as http:
            while away.is_alive():
                body = {"app": "Test", "use_cache": False} if asked[0] == "POST" else None
                answer = http.request(asked[0], f"{orqal.root}{asked[1]}", json=body)
                if not answer.is_success:
                    return answer
                time.sleep(0.1)
        raise AssertionError(f"{asked} was answered all the time")

    with ThreadPoolExecutor() as pool:
        doctor = pool.submit(orqal.cli, "doctor", "--json", "--fix", check=False)
        api, page, submission = pool.map(refused, asked)
    away.join()
    assert (api.status_code, page.status_code, submission.status_code) == (503, 503, 503)
    assert "the store of jobs cannot be read now" in api.json()["detail"]
    assert api.headers["Retry-After"] == "5"
    assert "The store of jobs cannot be read now" in page.text
    assert "the store of jobs cannot be written now" in submission.json()["detail"]
    url = orqal.settings["ORQAL_STORE"]
    found = {finding["kind"]: finding["subject"] for finding in json.loads(doctor.result().stdout)["findings"]}
    assert found["store_silent"] == (url.rpartition("?")[0] or url), found
    ended = orqal.ended(job)
    assert (ended["ok"], ended["attempt"], ended["stdout"]) == (True, 1, ["whole", ""])


@pytest.mark.timeout(240)
def test_jobs_in_a_mongodb_are_there_for_the_next_scheduler_and_move_to_sqlite_and_back(
    on_mongo: Orqal, mongo: Server
) -> None:
    """The last test on this Orqal: afterwards it is down."""
    orqal, home = on_mongo, on_mongo.home
    with orqal.http() as http:  # what the test before this one submitted ends
        http.post("/jobs/cancel", json={"all": True}).raise_for_status()
        http.post("/jobs/wait", json={"all": True}).raise_for_status()
    assert orqal.command("sh", "-c", "echo out; echo err >&2; exit 3", batch="b")["exit_code"] == 3
    assert orqal.command("true", batch="b")["ok"]
    assert orqal.run("Nothing of the kind")["error"]["type"] == "no_such_app"
    refused = orqal.cli("copy-store", str(home / "other.sqlite"), check=False)
    assert refused.returncode == 1 and "orqal down" in refused.stderr
    before = _everything(orqal)
    assert len(before) >= 3
    # Another Scheduler knows what the first one wrote, and goes on with it.
    orqal.kill("Scheduler")
    assert _everything(orqal) == before
    assert orqal.command("true")["ok"]
    before = _everything(orqal)
    orqal.down()
    assert not (home / "orqal.sqlite").exists()
    # To a file, and what runs on the file says the same; then back, into another database.
    there = json.loads(orqal.cli("copy-store", str(home / "orqal.sqlite"), "--json").stdout)
    assert there["rows"]["jobs"] == len(before)
    assert there["from"] == orqal.settings.pop("ORQAL_STORE").replace("?", "").rstrip("/")
    orqal.up()
    assert _everything(orqal) == before
    orqal.down()
    with mongo.database() as other:
        text = orqal.cli("copy-store", other).stdout
        assert f"{len(before)} jobs" in text and "ORQAL_STORE" in text
        back = json.loads(orqal.cli("copy-store", other, "--json").stdout)  # once more: it is the same
        assert back["sha256"] == there["sha256"]


def test_up_without_the_server_says_what_to_do_and_leaves_nothing(image: str, home: Path) -> None:
    url = f"mongodb://lab:{SECRET}@127.0.0.1:{free_port()}/lab"
    orqal = Orqal(home, settings={"ORQAL_STORE": url})
    done = orqal.cli("up", "--port", str(orqal.port), check=False, timeout=30)
    words = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "No MongoDB answers at mongodb://127.0.0.1" in words and "ORQAL_STORE" in words
    assert SECRET not in done.stdout + done.stderr
    assert orqal.processes() == []
    assert not any(SECRET.encode() in file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_copying_to_nowhere_and_from_nothing(home: Path) -> None:
    orqal = Orqal(home)
    done = orqal.cli("copy-store", f"mongodb://lab:{SECRET}@127.0.0.1:{free_port()}/lab", check=False)
    assert done.returncode == 1 and "There is no store at" in done.stderr
    assert SECRET not in done.stderr and not (home / "orqal.sqlite").exists()
