"""What can go wrong for a user of the client. Each message says what happened and what to do.

OrqalError
├── ServerUnreachable    no connection to the server, or it broke
├── RequestFailed        the server answered with an error
│   ├── Unauthorized     the token is missing or wrong
│   └── NotFound         there is no such job, batch, host or file
│       └── JobsGone     some of the jobs that were waited for are not there
└── SubmissionFailed     some jobs were submitted, the others were not
"""

from __future__ import annotations

from collections.abc import Sequence


class OrqalError(Exception):
    """The base of all errors of the client."""


class ServerUnreachable(OrqalError):
    """There is no connection to the server, or it broke."""

    def __init__(self, message: str, *, reached_before: bool = True) -> None:
        super().__init__(message)
        self.reached_before = reached_before
        """False if this client has never had a connection to the server. Another try is then unlikely to help."""


class RequestFailed(OrqalError):
    """The server answered with an error."""

    def __init__(self, message: str, status: int, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status code."""
        self.retry_after = retry_after
        """Seconds after which the server wants the request again; 0 if it did not say."""


class Unauthorized(RequestFailed):
    """The token is missing or wrong."""


class NotFound(RequestFailed):
    """There is no such job, batch, host or file."""


class JobsGone(NotFound):
    """Some of several jobs are not there any more. All others have ended."""


class SubmissionFailed(OrqalError):
    """Some jobs were submitted, the others were not."""

    def __init__(self, message: str, submitted: Sequence[str]) -> None:
        super().__init__(message)
        self.submitted = list(submitted)
        """The ids of the jobs that were submitted: the first ones, in order."""
