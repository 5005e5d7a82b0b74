"""The hosts of the test cluster are machines of their own, and nothing is left of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import psutil
import pytest

from examples.local_image import DEMO_IMAGE, make_image
from tests.cluster import command_line, namespaces
from tests.cluster.host import Host
from tests.cluster.namespaces import Namespaces, clean_dead, traces
from tests.conftest import PROGRAMS
from tests.support.checkout import REPOSITORY

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def h1(cluster: Namespaces) -> Host:
    return cluster.hosts[0]


@pytest.fixture
def h2(cluster: Namespaces) -> Host:
    return cluster.hosts[1]


@pytest.fixture
def h3(cluster: Namespaces) -> Host:
    """The one that is cut off and switched off; as it was afterwards."""
    return cluster.hosts[2]


def test_each_host_reaches_each_other_by_name(cluster: Namespaces) -> None:
    machines = [*cluster.hosts, cluster.laptop]
    unreached = [(one.name, other.name) for one in machines for other in cluster.hosts if not reaches(one, other)]
    assert unreached == []


def test_the_laptop_logs_in_to_each_host(cluster: Namespaces) -> None:
    """With its key, as root; Ray and Orqal are on the PATH of a login shell as Ray's launcher starts it."""
    for host in cluster.hosts:
        for command in (
            "hostname; which orqal",
            "bash --login -c -i 'true && source ~/.bashrc && hostname; which orqal'",
        ):
            for name in host.name, host.address:
                told = cluster.laptop.run(["ssh", "-tt", name, command]).stdout.split()
                assert told[:2] == [host.name, f"{Path(sys.executable).parent}/orqal"]


def test_nobody_logs_in_without_the_key(cluster: Namespaces, h1: Host) -> None:
    options = ("-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no")
    told = cluster.laptop.run(["ssh", *options, f"root@{h1.name}", "hostname"], check=False)
    assert told.returncode == 255
    assert "Permission denied (publickey)" in told.stdout


def test_each_host_has_its_own_files(cluster: Namespaces, h1: Host, h2: Host) -> None:
    for folder, outside in ("/tmp", h1.tmp), ("$HOME", h1.home):
        h1.run(["bash", "-c", f"hostname >{folder}/mark"])
        assert (outside / "mark").read_text() == "h1\n"
        for other in (h2, cluster.laptop):
            assert other.run(["bash", "-c", f"cat {folder}/mark"], check=False).returncode == 1
        (outside / "mark").unlink()


def test_each_host_sees_its_own_processes(h1: Host, h2: Host) -> None:
    with h1.popen(["sleep", "1001"], stdout=subprocess.DEVNULL) as sleep:
        assert eventually(lambda: h1.run(["pgrep", "-f", "^sleep 1001"], check=False).returncode == 0)
        assert h2.run(["pkill", "-f", "^sleep 1001"], check=False).returncode == 1
        sleep.kill()
    assert eventually(lambda: h1.run(["pgrep", "-f", "^sleep 1001"], check=False).returncode == 1)


def test_each_host_has_its_own_docker_daemon(cluster: Namespaces) -> None:
    """Limits on memory hold: the cgroups work."""
    seen = set()
    for host in cluster.hosts:
        with contextlib.closing(host.docker()) as client:
            command = ["cat", "/proc/self/cgroup"]
            output = client.containers.run(DEMO_IMAGE, command, mem_limit="64m", remove=True).decode()
            assert f"/{cluster.name}/{host.name}/" in output
            container = client.containers.run(DEMO_IMAGE, ["sleep", "1001"], mem_limit="64m", detach=True)
            stats = client.api.stats(str(container.id), stream=False)
            assert stats["memory_stats"]["limit"] == 64 << 20
            assert [other.id for other in client.containers.list()] == [container.id]
            container.remove(force=True)
            seen.add(client.info()["ID"])
            assert client.info()["Name"] == host.name
    assert len(seen) == len(cluster.hosts)


def test_a_docker_daemon_ends_and_starts_with_other_options(h3: Host) -> None:
    h3.stop_docker()
    try:
        with pytest.raises(docker.errors.DockerException):
            h3.docker()
        h3.start_docker("--label", "disk=ssd")
        with contextlib.closing(h3.docker()) as client:
            assert client.info()["Labels"] == ["disk=ssd"]
    finally:
        h3.stop_docker("KILL")
        h3.start_docker()
    with contextlib.closing(h3.docker()) as client:
        assert not client.info()["Labels"]


def test_a_cable_is_pulled_and_put_back(h1: Host, h2: Host, h3: Host) -> None:
    h3.link_down()
    try:
        assert not reaches(h1, h3)
        assert not reaches(h3, h1)
        assert reaches(h1, h2)
    finally:
        h3.link_up()
    assert eventually(lambda: reaches(h1, h3))
    assert eventually(lambda: reaches(h3, h1))


def test_a_plug_is_pulled_and_put_back(h1: Host, h3: Host) -> None:
    with contextlib.closing(h3.docker()) as client:
        container = client.containers.run(DEMO_IMAGE, ["sleep", "1001"], detach=True)
        process = psutil.Process(h3.pid)
        running = [process, *process.children(recursive=True)]
        assert any(child.cmdline() == ["sleep", "1001"] for child in running)
    h3.power_off()
    try:
        assert [process for process in running if process.is_running()] == []
        assert not reaches(h1, h3)
        with pytest.raises(RuntimeError, match="h3 is off"):
            h3.run(["true"])
    finally:
        h3.power_on()
    assert reaches(h1, h3)
    with contextlib.closing(h3.docker()) as client:
        # The disk is the same.
        (stopped,) = client.containers.list(all=True)
        assert (stopped.id, stopped.status) == (container.id, "exited")
        stopped.remove()
        assert client.images.get(DEMO_IMAGE)


def test_nothing_is_left_of_a_cluster_that_ends(cluster: Namespaces) -> None:
    """Whatever runs on it; the one beside it stays."""
    with Namespaces(1) as other:
        assert (other.name, other.network) != (cluster.name, cluster.network)
        host = other.hosts[0]
        host.run(["bash", "-c", "setsid --fork sleep 1001 >/dev/null 2>&1"])
        with contextlib.closing(host.docker()) as client:
            make_image(DEMO_IMAGE, PROGRAMS, client=client)
            for cgroup in None, "/of/its/own":
                client.containers.run(DEMO_IMAGE, ["sleep", "1001"], cgroup_parent=cgroup, detach=True)
        machine = psutil.Process(host.pid)
        processes = [machine, *machine.children(recursive=True)]
        assert [process.cmdline() for process in processes].count(["sleep", "1001"]) == 3
        assert traces(other.name) == {"folder", "processes", "links", "rules", "cgroups"}
    assert traces(other.name) == set()
    assert [process for process in processes if process.is_running()] == []
    assert traces(cluster.name) == {"folder", "processes", "links", "rules", "cgroups"}
    assert reaches(cluster.laptop, cluster.hosts[0])


def test_nothing_is_left_after_an_interrupt(cluster: Namespaces) -> None:
    with starting() as (process, name):
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert traces(name) == set()


def test_what_a_killed_run_left_is_removed(cluster: Namespaces) -> None:
    with starting() as (process, name):
        process.kill()
        process.wait(60)
        assert traces(name) == {"folder", "processes", "links", "rules", "cgroups"}
        clean_dead()
        assert traces(name) == set()
    assert reaches(cluster.laptop, cluster.hosts[0])


def test_a_cluster_that_stays_is_its_checkouts_own(cluster: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not shown to, or taken down by, the command line of another checkout."""
    with Namespaces(1, keep=True) as other:
        assert other.name in namespaces.kept()
        assert cluster.name not in namespaces.kept()
        monkeypatch.setattr(namespaces, "REPOSITORY", Path("/another/checkout"))
        monkeypatch.setattr("tests.cluster.host.HOST_SCRIPT", Path("/another/checkout/tests/cluster/host.sh"))
        assert other.name not in namespaces.kept()
        monkeypatch.setattr(sys, "argv", ["command_line", "down"])
        assert command_line.main() == 0
        assert other.hosts[0].run(["hostname"]).stdout == "h1\n"
        # To clean up it sees all processes, whoever started them.
        namespaces.clean(other.name)
        assert traces(other.name) == set()


def test_no_name_is_taken_whose_processes_live(cluster: Namespaces) -> None:
    with Namespaces(1) as other:
        aside = other.directory.with_name(f"aside-{other.name}")
        other.directory.rename(aside)
        try:
            subprocess.run(["ip", "link", "delete", other.name], check=True)
            with Namespaces(1) as third:
                assert third.name != other.name
        finally:
            aside.rename(other.directory)
    assert traces(other.name) == set()


def reaches(one: Host, other: Host) -> bool:
    """Whether the other's sshd answers."""
    talk = f"exec 3<>/dev/tcp/{other.name}/22 && head -c 4 <&3"
    return one.run(["timeout", "2", "bash", "-c", talk], check=False).stdout.startswith("SSH-")


def eventually(condition: Callable[[], bool], within: float = 40) -> bool:
    """Whether it comes true in that many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def starting() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that has a cluster of one host: it, and the cluster's name."""
    code = (
        "import signal, time; from tests.cluster.namespaces import Namespaces\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with Namespaces(1) as cluster:\n"
        "    print(cluster.name, flush=True)\n"
        "    time.sleep(1001)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
            process.wait()
            clean_dead()
