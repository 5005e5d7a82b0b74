"""What comes from a Docker daemon bit by bit: output, events, files, news of a pull.

Each is read in a thread; `close`, from any other, ends the reading.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import docker.errors
import requests
import urllib3

from orqal.engine.errors import Unreachable, broken_off, not_pulled

STDOUT, STDERR = 1, 2
"""Docker's numbers of the streams."""
_ENDING = {str(int(number)) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)}
"""Signals that ask a program to end, or end it."""


class Frame(NamedTuple):
    """A piece of output: its stream (STDOUT or STDERR) and its bytes."""

    stream: int
    data: bytes


class Pull:
    """An image on its way here. Call `wait` in a thread; `close` it from another to stop it."""

    def __init__(self, reference: str, response: requests.Response) -> None:
        self._reference, self._response = reference, response
        self._layers: dict[str, tuple[int, int | None]] = {}

    def wait(self) -> None:
        """Return when it is here. EngineError: it cannot be had; see `passing`."""
        try:
            for line in self._response.iter_lines():
                self._on_news(json.loads(line))
        except (requests.RequestException, OSError, AttributeError, ValueError) as error:
            # AttributeError, ValueError: closed by another thread.
            raise broken_off(self._reference, error) from error
        finally:
            self.close()

    def _on_news(self, news: dict[str, Any]) -> None:
        # https://docs.docker.com/reference/api/engine/ (Create an image); what it says of layers is not documented.
        if "error" in news:
            raise not_pulled(self._reference, str(news["error"]))
        layer, detail = str(news.get("id")), news.get("progressDetail") or {}
        match news.get("status"):
            case "Pulling fs layer" | "Waiting":
                self._layers.setdefault(layer, (0, None))
            case "Downloading" if "total" in detail:
                self._layers[layer] = int(detail["current"]), int(detail["total"])
            case "Download complete":
                _, total = self._layers.get(layer, (0, None))
                self._layers[layer] = total or 0, total or 0

    def __str__(self) -> str:
        """How far it is; empty while that is not known."""
        layers = list(self._layers.values())
        total = sum(total or 0 for _, total in layers)
        if not total:
            return ""
        # Of a layer that has not begun the size is not told.
        least = "at least " if any(total is None for _, total in layers) else ""
        return f"{sum(done for done, _ in layers) / 1e6:.0f} of {least}{total / 1e6:.0f} MB"

    def close(self) -> None:
        """Stop it, if it is not over."""
        _shutdown(self._response)
        self._response.close()


class Archive:
    """A tar that comes from a daemon: a file to be read to its end, once. Close it to stop early, from any thread."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Unreachable: it broke off."""
        try:
            data: bytes = self._response.raw.read(size)
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            # AttributeError, ValueError: closed by another thread.
            raise Unreachable(f"the job's files broke off on their way: {error}") from error
        return data

    def close(self) -> None:
        """Let go of the connection."""
        _shutdown(self._response)
        self._response.close()


class Logs:
    """An output that is being read, frame by frame. Close it to stop early, from any thread."""

    def __init__(self, response: requests.Response, follow: bool) -> None:
        self._response = response
        # Docker sends each line as a chunk of its own. Who does not wait for lines takes many at once.
        self._chunk = None if follow else 1 << 18

    def __iter__(self) -> Iterator[Frame]:
        try:
            yield from frames(self._response.iter_content(self._chunk))
        except (requests.RequestException, OSError, AttributeError, ValueError) as error:
            # AttributeError, ValueError: closed by another thread while it waited for more.
            raise Unreachable(f"the output broke off: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the connection; a reader that waits for more is woken."""
        _shutdown(self._response)
        self._response.close()


class Event(NamedTuple):
    """Something that has happened to a container."""

    container: str
    killed: bool
    """True: the daemon has been told to end it (or will not leave it running), and it got a signal. False: it has
    ended."""


class Events:
    """What happens to containers. Ends when the daemon does."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Event]:
        try:
            for event in self._stream:
                container, killed = str(event["Actor"]["ID"]), event["Action"] == "kill"
                if not killed or event["Actor"]["Attributes"].get("signal") in _ENDING:
                    yield Event(container, killed)
        except (requests.RequestException, docker.errors.DockerException, OSError, ValueError):
            return

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


def frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Docker's multiplexed stream, however it is cut into chunks: a header of 8 bytes (stream, 0, 0, 0, length as
    uint32 big endian), then the bytes. Frames come whole; a last one that is not is left out.

    https://docs.docker.com/reference/api/engine/ (Attach to a container, "Stream format")
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start >= 8:
            end = start + 8 + int.from_bytes(buffer[start + 4 : start + 8], "big")
            if len(buffer) < end:
                break
            yield Frame(buffer[start], bytes(buffer[start + 8 : end]))
            start = end
        del buffer[:start]


def multiplexed(frame: Frame) -> bytes:
    """A frame in Docker's stream format."""
    return bytes([frame.stream, 0, 0, 0]) + len(frame.data).to_bytes(4, "big") + frame.data


def _shutdown(response: requests.Response) -> None:
    """Wake a thread that waits in a read of this response: closing alone would not."""
    connection = getattr(response.raw, "_connection", None)
    sock = getattr(connection, "sock", None)
    if isinstance(sock, socket.socket):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
