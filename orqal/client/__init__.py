"""Orqal from Python: jobs, batches, waiting for them. It speaks HTTP only.

`Job`, `batch`, `wait`, `download` and `services` are for notebooks and scripts. They share one `Client`, which the
command line uses too. Each module imports only from those below it:

    jobs.py        Job, batch, wait, download, services
    awaiting.py    `await job`
    api.py         the Client: a method for each route
    submission.py  jobs on their way to the server
    downloads.py   many files at a time
    streams.py     long answers, resumed when the connection breaks
    transport.py   the connection: requests, streamed answers, errors
    retry.py       when a failed request is sent again, and for how long
    progress.py    progress bars in a terminal or a notebook
    errors.py      what can go wrong
"""

from orqal.client.api import Client, find_api
from orqal.client.downloads import Downloaded, RemoteFile
from orqal.client.errors import (
    JobsGone,
    NotFound,
    OrqalError,
    RequestFailed,
    ServerUnreachable,
    SubmissionFailed,
    Unauthorized,
)
from orqal.client.jobs import Job, any_of, batch, download, grid, services, user_name, wait
from orqal.client.progress import Progress, progress_bar
from orqal.client.submission import Submission
from orqal.logstream import STDERR, STDOUT

__all__ = [
    "STDERR",
    "STDOUT",
    "Client",
    "Downloaded",
    "Job",
    "JobsGone",
    "NotFound",
    "OrqalError",
    "Progress",
    "RemoteFile",
    "RequestFailed",
    "ServerUnreachable",
    "Submission",
    "SubmissionFailed",
    "Unauthorized",
    "any_of",
    "batch",
    "download",
    "find_api",
    "grid",
    "progress_bar",
    "services",
    "user_name",
    "wait",
]
