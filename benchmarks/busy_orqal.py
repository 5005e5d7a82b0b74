"""An Orqal of its own for a benchmark, whose host is busy, so that all jobs that are sent to it wait."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from orqal.client import Client

ROOT = Path(__file__).resolve().parent.parent
ORQAL = Path(sys.executable).with_name("orqal")
IMAGE = "orqal/demo"
PARTS = {"Scheduler": "ray::Scheduler", "replica": "ray::ServeReplica", "proxy": "ray::ProxyActor"}
"""How the titles of the processes begin."""


@contextmanager
def busy_orqal() -> Iterator[tuple[Client, dict[str, psutil.Process], int]]:
    """Yield the client of an Orqal in which one job occupies all threads, its processes, and the number of threads."""
    subprocess.run([sys.executable, ROOT / "examples/local_image.py", IMAGE], check=True, stdout=subprocess.DEVNULL)
    home = Path(tempfile.mkdtemp(prefix="orqal-bench-"))
    os.environ["ORQAL_HOME"] = str(home)
    for name in ("ORQAL_API_URL", "ORQAL_TOKEN"):
        os.environ.pop(name, None)
    try:
        subprocess.run([ORQAL, "up"], check=True)
        client = Client()
        [host] = client.hosts()
        params = {"image": IMAGE, "cmd": ["sleep", "1000000"], "network": "none"}
        client.submit(json.dumps({"app": "Run", "params": params, "threads": host["threads"]}).encode())
        mark = (home / "cluster_id").read_text().strip()
        yield client, dict(_parts(mark)), host["threads"]
    finally:
        if (home / "cluster.json").exists():
            subprocess.run([ORQAL, "down", "--kill-jobs"], check=False)
        shutil.rmtree(home, ignore_errors=True)


def _parts(mark: str) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the processes by name. Their titles hide their environment, so the raylet above shows where they belong."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            title = "".join(process.cmdline()[:1])
            raylet = process.parent()
            if raylet is not None and raylet.environ().get("ORQAL_CLUSTER_ID") == mark:
                yield from ((name, process) for name, start in PARTS.items() if title.startswith(start))
