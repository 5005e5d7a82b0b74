"""Hosts that join, share their capacity with others, are drained, leave and come back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import time
from datetime import datetime, timezone
from typing import Any

import pytest

from examples.local_image import DEMO_IMAGE, make_image
from tests.cluster.conftest import H2, h3_member, shared_folder
from tests.cluster.lab import Lab, processes, told

pytestmark = pytest.mark.timeout(600)

SHAPES = [
    {"threads": threads, "memory_in_gb": ram}
    for threads, ram in ((0.5, 0.1), (1, 1), (2, 0.5), (0.5, 3), (None, 0.1), (1, None), (0.7, 0.3), (1.5, 2))
]
"""None is given to jobs as all of a host: see `whole`."""


def sleeper(lab: Lab, seconds: float, **more: Any) -> str:
    return lab.submit("Run", params={"image": "orqal/demo", "cmd": ["sleep", str(seconds)], "network": "none"}, **more)


def until(condition: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.1)
    return found


def test_who_cannot_join_is_told_why_and_nothing_is_left(lab: Lab) -> None:
    laptop, head = lab.cluster.laptop, lab.head.address
    token = (lab.head.home / ".orqal/ray_token").read_text().strip()
    daemon = {"DOCKER_HOST": lab.cluster.hosts[2].docker_host}

    def refused(*args: str, **env: str) -> str:
        done = lab.orqal("join", *args, on=laptop, env=env, check=False, timeout=150)
        assert done.returncode == 1, done.stdout
        assert processes(laptop) == [] and not (laptop.home / ".orqal/ray_token").exists()
        return " ".join(done.stdout.split())

    assert "Orqal needs a Docker daemon" in refused(head, ORQAL_JOIN_TOKEN=token)
    assert "needs its token: copy the head's file ray_token" in refused(head, **daemon)
    wrong = refused(head, ORQAL_JOIN_TOKEN="0" * 64, **daemon)
    assert f"The head at {head}:6379 does not accept this join token" in wrong and "0" * 64 not in wrong
    nobody = str(lab.cluster.network[99])
    assert f"No head answers at {nobody}:6379" in refused(nobody, ORQAL_JOIN_TOKEN=token, **daemon)

    fake = laptop.tmp / "fake"
    fake.mkdir(exist_ok=True)
    (fake / "sitecustomize.py").write_text('import orqal, ray\nray.__version__ = "1.2"\norqal.__version__ = "0.0.1"\n')
    other = refused(head, ORQAL_JOIN_TOKEN=token, PYTHONPATH="/tmp/fake", **daemon)
    assert re.search(r"has other versions .*: Ray [\d.]+ \(1\.2\), Orqal \S+ \(0\.0\.1\)\. Install the same", other)

    rule = ("OUTPUT", "-d", head, "-p", "tcp", "--dport", "6379", "-j", "DROP")
    laptop.run(["iptables", "-I", *rule])
    try:
        walled = refused(head, ORQAL_JOIN_TOKEN=token, **daemon)
    finally:
        laptop.run(["iptables", "-D", *rule])
    assert f"No head answers at {head}:6379 (timed out)" in walled and "firewall" in walled


SAMPLER = """
import json, sys, time
import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import placement_group_table
from orqal.actors.handles import NAMESPACE, SchedulerClient
ray.init(namespace=NAMESPACE, logging_level="error", log_to_driver=False)
orqal = SchedulerClient.find().actor
def look():
    groups = [[group["name"], list(group["bundles_to_node_id"].values()), list(group["bundles"].values())]
              for group in placement_group_table().values() if group["state"] == "CREATED"]
    return {
        "orqal": {host.name: [host.node_id, host.threads, host.ram_gb, host.threads_in_use, host.ram_gb_in_use,
                              host.threads_of_others, host.ram_gb_of_others] for host in ray.get(orqal.hosts.remote())},
        "groups": sorted(groups),
        "free": {node: [free.get("threads", 0), free.get("ram_gb", 0)]
                 for node, free in available_resources_per_node().items()},
    }
while True:
    print(json.dumps(look()), flush=True)
    time.sleep(0.25)
"""


def agree(sample: dict[str, Any]) -> None:
    """What Orqal says is in use is what Ray has given it, and what is neither free nor ours is others'."""
    for name, (node, threads, ram, used_threads, used_ram, others_threads, others_ram) in sample["orqal"].items():
        ours = [
            bundle
            for group, nodes, bundles in sample["groups"]
            for at, bundle in zip(nodes, bundles, strict=True)
            if group.startswith("orqal ") and at == node
        ]
        free_threads, free_ram = sample["free"][node]
        held = [sum(bundle.get(kind, 0) for bundle in ours) for kind in ("threads", "ram_gb")]
        assert held == pytest.approx([used_threads, used_ram]), (name, sample)
        taken = [used_threads + others_threads, used_ram + others_ram]
        assert [threads - free_threads, ram - free_ram] == pytest.approx(taken), (name, sample)


def within_capacity(lab: Lab, capacity: dict[str, dict[str, Any]]) -> int:
    """No daemon has more in its containers than its host offers: how many run."""
    count = 0
    for host in lab.cluster.hosts:
        limits = []
        for container in lab.containers(host):
            if container.attrs["State"]["Running"]:
                limits.append((container.attrs["HostConfig"]["NanoCpus"], container.attrs["HostConfig"]["Memory"]))
        offered = capacity[host.name]
        assert sum(cpus for cpus, _ in limits) <= offered["threads"] * 1e9, (host.name, limits)
        assert sum(memory for _, memory in limits) <= offered["ram_gb"] * 1e9, (host.name, limits)
        assert all(all(limit) for limit in limits)
        count += len(limits)
    return count


def test_orqal_and_ray_agree_and_no_host_has_more_than_it_can(members: Lab) -> None:
    lab = members
    hosts = lab.hosts()
    for host in lab.cluster.hosts:
        with contextlib.closing(host.docker()) as client:
            info = client.info()
        kept = info["NCPU"] - 1 if host.name == "h3" else 0
        offered = hosts[host.name]
        assert offered["threads"] == info["NCPU"] - kept
        assert offered["ram_gb"] == int(info["MemTotal"] / 1e9 - float(lab.settings["ORQAL_KEEP_RAM_GB"]))
    jobs: list[str] = []
    for number in range(3):
        for shape in SHAPES:
            # The smallest ones run for long, so that some run at the same time even if each start takes seconds.
            seconds = 8 if shape is SHAPES[0] else 1 + (len(jobs) * 7 % 5) / 2
            more = {key: value for key, value in shape.items() if value is not None}
            app = {(True, False): "AllThreads", (False, True): "AllMemory"}.get(
                (shape["threads"] is None, shape["memory_in_gb"] is None)
            )
            jobs.append(
                lab.submit(app, str(seconds), user=f"u{number}")
                if app
                else sleeper(lab, seconds, user=f"u{number}", **more)
            )
    environ = json.loads(lab.orqal("env", "--json").stdout)
    samples = []
    with lab.head.popen(
        ["python", "-c", SAMPLER], environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as sampler:
        assert sampler.stdout is not None
        most = 0
        with lab.http() as http:
            while any(http.get("/jobs/status").json().get(state) for state in ("todo", "init", "running")):
                most = max(most, within_capacity(lab, hosts))
                samples.append(json.loads(sampler.stdout.readline()))
        sampler.kill()
    assert most >= 3
    ended = [lab.job(job) for job in jobs]
    assert [(job["ok"], job["attempt"]) for job in ended] == [(True, 1)] * len(jobs)
    assert {job["host"] for job in ended} == {"h1", "h2", "h3"}
    # A sample is three looks, one after the other; where it is the same as the next, nothing moved meanwhile.
    still = [one for one, other in itertools.pairwise(samples) if one == other]
    busy = [sample for sample in still if any(host[3] for host in sample["orqal"].values())]
    print(f"{len(samples)} samples, {len(busy)} of them busy and still")
    assert len(busy) >= 2
    for sample in still:
        agree(sample)
    for sample in samples:  # what Ray has given is never more than there is, whatever moves
        for node, threads, ram, *_ in sample["orqal"].values():
            held = [
                bundle
                for _, nodes, bundles in sample["groups"]
                for at, bundle in zip(nodes, bundles, strict=True)
                if at == node
            ]
            assert sum(bundle.get("threads", 0) for bundle in held) <= threads + 1e-6
            assert sum(bundle.get("ram_gb", 0) for bundle in held) <= ram + 1e-6


ANOTHER_PROGRAM = """
import sys
import ray
from ray.util.placement_group import placement_group
ray.init(namespace="another", logging_level="error", log_to_driver=False)
nodes = {node["NodeName"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
@ray.remote(num_cpus=0, resources={"threads": 1})
class Holder:
    def here(self):
        return True
holder = Holder.options(scheduling_strategy=NodeAffinitySchedulingStrategy(nodes["h3"], soft=False)).remote()
group = placement_group([{"threads": 1}], bundle_label_selector=[{"ray.io/node-id": nodes["h2"]}])
ray.get([holder.here.remote(), group.ready()])
print("held", flush=True)
sys.stdin.read()
"""


def test_another_ray_program_is_respected(members: Lab) -> None:
    lab = members
    total = lab.hosts()
    environ = json.loads(lab.orqal("env", "--json").stdout)
    with lab.head.popen(
        ["python", "-c", ANOTHER_PROGRAM],
        environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        # Some of these come before Orqal knows: Ray refuses them what it has not.
        room = int(total["h1"]["threads"] + total["h2"]["threads"] - 1)
        jobs = [sleeper(lab, 1000, threads=1, memory_in_gb=0.1) for _ in range(room + 1)]
        until(lambda: [lab.job(job)["current_status"] for job in jobs].count("running") == room, 90)
        # Orqal finds out for each host when no lease there has changed for a while.
        others = {"h1": 0, "h2": 1, "h3": 1}
        in_use = {"h1": total["h1"]["threads"], "h2": total["h2"]["threads"] - 1, "h3": 0}
        until(lambda: {name: host["threads_of_others"] for name, host in lab.hosts().items()} == others)
        until(lambda: {name: host["threads_in_use"] for name, host in lab.hosts().items()} == in_use)
        assert f"0 of {total['h3']['threads']:g}, 1 others'" in lab.orqal("hosts").stdout
        [waiting] = [job for job in jobs if lab.job(job)["current_status"] != "running"]
        why = until(
            lambda: (
                "h3: no room now: 0 threads" in (words := lab.orqal("explain", waiting).stdout.replace("\n", " "))
                and words
            )
        )
        assert "other Ray programs hold 1 threads" in why
        assert lab.containers(lab.cluster.hosts[2]) == []
        # `ray status` says the same: an actor, and the groups of our jobs and of the other program.
        all_threads = sum(host["threads"] for host in total.values())
        words = f" 1.0/{all_threads:.1f} threads (0.0 used of {room + 1:.1f} reserved in placement groups)"
        until(lambda: words in lab.head.run(["ray", "status"], environ).stdout)
        other.stdin.close()
        other.wait(60)
    lab.running(waiting)
    until(lambda: {host["threads_of_others"] for host in lab.hosts().values()} == {0})


def test_a_host_is_drained_and_labels_keep_jobs_where_they_belong(members: Lab) -> None:
    lab = members
    here = lab.submit("OnH2", "while [ ! -e go ]; do sleep 0.1; done; echo done")
    lab.running(here)
    drained = told(lab.orqal("drain", "h2", "--json"))
    assert (drained["state"], drained["jobs"]) == ("draining", 1)
    others = [sleeper(lab, 0.1, threads=0.5, memory_in_gb=0.1) for _ in range(4)]
    assert "h2" not in {lab.ended(job)["host"] for job in others}
    (lab.cluster.hosts[1].home / ".orqal/jobs" / here / "go").touch()
    assert (lab.ended(here)["stdout"], lab.job(here)["host"]) == (["done", ""], "h2")
    later = lab.submit("OnH2", "true")
    assert "h2: drained" in lab.orqal("explain", later).stdout
    assert told(lab.orqal("undrain", "h2", "--json"))["state"] == "ready"
    assert (lab.ended(later)["ok"], lab.job(later)["host"]) == (True, "h2")


def test_a_host_that_leaves_loses_nothing_and_is_welcome_again(members: Lab) -> None:
    lab, h2 = members, members.cluster.hosts[1]
    long = lab.run("OnH2", "echo kept > file; yes | head -c 1500000")
    assert (long["error"], long["exit_code"], long["truncated"]) == (None, 0, ["stdout"])
    last = lab.submit("OnH2", "sleep 3; echo bye > file; echo out")
    lab.running(last)
    assert "h2 has left the cluster." in lab.orqal("leave", on=h2, timeout=120).stdout
    job = lab.job(last)
    assert (job["ok"], job["attempt"], job["stdout"]) == (True, 1, ["out", ""])
    assert (lab.containers(h2), processes(h2)) == ([], [])
    until(lambda: "h2" not in lab.hosts())
    # Its files are where they are.
    with lab.http() as http:
        for path in (f"/job/{last}/download/file", f"/job/{long['_id']}/download/file", f"/job/{long['_id']}/logs"):
            answer = http.get(path)
            assert answer.status_code == 503 and "the host h2 is away" in answer.json()["detail"]
        assert http.get(f"/job/{last}/logs").text == "out\n"
    impossible = lab.run("OnH2", "true")
    assert (impossible["error"]["type"], "gpu=a100" in impossible["error"]["message"]) == ("impossible_request", True)
    it_joins_and_gets_work_at_once(lab)
    with lab.http() as http:
        assert http.get(f"/job/{last}/download/file").text == "bye\n"
        assert http.get(f"/job/{long['_id']}/download/file").text == "kept\n"
        assert len(http.get(f"/job/{long['_id']}/logs").content) == 1_500_000

    # With --now its jobs run elsewhere.
    signs = [host.tmp / "go" for host in lab.cluster.hosts]
    jobs = [lab.submit("WithTmp", "until test -e /host/go; do sleep 0.1; done") for _ in range(8)]
    until(lambda: any((job := lab.job(each))["host"] == "h2" and job["stime"] for each in jobs))
    lab.orqal("leave", "h2", "--now", on=h2, timeout=120)
    try:
        for sign in signs:
            sign.touch()
        ended = [lab.ended(job) for job in jobs]
    finally:
        for sign in signs:
            sign.unlink(missing_ok=True)
    assert [job["ok"] for job in ended] == [True] * len(jobs)
    moved = [job for job in ended if job["attempts"]]
    assert moved and {job["attempts"][0]["host"] for job in moved} == {"h2"}
    assert {job["attempts"][0]["error"]["type"] for job in moved} == {"host_lost"}
    assert (lab.containers(h2), processes(h2)) == ([], [])


def test_files_on_a_shared_file_system_are_there_without_their_host(lab: Lab) -> None:
    h3, shared = lab.cluster.hosts[2], shared_folder(lab.cluster)
    lab.have_members({h3: h3_member(lab.cluster)})
    job = lab.run("OnH3", "echo kept > file; head -c 1500000 /dev/zero")
    assert (job["ok"], job["host"], job["truncated"]) == (True, "h3", ["stdout"])
    assert (shared / job["_id"] / "file").read_text() == "kept\n"
    lab.orqal("leave", on=h3, timeout=120)
    until(lambda: "h3" not in lab.hosts())
    with lab.http() as http:
        # The head sees the same directory.
        assert http.get(f"/job/{job['_id']}/download/file").text == "kept\n"
        assert len(http.get(f"/job/{job['_id']}/logs").content) == 1_500_000
        assert http.get(f"/job/{job['_id']}/download/none").status_code == 503  # h3 may have more


def it_joins_and_gets_work_at_once(lab: Lab) -> None:
    """Let h2 join while all other hosts are busy. The same machine or name does not join twice."""
    _, h2, h3 = lab.cluster.hosts
    blockers = [lab.submit("AllThreads", "1000") for _ in lab.hosts()]
    for blocker in blockers:
        lab.running(blocker)
    waiting = sleeper(lab, 0.1, threads=1)
    token = (lab.head.home / ".orqal/ray_token").read_text()
    environ = lab.settings | {"ORQAL_JOIN_TOKEN": token, "PYTHONUNBUFFERED": "1", "TERM": "dumb"}
    with h2.popen(
        ["orqal", "join", lab.head.address, *H2.options],
        environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as join:
        assert join.stdout is not None
        lines: list[str] = []
        while "Waiting until it gets work" not in (line := join.stdout.readline()):
            assert line, lines
            lines.append(line)
        there = datetime.now(timezone.utc)  # `ray start` has just returned
        join.stdout.read()
    assert join.returncode == 0
    job = lab.ended(waiting)
    assert (job["ok"], job["host"]) == (True, "h2")
    took = (datetime.fromisoformat(job["stime"].replace("Z", "+00:00")) - there).total_seconds()
    print(f"a host that joined ran a container {took:.2f} s after its node was up")
    # Three seconds are promised to a host with a core to run it on.
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert took < 3 * max(1.0, busy)

    twice = lab.orqal("join", lab.head.address, on=h2, env={"ORQAL_JOIN_TOKEN": token}, check=False, timeout=120)
    assert twice.returncode == 1 and "The host h2 runs here already" in twice.stdout
    daemon = {"DOCKER_HOST": h3.docker_host, "ORQAL_JOIN_TOKEN": token}
    same = lab.orqal(
        "join", lab.head.address, "--name", "h2", on=lab.cluster.laptop, env=daemon, check=False, timeout=150
    )
    assert same.returncode == 1 and "The cluster has a host h2 already. Choose another name" in same.stdout
    assert processes(lab.cluster.laptop) == []
    lab.cluster.laptop.run(["rm", "-r", ".orqal"])
    assert lab.hosts()["h2"]["state"] == "ready"
    lab.settle()


def test_the_doctor_names_the_hosts_that_have_different_images_under_one_tag(members: Lab) -> None:
    def differing() -> list[dict[str, Any]]:
        findings = told(members.orqal("doctor", "--json", check=False))["findings"]
        return [finding for finding in findings if finding["kind"] == "images_differ"]

    assert differing() == [], "each host has made the image from the same files"
    with contextlib.closing(members.cluster.hosts[1].docker()) as client:
        before = client.images.get(DEMO_IMAGE)
        other = make_image(DEMO_IMAGE, ["true"], client=client)
        try:
            [finding] = differing()
        finally:
            before.tag(DEMO_IMAGE)
            client.images.remove(other)
    assert (finding["subject"], finding["where"]) == (f"{DEMO_IMAGE}:latest", "hosts")
    assert re.search(r": [0-9a-f]{12} on h1, h3; [0-9a-f]{12} on h2\.$", finding["what"])
    assert differing() == []
