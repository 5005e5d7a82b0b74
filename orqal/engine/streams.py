"""What a Docker daemon sends bit by bit: outputs, events, files, and the progress of a pull.

Each is read in a thread. `close`, from any other thread, ends the reading.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import docker.errors
import requests
import urllib3

from orqal.engine.errors import Unreachable, broken_off, not_pulled

_PIECE = 1 << 16
"""Bytes of an output that are read at a time."""
_ENDING = {str(int(number)) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)}
"""The numbers of signals that ask a program to end, or end it."""


class Pull:
    """An image that is being pulled. Call `wait` in a thread; `close` it from another thread to stop it."""

    def __init__(self, reference: str, response: requests.Response, silence: float) -> None:
        """`silence`: seconds without progress after which it is given up."""
        self._reference, self._response, self._silence = reference, response, silence
        self._layers: dict[str, tuple[int, int | None]] = {}
        self._told: dict[str, tuple[object, object]] = {}
        """The last news of each layer."""

    def wait(self) -> None:
        """Return when the image is on the host.

        Raises:
            EngineError: the image cannot be pulled; its `passing` says whether a retry may help.
        """
        try:
            progress_at = time.monotonic()
            for line in self._response.iter_lines():
                # A newer daemon repeats itself while the registry is silent.
                if self._on_news(json.loads(line)):
                    progress_at = time.monotonic()
                elif time.monotonic() - progress_at > self._silence:
                    raise TimeoutError(f"there was no progress for {self._silence:g} s")
        except (requests.RequestException, OSError, AttributeError, ValueError) as error:
            # AttributeError, ValueError: closed by another thread.
            raise broken_off(self._reference, error) from error
        finally:
            self.close()

    def _on_news(self, news: dict[str, Any]) -> bool:
        """Heed what the daemon tells; False if it has told the same before."""
        # https://docs.docker.com/reference/api/engine/ (Create an image). The messages about layers are not documented.
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
        told = news.get("status"), detail.get("current")
        is_new = self._told.get(layer) != told
        self._told[layer] = told
        return is_new

    def __str__(self) -> str:
        """How far it is; empty while that is unknown."""
        layers = list(self._layers.values())
        total = sum(total or 0 for _, total in layers)
        if not total:
            return ""
        # The size of a layer is unknown until its download begins.
        least = "at least " if any(total is None for _, total in layers) else ""
        return f"{sum(done for done, _ in layers) / 1e6:.0f} of {least}{total / 1e6:.0f} MB"

    def close(self) -> None:
        """Stop the pull if it is not over."""
        _shutdown(self._response)
        self._response.close()


class Archive:
    """A tar that a daemon sends: a file that can be read to its end once. Close it to stop early."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end.

        Raises:
            Unreachable: the tar broke off, or was closed by another thread.
        """
        try:
            data: bytes = self._response.raw.read(size)
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            # AttributeError, ValueError: closed by another thread.
            raise Unreachable(f"the job's files broke off on their way: {error}") from error
        return data

    def close(self) -> None:
        """Close the connection."""
        _shutdown(self._response)
        self._response.close()


class Logs:
    """An output that is being read: pieces of the stream that `orqal.logstream` describes. Close it to stop early."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """The pieces as they come; each is one of Docker's frames, of about 16 KiB at most.

        Raises:
            Unreachable: the output broke off, or was closed by another thread.
        """
        try:
            yield from self._response.iter_content(None)
        except (requests.RequestException, OSError, AttributeError, ValueError) as error:
            # AttributeError, ValueError: closed by another thread while it waited for more.
            raise Unreachable(f"the output broke off: {error}") from error
        finally:
            self.close()

    def large_pieces(self) -> Iterator[bytes]:
        """The same in pieces of 64 KiB, which may begin and end within a frame: for an output that is not followed.

        Docker sends a frame for each line, so short lines come several times faster than one frame at a time.

        Raises:
            Unreachable: the output broke off, or was closed by another thread.
        """
        try:
            while piece := self._response.raw.read(_PIECE):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            raise Unreachable(f"the output broke off: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; this wakes a reader that waits for more."""
        _shutdown(self._response)
        self._response.close()


class Event(NamedTuple):
    """Something that happened to a container."""

    container: str
    killed: bool
    """True if the daemon sent it a signal, because someone asked for its end or the daemon itself ends."""
    out_of_memory: bool = False
    """True if the kernel has killed a process of it, because the container's memory was used up. If both are False,
    the container has ended."""
    exit_code: int | None = None
    """The exit code that the daemon reports with its end. It may know another one afterwards: see Death."""


class Events:
    """What happens to containers, until the daemon ends."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Event]:
        try:
            for event in self._stream:
                container, killed = str(event["Actor"]["ID"]), event["Action"] == "kill"
                if not killed or event["Actor"]["Attributes"].get("signal") in _ENDING:
                    code = event["Actor"]["Attributes"].get("exitCode")
                    yield Event(container, killed, event["Action"] == "oom", None if code is None else int(code))
        except (requests.RequestException, docker.errors.DockerException, OSError, ValueError):
            return

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


def _shutdown(response: requests.Response) -> None:
    """Wake a thread that waits in a read of this response. Closing the response alone would not."""
    connection = getattr(response.raw, "_connection", None)
    sock = getattr(connection, "sock", None)
    if isinstance(sock, socket.socket):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
