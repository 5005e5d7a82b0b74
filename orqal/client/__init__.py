"""Orqal from Python: jobs, batches, waiting for them. Speaks HTTP only.

`Job`, `batch`, `wait` and `services` are for notebooks and scripts. They share one `Client`, which the
command line uses too: a thin, typed face of the HTTP API over a persistent connection.

    jobs.py        Job, batch, wait, services
    http.py        the Client: a method for each route
    submission.py  jobs in slices, each of which may be sent again
    patience.py    how long a request that broke is tried again
    streams.py     Docker's multiplexed stream, and lines
    progress.py    bars in a terminal or a notebook
    errors.py      what can go wrong
"""

from orqal.client.api import Client, find_api
from orqal.client.errors import (
    NotFound,
    OrqalError,
    RequestFailed,
    ServerUnreachable,
    SubmissionFailed,
    Unauthorized,
)
from orqal.client.jobs import Job, batch, services, user_name, wait
from orqal.client.progress import Progress, progress_bar
from orqal.client.streams import MULTIPLEXED, STDERR, STDOUT, LogParser, split_lines
from orqal.client.submission import Submission

__all__ = [
    "MULTIPLEXED",
    "STDERR",
    "STDOUT",
    "Client",
    "Job",
    "LogParser",
    "NotFound",
    "OrqalError",
    "Progress",
    "RequestFailed",
    "ServerUnreachable",
    "Submission",
    "SubmissionFailed",
    "Unauthorized",
    "batch",
    "find_api",
    "progress_bar",
    "services",
    "split_lines",
    "user_name",
    "wait",
]
