"""Hundreds of jobs on three hosts while parts are killed at random; then a check from the outside that nothing is lost.

    python -m tests.cluster.chaos --seed 1 --jobs 300 --rounds 3

What is checked: the store, as the API tells it, against the containers' own record of their runs (each appends a line
to a file of its host when it begins, and when it ends), the Docker daemons, and Ray. In a round each part is killed
once, in an order that the seed gives; a kill comes when the part of the kill before works again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import psutil

from examples.local_image import DEMO_IMAGE, make_image
from orqal.client import Client
from tests.cluster.lab import Lab, processes, wipe
from tests.cluster.namespaces import Host, Namespaces
from tests.conftest import PROGRAMS

LOST_AFTER = 30.0
"""ORQAL_HOST_LOST_AFTER, in seconds."""
LEDGER = "ledger"
"""The file in /tmp of each host in which containers tell that they run."""
WITHIN = 180.0
"""Seconds in which a part must work again."""
AFTER = 900.0
"""Seconds in which the jobs that are left after the last kill must end."""
HOME = "/root/.orqal"
"""ORQAL_HOME on each host."""
SUPERVISOR = "supervisor-of-orqal"
"""A word in the command line of what starts Orqal again where it has died."""
API_TOKEN, JOIN_TOKEN = "a" * 43, "b" * 64
"""Known beforehand: the hosts start at once, each waiting for the head."""
SERVICES = f"""
class Square(AbstractWrapper):
    '''Tells the number that is its input; its result is the square.'''
    docker_url = "{DEMO_IMAGE}"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    working_dir = None
    volumes = {{"/tmp": {{"bind": "/host", "mode": "rw"}}}}
    def get_cmd(self, params):
        number, job = self.job.input, self.job.id
        tell = f"{{number}} {{job}} >>/host/{LEDGER}"
        return ["sh", "-c", f"echo begin {{tell}}; sleep {{params['seconds']}}; echo {{number}}; echo end {{tell}}"]
    def set_result(self, job):
        job.set_result(int(job.stdout[0]) ** 2)
"""
USER = """
import json, sys
from orqal import Job, batch, wait
count, seed = int(sys.argv[1]), int(sys.argv[2])
seconds = [1 + (number * 7 + seed) % 4 for number in range(count)]
jobs = batch(
    [Job(app="Square", input=number, params={"seconds": pause}) for number, pause in enumerate(seconds)], "chaos"
)
wait(jobs)
print(json.dumps([[job.id, job.current_status, job.result] for job in jobs]))
"""


class Kill(NamedTuple):
    """What was done, and how long it took until the part worked again."""

    part: str
    host: str
    seconds: float


@dataclass
class Report:
    """What came of it."""

    jobs: int
    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0
    reruns: int = 0
    """Containers that ran for a job beyond its first."""
    lost: list[str] = field(default_factory=list)
    """Jobs without an outcome, or with a wrong one; in words."""
    double: list[str] = field(default_factory=list)
    """Jobs that are there twice, or runs that no attempt on record explains; in words."""
    leftovers: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing is lost, double or left over."""
        return not (self.lost or self.double or self.leftovers)

    def __str__(self) -> str:
        lines = [
            f"kills      {len(self.kills)}",
            f"jobs       {self.jobs} in {self.seconds:.0f} s",
            f"reruns     {self.reruns}",
            *(f"{name:10} {len(found)}" + "".join(f"\n           {one}" for one in found[:20])
              for name, found in (("lost", self.lost), ("double", self.double), ("leftovers", self.leftovers))),
            "",
            f"{'part':30} {'kills':>5}  {'seconds until it works again: median':>36}  {'most':>5}",
        ]  # fmt: skip
        for part in dict.fromkeys(kill.part for kill in self.kills):
            took = [kill.seconds for kill in self.kills if kill.part == part]
            lines.append(f"{part:30} {len(took):5}  {statistics.median(took):36.1f}  {max(took):5.1f}")
        return "\n".join(lines)


class Chaos:
    """Kills parts of an Orqal, one at a time."""

    def __init__(self, lab: Lab, seed: int, report: Callable[[str], None]) -> None:
        self._lab, self._random, self._say = lab, random.Random(seed), report
        self.parts: dict[str, Callable[[Host], None]] = {
            "Scheduler": lambda _: self._actor(lab.head, "Scheduler"),
            "HostActor": lambda host: self._actor(host, "HostActor"),
            "Serve replica": lambda _: self._actor(lab.head, "ServeReplica"),
            "Serve controller": lambda _: self._actor(lab.head, "ServeController"),
            "Serve proxy": lambda _: self._actor(lab.head, "ProxyActor"),
            "raylet": self._raylet,
            "dockerd, containers die": lambda host: self._dockerd(host),
            "dockerd, containers live on": lambda host: self._dockerd(host, "--live-restore"),
            "network down for 10 s": lambda host: self._link(host, 10),
            "network down for too long": lambda host: self._link(host, LOST_AFTER + 25),
            "host without power": self._power,
            "orqal down, and up": lambda _: self._down_and_up(),
            "everything on the head": lambda _: self._head(),
            "disk of the store full": lambda _: self._disk_full(),
        }

    def rounds(self, count: int, going_on: Callable[[], bool]) -> Iterator[Kill]:
        """Kill each part so many times, as long as the jobs go on."""
        for _ in range(count):
            for part in self._random.sample(sorted(self.parts), len(self.parts)):
                if not going_on():
                    return
                yield self.kill(part)

    def kill(self, part: str) -> Kill:
        """Kill a part, and return when it works again."""
        # The head has parts of its own that must not go with a host.
        host = self._random.choice(self._lab.cluster.hosts[1:])
        if part in ("HostActor", "dockerd, containers die", "dockerd, containers live on"):
            host = self._random.choice(self._lab.cluster.hosts)
        self._say(f"{part} ({host.name})")
        began = time.monotonic()
        self.parts[part](host)
        wait_for(self.well, f"all hosts are ready after: {part}", WITHIN)
        return Kill(part, host.name, time.monotonic() - began)

    def well(self) -> bool:
        """The API answers, and every host is ready."""
        try:
            hosts = self._lab.hosts()
        except (httpx.HTTPError, OSError):
            return False
        return {name: host["state"] for name, host in hosts.items()} == dict.fromkeys(
            (host.name for host in self._lab.cluster.hosts), "ready"
        )

    def _actor(self, host: Host, kind: str) -> None:
        """SIGKILL to an actor's process; return when another one is there."""

        # While a HostActor runs a job, Ray calls its process by that.
        titles = re.compile(f"ray::({kind}|.+ on {host.name}$)" if kind == "HostActor" else f"ray::{kind}")

        def found() -> list[psutil.Process]:
            return [process for process in processes(host) if titles.match("".join(_cmdline(process)[:1]))]

        before = found()
        for process in before:
            process.kill()
        wait_for(lambda: bool(set(found()) - set(before)), f"another {kind} on {host.name}", WITHIN)

    def _raylet(self, host: Host) -> None:
        host.run(["pkill", "-KILL", "raylet"])
        wait_for(lambda: not self._ready(host), "the loss of the raylet is noticed", WITHIN)

    def _ready(self, host: Host) -> bool:
        with contextlib.suppress(httpx.HTTPError, OSError):
            return self._lab.hosts().get(host.name, {}).get("state") == "ready"
        return False

    def _dockerd(self, host: Host, *options: str) -> None:
        # As it is to be from now on: the option counts for the daemon that starts again.
        host.stop_docker("KILL")
        host.start_docker(*options)

    def _link(self, host: Host, seconds: float) -> None:
        host.link_down()
        time.sleep(seconds)
        host.link_up()

    def _power(self, host: Host) -> None:
        host.power_off()
        wait_for(lambda: not self._ready(host), "the loss of the host is noticed", WITHIN)
        host.power_on()
        supervise(self._lab, host)

    def _down_and_up(self) -> None:
        self._lab.orqal("down", timeout=120)

    def _head(self) -> None:
        for process in processes(self._lab.head):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _disk_full(self) -> None:
        fill = f"dd if=/dev/zero of={HOME}/fill bs=64k 2>/dev/null; sleep 8; rm {HOME}/fill"
        self._lab.head.run(["bash", "-c", fill])


def supervise(lab: Lab, host: Host) -> None:
    """Run Orqal on a host as systemd would: what dies is started again."""
    if host is lab.head:
        command = f"orqal up --address {host.address} --block"
    else:
        command = f"orqal join {lab.head.address} --block"
    again = f"while :; do {command}; sleep 1; done >>/tmp/supervisor.log 2>&1"
    host.run(
        ["bash", "-c", 'setsid --fork bash -c "$1" "$0" </dev/null >/dev/null 2>&1', SUPERVISOR, again],
        lab.settings | {"ORQAL_JOIN_TOKEN": JOIN_TOKEN, "TERM": "dumb"},
    )


@contextlib.contextmanager
def supervised(cluster: Namespaces) -> Iterator[Lab]:
    """An Orqal on all hosts that is started again wherever it dies; nothing is left of it in the end."""
    lab = Lab(cluster, {"ORQAL_STOP_GRACE": "1", "ORQAL_HOST_LOST_AFTER": f"{LOST_AFTER:g}"})
    lab.services.write_text(SERVICES)
    secrets = f"umask 077; mkdir -p {HOME} && printf {JOIN_TOKEN} >{HOME}/ray_token && printf {API_TOKEN} >{HOME}/token"
    # The disk of the store can be full without that of anything else. What lies below it is seen from outside.
    disk = f"{secrets} && mount -t tmpfs -o size=64m,mode=700 tmpfs {HOME} && {secrets}"
    lab.head.run(["bash", "-c", disk])
    try:
        for host in cluster.hosts:
            supervise(lab, host)
        yield lab
    finally:
        for host in cluster.hosts:
            host.link_up()
            for process in psutil.Process(host.pid).children(recursive=True):
                if any(SUPERVISOR in word or word.endswith("/orqal") for word in _cmdline(process)):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            for process in processes(host):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        lab.head.run(["umount", "--lazy", HOME], check=False)
        for host in cluster.hosts:
            wipe(host, lab)
            host.run(["bash", "-c", f"rm -rf /tmp/{LEDGER} /tmp/supervisor.log"])


def check(lab: Lab, jobs: int, told: list[list[Any]], report: Report) -> None:
    """Compare what the user was told, what the store says, what the containers wrote, and what the hosts have."""
    records = {job["_id"]: job for job in Client(f"{lab.root}/api", API_TOKEN).jobs(10**9)}
    begun, ended = runs(lab, "begin"), runs(lab, "end")
    for number, (job, status, result) in enumerate(told):
        record = records.get(job)
        if record is None:
            report.lost.append(f"{job}: the store does not have it")
        elif (record["current_status"], status, result) != ("exited", "exited", number**2):
            report.lost.append(f"{job}: {record['current_status']}, {record['error']}; told: {status}, {result}")
        elif not ended[job]:
            report.lost.append(f"{job}: it is said to have ended, and no container has")
        elif begun[job] > record["attempt"]:
            report.double.append(f"{job}: {begun[job]} containers for {record['attempt']} attempts")
    report.lost += [f"number {number} was never answered" for number in range(len(told), jobs)]
    report.double += [f"{job}: nobody has submitted it" for job in records.keys() - {job for job, _, _ in told}]
    report.reruns = sum(begun.values()) - len(begun)
    wait_for(lambda: not any(lab.containers(host) for host in lab.cluster.hosts), "all containers are removed", 60)
    for host in lab.cluster.hosts:
        report.leftovers += [f"{host.name}: container {container.name}" for container in lab.containers(host)]
    report.leftovers += [f"placement group {name}" for name in groups(lab)]


def runs(lab: Lab, what: str) -> Counter[str]:
    """How many containers of each job have written that they `begin`, or `end`."""
    found: Counter[str] = Counter()
    for host in lab.cluster.hosts:
        file = host.tmp / LEDGER
        lines = file.read_text().splitlines() if file.exists() else []
        found.update(line.split()[2] for line in lines if line.startswith(f"{what} "))
    return found


def groups(lab: Lab) -> list[str]:
    """The placement groups that Ray still has."""
    code = (
        "import ray; from ray.util.placement_group import placement_group_table as table; "
        "ray.init(log_to_driver=False, logging_level='error'); "
        "print(*[group['name'] for group in table().values() if group['state'] != 'REMOVED'], sep='\\n')"
    )
    done = lab.head.run(["bash", "-c", f'eval "$(orqal env)" && python -c "{code}"'], lab.settings, timeout=60)
    return [line for line in done.stdout.splitlines() if line.startswith("orqal ")]


def run(cluster: Namespaces, *, seed: int, jobs: int, rounds: int, say: Callable[[str], None]) -> Report:
    """Submit jobs as a user does, kill parts until all have ended, and check."""
    for host in cluster.hosts:
        with contextlib.closing(host.docker()) as client:
            make_image(DEMO_IMAGE, PROGRAMS, client=client)
    report = Report(jobs)
    with supervised(cluster) as lab:
        chaos = Chaos(lab, seed, say)
        wait_for(chaos.well, "all hosts are ready", WITHIN)
        say(f"seed {seed}: {jobs} jobs, {rounds} rounds of {len(chaos.parts)} kills")
        began = time.monotonic()
        environ = {"ORQAL_API_URL": f"{lab.root}/api", "ORQAL_TOKEN": API_TOKEN, "TERM": "dumb"}
        with cluster.laptop.popen(
            [sys.executable, "-c", USER, str(jobs), str(seed)], environ, stdout=subprocess.PIPE, text=True
        ) as user:
            assert user.stdout is not None
            try:
                for kill in chaos.rounds(rounds, lambda: user.poll() is None):
                    report.kills.append(kill)
                    say(f"  works again after {kill.seconds:.1f} s; {_progress(lab)}")
                answer = user.communicate(timeout=AFTER)[0].strip().splitlines()
            finally:
                user.kill()
        report.seconds = time.monotonic() - began
        wait_for(chaos.well, "all hosts are ready", WITHIN)
        check(lab, jobs, json.loads(answer[-1]) if answer else [], report)
    return report


def _progress(lab: Lab) -> str:
    with contextlib.suppress(httpx.HTTPError), lab.http() as http:
        counts: dict[str, int] = http.get("/jobs/status").json()
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return "the API does not answer"


def wait_for(condition: Callable[[], bool], what: str, within: float) -> None:
    """Return when it is true. TimeoutError: it does not become so."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s: {what}")
        time.sleep(0.2)


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def main() -> int:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="the order of the kills, and whom they hit")
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3, help="how often each part is killed, while there are jobs")
    options = parser.parse_args()
    began = time.monotonic()
    with Namespaces(3) as cluster:
        report = run(
            cluster,
            seed=options.seed,
            jobs=options.jobs,
            rounds=options.rounds,
            say=lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True),
        )
    print(f"\n{report}")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
