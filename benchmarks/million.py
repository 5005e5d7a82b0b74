"""Measure what a user does with a batch that is larger than memory: submit, list, back up, cancel and clean up.

This starts an Orqal of its own, in which one job takes all threads, so that all jobs that are then submitted wait. Each
step is a command of `orqal`, in a process of its own. Afterwards the jobs are submitted again, for
`orqal down --kill-jobs`. For each step it prints the time, and the most memory (resident set size) of the Scheduler, of
the API's replica and of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from busy_orqal import ORQAL, busy_orqal

from orqal.client import Client

PERIOD = 0.1
"""Seconds between two measurements of the processes' memory."""
WATCHED = ("Scheduler", "replica")
BATCH = "million"


class Step(NamedTuple):
    """What a command took."""

    name: str
    jobs: int
    seconds: float
    peak: dict[str, int]
    """The most memory of each process, in bytes."""

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {**self._asdict(), "jobs_per_second": self.jobs_per_second}

    @property
    def jobs_per_second(self) -> float:
        """How many jobs it did in a second."""
        return self.jobs / self.seconds if self.seconds else 0.0

    def row(self) -> str:
        """Return it as a row of a Markdown table."""
        memory = " | ".join(f"{self.peak[part] / 1e6:,.0f}" for part in (*WATCHED, "command"))
        return f"| {self.name} | {self.seconds:,.1f} | {self.jobs_per_second:,.0f} | {memory} |"


def measured(name: str, jobs: int, parts: dict[str, psutil.Process], *command: str | Path) -> Step:
    """Run a command to its end, and measure it.

    Raises:
        SystemExit: it failed.
    """
    print(f"{name} …", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    process = subprocess.Popen([ORQAL, *command], stdout=subprocess.DEVNULL)
    peak = dict.fromkeys(WATCHED, 0)
    ended = threading.Event()

    def watch() -> None:
        while True:
            for part in WATCHED:
                with suppress(psutil.Error):  # `orqal down` ends it
                    peak[part] = max(peak[part], parts[part].memory_info().rss)
            if ended.wait(PERIOD):
                return

    watching = threading.Thread(target=watch)
    watching.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    ended.set()
    watching.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{name} failed with the exit code {process.returncode}")
    return Step(name, jobs, seconds, {**peak, "command": usage.ru_maxrss * 1024})


def check(is_so: bool, problem: str) -> None:
    """Exit with a message if something is not so."""
    if not is_so:
        raise SystemExit(problem)


def all_steps(jobs: int) -> list[Step]:
    """Measure every step."""
    with busy_orqal() as (client, parts, threads), tempfile.TemporaryDirectory(prefix="orqal-bench-") as folder:
        file = Path(folder) / "jobs.jsonl"
        with file.open("w") as lines:
            lines.writelines(
                json.dumps({"app": "Test", "input": number, "threads": threads}) + "\n" for number in range(jobs)
            )
        before = Step("before", 0, 0.0, {part: parts[part].memory_info().rss for part in WATCHED} | {"command": 0})
        steps = [before, measured("submit: `orqal batch FILE`", jobs, parts, "batch", file, "--name", BATCH)]
        check(_waiting(client) == jobs, "not all jobs wait")
        steps += [
            measured(name, jobs, parts, *command)
            for name, command in (
                ("list: `orqal jobs --json`", ("jobs", "--json", "--limit", str(jobs))),
                ("list the batch: `orqal jobs --batch`", ("jobs", "--json", "--batch", BATCH, "--limit", str(jobs))),
                ("progress: `orqal batches`", ("batches",)),
                ("back up: `orqal backup`", ("backup", Path(folder) / "all.sqlite")),
                ("cancel: `orqal cancel --batch`", ("cancel", "--batch", BATCH)),
            )
        ]
        check(_waiting(client) == 0, "not all jobs are cancelled")
        steps.append(measured("clean: `orqal clean all`", jobs, parts, "clean", "all", "--yes"))
        check(client.counts() == {"todo": 0, "running": 1}, "not all jobs are deleted")
        steps.append(measured("submit again", jobs, parts, "batch", file, "--name", BATCH))
        steps.append(measured("end: `orqal down --kill-jobs`", jobs, parts, "down", "--kill-jobs"))
    return steps


def _waiting(client: Client) -> int:
    return client.counts()["todo"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, with the memory in bytes")
    options = parser.parse_args(arguments)
    steps = all_steps(options.jobs)
    if options.json:
        print(json.dumps([step.document() for step in steps]))
        return
    print(f"{options.jobs:,} jobs\n")
    print("| step | s | jobs/s | MB Scheduler | replica | command |")
    print("| --- |" + " ---: |" * 5)
    for step in steps:
        print(step.row())


if __name__ == "__main__":
    main()
