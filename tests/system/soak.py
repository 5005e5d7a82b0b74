"""Short jobs without pause on this machine, while the size of everything is printed; then a verdict on what grew.

    make soak                                             # an hour
    make soak ARGS='--minutes 5 --json build/soak.json'

It starts an Orqal in a home of its own, in which jobs are deleted a minute after their end. A bounded number of jobs
waits or runs all the time: of two sizes, in named batches, with files; some fail, and some end their wrapper's process.
Each minute (in less than 20 minutes, 20 times) it prints for each part its processes, memory, threads and open files,
and then the sizes of the store and its WAL, of logs and folders, and the rows of the tables that Ray keeps. It ends
with 1 if something grew in the second half, and says what. Ctrl-C ends it early, with a verdict on the samples so far.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import httpx
import psutil

from examples.local_image import DEMO_IMAGE, DEMO_PROGRAMS, make_image
from orqal.actors.ray_internals import table_rows
from orqal.client import Client
from orqal.cluster.node import temporary_folder
from orqal.doctor.machine import on_disk
from orqal.settings import Settings
from tests.support.checkout import REPOSITORY
from tests.support.orqal_process import Orqal, an_orqal, leftovers
from tests.support.soak_figures import UNDECIDED, Sample, Verdict, judge_all, part_of, report, row

KEPT_FOR = 60
"""Seconds for which a job is kept after its end."""
SLICE = 20
"""Jobs of a batch. Two batches are under way."""
SAMPLES = 20
"""The fewest samples from which a verdict is made."""
FAILS, CRASHES = 10, 200
"""Each of so many jobs fails, or takes its wrapper's process down."""
SERVICES = f"""
import os

class Short(AbstractWrapper):
    '''Prints its input and writes it to a file.'''
    docker_url = "{DEMO_IMAGE}"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    volumes = {{}}
    create_dir = True
    def get_cmd(self, params):
        number = self.job.input
        return ["sh", "-c", f"echo {{number}} | cat >number; cat number; exit $(({{number}} % {FAILS} == 0))"]
    def set_result(self, job):
        if job.input % {CRASHES} == {CRASHES - 1}:
            os._exit(1)
        job.set_result(job.stdout)
"""
ENGINE = REPOSITORY / "build/engine/started"
"""Where scripts/engine.sh notes the Docker daemon that it has started."""


class Load:
    """Submits batches of short jobs without pause, each when the one before the last has ended."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.over = threading.Event()
        """Set when no more jobs are submitted."""
        self.ended = 0
        """The number of jobs that have ended."""
        self.problem: Exception | None = None
        """Why the load ended by itself."""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Submit jobs while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _work(self) -> None:
        try:
            last: list[str] = []
            first = 1
            while not self._stop.is_set():
                ids = self._submit(first)
                self._await(last)
                last, first = ids, first + SLICE
            self._await(last)
        except Exception as problem:
            self.problem = problem
        self.over.set()

    def _submit(self, first: int) -> list[str]:
        threads = 1 if first // SLICE % 2 else 0.5  # another size each time, so that Ray makes and removes leases
        jobs = [
            {"app": "Short", "input": number, "threads": threads, "use_cache": False}
            for number in range(first, first + SLICE)
        ]
        return list(self._client.submit_many([json.dumps(job).encode() for job in jobs], f"from {first}"))

    def _await(self, ids: list[str]) -> None:
        if ids:
            self.ended += sum(1 for _ in self._client.changes(ids))


class Scales:
    """Measures an Orqal."""

    def __init__(self, orqal: Orqal, client: Client) -> None:
        self._orqal, self._client = orqal, client
        self._settings = Settings(home=orqal.home)
        self._ray = temporary_folder(self._settings, socket.gethostname())
        self._dashboard = str(json.loads(self._settings.running_path.read_text())["dashboard_url"])
        self._ray_token = self._settings.ray_token_path.read_text().strip()
        self._parts: dict[psutil.Process, str] = {}
        """The parts of processes whose titles may change later."""

    def figures(self) -> dict[str, float]:
        """Return all figures. Those that cannot be had at this moment are left out."""
        home, store = self._settings.home, self._settings.store_path
        sizes = {
            "store": on_disk_file(store),
            "WAL": on_disk_file(store.with_name(f"{store.name}-wal")),
            "Orqal's log": on_disk_file(home / "orqal.log"),
            "Ray's logs": on_disk(self._ray / "session_latest" / "logs"),
            "Ray's folder": on_disk(self._ray),
            "jobs' directories": on_disk(self._settings.jobs_dir),
        }
        figures = self._processes() | {f"{name}/bytes": float(size) for name, size in sizes.items()}
        counts = self._client.counts()
        waiting = sum(counts.get(state, 0) for state in ("todo", "init", "running"))
        figures |= {"under way/jobs": waiting, "kept/jobs": sum(counts.values()) - waiting}
        with contextlib.suppress(httpx.HTTPError):
            rows = table_rows(self._dashboard, self._ray_token)
            figures |= {f"{table}/rows": float(number) for table, number in rows.items()}
        return figures

    def _processes(self) -> dict[str, float]:
        sums: dict[str, Counter[str]] = {}
        for process in [*self._orqal.processes(), *own_engine()]:
            with contextlib.suppress(psutil.Error, OSError):
                with process.oneshot():
                    part = part_of(process.name(), " ".join(process.cmdline()))
                    values = {
                        "processes": 1,
                        "memory": process.memory_info().rss,
                        "threads": process.num_threads(),
                        "files": process.num_fds(),
                    }
                if part not in UNDECIDED:
                    part = self._parts.setdefault(process, part)
                sums.setdefault(part, Counter()).update(values)
        return {f"{part}/{kind}": float(value) for part in sorted(sums) for kind, value in sums[part].items()}


def on_disk_file(path: Path) -> int:
    """Return a file's bytes on the disk; 0 if it is not there."""
    with contextlib.suppress(OSError):
        return path.stat().st_blocks * 512
    return 0


def own_engine() -> list[psutil.Process]:
    """Return the processes of the Docker daemon, if scripts/engine.sh has started it for this checkout."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        kind, pid = ENGINE.read_text().split()
        if kind == "process":
            dockerd = psutil.Process(int(pid))
            return [dockerd, *(child for child in dockerd.children() if child.name() == "containerd")]
    return []


def observe(load: Load, scales: Scales, minutes: float, samples: list[Sample]) -> None:
    """Add a sample each minute, but at least SAMPLES, and print it, until the time is over or the load ends."""
    begun = time.monotonic()
    period = min(1.0, minutes / SAMPLES)
    for number in range(1, round(minutes / period) + 1):
        if load.over.wait(begun + number * period * 60 - time.monotonic()):
            break
        sample = Sample((time.monotonic() - begun) / 60, scales.figures())
        samples.append(sample)
        ended = {"ended/jobs": float(load.ended)}
        print(row(Sample(sample.minutes, ended | dict(sample.figures))), flush=True)


def soak(minutes: float) -> tuple[list[Sample], list[str]]:
    """Run the soak. Return its samples, and what went wrong, in words."""
    samples: list[Sample] = []
    problems: list[str] = []
    with an_orqal({"ORQAL_JOB_TTL": str(KEPT_FOR)}, services=SERVICES) as orqal:
        client = Client(f"{orqal.root}/api", token=orqal.token)
        load = Load(client)
        with load.applied():
            try:
                observe(load, Scales(orqal, client), minutes, samples)
            except KeyboardInterrupt:
                problems.append("It was interrupted.")
            # A second Ctrl-C must not leave a part of it running.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if load.problem is not None:
            problems.append(f"The load ended: {load.problem!r}")
    return samples, problems + [f"Left over: {one}" for one in leftovers()]


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the soak. Return 0 if nothing grew that should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and verdicts to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    # A script ignores it in the processes that it starts in the background, and children inherit that.
    signal.signal(signal.SIGINT, _interrupt)
    try:
        make_image(DEMO_IMAGE, DEMO_PROGRAMS)
        samples, problems = soak(options.minutes)
    except KeyboardInterrupt:
        return 130
    judged = judge_all(samples)
    print("\n".join(["", report(judged), *problems]))
    if options.json is not None:
        document = {"samples": [asdict(each) for each in samples], "series": [asdict(each) for each in judged]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document | {"problems": problems}, indent=2) + "\n")
    return 1 if problems or any(each.verdict is Verdict.GREW for each in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
