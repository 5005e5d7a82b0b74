"""What Orqal uses of Ray that Ray does not promise to keep: all of it is here.

Tested with Ray 2.60. Where a release changes one of these, this is the only file that needs to change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private import worker
from ray._private.state import available_resources_per_node
from ray._raylet import GcsClient  # type: ignore[attr-defined] # compiled
from ray.experimental.internal_kv import _internal_kv_put

TABLES = ("actors", "jobs", "nodes", "placement_groups", "tasks", "workers")
"""The tables that the head keeps, as the dashboard names them."""
_KEYS = b"orqal"
"""Our namespace in Ray's key-value store."""
_VERSION = b"version"


def free_resources() -> dict[str, dict[str, float]]:
    """The amounts of each living node's resources that no program holds, by node id. Up to a second old."""
    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


def actor_id(handle: Any) -> str:
    """The id of an actor, in hex digits, as Ray's logs and lists name it."""
    return str(handle._actor_id.hex())


def log_folder() -> Path | None:
    """The folder of the logs of the Ray node that this process belongs to; None if it belongs to none."""
    node = worker._global_node
    return None if node is None else Path(node.get_logs_dir_path())


def table_rows(dashboard: str, token: str) -> dict[str, int]:
    """The number of rows in each of the tables that the head keeps, the ended ones included.

    `dashboard`: the URL of Ray's dashboard. `token`: Ray's.

    Raises:
        httpx.HTTPError: the dashboard does not answer, or not with 200.
    """
    with httpx.Client(base_url=dashboard, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        answers = {table: client.get(f"/api/v0/{table}", params={"limit": 1}).raise_for_status() for table in TABLES}
    found = {table: answer.json()["data"]["result"] for table, answer in answers.items()}
    # The total of the calls counts those too that the head no longer keeps.
    return {table: data["num_after_truncation" if table == "tasks" else "total"] for table, data in found.items()}


def publish_version(version: str) -> None:
    """Keep Orqal's version in the cluster, for machines that want to join it."""
    _internal_kv_put(_VERSION, version.encode(), overwrite=True, namespace=_KEYS)


def versions_of(head: str, within: float) -> dict[str, str | None]:
    """The versions of `ray`, `python` and `orqal` at a head; None if the head does not know.

    `within`: seconds to wait for its key-value store.

    Raises:
        ray.exceptions.AuthenticationError: the head does not accept this machine's token.
        ray.exceptions.RpcError, ray.exceptions.RaySystemError, RuntimeError: no Ray head answers there.
    """
    client = GcsClient(address=head)
    metadata = get_cluster_metadata(client) or {}
    orqal = client.internal_kv_get(_VERSION, namespace=_KEYS, timeout=within)
    return {
        "ray": metadata.get("ray_version"),
        "python": metadata.get("python_version"),
        "orqal": orqal.decode() if orqal else None,
    }
