"""How long a request that broke is tried again, and when one is broken on purpose."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable

if TYPE_CHECKING:
    import httpx

    from orqal.client.api import Client

PATIENCE = 60.0
"""Seconds without the server after which a request is given up."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries to reach the server again, at most."""


class Patience:
    """How long a request that broke is tried again: until PATIENCE or the caller's own timeout is over."""

    def __init__(self, client: Client, timeout: float | None = None, comfort: str = "") -> None:
        """`comfort`: a sentence for whoever hears that it was tried long enough."""
        self._client = client
        self._comfort = comfort
        self._timeout = timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        self._pause = 0.1
        self._since = monotonic()

    def left(self) -> float | None:
        """Seconds of the caller's timeout that are left; None: it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def cut(self, seconds: float) -> float:
        """So many seconds, or what is left if that is less."""
        left = self.left()
        return seconds if left is None else max(min(seconds, left), 0.001)

    def renew(self) -> None:
        """The server is there."""
        self._pause = 0.1
        self._since = monotonic()

    def fail(self, error: OrqalError) -> None:
        """Pause before the next try, or raise: it makes no sense, or has been tried long enough."""
        left = self.left()
        if left == 0:
            raise TimeoutError(f"Not all jobs have ended after {self._timeout:g} seconds.") from error
        refused = isinstance(error, RequestFailed) and error.status < 500
        if not self._client.met or (refused and not busy(error)):
            raise error
        if monotonic() - self._since >= PATIENCE:
            if refused:
                raise error
            raise ServerUnreachable(
                f"Gave up after {PATIENCE:g} seconds without the server. {error} {self._comfort}".rstrip()
            ) from error
        wanted = error.retry_after if isinstance(error, RequestFailed) else 0.0
        # Not all who were sent away together are to come again together.
        sleep(self.cut(max(self._pause, wanted * uniform(1.0, 1.5))))  # noqa: S311 - no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def busy(error: OrqalError) -> bool:
    """Whether the server has done nothing of it, for it has too much to do: it can be asked again."""
    return isinstance(error, RequestFailed) and error.status == 429


@contextmanager
def cut_off(response: httpx.Response, seconds: float | None) -> Generator[None, None, None]:
    """Break the connection after so many seconds; heartbeats keep the read timeout from doing that."""
    if seconds is None:
        yield
        return
    sock = response.extensions["network_stream"].get_extra_info("socket")

    def shut() -> None:
        with suppress(OSError):
            sock.shutdown(2)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
