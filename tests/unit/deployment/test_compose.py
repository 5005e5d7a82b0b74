"""compose.yaml and its Dockerfile, as far as they can be checked without pulling an image."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import typer
import yaml
from pymongo.uri_parser import parse_uri

from orqal.cli import app
from orqal.settings import store_place
from tests.support.checkout import REPOSITORY

ROOT = REPOSITORY
ADDRESS = "192.0.2.1"


@pytest.fixture
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return services


def command_of(service: dict[str, Any]) -> list[str]:
    """Return the command of a service when ORQAL_ADDRESS is set."""
    words = [re.sub(r"\$\{ORQAL_ADDRESS[^}]*\}", ADDRESS, word) for word in service["command"]]
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of an `orqal` command, as the command line parses them."""
    program: Any = typer.main.get_command(app)
    command = program.commands[words[1]]
    return dict(command.make_context(words[1], words[2:]).params)


def test_its_commands_exist(services: dict[str, Any]) -> None:
    head, host = (command_of(services[name]) for name in ("head", "host1"))
    assert (head[:2], host[:2]) == (["orqal", "up"], ["orqal", "join"])
    assert parsed(head)["address"] == ADDRESS and parsed(head)["block"]
    options = parsed(host)
    assert (options["head"], options["name"], options["block"]) == (ADDRESS, "host1", True)
    assert options["docker_host"] == "tcp://192.168.1.11:2376"
    check = services["head"]["healthcheck"]["test"]
    assert check[:2] == ["CMD", "orqal"] and check[2] in typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_its_variables_are_settings(services: dict[str, Any]) -> None:
    known = set(re.findall(r"ORQAL_[A-Z_]+", (ROOT / "orqal/settings.py").read_text()))
    docker = {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}
    for name in set(services) - {"mongo"}:
        assert set(services[name].get("environment", {})) <= known | docker


def test_the_database_is_of_no_use_to_who_has_no_password(services: dict[str, Any]) -> None:
    mongo, store = services["mongo"], services["head"]["environment"]["ORQAL_STORE"]
    assert mongo["ports"] == ["127.0.0.1:27017:27017"]  # other machines cannot reach it; other users of this one can
    user, password = (mongo["environment"][f"MONGO_INITDB_ROOT_{part}"] for part in ("USERNAME", "PASSWORD"))
    # There is no default, so Compose refuses to start without a password of this installation's own.
    assert password.startswith("${ORQAL_MONGO_PASSWORD:?")
    assert store == f"mongodb://{user}:${{ORQAL_MONGO_PASSWORD}}@127.0.0.1:27017/orqal?authSource=admin"
    parsed = parse_uri(store.replace("${ORQAL_MONGO_PASSWORD}", "0123456789abcdef"))
    assert (parsed["database"], parsed["username"]) == ("orqal", "orqal")
    assert store_place(store) == "mongodb://127.0.0.1:27017/orqal"


def test_what_the_daemon_mounts_is_at_the_same_path_inside_and_outside(services: dict[str, Any]) -> None:
    for name in ("head", "host1"):
        home = services[name]["environment"]["ORQAL_HOME"]
        assert f"{home}:{home}" in services[name]["volumes"]


def test_the_files_that_the_image_copies_exist() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and f"!{source}" in ignored


def test_compose_accepts_the_file() -> None:
    """Only where Compose is installed. It pulls no image for this, and needs no engine."""
    command = ["docker-compose"]
    if not shutil.which("docker-compose"):
        command = ["docker", "compose"]
        if not shutil.which("docker") or subprocess.run([*command, "version"], capture_output=True).returncode != 0:
            pytest.skip("no Docker Compose here")
    config = [*command, "-f", str(ROOT / "compose.yaml"), "config"]
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    given = path | {"ORQAL_ADDRESS": ADDRESS, "ORQAL_MONGO_PASSWORD": "0123456789abcdef"}
    done = subprocess.run(config, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mongodb://orqal:0123456789abcdef@127.0.0.1:27017" in done.stdout
    assert f"- {ADDRESS}" in done.stdout
    for variable, words in (("ORQAL_ADDRESS", "the address of this machine"), ("ORQAL_MONGO_PASSWORD", "the password")):
        without = {name: value for name, value in given.items() if name != variable}
        refused = subprocess.run(config, env=without, capture_output=True, text=True, check=False)
        assert refused.returncode != 0 and words in refused.stdout + refused.stderr
