"""The command that runs a command in an image: `orqal run`."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any

import typer

from orqal.cli.options import (
    Env,
    EnvFile,
    Priority,
    Retries,
    RetryDelay,
    RetryMemory,
    RetryOn,
    Timeout,
    retry_fields,
    variables,
)
from orqal.cli.show import copy_output, print_json, say
from orqal.client import Client, OrqalError

NO_EXIT_CODE = 125
"""The exit code if no container ended by itself. `docker run` uses it too."""
_REASON_AFTER = 5.0
"""Seconds after which a job that has not started says why."""
_REASON_AGAIN = 30.0
"""Seconds after which it says so again, if the reason is another one."""


class Pull(str, Enum):
    """When the image is pulled."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image. Without a tag it is `latest`.")],
    cmd: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CMD", help="The command and its arguments. Default: the image's own."),
    ] = None,
    threads: Annotated[float, typer.Option(metavar="CORES", min=0.01, help="Cores.")] = 1,
    memory: Annotated[float, typer.Option(metavar="GB", min=0.0063, help="Memory in GB (10^9 bytes).")] = 1,
    timeout: Timeout = None,
    retries: Retries = None,
    retry_on: RetryOn = None,
    retry_delay: RetryDelay = None,
    retry_memory_factor: RetryMemory = None,
    priority: Priority = None,
    env: Env = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "-v",
            "--volume",
            metavar="HOST:CONTAINER[:ro|rw]",
            help="Mount a path of the host that the administrator allows. May be repeated.",
        ),
    ] = None,
    env_file: EnvFile = None,
    network: Annotated[
        str | None, typer.Option(metavar="none", help="With `none` the container has no network, and starts faster.")
    ] = None,
    workdir: Annotated[
        str | None, typer.Option("-w", "--workdir", metavar="DIR", help="Where the command starts.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            "-u",
            "--user",
            metavar="USER",
            help="Whom the command runs as: a user of the image, UID:GID, or @submitter for your account on the host.",
        ),
    ] = None,
    entrypoint: Annotated[
        str | None, typer.Option(metavar="CMD", help="What runs before the command; an empty text is nothing.")
    ] = None,
    init: Annotated[
        bool, typer.Option(help="Run a small init as process 1, which passes signals on and reaps processes.")
    ] = True,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let the container's files only be read.")] = False,
    tmpfs: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR[:OPTIONS]", help="Mount a folder in memory: /scratch:size=64m. May be repeated."),
    ] = None,
    shm_size: Annotated[str | None, typer.Option(metavar="SIZE", help="The size of /dev/shm: 512m, 1g.")] = None,
    ulimit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOFT[:HARD]", help="Set a limit, as nofile=1024:4096; -1 is none. May be repeated."),
    ] = None,
    add_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:ADDRESS", help="Let a name stand for an address. May be repeated."),
    ] = None,
    platform: Annotated[
        str | None, typer.Option(metavar="PLATFORM", help="The platform of the image, such as linux/arm64.")
    ] = None,
    pull: Annotated[
        Pull, typer.Option(metavar="missing|always|never", help="When the host pulls the image.", show_choices=False)
    ] = Pull.MISSING,
    runtime: Annotated[str | None, typer.Option(metavar="NAME", help="The OCI runtime, such as nvidia.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="all|N|IDS", help="GPUs: all, how many, or ids or CDI names separated by commas."),
    ] = None,
    gpu_memory_gb: Annotated[
        float | None, typer.Option(metavar="GB", help="The memory that each GPU must have, in 10^9 bytes.")
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="Take so much of what hosts declare, as fpga=1. May be repeated."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the job as JSON when it has ended, instead of its output.")
    ] = False,
) -> None:
    """Run a command in an image, like `docker run --rm` but on any host.

    Prints the command's output, and exits with its exit code. Ctrl-C, SIGTERM and SIGHUP end the container.
    """
    from orqal.cli.job_documents import job_document

    if network not in (None, "none"):
        raise typer.BadParameter("the only choice is none", param_hint="--network")
    params: dict[str, Any] = {"image": image, "cmd": cmd or [], "env": variables(env, env_file), "network": network}
    if volume:
        params["volumes"] = [_checked_mount(text) for text in volume]
    options = {
        "working_dir": workdir,
        "user": user,
        "entrypoint": entrypoint,
        "init": None if init else False,
        "read_only": read_only or None,
        "tmpfs": dict(_split(text, ":") for text in tmpfs) if tmpfs else None,
        "shm_size": shm_size,
        "ulimits": dict(map(_limit, ulimit)) if ulimit else None,
        "extra_hosts": dict(_host(text) for text in add_host) if add_host else None,
        "platform": platform,
        "pull": None if pull is Pull.MISSING else pull.value,
        "runtime": runtime,
        "gpus": None if gpus is None else _gpus(gpus),
        "gpu_memory_gb": gpu_memory_gb,
        "resources": dict(map(_resource, resource)) if resource else None,
    }
    document = job_document(
        "Run",
        None,
        params,
        threads=threads,
        memory_in_gb=memory,
        timeout=timeout,
        use_cache=False,
        priority=priority,
        options={name: value for name, value in options.items() if value is not None} or None,
        **retry_fields(retries, retry_on, retry_delay, retry_memory_factor),
    )
    client = Client()
    with _ended_by_signals():
        id = client.submit(document)
        try:
            with _reasons_told(id):
                if not json:
                    copy_output(client.logs(id, follow=True))
                change = next(client.changes([id]))
        except (KeyboardInterrupt, BrokenPipeError, SystemExit) as cause:
            # The output no longer has a reader.
            client.cancel([id])
            if not isinstance(cause, BrokenPipeError):
                say("\nCancelled: the container ends.")
            raise
    if json:
        print_json(client.job(id))
    if change.error:
        say(f"{change.error.type.value}: {change.error.message}", "red")
        raise typer.Exit(change.exit_code or NO_EXIT_CODE)
    raise typer.Exit(change.exit_code or 0)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, as Ctrl-C raises KeyboardInterrupt."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _split(text: str, separator: str) -> tuple[str, str]:
    first, _, rest = text.partition(separator)
    return first, rest


def _limit(text: str) -> tuple[str, list[int]]:
    parts = re.fullmatch(r"([a-z]+)=(-?\d+)(?::(-?\d+))?", text)
    if parts is None:
        raise typer.BadParameter(f"{text!r} is not of the form NAME=SOFT[:HARD]", param_hint="--ulimit")
    name, soft, hard = parts.groups()
    return name, [int(soft), int(hard or soft)]


def _host(text: str) -> tuple[str, str]:
    name, address = _split(text, ":")
    if not (name and address):
        raise typer.BadParameter(f"{text!r} is not of the form NAME:ADDRESS", param_hint="--add-host")
    return name, address


def _gpus(text: str) -> str | float | list[str]:
    if text == "all":
        return text
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text.split(",")


def _resource(text: str) -> tuple[str, float]:
    name, amount = _split(text, "=")
    try:
        return name, float(amount)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not of the form NAME=AMOUNT", param_hint="--resource") from None


@contextmanager
def _reasons_told(id: str) -> Iterator[None]:
    """Say on stderr why a job does not start: an image that is pulled for long, or no room on any host."""
    over = threading.Event()

    def tell() -> None:
        client, told, pause = Client(), "", _REASON_AFTER
        while not over.wait(pause):
            pause = _REASON_AGAIN
            try:
                now = client.explain(id)
            except OrqalError:  # the one who waits for the job says so
                continue
            if now["current_status"] not in ("todo", "init"):
                return
            if now["summary"] != told and not over.is_set():
                told = now["summary"]
                say(f"{id} has not started yet. {told}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()


def _checked_mount(text: str) -> str:
    if not re.fullmatch("/[^:]*:/[^:]*(:r[ow])?", text):
        raise typer.BadParameter(f"{text!r} is not of the form /HOST:/CONTAINER[:ro|rw]", param_hint="-v")
    return text
