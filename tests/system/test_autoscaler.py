"""Ray's autoscaler, with Ray's own fake provider: it starts real Ray nodes on this machine in the place of machines."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.orqal_process import Orqal, free_port

HEAD_ID = "f" * 51 + "00000"
"""As the fake provider wants it."""
SERVICES = """
class OnLarge(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    working_dir = None
    requires = {"size": "large"}
    def get_cmd(self, params):
        return ["echo", self.job.input]

class OnHuge(OnLarge):
    requires = {"size": "huge"}
"""
CLUSTER: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 1,
    "available_node_types": {
        "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
        "large": {
            "resources": {"threads": 1, "ram_gb": 2},
            "labels": {"size": "large"},
            "node_config": {},
            "max_workers": 1,
        },
    },
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.05,
    "upscaling_speed": 1,
    "auth": {},
    # What `ray up` would fill in.
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    "cluster_synced_files": [],
    "rsync_exclude": [],
    "rsync_filter": [],
    **{
        f"{part}_commands": []
        for part in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    },
}


@pytest.fixture
def orqal(tmp_path: Path, image: str) -> Iterator[Orqal]:
    """An Orqal whose cluster can grow by one host."""
    port = free_port()
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**CLUSTER, "provider": provider}))
    (tmp_path / "services.py").write_text(SERVICES)
    orqal = Orqal(
        tmp_path / "home",
        settings={
            "ORQAL_SERVICES": str(tmp_path / "services.py"),
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        },
        options=("--ray-port", str(port), "--autoscaling-config", str(tmp_path / "cluster.yaml")),
    )
    orqal.up()
    yield orqal
    orqal.down()


def await_hosts(orqal: Orqal, wanted: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Return when the hosts are so. The autoscaler looks once a second."""
    deadline = time.monotonic() + 60
    while not wanted(hosts := orqal.http().get("/hosts").json()):
        assert time.monotonic() < deadline, json.dumps(hosts, indent=1)
        time.sleep(0.2)


@pytest.mark.timeout(240)
def test_a_host_is_started_by_a_queue_and_goes_after_it(orqal: Orqal) -> None:
    head = socket.gethostname()
    assert [host["name"] for host in orqal.http().get("/hosts").json()] == [head]

    huge = orqal.run("OnHuge", "x")
    assert huge["error"]["type"] == "impossible_request"
    assert "no host has it" in huge["error"]["message"]
    large = orqal.run("OnLarge", "x", threads=2, memory_in_gb=2)
    assert large["error"]["type"] == "impossible_request"
    assert "large has 1 threads and 2 GB" in large["error"]["message"]

    # No present host has the label, and a node that may be started has it.
    jobs = [orqal.submit("OnLarge", str(number)) for number in range(3)]
    ended = [orqal.ended(job) for job in jobs]
    assert [(job["ok"], job["stdout"][0]) for job in ended] == [(True, "0"), (True, "1"), (True, "2")]
    assert head not in {job["host"] for job in ended}

    await_hosts(orqal, lambda hosts: len(hosts) == 1)
    # It comes again when it is wanted again.
    assert orqal.run("OnLarge", "again")["ok"]
