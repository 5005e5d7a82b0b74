"""Every setting of Orqal, each from an environment variable ORQAL_*, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MONGO_DATABASE = "orqal"
"""The database of a MongoDB, where its URL names none."""
DEFAULT_API_URL = "http://localhost:5001/api"


def _text(name: str, default: str) -> str:
    return os.environ.get(f"ORQAL_{name}") or default


def _number(name: str, default: float) -> float:
    text = os.environ.get(f"ORQAL_{name}")
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"ORQAL_{name}={text!r} is not a number") from None


def _path(name: str, default: str) -> Path:
    return Path(_text(name, default)).expanduser().absolute()


def _switch(name: str, default: str) -> bool:
    text = _text(name, default)
    if text not in ("on", "off"):
        raise ValueError(f"ORQAL_{name}={text!r} is neither on nor off")
    return text == "on"


def normal_path(path: str) -> str:
    """An absolute path without `.`, `..` and doubled slashes, and without asking the disk. ValueError: it is not
    absolute."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return "/" + os.path.normpath(path).lstrip("/")


def _mounts(name: str) -> dict[str, bool]:
    mounts: dict[str, bool] = {}
    for entry in filter(None, map(str.strip, _text(name, "").split(","))):
        text, colon, mode = entry.partition(":")
        if colon and mode != "ro":
            raise ValueError(f"ORQAL_{name}: {mode!r} after a path is not ro")
        try:
            path = normal_path(text)
        except ValueError as error:
            raise ValueError(f"ORQAL_{name}: {error}") from None
        if path in mounts:
            raise ValueError(f"ORQAL_{name}: {path} is there twice")
        mounts[path] = mode == "ro"
    for path in mounts:
        above = [str(parent) for parent in Path(path).parents if mounts.get(str(parent)) is False]
        if above:
            raise ValueError(
                f"ORQAL_{name}: {path} lies below {above[0]}, which jobs may write: one could put a link there that "
                f"leads anywhere. Let {above[0]} be read-only ({above[0]}:ro), or leave one of them out"
            )
    return mounts


@dataclass(frozen=True)
class Settings:
    """The settings in force, read from the environment when the object is made.

    Times are in seconds, sizes in bytes, unless the name says otherwise.
    """

    home: Path = field(default_factory=lambda: _path("HOME", "~/.orqal"))
    """ORQAL_HOME: tokens, the SQLite file, the jobs' directories. One home is one cluster."""
    api_url: str = field(default_factory=lambda: _text("API_URL", "").rstrip("/"))
    """ORQAL_API_URL: where the API is. Empty: the Orqal of `home`, or else localhost:5001."""
    services: str = field(default_factory=lambda: _text("SERVICES", "~/services.py"))
    """ORQAL_SERVICES: files of wrappers, or folders of such files, separated by colons."""
    store: str = field(default_factory=lambda: _text("STORE", ""), repr=False)
    """ORQAL_STORE: where jobs are kept: a SQLite file, or mongodb://… or mongodb+srv://…, which may have a password in
    it and is shown nowhere. Empty: `home`/orqal.sqlite."""
    jobs_dir_text: str = field(default_factory=lambda: _text("JOBS_DIR", ""))
    """ORQAL_JOBS_DIR: where jobs have their directories. Empty: `home`/jobs, on the host's machine, or on the one that
    fronts the host (`orqal join --docker-host`), where the files are fetched after the end. Who sets it promises that
    it is on the Docker daemon's machine too, at the same path: the same disk, or a file system that they share."""
    registry_auth_text: str = field(default_factory=lambda: _text("REGISTRY_AUTH", ""))
    """ORQAL_REGISTRY_AUTH: a file on the host with credentials for registries, in the form of Docker's config.json.
    Empty: Docker's own, ~/.docker/config.json or that in the folder DOCKER_CONFIG, of the user who runs Orqal there."""
    pull_patience: float = field(default_factory=lambda: _number("PULL_PATIENCE", 60))
    """ORQAL_PULL_PATIENCE: how long a host tries again when a registry does not answer; then the attempt has failed."""
    keep_threads: float = field(default_factory=lambda: _number("KEEP_THREADS", 0))
    """ORQAL_KEEP_THREADS: cores of a host that jobs do not get."""
    keep_ram_gb: float = field(default_factory=lambda: _number("KEEP_RAM_GB", 0))
    """ORQAL_KEEP_RAM_GB: memory of a host that jobs do not get, in 10^9 bytes."""
    wrapper_timeout: float = field(default_factory=lambda: _number("WRAPPER_TIMEOUT", 60))
    """ORQAL_WRAPPER_TIMEOUT: how long one call of a wrapper's method may take."""
    wrapper_memory_gb: float = field(default_factory=lambda: _number("WRAPPER_MEMORY_GB", 4))
    """ORQAL_WRAPPER_MEMORY_GB: memory that one call of a wrapper's method may add, in 10^9 bytes."""
    output_cap: int = field(default_factory=lambda: int(_number("OUTPUT_CAP", 1 << 20)))
    """ORQAL_OUTPUT_CAP: bytes of a stream that the record keeps; longer output is a file in the job's directory."""
    result_cap: int = field(default_factory=lambda: int(_number("RESULT_CAP", 16 << 20)))
    """ORQAL_RESULT_CAP: bytes of a result, as JSON."""
    pids_limit: int = field(default_factory=lambda: int(_number("PIDS_LIMIT", 4096)))
    """ORQAL_PIDS_LIMIT: processes in one container."""
    stop_grace: int = field(default_factory=lambda: int(_number("STOP_GRACE", 5)))
    """ORQAL_STOP_GRACE: from SIGTERM to SIGKILL, when a container is cancelled or over its time."""
    host_lost_after: float = field(default_factory=lambda: _number("HOST_LOST_AFTER", 60))
    """ORQAL_HOST_LOST_AFTER: how long a host may be away until its jobs run again elsewhere. Its containers go on: when
    it comes back in time they are found again, later they are stopped."""
    job_ttl: float = field(default_factory=lambda: _number("JOB_TTL", 7 * 86_400))
    """ORQAL_JOB_TTL: how long jobs and their directories are kept after their end; 0: for ever."""
    protected_containers: str = field(default_factory=lambda: _text("PROTECTED_CONTAINERS", ""))
    """ORQAL_PROTECTED_CONTAINERS: names of containers, separated by commas, that `clean containers` leaves alone."""
    no_token: bool = field(default_factory=lambda: os.environ.get("ORQAL_NO_TOKEN") == "1")
    """ORQAL_NO_TOKEN=1: programs of this machine need no token. `orqal up --no-token` sets it for the cluster's
    processes; elsewhere it means nothing."""
    run: bool = field(default_factory=lambda: _switch("RUN", "on"))
    """ORQAL_RUN: on, or off: nobody may run any command in any image (`orqal run`)."""
    run_mounts: Mapping[str, bool] = field(default_factory=lambda: _mounts("RUN_MOUNTS"))
    """ORQAL_RUN_MOUNTS: host paths that `orqal run` may mount, separated by commas, `:ro` after a path for read-only:
    {path: read-only}. Nothing below them, for a job could put a link there."""
    volumes: Mapping[str, bool] = field(default_factory=lambda: _mounts("VOLUMES"))
    """ORQAL_VOLUMES: host paths that wrappers mount which say nothing of volumes, in the same form. Each is at its own
    path in the container."""
    autoscaling_config: str = field(default_factory=lambda: _text("AUTOSCALING_CONFIG", ""))
    """ORQAL_AUTOSCALING_CONFIG: the Ray cluster file whose node types Ray's autoscaler may start. Set for the cluster's
    processes by `orqal up --autoscaling-config`."""
    load_period: float = field(default_factory=lambda: _number("LOAD_PERIOD", 3))
    """ORQAL_LOAD_PERIOD: how often a host reports its load."""

    @property
    def store_is_mongo(self) -> bool:
        """Whether jobs are kept in a MongoDB."""
        return is_mongo(self.store)

    @property
    def store_place(self) -> str:
        """Where jobs are kept, for people."""
        return store_place(self.store) if self.store_is_mongo else str(self.store_path)

    @property
    def store_path(self) -> Path:
        """The SQLite file, unless jobs are kept in a MongoDB."""
        return Path(self.store).expanduser().absolute() if self.store else self.home / "orqal.sqlite"

    @property
    def jobs_dir(self) -> Path:
        """The folder of the jobs' directories on each host."""
        return Path(self.jobs_dir_text).expanduser().absolute() if self.jobs_dir_text else self.home / "jobs"

    @property
    def jobs_dir_is_shared(self) -> bool:
        """Whether it is on the Docker daemon's machine at the same path, also where that is another machine."""
        return bool(self.jobs_dir_text)

    @property
    def registry_auth(self) -> Path | None:
        """The file with credentials for registries; None: Docker's own."""
        return Path(self.registry_auth_text).expanduser().absolute() if self.registry_auth_text else None

    @property
    def dataset_path(self) -> Path:
        """What `/api/dataset.json` answers: the documents of a predecessor's collection `dataset`, if a lab put them
        there."""
        return self.home / "dataset.json"

    @property
    def ray_token_path(self) -> Path:
        """The file of Ray's token, which hosts need to join; `orqal up` makes it, mode 0600. Who has it can run what
        they like on every host."""
        return self.home / "ray_token"

    @property
    def join_token(self) -> str | None:
        """ORQAL_JOIN_TOKEN: the content of the head's `ray_token`, for a machine that is to join."""
        return os.environ.get("ORQAL_JOIN_TOKEN", "").strip() or None

    @property
    def drained_path(self) -> Path:
        """The names of the hosts that get no more work, as JSON."""
        return self.home / "drained.json"

    @property
    def cluster_path(self) -> Path:
        """The file of the cluster's own mark, made once: it outlives restarts, so containers are found again, and a
        MongoDB's database knows whose it is."""
        return self.home / "cluster_id"

    @property
    def token_path(self) -> Path:
        """The file of the API's token; `orqal up` makes it, mode 0600."""
        return self.home / "token"

    @property
    def token(self) -> str | None:
        """The API's token: ORQAL_TOKEN, or the file that `orqal up` made on this machine."""
        given = os.environ.get("ORQAL_TOKEN")
        if given:
            return given.strip()
        try:
            return self.token_path.read_text().strip() or None
        except OSError:
            return None

    @property
    def service_paths(self) -> list[Path]:
        """The files and folders of `services`, those that do not exist included."""
        return [Path(part).expanduser().absolute() for part in self.services.split(":") if part]


def is_mongo(store: str) -> bool:
    """Whether this names a MongoDB, and not a SQLite file."""
    return store.startswith(("mongodb://", "mongodb+srv://"))


def store_place(store: str) -> str:
    """Where a store is, for people: without the user, password and options of a URL."""
    if not is_mongo(store):
        return store
    scheme, _, rest = store.partition("://")
    host, _, database = rest.partition("?")[0].rpartition("@")[2].partition("/")
    return f"{scheme}://{host}/{database or MONGO_DATABASE}"
