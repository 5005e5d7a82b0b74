"""The one place that speaks to a Docker daemon.

The calls block, because those of the docker SDK do; callers that must not block use threads. Orqal's containers carry
the labels LABEL_CLUSTER, LABEL_JOB and LABEL_ATTEMPT. No other container is ever touched.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import docker
import docker.auth
import docker.errors
import requests
from docker.types import LogConfig, Mount
from docker.utils import kwargs_from_env, parse_repository_tag, version_gte

from orqal.engine import daemon_files, option_arguments, this_machine
from orqal.engine.connection import Api
from orqal.engine.errors import EngineError, Unreachable, broken_off, explanation, not_pulled, translated
from orqal.engine.image_identity import ImageIdentity
from orqal.engine.image_names import is_name, with_tag
from orqal.engine.streams import Archive, Events, Logs, Pull
from orqal.models import ContainerOptions, ErrorType, Resources
from orqal.text import shorten

LABEL_CLUSTER = "orqal.cluster"
LABEL_JOB = "orqal.job"
LABEL_ATTEMPT = "orqal.attempt"
LABEL_FILES = "orqal.files"
"""Where in the container the job's directory is, if it must be fetched after the end; otherwise empty."""

LABEL_FAIL_ON_OOM = "orqal.fail-on-oom"
"""See ContainerSpec: `1` or empty."""
LABEL_DISK_CAP = "orqal.disk-cap"
"""See ContainerSpec: bytes, or empty."""
LABEL_DEVICES = "orqal.devices"
"""The ids of the devices that the job was given, separated by commas; or empty."""
LABEL_VERSION = "orqal.labels"
"""The version of all these labels. An Orqal that changes what they mean can so read those of containers that an older
one has started."""
_LABELS_VERSION = "1"

_CONNECT_TIMEOUT = 60.0
"""Seconds that the daemon may take to answer."""
_SILENCE = 300.0
"""Seconds without progress after which a pull is given up."""
_NAME_SHOWN = 200
"""Characters of an invalid name that an error shows."""
_NOT_FOR_JOBS = "AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP", "SETPCAP"
"""Capabilities that Docker gives to root in a container, and jobs do not get. With MKNOD and SETFCAP a job could leave
a device or a program in a mount that makes another user of the host root. With NET_RAW it could forge packets."""
_MADE_UP_NAME = re.compile("[0-9a-f]{64}")
"""The name that Docker gives to a volume which its user has not named."""
_EVENTS = ("die", "kill", "oom")
_ENDED = ("exited", "dead")
"""States of a container that has ended."""
_LOG_FILES, _LOG_FILES_IN_CAP = 10, 8
"""Files of a capped log. When a file is full, the oldest is dropped, so that at least 9 full ones remain: more than the
cap, by more than our count of its bytes may be wrong (see orqal.engine.output)."""
_NO_LOG_CAP = "1t"
_REMEMBERED = 256
"""Events that a daemon remembers (eventsLimit in moby's daemon/events/events.go)."""


class EngineInfo(NamedTuple):
    """What a daemon reports of itself."""

    name: str
    version: str
    threads: int
    ram_bytes: int
    id: str
    cgroup_driver: str
    """`cgroupfs`, `systemd` or `none`."""
    local: bool
    """True if it runs on this machine, and not in a virtual machine of its own."""
    data_root: str = ""
    """The folder of its images and containers, on its own machine."""
    has_init: bool = True
    """It has a program that can be process 1 of a container."""
    limits_can_be_raised: bool = False
    """It is known to be able to give containers higher limits than its own."""
    live_restore: bool = False
    """True if containers go on when it ends, and it reads their output again when it is back."""
    cdi: tuple[str, ...] = ()
    """The CDI names of the devices that it can give to containers, as far as it lists them."""
    runtimes: frozenset[str] = frozenset()
    """The OCI runtimes that it has."""
    default_runtime: str = ""


class ContainerKey(NamedTuple):
    """An attempt at a job: at most one container of a cluster carries it."""

    job: str
    attempt: int


@dataclass(frozen=True)
class ContainerSpec:
    """A container to create. The fields are named as in the Engine API."""

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
    """The cgroup to put it in; None for the daemon's own choice."""
    log_cap: int
    """Bytes of its output that the daemon keeps at least, as they are on its disk; 0 for all."""
    fail_on_oom: bool = False
    """Its end is an error if the kernel has killed any of its processes for lack of memory."""
    options: ContainerOptions = field(default_factory=ContainerOptions)
    """Without SUBMITTER as its `user`."""
    groups: Sequence[int] = ()
    """Further groups of its user."""
    disk_cap: int = 0
    """Bytes that it may write into its own files and the job's directory; 0 for no limit. Docker enforces none."""
    mounted: str | None = None
    """The job's directory, which exists at this path on the daemon's machine."""
    fetched: str | None = None
    """The job's directory if the daemon's machine does not see it: a path in the container alone."""


class Ended(NamedTuple):
    """How a container ended."""

    container: str
    exit_code: int
    out_of_memory: bool
    """The daemon says that the kernel has killed a process of it for lack of memory."""
    fail_on_oom: bool
    """See ContainerSpec."""
    state: dict[str, Any]
    """`State` of `docker inspect`."""
    fetched: str | None
    """See ContainerSpec."""
    log_cap: int
    """See ContainerSpec."""

    @property
    def ran(self) -> float:
        """Seconds from its start to its end."""
        return _seconds(self.state["FinishedAt"]) - _seconds(self.state["StartedAt"])


class MadeOf(NamedTuple):
    """What a container was made of."""

    image: str
    """The image's name, with its tag."""
    image_digest: str
    """The image's id, `sha256:` and 64 hex digits."""
    cmd: list[str]
    disk_cap: int
    """See ContainerSpec."""


class Past(NamedTuple):
    """What a daemon remembers: its last events, but none from before its own start."""

    out_of_memory: set[str]
    """Containers in which the kernel has killed a process for lack of memory."""
    started: set[str]
    """Containers that it has started."""
    killed: set[str]
    """Containers to which it has sent a signal that ends programs. A daemon without `live-restore` that finds
    containers running at its start kills them before anyone can listen."""
    ended: dict[str, int | None]
    """Containers whose end it has seen, and the exit code of the event."""
    all_since_its_start: bool
    """True if it has forgotten nothing since its start."""


class Engine:
    """A Docker daemon: the one of DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, or the local socket."""

    def __init__(self, cluster: str, logins: Path | None = None) -> None:
        """`cluster` marks the containers; `logins`: see Settings.registry_auth.

        Raises:
            Unreachable: no daemon answers.
        """
        self.cluster = cluster
        self._logins = logins
        with translated("connect"):
            self._api = Api(timeout=int(_CONNECT_TIMEOUT), **kwargs_from_env())

    def info(self) -> EngineInfo:
        """What the daemon is, and the capacity of its machine."""
        with translated("info"):
            info = self._api.info()
        # A socket here may lead to another machine, or into a virtual one.
        here = info["Name"], info["KernelVersion"]
        local = this_machine.is_asked_by_socket() and here == (os.uname().nodename, os.uname().release)
        rootless = "name=rootless" in (info.get("SecurityOptions") or ())
        return EngineInfo(
            name=info["Name"],
            version=info["ServerVersion"],
            threads=int(info["NCPU"]),
            ram_bytes=int(info["MemTotal"]),
            id=info["ID"],
            cgroup_driver=info["CgroupDriver"],
            data_root=info["DockerRootDir"],
            live_restore=bool(info.get("LiveRestoreEnabled")),
            has_init=(info.get("InitCommit") or {}).get("ID") != "N/A",
            limits_can_be_raised=local and not rootless and this_machine.daemons_may_raise_limits(),
            local=local,
            cdi=tuple(each["ID"] for each in info.get("DiscoveredDevices") or () if each.get("Source") == "cdi"),
            runtimes=frozenset(info.get("Runtimes") or ()),
            default_runtime=info.get("DefaultRuntime") or "",
        )

    def ping(self, within: float) -> None:
        """Return when the daemon has answered the simplest question.

        Raises:
            Unreachable: it does not answer within so many seconds.
        """
        with translated("answer"):
            self._api.get(f"{self._api.base_url}/_ping", timeout=within)

    # Images

    def images(self) -> frozenset[str]:
        """The names, with tag or digest, of all images that the daemon has."""
        with translated("list the images"):
            found = self._api.images()
        return frozenset(name for image in found for kind in ("RepoTags", "RepoDigests") for name in image[kind] or ())

    def image_digests(self, images: Iterable[str]) -> dict[str, str]:
        """The ids of those of these images that the daemon has."""
        found = {image: self.image_id(image) for image in images}
        return {image: digest for image, digest in found.items() if digest is not None}

    def image_identities(self, images: Iterable[str]) -> dict[str, ImageIdentity]:
        """What those of these images are that the daemon has and can describe, to compare them with other daemons'."""
        identities: dict[str, ImageIdentity] = {}
        for image in images:
            try:
                found = self._image(image)
            except Unreachable:
                raise
            except EngineError:  # its jobs will say what is wrong with it
                continue
            if found is not None:
                identities[image] = ImageIdentity.of(found)
        return identities

    def image_id(self, image: str, platform: str | None = None) -> str | None:
        """The id of an image; None if the daemon does not have it, or not for this platform.

        Raises:
            EngineError: this is not the name of an image.
        """
        found = self._image(image)
        if found is None or (platform is not None and not _is_for(platform, found)):
            return None
        return str(found["Id"])

    def _image(self, image: str) -> Mapping[str, Any] | None:
        """An image as the daemon describes it; None if the daemon does not have it."""
        reference = _reference(image)
        with translated("inspect the image"):
            try:
                found: Mapping[str, Any] = self._api.inspect_image(reference)  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None
            except docker.errors.APIError as error:
                if error.status_code != 400:
                    raise
                raise _no_name(reference, f": {explanation(error)}") from error
        return found

    def pull(self, image: str, platform: str | None = None) -> Pull:
        """Begin to pull an image. `platform`: such as `linux/arm64`; None is the daemon's own.

        Raises:
            EngineError: it cannot be pulled; see `passing`. Waiting for the pull may raise this, too.
        """
        reference = _reference(image)
        try:
            repository, tag = parse_repository_tag(reference)
            login = self._login(reference, repository)
            response = self._api.post(
                f"{self._api.base_url}/v{self._api.api_version}/images/create",
                params={"fromImage": repository, "tag": tag} | ({"platform": platform} if platform else {}),
                headers={"X-Registry-Auth": login} if login else {},
                stream=True,
                timeout=(_CONNECT_TIMEOUT, _SILENCE),
            )
        except requests.RequestException as error:
            raise broken_off(reference, error) from error
        if response.status_code != 200:
            raise not_pulled(reference, _message(response), response.status_code)
        return Pull(reference, response, _SILENCE)

    def _login(self, reference: str, repository: str) -> bytes | None:
        """The credentials for a registry. They are read each time, because someone may have logged in meanwhile."""
        try:
            if self._logins and not isinstance(json.loads(self._logins.read_bytes()), dict):
                raise ValueError("it is not a JSON object")
        except (OSError, ValueError) as error:
            raise EngineError(
                ErrorType.PULL_FAILED,
                f"the image {reference!r} is not on the host, and was not pulled, because the host's file of "
                f"credentials (ORQAL_REGISTRY_AUTH), {self._logins}, cannot be read: {error}",
            ) from error
        try:
            self._api.reload_config(str(self._logins) if self._logins else None)
            registry, _ = docker.auth.resolve_repository_name(repository)
            login = docker.auth.get_config_header(self._api, registry)
        except docker.errors.DockerException as error:  # mostly from a credential helper
            raise EngineError(
                ErrorType.PULL_FAILED,
                f"the image {reference!r} is not on the host, and was not pulled, because the credentials for its "
                f"registry cannot be read: {error}",
            ) from error
        return login

    # Containers

    def create(self, spec: ContainerSpec) -> str:
        """Create a container, not yet started, and return its id. If it exists already, return its id."""
        reference = _reference(spec.image)
        binds, mounts = option_arguments.of_volumes(spec.volumes)
        if spec.mounted:
            mounts.append(Mount(spec.mounted, spec.mounted, type="bind"))
        self._check_volumes(binds)
        with translated("create the container"):
            host_config = self._api.create_host_config(
                binds=binds,
                mounts=mounts,
                nano_cpus=spec.resources.nano_cpus,
                mem_limit=spec.resources.mem_bytes,
                # Equal to mem_limit: no swap on top of it.
                memswap_limit=spec.resources.mem_bytes,
                pids_limit=spec.pids_limit,
                cgroup_parent=spec.cgroup_parent,
                **option_arguments.of_host_config(spec.options, spec.resources.devices),
                group_add=list(spec.groups) or None,
                security_opt=["no-new-privileges"],
                cap_drop=list(_NOT_FOR_JOBS),
                network_mode=spec.network,
                # The driver `local` keeps bytes that are not UTF-8, which `json-file` replaces.
                log_config=LogConfig(type="local", config=_log_options(spec.log_cap)),
            )
            try:
                container = self._api.create_container(
                    image=reference,
                    # With None the image's own command runs.
                    command=spec.cmd or None,
                    **option_arguments.of_container(spec.options),
                    host_config=host_config,
                    environment=spec.environment,
                    working_dir=spec.working_dir,
                    name=container_name(spec.image, spec.key),
                    labels={
                        LABEL_CLUSTER: self.cluster,
                        LABEL_JOB: spec.key.job,
                        LABEL_ATTEMPT: str(spec.key.attempt),
                        # Always set, because the image may have such a label of its own.
                        LABEL_FILES: spec.fetched or "",
                        LABEL_FAIL_ON_OOM: "1" if spec.fail_on_oom else "",
                        LABEL_DISK_CAP: str(spec.disk_cap or ""),
                        LABEL_DEVICES: ",".join(_ids(spec.resources)),
                        LABEL_VERSION: _LABELS_VERSION,
                    },
                )
            except docker.errors.APIError as error:
                if spec.mounted and f"source path does not exist: {spec.mounted}" in explanation(error):
                    raise EngineError(
                        ErrorType.DOCKER_ERROR,
                        f"the job's directory {spec.mounted} is not on the Docker daemon's machine. ORQAL_JOBS_DIR "
                        "must be on a file system that both machines have at that path; if unset, files are copied",
                    ) from error
                if missing := re.search("source path does not exist: (.+)", explanation(error)):
                    raise _not_there(missing[1]) from error
                existing = self.find(spec.key) if error.status_code == 409 else None
                if existing is None:
                    raise
                return existing
        return str(container["Id"])

    def _check_volumes(self, binds: Mapping[str, Mapping[str, str]]) -> None:
        """Check that the sources of all mounts exist. The daemon would make an empty folder or volume otherwise.

        Raises:
            EngineError: a source does not exist.
        """
        for source in binds:
            if source.startswith("/"):
                if this_machine.is_asked_by_socket() and not os.path.lexists(source):
                    raise _not_there(source)
                continue
            with translated("look for the volume"):
                try:
                    self._api.inspect_volume(source)
                except docker.errors.NotFound:
                    raise EngineError(
                        ErrorType.DOCKER_ERROR,
                        f"the job mounts the volume {source!r}, which the host does not have. The path of a folder "
                        "begins with a slash; `docker volume create` makes a volume.",
                    ) from None

    def device_holders(self) -> dict[ContainerKey, frozenset[str]]:
        """The devices of each container of this cluster that has any and has not ended."""
        with translated("list the containers"):
            found = self._api.containers(all=True, filters={"label": [*self._label, LABEL_DEVICES]})
        return {
            ContainerKey(labels[LABEL_JOB], int(labels[LABEL_ATTEMPT])): frozenset(labels[LABEL_DEVICES].split(","))
            for container in found
            if container["State"] not in _ENDED and (labels := container["Labels"])[LABEL_DEVICES]
        }

    def find(self, key: ContainerKey) -> str | None:
        """The id of an attempt's container; None if there is none."""
        labels = [*self._label, f"{LABEL_JOB}={key.job}", f"{LABEL_ATTEMPT}={key.attempt}"]
        with translated("look for the container"):
            found = self._api.containers(all=True, filters={"label": labels})
        return str(found[0]["Id"]) if found else None

    def put(self, container: str, archive: bytes) -> None:
        """Unpack a tar at the root of a container's file system."""
        with translated("put files into the container"):
            self._api.put_archive(container, "/", archive)

    def fetch(self, container: str, path: str) -> Archive | None:
        """What is at a path of a container's file system, as a tar; None if there is nothing."""
        url = f"{self._api.base_url}/v{self._api.api_version}/containers/{container}/archive"
        with translated("fetch the container's files"):
            response = self._api.get(url, params={"path": path}, headers={"Accept-Encoding": "identity"}, stream=True)
            if response.status_code == 404 and self.started(container):  # it is there, and the path is not
                return None
            response.raise_for_status()
        return Archive(response)

    def start(self, container: str) -> None:
        """Start a container. Nothing happens if it runs already."""
        with translated("start the container"):
            self._api.start(container)

    def ended(self, container: str) -> Ended | None:
        """How a container ended; None if it has not."""
        with translated("inspect the container"):
            found = self._api.inspect_container(container)
        state = found["State"]
        if state["Status"] not in _ENDED:
            return None
        labels = found["Config"]["Labels"] or {}
        return Ended(
            container=container,
            exit_code=int(state["ExitCode"]),
            out_of_memory=bool(state["OOMKilled"]),
            fail_on_oom=labels.get(LABEL_FAIL_ON_OOM) == "1",
            state=state,
            fetched=labels.get(LABEL_FILES) or None,
            log_cap=_log_cap(found["HostConfig"]["LogConfig"]["Config"] or {}),
        )

    def made_of(self, container: str) -> MadeOf:
        """What a container was made of."""
        with translated("inspect the container"):
            found = self._api.inspect_container(container)
        made = found["Config"]
        disk_cap = int((made["Labels"] or {}).get(LABEL_DISK_CAP) or 0)
        return MadeOf(str(made["Image"]), str(found["Image"]), list(made["Cmd"] or []), disk_cap)

    def written(self, container: str) -> tuple[int, list[Path]]:
        """Bytes that a container has written into its own files, which are not those of its mounts; and the folders, on
        the daemon's machine, of the volumes that were made for it alone because its image asks for them."""
        url = f"{self._api.base_url}/v{self._api.api_version}/containers/{container}/json"
        with translated("measure the container's files"):
            response = self._api.get(url, params={"size": "1"})
            response.raise_for_status()
            found = response.json()
        volumes = [mount for mount in found.get("Mounts") or () if mount.get("Type") == "volume"]
        own = [Path(mount["Source"]) for mount in volumes if _MADE_UP_NAME.fullmatch(mount.get("Name") or "")]
        return int(found.get("SizeRw") or 0), own

    def started(self, container: str) -> bool:
        """True if a container was started, whether or not it has ended."""
        with translated("inspect the container"):
            state = self._api.inspect_container(container)["State"]
        return bool(state["Status"] != "created")

    def ran_for(self, container: str) -> float | None:
        """Seconds since a container's start, by the daemon's clock; None if it was not started or does not exist."""
        with translated("inspect the container"):
            try:
                state = self._api.inspect_container(container)["State"]
            except docker.errors.NotFound:
                return None
            if state["Status"] == "created":
                return None
            return _seconds(self._api.info()["SystemTime"]) - _seconds(state["StartedAt"])

    def stats(self, container: str) -> dict[str, Any]:
        """What a container uses now, as the Engine API reports it. The daemon takes up to a second to answer."""
        with translated("report what the container uses"):
            # Without one-shot, which Docker 20.10 (API 1.41) brought, the daemon waits for a second measurement.
            one_shot = version_gte(self._api.api_version, "1.41") or None
            stats: dict[str, Any] = self._api.stats(container, stream=False, one_shot=one_shot)
        return stats

    def has_ended(self, container: str) -> bool:
        """True if a container that was started has ended or is gone, also if the daemon has missed its end.

        A daemon whose containerd was away, as during an upgrade, believes for ever that what ended meanwhile runs
        (seen with Docker 20.10). Such a container has no processes, and the daemon finds out when it is to send a
        signal: one that does nothing to programs that run.
        """
        with translated("inspect the container"):
            try:
                state = self._api.inspect_container(container)["State"]
            except docker.errors.NotFound:
                return True
        if state["Status"] in _ENDED:
            return True
        # Most daemons are on this machine, whose kernel knows. What a daemon measures may take it a second.
        if this_machine.is_in(state["Pid"], container) or (self.stats(container).get("pids_stats") or {}).get(
            "current"
        ):
            return False
        with translated("send the container a signal"):
            try:
                self._api.kill(container, signal="SIGCONT")
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # it is gone, or does not run
                    raise
        return self.ended(container) is not None

    def stop(self, container: str, grace: int) -> None:
        """Send SIGTERM, and SIGKILL after `grace` seconds. Nothing happens if the container has ended or is gone."""
        with translated("stop the container"):
            try:
                self._api.stop(container, timeout=grace)
            except docker.errors.NotFound:
                return

    def remove(self, container: str) -> None:
        """Remove a container with its output, running or not. Nothing happens if it is gone."""
        with translated("remove the container"):
            try:
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # 409: it is being removed already
                    raise

    def replace_by_empty_files(self, folder: Path, names: Iterable[str]) -> None:
        """Have the daemon, as root, replace what has these names in a folder of its machine by empty files.

        See orqal.engine.daemon_files.
        """
        with translated("remove files"):
            daemon_files.replace_by_empty_files(self._api, self.cluster, folder, names)

    def open_files(self, folder: Path, within: float) -> None:
        """Have the daemon, as root, make files of root's readable in a job's directory. Only one call at a time.

        See orqal.engine.daemon_files.

        Raises:
            OSError: a file that was given to this user cannot be read all the same.
        """
        with translated("give files to Orqal"):
            daemon_files.open_files(self._api, self.cluster, folder, within)

    def logs(self, container: str, *, stdout: bool = True, stderr: bool = True, follow: bool = False) -> Logs:
        """A container's output so far; with `follow`, also what comes until the container ends."""
        flags = {"stdout": int(stdout), "stderr": int(stderr), "follow": int(follow)}
        url = f"{self._api.base_url}/v{self._api.api_version}/containers/{container}/logs"
        with translated("read the output"):
            # The SDK's own logs() glues the streams together; its client is a requests session.
            response = self._api.get(
                url,
                params=flags,
                headers={"Accept-Encoding": "identity"},
                stream=True,
                timeout=(_CONNECT_TIMEOUT, None),
            )
            if response.status_code == 404:
                raise EngineError(ErrorType.DOCKER_ERROR, f"there is no container {container}", passing=True)
            response.raise_for_status()
        return Logs(response)

    def own_containers(self, job: str | None = None) -> Iterator[tuple[ContainerKey, str, str]]:
        """The containers of this cluster on the daemon, or of one job, as (attempt, id, state in Docker's words)."""
        wanted = [*self._label, *([] if job is None else [f"{LABEL_JOB}={job}"])]
        with translated("list the containers"):
            found = self._api.containers(all=True, filters={"label": wanted})
        for container in found:
            labels = container["Labels"]
            if labels.get(LABEL_ATTEMPT, "").isdigit() and LABEL_JOB in labels:
                key = ContainerKey(labels[LABEL_JOB], int(labels[LABEL_ATTEMPT]))
                yield key, str(container["Id"]), str(container["State"])

    def overview(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """`docker info`, and `docker inspect` of each running container of this cluster."""
        with translated("report its state"):
            running = self._api.containers(filters={"label": self._label})
            inspected = []
            for container in running:
                with suppress(docker.errors.NotFound):  # it has been removed meanwhile
                    inspected.append(self._api.inspect_container(container["Id"]))
            return self._api.info(), inspected

    def images_in_use(self) -> dict[str, int]:
        """The number of running containers of each image, those of other programs included."""
        counts: dict[str, int] = {}
        with translated("list the containers"):
            for container in self._api.containers():
                counts[container["Image"]] = counts.get(container["Image"], 0) + 1
        return counts

    def events(self) -> Events:
        """What happens to this cluster's containers from now on."""
        with translated("listen to events"):
            return Events(self._api.events(decode=True, filters=self._events))

    def past(self) -> Past:
        """What the daemon remembers of this cluster's containers."""
        url = f"{self._api.base_url}/v{self._api.api_version}/events"
        with translated("list past events"):
            # The SDK's own events() takes whole seconds only, so the events of the last second would be missing.
            window = {"since": "1", "until": f"{_seconds(self._api.info()['SystemTime']):.6f}"}
            response = self._api.get(url, params=window)
            response.raise_for_status()
        known = [json.loads(line) for line in response.iter_lines()]
        ours = [event for event in known if event["Actor"]["Attributes"].get(LABEL_CLUSTER) == self.cluster]
        events = list(Events(event for event in ours if event["Action"] in _EVENTS))
        return Past(
            out_of_memory={event.container for event in events if event.out_of_memory},
            started={str(event["Actor"]["ID"]) for event in ours if event["Action"] == "start"},
            killed={event.container for event in events if event.killed},
            ended={e.container: e.exit_code for e in events if not e.killed and not e.out_of_memory},
            all_since_its_start=len(known) < _REMEMBERED,
        )

    @property
    def _events(self) -> dict[str, Any]:
        return {"type": "container", "event": list(_EVENTS), "label": self._label}

    @property
    def _label(self) -> list[str]:
        return [f"{LABEL_CLUSTER}={self.cluster}"]

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


def _reference(image: str) -> str:
    """The name of an image as the daemon gets it.

    Raises:
        EngineError: this is not the name of an image. It is checked here because the SDK makes a path of it: with a
            name like `a@b/../../containers` the request would be another one.
    """
    if not is_name(image):
        raise _no_name(image)
    return with_tag(image)


def _not_there(path: str) -> EngineError:
    return EngineError(
        ErrorType.DOCKER_ERROR, f"the job mounts {path}, which does not exist on the Docker daemon's machine."
    )


def _no_name(image: str, why: str = "") -> EngineError:
    return EngineError(ErrorType.IMAGE_NOT_FOUND, f"{shorten(image, _NAME_SHOWN)!r} is not the name of an image{why}")


def container_name(image: str, key: ContainerKey) -> str:
    """The name of an attempt's container: `<image>_<job id>`, and from the second attempt on its number."""
    repository = re.sub(r"@.*|:[^/]*$", "", image).rsplit("/", 1)[-1]
    return f"{repository}_{key.job}" + (f"_{key.attempt}" if key.attempt > 1 else "")


def _is_for(platform: str, image: Mapping[str, Any]) -> bool:
    """True if an image, as the daemon shows it, is for a platform such as `linux/arm64` or `linux/arm/v7`."""
    parts = platform.split("/")
    own = [image["Os"], image["Architecture"], image.get("Variant") or ""]
    return parts == own[: len(parts)] if len(parts) > 1 else platform in own[:2]


def _log_options(cap: int) -> dict[str, str]:
    """The options of the log driver for ContainerSpec.log_cap."""
    size, files = (str(-(-cap // _LOG_FILES_IN_CAP)), _LOG_FILES) if cap > 0 else (_NO_LOG_CAP, 1)
    return {"max-size": size, "max-file": str(files), "compress": "false"}


def _log_cap(options: Mapping[str, str]) -> int:
    """The cap that these options were made for, rounded up; 0 for none, as in containers of earlier versions."""
    size = options.get("max-size", "")
    return int(size) * _LOG_FILES_IN_CAP if size.isdecimal() else 0


def _seconds(time: str) -> float:
    """A time of the Engine API, with up to nine digits after the point, as seconds since 1970."""
    found = re.fullmatch(r"(.{19})(\.\d+)?(Z|[+-]\d\d:\d\d)", time)
    assert found is not None, time
    return datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00")).timestamp() + float(found[2] or 0)


def _message(response: requests.Response) -> str:
    """The message of an answer that is an error."""
    try:
        return str(response.json()["message"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason}"


def _ids(resources: Resources) -> list[str]:
    """The ids of the devices among these resources."""
    return [id for ids in resources.devices.values() for id in ids]
