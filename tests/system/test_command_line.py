"""The command line against a real Orqal."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import signal
from pathlib import Path

from tests.support.orqal_process import Orqal


def test_run_streams_both_outputs_and_exits_as_the_container(orqal: Orqal) -> None:
    done = orqal.cli_bytes("run", "orqal/demo", "--", "sh", "-c", r"printf 'a\377\n'; echo err >&2; exit 41")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\xff\n", b"err\n", 41)


def test_run_shows_output_while_it_runs(orqal: Orqal) -> None:
    process = orqal.popen("run", "orqal/demo", "--", "sh", "-c", "echo first; read x < /tmp/never || sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    # Ctrl-C leaves nothing behind: the orqal fixture looks for the container.
    assert process.returncode == 130
    [job] = orqal.http().get("/jobs", params={"limit": 1}).json()["jobs"]
    assert orqal.ended(job["_id"])["error"]["type"] == "cancelled"


def test_run_of_what_cannot_be_run(orqal: Orqal) -> None:
    done = orqal.cli("run", "orqal/demo", "--", "no-such-command", check=False)
    assert done.returncode == 127
    assert "does not exist in the image" in " ".join(done.stderr.split())


def test_submit_wait_results_and_the_rest(orqal: Orqal) -> None:
    done = orqal.cli("submit", "Checksum", "/usr/bin/env", "/usr/bin/sort", "--batch", "cli", "--wait", "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 2
    rows = [json.loads(line) for line in orqal.cli("results", "cli", "--format", "json").stdout.splitlines()]
    assert [row["input"] for row in rows] == ["/usr/bin/env", "/usr/bin/sort"]
    assert rows[0]["result"]["bytes"] == Path("/usr/bin/env").stat().st_size
    table = list(csv.DictReader(io.StringIO(orqal.cli("results", "cli", "--format", "csv").stdout)))
    assert [int(row["result.bytes"]) for row in table] == [row["result"]["bytes"] for row in rows]
    assert rows[0]["result"]["sha256"][:8] in orqal.cli("results", "cli").stdout
    job_id = rows[0]["_id"]
    assert json.loads(orqal.cli("job", job_id, "--json").stdout)["result"] == rows[0]["result"]
    assert job_id in orqal.cli("job", job_id).stdout
    assert orqal.cli("logs", job_id).stdout.split()[0] == rows[0]["result"]["sha256"]
    assert [json.loads(line)["_id"] for line in orqal.cli("jobs", "--batch", "cli", "--json").stdout.splitlines()] == [
        rows[1]["_id"],
        job_id,
    ]
    assert orqal.cli("wait", "--batch", "cli").returncode == 0


def test_params_and_failures(orqal: Orqal) -> None:
    done = orqal.cli("submit", "Test", "x", "--param", "exit_code=3", "--param", "echo=hello", "--wait", check=False)
    assert done.returncode == 1
    [job] = orqal.http().get("/jobs", params={"limit": 1}).json()["jobs"]
    assert (job["params"], job["exit_code"]) == ({"exit_code": 3, "echo": "hello"}, 3)
    assert orqal.cli("wait", job["_id"], check=False).returncode == 1


def test_batch_of_a_file_and_of_standard_input(orqal: Orqal, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text("".join(json.dumps({"app": "Test", "params": {"echo": n}}) + "\n" for n in range(6)))
    orqal.cli("batch", str(file), "--name", "from-file", "--wait")
    assert orqal.http().get("/batches/from-file").json()["ok"] == 6
    orqal.cli("batch", "-", "--name", "from-input", "--wait", input=file.read_bytes())
    assert orqal.http().get("/batches/from-input").json()["ok"] == 6


def test_cancel_of_a_batch(orqal: Orqal) -> None:
    orqal.cli("submit", "Test", "a", "b", "c", "d", "e", "f", "--param", "time=1000", "--batch", "long")
    orqal.cli("cancel", "--batch", "long")
    orqal.cli("wait", "--batch", "long", check=False)
    assert orqal.http().get("/batches/long").json()["status"] == {"error": 6}


def test_apps_hosts_status_resources(orqal: Orqal) -> None:
    assert "Checksum" in [app["name"] for app in json.loads(orqal.cli("apps", "--json").stdout)]
    [host] = json.loads(orqal.cli("hosts", "--json").stdout)
    assert host["state"] == "ready"
    assert host["name"] in orqal.cli("hosts").stdout
    assert "exited" in orqal.cli("status").stdout
    assert json.loads(orqal.cli("status", "--json").stdout)
    resources = json.loads(orqal.cli("resources").stdout)
    assert resources == {"threads": host["threads"], "ram_gb": host["ram_gb"]}


def test_completion_offers_the_apps(orqal: Orqal) -> None:
    import subprocess

    from tests.support.orqal_process import ORQAL

    done = subprocess.run(
        ORQAL,
        env=orqal.environ | {"_ORQAL_COMPLETE": "complete_bash", "COMP_WORDS": "orqal submit Chec", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == ["Checksum"]


def test_what_failed_is_explained_and_retried(orqal: Orqal) -> None:
    name = f"again{secrets.token_hex(4)}"
    orqal.cli("submit", "Test", "-p", "exit_code=3", "--no-cache", "--batch", name, "--wait", check=False)
    batches = [json.loads(line) for line in orqal.cli("batches", "--json").stdout.splitlines()]
    [batch] = [batch for batch in batches if batch["name"] == name]
    assert (batch["jobs"], batch["failed"]) == (1, 1)
    assert name in orqal.cli("batches").stdout
    [job] = [
        json.loads(line) for line in orqal.cli("jobs", "--batch", name, "--since", "1h", "--json").stdout.splitlines()
    ]
    assert "exited with 3" in orqal.cli("explain", job["_id"]).stdout.replace("\n", " ")
    orqal.cli("retry", "--batch", name)
    [new] = [json.loads(line) for line in orqal.cli("jobs", "--batch", name, "--json").stdout.splitlines()]
    assert new["retry_of"] == job["_id"]
    orqal.cli("wait", new["_id"], check=False)


def test_a_batch_file_that_is_submitted_again_makes_no_second_job(orqal: Orqal, tmp_path: Path) -> None:
    name = f"twice{secrets.token_hex(4)}"
    file = tmp_path / "jobs.jsonl"
    lines = [json.dumps({"app": "Test", "input": [name, number], "use_cache": False}) for number in range(3)]
    file.write_text("\n".join(lines[:2]))
    first = orqal.cli("batch", str(file), "--name", name, "--json").stdout.splitlines()
    file.write_text("\n".join(lines))
    second = orqal.cli("batch", str(file), "--name", name, "--json").stdout.splitlines()
    assert second[:2] == first and len(second) == 3
    assert orqal.http().get(f"/batches/{name}").json()["jobs"] == 3


def test_cleaning_wants_to_be_meant(orqal: Orqal) -> None:
    assert orqal.cli("clean", "old", check=False).returncode != 0
    orqal.cli("clean", "old", "--yes")
