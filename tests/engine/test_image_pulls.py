"""Images are had from a real registry: once for all who wait, again while it may come back, and not for long."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import secrets
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from orqal.actors.host.image_pulls import ImagePulls, WantedImage
from orqal.engine import client as docker_engine
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.engine.streams import Pull
from orqal.models import ErrorType
from tests.support import registry as registries
from tests.support.registry import Registry, a_registry

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def the_registry() -> Iterator[Registry]:
    if reason := registries.missing():
        if os.environ.get("ORQAL_REQUIRE_CLUSTER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with a_registry() as registry:
        yield registry


@pytest.fixture
def registry(the_registry: Registry) -> Iterator[Registry]:
    yield the_registry
    the_registry.gate.unlock()


@pytest.fixture
def image(registry: Registry) -> Iterator[str]:
    """An image that only the registry has, with 8 MB."""
    image = registry.push(f"test/{secrets.token_hex(4)}", megabytes=8)
    yield f"{image}:latest"
    with contextlib.closing(docker.from_env()) as client, contextlib.suppress(docker.errors.ImageNotFound):
        client.images.remove(image)


@pytest.fixture
def logins(registry: Registry, tmp_path: Path) -> Path:
    file = tmp_path / "logins.json"
    file.write_text(registry.logins())
    return file


@pytest.fixture
def engine(logins: Path) -> Iterator[Engine]:
    engine = Engine("test", logins)
    yield engine
    engine.close()


async def have(pulls: ImagePulls, engine: Engine, image: str) -> str:
    with pulls.of(engine, image) as wanted:
        return await wanted.id


async def told(wanted: WantedImage, words: str) -> str:
    """What is told of a pull, once these words are in it."""
    while words not in str(wanted):  # noqa: ASYNC110 - the thread that pulls tells nobody
        await asyncio.sleep(0.02)
    return str(wanted)


def played(scene: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(scene)
    def test(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(scene(**fixtures), 60))

    return test


@played
async def test_many_who_want_an_image_make_one_pull(registry: Registry, engine: Engine, image: str) -> None:
    news = []
    pulls = ImagePulls(60, lambda: news.append(pulls.under_way))
    ids = await asyncio.gather(*(have(pulls, engine, image) for _ in range(100)))
    assert set(ids) == {engine.image_id(image)} and None not in ids
    assert registry.fetched(image.removesuffix(":latest")) == 1
    assert news == [{image}]
    assert pulls.under_way == frozenset()
    # It is here now.
    await have(pulls, engine, image)
    assert news == [{image}]


@played
async def test_an_image_by_its_digest(registry: Registry, engine: Engine, image: str) -> None:
    """Whatever becomes of its tag."""
    id = await have(ImagePulls(60, lambda: None), engine, image)
    with contextlib.closing(docker.from_env()) as client:
        [by_digest] = client.images.get(image).attrs["RepoDigests"]
        client.images.remove(image)
        assert "@sha256:" in by_digest and engine.image_id(by_digest) is None
        news = []
        pulls = ImagePulls(60, lambda: news.append(pulls.under_way))
        try:
            assert await have(pulls, engine, by_digest) == await have(pulls, engine, by_digest) == id
            assert news == [{by_digest}], "it was pulled again although it is here"
        finally:
            client.images.remove(by_digest)


@played
async def test_a_pull_tells_how_far_it_is_and_outlives_who_leaves(
    registry: Registry, engine: Engine, image: str
) -> None:
    pulls = ImagePulls(60, lambda: None)
    registry.gate.limit(3 << 20)
    with pulls.of(engine, image) as stays:
        with pulls.of(engine, image) as leaves:
            assert re.fullmatch(rf"pulling {image}: \d of \d+ MB", await told(leaves, " of "))
        assert pulls.under_way == {image}
        registry.gate.unlock()
        assert await stays.id == engine.image_id(image)
    assert registry.fetched(image.removesuffix(":latest")) == 1


@pytest.mark.parametrize("size", [0, 3 << 20], ids=["before it begins", "on its way"])
@played
async def test_what_nobody_wants_any_more_is_stopped(registry: Registry, engine: Engine, image: str, size: int) -> None:
    news = []
    pulls = ImagePulls(60, lambda: news.append(pulls.under_way))
    registry.gate.limit(size)
    with pulls.of(engine, image) as alone:
        await told(alone, " of " if size else "pulling")
    assert pulls.under_way == frozenset() and news == [{image}, frozenset()]
    if size:
        # Docker notices that nobody listens when it has something to tell.
        registry.gate.limit(size)
        assert await asyncio.to_thread(registry.gate.let_go)
    registry.gate.unlock()
    assert await have(pulls, engine, image) == engine.image_id(image)


@played
async def test_a_registry_that_comes_back(registry: Registry, engine: Engine, image: str) -> None:
    registry.gate.shut()
    with ImagePulls(60, lambda: None).of(engine, image) as wanted:
        assert "refused" in await told(wanted, "trying again")
        registry.gate.unlock()
        assert await wanted.id == engine.image_id(image)


@played
async def test_a_registry_that_goes_amid_a_pull_and_comes_back(registry: Registry, engine: Engine, image: str) -> None:
    registry.gate.limit(3 << 20)
    with ImagePulls(60, lambda: None).of(engine, image) as wanted:
        await told(wanted, " of ")
        registry.gate.shut()
        assert await asyncio.to_thread(registry.gate.let_go)
        registry.gate.unlock()
        assert await wanted.id == engine.image_id(image)


@played
async def test_a_registry_that_stays_away(registry: Registry, engine: Engine, image: str) -> None:
    news = []
    pulls = ImagePulls(1.5, lambda: news.append(pulls.under_way))
    registry.gate.shut()
    with pytest.raises(EngineError, match=r"Check the name, the registry.*Tried for \d+ s") as caught:
        await have(pulls, engine, image)
    assert caught.value.type is ErrorType.PULL_FAILED and caught.value.passing
    assert news == [{image}, frozenset()]


@played
async def test_a_registry_that_is_silent(
    registry: Registry, engine: Engine, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "_SILENCE", 1.0)
    registry.gate.limit(3 << 20)
    with pytest.raises(EngineError, match="silent") as caught:
        await have(ImagePulls(0, lambda: None), engine, image)
    assert caught.value.passing


@pytest.mark.parametrize(
    ("file", "tag", "kind", "words"),
    [
        (
            lambda r: r.logins("wrong"),
            "latest",
            ErrorType.PULL_FAILED,
            "unauthorized.*credentials.*ORQAL_REGISTRY_AUTH",
        ),
        (lambda r: "{}", "latest", ErrorType.PULL_FAILED, "unauthorized.*credentials.*ORQAL_REGISTRY_AUTH"),
        (lambda r: "[]", "latest", ErrorType.PULL_FAILED, "ORQAL_REGISTRY_AUTH.*cannot be read"),
        (None, "latest", ErrorType.PULL_FAILED, "ORQAL_REGISTRY_AUTH.*cannot be read"),
        (lambda r: r.logins(), "none", ErrorType.IMAGE_NOT_FOUND, "there is no image"),
    ],
    ids=["wrong password", "no login", "not a config", "no file", "no such tag"],
)
@played
async def test_what_would_be_refused_again_is_not_tried_again(
    registry: Registry, engine: Engine, image: str, logins: Path, file: Any, tag: str, kind: ErrorType, words: str
) -> None:
    logins.unlink()  # noqa: ASYNC240 - nobody else waits here
    if file:
        logins.write_text(file(registry))  # noqa: ASYNC240
    image = image.replace(":latest", f":{tag}")
    asked: list[str] = []
    pull = engine.pull

    def counted(image: str, platform: str | None = None) -> Pull:
        asked.append(image)
        return pull(image, platform)

    engine.pull = counted  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=words) as caught:
        await have(ImagePulls(60, lambda: None), engine, image)
    assert caught.value.type is kind and not caught.value.passing
    assert asked == [image]


@played
async def test_docker_s_own_credentials(
    registry: Registry, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of somebody who logs in while the daemon is connected."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine = Engine("test")
    with pytest.raises(EngineError, match="unauthorized"):
        await have(ImagePulls(60, lambda: None), engine, image)
    (tmp_path / "config.json").write_text(registry.logins())
    assert await have(ImagePulls(60, lambda: None), engine, image) == engine.image_id(image)
    engine.close()
