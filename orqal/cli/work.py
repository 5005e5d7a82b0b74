"""Commands that make jobs, wait for them and end them."""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from orqal.cli.show import PROBLEMS, clean, fail, out, print_json, results_table, say, seconds, sentence
from orqal.client import STDERR, Client, NotFound, RequestFailed, SubmissionFailed, progress_bar
from orqal.states import Status

if TYPE_CHECKING:
    from orqal.models import Change

NOT_RUN = 125
"""Exit code of `orqal run` where there was no container that could have one; docker's own choice."""


def complete_app(incomplete: str) -> list[str]:
    """The names of the apps, for the shell's completion; none where the server does not answer at once."""
    # Whatever goes wrong here must not disturb a half-written line.
    with suppress(Exception):
        return [app["name"] for app in Client(timeout=1).apps() if app["name"].startswith(incomplete)]
    return []


Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs: one object per job.")]
Threads = Annotated[float | None, typer.Option(metavar="CORES", min=0.01, help="Cores. Default: what the app says.")]
Memory = Annotated[
    float | None, typer.Option(metavar="GB", min=0.0063, help="Memory in GB (10^9 bytes). Default: what the app says.")
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", min=0.001, help="Seconds the container may run.")]
Retries = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=100, help="Try again up to N times if it fails by itself. Default: what the app says."
    ),
]
RetryOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CAUSE",
        help="Only after this: an exit code, exit_code (any but 0), timeout or out_of_memory; may be repeated.",
    ),
]
RetryDelay = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        max=86_400,
        help="Seconds before the first retry, twice as many before each further one.",
    ),
]
RetryMemory = Annotated[
    float | None,
    typer.Option(
        "--retry-memory-factor",
        metavar="FACTOR",
        min=1,
        max=16,
        help="After out_of_memory, so many times the memory, at most the largest host's.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until all have ended; exit 1 if one is not ok.")]


def job_ids(given: str | list[str] | None) -> str | list[str] | None:
    """Ids as the server writes them. A word that is none is wrong usage: nobody need be asked."""
    if isinstance(given, str):
        if not re.fullmatch("[0-9a-fA-F]{24}", given):
            raise typer.BadParameter(f"{given!r} is no job id: that has 24 hex digits")
        return given.lower()
    return given and [str(job_ids(id)) for id in given]


def batch_name(given: str | None) -> str | None:
    """The name of a batch. One that cannot be is wrong usage: nobody need be asked."""
    if given is not None:
        from orqal.models import check_batch_name

        try:
            check_batch_name(given)
        except ValueError as error:
            raise typer.BadParameter(f"{given!r} is no name of a batch: {error}") from None
    return given


Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", callback=job_ids, show_default=False)]


# run ----------------------------------------------------------------------------------------------


def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image; tag `latest` unless given.")],
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
        typer.Option("-e", "--env", metavar="K=V", help="A variable of its environment; may be repeated."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "-v",
            "--volume",
            metavar="HOST:CONTAINER[:ro|rw]",
            help="Mount a path of the host that the administrator allows; may be repeated.",
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="none", help="`none`: without network, which starts faster.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the job as JSON when it has ended, instead of its output.")
    ] = False,
) -> None:
    """Run a command in an image, like `docker run --rm` but on any host: its output, its exit code.

    Ctrl-C ends the container.
    """
    from orqal.cli import job_files as documents

    if network not in (None, "none"):
        raise typer.BadParameter("the only choice is none", param_hint="--network")
    params = {"image": image, "cmd": cmd or [], "env": dict(_pairs(env, "-e")), "network": network}
    if volume:
        params["volumes"] = [_mount(text) for text in volume]
    client = Client()
    id = client.submit(
        documents.job_document(
            "Run",
            None,
            params,
            threads=threads,
            memory_in_gb=memory,
            timeout=timeout,
            use_cache=False,
            **_retries(retries, retry_on, retry_delay, retry_memory_factor),
        )
    )
    try:
        if not json:
            _copy_output(client, id)
        change = next(client.changes([id]))
    except (KeyboardInterrupt, BrokenPipeError) as reason:
        # Nobody is there any more for whom it could run.
        client.cancel([id])
        if isinstance(reason, KeyboardInterrupt):
            say("\nCancelled: the container ends.")
        raise
    if json:
        print_json(client.job(id))
    if change.error:
        say(f"{change.error.type.value}: {change.error.message}", "red")
        raise typer.Exit(change.exit_code or NOT_RUN)
    raise typer.Exit(change.exit_code or 0)


def _mount(text: str) -> str:
    if not re.fullmatch("/[^:]*:/[^:]*(:r[ow])?", text):
        raise typer.BadParameter(f"{text!r} is not of the form /HOST:/CONTAINER[:ro|rw]", param_hint="-v")
    return text


def _copy_output(client: Client, id: str) -> None:
    for source, data in client.logs(id, follow=True):
        stream = sys.stderr.buffer if source == STDERR else sys.stdout.buffer
        stream.write(data)
        stream.flush()


# submit -------------------------------------------------------------------------------------------


def submit(
    app: Annotated[
        str, typer.Argument(metavar="APP", help="The app; `orqal apps` lists them.", autocompletion=complete_app)
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help="One job each: text, or a JSON list or object. None: one job without input."
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="K=V", help="A parameter, JSON or else text; may be repeated."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="The name of the batch that they join.")
    ] = None,
    wait: Wait = False,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
    retries: Retries = None,
    retry_on: RetryOn = None,
    retry_delay: RetryDelay = None,
    retry_memory_factor: RetryMemory = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take the job of the same input that there is, if it did well.")
    ] = True,
    json: Json = False,
) -> None:
    """Submit an app on one or many inputs; prints the ids of the jobs."""
    from orqal.cli import job_files as documents

    params = {key: documents.value(text) for key, text in _pairs(param, "--param")}
    asked = {
        "threads": threads,
        "memory_in_gb": memory,
        "timeout": timeout,
        "use_cache": cache,
        **_retries(retries, retry_on, retry_delay, retry_memory_factor),
    }
    no_input: list[str | None] = [None]
    jobs = [documents.job_document(app, documents.job_input(text), params, **asked) for text in inputs or no_input]
    client = Client()
    if problem := _app_problem(_apps(client), app):
        fail(problem)
    ids = _submit(client, jobs, len(jobs), batch)
    if not wait:
        for id in ids:
            print_json({"_id": id}) if json else typer.echo(id)
        return
    failed = _wait(client, ids, batch)
    ended = (client.job(id) for id in ids)
    if json:
        keys = ("_id", "app", "input", "params", "current_status", "ok", "exit_code", "error", "result")
        for job in ended:
            print_json({key: job.get(key) for key in keys})
    else:
        results_table(ended, out(), limit=len(ids))
        _tell_what_to_do(failed, batch)
    raise typer.Exit(1 if failed else 0)


def _retries(
    retries: int | None, retry_on: Sequence[str] | None, delay: float | None, factor: float | None
) -> dict[str, Any]:
    """What a job says of its retries."""
    causes = [int(cause) if cause.isdecimal() else cause for cause in retry_on] if retry_on else None
    return {"retries": retries, "retry_on": causes, "retry_delay": delay, "retry_memory_factor": factor}


def _submit(
    client: Client, documents: Iterable[bytes], total: int, batch: str | None, *, resume: bool = False
) -> list[str]:
    ids = []
    submission = client.submit_many(documents, batch, resume=resume)
    try:
        with progress_bar("Submitting", total, None if total > 1 else False) as bar:
            for id in submission:
                ids.append(id)
                bar.advance()
    except SubmissionFailed as error:
        fail(f"{error}" + (f" Or end them: orqal cancel --batch {shlex.quote(batch)}" if batch else ""))
    if total > 1 or batch or submission.cached:
        where = f" in batch {batch}" if batch else ""
        say(f"{total:,} {'job' if total == 1 else 'jobs'} submitted{where}{_cached(submission.cached, total)}.")
    return ids


def _cached(count: int, total: int) -> str:
    if not count:
        return ""
    which = "it was" if total == 1 else f"{count:,} of them {'was' if count == 1 else 'were'}"
    return f", {which} there already (cache)"


def _pairs(options: Sequence[str] | None, name: str) -> Iterator[tuple[str, str]]:
    for option in options or ():
        key, equals, value = option.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{option!r} is not of the form K=V", param_hint=name)
        yield key, value


def _apps(client: Client) -> dict[str, dict[str, Any]]:
    return {app["name"]: app for app in client.apps()}


def _app_problem(apps: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """Why this app cannot be asked for; None: it can."""
    if name not in apps:
        close = difflib.get_close_matches(name, apps, n=3, cutoff=0.5) or [a for a in apps if a.lower() == name.lower()]
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        return f"No app {name!r}{hint} Apps: {', '.join(sorted(apps)) or 'none'}"
    if error := apps[name].get("error"):
        return f"The app {name!r} could not be loaded: {error}"
    return None


# batch --------------------------------------------------------------------------------------------


def batch(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with a JSON object a line, or - for stdin.")],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=batch_name, help="The batch's name. Default: the file's name and the time."
        ),
    ] = None,
    wait: Wait = False,
    retries: Retries = None,
    retry_on: RetryOn = None,
    retry_delay: RetryDelay = None,
    retry_memory_factor: RetryMemory = None,
    json: Json = False,
) -> None:
    """Submit a file of jobs, one a line: {"app": "Checksum", "input": "/usr/bin/env", "params": {}}.

    The options of retries are for the lines that say nothing of them themselves.

    All lines are checked before the first is sent.

    A batch that is there already is not submitted again; if it stopped midway,
    the rest of it is.
    """
    from orqal.cli import job_files as documents

    usual = documents.checked(_retries(retries, retry_on, retry_delay, retry_memory_factor))
    with _rereadable(file) as lines:
        total, named = documents.check(lines, file)
        client = Client()
        apps = _apps(client)
        for app, number in named.items():
            if problem := _app_problem(apps, app):
                fail(f"{file}:{number}: {problem}", 2)
        stem = "stdin" if file == "-" else Path(file).stem
        title = name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        batch_name(title)
        ids = _existing(client, name, total) if name else None
        if ids is None:
            lines.seek(0)
            jobs = (documents.line_document(spec, usual) for _, spec in documents.specs(lines))
            ids = _submit(client, jobs, total, title, resume=True)
    quoted = shlex.quote(title)
    if wait:
        failed = _wait(client, ids, title)
        if json:
            for result in client.results(title):
                print_json(result)
        else:
            _tell_failures(failed, title)
            out().print(f"See the results: orqal results {quoted}", markup=False)
        raise typer.Exit(1 if failed else 0)
    if json:
        for id in ids:
            print_json({"_id": id, "batch": title})
    else:
        out().print(
            f"Wait for them:   orqal wait --batch {quoted}\nSee the results: orqal results {quoted}", markup=False
        )


@contextmanager
def _rereadable(file: str) -> Generator[BinaryIO, None, None]:
    """The file's bytes, to be read twice: what is no regular file is copied to a temporary one first."""
    with ExitStack() as stack:
        try:
            source = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
            if file == "-" or not Path(file).is_file():
                copy = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(source, copy)
                copy.seek(0)
                source = copy
        except OSError as error:
            fail(f"{file} cannot be read: {error.strerror}.", 2)
        yield source


def _existing(client: Client, name: str, total: int) -> list[str] | None:
    """The jobs of a batch that exists; None: there is none of this name, or it is to be submitted to its end."""
    try:
        ids = client.batch_ids(name)
    except NotFound:
        return None
    if len(ids) > total:
        fail(f"The batch {name} exists, with {len(ids):,} jobs and not {total:,}: choose another name.")
    if len(ids) < total:
        say(f"The batch {name} exists, with {len(ids):,} of {total:,} jobs: the rest is submitted.")
        return None
    say(f"The batch {name} exists already: nothing is submitted.")
    return ids


# wait, cancel, retry ----------------------------------------------------------------------------------


def wait(
    ids: Ids = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Wait for all the jobs of this batch.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="Give up after so many seconds; exit 1.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="How each job ended, as JSON, as soon as it does.")] = False,
) -> None:
    """Wait until jobs have ended; exit 1 if one of them is not ok. Ctrl-C stops only the waiting."""
    _one_of(ids, batch)
    client = Client()
    failed = _wait(client, ids or [], batch, timeout=timeout, json=json)
    if not json:
        _tell_failures(failed, batch)
    raise typer.Exit(1 if failed else 0)


def _wait(
    client: Client,
    ids: Sequence[str],
    batch: str | None,
    *,
    timeout: float | None = None,
    json: bool = False,
) -> list[Change]:
    """The jobs that failed, when all have ended. A batch without ids is waited for as a whole."""
    total = len(set(ids)) if ids or batch is None else int(client.batch(batch)["jobs"])
    failed: list[Change] = []
    begun = time.monotonic()
    again = f"--batch {shlex.quote(batch)}" if batch else " ".join(ids) if len(ids) <= 5 else "ID…"
    try:
        with progress_bar("Waiting", total) as bar:
            for change in client.changes(ids, timeout=timeout, batch=None if ids else batch):
                bar.advance(failed=not change.ok)
                if not change.ok:
                    failed.append(change)
                if json:
                    print_json(change.model_dump(mode="json"))
    except KeyboardInterrupt:
        say(f"Stopped waiting; the jobs go on. Wait again: orqal wait {again}")
        raise typer.Exit(130) from None
    except TimeoutError:
        fail(f"{total - bar.done:,} of {total:,} jobs have not ended; they go on. Wait again: orqal wait {again}")
    summary = f"{total - len(failed):,} ok, {len(failed):,} failed" if failed else "all ok" if total > 1 else "ok"
    took = seconds(time.monotonic() - begun)
    say(f"{total:,} {'job has' if total == 1 else 'jobs have'} ended after {took}: {summary}.")
    return failed


def _tell_failures(failed: Sequence[Change], batch: str | None) -> None:
    for change in failed[:PROBLEMS]:
        why = f"{change.error.type.value}: {change.error.message}" if change.error else f"exit code {change.exit_code}"
        out().print(clean(f"{change.id}  {why}"), markup=False, soft_wrap=True)
    if len(failed) > PROBLEMS:
        out().print(f"… and {len(failed) - PROBLEMS:,} more that failed")
    _tell_what_to_do(failed, batch)


def _tell_what_to_do(failed: Sequence[Change], batch: str | None) -> None:
    if failed:
        say(f"For its output and all else: orqal job {failed[0].id}")
        again = f"--batch {shlex.quote(batch)}" if batch else failed[0].id if len(failed) == 1 else "ID…"
        say(f"To run what failed again:    orqal retry {again}")


def cancel(
    ids: Ids = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Cancel the jobs of this batch.")
    ] = None,
    status: Annotated[
        Status | None, typer.Option(help="Only jobs in this state: todo (they wait), init (they start) or running.")
    ] = None,
    app: Annotated[
        str | None, typer.Option(metavar="APP", help="Only jobs of this app.", autocompletion=complete_app)
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Only jobs of this user.")] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Only jobs on this host.")] = None,
    all: Annotated[bool, typer.Option("--all", help="All jobs, of all users.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The number as JSON.")] = False,
) -> None:
    """End jobs, waiting, starting or running: their containers go away. Those that have ended stay as they are.

    Which: by their ids, or by --batch, --status, --app, --user, --host (those to which all of them apply), or --all.
    """
    filters = (batch, status, app, user, host)
    if bool(ids) + any(value is not None for value in filters) + all != 1:
        raise typer.BadParameter("say which jobs: their ids, or options like --batch NAME or --status todo, or --all")
    if status is not None and status.final:
        raise typer.BadParameter("jobs in this state have ended", param_hint="--status")
    count = Client().cancel(
        ids or [], batch=batch, status=status.value if status else None, app=app, user=user, host=host, all=all
    )
    if json:
        print_json({"cancelled": count})
    else:
        out().print(f"{count:,} cancelled." if count else "Nothing to cancel: no such job that has not ended.")


def retry(
    ids: Ids = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Run again what failed of this batch.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help='{"_id": new, "retry_of": old} a line; of a batch the number.')
    ] = False,
) -> None:
    """Run jobs that failed again; prints the ids of the new jobs, which take their places in their batches.

    Asked twice, it is the same new job. Exit 1 if a job has not ended, or is ok.
    """
    _one_of(ids, batch)
    client = Client()
    if batch is not None:
        count = client.retry_batch(batch)
        if json:
            print_json({"retried": count})
        elif count:
            out().print(f"{count:,} run again. Wait for them: orqal wait --batch {shlex.quote(batch)}", markup=False)
        else:
            out().print("Nothing to run again: no job of it has failed.")
        return
    code = 0
    for id in ids or ():
        try:
            new = client.retry(id)
        except RequestFailed as error:
            if error.status not in (404, 409):
                raise
            say(sentence(str(error)), "red")
            code = 1
        else:
            print_json({"_id": new, "retry_of": id}) if json else typer.echo(new)
    raise typer.Exit(code)


def _one_of(ids: Sequence[str] | None, batch: str | None) -> None:
    if bool(ids) == (batch is not None):
        raise typer.BadParameter("say which jobs: either their ids, or --batch NAME")
