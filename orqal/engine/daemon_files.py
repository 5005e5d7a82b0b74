"""Has a Docker daemon do with files of a job what only root may: remove them, or give them to Orqal.

Programs in containers are root as a rule, and so their files in a job's directory are root's on the host. If Orqal is
another user there, it can remove some of them, and read those that their programs have closed to others, only through
the daemon.

No program runs for that. The daemon gets an image without any file, a container of it that sees the folder and is never
started, and a tar to unpack there (`createTarFile` and `Unpack` in moby's pkg/archive, since 24 in
github.com/moby/go-archive), in which links are not followed. What has a name in the tar is removed first, with all that
is in it, unless it is a folder and is to become one. What is in the tar gets its owner from there.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import tarfile
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import docker.errors
from docker import APIClient
from docker.types import Mount

from orqal.engine import job_directory
from orqal.engine.job_directory import Closed

LABEL_REMOVER = "orqal.remover"
"""The cluster whose container, or image, this is, for removing files."""
LABEL_GIVER = "orqal.giver"
"""The same for giving files to Orqal."""
_SEEN_AT = "/folder"
"""Where the container sees the folder."""
_EMPTY_TAR = bytes(2 * tarfile.BLOCKSIZE)


def replace_by_empty_files(api: APIClient, cluster: str, folder: Path, names: Iterable[str]) -> None:
    """Replace what has these names in a folder of the daemon's machine by empty files of root's, one after another.

    Nothing must be mounted below them: the daemon would empty that file system, too.

    Raises:
        docker.errors.APIError: the daemon refuses. What came before is replaced.
        requests.RequestException: it does not answer. It may still be at it.
    """
    with _container(api, LABEL_REMOVER, cluster, folder) as container:
        for name in names:
            api.put_archive(container, _SEEN_AT, _packed([tarfile.TarInfo(name)]))


def open_files(api: APIClient, cluster: str, folder: Path, within: float) -> None:
    """Make this process's user the owner of files and folders of root's below a job's directory that it may not read.

    It stops after `within` seconds. What cannot be given is left as it is. Only one call at a time may be made for a
    cluster. No program may write in the folder, which is on this machine.

    Raises:
        docker.errors.APIError: the daemon refuses to make a container.
        requests.RequestException: it does not answer.
        OSError: a file that was given cannot be read all the same.
    """
    over, tried = time.monotonic() + within, set[str]()
    with _container(api, LABEL_GIVER, cluster, folder) as container:
        # What is in a closed folder is found when that is open.
        while time.monotonic() < over and (closed := _not_in(tried, job_directory.closed_files(folder))):
            link = f".orqal-{secrets.token_hex(8)}"
            try:
                api.put_archive(container, _SEEN_AT, _packed(_given(each, link) for each in closed))
            except docker.errors.APIError:
                # The first one that is still closed is at fault. Those after it are tried again.
                tried.update(each.name for each in _not_in(tried, job_directory.closed_files(folder))[:1])
                continue
            finally:
                with suppress(FileNotFoundError):
                    (folder / link).unlink()
            tried.update(each.name for each in closed)
            for each in closed:
                if not each.is_folder and not each.mode & stat.S_IRUSR:
                    job_directory.let_owner_read(folder, each.name)


def _not_in(names: Container[str], closed: Iterable[Closed]) -> list[Closed]:
    return [each for each in closed if each.name not in names]


def _given(closed: Closed, link: str) -> tarfile.TarInfo:
    """The entry that makes this process's user the owner: of a folder itself, or of a file by a new name, `link`."""
    entry = tarfile.TarInfo(closed.name if closed.is_folder else link)
    entry.uid, entry.gid = os.getuid(), os.getgid()
    entry.mtime = closed.modified
    if closed.is_folder:
        entry.type, entry.mode = tarfile.DIRTYPE, closed.mode | stat.S_IRWXU
    else:
        # Not every daemon heeds a link's mode and time.
        entry.type, entry.linkname, entry.mode = tarfile.LNKTYPE, closed.name, closed.mode | stat.S_IRUSR
    return entry


@contextmanager
def _container(api: APIClient, label: str, cluster: str, folder: Path) -> Iterator[str]:
    _remove_leftovers(api, label, cluster)
    try:
        answer: str = api.import_image_from_data(_EMPTY_TAR, changes=[f"LABEL {label}={cluster}"])
        image = json.loads(answer.splitlines()[-1])["status"]
        container: str = api.create_container(
            image=image,
            command=["never-started"],
            labels={label: cluster},
            host_config=api.create_host_config(mounts=[Mount(_SEEN_AT, str(folder), type="bind")], network_mode="none"),
        )["Id"]
        yield container
    finally:
        _remove_leftovers(api, label, cluster)


def _remove_leftovers(api: APIClient, label: str, cluster: str) -> None:
    """Remove the container and the image, also those of a process that was killed before it could."""
    mine = {"label": f"{label}={cluster}"}
    for container in api.containers(all=True, filters=mine):
        api.remove_container(container["Id"], force=True)
    for image in api.images(filters=mine):
        api.remove_image(image["Id"], force=True)


def _packed(entries: Iterable[tarfile.TarInfo]) -> bytes:
    buffer = BytesIO()
    # In the GNU format names are bytes of any kind and length.
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for entry in entries:
            tar.addfile(entry)
    return buffer.getvalue()
