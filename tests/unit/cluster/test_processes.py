"""Running commands for a home, and stopping its processes."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orqal.cluster import processes
from orqal.cluster.processes import MARK, NODE_MARK, ClusterError, run
from orqal.settings import Settings

POLITE = "print('up', flush=True); import time; time.sleep(1000)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {POLITE}"
PARENT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}], stdout=subprocess.PIPE, env={{}})
child.stdout.readline()
{POLITE}
"""
"""Has a child that ignores SIGTERM and has no mark."""


class Home:
    """A home with processes that only this test knows."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, code: str, node: str = "n") -> psutil.Process:
        """Start a process of this home, and return when it is up."""
        environ = os.environ | {MARK: self.mark, NODE_MARK: node}
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environ)
        self.started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        return psutil.Process(process.pid)


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    for process in home.started:
        process.kill()
        process.communicate()


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_all_end_also_those_that_ignore_sigterm_and_their_children(home: Home) -> None:
    started = [home.start(code) for code in (POLITE, DEAF, PARENT)]
    [child] = started[-1].children()
    processes.stop(home.mark)
    assert all(map(ended, [*started, child]))
    assert processes.find(home.mark) == set()


def test_those_of_another_node_stay(home: Home) -> None:
    one, other = home.start(POLITE, "one"), home.start(POLITE, "other")
    processes.stop(home.mark, "one")
    assert ended(one) and not ended(other)


def test_a_process_that_stops_its_own_parent_goes_on(home: Home, tmp_path: Path) -> None:
    """Such as the one that a host starts to stop itself, before its parent has ended."""
    stop = (
        "import sys; from pathlib import Path; from orqal.cluster import processes; "
        f"processes.stop({home.mark!r}); Path(sys.argv[1]).touch()"
    )
    done = tmp_path / "done"
    starts_it = f"""
import os, subprocess, sys
environ = {{name: value for name, value in os.environ.items() if name not in ({MARK!r}, {NODE_MARK!r})}}
child = subprocess.Popen([sys.executable, "-c", {stop!r}, {str(done)!r}], env=environ, start_new_session=True)
print("up", flush=True)
child.wait()
"""
    parent = home.start(starts_it)
    child = parent.children()[0]
    psutil.wait_procs([parent, child], timeout=20)
    assert ended(parent) and ended(child) and done.exists()


def test_who_has_ended_is_not_waited_for_though_its_parent_has_not_noticed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_LOOK_AGAIN_S", 1000.0)  # the test's own limit is shorter
    process = home.start(POLITE)
    processes.stop(home.mark)
    assert process.status() == psutil.STATUS_ZOMBIE


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_a_command_prints_is_heard_while_it_runs_and_its_errors_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    settings, heard = Settings(), list[str]()
    run(python("print(2); print(1)"), settings, "Counting", {}, heard=heard.append)
    assert heard == ["2", "1"]
    with pytest.raises(ClusterError, match="Counting failed:\nthe reason\n"):
        run(python("import sys; print(3); sys.exit('the reason')"), settings, "Counting", {}, heard=heard.append)
    assert heard == ["2", "1", "3"]


def test_an_interrupt_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    pids = list[int]()

    def interrupted(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            python("import os, time; print(os.getpid(), flush=True); time.sleep(1000)"),
            Settings(),
            "Sleeping",
            {},
            heard=interrupted,
        )
    assert not psutil.pid_exists(pids[0])


def test_free_ports_differ_even_on_several_addresses() -> None:
    places = [("127.0.0.1", 0), ("127.0.0.2", 0)]
    for _ in range(50):
        ports = processes.free_ports(*places * 3, taken=[20000])
        assert len({*ports, 20000}) == 7


def test_a_wanted_port_is_kept_unless_it_is_used_or_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = other.getsockname()[1]
        [replaced] = processes.free_ports(("127.0.0.1", used))
    assert replaced != used
    # As where the API is to listen on Ray's usual port, or two parts of Ray on one.
    [first, second] = processes.free_ports(("127.0.0.1", replaced), ("127.0.0.2", replaced))
    assert first == replaced != second
    [other_one] = processes.free_ports(("127.0.0.1", replaced), taken=[replaced])
    assert other_one != replaced


def test_a_spare_port_is_one_that_nobody_gets_by_chance() -> None:
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    for port in processes.free_ports(*[("127.0.0.1", 1)] * 20, taken=[1]):
        assert 19999 < port < int(kernel[0])
