"""The settings of Orqal. Each is an environment variable ORQAL_…, and docs/settings.md lists them.

ORQAL_ADDRESS, ORQAL_COPY_FROM and ORQAL_COPY_TO are not here: each belongs to an option of one command (orqal/cli).

A variable that is empty counts as unset. Times are in seconds and sizes in bytes, unless the name says otherwise.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orqal import mounts
from orqal.resource_names import GPU, check_resource_name

MONGO_DATABASE = "orqal"
"""The database of a MongoDB whose URL names none."""
DEFAULT_API_URL = "http://localhost:5001/api"


def _text(name: str, default: str) -> str:
    return os.environ.get(f"ORQAL_{name}") or default


def _number(name: str, default: float) -> float:
    text = os.environ.get(f"ORQAL_{name}")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"ORQAL_{name}={text!r} is not a number") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"ORQAL_{name}={text!r} is not a number of 0 or more")
    return number


def _whole(name: str, default: int) -> int:
    number = _number(name, default)
    if number % 1:
        raise ValueError(f"ORQAL_{name}={number!r} is not a whole number")
    return int(number)


def _path(name: str, default: str) -> Path:
    return _absolute(_text(name, default))


def _switch(name: str, default: str) -> bool:
    text = _text(name, default)
    if text not in ("on", "off"):
        raise ValueError(f"ORQAL_{name}={text!r} is neither on nor off")
    return text == "on"


def _names(name: str) -> frozenset[str]:
    return frozenset(filter(None, (part.strip().lower() for part in _text(name, "").split(","))))


def _amounts(name: str) -> dict[str, float]:
    """Read `anna=2, ben=0.5` as a mapping."""
    found = dict[str, float]()
    for part in filter(None, (part.strip() for part in _text(name, "").split(","))):
        key, _, text = part.rpartition("=")
        try:
            amount = float(text)
        except ValueError:
            amount = -1.0
        if not key.strip() or not 0 <= amount < math.inf:
            raise ValueError(f"ORQAL_{name}: {part!r} is not NAME=NUMBER with a number of 0 or more")
        found[key.strip()] = amount
    return found


def _gpus(name: str) -> frozenset[str] | None:
    text = _text(name, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if not text:
        return None
    return frozenset(filter(None, (part.strip() for part in text.split(",") if part.strip() not in ("none", "-1"))))


def _declared(name: str) -> dict[str, float | tuple[str, ...]]:
    """Read `dongle=1, fpga=vendor.com/fpga=all` as amounts and tuples of CDI names."""
    found = dict[str, float | tuple[str, ...]]()
    for part in filter(None, (part.strip() for part in _text(name, "").split(","))):
        resource, _, value = (piece.strip() for piece in part.partition("="))
        try:
            check_resource_name(resource)
        except ValueError as error:
            raise ValueError(f"ORQAL_{name}: {error}") from None
        before = found.get(resource)
        if re.fullmatch(r"[^/=\s]+/[^/=\s]+=[^/=\s]+", value) and not isinstance(before, float):
            found[resource] = (*(before or ()), value)
        elif re.fullmatch(r"[1-9]\d{0,6}", value, re.ASCII) and before is None:
            found[resource] = float(value)
        else:
            raise ValueError(
                f"ORQAL_{name}: {part!r} is neither NAME=NUMBER with a whole number from 1, once for a name, nor NAME="
                "CDI-NAME such as fpga=vendor.com/fpga=0"
            )
    return found


def _weights(name: str) -> dict[str, float]:
    weights = _amounts(name)
    if zero := [key for key, weight in weights.items() if not weight]:
        raise ValueError(f"ORQAL_{name}: the weight of {zero[0]} must be more than 0")
    return weights


def _counts(name: str) -> dict[str, int]:
    counts = _amounts(name)
    if broken := [key for key, count in counts.items() if count % 1]:
        raise ValueError(f"ORQAL_{name}: the amount of {broken[0]} is not a whole number")
    return {key: int(count) for key, count in counts.items()}


def _integer(name: str) -> int | None:
    text = _text(name, "")
    try:
        number = float(text) if text else None
    except ValueError:
        raise ValueError(f"ORQAL_{name}={text!r} is not a number") from None
    if number is not None and not number.is_integer():
        raise ValueError(f"ORQAL_{name}={text!r} is not a whole number")
    return None if number is None else int(number)


def _priority(name: str) -> int | None:
    number = _integer(name)
    if number is not None and not -100 <= number <= 100:
        raise ValueError(f"ORQAL_{name}={number} is not between -100 and 100")
    return number


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _mounts(name: str) -> dict[str, bool]:
    try:
        return mounts.parse(_text(name, ""))
    except ValueError as error:
        raise ValueError(f"ORQAL_{name}: {error}") from None


@dataclass(frozen=True)
class Settings:
    """The settings in force. They are read from the environment when the object is made.

    Raises:
        ValueError: the value of a variable is invalid.
    """

    home: Path = field(default_factory=lambda: _path("HOME", "~/.orqal"))
    """ORQAL_HOME (a folder; ~/.orqal): tokens, the SQLite file, the jobs' directories. One home is one cluster."""
    api_url: str = field(default_factory=lambda: _text("API_URL", "").rstrip("/"))
    """ORQAL_API_URL (a URL): the API that clients use. By default it is the Orqal that runs in `home`, or else
    http://localhost:5001/api."""
    services: str = field(default_factory=lambda: _text("SERVICES", "~/services.py"))
    """ORQAL_SERVICES (paths separated by colons; ~/services.py): files with wrappers, and folders of such files."""
    store: str = field(default_factory=lambda: _text("STORE", ""), repr=False)
    """ORQAL_STORE (a path or URL; `home`/orqal.sqlite): where jobs are kept: in a SQLite file, or in a MongoDB
    (mongodb://… or mongodb+srv://…). The URL may contain a password, so it is never shown."""
    jobs_dir_text: str = field(default_factory=lambda: _text("JOBS_DIR", ""))
    """ORQAL_JOBS_DIR (a folder; `home`/jobs): where jobs have their directories, on the machine of the host's Ray node.
    If it is set, the folder must be on the Docker daemon's machine too, at the same path: the same disk, or a shared
    file system. If it is not set and the daemon is on another machine (`orqal join --docker-host`), files are copied
    from there after a job's end."""
    registry_auth_text: str = field(default_factory=lambda: _text("REGISTRY_AUTH", ""))
    """ORQAL_REGISTRY_AUTH (a file on the host): credentials for registries, in the form of Docker's config.json. The
    default is the file that Docker itself uses for the user who runs Orqal: config.json in ~/.docker or in the folder
    DOCKER_CONFIG."""
    registries: frozenset[str] = field(default_factory=lambda: _names("REGISTRIES"))
    """ORQAL_REGISTRIES (names separated by commas; all): the registries from which a host pulls images, as they are in
    the images' names. Docker Hub is docker.io."""
    pull_patience: float = field(default_factory=lambda: _number("PULL_PATIENCE", 60))
    """ORQAL_PULL_PATIENCE (seconds; 60): how long a host repeats a pull when the registry does not answer. After that
    the attempt fails."""
    keep_threads: float = field(default_factory=lambda: _number("KEEP_THREADS", 0))
    """ORQAL_KEEP_THREADS (cores; 0): cores of a host that jobs do not get."""
    keep_ram_gb: float = field(default_factory=lambda: _number("KEEP_RAM_GB", 0))
    """ORQAL_KEEP_RAM_GB (10^9 bytes; 0): memory of a host that jobs do not get."""
    gpus: frozenset[str] | None = field(default_factory=lambda: _gpus("GPUS"))
    """ORQAL_GPUS (ids separated by commas, or `none`; those of CUDA_VISIBLE_DEVICES, or all): the GPUs of a host that
    jobs get, by their numbers, UUIDs or CDI names."""
    resources: Mapping[str, float | tuple[str, ...]] = field(default_factory=lambda: _declared("RESOURCES"))
    """ORQAL_RESOURCES (`licence_dongle=1,fpga=vendor.com/fpga=all`): what a host has besides threads, memory and GPUs:
    how much, or which devices by their CDI names. A name that is repeated has several."""
    shared: frozenset[str] = field(default_factory=lambda: _names("SHARED"))
    """ORQAL_SHARED (`gpu` and names of ORQAL_RESOURCES, separated by commas; none): devices that several jobs may share
    at the same time."""
    min_free_space_gb: float = field(default_factory=lambda: _number("MIN_FREE_SPACE_GB", 1))
    """ORQAL_MIN_FREE_SPACE_GB (10^9 bytes; 1): free space of the disks with the jobs' directories and with Docker's
    images and containers. A host with less gets no new jobs; jobs that run go on. 0 switches this off."""
    job_disk_gb: float = field(default_factory=lambda: _number("JOB_DISK_GB", 0))
    """ORQAL_JOB_DISK_GB (10^9 bytes; 0): what a job's container may write into its own files and the job's directory if
    its wrapper says nothing (`disk_in_gb`). 0 is no limit."""
    wrapper_timeout: float = field(default_factory=lambda: _number("WRAPPER_TIMEOUT", 60))
    """ORQAL_WRAPPER_TIMEOUT (seconds; 60): how long one call of a wrapper's method may take."""
    wrapper_memory_gb: float = field(default_factory=lambda: _number("WRAPPER_MEMORY_GB", 4))
    """ORQAL_WRAPPER_MEMORY_GB (10^9 bytes; 4): memory that one call of a wrapper's method may use."""
    output_cap: int = field(default_factory=lambda: _whole("OUTPUT_CAP", 1 << 20))
    """ORQAL_OUTPUT_CAP (bytes; 1 MiB): the end of each output stream that the job's record keeps. Longer output is also
    a file in the job's directory."""
    log_cap: int = field(default_factory=lambda: _whole("LOG_CAP", 1 << 30))
    """ORQAL_LOG_CAP (bytes; 1 GiB): the output of one container that is kept. A line counts 32 bytes more than it has,
    which Docker needs to keep it. Of a longer output the end is kept. 0 keeps all of it."""
    result_cap: int = field(default_factory=lambda: _whole("RESULT_CAP", 16 << 20))
    """ORQAL_RESULT_CAP (bytes; 16 MiB): the largest result, as JSON."""
    pids_limit: int = field(default_factory=lambda: _whole("PIDS_LIMIT", 4096))
    """ORQAL_PIDS_LIMIT (a number; 4096): processes in one container."""
    stop_grace: int = field(default_factory=lambda: _whole("STOP_GRACE", 5))
    """ORQAL_STOP_GRACE (seconds; 5): the time from SIGTERM to SIGKILL for a container that is cancelled or over its
    time limit."""
    host_lost_after: float = field(default_factory=lambda: _number("HOST_LOST_AFTER", 60))
    """ORQAL_HOST_LOST_AFTER (seconds; 60): how long a host may be away before its jobs run again elsewhere. Its
    containers go on. If the host comes back in time they are found again; if it comes back later they are stopped."""
    share_half_life: float = field(default_factory=lambda: _number("SHARE_HALF_LIFE", 86_400))
    """ORQAL_SHARE_HALF_LIFE (seconds; a day): after this time what a user has had counts half as much when the next
    user to be served is chosen. 0: only what users have now counts."""
    share_weights: Mapping[str, float] = field(default_factory=lambda: _weights("SHARE_WEIGHTS"))
    """ORQAL_SHARE_WEIGHTS (`anna=2,ben=0.5`): users who get more or less than others, who have a weight of 1."""
    limits: Mapping[str, int] = field(default_factory=lambda: _counts("LIMITS"))
    """ORQAL_LIMITS (`licence=10,app:Blast=40`): how much there is of what wrappers take by name (`limits`), and how
    many jobs of an app may run at once."""
    user_jobs: int | None = field(default_factory=lambda: _integer("USER_JOBS"))
    """ORQAL_USER_JOBS (a number; no limit): how many jobs of one user may run at once."""
    max_priority: int = field(default_factory=lambda: _whole("MAX_PRIORITY", 100))
    """ORQAL_MAX_PRIORITY (a priority from 0 to 100; 100): the highest priority that jobs may have."""
    preempt_from: int | None = field(default_factory=lambda: _priority("PREEMPT_FROM"))
    """ORQAL_PREEMPT_FROM (a priority; none): jobs with this priority or a higher one stop jobs with a lower priority
    that are in their way. These wait again, and lose no attempt."""
    job_ttl: float = field(default_factory=lambda: _number("JOB_TTL", 7 * 86_400))
    """ORQAL_JOB_TTL (seconds; 7 days): how long jobs and their directories are kept after their end, or after the
    cache last reused them. A batch is kept as a whole for so long after its last end. 0 keeps jobs for ever."""
    protected_containers: str = field(default_factory=lambda: _text("PROTECTED_CONTAINERS", ""))
    """ORQAL_PROTECTED_CONTAINERS (names separated by commas): containers that `orqal clean containers` leaves alone."""
    no_token: bool = field(default_factory=lambda: os.environ.get("ORQAL_NO_TOKEN") == "1")
    """ORQAL_NO_TOKEN (1 or unset): programs of this machine need no token. `orqal up --no-token` sets it for the
    cluster's processes; setting it by hand has no effect."""
    run: bool = field(default_factory=lambda: _switch("RUN", "on"))
    """ORQAL_RUN (on or off; on): whether users may run any command in any image (`orqal run`)."""
    run_mounts: Mapping[str, bool] = field(default_factory=lambda: _mounts("RUN_MOUNTS"))
    """ORQAL_RUN_MOUNTS (paths separated by commas, read-only with `:ro`): host paths that `orqal run` may mount, as
    {path: read-only}. Paths below them may not be mounted, because a job could put a link there."""
    volumes: Mapping[str, bool] = field(default_factory=lambda: _mounts("VOLUMES"))
    """ORQAL_VOLUMES (paths separated by commas, read-only with `:ro`): host paths that are mounted at the same path for
    wrappers that do not set `volumes`, as {path: read-only}."""
    autoscaling_config: str = field(default_factory=lambda: _text("AUTOSCALING_CONFIG", ""))
    """ORQAL_AUTOSCALING_CONFIG (a file): the Ray cluster file whose node types Ray's autoscaler may start. `orqal up
    --autoscaling-config` sets it for the cluster's processes."""
    ray_metrics: bool = field(default_factory=lambda: _switch("RAY_METRICS", "off"))
    """ORQAL_RAY_METRICS (on or off; off): whether Ray collects metrics on this machine, its own and Orqal's. It serves
    them on all addresses, to everyone, without a token."""
    load_period: float = field(default_factory=lambda: _number("LOAD_PERIOD", 3))
    """ORQAL_LOAD_PERIOD (seconds; 3): the time between two reports of a host's load."""

    def __post_init__(self) -> None:
        if unknown := self.shared_resources - {GPU} - self.declared_devices.keys():
            raise ValueError(f"ORQAL_SHARED: ORQAL_RESOURCES declares no devices {min(unknown)!r}")
        any_job = {
            path: self.run_mounts.get(path, True) and self.volumes.get(path, True)
            for path in (*self.run_mounts, *self.volumes)
        }
        for name, listed in ("RUN_MOUNTS", self.run_mounts), ("VOLUMES", self.volumes):
            try:
                mounts.check(listed, any_job, (*mounts.SOCKETS, *_docker_socket()))
                mounts.check_own(
                    listed, self.kept_from_jobs, (self.jobs_dir, *self.service_paths, Path.home() / ".ssh")
                )
            except ValueError as error:
                raise ValueError(f"ORQAL_{name}: {error}") from None

    @property
    def declared_devices(self) -> dict[str, tuple[str, ...]]:
        """The CDI names of `resources`, by resource."""
        return {name: value for name, value in self.resources.items() if isinstance(value, tuple)}

    @property
    def shared_resources(self) -> frozenset[str]:
        """`shared`, with GPUs as they are called inside."""
        return frozenset(GPU if name in ("gpu", "gpus") else name for name in self.shared)

    @property
    def kept_from_jobs(self) -> tuple[Path, ...]:
        """What no job may get to, because it holds secrets, or other jobs' files."""
        return self.home, self.jobs_dir, *([] if self.store_is_mongo else [self.store_path])

    @property
    def store_is_mongo(self) -> bool:
        """True if jobs are kept in a MongoDB."""
        return is_mongo(self.store)

    @property
    def store_place(self) -> str:
        """Where jobs are kept, as it may be shown: without a password."""
        return store_place(self.store) if self.store_is_mongo else str(self.store_path)

    @property
    def store_path(self) -> Path:
        """The SQLite file. It is not used if jobs are kept in a MongoDB."""
        return _absolute(self.store) if self.store else self.home / "orqal.sqlite"

    @property
    def jobs_dir(self) -> Path:
        """The folder of the jobs' directories on each host."""
        return _absolute(self.jobs_dir_text) if self.jobs_dir_text else self.home / "jobs"

    @property
    def bundles_dir(self) -> Path:
        """The folder of what wrapper files need from beside them: see orqal.wrappers.bundles."""
        return self.home / "bundles"

    @property
    def jobs_dir_is_shared(self) -> bool:
        """True if `jobs_dir` is on the Docker daemon's machine at the same path, even if that is another machine."""
        return bool(self.jobs_dir_text)

    @property
    def registry_auth(self) -> Path | None:
        """The file with credentials for registries; None stands for Docker's own file."""
        return _absolute(self.registry_auth_text) if self.registry_auth_text else None

    @property
    def dataset_path(self) -> Path:
        """The file that `/api/dataset.json` serves: documents of the predecessor's collection `dataset`."""
        return self.home / "dataset.json"

    @property
    def ray_token_path(self) -> Path:
        """The file of Ray's token, which hosts need to join. `orqal up` makes it, with mode 0600. Anyone who has the
        token can run anything on every host."""
        return self.home / "ray_token"

    @property
    def join_token(self) -> str | None:
        """ORQAL_JOIN_TOKEN: the content of the head's `ray_token`, for `orqal join`."""
        return os.environ.get("ORQAL_JOIN_TOKEN", "").strip() or None

    @property
    def drained_path(self) -> Path:
        """The file with the names of hosts that get no more work, as JSON."""
        return self.home / "drained.json"

    @property
    def shares_path(self) -> Path:
        """The file with what users have had lately, as JSON. The Scheduler writes it every minute."""
        return self.home / "shares.json"

    @property
    def usage_path(self) -> Path:
        """The file with what jobs have used so far, as JSON. The Scheduler writes it every minute."""
        return self.home / "usage.json"

    @property
    def batch_policies_path(self) -> Path:
        """The file with what was decided about the jobs of batches that wait, as JSON."""
        return self.home / "batch_policies.json"

    @property
    def known_hosts_path(self) -> Path:
        """The file with what the hosts have that are here, or were lately, as JSON."""
        return self.home / "known_hosts.json"

    @property
    def keeping_clock_path(self) -> Path:
        """The file with the time by which jobs are kept, in ISO format. The Scheduler writes it every few minutes."""
        return self.home / "keeping_clock"

    @property
    def cluster_path(self) -> Path:
        """The file of the cluster's id. It is made once and outlives restarts, so containers are found again, and a
        MongoDB database knows to which cluster it belongs."""
        return self.home / "cluster_id"

    @property
    def lock_path(self) -> Path:
        """The file that the Scheduler locks, so that no second one is started in this home. See home_lock.py."""
        return self.home / "scheduler.lock"

    @property
    def running_path(self) -> Path:
        """The file that describes the Orqal that runs in `home`. `orqal up` writes it, and `orqal down` removes it."""
        return self.home / "cluster.json"

    def running_cluster(self) -> dict[str, Any] | None:
        """Return what `running_path` says: the cluster's id, addresses and URLs. None if no Orqal runs in `home`."""
        try:
            about = json.loads(self.running_path.read_text())
        except (OSError, ValueError):
            return None
        return about if isinstance(about, dict) else None

    @property
    def token_path(self) -> Path:
        """The file of the API's token. `orqal up` makes it, with mode 0600."""
        return self.home / "token"

    @property
    def token(self) -> str | None:
        """The API's token: ORQAL_TOKEN, or else the content of the file that `orqal up` made on this machine."""
        given = os.environ.get("ORQAL_TOKEN")
        if given:
            return given.strip()
        return _content(self.token_path)

    @property
    def metrics_token_path(self) -> Path:
        """The file of a token that opens /api/metrics and nothing else. `orqal up` makes it, with mode 0600."""
        return self.home / "metrics_token"

    @property
    def metrics_token(self) -> str | None:
        """The content of `metrics_token_path`; None if there is no such file."""
        return _content(self.metrics_token_path)

    @property
    def service_paths(self) -> list[Path]:
        """The files and folders of `services`. They may not exist."""
        return [_absolute(part) for part in self.services.split(":") if part]


def _content(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _docker_socket() -> tuple[str, ...]:
    scheme, _, path = os.environ.get("DOCKER_HOST", "").partition("://")
    return (path,) if scheme == "unix" else ()


def is_mongo(store: str) -> bool:
    """Return True if a value of ORQAL_STORE is the URL of a MongoDB, and False if it is a SQLite file."""
    return store.startswith(("mongodb://", "mongodb+srv://"))


def store_place(store: str) -> str:
    """Return a value of ORQAL_STORE as it may be shown: a URL without its user, password and options."""
    if not is_mongo(store):
        return store
    scheme, _, rest = store.partition("://")
    host, _, database = rest.partition("?")[0].rpartition("@")[2].partition("/")
    return f"{scheme}://{host}/{database or MONGO_DATABASE}"
