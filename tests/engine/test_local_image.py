"""Images made from this machine's own programs, in a Docker engine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from examples.local_image import make_image
from orqal.engine.client import Engine

IMAGE = f"orqal-test/local-image-{os.getpid()}"


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    for image in client.images.list(name=IMAGE):
        client.images.remove(str(image.id), force=True)
    client.close()


@pytest.mark.docker
def test_program_in_the_image_reads_a_mounted_file(client: docker.DockerClient, tmp_path: Path) -> None:
    data = b"one line\nand another\n" * 1000
    (tmp_path / "data").write_bytes(data)
    make_image(IMAGE, ["sh", "sha256sum", "wc"], client=client)

    output = client.containers.run(
        IMAGE,
        ["sh", "-c", "sha256sum < /mnt/data && wc -l < /mnt/data"],
        volumes={str(tmp_path): {"bind": "/mnt", "mode": "ro"}},
        remove=True,
    )

    assert output.decode().split() == [hashlib.sha256(data).hexdigest(), "-", "2000"]


@pytest.mark.docker
def test_an_image_that_is_made_on_each_host_is_the_same_for_the_doctor(client: docker.DockerClient) -> None:
    one, two, three = (f"{IMAGE}:{tag}" for tag in ("one", "two", "three"))
    ids = {make_image(one, ["true"], client=client), make_image(two, ["true"], client=client)}
    assert len(ids) == 2, "it was made once only"
    make_image(three, ["true"], command=["true"], client=client)
    with contextlib.closing(Engine("test")) as engine:
        found = engine.image_identities([one, two, three, f"{IMAGE}:missing", "No Name"])
    assert list(found) == [one, two, three]
    assert {image.id for image in (found[one], found[two])} == ids
    assert found[one].is_same_as(found[two]) and not found[one].is_same_as(found[three])


@pytest.mark.docker
def test_image_has_command_extra_files_and_a_tmp_for_everyone(client: docker.DockerClient) -> None:
    make_image(
        IMAGE,
        ["sh", "cat"],
        extra_files={"/data/greeting": b"hello\n"},
        command=["sh", "-c", "cat /data/greeting > /tmp/copy; cat /tmp/copy"],
        client=client,
    )

    assert client.containers.run(IMAGE, user="nobody", remove=True) == b"hello\n"


@pytest.mark.docker
def test_same_content_is_the_same_image(client: docker.DockerClient) -> None:
    first = make_image(IMAGE, ["cat"], client=client)

    assert make_image(IMAGE, ["cat"], client=client) == first
    assert make_image(f"{IMAGE}:other", ["wc"], client=client) != first
