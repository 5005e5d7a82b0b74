"""Ask a head whether this machine may join it: `python -m orqal.cluster.join_check HEAD`.

This runs in a process of its own, because Ray reads its settings when it is imported. A refusal is explained in a
sentence. Ray itself would wait for minutes or print a traceback.
"""

from __future__ import annotations

import os
import platform
import sys
import threading

import ray
from ray.exceptions import AuthenticationError, RaySystemError, RpcError

from orqal import __version__
from orqal.actors.ray_internals import versions_of

ANSWER_WITHIN_S = 10.0
"""Seconds that a head may take to answer. A program at its address that is not Ray may never answer."""


def refusal(head: str) -> str | None:
    """Return why this machine cannot join; None if it can."""
    try:
        theirs = versions_of(head, ANSWER_WITHIN_S)
    except AuthenticationError:
        return (
            f"The head at {head} does not accept this join token. Print the right one on the head with "
            "`cat ~/.orqal/ray_token`, and set ORQAL_JOIN_TOKEN to it."
        )
    except (RpcError, RaySystemError, RuntimeError) as error:
        return _not_a_head(head, str(error).strip().splitlines()[-1])
    versions = {
        "Ray": (theirs["ray"], ray.__version__),
        "Python": (theirs["python"], platform.python_version()),
        "Orqal": (theirs["orqal"], __version__),
    }
    differing = [f"{name} {there} ({here})" for name, (there, here) in versions.items() if there not in (None, here)]
    if differing:
        return (
            f"The head at {head} has other versions than this machine (in brackets): {', '.join(differing)}. Install "
            "the same on both."
        )
    return None


def _not_a_head(head: str, error: str) -> str:
    return (
        f"The program at {head} does not answer as an Orqal head's Ray does ({error}). `orqal up` prints the address "
        "to join; it is not that of the API."
    )


def _give_up(head: str) -> None:
    print(_not_a_head(head, f"no answer within {ANSWER_WITHIN_S:g} s"), file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    [head] = sys.argv[1:]
    # Some of the requests of Ray's client have no time limit.
    limit = threading.Timer(ANSWER_WITHIN_S, _give_up, [head])
    limit.daemon = True
    limit.start()
    sys.exit(refusal(head))
