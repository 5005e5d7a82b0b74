"""Make a Docker image from this machine's own programs and their libraries, without a registry.

    python examples/local_image.py                                   # orqal/demo, with the demo's programs
    python examples/local_image.py my/tools sh grep samtools         # an image of your own

The image holds each program as /bin/NAME, its libraries at the same paths as here, /etc/passwd and /tmp.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from os.path import normpath
from pathlib import Path
from typing import IO

import docker

DEMO_IMAGE = "orqal/demo"
DEMO_PROGRAMS = ("sh", "cat", "echo", "sha256sum", "sleep", "true", "wc")
CONTENT_LABEL = "orqal.content"

Content = Path | bytes
"""The content of a file: a file of this machine, with its mode, or bytes."""

BASE_FILES: dict[str, Content] = {
    "/etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}
STANDARD_LIBRARY_FOLDER = re.compile(r"(/usr)?/lib(32|64)?(/[a-z0-9_]+-linux-[a-z0-9]+)?")
"""Folders that the loader searches by itself."""


class LocalImageError(Exception):
    """A program cannot be put into an image. The message says which and why."""


def find_program(name: str) -> Path:
    """Return the executable file of a program on the PATH, after following links.

    Raises:
        LocalImageError: there is no such program, or it is a script, which would need its interpreter.
    """
    found = shutil.which(name)
    if found is None:
        raise LocalImageError(f"{name}: no such program on the PATH")
    program = Path(found).resolve()
    with program.open("rb") as file:
        start = file.read(4)
    if start != b"\x7fELF":
        what = "a script" if start.startswith(b"#!") else "not a Linux executable"
        raise LocalImageError(f"{name}: {program} is {what}; only compiled programs can be used")
    return program


def parse_ldd(text: str) -> list[Path]:
    """Return the libraries in the output of ldd, including the loader.

    Raises:
        LocalImageError: a library is missing on this machine.
    """
    missing = re.findall(r"(\S+) => not found", text)
    if missing:
        raise LocalImageError(f"this machine lacks these libraries: {', '.join(missing)}")
    return [Path(normpath(path)) for path in re.findall(r"(/\S+) \(0x", text)]


def libraries(program: Path) -> list[Path]:
    """Return the libraries that a program loads. A statically linked program loads none."""
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return parse_ldd(answer.stdout) if answer.returncode == 0 else []


def collect(programs: Iterable[str]) -> dict[str, Content]:
    """Return the files that these programs need: path in the image -> file of this machine."""
    files: dict[str, Content] = {}
    for name in programs:
        program = find_program(name)
        files[f"/bin/{Path(name).name}"] = program
        files.update({str(library): library for library in libraries(program)})
    return files


def environment(files: Iterable[str]) -> dict[str, str]:
    """Return the environment that an image with these files needs."""
    # /bin comes first, because a job may mount the host's /usr/bin, whose programs load libraries that the image lacks.
    variables = {"PATH": "/bin:/usr/bin"}
    folders = {str(Path(path).parent) for path in files if ".so" in Path(path).name}
    unusual = sorted(folder for folder in folders if not STANDARD_LIBRARY_FOLDER.fullmatch(folder))
    if unusual:
        variables["LD_LIBRARY_PATH"] = ":".join(unusual)
    return variables


def write_tar(files: Mapping[str, Content], to: IO[bytes]) -> None:
    """Write a tar with these files as the root of a file system. The same content gives the same bytes."""

    def entry(path: str, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
        info = tarfile.TarInfo(path.lstrip("/"))
        info.mode, info.type = mode, kind
        return info

    folders = {str(folder) for path in files for folder in Path(path).parents} - {"/"}
    with tarfile.open(fileobj=to, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder in sorted(folders):
            tar.addfile(entry(folder, 0o755, tarfile.DIRTYPE))
        tar.addfile(entry("/tmp", 0o1777, tarfile.DIRTYPE))  # noqa: S108 - the image's own folder
        for path, content in sorted(files.items()):
            mode = content.stat().st_mode & 0o777 if isinstance(content, Path) else 0o644
            with content.open("rb") if isinstance(content, Path) else BytesIO(content) as data:
                info = entry(path, mode)
                info.size = data.seek(0, 2)
                data.seek(0)
                tar.addfile(info, data)


def make_image(
    name: str,
    programs: Iterable[str],
    *,
    extra_files: Mapping[str, Content] | None = None,
    command: list[str] | None = None,
    entrypoint: list[str] | None = None,
    client: docker.DockerClient | None = None,
) -> str:
    """Make an image of these programs and return its id. An image that has this content already is kept.

    Args:
        name: the image's name, with or without a tag.
        programs: names on the PATH, or paths.
        extra_files: path in the image -> content.
        command: the image's default command.
        entrypoint: what the image starts before any command.
        client: the Docker engine; by default that of the environment (DOCKER_HOST).

    Raises:
        LocalImageError: a program is missing or is a script, or the engine refused the image.
    """
    files = BASE_FILES | collect(programs) | dict(extra_files or {})
    changes = [f'ENV {key}="{value}"' for key, value in environment(files).items()]
    if command:
        changes.append(f"CMD {json.dumps(command)}")
    if entrypoint:
        changes.append(f"ENTRYPOINT {json.dumps(entrypoint)}")
    with tempfile.TemporaryFile() as tar:
        write_tar(files, tar)
        tar.seek(0)
        digest = hashlib.sha256("\n".join(changes).encode())
        for block in iter(lambda: tar.read(1 << 20), b""):
            digest.update(block)
        tar.seek(0)
        return _import(client or docker.from_env(), name, tar, digest.hexdigest(), changes)


def _import(client: docker.DockerClient, name: str, tar: IO[bytes], digest: str, changes: list[str]) -> str:
    for image in client.images.list(name=name, filters={"label": f"{CONTENT_LABEL}={digest}"}):
        return str(image.id)
    repository, tag = _split(name)
    client.api.import_image(tar, repository, tag, changes=[*changes, f"LABEL {CONTENT_LABEL}={digest}"])
    try:
        return str(client.images.get(name).id)
    except docker.errors.ImageNotFound:
        raise LocalImageError(f"the Docker engine refused the image {name}; its log says why") from None


def _split(name: str) -> tuple[str, str]:
    """Return the repository and the tag. A colon before the last slash belongs to a registry's port."""
    head, slash, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    return head + slash + repository, tag or "latest"


def main() -> int:
    """Run the command line. Return 1, and print why on standard error, if the image cannot be made."""
    parser = argparse.ArgumentParser(description="Make a Docker image from this machine's own programs.")
    parser.add_argument("image", nargs="?", default=DEMO_IMAGE, help="the image's name (default: %(default)s)")
    parser.add_argument("programs", nargs="*", help=f"default: {' '.join(DEMO_PROGRAMS)}")
    parser.add_argument("--cmd", nargs=argparse.REMAINDER, help="the image's default command; must come last")
    options = parser.parse_args()
    try:
        image = make_image(options.image, options.programs or DEMO_PROGRAMS, command=options.cmd)
    except (LocalImageError, docker.errors.DockerException) as problem:
        print(f"local_image: {problem}", file=sys.stderr)
        return 1
    print(f"{options.image} {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
