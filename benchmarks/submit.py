"""Measure the time and memory for very many jobs that are submitted in one request while the hosts are busy.

This starts an Orqal of its own, in which one job takes all threads, so that all jobs that are then sent wait. They are
sent one per line to POST /api/jobs, and back to back to POST /api/batch as clients of 0.0.12 do. All jobs differ, and
the cache is searched for each. It prints tables for a README.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil
from busy_orqal import busy_orqal

from orqal.client import Client
from orqal.settings import Settings

PERIOD = 0.1
"""Seconds between two measurements of the processes' memory."""
SHARES = (0.01, 0.1, 0.5, 1.0)
"""The parts of the ids for which the time until they were returned is measured."""


@dataclass
class Form:
    """A way to send many jobs in one request."""

    name: str
    path: str
    id_bytes: int
    """Bytes of the answer for each job."""
    between: bytes


LINES = Form("one per line", "/jobs", len(b'{"_id": "%s"}\n' % (b"0" * 24)), b"\n")
BACK_TO_BACK = Form("back to back", "/batch", 12, b"")


@dataclass
class Costs:
    """What the processes use: CPU time in seconds, and their proportional set sizes in bytes."""

    processes: dict[str, psutil.Process]
    begin: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Measure again and again while the block runs."""
        self.begin = self.peak = self._sizes()
        before = self._seconds()
        done = threading.Event()
        watching = threading.Thread(target=self._watch, args=(done,))
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()
            self.end = self._sizes()
            self.cpu = {name: seconds - before[name] for name, seconds in self._seconds().items()}

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(PERIOD):
            self.peak = {name: max(size, self.peak[name]) for name, size in self._sizes().items()}

    def _sizes(self) -> dict[str, int]:
        return {name: process.memory_full_info().pss for name, process in self.processes.items()}

    def _seconds(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}


def send(form: Form, documents: list[bytes], client: Client, reads_at_the_end: bool = False) -> dict[float, float]:
    """Send all jobs in one request, and return after how many seconds each of SHARES of the ids was returned.

    `reads_at_the_end`: read the answer only after everything was sent, as many clients do.
    """
    address = urlsplit(client.base_url)
    body = b"".join(document + form.between for document in documents)
    with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
        head = f"POST {address.path}{form.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Authorization: Bearer {Settings().token}\r\n\r\n".encode())
        begun = time.perf_counter()
        sending = threading.Thread(target=connection.sendall, args=(body,))
        sending.start()
        if reads_at_the_end:
            sending.join()
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        size, back = 0, dict[float, float]()
        while piece := answer.read1():
            size += len(piece)
            for share in SHARES:
                if size >= share * len(documents) * form.id_bytes:
                    back.setdefault(share, time.perf_counter() - begun)
        sending.join()
    ids = size // form.id_bytes
    if (answer.status, ids) != (200, len(documents)):
        raise SystemExit(f"{form.name}: {len(documents)} jobs were sent, status {answer.status}, {ids} ids")
    return back


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000, help="in each request (%(default)s)")
    options = parser.parse_args()
    shares = " | ".join(f"s to {share:.0%} of the ids" for share in SHARES)
    rates = [f"| request | {shares} | jobs/s |", "| --- |" + " ---: |" * (len(SHARES) + 1)]
    costs = ["| request | part | CPU s | MB before | peak | after | bytes per job |", "| --- | --- |" + " ---: |" * 5]
    with busy_orqal() as (client, parts, threads):
        for number, (form, at_the_end) in enumerate([(LINES, False), (BACK_TO_BACK, False), (LINES, True)]):
            name = form.name + (", read at the end" if at_the_end else "")
            documents = [
                json.dumps({"app": "Test", "input": [number, each], "threads": threads}).encode()
                for each in range(options.jobs)
            ]
            cost = Costs(parts)
            with cost.watched():
                back = send(form, documents, client, at_the_end)
            times = " | ".join(f"{seconds:.1f}" for seconds in back.values())
            rates.append(f"| {name} | {times} | {options.jobs / back[1.0]:,.0f} |")
            for part in parts:
                sizes = [cost.begin[part], cost.peak[part], cost.end[part]]
                per_job = (cost.end[part] - cost.begin[part]) / options.jobs
                shown = " | ".join(f"{size / 1e6:.1f}" for size in sizes)
                costs.append(f"| {name} | {part} | {cost.cpu[part]:.1f} | {shown} | {per_job:.0f} |")
        waiting = client.counts()["todo"]
    print("\n".join([f"{options.jobs:,} jobs in each request; {waiting:,} waited in the end.", "", *rates, "", *costs]))


if __name__ == "__main__":
    main()
