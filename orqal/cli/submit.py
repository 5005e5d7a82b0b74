"""Commands that submit jobs: `orqal submit` and `orqal batch`."""

from __future__ import annotations

import difflib
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from orqal.cli.follow import report_failures, suggest_next_steps, wait_for
from orqal.cli.options import (
    After,
    AfterAny,
    Env,
    EnvFile,
    JsonLines,
    Memory,
    Options,
    Priority,
    Retries,
    RetryDelay,
    RetryMemory,
    RetryOn,
    Sweep,
    Threads,
    Timeout,
    Wait,
    batch_name,
    complete_app,
    pairs,
    parents,
    retry_fields,
    variables,
)
from orqal.cli.plan import show_plan
from orqal.cli.show import fail, out, print_json, print_text, results_table, say
from orqal.client import Client, NotFound, SubmissionFailed, progress_bar
from orqal.client.submission import Child
from orqal.text import counted, one_line, printable

Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Submit nothing. Say how many jobs would be run, how many earlier ones would be reused, and why."
    ),
]

_STEM = 150
"""Characters of a file's name in the name of a batch."""


def submit(
    app: Annotated[
        str, typer.Argument(metavar="APP", help="The app; `orqal apps` lists them.", autocompletion=complete_app)
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="The input of one job: text, or a JSON list or object. Default: one job without input.",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="K=V", help="Set a parameter: a JSON value, otherwise text. May be repeated."
        ),
    ] = None,
    sweep: Sweep = None,
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
    priority: Priority = None,
    after: After = None,
    after_any: AfterAny = None,
    option: Options = None,
    env: Env = None,
    env_file: EnvFile = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Reuse a job with the same app, input and params that waits, runs or succeeded."
        ),
    ] = True,
    plan: Plan = False,
    json: JsonLines = False,
) -> None:
    """Submit jobs that run an app, one for each input. Prints their ids."""
    from orqal.cli.job_documents import combinations, job_document, job_input, json_or_text, swept

    params = {key: json_or_text(text) for key, text in pairs(param, "--param")}
    options = {key: json_or_text(text) for key, text in pairs(option, "--option")}
    environment, given = variables(env, env_file), options.get("environment", {})
    if environment and isinstance(given, dict):
        options["environment"] = environment | given
    fields = {
        "threads": threads,
        "memory_in_gb": memory,
        "timeout": timeout,
        "use_cache": cache,
        "priority": priority,
        "after": parents(after, after_any),
        "options": options or None,
        **retry_fields(retries, retry_on, retry_delay, retry_memory_factor),
    }
    no_input: list[str | None] = [None]
    axes = swept(sweep)
    documents = [
        job_document(app, job_input(text), params | each, **fields)
        for text in inputs or no_input
        for each in combinations(axes)
    ]
    client = Client()
    if problem := _problem_of_app(_apps(client), app):
        fail(problem)
    if plan:
        show_plan(client, documents, len(documents), json=json)
        return
    ids = _submit(client, documents, len(documents), batch)
    if not wait:
        for id in ids:
            print_json({"_id": id}) if json else typer.echo(id)
        return
    failed = wait_for(client, ids, batch)
    ended = (client.job(id) for id in ids)
    if json:
        keys = ("_id", "app", "input", "params", "current_status", "ok", "exit_code", "error", "result")
        for job in ended:
            print_json({key: job.get(key) for key in keys})
    else:
        results_table(ended, out(), limit=len(ids))
        suggest_next_steps(failed, batch)
    raise typer.Exit(1 if failed else 0)


def batch(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with one JSON object per line, or - for stdin.")],
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
    priority: Priority = None,
    after: After = None,
    after_any: AfterAny = None,
    plan: Plan = False,
    json: JsonLines = False,
) -> None:
    """Submit a file of jobs, one per line: {"app": "Checksum", "input": "/usr/bin/env", "params": {}}.

    The options about retries, the priority and the parents apply to lines which do not set these fields themselves.

    All lines are checked before the first job is sent. All jobs join one batch, whatever batch a line names.

    If the batch exists already, nothing is submitted. If an earlier call stopped midway, the rest is submitted.
    """
    from orqal.cli.batch_file import check_all, line_document, read
    from orqal.cli.job_documents import check_defaults

    own = retry_fields(retries, retry_on, retry_delay, retry_memory_factor)
    defaults = check_defaults({**own, "priority": priority, "after": parents(after, after_any)})
    with _rereadable(file) as lines:
        total, named = check_all(lines, file)
        client = Client()
        apps = _apps(client)
        for app, number in named.items():
            if problem := _problem_of_app(apps, app):
                fail(f"{file}:{number}: {problem}", 2)
        if plan:
            lines.seek(0)
            show_plan(client, (line_document(line, defaults) for line in read(lines)), total, json=json)
            return
        title = name or _default_name(file)
        ids = _existing(client, name, total) if name else None
        if ids is None:
            lines.seek(0)
            documents = (line_document(line, defaults) for line in read(lines))
            ids = _submit(client, documents, total, title, resume=True)
    quoted = shlex.quote(title)
    if wait:
        failed = wait_for(client, ids, title)
        if json:
            for result in client.results(title):
                print_json(result)
        else:
            report_failures(failed, title)
            print_text(f"See the results: orqal results {quoted}")
        raise typer.Exit(1 if failed else 0)
    if json:
        for id in ids:
            print_json({"_id": id, "batch": title})
    else:
        print_text(f"Wait for them:   orqal wait --batch {quoted}\nSee the results: orqal results {quoted}")


def _default_name(file: str) -> str:
    """Return a name for a batch that no other call has chosen: the same name would stand for the same jobs."""
    stem = "stdin" if file == "-" else printable(one_line(Path(file).stem), "_")[:_STEM] or "batch"
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _submit(
    client: Client, documents: Iterable[bytes | Child], total: int, batch: str | None, *, resume: bool = False
) -> list[str]:
    """Submit jobs with a progress bar, and return their ids."""
    ids = []
    submission = client.submit_many(documents, batch, resume=resume)
    try:
        with progress_bar("Submitting", total, None if total > 1 else False) as bar:
            for id in submission:
                ids.append(id)
                bar.advance()
    except SubmissionFailed as error:
        fail(f"{error}" + (f" Or cancel them: orqal cancel --batch {shlex.quote(batch)}" if batch else ""))
    if total > 1 or batch or submission.cached:
        where = f" in batch {batch}" if batch else ""
        say(f"{counted(total, 'job')} submitted{where}{_reused(submission.cached, total)}.")
    return ids


def _reused(count: int, total: int) -> str:
    """Return how many jobs existed already, as a part of a sentence."""
    if not count:
        return ""
    subject = "it" if total == 1 else f"{count:,} of them"
    return f", {subject} existed already (cache)"


def _apps(client: Client) -> dict[str, dict[str, Any]]:
    return {app["name"]: app for app in client.apps()}


def _problem_of_app(apps: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """Return why no job can name this app, or None if jobs can. If they will have to wait for it, say so."""
    if name not in apps:
        close = difflib.get_close_matches(name, apps, n=3, cutoff=0.5) or [a for a in apps if a.lower() == name.lower()]
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        return f"There is no app {name!r}{hint} Apps: {', '.join(sorted(apps)) or 'none'}"
    error = apps[name].get("error")
    if error and apps[name].get("jobs_wait"):
        say(f"The app {name!r} cannot be used now: {error}. Its jobs wait until it can.", "yellow")
        return None
    return f"The app {name!r} could not be loaded: {error}" if error else None


@contextmanager
def _rereadable(file: str) -> Generator[BinaryIO, None, None]:
    """Open a file so that it can be read twice. Stdin, or a pipe, is copied to a temporary file first."""
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
    """Return the ids of a complete batch, or None if it does not exist or the rest of it must be submitted."""
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
