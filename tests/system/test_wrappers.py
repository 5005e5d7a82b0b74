"""Users' wrappers on the running system."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from examples.local_image import make_image
from tests.support import seed
from tests.support.orqal_process import Orqal

RABIN2 = b"""#!/bin/sh
[ "$1" = -I ] || exit 64
echo "arch     x86"
echo "bin.size $(wc -c < "$2")"
echo "a line of more words"
"""
"""Stands for radare2, which cannot be had here: prints keys and values about the file it is given."""


@pytest.fixture
def radare2(tmp_path: Path) -> Iterator[str]:
    """An image called radare/radare2, and /database with a file in it."""
    client = docker.from_env()
    script = tmp_path / "rabin2"
    script.write_bytes(RABIN2)
    script.chmod(0o755)
    make_image("radare/radare2", ["sh", "wc"], extra_files={"/bin/rabin2": script})
    database, there = Path("/database"), Path("/database").exists()
    database.mkdir(exist_ok=True)
    sample = database / "orqal-test.exe"
    sample.write_bytes(b"MZ" * 21)
    yield str(sample)
    sample.unlink()
    if not there:
        database.rmdir()
    client.images.remove("radare/radare2", force=True)
    client.close()


@pytest.mark.parametrize("own", [False, True], ids=["built in", "as printed"])
def test_the_first_documents_rabin2(orqal: Orqal, services: Path, radare2: str, own: bool) -> None:
    file = services / "seed.py"
    try:
        if own:
            file.write_text(seed.RABIN2)
        apps = {app["name"]: app for app in orqal.http().get("/apps").json()}
        assert apps["Rabin2"]["origin"] == (str(file) if own else "built in")
        job = orqal.run("Rabin2", radare2)
        assert job["result"] == {"arch": "x86", "bin_size": "42"}, job
        assert job["ok"]
    finally:
        file.unlink(missing_ok=True)


def test_wrapper_of_an_installed_package(orqal: Orqal) -> None:
    apps = {app["name"]: app for app in orqal.http().get("/apps").json()}
    assert apps["LabHello"]["origin"] == "package orqal-lab"
    assert orqal.run("LabHello", "world")["result"] == {"said": "hello world"}


def test_wrapper_of_older_releases_imports(orqal: Orqal, services: Path) -> None:
    (services / "older.py").write_text(
        "from orqal.abstract import AbstractWrapper\n"
        "class Older(AbstractWrapper):\n"
        "    docker_url = 'orqal/demo'\n"
        "    threads = 1\n"
        "    memory_in_gb = 0.1\n"
        "    create_dir = True\n"
        "    def get_cmd(self, params):\n"
        "        return 'cat params.json'\n"
        "    def set_result(self, job):\n"
        "        job.set_result(job.stdout[0])\n"
    )
    job = orqal.run("Older", params={"b": 1, "a": "ä"})
    assert job["result"] == '{"b": 1, "a": "\\u00e4"}'
    assert job["cmd"] == "cat params.json"
    # It ran in the job's directory, which anyone in the container may write to.
    assert job["lswd"] == ["params.json"]
    assert (Path(job["wd"]).stat().st_mode & 0o777) == 0o777
    assert Path(job["wd"]).name == job["_id"]


def test_a_changed_wrapper_file_is_used_at_once(orqal: Orqal, services: Path) -> None:
    text = (
        "class Changing(AbstractWrapper):\n"
        "    docker_url = 'orqal/demo'\n"
        "    threads, memory_in_gb, network = 0.5, 0.05, 'none'\n"
        "    def get_cmd(self, params):\n"
        "        return ['echo', 'WORD']\n"
    )
    for word in ("first", "second one"):
        (services / "changing.py").write_text(text.replace("WORD", word))
        assert orqal.run("Changing")["stdout"] == [word, ""]


def test_container_is_named_and_labelled_for_its_job(orqal: Orqal) -> None:
    job_id = orqal.submit("Test", params={"echo": "here", "time": 1000})
    orqal.logs_until(job_id, b"here")
    [container] = orqal.containers()
    assert container.name == f"demo_{job_id}"
    assert container.labels["orqal.job"] == job_id
    assert container.attrs["Config"]["WorkingDir"] == "", (
        "it has no directory, so its program starts where the image says"
    )


def test_images_own_command_stands(orqal: Orqal) -> None:
    client = docker.from_env()
    text = b'FROM orqal/demo\nWORKDIR /somewhere\nCMD ["sh", "-c", "echo own; pwd"]\n'
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    archive.seek(0)
    image, _ = client.images.build(fileobj=archive, custom_context=True, tag="orqal-test/own", rm=True)
    try:
        job = orqal.run("Run", params={"image": "orqal-test/own"})
        assert job["stdout"] == ["own", "/somewhere", ""]
    finally:
        client.images.remove(str(image.id), force=True)
        client.close()
