"""A cluster of real hosts (host.py) on one machine, and a laptop, which has neither a Docker daemon nor an sshd.

Everything that a cluster consists of has its name, orq0 and so on: the folder /var/tmp/orq0, the bridge orq0, links,
rules of iptables, cgroups. What a killed run left is found by these names and removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from tests.cluster.host import RUNS, SYSTEM_PATH, Host, Unavailable, call, command_path, machines, until
from tests.support.checkout import REPOSITORY

PROGRAMS = ("dockerd", "ip", "iptables", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
KEPT = "kept by "
"""The first words of the owner of a cluster that stays when the process that made it has ended; the checkout's path
follows."""


class Namespaces:
    """A cluster: `with Namespaces(3) as cluster: cluster.hosts[0].run(["hostname"])`.

    Args:
        count: the number of hosts, which are called h1 and so on.
        dockerd: more options for each host's Docker daemon.
        docker_disk_mb: the size of a disk of its own for each Docker daemon's data, which can be full; None: the
            machine's.
        keep: whether the cluster stays when this process has ended, until it is taken down.
    """

    def __init__(
        self, count: int = 3, *, dockerd: Sequence[str] = (), docker_disk_mb: int | None = None, keep: bool = False
    ) -> None:
        self.count = count
        self.dockerd = tuple(dockerd)
        self.docker_disk_mb = docker_disk_mb
        self.keep = keep
        self.name = ""
        """orq0 and so on."""
        self.network = ipaddress.IPv4Network("10.77.0.0/24")
        self.hosts: list[Host] = []
        self.laptop: Host
        """A user's machine. It has no daemon, but a key with which `ssh h1` works."""

    @property
    def directory(self) -> Path:
        """The folder of all that the cluster has on disk."""
        return RUNS / self.name

    @property
    def gateway(self) -> str:
        """This machine's own address in the cluster's network."""
        return str(self.network[1])

    @property
    def key(self) -> Path:
        """The private key with which root logs in to each host. The laptop has it at the same path."""
        return self.directory / "key"

    def __enter__(self) -> Namespaces:
        """Start all hosts at once; return when all daemons answer.

        Raises:
            Unavailable: this machine cannot have namespaces.
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
        """Kill all processes, and leave nothing."""
        clean(self.name)

    def _claim(self) -> None:
        """Take a name and a network that no other cluster has."""
        routes = [
            ipaddress.IPv4Network(route["dst"])
            for route in json.loads(call("ip", "-4", "-json", "route", "show", "table", "all"))
            if route["dst"] != "default"
        ]
        for index in range(256):
            self.name = f"orq{index}"
            self.network = ipaddress.IPv4Network(f"10.77.{index}.0/24")
            # There may be processes whose folder was removed. They would be taken for ours.
            if any(route.overlaps(self.network) for route in routes) or machines(self.name):
                continue
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=0o711)
                (self.directory / "owner").write_text(
                    f"{KEPT}{REPOSITORY}" if self.keep else _identity(psutil.Process())
                )
                return
        raise Unavailable(f"all networks from 10.77.0.0/24 on are taken; see {RUNS}/orq* and `ip route`")

    def _make_network(self) -> None:
        call("ip", "link", "add", self.name, "type", "bridge")
        call("ip", "address", "add", f"{self.gateway}/24", "dev", self.name)
        call("ip", "link", "set", self.name, "up")
        for rule in _rules(self.name):
            call("iptables", "--wait", "-I", *rule)

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
            if self.docker_disk_mb is not None:
                host.add_docker_disk(self.docker_disk_mb)
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
        # sshd refuses a locked account, and on some systems root's is locked.
        (etc / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n")
        (host.home / ".bashrc").write_text(f'export PATH="{command_path()}"\n')
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
    """Return the rules of iptables: hosts reach each other, whatever Docker's own rules say, and nothing outside."""
    return [
        ["FORWARD", "-i", name, "-j", "REJECT"],
        ["FORWARD", "-i", name, "-o", name, "-j", "ACCEPT"],  # above the other one
    ]


def clean(name: str) -> None:
    """Kill and remove all of a cluster. It may be another process's, and only partly there."""
    directory = RUNS / name
    for host in hosts_of(name):
        host.power_off()
        host.remove_docker_disk()
    for rule in _rules(name):
        with contextlib.suppress(RuntimeError):  # there is no such rule any more
            while True:
                call("iptables", "--wait", "-D", *rule)
    with contextlib.suppress(RuntimeError):  # nor the bridge
        call("ip", "link", "delete", name)
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
        for folder, _, _ in os.walk(root / name, topdown=False):
            until(partial(_removed, Path(folder)), f"cgroup {folder} is busy")
    shutil.rmtree(directory, ignore_errors=True)


def clean_dead() -> None:
    """Remove the clusters of processes that have died."""
    with _lock():
        alive = {_identity(process) for process in psutil.process_iter()}
        for name, owner in _owners().items():
            if not owner.startswith(KEPT) and owner not in alive:
                clean(name)


def traces(name: str) -> set[str]:
    """Return the kinds of things on this machine that a cluster of this name has left, or has now."""
    folder = f"{RUNS / name}/"
    running = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    found = {
        "folder": Path(folder).exists(),
        "processes": any(folder in word for command in running for word in command),
        "links": re.search(rf"^{name}(h\d+|laptop)?\b", call("ip", "-brief", "link"), re.MULTILINE) is not None,
        "rules": f" {name} " in call("iptables-save"),
        "mounts": folder in Path("/proc/self/mountinfo").read_text(),
        "cgroups": any(name in folders for _, folders, _ in os.walk("/sys/fs/cgroup")),
    }
    return {kind for kind, there in found.items() if there}


def kept() -> list[str]:
    """Return the names of this checkout's clusters that stay until they are taken down."""
    return [name for name, owner in _owners().items() if owner == f"{KEPT}{REPOSITORY}"]


def _owners() -> dict[str, str]:
    """Return the process that each cluster belongs to, by the cluster's name. A cluster that is half made has none."""
    files = {folder.name: folder / "owner" for folder in sorted(RUNS.glob("orq[0-9]*/"))}
    return {name: file.read_text() if file.exists() else "" for name, file in files.items()}


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Let one process at a time take a name, or remove what another has left."""
    folder = os.open(RUNS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def hosts_of(name: str) -> list[Host]:
    """Return the hosts that a cluster has on disk, and the laptop as the last."""
    network = ipaddress.IPv4Network(f"10.77.{name.removeprefix('orq')}.0/24")
    found = []
    for directory in sorted((RUNS / name).glob("*/")):
        number = 0 if directory.name == "laptop" else int(directory.name.removeprefix("h"))
        found.append(Host(name, directory.name, str(network[10 + number]), str(network[1]), ()))
    return found


def _identity(process: psutil.Process) -> str:
    return f"{process.pid} {process.create_time()}"


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise Unavailable("only root can make network namespaces")
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]:
        raise Unavailable(f"missing: {', '.join(missing)}; run `bash scripts/cluster_tools.sh`")
    try:
        call("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "true")
        call("iptables", "--wait", "-S", "FORWARD")
    except RuntimeError as error:
        raise Unavailable(str(error)) from None


def _make_key(path: Path) -> str:
    """Make a key pair, and return the public key."""
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path))
    return path.with_suffix(".pub").read_text()


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup, and return whether it is gone. It may be busy for a moment after its processes have ended."""
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()
