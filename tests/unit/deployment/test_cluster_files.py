"""The files for Ray's launcher satisfy Ray, and Orqal can read from them what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orqal.models import Resources, Shape
from orqal.scheduling import node_types
from tests.support.checkout import REPOSITORY

ROOT = REPOSITORY


def read(name: str) -> dict[str, Any]:
    """Return the file with Ray's defaults filled in."""
    found: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    return found


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-cloud.yaml"])
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(read(name))


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-cloud.yaml"])
def test_the_files_that_it_copies_exist(name: str) -> None:
    sources = read(name)["file_mounts"].values()
    assert [source for source in sources if not source.startswith("~") and not (ROOT / source).exists()] == []


def test_the_machines_of_a_cloud_are_hosts_that_jobs_can_wait_for() -> None:
    config = read("cluster-cloud.yaml")
    known = {kind.host.id: kind for kind in node_types(config)}
    assert {name: (kind.max_workers, kind.host.capacity, dict(kind.host.labels)) for name, kind in known.items()} == {
        "many-cores": (10, Resources.from_ray({"threads": 16, "ram_gb": 32}), {"kind": "many-cores"}),
        "much-memory": (2, Resources.from_ray({"threads": 16, "ram_gb": 132}), {"kind": "much-memory"}),
    }
    large = Shape(threads=4, ram_gb=100)
    assert [name for name, kind in known.items() if kind.host.could_ever(large)] == ["much-memory"]


def test_the_machines_of_a_lab_are_not_started_for_jobs() -> None:
    """They run all or none, so the autoscaler is not asked for any."""
    assert node_types(read("cluster.yaml")) == []


def test_no_machine_of_a_cloud_gives_containers_the_rights_of_the_cloud() -> None:
    types = read("cluster-cloud.yaml")["available_node_types"]
    for kind in types.values():
        options = kind["node_config"]["MetadataOptions"]
        # An answer with the hop limit 1 reaches the machine, and no container on a network of its own.
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    profiles = {name: kind["node_config"].get("IamInstanceProfile") for name, kind in types.items()}
    # Ray gives a head without a profile one with all rights, and other machines none.
    assert profiles == {"head": {"Name": "orqal-head"}, "many-cores": None, "much-memory": None}


BEHIND_DOCKER = """
set -e
sudo() { "$@"; }
ip link set lo up
ip netns add cloud 2>/dev/null && ip netns add job || exit 77
trap 'ip netns del cloud; ip netns del job' EXIT
for end in cloud:169.254.169.1:169.254.169.254 job:172.31.0.1:172.31.0.2; do
    name=${end%%:*} here=${end#*:} there=${here#*:} here=${here%%:*}
    ip link add $name type veth peer name inside netns $name
    ip addr add $here/24 dev $name; ip link set $name up
    ip -n $name addr add $there/24 dev inside; ip -n $name link set inside up; ip -n $name link set lo up
    ip -n $name route add default via $here
done
echo 1 >/proc/sys/net/ipv4/ip_forward
iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER
ip netns exec cloud "$PYTHON" -c "
import socket
server = socket.create_server(('169.254.169.254', 80))
print('up', flush=True)
while True: server.accept()[0].sendall(b'rights')
" >up &
until test -s up; do sleep 0.05; done
ask() { $1 "$PYTHON" -c "
import socket
try: print(socket.create_connection(('169.254.169.254', 80), 5).recv(9).decode())
except OSError: print('refused')"; }
ask 'ip netns exec job'
RULE
RULE
ask 'ip netns exec job'
ask
kill %1
"""
"""Prints what a container gets from the metadata address before and after the rule, and what the machine gets then."""


@pytest.mark.timeout(60)
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("iptables"), reason="needs root and iptables")
def test_containers_cannot_ask_the_metadata_address_and_the_machine_can(tmp_path: Path) -> None:
    [rule] = [line for line in read("cluster-cloud.yaml")["initialization_commands"] if "iptables" in line]
    script = BEHIND_DOCKER.replace("RULE", rule)
    # Namespaces of its own, also for the names of the two inner ones.
    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "bash", "-c"]
    inside = f"mkdir -p /run/netns; mount -t tmpfs tmpfs /run; mkdir /run/netns; {script}"
    done = subprocess.run(
        [*own, inside], cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    if done.returncode == 77:
        pytest.skip(f"no network namespaces here: {done.stderr}")
    assert done.stdout.split() == ["rights", "refused", "rights"], done.stderr
