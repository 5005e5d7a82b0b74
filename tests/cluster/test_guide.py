"""docs/cluster.md, as a new user follows it: each command, literally, on the hosts; only addresses and names differ."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.cluster.host import Host
from tests.cluster.lab import Lab, give_image, wipe
from tests.cluster.namespaces import Namespaces
from tests.support.checkout import REPOSITORY

pytestmark = pytest.mark.timeout(600)

GUIDE = (REPOSITORY / "docs/cluster.md").read_text()
COMMAND_WITHIN = 150
"""Seconds."""


def commands(section: str) -> list[tuple[str, str]]:
    """The lines that are to be typed in a section: on which machine, and what."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^(\w+)\$ (.+)$", "\n".join(blocks), re.MULTILINE)


@pytest.fixture
def bare(cluster: Namespaces) -> Iterator[Lab]:
    """Hosts on which nothing runs yet, and nothing in the end."""
    lab = Lab(cluster)
    yield lab
    for host in cluster.hosts:
        wipe(host, lab)
    # The guide's own image, of fewer programs, has taken the name.
    give_image(cluster.hosts)


def test_by_hand(bare: Lab) -> None:
    lab = bare
    machines = dict(zip(("head", "node2", "node3"), lab.cluster.hosts, strict=True)) | {"laptop": lab.cluster.laptop}
    exported: dict[str, str] = {}
    printed = []
    steps = commands("By hand")
    assert len(steps) > 20
    for machine, command in steps:
        line = on_these(command, machines)
        if line.startswith("export "):
            exported[machine] = f"{line} && "
        shell = f"cd {REPOSITORY} && {exported.get(machine, '')}{line}"
        printed.append(machines[machine].run(["bash", "-c", shell], {"COLUMNS": "120"}, timeout=COMMAND_WITHIN).stdout)
    told = {command: output for (_, command), output in zip(steps, printed, strict=True)}

    assert "orqal join" in told["orqal up --address 10.0.0.11"]
    assert "disk=ssd" in told["orqal hosts"]
    assert "40 of 40 succeeded." in told["python examples/batch.py"]
    assert "10 of 10 succeeded." in told["python examples/batch.py 10"]
    assert "hello" in told["orqal run orqal/demo -- echo hello"]
    assert "h2 is drained" in told["orqal drain node2"]
    assert "h2 has left the cluster." in told["orqal leave"]
    assert "ram_gb" in told['eval "$(orqal env)" && ray status']
    assert "HostActor" in told['eval "$(orqal env)" && ray list actors']
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
