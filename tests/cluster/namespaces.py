"""A cluster of real hosts on one machine: each a set of Linux namespaces with its own network address, processes, HOME,
/tmp, /run and hostname, its own Docker daemon and its own sshd. And a laptop, which has neither daemon.

    python -m tests.cluster.namespaces up          # hosts h1, h2, h3 and a laptop, which stay until they are taken down
    python -m tests.cluster.namespaces run h1 CMD…
    python -m tests.cluster.namespaces status
    python -m tests.cluster.namespaces down

All that a cluster is made of bears its name, orq0 and so on: the folder /var/tmp/orq0, the bridge orq0, links, rules
of iptables, cgroups. A run that was killed is cleaned up by the next one, by these names.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import ipaddress
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import docker
import psutil

from tests.support.checkout import REPOSITORY

HOST_SCRIPT = Path(__file__).with_name("host.sh")
RUNS = Path("/var/tmp")
"""On a disk, as Docker's storage needs it, and not in /tmp, of which each host has its own."""
PROGRAMS = ("dockerd", "ip", "iptables", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOT_HOME = pwd.getpwuid(0).pw_dir
KEPT = "kept by "
"""Begins the owner of a cluster that stays when the process that made it has ended; the checkout's path follows."""
READY_WITHIN = 60
"""Seconds that a daemon may take to answer."""


class Unavailable(Exception):
    """This machine cannot have namespaces; the message says why."""


@dataclass(frozen=True)
class Host:
    """A host, up from `power_on` to `power_off`. What it has on disk stays."""

    cluster: str
    name: str
    address: str
    gateway: str
    dockerd: tuple[str, ...] | None
    """Options of its Docker daemon; None: it has no daemon, neither Docker's nor sshd."""

    @property
    def directory(self) -> Path:
        """What is the host's own; at the same path inside and outside."""
        return RUNS / self.cluster / self.name

    @property
    def home(self) -> Path:
        """Its HOME as seen from outside; inside it is root's usual one."""
        return Path(f"{self.directory}/root{ROOT_HOME}")

    @property
    def tmp(self) -> Path:
        """Its /tmp as seen from outside."""
        return self.directory / "root/tmp"

    @property
    def docker_host(self) -> str:
        """A DOCKER_HOST that reaches its daemon from inside and outside; inside, the usual socket does too."""
        return f"unix://{self.directory}/docker.sock"

    def docker(self, timeout: int = 60) -> docker.DockerClient:
        """A client of its daemon; the caller closes it."""
        return docker.DockerClient(base_url=self.docker_host, timeout=timeout)

    @property
    def pid(self) -> int:
        """Its process 1, as seen from outside.

        Raises:
            RuntimeError: it is off.
        """
        for process in self._processes():
            if process.name() != "unshare":
                return process.pid
        raise RuntimeError(f"{self.name} is off")

    @property
    def on(self) -> bool:
        """Whether it is up."""
        return bool(self._processes())

    def popen(self, command: Sequence[str | Path], env: dict[str, str] | None = None, **options: Any) -> Any:
        """Start a command on the host, in its HOME, with a root login's environment and `env`: a subprocess.Popen."""
        # Not `ip netns exec`: it mounts a new /sys, without cgroups.
        enter = ("nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid")
        environ = {
            "HOME": ROOT_HOME,
            "LANG": "C.UTF-8",
            "LOGNAME": "root",
            "PATH": _path(),
            "SHELL": "/bin/bash",
            "TERM": os.environ.get("TERM", "dumb"),
            "USER": "root",
        }
        # Who kills nsenter means the command.
        command = [*enter, "setpriv", "--pdeathsig", "KILL", "env", "-C", ROOT_HOME, *command]
        return subprocess.Popen(command, env=environ | (env or {}), **options)

    def run(
        self,
        command: Sequence[str | Path],
        env: dict[str, str] | None = None,
        *,
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host as `popen` does, and wait. Its output is captured, errors in between.

        Raises:
            AssertionError: with `check`, it did not exit with 0; the message has its output.
            subprocess.TimeoutExpired: it was not over in time, and was killed.
        """
        with self.popen(
            command,
            env,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                output, _ = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise AssertionError(f"{self.name}: {command} exited with {process.returncode}:\n{output}")
        return subprocess.CompletedProcess(command, process.returncode, output)

    def power_on(self) -> None:
        """Start the host with its daemons; return when they answer.

        Raises:
            Unavailable: the kernel refuses.
            TimeoutError: a daemon does not answer.
        """
        # What Python runs from may be in this machine's HOME or /tmp.
        shared = dict.fromkeys([str(REPOSITORY), sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)])
        with (self.directory / "boot.log").open("wb") as log:
            boot = subprocess.Popen(
                [
                    *("setsid", "--fork", "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"),
                    *("--kill-child", "bash", str(HOST_SCRIPT)),
                    *(self.cluster, self.name, str(self.directory), ROOT_HOME, *shared),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        with boot:
            assert boot.stdout is not None
            pid = boot.stdout.readline().decode().strip()
        if not pid:
            raise Unavailable(f"a host does not start: {_tail(self.directory / 'boot.log')}")
        # The same hardware address at each start: others remember it.
        mac = "02:00:" + ipaddress.IPv4Address(self.address).packed.hex(":")
        _call(
            *("ip", "link", "add", self._link, "type", "veth"),
            *("peer", "name", "eth0", "address", mac, "netns", pid),
        )
        _call("ip", "link", "set", self._link, "master", self.cluster, "up")
        self.run(
            ["ip", "-batch", "-"],
            input=f"link set lo up\n"
            f"address add {self.address}/24 dev eth0\n"
            f"link set eth0 up\n"
            f"route add default via {self.gateway}\n",
        )
        if self.dockerd is not None:
            self.run([_which("sshd"), "-f", self.directory / "sshd_config"])
            self.start_docker()

    def power_off(self) -> None:
        """As when the plug is pulled: all its processes are killed, containers too, and its network is gone."""
        # When its process 1 dies, the kernel kills all others, and then unshare ends.
        with contextlib.suppress(RuntimeError, ProcessLookupError):
            os.kill(self.pid, 9)
        _until(lambda: not self._processes(), f"{self.name} does not end")
        with contextlib.suppress(RuntimeError):
            _call("ip", "link", "delete", self._link)  # the kernel does so too, perhaps a moment late

    def start_docker(self, *options: str) -> None:
        """Start its Docker daemon, with options besides its own; return when it answers.

        Raises:
            TimeoutError: it does not answer; the message has the end of its log.
        """
        assert self.dockerd is not None
        command = [
            *("dockerd", "--data-root", str(self.directory / "docker")),
            # That of systemd is not in reach.
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            *("--host", "unix:///run/docker.sock", "--host", self.docker_host),
            *("--insecure-registry", str(ipaddress.ip_network(f"{self.gateway}/24", strict=False))),
            *self.dockerd,
            *options,
        ]
        log = self.directory / "dockerd.log"
        self.run(["bash", "-c", 'log=$1; shift; exec setsid --fork "$@" </dev/null >>"$log" 2>&1', "-", log, *command])
        _until(self._docker_answers, lambda: f"{self.name}: dockerd does not answer:\n{_tail(log)}")

    def stop_docker(self, signal: str = "TERM") -> None:
        """End its Docker daemon; return when it has ended. With "KILL", containers and containerd go on."""
        self.run(
            [
                *("bash", "-c"),
                "pid=$(< /run/docker.pid) && kill -$1 $pid && while kill -0 $pid 2>/dev/null; do sleep 0.05; done",
                *("-", signal),
            ]
        )

    def link_down(self) -> None:
        """As when the network cable is pulled: packets are lost."""
        _call("ip", "link", "set", self._link, "down")

    def link_up(self) -> None:
        """Put the network cable back."""
        _call("ip", "link", "set", self._link, "up")

    @property
    def _link(self) -> str:
        return f"{self.cluster}{self.name}"

    def _processes(self) -> list[psutil.Process]:
        """Its process 1, and the unshare that waits for it."""
        return _machines(self.cluster, self.name)

    def _docker_answers(self) -> bool:
        try:
            with contextlib.closing(self.docker(timeout=5)) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False


class Namespaces:
    """A cluster: `with Namespaces(3) as cluster: cluster.hosts[0].run(["hostname"])`.

    Args:
        count: of hosts, h1 and so on.
        dockerd: more options of each host's Docker daemon.
        keep: it stays when this process has ended, until it is taken down.
    """

    def __init__(self, count: int = 3, *, dockerd: Sequence[str] = (), keep: bool = False) -> None:
        self.count = count
        self.dockerd = tuple(dockerd)
        self.keep = keep
        self.name = ""
        """orq0 and so on."""
        self.network = ipaddress.IPv4Network("10.77.0.0/24")
        self.hosts: list[Host] = []
        self.laptop: Host
        """A user's machine: no daemon, but a key that all hosts let in; `ssh h1` works."""

    @property
    def directory(self) -> Path:
        """All that the cluster has on disk."""
        return RUNS / self.name

    @property
    def gateway(self) -> str:
        """This machine's own address in the cluster's network."""
        return str(self.network[1])

    @property
    def key(self) -> Path:
        """The private key that lets root into each host; at the same path on the laptop."""
        return self.directory / "key"

    def __enter__(self) -> Namespaces:
        """Start all hosts at once; return when all daemons answer.

        Raises:
            Unavailable: this machine cannot.
        """
        _check_machine()
        clean_dead()
        with _lock():
            self._claim()
        try:
            self._make_network()
            self._make_machines()
            with ThreadPoolExecutor() as pool:
                list(pool.map(Host.power_on, [*self.hosts, self.laptop]))
        except BaseException:
            clean(self.name)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all, leave nothing."""
        clean(self.name)

    def _claim(self) -> None:
        """A name and a network that nobody has."""
        routes = [
            ipaddress.IPv4Network(route["dst"])
            for route in json.loads(_call("ip", "-4", "-json", "route", "show", "table", "all"))
            if route["dst"] != "default"
        ]
        for index in range(256):
            self.name = f"orq{index}"
            self.network = ipaddress.IPv4Network(f"10.77.{index}.0/24")
            # Processes without a folder: somebody removed it, and they would be taken for ours.
            if any(route.overlaps(self.network) for route in routes) or _machines(self.name):
                continue
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=0o711)
                (self.directory / "owner").write_text(
                    f"{KEPT}{REPOSITORY}" if self.keep else _identity(psutil.Process())
                )
                return
        raise Unavailable(f"all networks from 10.77.0.0/24 on are taken; see {RUNS}/orq* and `ip route`")

    def _make_network(self) -> None:
        _call("ip", "link", "add", self.name, "type", "bridge")
        _call("ip", "address", "add", f"{self.gateway}/24", "dev", self.name)
        _call("ip", "link", "set", self.name, "up")
        for rule in _rules(self.name):
            _call("iptables", "--wait", "-I", *rule)

    def _make_machines(self) -> None:
        names = [f"h{number}" for number in range(1, self.count + 1)]
        self.hosts = [
            Host(self.name, name, str(self.network[10 + number]), self.gateway, self.dockerd)
            for number, name in enumerate(names, 1)
        ]
        self.laptop = Host(self.name, "laptop", str(self.network[10]), self.gateway, None)
        _make_key(self.key)
        known = self.directory / "known_hosts"
        for host in self.hosts:
            host.directory.mkdir()
            public = _make_key(host.directory / "ssh_host_key")
            with known.open("a") as file:
                file.write(f"{host.name},{host.address} {public}")
        config = (
            f"Host *\n  User root\n  IdentityFile {self.key}\n  UserKnownHostsFile {known}\n  BatchMode yes\n"
            + "".join(f"Host {host.name}\n  HostName {host.address}\n" for host in self.hosts)
        )
        (self.directory / "ssh_config").write_text(config)
        addresses = "".join(f"{host.address} {host.name}\n" for host in (*self.hosts, self.laptop))
        for host in (*self.hosts, self.laptop):
            self._write_files(host, f"127.0.0.1 localhost\n{addresses}", config)

    def _write_files(self, host: Host, hosts: str, ssh_config: str) -> None:
        etc, ssh = host.directory / "etc", host.home / ".ssh"
        for folder, mode in (etc, 0o755), (host.tmp, 0o1777), (host.home, 0o700), (ssh, 0o700):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        (etc / "hosts").write_text(hosts)
        (etc / "hostname").write_text(f"{host.name}\n")
        (etc / "resolv.conf").write_text("")
        # sshd lets nobody into a locked account, and on some systems root is locked.
        (etc / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n")
        (host.home / ".bashrc").write_text(f'export PATH="{_path()}"\n')
        (host.home / ".profile").write_text(". ~/.bashrc\n")
        (ssh / "config").write_text(ssh_config)
        (ssh / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (host.directory / "sshd_config").write_text(
            f"HostKey {host.directory}/ssh_host_key\n"
            "PidFile /run/sshd.pid\n"
            "PermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
            "MaxStartups 100\n"
            "Subsystem sftp internal-sftp\n"
        )


def _rules(name: str) -> list[list[str]]:
    """What iptables is told: hosts reach each other, whatever Docker's own rules say, and nothing outside."""
    return [
        ["FORWARD", "-i", name, "-j", "REJECT"],
        ["FORWARD", "-i", name, "-o", name, "-j", "ACCEPT"],  # above the other one
    ]


def clean(name: str) -> None:
    """Kill and remove all of a cluster, whoever made it, and however much there is of it."""
    directory = RUNS / name
    for host in _hosts(name):
        host.power_off()
    for rule in _rules(name):
        with contextlib.suppress(RuntimeError):  # the rule is gone
            while True:
                _call("iptables", "--wait", "-D", *rule)
    with contextlib.suppress(RuntimeError):  # so is the bridge
        _call("ip", "link", "delete", name)
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
        for folder, _, _ in os.walk(root / name, topdown=False):
            _until(partial(_removed, Path(folder)), f"cgroup {folder} is busy")
    shutil.rmtree(directory, ignore_errors=True)


def clean_dead() -> None:
    """Remove the clusters of processes that have died."""
    with _lock():
        alive = {_identity(process) for process in psutil.process_iter()}
        for name, owner in _owners().items():
            if not owner.startswith(KEPT) and owner not in alive:
                clean(name)


def kept() -> list[str]:
    """This checkout's clusters that stay until they are taken down. Another checkout's are its own affair."""
    return [name for name, owner in _owners().items() if owner == f"{KEPT}{REPOSITORY}"]


def _owners() -> dict[str, str]:
    """The clusters that there are, and the process that each belongs to; one half made belongs to none."""
    files = {folder.name: folder / "owner" for folder in sorted(RUNS.glob("orq[0-9]*/"))}
    return {name: file.read_text() if file.exists() else "" for name, file in files.items()}


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One process at a time takes a name or cleans up what is left of another."""
    folder = os.open(RUNS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _hosts(name: str) -> list[Host]:
    """The hosts that a cluster has on disk, the laptop last."""
    network = ipaddress.IPv4Network(f"10.77.{name.removeprefix('orq')}.0/24")
    found = []
    for directory in sorted((RUNS / name).glob("*/")):
        number = 0 if directory.name == "laptop" else int(directory.name.removeprefix("h"))
        found.append(Host(name, directory.name, str(network[10 + number]), str(network[1]), ()))
    return found


def _machines(cluster: str, name: str | None = None) -> list[psutil.Process]:
    """The processes 1 of a cluster's hosts, or of one, and their unshares, from whatever checkout they were started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            for place, word in enumerate(command):
                who = command[place + 1 : place + 3] if word.endswith("/tests/cluster/host.sh") else []
                if who == [cluster, name] or (name is None and who[:1] == [cluster]):
                    found.append(process)
    return found


def _identity(process: psutil.Process) -> str:
    return f"{process.pid} {process.create_time()}"


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise Unavailable("only root can make network namespaces")
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]:
        raise Unavailable(f"missing: {', '.join(missing)}; run `bash scripts/cluster_tools.sh`")
    try:
        _call("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "true")
        _call("iptables", "--wait", "-S", "FORWARD")
    except RuntimeError as error:
        raise Unavailable(str(error)) from None


def _path() -> str:
    """The PATH on a host: Orqal, Ray and Python of this process's environment first."""
    return f"{Path(sys.executable).parent}:{SYSTEM_PATH}"


def _which(program: str) -> str:
    found = shutil.which(program, path=SYSTEM_PATH)
    assert found is not None
    return found


def _make_key(path: Path) -> str:
    """Make a key pair; return the public half."""
    _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path))
    return path.with_suffix(".pub").read_text()


def _call(*command: str) -> str:
    """Run a command of this machine: its output.

    Raises:
        RuntimeError: it failed; the message says how.
    """
    done = subprocess.run(
        command,
        env={"PATH": SYSTEM_PATH, "LANG": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_WITHIN,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup; a moment after its processes' end it may still be busy."""
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


def _until(condition: Callable[[], bool], problem: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem if isinstance(problem, str) else problem())
        time.sleep(0.05)


def _tail(file: Path) -> str:
    return file.read_text(errors="replace")[-2000:].strip()


def print_status() -> None:
    """Print the clusters that stay, and how to use them."""
    if not kept():
        print("no cluster; `make cluster-up` starts one")
    for name in kept():
        for host in _hosts(name):
            on = "on" if host.on else "off"
            daemon = "" if host.name == "laptop" else f"  DOCKER_HOST={host.docker_host}"
            print(f"{host.name:8} {host.address:13} {on:4}{daemon}")
        print(f"log in:         ssh -F {RUNS / name}/ssh_config h1")
        print("run a command:  .venv/bin/python -m tests.cluster.namespaces run h1 COMMAND...   (laptop, too)")
        print("take it down:   make cluster-down")


def main() -> int:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.namespaces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start a cluster that stays").add_argument("count", nargs="?", type=int, default=3)
    commands.add_parser("down", help="remove it")
    commands.add_parser("status", help="show it")
    run = commands.add_parser("run", help="run a command on one of its hosts")
    run.add_argument("host")
    run.add_argument("cmd", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "up" and not kept():
        try:
            Namespaces(options.count, keep=True).__enter__()
        except Unavailable as problem:
            print(f"namespaces: {problem}", file=sys.stderr)
            return 1
    if options.command in ("up", "status"):
        print_status()
    elif options.command == "down":
        clean_dead()
        for name in kept():
            clean(name)
    else:
        hosts = {host.name: host for name in kept() for host in _hosts(name)}
        if options.host not in hosts:
            print(f"namespaces: no host {options.host}; there are: {' '.join(hosts) or 'none'}", file=sys.stderr)
            return 1
        with hosts[options.host].popen(options.cmd or ["bash", "--login"]) as process:
            return int(process.wait())
    return 0


if __name__ == "__main__":
    sys.exit(main())
