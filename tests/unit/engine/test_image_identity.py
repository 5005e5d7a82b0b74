"""What makes images of several daemons the same."""

from __future__ import annotations

from typing import Any

import pytest

from orqal.engine.image_identity import ImageIdentity

IMAGE: dict[str, Any] = {
    "Id": "sha256:1",
    "RepoDigests": ["registry.lab:5000/tool@sha256:a"],
    "Os": "linux",
    "Architecture": "amd64",
    "Config": {"Cmd": ["tool"], "Env": ["PATH=/bin"], "Entrypoint": None, "Labels": {"made": "monday"}, "User": ""},
    "RootFS": {"Type": "layers", "Layers": ["sha256:l1", "sha256:l2"]},
}
MADE = {**IMAGE, "Id": "sha256:2", "RepoDigests": []}


def identity(**values: Any) -> ImageIdentity:
    return ImageIdentity.of({**MADE, **values})


def config(**values: Any) -> dict[str, Any]:
    return {"Config": {**IMAGE["Config"], **values}}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"Id": IMAGE["Id"], "RootFS": {}},
        {"RootFS": {}, "RepoDigests": ["mirror.lab/tool@sha256:b", "mirror.lab/tool@sha256:a"]},
        config(Labels={"made": "tuesday"}),
        config(Entrypoint=[], User=None),  # as another version of Docker says it
    ],
)
def test_the_same(other: dict[str, Any]) -> None:
    assert identity(**other).is_same_as(ImageIdentity.of(IMAGE))


@pytest.mark.parametrize(
    "other",
    [
        {"RootFS": {"Layers": ["sha256:l1", "sha256:l3"]}},
        {"RootFS": {"Layers": ["sha256:l3"]}, "RepoDigests": ["registry.lab:5000/tool@sha256:b"]},
        {"Architecture": "arm64"},
        config(Env=["PATH=/usr/bin"]),
        config(Entrypoint=["/tool"]),
        config(User="nobody"),
        config(WorkingDir="/data"),
    ],
)
def test_not_the_same(other: dict[str, Any]) -> None:
    assert not identity(**other).is_same_as(ImageIdentity.of(IMAGE))


def test_what_is_for_another_platform_is_compared_by_registries_only() -> None:
    arm = {"Architecture": "arm", "Variant": "v7"}
    assert identity(**arm).platform == "linux/arm/v7"
    assert not identity(**arm).can_be_compared_with(ImageIdentity.of(IMAGE))
    assert identity(**arm, RepoDigests=["tool@sha256:b"]).can_be_compared_with(ImageIdentity.of(IMAGE))
    assert identity().can_be_compared_with(ImageIdentity.of(IMAGE))
