"""The errors that the API answers with, as one family.

ApiError
  NotFound       404            there is no such job, batch, host, file or page
  NotReadable    403            a file that its program keeps from others
  Unavailable    503            a host, or the store, cannot be reached now

`application.py` answers the errors of other parts: `BadDocument` with 400, 413 or 422, `ActorAway` and the store's own
errors with 503, and every unexpected error with 500.
"""

from __future__ import annotations

from typing import ClassVar


class ApiError(Exception):
    """A request cannot be answered as its sender wished. The message is for the user."""

    status: int = 500
    """The HTTP status of the answer."""
    retry_after: ClassVar[int | None] = None
    """Seconds after which the client should try again; None if a retry would not help."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class NotFound(ApiError):
    """What the request names does not exist."""

    status = 404


class NotReadable(ApiError):
    """Orqal's user may not read what the request names."""

    status = 403


class Unavailable(ApiError):
    """What the request names is on a host, or in a store, that cannot be reached now."""

    status = 503
    retry_after = 5
