"""The one place that speaks to a Docker daemon.

Blocking calls on the docker SDK: callers that must not block use threads. Containers of Orqal bear the labels
LABEL_CLUSTER, LABEL_JOB and LABEL_ATTEMPT; no other container is ever touched.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import docker
import docker.errors
import requests
from docker.types import LogConfig
from docker.utils import version_gte

from orqal.models import ErrorType, Resources

LABEL_CLUSTER = "orqal.cluster"
LABEL_JOB = "orqal.job"
LABEL_ATTEMPT = "orqal.attempt"

STDOUT, STDERR = 1, 2
"""Docker's numbers of the streams."""

_CONNECT_TIMEOUT = 60.0
_POOL = 64


class EngineError(Exception):
    """A daemon's refusal or silence, as the error that a job may end with."""

    def __init__(self, type: ErrorType, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.exit_code = exit_code


class Unreachable(EngineError):
    """The daemon does not answer. What was asked may have been done or not."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorType.DOCKER_ERROR, message)


class EngineInfo(NamedTuple):
    """What a daemon says of itself."""

    name: str
    version: str
    threads: int
    ram_bytes: int
    id: str
    cgroup_driver: str
    """`cgroupfs`, `systemd` or `none`."""
    local: bool
    """It runs on this machine, and not in a virtual one of its own."""
    data_root: str = ""
    """The folder of its images and containers, on its machine."""


class ContainerKey(NamedTuple):
    """An attempt of a job: at most one container of a cluster bears it."""

    job: str
    attempt: int


@dataclass(frozen=True)
class ContainerSpec:
    """A container to be made. The names are those of the Engine API."""

    key: ContainerKey
    image: str
    cmd: str | list[str]
    resources: Resources
    volumes: Mapping[str, Mapping[str, str]]
    environment: dict[str, str]
    working_dir: str | None
    network: str | None
    pids_limit: int
    cgroup_parent: str | None
    """The cgroup to put it in; None: the daemon's own choice."""


class Ended(NamedTuple):
    """How a container ended."""

    exit_code: int
    out_of_memory: bool
    state: dict[str, Any]
    """`State` of `docker inspect`."""


class Frame(NamedTuple):
    """A piece of output: its stream (STDOUT or STDERR) and its bytes."""

    stream: int
    data: bytes


class Engine:
    """A Docker daemon: the one of DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, or the local socket."""

    def __init__(self, cluster: str) -> None:
        """`cluster` marks the containers as ours. Unreachable: no daemon answers."""
        self.cluster = cluster
        with _translated("connect"):
            self._client = docker.from_env(timeout=int(_CONNECT_TIMEOUT), max_pool_size=_POOL)
        self._api = self._client.api
        self._pulls: dict[str, threading.Lock] = {}
        self._pulls_lock = threading.Lock()

    def info(self) -> EngineInfo:
        """What the daemon is, and the capacity of its machine."""
        with _translated("info"):
            info = self._api.info()
        # A socket here may lead to another machine, or into a virtual one.
        here = info["Name"], info["KernelVersion"]
        return EngineInfo(
            name=info["Name"],
            version=info["ServerVersion"],
            threads=int(info["NCPU"]),
            ram_bytes=int(info["MemTotal"]),
            id=info["ID"],
            cgroup_driver=info["CgroupDriver"],
            data_root=info["DockerRootDir"],
            local=_by_socket() and here == (os.uname().nodename, os.uname().release),
        )

    # Images

    def ensure_image(self, image: str) -> str:
        """Have the image here, pulling it if it is not: its id. Many who want one image make one pull."""
        reference = with_tag(image)
        found = self._image_id(reference)
        if found:
            return found
        with self._pulls_lock:
            lock = self._pulls.setdefault(reference, threading.Lock())
        with lock:
            return self._image_id(reference) or self._pull(reference)

    def images(self) -> frozenset[str]:
        """The names, with tag or digest, of all images that are here."""
        with _translated("list the images"):
            found = self._api.images()
        return frozenset(name for image in found for kind in ("RepoTags", "RepoDigests") for name in image[kind] or ())

    def image_digests(self, images: Iterable[str]) -> dict[str, str]:
        """The ids of those of these images that are here."""
        found = {image: self._image_id(with_tag(image)) for image in images}
        return {image: digest for image, digest in found.items() if digest is not None}

    def _image_id(self, reference: str) -> str | None:
        with _translated("inspect the image"):
            try:
                image_id: str = self._api.inspect_image(reference)["Id"]  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None
            except docker.errors.APIError as error:
                if error.status_code != 400:
                    raise
                raise EngineError(
                    ErrorType.IMAGE_NOT_FOUND, f"{reference!r} is not the name of an image: {_words(error)}"
                ) from error
            return image_id

    def _pull(self, reference: str) -> str:
        try:
            image = self._client.images.pull(reference)
        except docker.errors.NotFound as error:
            raise EngineError(
                ErrorType.IMAGE_NOT_FOUND,
                f"there is no image {reference!r}, neither on the host nor in its registry: {_words(error)}. "
                "Check the name and tag; a private registry may ask for `docker login` on the host.",
            ) from error
        except docker.errors.APIError as error:
            words = _words(error)
            # Docker Hub and others answer "denied" for what does not exist.
            missing = re.search(r"not found|manifest unknown|does not exist|invalid reference", words)
            kind = ErrorType.IMAGE_NOT_FOUND if missing else ErrorType.PULL_FAILED
            raise EngineError(
                kind,
                f"the image {reference!r} is not on the host and could not be pulled: {words}. "
                f"Check the name and the host's network, or load it there (`docker load`, `docker import`).",
            ) from error
        except requests.RequestException as error:
            raise Unreachable(f"the Docker daemon went away during the pull of {reference!r}: {error}") from error
        return str(image.id)

    # Containers

    def create(self, spec: ContainerSpec) -> str:
        """Make a container, not yet started: its id. If it is there already, its id too."""
        with _translated("create the container"):
            host_config = self._api.create_host_config(
                binds=dict(spec.volumes),
                nano_cpus=spec.resources.nano_cpus,
                mem_limit=spec.resources.mem_bytes,
                # Equal to mem_limit: no swap on top of it.
                memswap_limit=spec.resources.mem_bytes,
                pids_limit=spec.pids_limit,
                cgroup_parent=spec.cgroup_parent,
                security_opt=["no-new-privileges"],
                network_mode=spec.network,
                # The driver "local" keeps bytes that are not UTF-8, which "json-file" replaces. By default it drops
                # the oldest output beyond 100 MB: no part of an output may be lost.
                log_config=LogConfig(type="local", config={"max-size": "1t", "max-file": "1", "compress": "false"}),
            )
            try:
                container = self._api.create_container(
                    image=with_tag(spec.image),
                    # None lets the image's own command stand.
                    command=spec.cmd or None,
                    host_config=host_config,
                    environment=spec.environment,
                    working_dir=spec.working_dir,
                    name=container_name(spec.image, spec.key),
                    labels={
                        LABEL_CLUSTER: self.cluster,
                        LABEL_JOB: spec.key.job,
                        LABEL_ATTEMPT: str(spec.key.attempt),
                    },
                )
            except docker.errors.APIError as error:
                existing = self.find(spec.key) if error.status_code == 409 else None
                if existing is None:
                    raise
                return existing
        return str(container["Id"])

    def find(self, key: ContainerKey) -> str | None:
        """The id of an attempt's container, if it is there."""
        labels = [*self._label, f"{LABEL_JOB}={key.job}", f"{LABEL_ATTEMPT}={key.attempt}"]
        with _translated("look for the container"):
            found = self._api.containers(all=True, filters={"label": labels})
        return str(found[0]["Id"]) if found else None

    def start(self, container: str) -> None:
        """Start it; nothing happens if it runs already."""
        with _translated("start the container"):
            self._api.start(container)

    def ended(self, container: str) -> Ended | None:
        """How it ended; None: it has not."""
        with _translated("inspect the container"):
            state = self._api.inspect_container(container)["State"]
        if state["Status"] not in ("exited", "dead"):
            return None
        return Ended(int(state["ExitCode"]), bool(state["OOMKilled"]), state)

    def started(self, container: str) -> bool:
        """True when it has been started, whether or not it has ended."""
        with _translated("inspect the container"):
            state = self._api.inspect_container(container)["State"]
        return bool(state["Status"] != "created")

    def stats(self, container: str) -> dict[str, Any]:
        """What it uses at this moment, as the Engine API says it. The answer takes the daemon up to a second."""
        with _translated("tell what the container uses"):
            # Without one-shot, which Docker 20.10 (API 1.41) brought, the daemon waits for a second measurement.
            one_shot = version_gte(self._api.api_version, "1.41") or None
            stats: dict[str, Any] = self._api.stats(container, stream=False, one_shot=one_shot)
        return stats

    def stop(self, container: str, grace: int) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds. A container that is gone or has ended is left so."""
        with _translated("stop the container"):
            try:
                self._api.stop(container, timeout=grace)
            except docker.errors.NotFound:
                return

    def remove(self, container: str) -> None:
        """Remove it with its output, running or not. A container that is gone is left so."""
        with _translated("remove the container"):
            try:
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # 409: it is being removed already
                    raise

    def logs(self, container: str, *, stdout: bool = True, stderr: bool = True, follow: bool = False) -> Logs:
        """Its output so far, and, to `follow`, what comes until it ends."""
        flags = {"stdout": int(stdout), "stderr": int(stderr), "follow": int(follow)}
        url = f"{self._api.base_url}/v{self._api.api_version}/containers/{container}/logs"
        with _translated("read the output"):
            # The SDK's own logs() glues the streams together; its client is a requests session.
            response = self._api.get(url, params=flags, stream=True, timeout=(_CONNECT_TIMEOUT, None))
            if response.status_code == 404:
                raise EngineError(ErrorType.DOCKER_ERROR, f"there is no container {container}")
            response.raise_for_status()
        return Logs(response, follow)

    def own_containers(self) -> Iterator[tuple[ContainerKey, str, str]]:
        """All containers of this cluster here: whose, id, state in Docker's words."""
        with _translated("list the containers"):
            found = self._api.containers(all=True, filters={"label": self._label})
        for container in found:
            labels = container["Labels"]
            if labels.get(LABEL_ATTEMPT, "").isdigit() and LABEL_JOB in labels:
                key = ContainerKey(labels[LABEL_JOB], int(labels[LABEL_ATTEMPT]))
                yield key, str(container["Id"]), str(container["State"])

    def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What `docker info` says, and `docker inspect` of each running container of this cluster."""
        with _translated("tell of itself"):
            running = self._api.containers(filters={"label": self._label})
            inspected = []
            for container in running:
                with suppress(docker.errors.NotFound):  # it has gone meanwhile
                    inspected.append(self._api.inspect_container(container["Id"]))
            return self._api.info(), inspected

    def images_in_use(self) -> dict[str, int]:
        """Running containers per image, strangers' too: the load of the host."""
        counts: dict[str, int] = {}
        with _translated("list the containers"):
            for container in self._api.containers():
                counts[container["Image"]] = counts.get(container["Image"], 0) + 1
        return counts

    def deaths(self) -> Deaths:
        """The ids of this cluster's containers as they end, from now on."""
        with _translated("listen to events"):
            filters = {"type": "container", "event": "die", "label": self._label}
            return Deaths(self._client.events(decode=True, filters=filters))

    @property
    def _label(self) -> list[str]:
        return [f"{LABEL_CLUSTER}={self.cluster}"]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Logs:
    """An output that is being read, frame by frame. Close it to stop early, from any thread."""

    def __init__(self, response: requests.Response, follow: bool) -> None:
        self._response = response
        # Docker sends each line as a chunk of its own. Who does not wait for lines takes many at once.
        self._chunk = None if follow else 1 << 18

    def __iter__(self) -> Iterator[Frame]:
        try:
            yield from frames(self._response.iter_content(self._chunk))
        except (requests.RequestException, OSError, AttributeError) as error:
            # AttributeError: closed by another thread while it waited for more.
            raise Unreachable(f"the output broke off: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the connection; a reader that waits for more is woken."""
        _shutdown(self._response)
        self._response.close()


class Deaths:
    """A stream of container ids. Ends when the daemon does; close it from another thread to end it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        try:
            for event in self._stream:
                yield str(event["Actor"]["ID"])
        except (requests.RequestException, docker.errors.DockerException, OSError, ValueError):
            return

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


def frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Docker's multiplexed stream, however it is cut into chunks: a header of 8 bytes (stream, 0, 0, 0, length as
    uint32 big endian), then the bytes. Frames come whole; a last one that is not is left out.

    https://docs.docker.com/reference/api/engine/ (Attach to a container, "Stream format")
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start >= 8:
            end = start + 8 + int.from_bytes(buffer[start + 4 : start + 8], "big")
            if len(buffer) < end:
                break
            yield Frame(buffer[start], bytes(buffer[start + 8 : end]))
            start = end
        del buffer[:start]


def multiplexed(frame: Frame) -> bytes:
    """A frame in Docker's stream format."""
    return bytes([frame.stream, 0, 0, 0]) + len(frame.data).to_bytes(4, "big") + frame.data


def with_tag(image: str) -> str:
    """The image with its tag: `latest` unless given. A digest stands for itself."""
    return image if "@" in image or ":" in image.rsplit("/", 1)[-1] else f"{image}:latest"


def container_name(image: str, key: ContainerKey) -> str:
    """The name of an attempt's container: `<image>_<job id>`, and from the second attempt on its number."""
    repository = re.sub(r"@.*|:[^/]*$", "", image).rsplit("/", 1)[-1]
    return f"{repository}_{key.job}" + (f"_{key.attempt}" if key.attempt > 1 else "")


@contextmanager
def _translated(action: str) -> Iterator[None]:
    """Turn the SDK's exceptions into EngineError, with words for the job's user."""
    try:
        yield
    except docker.errors.APIError as error:
        words, code = _words(error), None
        if re.search(r"executable file not found|exec.*no such file or directory", words):
            code, words = 127, f"the command does not exist in the image: {words}"
        elif re.search(r"exec.*permission denied", words):
            code, words = 126, f"the command cannot be executed in the image: {words}"
        raise EngineError(ErrorType.DOCKER_ERROR, f"Docker would not {action}: {words}", code) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise Unreachable(
            f"the Docker daemon does not answer ({action}: {error}). Is it running? `docker info` tells."
        ) from error


def _by_socket() -> bool:
    return (os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://")


def _words(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip().rstrip(".")


def _shutdown(response: requests.Response) -> None:
    """Wake a thread that waits in a read of this response: closing alone would not."""
    connection = getattr(response.raw, "_connection", None)
    sock = getattr(connection, "sock", None)
    if isinstance(sock, socket.socket):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
