"""Whether a host breaks the jobs that it starts: a disk that is gone, a wrong driver, a library that is missing.

Such a host starts containers well, so probation does not see it, and it fails them at once, so it has room sooner than
others and gets job after job. A bad app must not be taken for a bad host. So a host is suspected only if

    IN_A_ROW different jobs have failed there within INSTANT of their start, with no success between them, and
    at least APPS apps of these jobs have succeeded on other hosts since the first of these failures.

An app that fails wherever it runs is never among the latter.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

INSTANT = 10.0
"""Seconds after its start within which a job that fails has failed at once."""
IN_A_ROW = 10
"""Different jobs that fail at once on a host, one after another."""
APPS = 2
"""Apps of these that have succeeded elsewhere meanwhile."""
_APPS_KEPT = 1_000
_RUN_KEPT = 4 * IN_A_ROW


class _Failure(NamedTuple):
    job: str
    app: str
    at: float


class Breaker:
    """How jobs end on each host."""

    def __init__(self) -> None:
        self._runs: dict[str, list[_Failure]] = {}
        """The failures on a host since the last success there, the oldest first."""
        self._good: OrderedDict[str, dict[str, float]] = OrderedDict()
        """When each app succeeded last, on the last two hosts where it did."""

    def succeeded(self, host: str, app: str, now: float) -> None:
        """A job has exited with 0."""
        self._runs.pop(host, None)
        good = self._good.pop(app, {})
        good.pop(host, None)
        self._good[app] = dict([*list(good.items())[-1:], (host, now)])
        if len(self._good) > _APPS_KEPT:
            self._good.popitem(last=False)

    def failed(self, host: str, app: str, job: str, now: float) -> bool:
        """A job has failed at once. True if the host is to blame."""
        run = self._runs.setdefault(host, [])
        if all(each.job != job for each in run):
            run.append(_Failure(job, app, now))
            del run[:-_RUN_KEPT]
        if len(run) < IN_A_ROW:
            return False
        since = run[0].at
        works_elsewhere = {each.app for each in run if self._works(each.app, host, since)}
        return len(works_elsewhere) >= APPS

    def _works(self, app: str, host: str, since: float) -> bool:
        """True if an app has succeeded on another host since then."""
        return any(other != host and at >= since for other, at in self._good.get(app, {}).items())

    def forget(self, host: str) -> None:
        """What a host did is of no importance any more."""
        self._runs.pop(host, None)
