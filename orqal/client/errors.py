"""What can go wrong, as one small family."""

from __future__ import annotations

from collections.abc import Sequence


class OrqalError(Exception):
    """What went wrong, in a sentence that says what to do. The base of all errors here."""


class ServerUnreachable(OrqalError):
    """No connection to the server, or it broke."""


class RequestFailed(OrqalError):
    """The server answered with an error."""

    def __init__(self, message: str, status: int, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status code."""
        self.retry_after = retry_after
        """Seconds after which the server wants to be asked again, if it said so."""


class Unauthorized(RequestFailed):
    """The server wants a token, or another one."""


class NotFound(RequestFailed):
    """There is no such job, batch or file."""


class SubmissionFailed(OrqalError):
    """Some jobs were submitted, and then no more."""

    def __init__(self, message: str, submitted: Sequence[str]) -> None:
        super().__init__(message)
        self.submitted = list(submitted)
        """The ids of the first jobs, which are submitted."""
