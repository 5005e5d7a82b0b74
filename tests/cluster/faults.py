"""Faults of a cluster: parts of an Orqal, daemons and machines are killed or frozen, links are cut, disks are full, the
database fails, wrapper files break. And an Orqal that is started again wherever it dies, as under systemd."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from tests.cluster.host import SYSTEM_PATH, Host
from tests.cluster.lab import PORT, Lab, processes, wipe
from tests.cluster.namespaces import Namespaces
from tests.support import clocks
from tests.support.mongo_server import Server

LOST_AFTER = 25.0
"""ORQAL_HOST_LOST_AFTER, in seconds."""
CLOCK_OFF = 7_200
"""Seconds that a clock is set ahead or back."""
WITHIN = 180.0
"""Seconds in which all must work again after a fault."""
STEADY = 3.0
"""Seconds for which all must work before it is believed."""
HOME = "/root/.orqal"
"""ORQAL_HOME on each host."""
JOBS = f"{HOME}/jobs"
"""ORQAL_JOBS_DIR on each host: a disk of its own, except on the head."""
API_TOKEN, JOIN_TOKEN = "a" * 43, "b" * 64
"""Known beforehand, because the hosts start at once, and each waits for the head."""
_SUPERVISOR = "supervisor-of-orqal"
"""A word in the command line of the process that starts Orqal again where it has died."""
_LOG = "/tmp/supervisor.log"
_FORGOTTEN = "services-are-forgotten"
"""While this file is in the head's HOME, Orqal is started without its wrapper file."""
_CLOCK = "clock"
"""A file in /tmp of a host with the seconds that its clock is ahead."""
_OF_A_DAEMON = "HostActor", "dockerd", "containerd", "shims"
"""Words in the names of faults that do not matter to the other parts of a host."""
_OF_A_HOST = *_OF_A_DAEMON, "raylet", "link", "host ", "of a host", "of the jobs", "of Docker"
"""Words in the names of faults that happen to one of the hosts."""
_JOBS_DISK = f"mkdir -p -m 700 {HOME} {JOBS} && mount -t tmpfs -o size=2g,mode=700 tmpfs {JOBS}"


class Happened(NamedTuple):
    """A fault, and how long it took until all worked again."""

    fault: str
    host: str
    lasted: float
    """Seconds for which the cause lasted, such as a link that was down; 0 for a kill."""
    recovered: float
    """Seconds from its end until the API answered and every host was ready."""


@dataclass
class Faults:
    """What can happen to a Lab. Each method returns when the cause is gone."""

    lab: Lab
    random: random.Random
    mongo: Server | None
    """Where the jobs are. None is the SQLite file of the head."""
    all: dict[str, Callable[[Host], None]] = field(init=False)
    flaps: list[str] = field(default_factory=list)
    """In words: when all worked and then did not, although no fault was under way."""
    _alone: bool = field(default=False, init=False)
    """True while no fault but one is under way."""

    def __post_init__(self) -> None:
        self.all = {
            "Scheduler killed": lambda _: self._kill(self.lab.head, "Scheduler"),
            "HostActor killed": lambda host: self._kill(host, "HostActor"),
            "Serve replica killed": lambda _: self._kill(self.lab.head, "ServeReplica"),
            "Serve controller killed": lambda _: self._kill(self.lab.head, "ServeController"),
            "Serve proxy killed": lambda _: self._kill(self.lab.head, "ProxyActor"),
            "raylet killed": self._raylet,
            "dockerd killed, containers die": lambda host: self._dockerd(host, "--live-restore=false"),
            "dockerd killed, containers live": lambda host: self._dockerd(host, "--live-restore=true"),
            "containerd killed": self._containerd,
            "shims of containers killed": self._shims,
            "link down for 10 s": lambda host: self._link(host, 10),
            "link down beyond the limit": lambda host: self._link(host, LOST_AFTER + 10),
            "host without power": self._power,
            "Scheduler frozen for 8 s": lambda _: self._freeze(self.lab.head, "Scheduler", 8),
            "HostActor frozen for 8 s": lambda host: self._freeze(host, "HostActor", 8),
            "HostActor frozen beyond the limit": lambda host: self._freeze(host, "HostActor", LOST_AFTER + 10),
            "dockerd frozen for 5 s": lambda host: self._freeze_docker(host, 5),
            "dockerd frozen for 20 s": lambda host: self._freeze_docker(host, 20),
            "wrapper file broken for 20 s": lambda _: self._spoil_wrapper("this is no Python", 20),
            "wrapper file away for 20 s": lambda _: self._spoil_wrapper(None, 20),
            "disk of the jobs full for 20 s": lambda host: self._fill_jobs(host, 20),
            "disk of Docker full for 20 s": lambda host: self._fill_docker(host, 20),
            "clock of a host ahead for 20 s": lambda host: self._set_clock(host, CLOCK_OFF, 20),
            "clock of a host behind for 20 s": lambda host: self._set_clock(host, -CLOCK_OFF, 20),
            "clock of the head ahead for 20 s": lambda _: self._set_clock(self.lab.head, CLOCK_OFF, 20),
            "clock of the head behind for 20 s": lambda _: self._set_clock(self.lab.head, -CLOCK_OFF, 20),
            "host drained for 10 s": lambda host: self._drain(host, 10),
            "host drained at once, for 10 s": lambda host: self._drain(host, 10, "--now"),
            "orqal down, and up": lambda _: self._down(),
            "up without the wrapper file for 20 s": lambda _: self._up_without_services(20),
            "everything on the head killed": lambda _: self._head(),
            **(
                {"database killed, back after 60 s": lambda _: self._database(60)}
                | {"database unreachable for 20 s": lambda _: self._cut(20)}
                if self.mongo
                else {"disk of the store full for 20 s": lambda _: self._disk(20)}
            ),
        }
        if not all(host.has_docker_disk for host in self.lab.cluster.hosts):
            del self.all["disk of Docker full for 20 s"]
        if not _clock(self.lab).exists():
            self.all = {name: fault for name, fault in self.all.items() if not name.startswith("clock")}

    def happen(self, fault: str) -> Happened:
        """Let something happen to some host, and return when all works again.

        Raises:
            TimeoutError: it does not work again.
        """
        [happened] = self.happen_together([[fault]])
        return happened

    def happen_together(self, lanes: Sequence[Sequence[str]]) -> list[Happened]:
        """Let the faults of each lane happen one after the other, and the lanes at the same time, each to a host of its
        own; return when all works again.

        Raises:
            TimeoutError: it does not work again.
        """
        members = self.random.sample(self.lab.cluster.hosts[1:], 2)
        self._alone = sum(map(len, lanes)) == 1

        def choose(lane: Sequence[str]) -> Host:
            if not any(self.is_of_a_host(fault) for fault in lane):
                return self.lab.head
            # The head has parts of its own that must not go with a host.
            if len(lanes) == 1 and all(any(word in fault for word in _OF_A_DAEMON) for fault in lane):
                return self.random.choice(self.lab.cluster.hosts)
            return members.pop()

        def play(lane: Sequence[str], host: Host) -> list[tuple[str, Host, float, float]]:
            played: list[tuple[str, Host, float, float]] = []
            for fault in lane:
                if played:
                    wait_for(lambda: bool(self._states()), f"the API answers after: {played[-1][0]}", WITHIN)
                began = time.monotonic()
                self.all[fault](host)
                played.append((fault, host, began, time.monotonic()))
            return played

        with ThreadPoolExecutor() as pool:
            playing = [pool.submit(play, lane, choose(lane)) for lane in lanes]
            played = [each for lane in playing for each in lane.result()]
        names = ", ".join(f"{fault} ({host.name})" for fault, host, _, _ in played)
        now = steady(self.well, f"the API answers and all hosts are ready after: {names}", WITHIN, self._flapped)
        happened = []
        for fault, host, began, over in played:
            lasts = "for" in fault or "beyond" in fault or "after" in fault
            happened.append(
                Happened(fault, host.name, over - began if lasts else 0.0, now - (over if lasts else began))
            )
        return happened

    @staticmethod
    def is_of_a_host(fault: str) -> bool:
        """True if a fault happens to one of the hosts, and not to the head as such."""
        return any(word in fault for word in _OF_A_HOST)

    def well(self) -> bool:
        """The API answers, and every host is ready."""
        return set(self._states().values()) == {"ready"} and len(self._states()) == len(self.lab.cluster.hosts)

    def _flapped(self, what: str) -> None:
        self.flaps.append(f"{what}: {self._states()}")

    def _states(self) -> dict[str, str]:
        with contextlib.suppress(httpx.HTTPError, OSError):
            return {name: host["state"] for name, host in self.lab.hosts().items()}
        return {}

    def _kill(self, host: Host, kind: str) -> None:
        """SIGKILL to an actor's processes; return when there is another one."""
        before = self._some_actors(host, kind)
        for process in before:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_for(lambda: bool(_actors(host, kind) - before), f"another {kind} on {host.name}", WITHIN)

    def _freeze(self, host: Host, kind: str, seconds: float) -> None:
        """Stop an actor's processes for a while. Ray may kill them meanwhile, because they do not answer."""
        frozen = self._some_actors(host, kind)
        for process in frozen:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        try:
            time.sleep(seconds)
        finally:
            for process in frozen:
                with contextlib.suppress(psutil.Error):
                    process.resume()

    def _some_actors(self, host: Host, kind: str) -> set[psutil.Process]:
        """Return the processes of an actor. They may be missing because another fault is under way; then wait."""
        if self._alone and not _actors(host, kind):
            self._flapped(f"there was no {kind} on {host.name} to hit")
        wait_for(lambda: bool(_actors(host, kind)), f"there is a {kind} on {host.name}", WITHIN)
        return _actors(host, kind)

    def _freeze_docker(self, host: Host, seconds: float) -> None:
        host.run(["pkill", "-STOP", "dockerd"])
        try:
            time.sleep(seconds)
        finally:
            host.run(["pkill", "-CONT", "dockerd"])

    def _spoil_wrapper(self, text: str | None, seconds: float) -> None:
        """Give the wrapper file this text for a while; None: remove it."""
        good = self.lab.services.read_text()
        if text is None:
            self.lab.services.unlink()
        else:
            self.lab.services.write_text(text)
        try:
            time.sleep(seconds)
        finally:
            self.lab.services.write_text(good)

    def _fill_jobs(self, host: Host, seconds: float) -> None:
        """Let a host's disk for the jobs' directories be full for a while."""
        fill = f"dd if=/dev/zero of={JOBS}/fill bs=1M 2>/dev/null; sleep {seconds:g}; rm {JOBS}/fill"
        host.run(["bash", "-c", fill])

    def _fill_docker(self, host: Host, seconds: float) -> None:
        """Let the disk of a host's Docker daemon be full for a while."""
        host.fill_docker_disk()
        try:
            time.sleep(seconds)
        finally:
            host.empty_docker_disk()

    def _set_clock(self, host: Host, ahead: int, seconds: float) -> None:
        """Let the clock of a host's Python programs be so many seconds ahead for a while, as if someone had set it."""
        (host.tmp / _CLOCK).write_text(str(ahead))
        try:
            time.sleep(seconds)
        finally:
            (host.tmp / _CLOCK).unlink()

    def _drain(self, host: Host, seconds: float, *options: str) -> None:
        """Let a host get no jobs for a while, as an administrator does."""
        self._insist("drain", host.name, *options)
        try:
            time.sleep(seconds)
        finally:
            self._insist("undrain", host.name)

    def _insist(self, *command: str) -> None:
        """Give a command until it is carried out: another fault may be under way."""
        wait_for(lambda: self.lab.orqal(*command, check=False).returncode == 0, f"orqal {command[0]} works", WITHIN)

    def _up_without_services(self, seconds: float) -> None:
        """Let someone start Orqal without the setting that names the wrapper file, and notice it after a while."""
        forgotten = self.lab.head.home / _FORGOTTEN
        forgotten.touch()
        try:
            self._down()
            wait_for(lambda: bool(self._states()), "the API answers", WITHIN)
            time.sleep(seconds)
        finally:
            forgotten.unlink()
        self._down()

    def _raylet(self, host: Host) -> None:
        host.run(["pkill", "-KILL", "raylet"])
        self._await_loss(host)

    def _await_loss(self, host: Host) -> None:
        def lost() -> bool:
            states = self._states()
            return bool(states) and states.get(host.name) != "ready"

        wait_for(lost, f"the loss of {host.name} is noticed", WITHIN)

    def _dockerd(self, host: Host, option: str) -> None:
        # The daemon that starts decides what becomes of the containers.
        host.stop_docker("KILL")
        host.start_docker(option)

    def _containerd(self, host: Host) -> None:
        """Kill containerd. dockerd starts another, and the containers go on."""
        before = host.run(["pidof", "containerd"]).stdout
        host.run(["pkill", "-KILL", "-x", "containerd"])

        def another() -> bool:
            now = host.run(["pidof", "containerd"], check=False).stdout
            return bool(now.strip()) and now != before

        wait_for(another, f"another containerd on {host.name}", WITHIN)

    def _shims(self, host: Host) -> None:
        """Kill the processes that hold the containers and read their output, as the kernel may for lack of memory."""
        host.run(["pkill", "-KILL", "-f", "^[^ ]*containerd-shim"], check=False)  # there may be no container

    def _link(self, host: Host, seconds: float) -> None:
        host.link_down()
        time.sleep(seconds)
        host.link_up()

    def _power(self, host: Host) -> None:
        host.power_off()
        self._await_loss(host)
        host.power_on()
        host.run(["bash", "-c", _JOBS_DISK])
        _supervise(self.lab, host)

    def _down(self) -> None:
        self.lab.orqal("down", timeout=120)

    def _head(self) -> None:
        for process in processes(self.lab.head):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _disk(self, seconds: float) -> None:
        fill = f"dd if=/dev/zero of={HOME}/fill bs=1M 2>/dev/null; sleep {seconds:g}; rm {HOME}/fill"
        self.lab.head.run(["bash", "-c", fill])

    def _database(self, seconds: float) -> None:
        assert self.mongo is not None and self.mongo.restart is not None
        self.mongo.restart(seconds)

    def _cut(self, seconds: float) -> None:
        assert self.mongo is not None
        port = self.mongo.address.rpartition(":")[2]
        rule = ["INPUT", "-i", self.lab.cluster.name, "-p", "tcp", "--dport", port]
        rule += ["-j", "REJECT", "--reject-with", "tcp-reset"]
        _iptables("-I", *rule)
        try:
            time.sleep(seconds)
        finally:
            _iptables("-D", *rule)


@contextlib.contextmanager
def supervised(cluster: Namespaces, services: str, store: str | None) -> Iterator[Lab]:
    """An Orqal on all hosts that is started again wherever it dies. Nothing is left of it in the end."""
    settings = {"ORQAL_STOP_GRACE": "1", "ORQAL_HOST_LOST_AFTER": f"{LOST_AFTER:g}"}
    lab = Lab(cluster, settings | ({"ORQAL_STORE": store} if store else {}))
    lab.services.write_text(services)
    secrets = f"umask 077; mkdir -p {HOME} && printf {JOIN_TOKEN} >{HOME}/ray_token && printf {API_TOKEN} >{HOME}/token"
    # The store has a disk of its own, which can be full. What lies below it is seen from outside.
    disk = f"{secrets} && mount -t tmpfs -o size=2g,mode=700 tmpfs {HOME} && {secrets}"
    lab.head.run(["bash", "-c", disk])
    for host in cluster.hosts[1:]:
        host.run(["bash", "-c", _JOBS_DISK])
    clocks.build(cluster.directory)
    try:
        for host in cluster.hosts:
            _supervise(lab, host)
        yield lab
    finally:
        for host in cluster.hosts:
            if not host.on:
                host.power_on()
            host.link_up()
            for process in psutil.Process(host.pid).children(recursive=True):
                if any(_SUPERVISOR in word or word.endswith("/orqal") for word in _cmdline(process)):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            for process in processes(host):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        lab.head.run(["umount", "--lazy", HOME], check=False)
        for host in cluster.hosts[1:]:
            host.run(["umount", "--lazy", JOBS], check=False)
        for host in cluster.hosts:
            wipe(host, lab)
            host.run(["rm", "-f", _LOG])


def _clock(lab: Lab) -> Path:
    """The library that sets clocks. It is missing where there is no C compiler."""
    return lab.cluster.directory / "clock.so"


def supervisor_log(host: Host) -> str:
    """What Orqal has said on a host since it was first started."""
    file = host.directory / f"root{_LOG}"
    return file.read_text(errors="replace") if file.exists() else ""


def _supervise(lab: Lab, host: Host) -> None:
    """Run Orqal on a host as systemd would, which starts it again when it dies."""
    if host is lab.head:
        command = f"orqal up --address {host.address} --port {PORT} --block"
        command = f"if [ -e ~/{_FORGOTTEN} ]; then ORQAL_SERVICES=/nowhere.py {command}; else {command}; fi"
    else:
        command = f"orqal join {lab.head.address} --block"
    again = f"while :; do {command}; sleep 1; done >>{_LOG} 2>&1"
    clock = {"LD_PRELOAD": str(_clock(lab)), "ORQAL_TEST_CLOCK": f"/tmp/{_CLOCK}"} if _clock(lab).exists() else {}
    host.run(
        ["bash", "-c", 'setsid --fork bash -c "$1" "$0" </dev/null >/dev/null 2>&1', _SUPERVISOR, again],
        lab.settings | {"ORQAL_JOIN_TOKEN": JOIN_TOKEN, "TERM": "dumb"} | clock,
    )


def wait_for(condition: Callable[[], bool], what: str, within: float) -> None:
    """Return when a condition holds.

    Raises:
        TimeoutError: it did not within so many seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s: {what}")
        time.sleep(0.2)


def steady(
    condition: Callable[[], bool], what: str, within: float, flapped: Callable[[str], None], lasts: float = STEADY
) -> float:
    """Return when a condition has held for so many seconds, with the moment since which it has. `flapped` is told in
    words when it has held and then did not.

    Raises:
        TimeoutError: it did not hold soon enough.
    """
    deadline = time.monotonic() + within
    while True:
        wait_for(condition, what, deadline - time.monotonic())
        since = time.monotonic()
        while condition():
            if time.monotonic() >= since + lasts:
                return since
            time.sleep(0.2)
        flapped(f"for {time.monotonic() - since:.1f} s and no longer {what}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s for long: {what}")


def _actors(host: Host, kind: str) -> set[psutil.Process]:
    """The processes of an actor on a host, by the class of the actor or the beginning of its name."""
    # While a HostActor runs a job, Ray calls its process by that.
    titles = re.compile(f"ray::({kind}|.+ on {host.name}$)" if kind == "HostActor" else f"ray::{kind}")
    return {process for process in processes(host) if titles.match("".join(_cmdline(process)[:1]))}


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _iptables(*rule: str) -> None:
    subprocess.run(["iptables", "--wait", *rule], env={"PATH": SYSTEM_PATH}, check=True, capture_output=True)
