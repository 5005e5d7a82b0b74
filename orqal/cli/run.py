"""The command that runs a command in an image: `orqal run`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from orqal.cli.options import Retries, RetryDelay, RetryMemory, RetryOn, Timeout, pairs, retry_fields
from orqal.cli.show import copy_output, print_json, say
from orqal.client import Client, OrqalError

NO_EXIT_CODE = 125
"""The exit code if no container ended by itself. `docker run` uses it too."""
_REASON_AFTER = 5.0
"""Seconds after which a job that has not started says why."""
_REASON_AGAIN = 30.0
"""Seconds after which it says so again, if the reason is another one."""


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
    env: Annotated[
        list[str] | None,
        typer.Option("-e", "--env", metavar="K=V", help="Set an environment variable. May be repeated."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "-v",
            "--volume",
            metavar="HOST:CONTAINER[:ro|rw]",
            help="Mount a path of the host that the administrator allows. May be repeated.",
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="none", help="With `none` the container has no network, and starts faster.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the job as JSON when it has ended, instead of its output.")
    ] = False,
) -> None:
    """Run a command in an image, like `docker run --rm` but on any host.

    Prints the command's output, and exits with its exit code. Ctrl-C ends the container.
    """
    from orqal.cli.job_documents import job_document

    if network not in (None, "none"):
        raise typer.BadParameter("the only choice is none", param_hint="--network")
    params: dict[str, Any] = {"image": image, "cmd": cmd or [], "env": dict(pairs(env, "-e")), "network": network}
    if volume:
        params["volumes"] = [_checked_mount(text) for text in volume]
    document = job_document(
        "Run",
        None,
        params,
        threads=threads,
        memory_in_gb=memory,
        timeout=timeout,
        use_cache=False,
        **retry_fields(retries, retry_on, retry_delay, retry_memory_factor),
    )
    client = Client()
    id = client.submit(document)
    try:
        with _reasons_told(id):
            if not json:
                copy_output(client.logs(id, follow=True))
            change = next(client.changes([id]))
    except (KeyboardInterrupt, BrokenPipeError) as cause:
        # The output no longer has a reader.
        client.cancel([id])
        if isinstance(cause, KeyboardInterrupt):
            say("\nCancelled: the container ends.")
        raise
    if json:
        print_json(client.job(id))
    if change.error:
        say(f"{change.error.type.value}: {change.error.message}", "red")
        raise typer.Exit(change.exit_code or NO_EXIT_CODE)
    raise typer.Exit(change.exit_code or 0)


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
