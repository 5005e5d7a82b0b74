"""The names of resources beyond threads and memory."""

from __future__ import annotations

import re

GPU = "GPU"
"""Ray's name for GPUs. Other devices, and what is only counted, have the names that administrators give to them."""
_DECLARED = re.compile("[a-z][a-z0-9_]{0,49}", re.ASCII)
_RESERVED = frozenset(
    ("threads", "ram_gb", "memory", "object_store_memory", "cpu", "cpus", "gpu", "gpus", "gpu_memory_gb")
)
"""Names that a declared resource cannot have: Orqal's and Ray's own ones."""


def check_resource_name(name: str) -> str:
    """Return the name, which a declared resource can have.

    Raises:
        ValueError: it cannot.
    """
    if not is_declared(name):
        raise ValueError(
            f"{name!r:.100} must be a small letter and then small letters, digits and underscores, at most 50, and not "
            f"one of {', '.join(sorted(_RESERVED))}"
        )
    return name


def is_declared(name: str) -> bool:
    """True if a resource of this name is one that an administrator has declared."""
    # Within a placement group Ray names resources so.
    return bool(_DECLARED.fullmatch(name)) and name not in _RESERVED and "_group_" not in name
