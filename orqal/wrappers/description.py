"""What a wrapper's class says about its app."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from orqal.models import (
    SUBMITTER,
    AppInfo,
    CacheOn,
    DeclaredAmounts,
    Gpus,
    JobOption,
    Limits,
    MemoryFactor,
    MemoryGb,
    Retries,
    RetryDelay,
    RetryOn,
    Seconds,
    Threads,
)
from orqal.wrappers.base import AbstractWrapper

_LIMITS: dict[str, TypeAdapter[Any]] = {
    "threads": TypeAdapter(Threads | None),
    "memory_in_gb": TypeAdapter(MemoryGb | Literal["learned"] | None),
    "memory_at_first_in_gb": TypeAdapter(MemoryGb | None),
    "timeout": TypeAdapter(Seconds | None),
    "requires": TypeAdapter(dict[str, str] | None),
    "limits": TypeAdapter(Limits),
    "gpus": TypeAdapter(Gpus),
    "gpu_memory_gb": TypeAdapter(MemoryGb | None),
    "resources": TypeAdapter(DeclaredAmounts),
    "retries": TypeAdapter(Retries),
    "retry_on": TypeAdapter(RetryOn | None),
    "retry_delay": TypeAdapter(RetryDelay | None),
    "retry_memory_factor": TypeAdapter(MemoryFactor),
    "cache_on": TypeAdapter(list[CacheOn]),
    "jobs_may_set": TypeAdapter(list[JobOption]),
}
"""The class attributes that must have a value before there is a job."""


_KNOWN = [name for name in vars(AbstractWrapper) if not name.startswith("_")]
_OTHER_NAMES = {
    "command": "get_cmd",
    "cpus": "threads",
    "env": "environment",
    "image": "docker_url",
    "mem_limit": "memory_in_gb",
    "memory": "memory_in_gb",
}
"""What Docker and others call these attributes."""
_ALIKE = 0.75
"""How much a name must be like a known one to be taken for a slip: see difflib.SequenceMatcher.ratio."""


def _warnings(wrapper: type[AbstractWrapper], name: str) -> Iterator[str]:
    """Find what would be ignored: attributes that have almost the name of a wrapper's attribute, or only a type."""
    classes = [each for each in wrapper.__mro__ if each not in (AbstractWrapper, object)]
    own = dict.fromkeys(attribute for each in classes for attribute in vars(each))
    missing = [known for known in _KNOWN if known not in own]
    for attribute in own:
        if attribute in _KNOWN or attribute.startswith("_"):
            continue
        close = [known for known in missing if known == _OTHER_NAMES.get(attribute)]
        if close := close or difflib.get_close_matches(attribute, missing, n=1, cutoff=_ALIKE):
            yield f"{name}.{attribute} is ignored, because wrappers have no such attribute. Did you mean {close[0]}?"
    typed = {attribute for each in classes for attribute in _annotated(each)}
    for attribute in (known for known in missing if known in typed):
        yield f"{name}.{attribute} has no value, because what follows a colon is a type. Write {attribute} = …"


def _annotated(each: type) -> Iterable[str]:
    try:
        return inspect.get_annotations(each)
    except Exception:  # a type may name what is not there
        return ()


def describe(wrapper: type[AbstractWrapper], name: str, origin: str) -> AppInfo:
    """Return the app of this name. If an attribute has an invalid value, the app has an error."""
    image, pull = (inspect.getattr_static(wrapper, attribute, None) for attribute in ("docker_url", "pull"))
    limits: dict[str, Any] = {}
    errors = []
    for attribute, limit in _LIMITS.items():
        try:
            value = getattr(wrapper, attribute)
            limits[attribute] = limit.validate_python(dict(value) if isinstance(value, Mapping) else value)
        except ValidationError as invalid:
            first = invalid.errors()[0]
            reason = first["msg"].removeprefix("Value error, ")
            errors.append(f"{name}.{attribute} is invalid: {reason}, not {first['input']!r:.200}")
    at_first = limits.pop("memory_at_first_in_gb", None)
    if limits.get("memory_in_gb") == "learned":
        limits |= {"memory_in_gb": at_first, "learns_memory": True}
        if at_first is None:
            errors.append(f"{name}.memory_in_gb is learned, so say what jobs get at first: memory_at_first_in_gb = 8")
    user = inspect.getattr_static(wrapper, "user")
    if user == SUBMITTER or not isinstance(user, str | None):  # a property may return it
        limits["cache_on"] = [*limits.get("cache_on", ()), CacheOn.USER]
    return AppInfo(
        warnings=list(_warnings(wrapper, name)),
        name=name,
        docker_url=image if isinstance(image, str) else None,
        pull=pull if isinstance(pull, str) else None,
        doc=inspect.cleandoc(wrapper.__doc__ or "") if "__doc__" in vars(wrapper) else "",
        origin=origin,
        error="; ".join(errors) or None,
        **limits,
    )
