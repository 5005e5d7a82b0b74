"""Whether a host or a new image breaks the jobs that start there, and not their apps.

A host may break jobs because a disk is gone, a driver is wrong, or a library is missing. It starts containers well, so
probation does not see it, and it fails them at once, so it has room sooner than others and gets job after job. A bad
app must not be taken for a bad host. So a host is suspected only if

    IN_A_ROW different jobs have failed there within INSTANT of their start, with no success between them, and
    at least APPS apps of these jobs have succeeded on other hosts since the first of these failures.

An app that fails wherever it runs is never among the latter.

An image is suspected only if IN_A_ROW different jobs have failed at once in it, with no success between them, of apps
whose wrappers, as they are now, have succeeded in another version of the same image.
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


class _Use(NamedTuple):
    """A wrapper, and the name of the image that it uses."""

    app: str
    wrapper_digest: str
    image: str


class Images:
    """How jobs end in the versions of each image."""

    def __init__(self) -> None:
        self._good: OrderedDict[_Use, str] = OrderedDict()
        """The version of the image in which each wrapper succeeded last."""
        self._failures: OrderedDict[str, list[str]] = OrderedDict()
        """The jobs that failed in a version since the last success there, the oldest first."""
        self._bad: dict[str, str] = {}
        """What is said of each image that is to blame."""

    def succeeded(self, app: str, wrapper_digest: str, image: str, version: str) -> None:
        """A job has exited with 0. `version`: the id of the image, `sha256:` and 64 hex digits."""
        self._failures.pop(version, None)
        self._bad.pop(image, None)
        use = _Use(app, wrapper_digest, image)
        self._good.pop(use, None)
        self._good[use] = version
        if len(self._good) > _APPS_KEPT:
            self._good.popitem(last=False)

    def failed(self, app: str, wrapper_digest: str, image: str, version: str, job: str) -> bool:
        """A job has failed at once. True if the image is to blame, and was not before."""
        former = self._good.get(_Use(app, wrapper_digest, image))
        if former is None or former == version:
            return False
        failures = self._failures.setdefault(version, [])
        if job not in failures:
            failures.append(job)
            del failures[:-IN_A_ROW]
        if len(self._failures) > _APPS_KEPT:
            self._failures.popitem(last=False)
        if len(failures) < IN_A_ROW or image in self._bad:
            return False
        self._bad[image] = (
            f"the last {IN_A_ROW} jobs failed at once in the image {image} as it is now ({version[:19]}). The same "
            f"wrapper succeeded in an earlier version of it ({former[:19]}), so the image is probably to blame; "
            f"see {job}"
        )
        return True

    def to_blame(self, image: str) -> str | None:
        """Why an image is probably to blame for what fails in it; None if it is not."""
        return self._bad.get(image)
