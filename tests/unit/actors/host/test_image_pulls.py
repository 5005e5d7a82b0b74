"""A host pulls from the administrator's registries only. tests/engine/test_image_pulls.py has what needs a registry."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from orqal.actors.host.image_pulls import ImagePulls
from orqal.actors.metrics import Metrics
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.engine.streams import Pull
from orqal.models import ErrorType
from tests.support.metrics import value

PRESENT = "registry.lab/present"


class Daemon:
    """A daemon that has one image, and refuses every pull."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def image_id(self, image: str, platform: str | None = None) -> str | None:
        return "sha256:1" if image == PRESENT else None

    def pull(self, image: str, platform: str | None = None) -> Pull:
        self.asked.append(image)
        raise EngineError(ErrorType.PULL_FAILED, "asked")


async def _want(pulls: ImagePulls, daemon: Daemon, image: str) -> str:
    with pulls.of(cast(Engine, daemon), image) as wanted:
        return await wanted.id


def test_the_daemon_asks_no_registry_that_is_not_listed() -> None:
    daemon = Daemon()
    pulls = ImagePulls(60, lambda: None, {"docker.io", "registry.lab:5000"})
    for image in ("169.254.169.254/a", "10.0.0.1:80/a", "localhost/a", "registry.lab/a", "docker.io.evil.example/a"):
        with pytest.raises(
            EngineError, match=r"does not pull from .* ORQAL_REGISTRIES: docker\.io, registry\.lab:5000"
        ):
            asyncio.run(_want(pulls, daemon, image))
    assert daemon.asked == []
    for image in ("a", "user/a:1", "registry.lab:5000/a"):
        with pytest.raises(EngineError, match="asked"):
            asyncio.run(_want(pulls, daemon, image))
    assert daemon.asked == ["a", "user/a:1", "registry.lab:5000/a"]
    assert asyncio.run(_want(pulls, daemon, PRESENT)) == "sha256:1"


def test_without_a_list_every_registry_may_be_asked() -> None:
    daemon = Daemon()
    with pytest.raises(EngineError, match="asked"):
        asyncio.run(_want(ImagePulls(60, lambda: None), daemon, "10.0.0.1:80/a"))
    assert daemon.asked == ["10.0.0.1:80/a"]


def test_images_are_counted_by_what_came_of_them() -> None:
    counted = Metrics("host")
    pulls = ImagePulls(60, lambda: None, {"registry.lab"}, counted)
    assert asyncio.run(_want(pulls, Daemon(), PRESENT)) == "sha256:1"
    for image in ("registry.lab/refused", "elsewhere.lab/not-listed"):
        with pytest.raises(EngineError):
            asyncio.run(_want(pulls, Daemon(), image))
    found = {
        result: value(counted.collect(), "orqal_image_requests_total", result=result)
        for result in ("present", "pulled", "failed")
    }
    assert found == {"present": 1, "pulled": None, "failed": 2}
    assert value(counted.collect(), "orqal_image_pull_seconds_count") == 0


def test_a_pull_is_timed() -> None:
    class Pulls(Daemon):
        """A daemon that has what it was asked to pull."""

        def image_id(self, image: str, platform: str | None = None) -> str | None:
            return "sha256:2" if image in self.asked else None

        def pull(self, image: str, platform: str | None = None) -> Pull:
            self.asked.append(image)
            return cast(Pull, SimpleNamespace(wait=lambda: None))

    counted = Metrics("host")
    assert asyncio.run(_want(ImagePulls(60, lambda: None, metrics=counted), Pulls(), "a")) == "sha256:2"
    assert value(counted.collect(), "orqal_image_requests_total", result="pulled") == 1
    assert value(counted.collect(), "orqal_image_pull_seconds_count") == 1
