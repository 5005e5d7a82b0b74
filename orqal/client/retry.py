"""When a request that failed is sent again, and for how long."""

from __future__ import annotations

import logging
from random import uniform
from time import monotonic, sleep

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable

log = logging.getLogger("orqal.client")

GIVE_UP_AFTER = 300.0
"""Seconds without an answer from the server after which a request is given up. A restart of the head takes up to 80."""
REPORT_AFTER = 5.0
"""Seconds without an answer after which the user is told why nothing happens."""
FIRST_PAUSE = 0.1
"""Seconds between a failure and the next try; each further pause is twice as long."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries, at most."""


class Backoff:
    """The pauses between the tries of one request, which grow from FIRST_PAUSE to LONGEST_PAUSE.

    The request is given up when the server has not answered for GIVE_UP_AFTER seconds.
    """

    def __init__(self, timeout: float | None = None, advice: str = "") -> None:
        """`timeout`: seconds for all tries together, or None. `advice`: the last sentence of the message that the
        request was given up."""
        self._advice = advice
        self._deadline = None if timeout is None else monotonic() + timeout
        self.reset()

    def remaining(self) -> float | None:
        """Return the seconds that are left of the timeout, or None if there is no timeout."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def at_most(self, seconds: float) -> float:
        """Return `seconds`, or what is left of the timeout if that is less. Never 0."""
        remaining = self.remaining()
        return seconds if remaining is None else max(min(seconds, remaining), 0.001)

    def reset(self) -> None:
        """Start over with a short pause, because the server has answered."""
        self._pause = FIRST_PAUSE
        self._away_since = monotonic()
        self._reported = False

    def pause(self, error: OrqalError) -> None:
        """Sleep until the next try.

        Raises:
            ServerUnreachable: the server has been away for too long.
            OrqalError: `error` itself, because another try would not help.
        """
        if not _worth_another_try(error):
            raise error
        away = monotonic() - self._away_since
        if away >= GIVE_UP_AFTER:
            if is_busy(error):
                raise error
            message = f"Gave up after {GIVE_UP_AFTER:g} seconds without the server. {error} {self._advice}"
            raise ServerUnreachable(message.rstrip()) from error
        if away >= REPORT_AFTER and not self._reported:
            self._reported = True
            log.warning("%s Trying again for up to %g minutes.", error, GIVE_UP_AFTER / 60)
        wanted = error.retry_after if isinstance(error, RequestFailed) else 0.0
        # Clients that were refused at the same moment should not all come back at the same moment.
        sleep(self.at_most(max(self._pause, wanted * uniform(1.0, 1.5))))  # noqa: S311 - no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def _worth_another_try(error: OrqalError) -> bool:
    if isinstance(error, RequestFailed):
        return error.status >= 500 or is_busy(error)
    return isinstance(error, ServerUnreachable) and error.reached_before


def is_busy(error: OrqalError) -> bool:
    """Return True if the server refused the request only because it is too busy. The request had no effect."""
    return isinstance(error, RequestFailed) and error.status == 429
