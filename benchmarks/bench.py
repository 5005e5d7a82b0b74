"""Compares the speed of Orqal with other ways to run containers: `docker run`, the plain SDK and Docker Swarm.

`make bench` calls this. All contenders run the same command in the same image on the same daemon, with the default
bridge network, and take turns. A ratio is the median of the rounds' ratios, because a machine's speed varies. The
figures are written to build/bench.json, and a description of the machine to build/bench-machine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import docker
from docker.types import RestartPolicy, ServiceMode
from figure import Figure, show, write
from rich.console import Console

from orqal.client import Client

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "orqal/demo"
COMMAND = ["echo", "hi"]
OUTPUT = b"hi\n"
MEMORY_GB = 0.05
CONCURRENCIES = (1, 4)
LABEL, RUN = "orqal.bench", uuid4().hex
"""The label of the containers of this run. Those of Orqal and Swarm have labels of their own."""
LIMIT = 300
"""Seconds after which a measurement is given up."""

DOCKER_RUN, SDK, SWARM, ORQAL = "docker run --rm", "docker SDK", "Docker Swarm", "Orqal"

console = Console(highlight=False)

Throughput = Callable[[int, int], float]
"""Takes the number of containers, and how many run at a time. Returns the seconds from the first request to the last
result."""
Latency = Callable[[], float]
"""Returns the seconds for one container, from the request to its end."""


def check(good: bool, what: str) -> None:
    """Check that a contender did the work; otherwise its time means nothing.

    Raises:
        SystemExit: it did not.
    """
    if not good:
        raise SystemExit(f"bench: {what}")


# The contenders


def docker_run() -> float:
    """Run one `docker run --rm`. Its time is that of the whole process."""
    begun = time.perf_counter()
    done = subprocess.run(
        ["docker", "run", "--rm", "--label", f"{LABEL}={RUN}", IMAGE, *COMMAND], capture_output=True, check=False
    )
    elapsed = time.perf_counter() - begun
    check(done.stdout == OUTPUT, f"docker run failed: {done.stderr.decode()}")
    return elapsed


def sdk(client: docker.DockerClient) -> Throughput:
    """The plain SDK in threads, with no more calls than a container needs. This is what the daemon can do."""
    api: Any = client.api

    def one(_: int) -> None:
        container = api.create_container(IMAGE, COMMAND, labels={LABEL: RUN})["Id"]
        api.start(container)
        code, output = api.wait(container)["StatusCode"], api.logs(container)
        api.remove_container(container)
        check((code, output) == (0, OUTPUT), f"a container of the SDK ended with {code} and printed {output!r}")

    def run(containers: int, concurrency: int) -> float:
        begun = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(one, range(containers)))
        return time.perf_counter() - begun

    return run


@contextmanager
def swarm(client: docker.DockerClient) -> Iterator[Throughput]:
    """Swarm's replicated jobs, until all tasks are complete. If the daemon is in no swarm, make one for this block."""
    services: Any = client.services
    made = client.info()["Swarm"]["LocalNodeState"] == "inactive"
    bridge = "docker_gwbridge"
    had_bridge = bool(client.networks.list(names=[bridge]))
    # Name the image by its id, because by a name every task would first ask the registry for a newer image.
    image = client.images.get(IMAGE).id

    def run(containers: int, concurrency: int) -> float:
        name = f"orqal-bench-{uuid4().hex[:12]}"
        label = f"com.docker.swarm.service.name={name}"
        ends: Any = client.events(filters={"event": "die", "label": label}, until=int(time.time()) + LIMIT, decode=True)
        begun = time.perf_counter()
        service = services.create(
            image,
            command=COMMAND,
            name=name,
            mode=ServiceMode("replicated-job", replicas=containers, concurrency=concurrency),
            restart_policy=RestartPolicy(condition="none"),
        )
        try:
            # The containers' ends are events. The manager hears of the last one a moment later.
            check(len(list(islice(ends, containers))) == containers, f"tasks of Swarm not done after {LIMIT} s")
            while (states := Counter(task["Status"]["State"] for task in service.tasks()))["complete"] < containers:
                check(not states["failed"] and not states["rejected"], f"tasks of Swarm failed: {states}")
                time.sleep(0.05)
            elapsed = time.perf_counter() - begun
        finally:
            ends.close()
            service.remove()
            # Swarm does not remove its ended containers.
            for container in client.containers.list(all=True, filters={"label": label}):
                container.remove(force=True)
        return elapsed

    if made:
        client.swarm.init(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377")
    try:
        yield run
    finally:
        if made:
            client.swarm.leave(force=True)
            if not had_bridge:
                client.networks.get(bridge).remove()


@contextmanager
def orqal(threads: float) -> Iterator[tuple[Latency, Throughput]]:
    """An Orqal that is started for this block, used through its client. `threads`: the number of the host's threads."""
    command = Path(sys.executable).with_name("orqal")
    home = Path(tempfile.mkdtemp(prefix="orqal-bench-"))
    os.environ["ORQAL_HOME"] = str(home)
    for name in ("ORQAL_API_URL", "ORQAL_TOKEN"):
        os.environ.pop(name, None)

    def document(share: float) -> bytes:
        job = {
            "app": "Run",
            "params": {"image": IMAGE, "cmd": COMMAND},
            "threads": share,
            "memory_in_gb": MEMORY_GB,
            "use_cache": False,
        }
        return json.dumps(job).encode()

    def latency() -> float:
        begun = time.perf_counter()
        changes = list(client.changes([client.submit(document(1))], timeout=LIMIT))
        elapsed = time.perf_counter() - begun
        check(changes[0].ok is True, f"a job of Orqal failed: {changes[0]}")
        return elapsed

    def throughput(containers: int, concurrency: int) -> float:
        batch = uuid4().hex
        jobs = [document(threads / concurrency)] * containers
        begun = time.perf_counter()
        ids = list(client.submit_many(jobs, batch))
        for _ in client.changes(batch=batch, timeout=LIMIT):
            pass
        results = list(client.results(batch))
        elapsed = time.perf_counter() - begun
        check(all(result["ok"] for result in results), f"jobs of Orqal failed: {results}")
        check(client.job(ids[-1])["stdout"] == OUTPUT.decode().split("\n"), "a job of Orqal lost its output")
        return elapsed

    try:
        check(subprocess.run([command, "up"], check=False).returncode == 0, "Orqal did not come up")
        client = Client()
        yield latency, throughput
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        was_up = (home / "cluster.json").exists()
        subprocess.run([command, "down", "--kill-jobs"], check=False, capture_output=not was_up)
        shutil.rmtree(home, ignore_errors=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)


# The measurements


def in_turns(rounds: int, contenders: dict[str, Latency], what: str) -> dict[str, list[float]]:
    """Return each contender's seconds, a figure per round. Each round begins with another contender, so that none
    always follows the same other one."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(contenders[name]())
        latest = ", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in times.items())
        console.print(f"[dim]{what}, round {number + 1}: {latest}[/]", soft_wrap=True)
    return times


def ratio(name: str, over: list[float], under: list[float], sign: str, limit: float) -> Figure:
    """Return the median of the rounds' ratios, and whether it meets the target. `sign`: <=, >= or >."""
    value = median(a / b for a, b in zip(over, under, strict=True))
    met = {"<=": value <= limit, ">=": value >= limit, ">": value > limit}[sign]
    return Figure(name, round(value, 3), "ratio", f"{sign} {limit}", met)


def latency_figures(times: dict[str, list[float]]) -> list[Figure]:
    """Return each contender's median, and Orqal's ratio."""
    figures = [Figure(f"latency of one job: {name}", round(median(seconds), 4), "s") for name, seconds in times.items()]
    if ORQAL in times:
        name = f"latency of one job: {ORQAL} / {DOCKER_RUN}"
        figures.append(ratio(name, times[ORQAL], times[DOCKER_RUN], "<=", 1.25))
    return figures


def throughput_figures(concurrency: int, containers: int, times: dict[str, list[float]]) -> list[Figure]:
    """Return each contender's median rate, and Orqal's ratios to the others, which are their seconds over Orqal's."""
    what = f"throughput, {concurrency} at once"
    figures = [
        Figure(f"{what}: {name}", round(median(containers / s for s in seconds), 3), "containers/s")
        for name, seconds in times.items()
    ]
    for other, sign, limit in ((SDK, ">=", 0.85), (SWARM, ">", 1.0)):
        if ORQAL in times and other in times:
            figures.append(ratio(f"{what}: {ORQAL} / {other}", times[other], times[ORQAL], sign, limit))
    return figures


def measure(client: docker.DockerClient, options: argparse.Namespace) -> list[Figure]:
    """Measure everything and return the figures."""
    with ExitStack() as stack:
        stack.callback(remove_containers, client)
        latencies: dict[str, Latency] = {DOCKER_RUN: docker_run}
        throughputs: dict[str, Throughput] = {SDK: sdk(client)}
        if "swarm" not in options.without:
            throughputs[SWARM] = stack.enter_context(swarm(client))
        if "orqal" not in options.without:
            own = orqal(threads=client.info()["NCPU"])
            latencies[ORQAL], throughputs[ORQAL] = stack.enter_context(own)
        # Run each contender once before it is measured, so that images, connections and leases are ready.
        for latency in latencies.values():
            latency()
        for throughput in throughputs.values():
            throughput(max(CONCURRENCIES), max(CONCURRENCIES))
        figures = latency_figures(in_turns(options.latency_rounds, latencies, "latency"))
        for concurrency in CONCURRENCIES:
            containers = options.jobs if concurrency > 1 else max(1, options.jobs // 2)
            contenders: dict[str, Latency] = {
                name: lambda run=run, n=containers, c=concurrency: run(n, c)  # type: ignore[misc]
                for name, run in throughputs.items()
            }
            times = in_turns(options.rounds, contenders, f"{containers} containers, {concurrency} at once")
            figures += throughput_figures(concurrency, containers, times)
        return figures


def remove_containers(client: docker.DockerClient) -> None:
    """Remove the containers that an interrupted run has left."""
    for container in client.containers.list(all=True, filters={"label": f"{LABEL}={RUN}"}):
        container.remove(force=True)


# The report


def machine(client: docker.DockerClient) -> dict[str, str]:
    """Return a description of the machine and the software on which the figures were measured."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    info = client.info()
    engine = f"{info['ServerVersion']}, {info['Driver']}, cgroup v{info.get('CgroupVersion', 1)}"
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = "none"
    return {
        "CPU": cpu[1] if cpu else platform.processor(),
        "cores": str(info["NCPU"]),
        "memory": f"{info['MemTotal'] / 1e9:.1f} GB",
        "system": f"{info['OperatingSystem']}, Linux {info['KernelVersion']}",
        "Docker": engine,
        "Python": platform.python_version(),
        "Ray": ray,
    }


def markdown(figures: list[Figure], about: dict[str, str]) -> str:
    """Return the table for the README, and a description of the machine."""
    lines = ["| measure | value | target |", "| --- | ---: | --- |"]
    for figure in figures:
        missed = " (missed)" if figure.met is False else ""
        lines.append(f"| {figure.name} | {figure.amount} | {figure.target or ''}{missed} |")
    return "\n".join([*lines, "", "; ".join(f"{key} {value}" for key, value in about.items()) + "."])


def main() -> int:
    """Run the benchmark. Return 0 if everything was measured, whether or not the targets are met."""
    parser = argparse.ArgumentParser(description="Compare Orqal with docker run, the plain SDK and Docker Swarm.")
    parser.add_argument(
        "--jobs", type=int, default=24, help="containers at concurrency 4; half of it at 1 (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of throughput (%(default)s)")
    parser.add_argument("--latency-rounds", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--without", nargs="*", default=[], choices=["swarm", "orqal"], help="leave these out")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check(shutil.which("docker") is not None, "the `docker` client is not on the PATH: install it (docker-cli)")
    subprocess.run([sys.executable, ROOT / "examples/local_image.py", IMAGE], check=True, stdout=subprocess.DEVNULL)

    client = docker.from_env()
    about = machine(client)
    console.print("\n".join(f"{key}: {value}" for key, value in about.items()))
    begun = time.monotonic()
    try:
        figures = measure(client, options)
    except KeyboardInterrupt:
        return 130
    build = ROOT / "build"
    write(figures, build / "bench.json")
    (build / "bench-machine.json").write_text(json.dumps(about, indent=2) + "\n")
    show(figures, console)
    console.print(f"Took {time.monotonic() - begun:.0f} s. For the README:\n")
    print(markdown(figures, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
