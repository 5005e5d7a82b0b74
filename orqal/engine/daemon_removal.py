"""Has a Docker daemon remove what its root owns, where this process may not.

Programs in containers are root as a rule, and so their files in a job's directory are root's on the host. If Orqal is
another user there, it can remove the directory only through the daemon.

No program runs for that. The daemon gets an image without any file, a container of it that sees the folder and is never
started, and a tar to unpack there: with an empty file for each name that is to go. What has this name is removed first,
with all that is in it, and links are not followed (`createTarFile` and `Unpack` in moby's pkg/archive, since 24 in
github.com/moby/go-archive). The empty files stay.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from docker import APIClient
from docker.types import Mount

LABEL_REMOVER = "orqal.remover"
"""The cluster whose container, or image, this is."""
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
    with _container(api, cluster, folder) as container:
        for name in names:
            api.put_archive(container, _SEEN_AT, _one_empty_file(name))


@contextmanager
def _container(api: APIClient, cluster: str, folder: Path) -> Iterator[str]:
    _remove_leftovers(api, cluster)
    try:
        answer: str = api.import_image_from_data(_EMPTY_TAR, changes=[f"LABEL {LABEL_REMOVER}={cluster}"])
        image = json.loads(answer.splitlines()[-1])["status"]
        container: str = api.create_container(
            image=image,
            command=["never-started"],
            labels={LABEL_REMOVER: cluster},
            host_config=api.create_host_config(mounts=[Mount(_SEEN_AT, str(folder), type="bind")], network_mode="none"),
        )["Id"]
        yield container
    finally:
        _remove_leftovers(api, cluster)


def _remove_leftovers(api: APIClient, cluster: str) -> None:
    """Remove the container and the image, also those of a process that was killed before it could."""
    mine = {"label": f"{LABEL_REMOVER}={cluster}"}
    for container in api.containers(all=True, filters=mine):
        api.remove_container(container["Id"], force=True)
    for image in api.images(filters=mine):
        api.remove_image(image["Id"], force=True)


def _one_empty_file(name: str) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()
