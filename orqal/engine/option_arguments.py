"""The options of a container as arguments of the docker SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docker.types import DeviceRequest, Mount, Ulimit

from orqal.models import GPU, ContainerOptions


def of_host_config(options: ContainerOptions, devices: Mapping[str, Sequence[str]] = {}) -> dict[str, Any]:
    """Arguments of `APIClient.create_host_config`. `devices`: what the job was given, by resource."""
    return {
        "init": options.init,
        "read_only": options.read_only,
        "tmpfs": dict(options.tmpfs) or None,
        "shm_size": options.shm_size,
        "ulimits": [Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in options.ulimits.items()],
        "extra_hosts": dict(options.extra_hosts) or None,
        "runtime": options.runtime,
        "device_requests": _device_requests(options.gpus, devices),
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


def _device_requests(
    gpus: str | float | Sequence[str] | None, devices: Mapping[str, Sequence[str]]
) -> list[DeviceRequest] | None:
    """`devices` are those that the job was given. GPUs that it asks for by their names are passed on as they are."""
    ids = [id for resource, given in devices.items() if resource != GPU for id in given]
    requests = []
    if isinstance(gpus, str | int | float) and not devices.get(GPU):
        # Of an attempt that an Orqal has begun which did not count GPUs.
        requests.append(DeviceRequest(count=-1 if isinstance(gpus, str) else int(gpus), capabilities=[["gpu"]]))
    else:
        ids += gpus if isinstance(gpus, Sequence) and not isinstance(gpus, str) else devices.get(GPU, ())
    if cdi := [id for id in ids if "=" in id]:
        requests.append(DeviceRequest(driver="cdi", device_ids=cdi))
    if others := [id for id in ids if "=" not in id]:
        requests.append(DeviceRequest(device_ids=others, capabilities=[["gpu"]]))
    return requests or None
