"""Ask a head whether this machine may join: `python -m orqal.cluster.join_check HEAD`.

Runs in a process of its own, because Ray reads its settings when it is imported. Prints a sentence that says why not;
Ray itself would wait for minutes or print a traceback.
"""

from __future__ import annotations

import os
import platform
import sys
import threading

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._raylet import GcsClient  # type: ignore[attr-defined] # compiled
from ray.exceptions import AuthenticationError, RaySystemError, RpcError

from orqal import __version__

VERSION = b"version"
"""The key, in Ray's store of such, under which a head keeps Orqal's version."""
KEYS = b"orqal"
"""Their namespace."""
ANSWER_WITHIN = 10.0
"""Seconds that a head may take. What listens there and is not Ray says nothing for ever."""


def why_not(head: str) -> str | None:
    """Why this machine cannot join; None: it can."""
    try:
        client = GcsClient(address=head)
        theirs = get_cluster_metadata(client) or {}
        orqal = client.internal_kv_get(VERSION, namespace=KEYS, timeout=ANSWER_WITHIN)
    except AuthenticationError:
        return (
            f"the head at {head} does not accept this join token. On the head: `cat ~/.orqal/ray_token`; give it as "
            "ORQAL_JOIN_TOKEN"
        )
    except (RpcError, RaySystemError, RuntimeError) as error:
        return _no_ray(head, str(error).strip().splitlines()[-1])
    versions = {
        "Ray": (theirs.get("ray_version"), ray.__version__),
        "Python": (theirs.get("python_version"), platform.python_version()),
        "Orqal": (orqal and orqal.decode(), __version__),
    }
    other = [f"{name} {there} and not {here}" for name, (there, here) in versions.items() if there not in (None, here)]
    if other:
        return f"the head at {head} has {', '.join(other)}, which this machine has: install the same on both"
    return None


def _no_ray(head: str, error: str) -> str:
    return (
        f"what listens at {head} does not answer as an Orqal head's Ray does ({error}). `orqal up` prints the address "
        "to join; it is not that of the API"
    )


def _give_up(head: str) -> None:
    print(_no_ray(head, f"nothing after {ANSWER_WITHIN:g} s"), file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    [head] = sys.argv[1:]
    clock = threading.Timer(ANSWER_WITHIN, _give_up, [head])
    clock.daemon = True
    clock.start()
    sys.exit(why_not(head))
