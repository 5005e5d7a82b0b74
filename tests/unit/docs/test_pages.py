"""README.md and docs/ name every command, option, name, attribute, route and test, and no others."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

import orqal
from orqal.cli import app
from orqal.client import Job, errors
from orqal.models import Attempt, ErrorType, JobSpec, Status
from orqal.serve_app.application import build
from orqal.serve_app.schemas import JobView
from orqal.testing import Container, WrapperRun
from orqal.wrappers import calls
from orqal.wrappers.base import AbstractWrapper, WrapperJob
from orqal.wrappers.description import describe
from orqal.wrappers.loading import WrapperRef, execute
from tests.support.checkout import REPOSITORY
from tests.support.wrappers import a_job

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
README_LINES = 110
README_WIDTH = 120
"""Characters."""

# Reading a page


def text(page: str) -> str:
    return (DOCS / page).read_text()


def prose(markdown: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def section(markdown: str, heading: str) -> str:
    """What is below a heading, up to the next one of the same level."""
    hashes = heading.split()[0]
    (found,) = re.findall(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(hashes)}}} |\Z)", markdown, re.MULTILINE | re.DOTALL
    )
    return str(found)


def first_cells(markdown: str) -> Iterator[str]:
    """What is marked as code in the first cell of each row of a table."""
    for row in re.findall(r"^\| (.*?)(?<!\\) \|", markdown, re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def words(markdown: str) -> set[str]:
    """The names in the first cells: of a call only the name."""
    return {cell.partition("(")[0] for cell in first_cells(markdown)}


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(markdown), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        number = 0
        while (unique := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(unique)
    return found


def compare(where: str, what: str, documented: set[str], real: set[str]) -> None:
    assert not real - documented, f"{where} does not name {what} {sorted(real - documented)}"
    assert not documented - real, f"{where} names {what} {sorted(documented - real)}, which do not exist"


def public(names: object) -> set[str]:
    return {name for name in vars(names) if not name.startswith("_")}


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_and_their_anchors_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(prose(page.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{link} leads to no file")
        elif anchor and anchor not in anchors(target.read_text()):
            wrong.append(f"{link}: {target.name} has no such heading")
    assert not wrong, f"in {page.name}: {'; '.join(wrong)}"


def test_the_index_names_every_page() -> None:
    linked = {Path(link.partition("#")[0]).name for link in LINK.findall(text("README.md"))}
    missing = {page.name for page in DOCS.glob("*.md")} - {"README.md"} - linked
    assert not missing, f"docs/README.md does not link to {sorted(missing)}"


def test_the_readme_is_two_screens_long() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES, f"README.md has {len(lines)} lines; move reference to docs/"
    long = [line for line in lines if len(line) > README_WIDTH]
    assert not long, f"lines of README.md are longer than {README_WIDTH} characters: {long}"


# Tests


@cache
def functions(file: Path) -> frozenset[str]:
    """The functions of a module, also those of its classes; none if there is no such module."""
    if not file.exists():
        return frozenset()
    nodes = ast.walk(ast.parse(file.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("page", ["reliability.md", "compatibility.md"])
def test_every_named_test_exists(page: str) -> None:
    named = NAMED_TEST.findall(text(page))
    assert len(named) > 15, f"the names of tests in {page} are not found"
    missing = [f"{file}::{test}" for file, test in named if test not in functions(REPOSITORY / file)]
    assert not missing, f"{page} names tests that do not exist: {missing}"


@pytest.mark.parametrize("page", ["reliability.md"])
def test_every_promise_names_what_holds_it(page: str) -> None:
    promises = section(text(page), "## The promises")
    rows = [
        row for row in re.findall(r"^\|.*\|$", promises, re.MULTILINE) if not re.match(r"\| (---|promise|what) ", row)
    ]
    without = [row for row in rows if "::test_" not in row]
    assert len(rows) > 30 and not without, f"in {page} no test holds: {without}"


# Commands


def commands() -> dict[str, set[str]]:
    """The options of each command."""
    root = typer.main.get_command(app)
    return {
        name: {
            option
            for each in command.params
            if each.param_type_name == "option"
            for option in (*each.opts, *each.secondary_opts)
        }
        for name, command in [("", root), *root.commands.items()]  # type: ignore[attr-defined]
    }


def documented_commands() -> dict[str, str]:
    """What commands.md says of each command."""
    parts = re.split(r"^#{2,3} (.+)$", text("commands.md"), flags=re.MULTILINE)
    found = {"": parts[0]}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        if name := re.match(r"`orqal ([\w-]+)", heading):
            found[name[1]] = body
    return found


def test_every_command_is_documented_and_no_other() -> None:
    compare("commands.md", "the commands", set(documented_commands()), set(commands()))


@pytest.mark.parametrize("command", commands())
def test_every_option_is_documented_and_no_other(command: str) -> None:
    described = documented_commands()[command]
    options = {cell.partition(" ")[0] for cell in first_cells(described) if re.match("--?[a-z]", cell)}
    compare(f"commands.md, `orqal {command}`,", "the options", options, commands()[command])


# Python, wrappers and jobs


def test_every_name_of_the_package_is_documented_and_no_other() -> None:
    compare("python.md", "the names in `orqal`:", words(section(text("python.md"), "## orqal")), set(orqal.__all__))


def test_every_method_of_a_job_is_documented_and_no_other() -> None:
    compare("python.md", "the attributes of `Job`:", words(section(text("python.md"), "## Job")), public(Job))


def test_every_error_is_documented_and_no_other() -> None:
    types = {
        name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, errors.OrqalError)
    }
    compare("python.md", "the errors", words(section(text("python.md"), "## Errors")), types)


def test_every_attribute_and_method_of_a_wrapper_is_documented_and_no_other() -> None:
    documented = words(section(text("wrappers.md"), "## Attributes")) | words(
        section(text("wrappers.md"), "## Methods")
    )
    compare("wrappers.md", "the attributes of a wrapper:", documented, public(AbstractWrapper))


def test_the_example_of_every_attribute_works() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]* \| `([^|]+)` \|", text("wrappers.md"), re.MULTILINE)
    documented = words(section(text("wrappers.md"), "## Attributes")) - words(
        section(text("wrappers.md"), "## Methods")
    )
    assert {name for name, _ in rows} == documented
    for name, example in rows:
        assert example.startswith(f"{name} = ")
        source = (
            "class W(AbstractWrapper):\n"
            f"    docker_url = 'i'\n    {example}\n"
            "    def get_cmd(self, params): return 'x'\n"
        )
        app = describe(execute(source, f"/{name}.py")["W"], "W", "given")
        assert app.error is None and app.warnings == [], (name, app)
        command = calls.prepare(WrapperRef("W", source=source, origin=f"/{name}.py"), a_job(), None)
        assert isinstance(command, calls.Command), (name, command)


def test_what_a_wrapper_sees_of_its_job_is_documented() -> None:
    documented = words(section(text("wrappers.md"), "## The job in these methods"))
    job = WrapperJob(id="", app="", input=None, params={}, user="", wd="")
    compare("wrappers.md", "the attributes of the job:", documented, public(WrapperJob) | public(job))


def test_every_field_of_a_job_is_documented_and_no_other() -> None:
    given = words(section(text("jobs.md"), "## What you give"))
    compare("jobs.md", "the fields", given, set(JobSpec.model_fields))
    fields = {field.alias or name for name, field in JobView.model_fields.items()} | {"ok"}
    has = words(section(text("jobs.md"), "## What it has"))
    compare("jobs.md", "the fields", has, fields - set(JobSpec.model_fields))
    attempt = words(section(text("jobs.md"), "## Trying again"))
    compare("jobs.md", "the fields of an attempt", attempt, set(Attempt.model_fields))


def test_every_state_and_error_of_a_job_is_documented_and_no_other() -> None:
    compare("jobs.md", "the states", words(section(text("jobs.md"), "## States")), {state.value for state in Status})
    compare("jobs.md", "the errors", words(section(text("jobs.md"), "## Errors")), {error.value for error in ErrorType})


def test_what_a_run_of_a_wrapper_returns_is_documented() -> None:
    documented = words(section(text("testing-wrappers.md"), "## What it returns"))
    compare("testing-wrappers.md", "the attributes of a run:", documented, {*WrapperRun.__dataclass_fields__, "ok"})
    page = text("testing-wrappers.md")
    missing = [name for name in Container.__dataclass_fields__ if f"`{name}`" not in page]
    assert not missing, f"testing-wrappers.md does not name what a container has: {missing}"


# Routes


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The routes of the OpenAPI document."""
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    paths = build().openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


OLD_ROUTES = {
    *("GET /api/job/{id}", "POST /api/job", "GET /api/jobs/status", "GET /api/job/{id}/download/{path}"),
    *("POST /api/batch", "POST /api/batch/{name}", "GET /api/batch/{name}"),
    *("GET /api/stream/http://{host}/{container id}", "GET /api/load", "GET /api/status", "GET /api/dataset.json"),
    *("GET /api/clean/all", "GET /api/clean/scheduled", "GET /api/clean/containers", "GET /api/clean/old"),
    *("/", "/jobs/{status}", "/jobs/{status}/{page}", "/logs/{process}", "/doc"),
}
"""The routes of orqal 0.0.12."""
OTHER_PARAMETERS = {"/api/stream/http://{host}/{container id}": "/api/stream/{where}"}
"""Routes whose parameters have other names now."""


def as_now(route: str) -> str:
    """The present route that a route of the predecessor belongs to."""
    method, path = route.split(" ", 1)
    path = OTHER_PARAMETERS.get(path, path).replace("/job/{id}", "/job/{job_id}")
    return f"{method} {re.sub('^/api/clean/.*', '/api/clean/{action}', path)}"


def test_every_route_is_documented_and_no_other(routes: set[str]) -> None:
    old = {as_now(route) for route in OLD_ROUTES if " " in route.partition("{")[0]}
    documented = {cell for cell in first_cells(text("rest.md")) if cell.startswith(("GET ", "POST ", "PATCH "))}
    assert not old - routes, f"compatibility.md has routes that do not exist: {sorted(old - routes)}"
    compare("rest.md", "the routes", documented, (routes - old) | (documented & old))


def test_each_route_of_the_predecessor_has_a_row_with_its_test() -> None:
    rows = [line for line in text("compatibility.md").splitlines() if line.startswith("| `")]
    for route in sorted(OLD_ROUTES):
        found = [row for row in rows if f"`{route}`" in row.partition(" | ")[0]]
        assert len(found) == 1 and "::test_" in found[0], f"compatibility.md has no row with a test for {route}"
