"""Which devices a host has, from what its daemon and nvidia-smi list."""

from __future__ import annotations

from typing import Any

import pytest

from orqal.engine.devices import NvidiaGpu, find, nvidia_variable, read_nvidia_smi
from orqal.engine.option_arguments import of_host_config
from orqal.models import GPU, ContainerOptions, Device
from orqal.settings import Settings

SMI = """0, GPU-aa, 16384
1, GPU-bb, 24576
2, GPU-cc, [N/A]
No devices were found
"""
TWO = [NvidiaGpu("0", "GPU-aa", 16384 * (1 << 20) / 1e9), NvidiaGpu("1", "GPU-bb", 24576 * (1 << 20) / 1e9)]


def test_what_nvidia_smi_prints() -> None:
    assert read_nvidia_smi(SMI) == TWO
    assert read_nvidia_smi("") == []


def ids(cdi: tuple[str, ...] = (), nvidia: bool = False, **more: Any) -> list[str]:
    options: dict[str, Any] = {"has_nvidia_runtime": nvidia, "declared": {}} | more
    return [f"{device.resource} {device.id}" for device in find(cdi, TWO if nvidia else [], **options)]


def test_gpus_are_found_by_their_cdi_names_each_once() -> None:
    listed = tuple(f"nvidia.com/gpu={name}" for name in ("all", "10", "2", "GPU-aa", "0:1"))
    assert ids(listed) == ["GPU nvidia.com/gpu=0:1", "GPU nvidia.com/gpu=2", "GPU nvidia.com/gpu=10"]
    assert ids(("amd.com/gpu=x", "amd.com/gpu=all", "vendor.com/net=0")) == ["GPU amd.com/gpu=x"]


def test_without_cdi_nvidia_s_runtime_hands_them_out_by_their_uuids() -> None:
    assert ids(nvidia=True) == ["GPU GPU-aa", "GPU GPU-bb"]
    assert ids(nvidia=True, has_nvidia_runtime=False) == []
    [first, _] = find((), TWO, has_nvidia_runtime=True, declared={})
    assert first == Device(GPU, "GPU-aa", TWO[0].memory_gb, ("0",))


def test_the_memory_of_a_cdi_device_is_what_nvidia_smi_says() -> None:
    [device] = find(("nvidia.com/gpu=1",), TWO, has_nvidia_runtime=True, declared={})
    assert device.memory_gb == pytest.approx(25.77, abs=0.01) and device.is_called("GPU-bb")


@pytest.mark.parametrize("visible", [{"1"}, {"GPU-bb"}, {"nvidia.com/gpu=1"}])
def test_only_the_gpus_that_jobs_may_get(visible: set[str]) -> None:
    assert ids(("nvidia.com/gpu=0", "nvidia.com/gpu=1"), nvidia=True, visible=visible) == ["GPU nvidia.com/gpu=1"]
    assert ids(("nvidia.com/gpu=0",), visible=set()) == []


def test_declared_devices_are_those_that_are_there() -> None:
    listed = ("v.com/fpga=a", "v.com/fpga=b", "v.com/fpga=all", "v.com/gpu=0", "v.com/gpu=1")
    assert ids(listed, declared={"fpga": ("v.com/fpga=all",), "card": ("v.com/gpu=1", "v.com/gpu=7")}) == [
        "GPU v.com/gpu=0",
        "fpga v.com/fpga=a",
        "fpga v.com/fpga=b",
        "card v.com/gpu=1",
    ]


def test_nvidia_s_variable() -> None:
    assert nvidia_variable(["nvidia.com/gpu=0", "GPU-bb"]) == "0,GPU-bb"
    assert nvidia_variable([]) == "void", "an image may ask for all of them"


def test_a_container_gets_exactly_what_its_job_was_given() -> None:
    def requests(gpus: Any, **devices: list[str]) -> list[dict[str, Any]]:
        found = of_host_config(ContainerOptions(gpus=gpus), devices)["device_requests"] or ()
        return [{name: value for name, value in each.items() if value} for each in found]

    def cdi(*names: str) -> dict[str, Any]:
        return {"Driver": "cdi", "DeviceIDs": [*names]}

    assert requests(1, GPU=["nvidia.com/gpu=1"], fpga=["v.com/fpga=a"]) == [cdi("v.com/fpga=a", "nvidia.com/gpu=1")]
    assert requests("all", GPU=["GPU-aa", "GPU-bb"]) == [{"DeviceIDs": ["GPU-aa", "GPU-bb"], "Capabilities": [["gpu"]]}]
    assert requests(0.5, GPU=["x.com/gpu=0"]) == [cdi("x.com/gpu=0")]
    assert requests(["nvidia.com/gpu=0"], GPU=["nvidia.com/gpu=0"]) == [cdi("nvidia.com/gpu=0")]
    assert requests(None, fpga=["v.com/fpga=a"]) == [cdi("v.com/fpga=a")]
    assert requests(None) == []


def test_what_administrators_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (Settings().gpus, Settings().resources, Settings().shared) == (None, {}, frozenset())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    assert Settings().gpus == frozenset({"1", "3"})
    monkeypatch.setenv("ORQAL_GPUS", "none")
    assert Settings().gpus == frozenset()
    monkeypatch.setenv("ORQAL_RESOURCES", "dongle=2, fpga=v.com/fpga=a,fpga=v.com/fpga=b")
    monkeypatch.setenv("ORQAL_SHARED", "gpu,fpga")
    settings = Settings()
    assert settings.resources == {"dongle": 2, "fpga": ("v.com/fpga=a", "v.com/fpga=b")}
    assert settings.shared_resources == {GPU, "fpga"}
    monkeypatch.setenv("ORQAL_SHARED", "dongle")
    with pytest.raises(ValueError, match="ORQAL_SHARED: ORQAL_RESOURCES declares no devices 'dongle'"):
        Settings()


@pytest.mark.parametrize(
    "wrong",
    [
        *("dongle", "dongle=0", "dongle=1.5", "dongle=-1", "Dongle=1", "gpu=2", "threads=1", "a_group_1=1", "=1"),
        *("x=1,x=2", "x=1,x=v/c=0", "x=v/c=0,x=1", "x=v/c", "x=v c/d=1"),
    ],
)
def test_what_cannot_be_declared(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_RESOURCES", wrong)
    with pytest.raises(ValueError, match="ORQAL_RESOURCES"):
        Settings()
