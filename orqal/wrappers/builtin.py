"""The apps that come with Orqal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from orqal.engine.this_machine import is_asked_by_socket
from orqal.models import JobOptions
from orqal.mounts import lets_users_become_root, normal_path
from orqal.settings import Settings
from orqal.wrappers.base import AbstractWrapper, WrapperJob

PROGRAMS = "/usr/bin"
"""The folder that the demo's app reads."""

_VOLUME = re.compile(r"(/[^:]*):(/[^:]*)(?::(ro|rw))?")


class Rabin2(AbstractWrapper):
    """Facts about a binary (its format, architecture, protections …), by radare2's `rabin2 -I`.

    With the param `json` the result is rabin2's own JSON, in which numbers and truth values are such.
    """

    docker_url = "radare/radare2"
    volumes = {"/database": {"bind": "/database", "mode": "ro"}}
    threads = 1
    memory_in_gb = 1

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        """Return the command for the binary whose path is `input`."""
        return ["rabin2", "-I", *(["-j"] if params.get("json") else []), str(self.job.input)]

    def set_result(self, job: WrapperJob) -> None:
        """Read lines of two words, a key and its value; dots in keys become underscores. Or read the JSON."""
        if job.params.get("json"):
            job.set_result(json.loads("\n".join(job.stdout)))
            return
        pairs = (line.split() for line in job.stdout)
        job.set_result({pair[0].replace(".", "_"): pair[1] for pair in pairs if len(pair) == 2})


class Yara(AbstractWrapper):
    """The YARA rules that match a file or folder: the result is {rule: [matching paths]}.

    Options that print more than that (-s, -g, -m, -e …) may be given; what they print is in the output.
    """

    docker_url = "blacktop/yara"
    # The published image starts `su-exec nobody /sbin/tini -- yara`; another one may start nothing.
    entrypoint = ("yara",)
    volumes = {"/database": {"bind": "/database", "mode": "ro"}}
    threads = 1
    memory_in_gb = 1

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        """Return the command for `input`, a pair (rules, target). `params` are yara's options, as {"--option": value}.

        A value of None or True makes an option without a value; False leaves the option out.
        """
        rules, target = self.job.input
        command: list[str] = []
        for option, value in params.items():
            if value is False:
                continue
            if _is_given(("c", "count"), {option: value}) or _is_given(("D", "print-module-data"), {option: value}):
                raise ValueError(f"yara's option {option} prints no rules with their paths, so it cannot be used here")
            command.append(str(option))
            if value is not None and value is not True:
                command.append(str(value))
        # yara does not accept `--`, so a path that looks like an option gets a prefix.
        return [*command, *(f"./{path}" if str(path).startswith("-") else str(path) for path in (rules, target))]

    def set_result(self, job: WrapperJob) -> None:
        """Read the matches, each a line `RULE PATH`, with tags and metadata in brackets between them if asked for."""
        groups = [_is_given(names, job.params) for names in (("g", "print-tags"), ("m", "print-meta"))].count(True)
        matches: dict[str, list[str]] = {}
        for line in job.stdout:
            rule, separator, path = line.partition(" ")
            if separator and not rule.startswith("0x"):  # with -s: a string that was found
                for _ in range(groups):
                    path = _BRACKETS.sub("", path, count=1)
                matches.setdefault(rule, []).append(path)
        job.set_result(matches)


_BRACKETS = re.compile(r"""\A\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\] """)
"""Tags or metadata, as yara prints them: a text in them is quoted."""


def _is_given(names: tuple[str, str], params: Mapping[str, Any]) -> bool:
    """True if an option of yara is among the params, also as one of several letters behind a dash."""
    short, long = names
    given = [str(option) for option, value in params.items() if value is not False]
    return any(
        option == f"--{long}" or (option.startswith("-") and not option.startswith("--") and short in option[1:])
        for option in given
    )


class Test(AbstractWrapper):
    """Does what its params say: prints `echo`, waits `time` seconds, and exits with `exit_code`."""

    docker_url = "orqal/demo"
    volumes: dict[str, dict[str, str]] = {}
    threads = 0.5
    memory_in_gb = 0.05
    network = "none"

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        """Return the command for the three params. Older notebooks nest them under the key `app`."""
        wanted = params.get("app", params)
        script = 'printf "%s\\n" "$1"; sleep "$2"; exit "$3"'
        values = (wanted.get("echo", ""), wanted.get("time", 0), wanted.get("exit_code", 0))
        return ["sh", "-c", script, "test", *map(str, values)]


class Checksum(AbstractWrapper):
    """The demo's app: SHA-256, size and number of lines of a program in /usr/bin."""

    docker_url = "orqal/demo"
    volumes = {PROGRAMS: {"bind": PROGRAMS, "mode": "ro"}}
    threads = 0.5
    memory_in_gb = 0.05
    network = "none"

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        """Return the command for `input`, the path of a file in /usr/bin."""
        return [
            "sh",
            "-c",
            'sha256sum < "$1" && wc -c < "$1" && wc -l < "$1"',
            "checksum",
            str(self.job.input),
        ]

    def set_result(self, job: WrapperJob) -> None:
        """Read three lines: the sum, the bytes and the lines. A file that could not be read has no result."""
        if job.exit_code == 0:
            digest, size, lines = job.stdout[:3]
            job.set_result({"sha256": digest.split()[0], "bytes": int(size), "lines": int(lines)})


class Run(AbstractWrapper):
    """Runs any command in any image: the app behind `orqal run`."""

    threads = 1
    memory_in_gb = 1
    # Its user says everything anyway.
    jobs_may_set = tuple(JobOptions.model_fields)

    @property
    def docker_url(self) -> str:  # type: ignore[override]
        """The param `image`."""
        return str(self.job.params["image"])

    @property
    def environment(self) -> dict[str, str]:  # type: ignore[override]
        """The param `env`."""
        return {str(k): str(v) for k, v in (self.job.params.get("env") or {}).items()}

    @property
    def network(self) -> str | None:  # type: ignore[override]
        """The param `network`, which is "none" or left out."""
        wanted = self.job.params.get("network")
        if wanted not in (None, "none"):
            raise ValueError(f'the param "network" must be "none" or left out, not {wanted!r}')
        return "none" if wanted else None

    @property
    def volumes(self) -> dict[str, dict[str, str]]:  # type: ignore[override]
        """The param `volumes`, a list of "HOST:CONTAINER[:ro|rw]" with host paths that ORQAL_RUN_MOUNTS allows."""
        wanted = self.job.params.get("volumes") or []
        if not isinstance(wanted, list) or not all(isinstance(volume, str) for volume in wanted):
            raise ValueError(f'the param "volumes" must be a list of "HOST:CONTAINER[:ro|rw]", not {wanted!r:.200}')
        allowed = Settings().run_mounts
        mounts: dict[str, dict[str, str]] = {}
        for volume in wanted:
            host, mount = _mount(volume, allowed)
            if host in mounts:
                raise ValueError(f"{host} is mounted twice")
            mounts[host] = mount
        return mounts

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        """Return the param `cmd`. If it is empty, the image's own command runs."""
        if misplaced := sorted(params.keys() & JobOptions.model_fields.keys()):
            raise ValueError(f"{', '.join(misplaced)}: these are no params, but options of the job (`options`)")
        return [str(word) for word in params.get("cmd") or []]


def _mount(volume: str, allowed: Mapping[str, bool]) -> tuple[str, dict[str, str]]:
    """Return the host path of "HOST:CONTAINER[:ro|rw]", and its mount in the docker SDK's form.

    `allowed` is {path: read-only}.

    Raises:
        ValueError: the text has another form, or the mount is not allowed.
    """
    parts = _VOLUME.fullmatch(volume)
    if parts is None:
        raise ValueError(f'a volume must be "HOST:CONTAINER[:ro|rw]" with two absolute paths, not {volume!r:.200}')
    host, container, mode = parts.groups()
    path = normal_path(host)
    if path not in allowed:
        listed = ", ".join(f"{path}:ro" if read_only else path for path, read_only in allowed.items()) or "none"
        raise ValueError(
            f"{path} may not be mounted. Exactly these host paths may, but nothing below them: {listed}. The "
            "administrator lists them in ORQAL_RUN_MOUNTS"
        )
    if mode == "rw" and allowed[path]:
        raise ValueError(
            f"{path} may only be mounted read-only, because it is {path}:ro in the administrator's ORQAL_RUN_MOUNTS"
        )
    mode = mode or ("ro" if allowed[path] else "rw")
    if mode == "rw" and is_asked_by_socket() and lets_users_become_root(path):
        raise ValueError(
            f"{path} may only be mounted read-only, because a job could leave a program there that makes other users "
            "of the host root. The administrator can mount its file system with the option nosuid, or let only Orqal's "
            "user enter it or a folder above it (chmod 0700)"
        )
    return path, {"bind": container, "mode": mode}


BUILT_IN: tuple[type[AbstractWrapper], ...] = (Rabin2, Yara, Test, Checksum, Run)
