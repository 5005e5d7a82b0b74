"""A host of the test cluster: a set of Linux namespaces with its own network address, processes, HOME, /tmp, /run and
hostname, its own Docker daemon and its own sshd. Its power, its network cable and its daemon can be switched off."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import psutil

from tests.support.checkout import REPOSITORY

HOST_SCRIPT = Path(__file__).with_name("host.sh")
RUNS = Path("/var/tmp")
"""Where the clusters' folders are: on a disk, which Docker's storage needs, and not in /tmp, because each host has its
own."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOT_HOME = pwd.getpwuid(0).pw_dir
READY_WITHIN = 60
"""Seconds that a daemon may take to answer, and a command of this machine to end."""


class Unavailable(Exception):
    """This machine cannot have namespaces; the message says why."""


@dataclass(frozen=True)
class Host:
    """A host. It is up from `power_on` to `power_off`. What it has on disk stays."""

    cluster: str
    name: str
    address: str
    gateway: str
    dockerd: tuple[str, ...] | None
    """Options of its Docker daemon; None if it has neither a Docker daemon nor an sshd."""

    @property
    def directory(self) -> Path:
        """The folder of the host's own files, at the same path inside and outside."""
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
        """A DOCKER_HOST that reaches its daemon from inside and outside. The usual socket works inside, too."""
        return f"unix://{self.directory}/docker.sock"

    @property
    def docker_root(self) -> Path:
        """The folder of its daemon's data, at the same path inside and outside."""
        return self.directory / "docker"

    @property
    def has_docker_disk(self) -> bool:
        """Whether that folder is a disk of its own."""
        return self.docker_root.is_mount()

    def add_docker_disk(self, megabytes: int) -> None:
        """Let the daemon's data have a new disk of its own, which hides what it had. The host is off."""
        self.docker_root.mkdir(exist_ok=True)
        call("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=711", "tmpfs", str(self.docker_root))

    def remove_docker_disk(self) -> None:
        """Remove the disk with all that is on it, if there is one. The host is off."""
        if self.has_docker_disk:
            call("umount", str(self.docker_root))

    def fill_docker_disk(self) -> None:
        """Leave no room on the daemon's disk."""
        fill = 'fallocate -l "$(df --output=avail -B1 "$0" | tail -n 1)" "$0/fill"; cat /dev/zero >"$0/more"'
        self.run(["bash", "-c", f"({fill}) 2>/dev/null", self.docker_root], check=False)

    def empty_docker_disk(self) -> None:
        """Undo that."""
        self.run(["bash", "-c", 'rm -f "$0/fill" "$0/more"', self.docker_root])

    def docker(self, timeout: int = 60) -> docker.DockerClient:
        """A client of its daemon; the caller closes it."""
        return docker.DockerClient(base_url=self.docker_host, timeout=timeout)

    @property
    def pid(self) -> int:
        """The id that its process 1 has outside.

        Raises:
            RuntimeError: the host is off.
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
            "PATH": command_path(),
            "SHELL": "/bin/bash",
            "TERM": os.environ.get("TERM", "dumb"),
            "USER": "root",
        }
        # The command ends when nsenter is killed.
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
        """Run a command on the host as `popen` does, and wait. Its output and its errors are captured together.

        Raises:
            AssertionError: `check` is set, and it did not exit with 0; the message has its output.
            subprocess.TimeoutExpired: it did not end in time, and was killed.
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
            Unavailable: the kernel refuses namespaces.
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
        # The same hardware address at each start, because the other hosts remember it.
        mac = "02:00:" + ipaddress.IPv4Address(self.address).packed.hex(":")
        call(
            *("ip", "link", "add", self._link, "type", "veth"),
            *("peer", "name", "eth0", "address", mac, "netns", pid),
        )
        call("ip", "link", "set", self._link, "master", self.cluster, "up")
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
        """Kill all its processes, containers too, and remove its network, as when the plug is pulled."""
        # When its process 1 dies, the kernel kills all others, and then unshare ends.
        with contextlib.suppress(RuntimeError, ProcessLookupError):
            os.kill(self.pid, 9)
        until(lambda: not self._processes(), f"{self.name} does not end")
        with contextlib.suppress(RuntimeError):
            call("ip", "link", "delete", self._link)  # the kernel does so too, perhaps a moment late

    def start_docker(self, *options: str) -> None:
        """Start its Docker daemon, with these options besides its own; return when it answers.

        Raises:
            TimeoutError: it does not answer; the message has the end of its log.
        """
        assert self.dockerd is not None
        command = [
            *("dockerd", "--data-root", str(self.docker_root)),
            # systemd's cgroup driver cannot be reached from here.
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            *("--host", "unix:///run/docker.sock", "--host", self.docker_host),
            *("--insecure-registry", str(ipaddress.ip_network(f"{self.gateway}/24", strict=False))),
            *self.dockerd,
            *options,
        ]
        log = self.directory / "dockerd.log"
        self.run(["bash", "-c", 'log=$1; shift; exec setsid --fork "$@" </dev/null >>"$log" 2>&1', "-", log, *command])
        until(self._docker_answers, lambda: f"{self.name}: dockerd does not answer:\n{_tail(log)}")

    def stop_docker(self, signal: str = "TERM") -> None:
        """End its Docker daemon; return when it has ended. After "KILL" the containers and containerd go on."""
        self.run(
            [
                *("bash", "-c"),
                "pid=$(< /run/docker.pid) && kill -$1 $pid && while kill -0 $pid 2>/dev/null; do sleep 0.05; done",
                *("-", signal),
            ]
        )

    def link_down(self) -> None:
        """Lose all packets, as when the network cable is pulled."""
        call("ip", "link", "set", self._link, "down")

    def link_up(self) -> None:
        """Put the network cable back."""
        call("ip", "link", "set", self._link, "up")

    @property
    def _link(self) -> str:
        return f"{self.cluster}{self.name}"

    def _processes(self) -> list[psutil.Process]:
        """Its process 1, and the `unshare` that waits for it."""
        return machines(self.cluster, self.name)

    def _docker_answers(self) -> bool:
        try:
            with contextlib.closing(self.docker(timeout=5)) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False


def machines(cluster: str, name: str | None = None) -> list[psutil.Process]:
    """Return process 1 of each of a cluster's hosts, or of one, and the `unshare` that waits for it. The checkout that
    started them does not matter."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            for place, word in enumerate(command):
                host = command[place + 1 : place + 3] if word.endswith("/tests/cluster/host.sh") else []
                if host == [cluster, name] or (name is None and host[:1] == [cluster]):
                    found.append(process)
    return found


def command_path() -> str:
    """Return the PATH on a host: Orqal, Ray and Python of this process's environment first."""
    return f"{Path(sys.executable).parent}:{SYSTEM_PATH}"


def call(*command: str) -> str:
    """Run a command of this machine and return its output.

    Raises:
        RuntimeError: it failed; the message has what it printed.
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


def until(condition: Callable[[], bool], problem: str | Callable[[], str]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it did not within READY_WITHIN; the message is the problem.
    """
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem if isinstance(problem, str) else problem())
        time.sleep(0.05)


def _which(program: str) -> str:
    found = shutil.which(program, path=SYSTEM_PATH)
    assert found is not None
    return found


def _tail(file: Path) -> str:
    return file.read_text(errors="replace")[-2000:].strip()
