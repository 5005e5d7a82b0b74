"""The Python API, as the first document's users write it."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.orqal_process import Orqal


def _out(orqal: Orqal, code: str) -> Any:
    done = orqal.python(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_job_batch_wait_services(orqal: Orqal) -> None:
    code = """
import json
from orqal import Job, batch, wait, services
assert "Checksum" in services()
job = Job(app="Test", input="in", params={"echo": "hello"}, start=True)
wait([job])
jobs = batch([Job(app="Checksum", input=path) for path in ("/usr/bin/env", "/usr/bin/sort")], "python")
wait(jobs)
again = batch([Job(app="Checksum", input=path) for path in ("/usr/bin/env", "/usr/bin/sort")], "python")
print(json.dumps({
    "stdout": job.stdout, "stderr": job.stderr, "status": job.current_status, "loaded": job.load(),
    "bytes": [j.result["bytes"] for j in jobs], "same": [j._id for j in again] == [j._id for j in jobs],
}))
"""
    from pathlib import Path

    assert _out(orqal, code) == {
        "stdout": ["hello", ""],
        "stderr": [],
        "status": "exited",
        "loaded": "exited",
        "bytes": [Path(path).stat().st_size for path in ("/usr/bin/env", "/usr/bin/sort")],
        "same": True,
    }
    assert orqal.http().get("/batches/python").json()["jobs"] == 2


def test_files(orqal: Orqal, services: object, tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(services, Path)
    (services / "writer.py").write_text(
        "class Writer(AbstractWrapper):\n"
        "    docker_url, threads, memory_in_gb = 'orqal/demo', 0.5, 0.05\n"
        "    create_dir = True\n"
        "    def get_cmd(self, params):\n"
        "        return ['sh', '-c', 'echo \"$0\" > answer.txt', self.job.input]\n"
        "    def set_result(self, job):\n"
        "        job.set_result(job.lswd)\n"
    )
    code = f"""
import json, pathlib
from orqal import Job, wait
job = Job(app="Writer", input="written inside", start=True)
wait([job])
to = job.download("answer.txt", {str(tmp_path)!r})
print(json.dumps([job.result, job.files["answer.txt"], pathlib.Path(to).read_text()]))
"""
    result, url, text = _out(orqal, code)
    assert result == ["answer.txt", "params.json"]
    assert url.startswith(f"{orqal.root}/api/job/")
    assert text == "written inside\n"


def test_what_goes_wrong_says_what_to_do(orqal: Orqal) -> None:
    code = "from orqal import services; services()"
    gone = Orqal(orqal.home, settings={"ORQAL_API_URL": "http://127.0.0.1:9/api"}).python(code)
    assert "orqal up" in gone.stderr
    stranger = Orqal(orqal.home, settings={"ORQAL_TOKEN": "wrong"}).python(code)
    assert "ORQAL_TOKEN" in stranger.stderr


def test_progress_in_a_notebook(orqal: Orqal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in orqal.environ.items():
        monkeypatch.setenv(name, value)
    cells = [
        "from orqal import Job, batch, wait",
        "jobs = batch([Job(app='Test', params={'echo': n}) for n in range(3)])\nwait(jobs)",
        "jobs[0]",
    ]
    v4: Any = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60).execute()
    shown = json.dumps([cell["outputs"] for cell in notebook.cells])
    assert "3" in shown
    assert "display_data" in shown or "update_display_data" in shown
    assert "text/html" in json.dumps(notebook.cells[1]["outputs"])
    assert "exited" in json.dumps(notebook.cells[2]["outputs"])


def test_progress_in_a_terminal(orqal: Orqal) -> None:
    import os
    import pty
    import subprocess
    import sys

    master, slave = pty.openpty()
    code = "from orqal import Job, batch, wait; wait(batch([Job(app='Test') for _ in range(3)]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=orqal.environ | {"TERM": "xterm"}, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
    except OSError:  # the other end of a terminal was closed
        pass
    assert process.wait(30) == 0
    os.close(master)
    assert b"3/3" in seen
