"""A job's container options as its host's daemon gets them: with defaults, and with an account for the submitter."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from orqal.engine.client import EngineInfo
from orqal.engine.errors import EngineError
from orqal.models import SUBMITTER, ContainerOptions, ErrorType

_NOFILE = 1 << 20
"""Open files of a process. Docker before 25 gave as many; later ones give what systemd gives, which may be 1,024."""
_NR_OPEN = Path("/proc/sys/fs/nr_open")
"""The most open files that the kernel lets anyone have."""


def resolved(options: ContainerOptions, user: str, engine: EngineInfo) -> tuple[ContainerOptions, list[int]]:
    """Return the options for this daemon, and further groups of the container's user. `user`: the job's.

    Raises:
        EngineError: the host has no account for the submitter.
    """
    account, groups = options.user, list[int]()
    limits = {"core": (0, 0)}
    if engine.limits_can_be_raised:
        limits["nofile"] = (_most_open_files(),) * 2
    if options.user == SUBMITTER:
        account, groups = _account(user, engine)
    return options.on_a_host(init=engine.has_init, default_limits=limits, user=account), groups


def _most_open_files() -> int:
    try:
        return min(_NOFILE, int(_NR_OPEN.read_text()))
    except (OSError, ValueError):
        return _NOFILE


def _account(name: str, engine: EngineInfo) -> tuple[str, list[int]]:
    """The account of this name as `UID:GID`, and all its groups."""
    wants = f"its wrapper runs it as {SUBMITTER}"
    if not engine.local:
        raise _refused(f"{wants}, and the Docker daemon is on another machine, whose accounts are not known here")
    try:
        account = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise _refused(
            f"{wants}, and the host has no account {name!r}. Submit it as a user of the host (--user), or add one"
        ) from None
    if account.pw_uid == 0:
        raise _refused(f"{wants}, and {name!r} is root on the host")
    return f"{account.pw_uid}:{account.pw_gid}", os.getgrouplist(name, account.pw_gid)


def _refused(why: str) -> EngineError:
    return EngineError(ErrorType.WRAPPER_ERROR, why)
