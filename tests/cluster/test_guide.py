"""docs/cluster.md, as a new user follows it: each command literally, except for addresses and names, on the hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.host import Host
from tests.cluster.lab import Lab, give_image, wipe
from tests.cluster.namespaces import Namespaces
from tests.support.checkout import REPOSITORY

pytestmark = pytest.mark.timeout(600)

GUIDE = (REPOSITORY / "docs/cluster.md").read_text()
COMMAND_WITHIN = 150
"""Seconds."""


def commands(section: str) -> list[list[tuple[str, str]]]:
    """Return the lines that a section says to type, as (machine, command), by block."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [re.findall(r"^(\w+)\$ (.+)$", block, re.MULTILINE) for block in blocks]


@pytest.fixture
def bare(cluster: Namespaces) -> Iterator[Lab]:
    """Hosts on which nothing of Orqal runs, neither before the test nor afterwards."""
    lab = Lab(cluster)
    yield lab
    for host in cluster.hosts:
        wipe(host, lab)
    # The guide's own image has the same name, and fewer programs.
    give_image(cluster.hosts)


def test_by_hand(bare: Lab) -> None:
    lab = bare
    machines = dict(zip(("head", "node2", "node3"), lab.cluster.hosts, strict=True)) | {"laptop": lab.cluster.laptop}
    exported: dict[str, str] = {}
    printed: dict[str, str] = {}

    def type_in(steps: list[tuple[str, str]]) -> None:
        for machine, command in steps:
            line = on_these(command, machines)
            if line.startswith("export "):
                exported[machine] = f"{line} && "
            shell = f"cd {REPOSITORY} && {exported.get(machine, '')}{line}"
            done = machines[machine].run(["bash", "-c", shell], {"COLUMNS": "120"}, timeout=COMMAND_WITHIN)
            printed[command] = done.stdout

    blocks = commands("By hand")
    assert sum(map(len, blocks)) > 20
    for block in blocks:
        lanes = [[step for step in block if step[0] == machine] for machine in ("node2", "node3")]
        if sum(map(len, lanes)) == len(block):  # they do not wait for each other
            with ThreadPoolExecutor() as pool:
                list(pool.map(type_in, lanes))
        else:
            type_in(block)

    assert "orqal join" in printed["orqal up --address 10.0.0.11"]
    assert "disk=ssd" in printed["orqal hosts"]
    assert "40 of 40 succeeded." in printed["python examples/batch.py"]
    assert "10 of 10 succeeded." in printed["python examples/batch.py 10"]
    assert "hello" in printed["orqal run orqal/demo -- echo hello"]
    assert "h2 is drained" in printed["orqal drain node2"]
    assert "h2 has left the cluster." in printed["orqal leave"]
    assert "ram_gb" in printed['eval "$(orqal env)" && ray status']
    assert "HostActor" in printed['eval "$(orqal env)" && ray list actors']
    hosts = lab.hosts()
    assert {name: host["state"] for name, host in hosts.items()} == dict.fromkeys(("h1", "h2", "h3"), "ready")
    assert hosts["h3"]["labels"] == {"disk": "ssd"}
    lab.down()


def on_these(command: str, machines: dict[str, Host]) -> str:
    """A command of the guide for these machines."""
    for number, name in enumerate(("head", "node2", "node3"), 11):
        command = command.replace(f"10.0.0.{number}", machines[name].address)
        command = re.sub(rf"\b{name}\b", machines[name].name, command)
    return command
