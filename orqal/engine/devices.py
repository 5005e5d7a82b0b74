"""The devices of a Docker daemon's machine: as the daemon lists them by their CDI names, and as nvidia-smi does.

https://github.com/cncf-tags/container-device-interface
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from orqal.models import GPU, Device

NVIDIA_KIND = "nvidia.com/gpu"
NVIDIA_RUNTIME = "nvidia"
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
_SMI_WITHIN = 15.0
"""Seconds within which nvidia-smi answers. With a driver that is being loaded it takes several."""
_ALL = "all"
"""The CDI name that stands for all devices of a kind."""
_NUMBER = re.compile(r"\d+(:\d+)?", re.ASCII)
"""The number of a GPU, or of a part of one (MIG)."""


class NvidiaGpu(NamedTuple):
    """A GPU as nvidia-smi lists it."""

    number: str
    uuid: str
    memory_gb: float


def nvidia_gpus() -> list[NvidiaGpu]:
    """The NVIDIA GPUs of this machine; none if it has no driver for them.

    Raises:
        OSError: the driver does not answer.
    """
    try:
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_SMI_WITHIN, check=False)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise OSError(f"nvidia-smi has not answered within {_SMI_WITHIN:g} s") from None
    if done.returncode:
        raise OSError(f"nvidia-smi failed: {(done.stderr or done.stdout).strip():.500}")
    return read_nvidia_smi(done.stdout)


def read_nvidia_smi(text: str) -> list[NvidiaGpu]:
    """Read what nvidia-smi prints. A line that is no GPU's is left out; so is a memory that it does not know."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and fields[0].isdecimal() and fields[2].isdecimal():
            gpus.append(NvidiaGpu(fields[0], fields[1], int(fields[2]) * (1 << 20) / 1e9))
    return gpus


def find(
    cdi: Iterable[str],
    nvidia: Sequence[NvidiaGpu],
    *,
    has_nvidia_runtime: bool,
    visible: Collection[str] | None = None,
    declared: Mapping[str, Sequence[str]],
) -> list[Device]:
    """The devices that jobs can get, in order.

    `cdi`: the CDI names that the daemon lists. `visible`: the GPUs that jobs may get, by any of their names; None: all.
    `declared`: CDI names by the resource that they count as; `vendor.com/class=all` stands for all that are listed.
    A declared device that is not listed is not there now.
    """
    kinds = dict[str, list[str]]()
    for name in cdi:
        kind, _, device = name.partition("=")
        kinds.setdefault(kind, []).append(device)
    elsewhere = {name for names in declared.values() for name in names}
    found = []
    for kind, names in sorted(kinds.items()):
        if kind.rpartition("/")[2] == "gpu":
            found += [
                device
                for device in (_gpu(kind, name, nvidia) for name in _single(names))
                if not {device.id, f"{kind}={_ALL}"} & elsewhere
            ]
    if NVIDIA_KIND not in kinds and has_nvidia_runtime:
        found += [Device(GPU, gpu.uuid, gpu.memory_gb, (gpu.number,)) for gpu in nvidia]
    if visible is not None:
        found = [device for device in found if any(map(device.is_called, visible))]
    for resource, wanted in declared.items():
        for name in wanted:
            kind, _, device = name.partition("=")
            listed = _single(kinds.get(kind, ())) if device == _ALL else [device] * (device in kinds.get(kind, ()))
            found += [Device(resource, f"{kind}={each}") for each in listed]
    return list({(device.resource, device.id): device for device in found}.values())


def _single(names: Iterable[str]) -> list[str]:
    """The names of single devices, each once: a vendor may list each by its number and by its UUID."""
    single = [name for name in names if name != _ALL]
    numbers = [name for name in single if _NUMBER.fullmatch(name)]
    return sorted(
        numbers or single, key=lambda name: [int(part) if part.isdecimal() else 0 for part in name.split(":")]
    )


def _gpu(kind: str, name: str, nvidia: Sequence[NvidiaGpu]) -> Device:
    known = next((gpu for gpu in nvidia if kind == NVIDIA_KIND and name in (gpu.number, gpu.uuid)), None)
    if known is None:
        return Device(GPU, f"{kind}={name}", None, (name,))
    others = (known.number, known.uuid, f"{kind}={known.uuid}")
    return Device(GPU, f"{kind}={name}", known.memory_gb, others)


def nvidia_variable(ids: Iterable[str]) -> str:
    """The value of NVIDIA_VISIBLE_DEVICES with which NVIDIA's runtime gives a container these GPUs and no others."""
    return ",".join(id.removeprefix(f"{NVIDIA_KIND}=") for id in ids) or "void"
