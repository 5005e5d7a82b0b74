"""Jobs on three hosts while parts are killed at random; then a check from the outside that nothing is lost.

    make chaos                                            # forty minutes; needs root
    make chaos ARGS='--seed 7 --rounds 1 --store mongodb'

First the jobs are in SQLite, then in a MongoDB. A user submits named batches, one after the other, as long as faults
happen. In a round each fault happens once, in an order and to hosts that follow from the seed. Each happens when all
works again after the one before. Then what the API says of the jobs, and what it said to the user, are compared with
the containers' own record of their runs (each adds a line to a file of its host when it begins, and when it ends), with
the Docker daemons, with Ray, and with what `orqal doctor` finds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.local_image import DEMO_IMAGE
from orqal.client import Client
from tests.cluster.faults import API_TOKEN, WITHIN, Faults, Happened, supervised, supervisor_log, wait_for
from tests.cluster.host import Unavailable
from tests.cluster.lab import Lab, give_image, told
from tests.cluster.namespaces import Namespaces
from tests.support.mongo_server import Server, server

LEDGER = "ledger"
"""The file in /tmp of each host into which containers write that they run."""
LINES = 500
"""Lines that each container prints before it sleeps, and again afterwards."""
SLICE = 15
"""Jobs of a batch. Two batches are under way."""
AFTER = 600.0
"""Seconds in which the jobs that are left after the last fault must end."""
SERVICES = f"""
class Square(AbstractWrapper):
    '''Prints a lot before and after a while, and the number that is its input; its result is the square.'''
    docker_url = "{DEMO_IMAGE}"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    working_dir = None
    volumes = {{"/tmp": {{"bind": "/host", "mode": "rw"}}}}
    def get_cmd(self, params):
        number, job = self.job.input, self.job.id
        tell = f"{{number}} {{job}} >>/host/{LEDGER}"
        print = "seq {LINES}"
        work = f"{{print}}; sleep {{params['seconds']}}; {{print}}; echo {{number}}"
        return ["sh", "-c", f"echo begin {{tell}}; {{work}}; echo end {{tell}}"]
    def set_result(self, job):
        *lines, number, rest = job.stdout
        whole = lines == [str(line) for line in range(1, {LINES} + 1)] * 2
        job.set_result(int(number) ** 2 if whole else "its output is not whole")
"""
USER = f"""
import json, sys, time
from pathlib import Path
from orqal import Job, OrqalError, batch, wait

def insist(work):
    while True:
        try:
            return work()
        except OrqalError as error:
            print(type(error).__name__, error, file=sys.stderr)
            time.sleep(1)

def submit(first):
    jobs = [
        Job(app="Square", input=number, params={{"seconds": 1 + number * 7 % 4}}, use_cache=False)
        for number in range(first, first + {SLICE})
    ]
    return batch(jobs, f"numbers from {{first}}")

def collect(jobs):
    insist(lambda: wait(jobs))
    for job in jobs:
        told.append([job.id, job.current_status, insist(lambda: job.result)])

told, last, first = [], [], 0
while not Path(sys.argv[1]).exists():
    jobs = insist(lambda: submit(first))
    collect(last)
    last, first = jobs, first + {SLICE}
collect(last)
print(json.dumps(told))
"""


@dataclass
class Report:
    """What came of it. The lists are in words."""

    happened: list[Happened] = field(default_factory=list)
    jobs: int = 0
    seconds: float = 0.0
    reruns: int = 0
    """Containers that ran for a job beyond its first."""
    moved: int = 0
    """Attempts that ended because their host was away for too long."""
    lost: list[str] = field(default_factory=list)
    """Jobs without an outcome, or with a wrong one."""
    double: list[str] = field(default_factory=list)
    """Jobs that are there twice, or runs that no attempt on record explains."""
    leftovers: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing is lost, double or left over."""
        return not (self.lost or self.double or self.leftovers)

    def __str__(self) -> str:
        bad = {"lost": self.lost, "double": self.double, "leftovers": self.leftovers}
        lines = [
            f"faults     {len(self.happened)}",
            f"jobs       {self.jobs} in {self.seconds:.0f} s",
            f"reruns     {self.reruns}",
            f"moved      {self.moved}",
            *(f"{name:10} {len(words)}" + "".join(f"\n           {one}" for one in words[:20])
              for name, words in bad.items()),
            "",
            "seconds from the end of the fault until the API answers and all hosts are ready:",
            f"{'':34} {'times':>5} {'median':>7} {'most':>7}",
        ]  # fmt: skip
        for fault in sorted({each.fault for each in self.happened}):
            took = [each.recovered for each in self.happened if each.fault == fault]
            lines.append(f"{fault:34} {len(took):5} {statistics.median(took):7.1f} {max(took):7.1f}")
        return "\n".join(lines)


def run(
    cluster: Namespaces,
    *,
    seed: int,
    plan: Callable[[list[str], random.Random], list[list[list[str]]]],
    mongo: Server | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Submit jobs as a user does while faults happen, and check.

    `plan` makes of the faults that can happen what happens: steps one after the other, each of them lanes of faults as
    in `Faults.happen_together`. `mongo` is where the jobs are kept; None is the head's SQLite file.

    Raises:
        TimeoutError: something did not come back.
    """
    chance, report = random.Random(seed), Report()
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(
            supervised(cluster, SERVICES, stack.enter_context(mongo.database()) if mongo else None)
        )
        for host in cluster.hosts:
            stack.callback((host.tmp / LEDGER).unlink, missing_ok=True)
        faults = Faults(lab, chance, mongo)
        wait_for(faults.well, "all hosts are ready", WITHIN)
        began = time.monotonic()
        stop, errors = cluster.laptop.tmp / "stop", cluster.laptop.tmp / "errors"
        for file in stop, errors:
            stack.callback(file.unlink, missing_ok=True)
        environ = {"ORQAL_API_URL": f"{lab.root}/api", "ORQAL_TOKEN": API_TOKEN, "TERM": "dumb"}
        with (
            errors.open("w") as stderr,
            cluster.laptop.popen(
                [sys.executable, "-c", USER, "/tmp/stop"], environ, stdout=subprocess.PIPE, stderr=stderr, text=True
            ) as user,
        ):
            try:
                wait_for(lambda: all(host["jobs"] for host in lab.hosts().values()), "jobs run on all hosts", WITHIN)
                for lanes in plan(sorted(faults.all), chance):
                    say(" | ".join(", ".join(lane) for lane in lanes))
                    for happened in faults.happen_together(lanes):
                        report.happened.append(happened)
                        say(f"  {happened.host}: {happened.fault}: all works again after {happened.recovered:.1f} s")
                    say(f"  {_progress(lab)}")
                stop.touch()
                answer = user.communicate(timeout=AFTER)[0]
            except BaseException:
                say(_evidence(lab))
                raise
            finally:
                user.kill()
        report.seconds = time.monotonic() - began
        if user.returncode != 0:
            raise RuntimeError(f"the user's script failed:\n{errors.read_text()[-3000:]}")
        _check(lab, json.loads(answer), report)
        if not report.good:
            say(_evidence(lab))
    return report


def one_by_one(rounds: int, only: str) -> Callable[[list[str], random.Random], list[list[list[str]]]]:
    """Return a plan of so many rounds. In each round every fault whose name contains `only` happens once."""

    def plan(faults: list[str], chance: random.Random) -> list[list[list[str]]]:
        wanted = [fault for fault in faults if only in fault]
        return [[[fault]] for _ in range(rounds) for fault in chance.sample(wanted, len(wanted))]

    return plan


def _check(lab: Lab, answers: list[list[Any]], report: Report) -> None:
    """Compare what the user got, what the store has, what the containers wrote, and what is on the hosts."""
    report.jobs = len(answers)
    records = {job["_id"]: job for job in Client(f"{lab.root}/api", API_TOKEN).jobs(10**9)}
    begun, ended = _runs(lab, "begin"), _runs(lab, "end")
    for number, (job, status, result) in enumerate(answers):
        record = records.get(job)
        if record is None:
            report.lost.append(f"{job}: the store does not have it")
        elif (record["input"], record["current_status"], status, result) != (number, "exited", "exited", number**2):
            how = {key: record[key] for key in ("host", "attempt", "exit_code", "error", "stdout_bytes", "inspect")}
            report.lost.append(
                f"{job}: {record['current_status']}, {how}, after {record['attempts']}; "
                f"the user got: {status}, {result}"
            )
        elif not ended[job]:
            report.lost.append(f"{job}: it has ended on record, but no container has")
        elif begun[job] > record["attempt"]:
            report.double.append(f"{job}: {begun[job]} containers for {record['attempt']} attempts")
    known = {job for job, _, _ in answers}
    report.double += [
        f"{job}: the user does not know of it (number {records[job]['input']})" for job in records.keys() - known
    ]
    report.reruns = sum(begun.values()) - len(begun)
    errors = [attempt["error"] or {} for record in records.values() for attempt in record["attempts"]]
    report.moved = sum(error.get("type") == "host_lost" for error in errors)

    with contextlib.suppress(TimeoutError):  # what is still there is reported below
        wait_for(lambda: not any(map(lab.containers, lab.cluster.hosts)), "all containers are removed", 60)
    for host in lab.cluster.hosts:
        report.leftovers += [f"{host.name}: container {container.name}" for container in lab.containers(host)]
    report.leftovers += [f"placement group {name}" for name in _placement_groups(lab)]
    checkup = told(lab.orqal("doctor", "--json", check=False))
    report.leftovers += [f"doctor: {finding['what']}" for finding in checkup["findings"]]


def _runs(lab: Lab, what: str) -> Counter[str]:
    """Return how many containers of each job have written that they `begin`, or `end`."""
    found: Counter[str] = Counter()
    for host in lab.cluster.hosts:
        file = host.tmp / LEDGER
        lines = file.read_text().splitlines() if file.exists() else []
        found.update(line.split()[2] for line in lines if line.startswith(f"{what} "))
    return found


def _placement_groups(lab: Lab) -> list[str]:
    """Return the names of the placement groups that Ray still has for jobs."""
    code = (
        "import ray; from ray.util.placement_group import placement_group_table as table; "
        "ray.init(log_to_driver=False, logging_level='error'); "
        "print(*[group['name'] for group in table().values() if group['state'] != 'REMOVED'], sep='\\n')"
    )
    done = lab.head.run(["bash", "-c", f'eval "$(orqal env)" && python -c "{code}"'], lab.settings, timeout=60)
    return [line for line in done.stdout.splitlines() if line.startswith("orqal ")]


def _progress(lab: Lab) -> str:
    with contextlib.suppress(httpx.HTTPError), lab.http() as http:
        counts: dict[str, int] = http.get("/jobs/status").json()
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return "the API does not answer"


def _evidence(lab: Lab) -> str:
    """Return what helps to find a fault in Orqal."""
    said = [f"--- {host.name}:\n{supervisor_log(host)[-3000:]}" for host in lab.cluster.hosts]
    with contextlib.suppress(httpx.HTTPError, OSError):
        said.append(f"hosts: {json.dumps(lab.hosts())}")
    return "\n".join(said)


def main() -> int:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="the order of the faults, and whom they hit")
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault happens")
    parser.add_argument("--store", choices=("sqlite", "mongodb"), help="where the jobs are kept; both, one by one")
    parser.add_argument("--only", default="", help="only the faults with this word in their names")
    options = parser.parse_args()
    began = time.monotonic()
    # All that was started ends, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {words}", flush=True)

    good = True
    try:
        with contextlib.ExitStack() as stack:
            say("starting three hosts with a Docker daemon each")
            cluster = stack.enter_context(Namespaces(3))
            give_image(cluster.hosts)
            stores: dict[str, Server | None] = {"SQLite": None} if options.store != "mongodb" else {}
            if options.store != "sqlite":
                mongo = stack.enter_context(server(cluster.gateway))
                if mongo is None or mongo.restart is None:
                    sys.exit("chaos: a MongoDB server is needed that can be killed; scripts/mongo.sh makes one")
                stores[mongo.name] = mongo
            for name, mongo in stores.items():
                say(f"seed {options.seed}, {options.rounds} rounds, jobs in {name}")
                report = run(
                    cluster,
                    seed=options.seed,
                    plan=one_by_one(options.rounds, options.only),
                    mongo=mongo,
                    say=say,
                )
                print(f"\njobs in {name}:\n{report}\n", flush=True)
                good = good and report.good
    except Unavailable as problem:
        sys.exit(f"chaos: {problem}")
    except TimeoutError as problem:
        print(f"\nchaos: {problem}", file=sys.stderr)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
