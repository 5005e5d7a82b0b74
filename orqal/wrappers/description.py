"""What a wrapper's class says about its app."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orqal.models import AppInfo, MemoryFactor, MemoryGb, Retries, RetryDelay, RetryOn, Seconds, Threads
from orqal.wrappers.base import AbstractWrapper

_LIMITS: dict[str, TypeAdapter[Any]] = {
    "threads": TypeAdapter(Threads | None),
    "memory_in_gb": TypeAdapter(MemoryGb | None),
    "timeout": TypeAdapter(Seconds | None),
    "requires": TypeAdapter(dict[str, str] | None),
    "retries": TypeAdapter(Retries),
    "retry_on": TypeAdapter(RetryOn | None),
    "retry_delay": TypeAdapter(RetryDelay | None),
    "retry_memory_factor": TypeAdapter(MemoryFactor),
}
"""The class attributes that must have a value before there is a job."""


def describe(wrapper: type[AbstractWrapper], name: str, origin: str) -> AppInfo:
    """Return the app of this name. If an attribute has an invalid value, the app has an error."""
    image = inspect.getattr_static(wrapper, "docker_url", None)
    limits: dict[str, Any] = {}
    errors = []
    for attribute, limit in _LIMITS.items():
        try:
            limits[attribute] = limit.validate_python(getattr(wrapper, attribute))
        except ValidationError as invalid:
            first = invalid.errors()[0]
            errors.append(f"{name}.{attribute} is invalid: {first['msg']}, not {first['input']!r}")
    return AppInfo(
        name=name,
        docker_url=image if isinstance(image, str) else None,
        doc=inspect.cleandoc(wrapper.__doc__ or "") if "__doc__" in vars(wrapper) else "",
        origin=origin,
        error="; ".join(errors) or None,
        **limits,
    )
