"""A MongoDB server for tests: an existing one, or one that is started for them.

The first of these is used: a mongod on the PATH; the server at ORQAL_TEST_MONGO_URL, in which only databases with names
that begin with `orqal_test_` are used; the server that scripts/mongo.sh has put into build/mongo.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.checkout import REPOSITORY
from tests.support.orqal_process import free_port

BUILT = REPOSITORY / "build" / "mongo"
READY_WITHIN = 30.0


@dataclass(frozen=True)
class Server:
    """A running server, and how it differs from MongoDB."""

    name: str
    address: str
    explains: bool
    """`explain` describes indexes as MongoDB does. FerretDB over SQLite only uses the index of ids, and nx-27017 shows
    SQLite's plans."""
    slow: bool
    """FerretDB reads the whole collection for any query that is not by id."""
    restart: Callable[[float], None] | None = None
    """Kills the server, starts it again after the given number of seconds, and returns when it answers. None if the
    server was not started here."""

    def url(self, database: str) -> str:
        """Return the URL of one of its databases."""
        head, mark, options = self.address.partition("?")
        return f"{head.rstrip('/')}/{database}{mark}{options}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new database, and drop the database at the end."""
        name = f"orqal_test_{uuid.uuid4().hex[:12]}"
        yield self.url(name)
        with MongoClient[dict[str, object]](self.address) as client:
            client.drop_database(name)


@contextlib.contextmanager
def server(listen: str = "127.0.0.1", folder: Path | None = None) -> Iterator[Server | None]:
    """Yield a server, or None if there is none. A server that is started here listens at this address, and has its
    files in a new folder or in this one, which is removed in the end."""
    port, folder = free_port(), folder or Path(tempfile.mkdtemp(prefix="orqal-mongo-"))
    address = f"mongodb://{listen}:{port}"
    commands = {
        "mongod": (shutil.which("mongod"), "--port", port, "--bind_ip", listen, "--dbpath", folder),
        "given": (),
        "FerretDB": (shutil.which("ferretdb", path=BUILT), f"{listen}:{port}", folder),
        "nx-27017": (shutil.which("nx-27017", path=BUILT / "nx" / "bin"), "--port", port, *_nx_files(folder)),
    }
    wanted = os.environ.get("ORQAL_TEST_MONGO")  # chooses one that is not the first
    for name, command in commands.items():
        if wanted not in (None, name):
            continue
        if name == "given" and (given := os.environ.get("ORQAL_TEST_MONGO_URL")):
            yield Server("given", given, explains=True, slow=False)
            return
        if command and command[0]:
            with _process([str(word) for word in command], address, folder) as restart:
                yield Server(name, address, explains=name == "mongod", slow=name == "FerretDB", restart=restart)
            return
    shutil.rmtree(folder)
    yield None


def _nx_files(folder: Path) -> list[str | Path]:
    """Options for files of its own, because by default all nx-27017 on a machine share theirs."""
    return ["--db", folder / "db", "--pid-file", folder / "pid", "--log-file", folder / "log"]


@contextlib.contextmanager
def _process(command: list[str], address: str, folder: Path) -> Iterator[Callable[[float], None]]:
    with (folder.with_suffix(".log")).open("wb") as log:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

        process = start()

        def restart(after: float) -> None:
            nonlocal process
            process.kill()
            process.wait()
            time.sleep(after)
            process = start()
            _await(process, address, Path(log.name))

        try:
            _await(process, address, Path(log.name))
            yield restart
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(folder)
            Path(log.name).unlink()


def _await(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    with MongoClient[dict[str, object]](address, serverSelectionTimeoutMS=500) as client:
        while True:
            try:
                client.admin.command("ping")
                return
            except PyMongoError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{address} does not answer:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.1)
