"""Finds the job that makes its host's actor crash, so that no other job pays for it."""

from __future__ import annotations

import asyncio

PROBATION = 2.0
"""Seconds that a suspect is alone with the actor; twice as many each time that none was found guilty."""
LONGEST_PROBATION = 300.0
"""Seconds that a suspect is alone with the actor, at most."""
GATHERING = 0.05
"""Seconds within which all suspects of the same crash arrive."""


class CrashBlame:
    """The suspects: the jobs of one host that have seen its actor crash more than once.

    Every job of a host sees the crashes of its actor, whichever job causes them (its output may make the actor run out
    of memory). So suspects go on one after another, while the containers of the others run unattended: first the jobs
    that were found guilty before or must be stopped, then the newest. If the actor crashes while one job is alone with
    it, that job is guilty, and the others go on.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[bool, str], asyncio.Future[None]] = {}
        self._tried: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probation = PROBATION

    async def turn(self, job: str, *, early: bool = False) -> None:
        """Return when the job may be alone with the actor. `early`: before others, because it was guilty before or
        must be stopped."""
        loop = asyncio.get_running_loop()
        turn = self._held[early, job] = loop.create_future()
        loop.call_later(GATHERING, self._next)
        await turn

    def pause(self, job: str) -> None:
        """The actor may have crashed under this job: its turn goes on until that is known."""
        if self._tried == job and self._timer is not None:
            self._timer.cancel()

    def survived(self, job: str) -> None:
        """The actor lives, and the job's turn or its attempt is over."""
        if self._tried == job:
            self._close()
            if not self._held:  # the guilty one takes longer
                self._probation = min(self._probation * 2, LONGEST_PROBATION)
            self._next()

    def crashed(self, job: str) -> bool:
        """The actor has crashed under this job: True if the job was alone with it, so that it is guilty."""
        if self._tried != job:
            return False
        self.disperse()
        return True

    def hurry(self, job: str) -> None:
        """The job must be stopped: it goes on before others."""
        if (turn := self._held.pop((False, job), None)) is not None:
            self._held[True, job] = turn

    def disperse(self) -> None:
        """Let all go on: the guilty job is found, or the host is lost."""
        self._close()
        self._probation = PROBATION
        held, self._held = self._held, {}
        for turn in held.values():
            turn.set_result(None)

    def _next(self) -> None:
        if self._tried is None and self._held:
            first = max(self._held)  # ids grow
            self._held.pop(first).set_result(None)
            _, job = first
            self._tried = job
            self._timer = asyncio.get_running_loop().call_later(self._probation, self.survived, job)

    def _close(self) -> None:
        self._tried = None
        if self._timer is not None:
            self._timer.cancel()
