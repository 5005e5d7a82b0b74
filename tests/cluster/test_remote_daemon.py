"""A host whose machine has nothing but its Docker daemon, behind TLS: h2 fronts the daemon of h3, the head is h1."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.host import Host
from tests.cluster.lab import Lab, processes
from tests.cluster.namespaces import Namespaces
from tests.support.tls import authority, certificate

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("far")]
WITHIN = 120
# The folder relative, as from where the command is given; and a bundle, which requests would believe more.
TLS = {
    "DOCKER_TLS_VERIFY": "1",
    "DOCKER_CERT_PATH": "certs",
    "REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
}


@pytest.fixture(scope="module")
def far(cluster: Namespaces, shared_lab: Lab) -> Iterator[str]:
    """The address at which h3's daemon listens with TLS. h2 has its certificates in ~/certs, and others in ~/wrong, and
    fronts it as the host far. Neither is a host itself."""
    _, h2, h3 = cluster.hosts
    shared_lab.have_members({})
    h3.run(["rm", "-rf", ".orqal"])  # of its time as a host
    folder = h3.directory / "tls"
    for name in ("ours", "others"):
        authority(folder, name)
    certificate(folder / "server", folder / "ours", "serverAuth", h3.address)
    certificate(h2.home / "certs", folder / "ours", "clientAuth")
    certificate(h2.home / "wrong", folder / "others", "clientAuth")
    certificate(h2.home / "distrusted", folder / "others", "clientAuth")
    (h2.home / "distrusted/ca.pem").write_bytes((folder / "ours.pem").read_bytes())
    server, address = folder / "server", f"tcp://{h3.address}:2376"
    h3.stop_docker()
    h3.start_docker(
        *("--host", address, "--tlsverify", "--tlscacert", str(server / "ca.pem")),
        *("--tlscert", str(server / "cert.pem"), "--tlskey", str(server / "key.pem")),
    )
    shared_lab.join(h2, "--docker-host", address, "--name", "far", "--label", "machine=far", env=TLS)
    yield address
    shared_lab.stop(h2)
    h3.stop_docker()
    h3.start_docker()
    h2.run(["rm", "-rf", "certs", "wrong", "distrusted"])


@pytest.fixture(scope="module")
def h2(cluster: Namespaces) -> Host:
    return cluster.hosts[1]


@pytest.fixture(scope="module")
def h3(cluster: Namespaces) -> Host:
    return cluster.hosts[2]


def make(lab: Lab, script: str, **more: Any) -> str:
    return lab.submit("OnFar", params={"script": script}, **more)


def until(condition: Callable[[], Any], problem: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.2)


def let_go(lab: Lab, h3: Host, job: str) -> None:
    """Make a file `go` in a job's directory, in its container."""
    with contextlib.closing(h3.docker()) as client:
        [container] = client.containers.list(filters={"label": f"orqal.job={job}"})
        code, output = container.exec_run(["sh", "-c", f">{lab.job(job)['wd']}/go"])
        assert code == 0, output


def actor(host: Host) -> psutil.Process:
    """The HostActor of far. While it runs a job, Ray calls its process by that."""
    titles = re.compile("ray::(HostActor|.+ on far$)")
    [found] = [each for each in processes(host) if titles.match("".join(each.cmdline()[:1]))]
    return found


WAIT = "while [ ! -e go ]; do sleep 0.1; done; "


def test_the_machine_has_nothing_but_its_daemon(lab: Lab, h3: Host) -> None:
    hosts = lab.hosts()
    assert {name: host["state"] for name, host in hosts.items()} == {"h1": "ready", "far": "ready"}
    assert processes(h3) == []
    # How busy it is cannot be known from here.
    until(lambda: lab.hosts()["h1"]["load"]["cpu"] is not None, "h1 does not tell its load")
    assert (hosts["far"]["load"]["cpu"], hosts["far"]["load"]["mem"]) == (None, None)
    assert "?" in lab.orqal("hosts").stdout


def test_a_job_s_directory_goes_there_and_comes_back(lab: Lab, h2: Host, h3: Host) -> None:
    script = (
        "cat params.json; echo err >&2; ls -ld .; mkdir -p a/b; echo deep >a/b/c; "
        "ln -s /etc/passwd leak; ln -s a/b/c inner; cat /proc/sys/kernel/hostname >name; sleep 1.5"
    )
    job = lab.ended(make(lab, script))
    assert (job["ok"], job["host"], job["error"]) == (True, "far", None)
    assert "ln -s" in job["stdout"][0] and "drwxrwxrwx" in "".join(job["stdout"])
    assert job["stderr"][0] == "err"
    assert job["lswd"] == ["a", "inner", "name", "params.json"]
    assert set(job["result"]) == set(job["lswd"])
    with lab.http() as http:
        assert http.get(f"/job/{job['_id']}/download/a/b/c").raise_for_status().text == "deep\n"
        for none in ("leak", "inner", "nothing"):
            assert http.get(f"/job/{job['_id']}/download/{none}").status_code == 404
    # Nothing of it was made beside the containers.
    assert not (h3.home / ".orqal").exists() and (h2.home / ".orqal/jobs" / job["_id"]).is_dir()
    # The daemon has told what it took.
    assert job["peak_memory"] > 0 and job["cpu_seconds"] > 0


def test_large_files_and_outputs_pass_in_pieces(lab: Lab, h2: Host) -> None:
    def peak() -> int:
        [line] = [line for line in Path(f"/proc/{actor(h2).pid}/status").read_text().splitlines() if "VmHWM" in line]
        return int(line.split()[1]) >> 10

    before = peak()
    # What does not shrink, and is not the same at any two places.
    script = "seq 1 40000000 >big; sha256sum big; seq 1 300000 >&2"
    job = lab.ended(make(lab, script, threads=1, memory_in_gb=1))
    assert job["ok"] and job["truncated"] == ["stderr"] and job["result"]["big"] > 300_000_000
    digest, size = hashlib.sha256(), 0
    with lab.http() as http, http.stream("GET", f"/job/{job['_id']}/download/big") as response:
        for piece in response.iter_bytes():
            digest.update(piece)
            size += len(piece)
    assert (digest.hexdigest(), size) == (job["stdout"][0].split()[0], job["result"]["big"])
    with lab.http() as http:
        assert http.get(f"/job/{job['_id']}/download/orqal.stderr").text.endswith("\n300000\n")
    assert peak() - before < 150


def test_limits(lab: Lab, h3: Host) -> None:
    late = make(lab, "echo begun >file; sleep 100", timeout=1)
    greedy = make(lab, "dd if=/dev/zero of=/dev/null bs=200M count=1")
    held = make(lab, WAIT)
    late_job, greedy_job = lab.ended(late), lab.ended(greedy)
    assert late_job["error"]["type"] == "timeout" and "file" in late_job["lswd"]
    assert greedy_job["error"]["type"] == "out_of_memory"
    lab.running(held)
    with contextlib.closing(h3.docker()) as client:
        [container] = client.containers.list(filters={"label": f"orqal.job={held}"})
        config = container.attrs["HostConfig"]
    assert (config["NanoCpus"], config["Memory"], container.attrs["Mounts"]) == (500_000_000, 100_000_000, [])
    let_go(lab, h3, held)
    assert lab.ended(held)["ok"]


def test_logs_and_cancelling(lab: Lab, h3: Host) -> None:
    job = make(lab, "echo partial >file; echo hello; sleep 100")
    lab.logs_until(job, b"hello")
    with lab.http() as http:
        http.post("/jobs/cancel", json={"ids": [job]}).raise_for_status()
    ended = lab.ended(job)
    assert (ended["error"]["type"], ended["stdout"][0]) == ("cancelled", "hello")
    assert "file" in ended["lswd"]
    until(lambda: lab.containers(h3) == [], "its container stays")


def test_an_actor_that_dies_finds_the_files_again(lab: Lab, h2: Host, h3: Host) -> None:
    job = make(lab, f"echo before >one; {WAIT} echo after >two")
    lab.running(job)
    actor(h2).kill()
    let_go(lab, h3, job)
    ended = lab.ended(job)
    assert (ended["ok"], ended["attempt"], set(ended["result"])) == (True, 1, {"one", "two", "go", "params.json"})


def test_a_daemon_that_is_cut_off_is_noticed_and_found_again(lab: Lab, h3: Host) -> None:
    """Nobody tells that the cable is out: nothing comes any more, and that is all."""
    job = make(lab, f"echo x >file; {WAIT}")
    lab.running(job)
    h3.link_down()
    try:
        until(lambda: lab.hosts()["far"]["state"] != "ready", "nobody has noticed")
        let_go(lab, h3, job)
    finally:
        h3.link_up()
    ended = lab.ended(job)
    assert (ended["ok"], ended["attempt"]) == (True, 1) and "file" in ended["result"]
    assert lab.hosts()["far"]["state"] == "ready"


@pytest.mark.parametrize(
    ("certificates", "words"),
    [
        ("wrong", "differ about TLS"),
        ("distrusted", "differ about TLS"),
        ("nothing", "differ about TLS"),
        ("", "TLS"),
    ],
)
def test_a_wrong_certificate_is_refused(lab: Lab, far: str, h2: Host, certificates: str, words: str) -> None:
    env = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": certificates} if certificates else {}
    done = lab.orqal("join", lab.head.address, "--docker-host", far, "--name", "no", on=h2, env=env, check=False)
    assert done.returncode != 0
    told = " ".join(done.stdout.split())
    assert words in told and far in told and "Traceback" not in told
    assert set(lab.hosts()) == {"h1", "far"}
