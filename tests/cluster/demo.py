"""A lab's whole day in some minutes: three hosts on this machine, `ray up`, `ray submit` of 300 jobs, every
result checked, `ray down`; nothing is left. `make cluster-demo` calls this.

The hosts are network namespaces with an SSH server and a Docker daemon each (namespaces.py); the commands are those of
a user on a laptop, with this checkout's cluster.yaml.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
from rich.console import Console
from rich.progress import track

from examples.local_image import DEMO_IMAGE, DEMO_PROGRAMS, LocalImageError, make_image
from orqal.client import Client
from tests.cluster.host import Unavailable
from tests.cluster.lab import processes
from tests.cluster.launcher import Launched
from tests.cluster.namespaces import Namespaces
from tests.support.checkout import REPOSITORY

JOBS = 300
APP = "Checksum"

console = Console(highlight=False)


class DemoError(Exception):
    """Something is not as it should be; the message says what."""


@contextlib.contextmanager
def own_cluster() -> Iterator[Namespaces]:
    """Three hosts with the image, and a laptop. Whatever happens, nothing of them is left.

    Raises:
        Unavailable: this machine cannot.
    """
    console.print("Starting three hosts with a Docker daemon and an SSH server each, and a laptop.")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Namespaces(3))
        stack.callback(console.print, f"The hosts, and all that ran on them, are gone ({cluster.directory}).")
        stack.callback(_on_the_way_out, cluster)
        for host in cluster.hosts:
            console.print(f"Making the image {DEMO_IMAGE} on {host.name}.")
            with contextlib.closing(host.docker()) as client:
                make_image(DEMO_IMAGE, DEMO_PROGRAMS, client=client)
        yield cluster


def _on_the_way_out(cluster: Namespaces) -> None:
    # A second Ctrl-C must not leave half of it running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.exc_info()[0] is not None:
        log = cluster.hosts[0].home / ".orqal/orqal.log"
        if log.exists():
            kept = REPOSITORY / "build/cluster-demo.log"
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(log, kept)
            console.print(f"The head's log is kept as {kept}.")
    console.print("Ending the hosts.")


def ray(launched: Launched, command: str, *args: str) -> None:
    """Run a command of Ray's launcher on the laptop; what it prints is seen.

    Raises:
        DemoError: it failed.
    """
    shown = " ".join([command, "cluster.yaml", *args])
    console.print(f"\nlaptop$ ray {shown}", style="bold")
    with launched.popen(command, *args, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise DemoError(f"ray {command} exited with {code}")


def expected(path: str) -> dict[str, Any]:
    """What the app Checksum is to find, computed here."""
    data = Path(path).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "lines": data.count(b"\n")}


def check(launched: Launched, count: int) -> None:
    """Compare every result with the same computed here, and print how many ran on each host.

    Raises:
        DemoError: one is not right, or a host had no work.
    """
    console.print("\nComparing every result with the same computed here.")
    client = Client(f"{launched.root}/api", launched.token)
    listed = list(client.jobs(count + 1, app=APP))
    jobs = [client.job(job["_id"]) for job in track(listed, "Comparing", console=console)]
    wrong = [job for job in jobs if job["result"] != expected(job["input"])]
    for job in wrong:
        console.print(f"{job['input']} on {job['host']}: {job['result'] or job['error']}", style="red", markup=False)
    for host in launched.cluster.hosts:
        console.print(f"{Counter(job['host'] for job in jobs)[host.name]:5} ran on {host.name}", style="bold")
    console.print(f"{len(jobs) - len(wrong)} of {count} are right.", style="bold")
    if wrong or len(jobs) != count:
        raise DemoError("not all results are right")
    if idle := {host.name for host in launched.cluster.hosts} - {job["host"] for job in jobs}:
        raise DemoError(f"no job ran on {', '.join(sorted(idle))}")


def check_down(launched: Launched) -> None:
    """DemoError: `ray down` has left something running."""
    for host in launched.cluster.hosts:
        if left := [*processes(host), *launched.containers(host)]:
            raise DemoError(f"ray down has left on {host.name}: {left}")
    console.print("No process of Orqal or Ray and no container of a job is left on any host.", style="bold")


def demo(count: int) -> None:
    """All of it.

    Raises:
        DemoError: something is not as it should be.
        Unavailable: this machine cannot have such hosts.
    """
    start = time.monotonic()
    with own_cluster() as cluster:
        launched = Launched(cluster)
        launched.prepare()
        ray(launched, "up")
        console.print("\nThe head starts the others, over SSH.")
        for host in cluster.hosts:
            launched.await_hosts([host.name])
            console.print(f"{host.name} takes work.")
        ray(launched, "submit", "examples/batch.py", str(count))
        check(launched, count)
        ray(launched, "down")
        check_down(launched)
    console.print(f"All of it took {time.monotonic() - start:.0f} s.")


def main() -> int:
    """0 when every result is right and nothing is left."""
    parser = argparse.ArgumentParser(description="A cluster on this machine: ray up, 300 jobs, ray down.")
    parser.add_argument("--jobs", type=int, default=JOBS, help="how many (default: %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo(arguments.jobs)
    except Unavailable as problem:
        console.print(f"This machine can have no such hosts: {problem}", style="red", markup=False)
        return 1
    except (DemoError, AssertionError, LocalImageError, docker.errors.DockerException) as problem:
        console.print(str(problem), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
