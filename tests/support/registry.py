"""A real registry for images (Debian's docker-registry), behind a gate that can refuse connections or stall them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import docker

from examples.local_image import make_image

USER, PASSWORD = "user", "secret"
# What `htpasswd -B` prints for these two.
_HTPASSWD = "user:$2b$04$Tti4LVbNNnKbj8X1Dx4Q3u/IskVFRPE3Ji.TI2DjUFWdAEj2r4aIO\n"
_READY_WITHIN = 30
_PIECE = 1 << 14


class Gate:
    """A proxy in front of a server on this machine. A Docker daemon knows only the proxy."""

    def __init__(self, target: int, address: str = "127.0.0.1") -> None:
        """`target`: the server's port."""
        self._target = target
        self._changed = threading.Condition()
        self._left: int | None = None
        self._open: set[socket.socket] = set()
        self._held: set[socket.socket] = set()
        """Those of the open connections that have had to wait for `limit` since everything was let through."""
        self._listener: socket.socket | None = None
        self.address = (address, 0)
        self.unlock()

    def unlock(self) -> None:
        """Let everything through. This is the state at the beginning."""
        self.limit(None)
        with self._changed:
            self._held.clear()
        if self._listener is None:
            self._listener = socket.create_server(self.address)
            self.address = self._listener.getsockname()
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def limit(self, size: int | None) -> None:
        """Let `size` more bytes from the server through, and then no more; None is no limit."""
        with self._changed:
            self._left = size
            self._changed.notify_all()

    def shut(self) -> None:
        """Refuse new connections, and break the present ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # A thread waits in `accept`, and closing alone would not wake it.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def let_go(self, within: float = 20) -> bool:
        """Wait for all connections to end that had to wait. Return False if some are left after `within` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, within)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            with self._changed:
                self._open.add(client)
            try:
                threading.Thread(target=self._hand_on, args=(client, server, False), daemon=True).start()
                self._hand_on(server, client, True)
            finally:
                with self._changed:
                    self._open.discard(client)
                    self._held.discard(client)
                    self._changed.notify_all()

    def _hand_on(self, one: socket.socket, other: socket.socket, limited: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(_PIECE):
                if limited and not self._may_pass(other, len(data)):
                    break
                other.sendall(data)
        for end in one, other:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _may_pass(self, client: socket.socket, size: int) -> bool:
        """Wait until bytes may pass. Return False if the client has left meanwhile."""
        with self._changed:
            while self._left is not None and self._left <= 0:
                self._held.add(client)
                self._changed.wait(0.1)
                if _has_gone(client):
                    return False
            if self._left is not None:
                self._left -= size
            return True


def _has_gone(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Registry:
    """A registry that requires the password."""

    def __init__(self, folder: Path, port: int, gate: Gate) -> None:
        self._folder, self._port, self.gate = folder, port, gate

    @property
    def name(self) -> str:
        """The registry's address, with which the names of its images begin."""
        address, port = self.gate.address
        return f"{address}:{port}"

    def logins(self, password: str = PASSWORD) -> str:
        """Return Docker's config.json of a user who has logged in."""
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        return json.dumps({"auths": {self.name: {"auth": auth}}})

    def push(self, name: str, megabytes: int = 1) -> str:
        """Make a new image that is in the registry and not in the engine. It has `megabytes` of incompressible data."""
        image = f"{self.name}/{name}"
        with contextlib.closing(docker.from_env()) as client:
            make_image(image, ("sh", "cat", "echo"), extra_files={"/data": os.urandom(megabytes << 20)}, client=client)
            lines = client.api.push(
                image, stream=True, decode=True, auth_config={"username": USER, "password": PASSWORD}
            )
            errors = [line["error"] for line in lines if "error" in line]
            client.images.remove(image)
        assert errors == []
        return image

    def fetched(self, image: str) -> int:
        """Return how often the layer of an image was fetched."""
        name = re.escape(image.split("/", 1)[1])
        # An image's configuration is a blob too, but its size has fewer than six digits.
        return len(re.findall(rf'"GET /v2/{name}/blobs/\S+ HTTP/1.1" 200 \d{{6,}}', self.log))

    @property
    def log(self) -> str:
        """The registry's log, with a line for each request."""
        return (self._folder / "log").read_text()


@contextlib.contextmanager
def a_registry(address: str = "127.0.0.1") -> Iterator[Registry]:
    """Yield a running registry. Its gate is at this address of this machine."""
    folder = Path(tempfile.mkdtemp(prefix="orqal-registry-"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    (folder / "htpasswd").write_text(_HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": f"{folder}/data"}},
        "http": {"addr": f"127.0.0.1:{port}", "relativeurls": True},
        "auth": {"htpasswd": {"realm": "orqal", "path": f"{folder}/htpasswd"}},
    }
    (folder / "config.yml").write_text(json.dumps(config))  # YAML is a superset of JSON
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    gate = Gate(port, address)
    try:
        _await_answer(port, process)
        yield Registry(folder, port, gate)
    finally:
        gate.shut()
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def missing() -> str | None:
    """Return why a registry cannot run here, or None if it can."""
    return None if shutil.which("docker-registry") else "needs docker-registry; run `bash scripts/cluster_tools.sh`"


def _await_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
