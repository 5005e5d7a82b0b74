"""The examples in docs/resources.md do what the page says."""

from __future__ import annotations

import re

import pytest

from orqal.models import GPU, Device, Part, Resources, Shape, wanted_of
from orqal.scheduling import Host, impossible
from orqal.scheduling.host import capacity_of
from orqal.settings import Settings
from orqal.wrappers.base import AbstractWrapper
from orqal.wrappers.description import describe
from tests.unit.docs.test_pages import section, text

PAGE = text("resources.md")
A_HOST = tuple(Device(GPU, f"nvidia.com/gpu={number}", memory) for number, memory in enumerate((12.0, 16.0, 24.0)))


def given(attributes: str) -> Resources | None:
    """What a job of a wrapper with these attributes gets of a host with three GPUs that are shared, and two FPGAs."""
    space: dict[str, object] = {}
    exec(attributes.replace(" and ", "\n"), space)
    info = describe(type("A", (AbstractWrapper,), {k: v for k, v in space.items() if k != "__builtins__"}), "A", "here")
    assert info.error is None
    shape = Shape(1, 1, frozenset(), wanted_of(info.gpus, info.gpu_memory_gb, info.resources))
    node = Resources.from_ray({"threads": 8, "ram_gb": 64, GPU: 3, "fpga": 2})
    host = Host("h", capacity_of(node, A_HOST, frozenset()), devices=A_HOST, shared=frozenset([GPU]))
    return None if impossible(shape, [host]) else host.grant(shape)


def test_what_each_attribute_of_the_table_gets() -> None:
    rows = re.findall(
        r"^\| (`(?:gpus|resources).*?) \| (.*?) \|$", section(PAGE, "## What a job asks for"), re.MULTILINE
    )
    got = {asked: given(asked.replace("`", "")) for asked, _ in rows}
    ids = [device.id for device in A_HOST]
    assert [each and (each.devices.get(GPU), each.totals) for each in got.values()] == [
        (ids[:2], {GPU: 20_000}),
        (ids[:1], {GPU: 5_000}),
        (ids, {GPU: 30_000}),
        (ids[:1], {GPU: 10_000}),
        ([ids[1]], {GPU: 10_000}),
        (None, {"fpga": 10_000}),
    ]


def test_the_wrapper_is_one() -> None:
    [source] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    space: dict[str, type[AbstractWrapper]] = {}
    exec(source, space)
    info = describe(space["Train"], "Train", "here")
    assert (info.error, info.gpus, info.gpu_memory_gb, info.warnings) == (None, 1, 16, [])


def test_the_settings_are_read_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    [resources] = re.findall(r'ORQAL_RESOURCES="(.*?)"', PAGE)
    monkeypatch.setenv("ORQAL_RESOURCES", resources)
    monkeypatch.setenv("ORQAL_SHARED", "gpu,fpga")
    assert Settings().resources == {"licence_dongle": 1, "fpga": ("vendor.com/fpga=all",)}
    assert Resources.from_ray({"licence_dongle": 1}).parts == (Part("licence_dongle", "", 10_000),)
