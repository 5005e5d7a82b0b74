"""Jobs on three hosts while parts are killed at random; then a check from the outside that nothing is lost.

    make chaos                                            # an hour and a half; needs root
    make chaos ARGS='--seed 7 --rounds 1 --store mongodb'

First the jobs are in SQLite, then in a MongoDB. A user submits named batches, one after the other, as long as faults
happen. Of every five jobs the user cancels one, and one has a time limit that it would exceed. Of every ten one waits
until another one has succeeded, one until another one has ended, and one after a job that cannot succeed. In a round
each fault happens once, and then `--pairs` random pairs of faults at the same time, in an order and to hosts that
follow from the seed. Each step begins when all works again after the one before. Then what the API says of the jobs,
and what it said to the user, are compared with the containers' own record of their lives (tests/support/ledger.py),
with the Docker daemons, with Ray, and with what `orqal doctor` finds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import httpx

from examples.local_image import DEMO_IMAGE
from orqal.client import Client, OrqalError
from tests.cluster.faults import API_TOKEN, WITHIN, Faults, Happened, supervised, supervisor_log, wait_for
from tests.cluster.host import Host, Unavailable
from tests.cluster.lab import Lab, give_image, told
from tests.cluster.namespaces import Namespaces
from tests.support.ledger import Life, Outage, lives, must_have_ended, together
from tests.support.mongo_server import Server, server

LEDGER = "ledger"
"""The file in /tmp of each host into which containers write that they live."""
CANCELLED, LIMITED = 3, 4
"""Of every five jobs, by their numbers: which one the user cancels, and which one has a time limit."""
AFTER_GOOD, AFTER_ANY, AFTER_BAD = 2, 5, 10
"""Of every ten jobs, by their numbers: those that wait after the job before them, which succeeds, or must only have
ended, or does not succeed. The first job of a batch waits for none."""
TOO_LONG = 900
"""Seconds that these two would take."""
TIME_LIMIT = 3.0
"""Seconds that the second of them may take."""
ENDS_WITHIN = 15.0
"""Seconds in which a container ends that was cancelled or has come to its time limit, while all works: the time that it
has between SIGTERM and SIGKILL, and that in which parts of Orqal that were away find each other again."""
LINES = 500
"""Lines that each container prints before it sleeps, and again afterwards."""
SLICE = 15
"""Jobs of a batch. Two batches are under way."""
DOCKER_DISK_MB = 2_000
"""The size of the disk that each Docker daemon has for its data."""
AFTER = 600.0
"""Seconds in which the jobs that are left after the last fault must end."""
SERVICES = f'''
class Square(AbstractWrapper):
    """Prints a lot before and after a while, and the number that is its input; its result is the square."""
    docker_url = "{DEMO_IMAGE}"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    working_dir = None
    volumes = {{"/tmp": {{"bind": "/host", "mode": "rw"}}}}
    def get_cmd(self, params):
        number, job, beats = self.job.input, self.job.id, 2 * params["seconds"]
        return ["sh", "-c", f"""
            read me </etc/hostname
            tell() {{{{ read now rest </proc/uptime; echo "$1 {{number}} {{job}} $me $now" >>/host/{LEDGER}; }}}}
            tell begin
            seq {LINES}
            for beat in $(seq {{beats}}); do tell beat; sleep 0.5; done
            seq {LINES}
            echo {{number}}
            tell end"""]
    def set_result(self, job):
        *lines, number, rest = job.stdout
        whole = lines == [str(line) for line in range(1, {LINES} + 1)] * 2
        job.set_result(int(number) ** 2 if whole else "its output is not whole")
'''
USER = f"""
import faulthandler, json, random, sys, time
from pathlib import Path
from orqal import Job, OrqalError, any_of, batch, wait

# If the test fails, this shows where the script was.
faulthandler.dump_traceback_later(120, repeat=True)

def insist(work):
    while True:
        try:
            return work()
        except OrqalError as error:
            print(type(error).__name__, error, file=sys.stderr)
            time.sleep(1)

def submit(first):
    jobs = []
    for number in range(first, first + {SLICE}):
        kind, seconds = number % 5, 1 + number * 7 % 4
        after = []
        if number > first and number % 10 in ({AFTER_GOOD}, {AFTER_BAD % 10}):
            after = [jobs[-1]]
        elif number > first and number % 10 == {AFTER_ANY}:
            after = [any_of(jobs[-1])]
        jobs.append(Job(
            after=after,
            app="Square",
            input=number,
            params={{"seconds": {TOO_LONG} if kind in ({CANCELLED}, {LIMITED}) else seconds}},
            timeout={TIME_LIMIT} if kind == {LIMITED} else None,
            use_cache=False,
        ))
    return batch(jobs, f"numbers from {{first}}")

def collect(jobs):
    answered = {{}}
    for job in jobs:
        if job.input % 5 == {CANCELLED}:
            time.sleep(random.random())
            insist(job.cancel)
            answered[job.id] = time.clock_gettime(time.CLOCK_BOOTTIME)
    insist(lambda: wait(jobs))
    for job in jobs:
        told.append([job.id, job.current_status, insist(lambda: job.result), answered.get(job.id)])

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
    """Jobs that are there twice, runs that no attempt on record explains, containers of one job that lived at the same
    time, unless one of them was on a host that was given up, and containers that began before the end of another
    job's that theirs waits after."""
    late: list[str] = field(default_factory=list)
    """Containers that went on after a cancel or their time limit."""
    cancels: int = 0
    """Cancels that were answered."""
    cut_off: int = 0
    """Jobs that had two containers at the same time, because a host that was cut off had been given up."""
    outages: list[Outage] = field(default_factory=list)
    """From the beginning of each step until all worked again."""
    steps: set[str] = field(default_factory=set)
    """The different steps: faults, and faults that happened at the same time."""
    leftovers: list[str] = field(default_factory=list)
    flaps: list[str] = field(default_factory=list)
    """When all worked and then did not, although no fault was under way. No job is harmed by that."""

    @property
    def good(self) -> bool:
        """Nothing is lost, double, late or left over."""
        return not (self.lost or self.double or self.late or self.leftovers)

    def __str__(self) -> str:
        told = {"lost": self.lost, "double": self.double, "late": self.late, "leftovers": self.leftovers}
        told["flaps"] = self.flaps
        lines = [
            f"faults     {len(self.happened)}, of {len(self.steps)} kinds and combinations",
            f"jobs       {self.jobs} in {self.seconds:.0f} s",
            f"cancels    {self.cancels} answered",
            f"reruns     {self.reruns}",
            f"moved      {self.moved}",
            f"cut off    {self.cut_off}",
            *(f"{name:10} {len(words)}" + "".join(f"\n           {one}" for one in words[:20])
              for name, words in told.items()),
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
    enough: Callable[[], bool] = lambda: False,
) -> Report:
    """Submit jobs as a user does while faults happen, and check.

    `plan` makes of the faults that can happen what happens: steps one after the other, each of them lanes of faults as
    in `Faults.happen_together`. `mongo` is where the jobs are kept; None is the head's SQLite file.
    Before each step `enough` is asked whether no more of them shall happen.

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
                    if enough():
                        break
                    step = " | ".join(", ".join(lane) for lane in lanes)
                    say(step)
                    report.steps.add(step)
                    before = _uptime()
                    for happened in faults.happen_together(lanes):
                        report.happened.append(happened)
                        say(f"  {happened.host}: {happened.fault}: all works again after {happened.recovered:.1f} s")
                    report.outages.append(Outage(before, _uptime()))
                    for flap in faults.flaps[len(report.flaps) :]:
                        report.flaps.append(flap)
                        say(f"  {flap}")
                    say(f"  {_progress(lab)}")
                stop.touch()
                answer = user.communicate(timeout=AFTER)[0]
            except BaseException:
                say(_evidence(lab))
                say(f"--- the user: {errors.read_text()[-5000:]}")
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


def one_by_one(rounds: int, only: str, pairs: int) -> Callable[[list[str], random.Random], list[list[list[str]]]]:
    """Return a plan of so many rounds. In each round every fault whose name contains `only` happens once, and then so
    many pairs of such faults, each at the same time. One of a pair is always a host's, because the head's parts need
    the head."""

    def plan(faults: list[str], chance: random.Random) -> list[list[list[str]]]:
        wanted = [fault for fault in faults if only in fault]
        hosts = [fault for fault in wanted if Faults.is_of_a_host(fault)]
        steps: list[list[list[str]]] = []
        for _ in range(rounds):
            steps += [[[fault]] for fault in chance.sample(wanted, len(wanted))]
            steps += [[[chance.choice(hosts)], [chance.choice(wanted)]] for _ in range(pairs if hosts else 0)]
        return steps

    return plan


def _check(lab: Lab, answers: list[list[Any]], report: Report) -> None:
    """Compare what the user got, what the store has, what the containers wrote, and what is on the hosts."""
    report.jobs = len(answers)
    records = {job["_id"]: job for job in Client(f"{lab.root}/api", API_TOKEN).jobs(10**9)}
    lived = lives({host.name: _ledger(host) for host in lab.cluster.hosts})
    for number, (job, status, result, cancelled_at) in enumerate(answers):
        record, containers = records.get(job), lived.get(job, [])
        report.cancels += cancelled_at is not None
        if record is None:
            report.lost.append(f"{job}: the store does not have it")
            continue
        outcome = (record["current_status"], (record["error"] or {}).get("type"))
        expected = {CANCELLED: ("error", "cancelled"), LIMITED: ("error", "timeout")}.get(number % 5, ("exited", None))
        if number % 10 == AFTER_BAD % 10 and number % SLICE:
            expected = "error", "dependency_failed"
        whole = outcome[0] == "error" or result == number**2
        if (record["input"], outcome, status, whole) != (number, expected, expected[0], True):
            how = {key: record[key] for key in ("host", "attempt", "exit_code", "error", "stdout_bytes", "inspect")}
            report.lost.append(
                f"{job}: {outcome} instead of {expected}, {how}, after {record['attempts']}; "
                f"the user got: {status}, {result}"
            )
        elif outcome[0] == "exited" and not any(life.ended for life in containers):
            report.lost.append(f"{job}: it has ended on record, but no container has")
        elif len(containers) > record["attempt"]:
            report.double.append(f"{job}: {len(containers)} containers for {record['attempt']} attempts")
        _check_times(report, record, containers, cancelled_at)
        _check_order(report, record, containers, records, lived)
    known = {job for job, *_ in answers}
    report.double += [
        f"{job}: the user does not know of it (number {records[job]['input']})" for job in records.keys() - known
    ]
    report.reruns = sum(map(len, lived.values())) - len(lived)
    report.moved = sum(_given_up(attempt) for record in records.values() for attempt in record["attempts"])

    with contextlib.suppress(TimeoutError):  # what is still there is reported below
        wait_for(lambda: not any(map(lab.containers, lab.cluster.hosts)), "all containers are removed", 60)
    for host in lab.cluster.hosts:
        report.leftovers += [f"{host.name}: container {container.name}" for container in lab.containers(host)]
    report.leftovers += [f"placement group {name}" for name in _placement_groups(lab)]
    checkup = told(lab.orqal("doctor", "--json", check=False))
    report.leftovers += [f"doctor: {finding['what']}" for finding in checkup["findings"]]


def _check_times(report: Report, record: dict[str, Any], containers: list[Life], cancelled_at: float | None) -> None:
    """Check that no two containers of a job lived at the same time, and that none went on when it had to end."""
    given_up = {each["host"] for each in record["attempts"] if _given_up(each)}
    pairs = together(containers)
    report.cut_off += any({one.host, other.host} & given_up for one, other in pairs)
    report.double += [
        f"{record['_id']}: its containers {one} and {other} lived at the same time, after {record['attempts']}"
        for one, other in pairs
        if not {one.host, other.host} & given_up
    ]
    for life in containers:
        since = cancelled_at if record["input"] % 5 == CANCELLED else life.begun + TIME_LIMIT
        if record["input"] % 5 not in (CANCELLED, LIMITED) or since is None:
            continue
        limit = must_have_ended(since, ENDS_WITHIN, report.outages)
        if life.seen > limit:
            report.late.append(
                f"{record['_id']}: {life} had to end at {since:.1f}, which was {life.seen - since:.1f} s before it did"
            )


def _check_order(
    report: Report,
    record: dict[str, Any],
    containers: list[Life],
    records: dict[str, dict[str, Any]],
    lived: dict[str, list[Life]],
) -> None:
    """Check that no container of a job began before what the job waits after had ended."""
    for parent in (text.removeprefix("any:") for text in record["after"]):
        given_up = {each["host"] for each in records[parent]["attempts"] if _given_up(each)}
        report.double += [
            f"{record['_id']}: {child} began before the end of what it waits after: {life}"
            for life in lived.get(parent, [])
            for child in containers
            if child.begun < life.seen and life.host not in given_up
        ]


def _given_up(attempt: dict[str, Any]) -> bool:
    """True if an attempt ended because its host was away for too long, and not because it was drained."""
    error = attempt["error"] or {}
    return error.get("type") == "host_lost" and "drained" not in error["message"]


def _ledger(host: Host) -> str:
    file = host.tmp / LEDGER
    return file.read_text(errors="replace") if file.exists() else ""


def _uptime() -> float:
    """The seconds since the machine's start, as in /proc/uptime."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
    with contextlib.suppress(httpx.HTTPError, OSError, OrqalError):
        said.append(f"hosts: {json.dumps(lab.hosts())}")
        client = Client(f"{lab.root}/api", API_TOKEN)
        for job in client.jobs(10**6):
            if job["current_status"] in ("todo", "init", "running"):
                about = {key: job[key] for key in ("_id", "input", "batch", "current_status", "host", "attempt")}
                said.append(f"{about}: {client.explain(job['_id'])['summary']}")
        page = httpx.get(f"{lab.root}/logs/scheduler", auth=("any", API_TOKEN), timeout=30).text
        said.append(re.sub("<[^>]*>", "", page)[-20_000:])
    return "\n".join(said)


def _is_over(until: float) -> bool:
    return time.monotonic() > until


def main() -> int:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="the order of the faults, and whom they hit")
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault happens")
    parser.add_argument("--pairs", type=int, default=6, help="how many pairs of faults happen in each round")
    parser.add_argument("--store", choices=("sqlite", "mongodb"), help="where the jobs are kept; both, one by one")
    parser.add_argument("--minutes", type=float, default=inf, help="begin no step later than so long after the start")
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
            cluster = stack.enter_context(Namespaces(3, docker_disk_mb=DOCKER_DISK_MB))
            give_image(cluster.hosts)
            stores: dict[str, Server | None] = {"SQLite": None} if options.store != "mongodb" else {}
            if options.store != "sqlite":
                mongo = stack.enter_context(server(cluster.gateway))
                if mongo is None or mongo.restart is None:
                    sys.exit("chaos: a MongoDB server is needed that can be killed; scripts/mongo.sh makes one")
                stores[mongo.name] = mongo
            for name, mongo in stores.items():
                say(f"seed {options.seed}, {options.rounds} rounds, jobs in {name}")
                until = time.monotonic() + options.minutes * 60
                report = run(
                    cluster,
                    seed=options.seed,
                    plan=one_by_one(options.rounds, options.only, options.pairs),
                    mongo=mongo,
                    say=say,
                    enough=partial(_is_over, until),
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
