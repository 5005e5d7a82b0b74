"""A name of an image leads to that image, or to nothing: never to another path of the daemon."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orqal.engine.client import ContainerKey, ContainerSpec, Engine
from orqal.engine.errors import EngineError
from orqal.engine.image_names import is_name, registry, with_tag
from orqal.models import ErrorType, Resources

DIGEST = "sha256:" + "0" * 64
ATTACKS = [
    "x@y/../../containers/json",
    f"x@{DIGEST}/../../containers",
    "../containers",
    "a/../../../containers",
    "a/./b",
    "a//b",
    "/a",
    "a/",
    "a?x=1",
    "a#x",
    "a%2f..%2fb",
    "a\\b",
    "http://h/a",
    "a b",
    "a\n",
    "\u00e4",
    "A",
    "a:",
    "a:b:c",
    "a:.",
    "a@",
    "",
    "-a",
    "a" * 10_000,
    "-".join("a" * 250) + "!",
]


@pytest.mark.parametrize(
    ("image", "tagged"),
    [
        ("radare/radare2", "radare/radare2:latest"),
        ("busybox", "busybox:latest"),
        ("busybox:1", "busybox:1"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("localhost:5000/a/b:2", "localhost:5000/a/b:2"),
        (f"localhost:5000/a@{DIGEST}", f"localhost:5000/a@{DIGEST}"),
        (f"a:1@{DIGEST}", f"a:1@{DIGEST}"),
        (DIGEST, DIGEST),
        ("Registry.Lab/a_b/c__d/e---f/g.h:V1_2.x-y", "Registry.Lab/a_b/c__d/e---f/g.h:V1_2.x-y"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
    ],
)
def test_a_name_is_accepted_and_without_a_tag_gets_latest(image: str, tagged: str) -> None:
    assert is_name(image) and with_tag(image) == tagged


@pytest.mark.parametrize(
    ("image", "where"),
    [
        ("a", "docker.io"),
        ("a:1", "docker.io"),
        ("user/a", "docker.io"),
        ("docker.io/user/a", "docker.io"),
        ("index.docker.io/a", "docker.io"),
        ("localhost/a", "localhost"),
        ("host:5000/a", "host:5000"),
        ("169.254.169.254/a", "169.254.169.254"),
        ("Registry.Lab/a", "registry.lab"),
        ("[::1]:5000/a", "[::1]:5000"),
    ],
)
def test_the_registry_of_a_name(image: str, where: str) -> None:
    assert registry(image) == where


class Daemon(http.server.ThreadingHTTPServer):
    """Answers every request as a daemon would that has what is asked for, and notes the paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.paths: list[str] = []


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Daemon)
        self.server.paths.append(self.path)
        body = json.dumps({"ApiVersion": "1.41", "Id": "an answer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with Daemon() as daemon:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{daemon.server_address[1]}")
        threading.Thread(target=daemon.serve_forever, args=(0.01,)).start()
        yield daemon
        daemon.shutdown()


def test_no_name_reaches_another_path_of_the_daemon(daemon: Daemon) -> None:
    engine = Engine("test")
    assert engine.image_id("a") == "an answer"
    before = list(daemon.paths)
    assert before[-1] == "/v1.41/images/a:latest/json"
    for image in ATTACKS:
        spec = ContainerSpec(
            key=ContainerKey("0" * 24, 1),
            image=image,
            cmd="x",
            resources=Resources.of(1, 1),
            volumes={},
            environment={},
            working_dir=None,
            network=None,
            pids_limit=1,
            cgroup_parent=None,
            log_cap=0,
        )
        for call in (engine.image_id, engine.pull):
            with pytest.raises(EngineError, match="is not the name of an image") as refused:
                call(image)
            # Not passing: another attempt would end in the same way.
            assert (refused.value.type, refused.value.passing) == (ErrorType.IMAGE_NOT_FOUND, False)
        with pytest.raises(EngineError, match="is not the name of an image"):
            engine.create(spec)
    assert daemon.paths == before
    engine.close()
