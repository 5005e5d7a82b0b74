"""What the parts of Orqal exchange: jobs, attempts, resources, apps and hosts. Data only.

Everything may import it. It imports nothing of Orqal but states.py and text.py.
"""

from orqal.models.attempt import Attempt, ErrorType, Fault, JobError, RetryPolicy
from orqal.models.cluster import DISK_FULL, REFUSED, AppInfo, BatchInfo, BatchPolicy, CacheOn, HostInfo, Load, UserShare
from orqal.models.container_options import (
    JOBS_MAY_SET,
    SUBMITTER,
    ContainerOptions,
    JobOption,
    JobOptions,
    why_not_set,
)
from orqal.models.fields import (
    MAX_MEMORY_FACTOR,
    MAX_NAME,
    MAX_PARAMS,
    MAX_RETRIES,
    MAX_RETRY_DELAY,
    BatchName,
    Limits,
    MaxRunning,
    MemoryFactor,
    MemoryGb,
    Name,
    Priority,
    Retries,
    RetryCause,
    RetryDelay,
    RetryOn,
    Seconds,
    Threads,
    check_batch_name,
)
from orqal.models.job import Change, JobRecord, JobSpec, now
from orqal.models.outcome import ContainerStart, Outcome, Output
from orqal.models.resources import UNITS, Resources, Shape
from orqal.states import Status

__all__ = [
    "DISK_FULL",
    "JOBS_MAY_SET",
    "MAX_MEMORY_FACTOR",
    "MAX_NAME",
    "MAX_PARAMS",
    "MAX_RETRIES",
    "MAX_RETRY_DELAY",
    "REFUSED",
    "SUBMITTER",
    "UNITS",
    "AppInfo",
    "Attempt",
    "BatchInfo",
    "BatchName",
    "BatchPolicy",
    "CacheOn",
    "Change",
    "ContainerOptions",
    "ContainerStart",
    "ErrorType",
    "Fault",
    "HostInfo",
    "JobError",
    "JobOption",
    "JobOptions",
    "JobRecord",
    "JobSpec",
    "Limits",
    "Load",
    "MaxRunning",
    "MemoryFactor",
    "MemoryGb",
    "Name",
    "Outcome",
    "Output",
    "Priority",
    "Resources",
    "Retries",
    "RetryCause",
    "RetryDelay",
    "RetryOn",
    "RetryPolicy",
    "Seconds",
    "Shape",
    "Status",
    "Threads",
    "UserShare",
    "check_batch_name",
    "now",
    "why_not_set",
]
