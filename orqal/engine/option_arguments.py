"""The options of a container as arguments of the docker SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docker.types import DeviceRequest, Mount, Ulimit

from orqal.models import ContainerOptions


def of_host_config(options: ContainerOptions) -> dict[str, Any]:
    """Arguments of `APIClient.create_host_config`."""
    return {
        "init": options.init,
        "read_only": options.read_only,
        "tmpfs": dict(options.tmpfs) or None,
        "shm_size": options.shm_size,
        "ulimits": [Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in options.ulimits.items()],
        "extra_hosts": dict(options.extra_hosts) or None,
        "runtime": options.runtime,
        "device_requests": _device_requests(options.gpus),
    }


def of_container(options: ContainerOptions) -> dict[str, Any]:
    """Arguments of `APIClient.create_container`."""
    # The daemon takes an empty list for the image's own entrypoint, and an empty word for none.
    entrypoint = options.entrypoint if options.entrypoint is None else options.entrypoint or [""]
    return {"entrypoint": entrypoint, "user": options.user, "platform": options.platform}


def of_volumes(volumes: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, Mapping[str, str]], list[Mount]]:
    """`binds` and `mounts` of `APIClient.create_host_config`, for volumes in the docker SDK's form.

    For a mount the daemon makes no empty folder if the source does not exist, as it does for a bind. But only a bind
    can have further options, such as the mode `z`.
    """
    binds: dict[str, Mapping[str, str]] = {}
    mounts: list[Mount] = []
    for source, volume in volumes.items():
        mode = volume.get("mode", "rw")
        if source.startswith("/") and mode in ("ro", "rw") and volume.keys() <= {"bind", "mode"}:
            mounts.append(Mount(volume["bind"], source, type="bind", read_only=mode == "ro"))
        else:
            binds[source] = volume
    return binds, mounts


def _device_requests(gpus: str | int | Sequence[str] | None) -> list[DeviceRequest] | None:
    if gpus is None:
        return None
    if isinstance(gpus, int):
        return [DeviceRequest(count=gpus, capabilities=[["gpu"]])]
    if isinstance(gpus, str):
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    if "=" in gpus[0]:
        return [DeviceRequest(driver="cdi", device_ids=list(gpus))]
    return [DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])]
