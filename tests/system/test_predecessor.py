"""The predecessor's users move over unchanged: their published client, and every route it and older ones know.

docs/compatibility.md names these tests beside the routes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from tests.support.orqal_process import Orqal
from tests.support.predecessor import Client, make_images, needed_programs

pytestmark = pytest.mark.timeout(400)

DATABASE = Path("/database")
"""The folder that the built-in Rabin2 and Yara may read."""


@pytest.fixture(scope="module")
def published() -> Iterator[Client]:
    """The client from its package."""
    folder = Path(tempfile.mkdtemp(prefix="orqal-client-"))
    yield Client(folder / "venv")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tools() -> None:
    """The images radare/radare2 and blacktop/yara."""
    if missing := needed_programs():
        if os.environ.get("ORQAL_REQUIRE_DOCKER"):
            pytest.fail(f"programs are missing: {missing}")
        pytest.skip(f"needs the programs {', '.join(missing)}: scripts/tools.sh installs them as root")
    make_images()


@pytest.fixture
def database() -> Iterator[Path]:
    """A folder of real binaries below /database."""
    there = DATABASE.exists()
    if not os.access(DATABASE if there else "/", os.W_OK):
        pytest.skip(f"this user may not write {DATABASE}, which the built-in apps read")
    folder = DATABASE / f"orqal-test-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    for name in ("cat", "ls", "env", "sort"):
        shutil.copy(shutil.which(name) or "", folder / name)
    yield folder
    shutil.rmtree(folder)
    if not there:
        DATABASE.rmdir()


NOTEBOOK = """
import json, os, requests
from orqal import Job, batch, services, wait
assert {"Rabin2", "Yara", "Report"} <= set(services()), services()
folder = os.environ["FOLDER"]
one = Job(app="Rabin2", input=folder + "/cat", params={}, start=True)
assert len(one._id) == 24 and one.current_status in ("todo", "init", "running", "exited"), one.current_status
jobs = batch([Job(app="Rabin2", input=folder + "/" + name) for name in sorted(os.listdir(folder))])
wait(jobs + [one])
report = Job(app="Report", params={"word": "said"}, start=True)
yara = Job(app="Yara", input=[folder + "/rules.yar", folder + "/cat"], start=True)
wait([report, yara])
for job in (report, yara):
    job.load()
file = requests.get(report.files["report.txt"])
file.raise_for_status()
print(json.dumps({
    "results": [job.result for job in jobs], "one": one.__dict__, "report": file.text, "files": sorted(report.files),
    "stdout": report.stdout, "stderr": report.stderr, "yara": yara.result, "shown": repr(report),
}))
"""


def test_the_published_client_in_the_first_notebook(
    published: Client, open_to_all: Orqal, tools: None, database: Path, tmp_path: Path
) -> None:
    (database / "rules.yar").write_text("rule elf { strings: $m = { 7F 45 4C 46 } condition: $m at 0 }\n")
    names = sorted(path.name for path in database.iterdir())
    program = f"import os; os.environ['FOLDER'] = {str(database)!r}\n{NOTEBOOK}"
    done = published.run(program, f"{open_to_all.root}/api", tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name, result in zip(names, said["results"], strict=True):
        if name == "rules.yar":  # no binary: its tool fails, and the job ends all the same
            continue
        assert result["class"] == "ELF64" and result["type"] in ("DYN", "EXEC"), result
        assert int(result["text_size"]) > 1_000
    assert said["one"]["result"] == said["results"][names.index("cat")]
    assert said["one"]["current_status"] == "exited" and said["one"]["image"] == "radare/radare2"
    assert said["report"] == "hello\n" and said["files"] == ["params.json", "report.txt"]
    assert said["stdout"] == ["said", ""] and said["stderr"] == []
    assert said["yara"] == {"elf": [f"{database}/cat"]}


THOUSANDS = """
from orqal import Job, batch, wait
jobs = batch([Job(app="Nope", input=number) for number in range(2500)])
print(len(jobs), len({job._id for job in jobs}))
wait(jobs[:3] + jobs[-3:])
jobs[-1].load()
print(jobs[-1].input, jobs[-1].current_status)
again = batch([Job(app="Test", input=number % 10, params={"a": 1, "b": 2}) for number in range(1200)])
print(len(again), len({job._id for job in again}))
"""


def test_the_published_client_submits_thousands_in_its_slices(
    published: Client, open_to_all: Orqal, tmp_path: Path
) -> None:
    done = published.run(THOUSANDS, f"{open_to_all.root}/api", tmp_path)
    assert done.returncode == 0, done.stderr
    # Ten inputs are ten jobs: the others are answered with them.
    assert done.stdout.splitlines() == ["2500 2500", "2499 error", "1200 10"]


def test_the_published_client_with_the_token_in_its_address(published: Client, orqal: Orqal, tmp_path: Path) -> None:
    address = orqal.root.replace("http://", f"http://anyone:{orqal.token}@")
    done = published.run("from orqal import services; print(services())", f"{address}/api", tmp_path)
    assert "Rabin2" in done.stdout, done.stderr


# The routes


def plain(orqal: Orqal) -> httpx.Client:
    """As a program of 0.0.12's users speaks: without a token."""
    return httpx.Client(base_url=f"{orqal.root}/api", timeout=60)


def old_job(app: str = "Nope", **more: Any) -> bytes:
    """A job as the published client sends it."""
    keys: dict[str, Any] = {
        "_id": None,
        "current_status": None,
        "container": None,
        "lswd": [],
        "stdout": [],
        "stderr": [],
    }
    return json.dumps({**keys, "app": app, "input": "i", "params": {}, "user": "u", "result": None, **more}).encode()


def test_a_named_batch_is_overwritten_and_asked_for(open_to_all: Orqal) -> None:
    name = f"old {secrets.token_hex(4)}"
    with plain(open_to_all) as http:
        assert http.get(f"/batch/{name}").status_code == 404
        for count in (3, 2):
            documents = b"".join(old_job(input=[name, count, number]) for number in range(count))
            answer = http.post(f"/batch/{name}", content=documents).raise_for_status().content
            ids = [answer[start : start + 12].hex() for start in range(0, len(answer), 12)]
            assert len(ids) == count
            batch = http.get(f"/batch/{name}").raise_for_status().json()
            assert batch == {"_id": name, "jobs": [{"$oid": job} for job in ids]}


def test_counts_for_any_page(open_to_all: Orqal) -> None:
    with plain(open_to_all) as http:
        answer = http.get("/jobs/status").raise_for_status()
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json()["todo"] >= 0


def test_load_and_status_in_their_form(open_to_all: Orqal) -> None:
    with plain(open_to_all) as http:
        [load] = http.get("/load").raise_for_status().json()
        status = http.get("/status").raise_for_status().json()
    [(host, values)] = load.items()
    assert {"mem", "cpu", "images"} <= set(values)
    assert status["hosts"] == [host] and status["nodes"][host]["info"]["NCPU"] > 0
    assert {"_id", "_services", "status", "containers"} <= set(status)


def test_the_stream_of_a_running_container(open_to_all: Orqal) -> None:
    orqal = open_to_all
    with plain(orqal) as http:
        params = {"image": "orqal/demo", "cmd": ["sh", "-c", "echo begun; sleep 2; echo ended"], "network": "none"}
        job = http.post("/job", content=old_job("Run", params=params, use_cache=False)).text
        with http.stream("GET", f"/job/{job}/logs", params={"follow": 1}) as logs:
            assert b"begun" in next(logs.iter_raw())
            record = http.get(f"/job/{job}").json()
            where = f"{record['host']}/{record['container_id']}"
            assert http.get(f"/stream/http://elsewhere/{record['container_id']}").status_code == 404
            assert http.get(f"/stream/http://{where}").text == "begun\nended\n"
        assert http.get(f"/stream/http://{where}").status_code == 404
        assert http.get(f"/stream/http://{record['host']}/{'0' * 64}").status_code == 404


def test_the_dataset_is_the_administrators_file(open_to_all: Orqal) -> None:
    with plain(open_to_all) as http:
        assert http.get("/dataset.json").raise_for_status().json() == []
        (open_to_all.home / "dataset.json").write_text('[{"_id": 1}]')
        assert http.get("/dataset.json").json() == [{"_id": 1}]


@pytest.fixture
def strangers(image: str) -> Iterator[list[Any]]:
    """Containers that this Orqal did not start: one of nobody's, and one of another Orqal's."""
    engine = docker.from_env()
    all_labels: list[dict[str, str]] = [{}, {"orqal.cluster": "another", "orqal.job": "f" * 24, "orqal.attempt": "1"}]
    started = [
        engine.containers.run(image, ["sleep", "1000"], detach=True, network_mode="none", labels=labels)
        for labels in all_labels
    ]
    yield started
    for container in started:
        container.remove(force=True)
    engine.close()


def test_cleaning(open_to_all: Orqal, strangers: list[Any]) -> None:
    orqal = open_to_all
    params = {"image": "orqal/demo", "cmd": ["sleep", "100"], "network": "none"}
    with plain(orqal) as http:
        running = http.post("/job", content=old_job("Run", params=params, use_cache=False)).text
        orqal.running(running)
        ended = orqal.run("Report", params={"word": secrets.token_hex(4)})
        failed = http.post("/job", content=old_job(input=secrets.token_hex(4))).text
        directory = orqal.home / "jobs" / ended["_id"]
        stray = orqal.home / "jobs" / ("f" * 24)
        stray.mkdir()
        kept = orqal.home / "jobs" / "notes"
        kept.mkdir()
        assert http.get("/clean/scheduled").raise_for_status().text == "all jobs scheduled purged"
        assert http.get(f"/job/{failed}").status_code == 404
        assert http.get(f"/job/{ended['_id']}").status_code == 200 and directory.exists()
        assert http.get("/clean/old").raise_for_status().text == f"{stray.name}\n"
        assert not stray.exists() and kept.exists() and directory.exists()
        assert http.get("/clean/all").raise_for_status().text == "all jobs purged"
        assert http.get(f"/job/{ended['_id']}").status_code == 404 and not directory.exists()
        assert http.get(f"/job/{running}").json()["current_status"] == "running"
        assert http.get("/clean/containers").raise_for_status().text == "containers removed"
        assert http.get(f"/job/{running}").json()["error"]["type"] == "cancelled"
        assert http.get("/clean/everything").status_code == 422
    for container in strangers:
        container.reload()
        assert container.status == "running"
