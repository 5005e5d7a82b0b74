"""The time by which jobs are kept: the head's clock, unless it has jumped."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from orqal.clock import Clock
from orqal.files import replacing
from orqal.settings import Settings
from orqal.store import JobFilter, Store

log = logging.getLogger("orqal.retention")

MAX_JUMP = timedelta(hours=1)
"""The head's clock is followed while it moves by no more than this, apart from the time that has passed."""


class KeepingClock:
    """The head's clock as far as it can be trusted to delete jobs.

    While the Scheduler runs, another clock of the machine, which no one can set, shows how much time has passed. If the
    head's clock jumps away from that by more than MAX_JUMP, this clock goes on without it, until it is back or an
    administrator confirms it. At a start it is unknown how long the Scheduler was away. So up to half of the time to
    live is believed at once; after a longer time this clock goes on from where it was. Its time is kept in a file.

    So a clock that is wrong makes Orqal keep jobs for longer, and never deletes those that were to be kept.
    """

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._path, self._clock = settings.keeping_clock_path, clock
        self._time, self._since = clock.now(), clock.uptime()
        self.refused = False
        """True while the head's clock is not followed."""
        self.doubted = True
        """True until the times in the store that are of a clock that was ahead, now or before, have been corrected."""
        before = self._read() or _newest(store)
        away = timedelta(0) if before is None else self._time - before
        if before is not None and not -MAX_JUMP <= away <= max(MAX_JUMP, timedelta(seconds=settings.job_ttl / 2)):
            self._time = before
            self._refuse()

    def now(self) -> datetime:
        """The present, by which it is decided whether a job's time is over."""
        passed, present = self._time + timedelta(seconds=self._clock.uptime() - self._since), self._clock.now()
        if abs(present - passed) <= MAX_JUMP:
            if self.refused:
                log.warning("the head's clock is back at the time that is expected, and is followed again")
            self.refused = False
            self._time, self._since = present, self._clock.uptime()
            return present
        if not self.refused:
            self._time, self._since = passed, self._clock.uptime()
            self._refuse()
        return passed

    def stamp(self) -> datetime:
        """The present, as it is noted for what happens now: so that it is not too early, whichever clock is right."""
        return max(self.now(), self._clock.now())

    def date_after(self, latest: datetime) -> datetime:
        """The present, as a new job shows it: by the head's clock, and not before `latest`, the time of an earlier job.

        If the clock was ahead then, and is right again, its time is forgotten: otherwise all later jobs would have it.
        """
        self.now()
        present = self._clock.now()
        return present if not self.refused and latest - present > MAX_JUMP else max(latest, present)

    def ahead(self) -> float:
        """Seconds by which the head's clock is ahead of this one; 0 while it is followed."""
        kept = self.now()
        return (self._clock.now() - kept).total_seconds() if self.refused else 0.0

    def confirm(self) -> None:
        """Follow the head's clock from now on, whatever it shows."""
        self.refused = False
        self._time, self._since = self._clock.now(), self._clock.uptime()
        self.keep()

    def keep(self) -> None:
        """Note the time for the next Scheduler."""
        try:
            with replacing(self._path, mode=0o600) as partial:
                partial.write_text(self.now().isoformat())
        except OSError as error:
            log.error("the time cannot be written to %s: %s", self._path, error)

    def _read(self) -> datetime | None:
        try:
            found = datetime.fromisoformat(self._path.read_text())
        except (OSError, ValueError):
            return None
        return found if found.tzinfo is not None else None

    def _refuse(self) -> None:
        self.refused = self.doubted = True
        log.error(
            "the head's clock shows %s, where %s was expected; jobs are deleted by the expected time. If the clock is "
            "right, `orqal clean expired` confirms it",
            self._clock.now().isoformat(timespec="seconds"),
            self._time.isoformat(timespec="seconds"),
        )


def _newest(store: Store) -> datetime | None:
    """Return the latest time of the newest job; None if there is no job."""
    jobs = store.find(JobFilter(), 1).jobs
    return max(filter(None, (jobs[0].ctime, jobs[0].stime, jobs[0].etime))) if jobs else None
