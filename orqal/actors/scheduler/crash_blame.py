"""Which job is it that makes its host's actor die? Only that one is to pay for it."""

from __future__ import annotations

import asyncio

PROBATION = 2.0
"""Seconds that a suspect is alone with the actor; twice as many each time that nobody was found out."""
LONGEST_PROBATION = 300.0
GATHERING = 0.05
"""Seconds in which all come who have seen the same death."""


class Suspects:
    """The jobs of one host under which its actor has died more than once.

    Every job of a host sees the deaths of its actor, whoever's fault they are (its output makes the actor eat memory,
    say). So suspects go on one after another, while the containers of the others run unattended: first those that did
    it before or are to end, then the newest. The one under which the actor dies then has done it, and the others go on.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[bool, str], asyncio.Future[None]] = {}
        self._tried: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probation = PROBATION

    async def turn(self, job: str, *, again: bool = False) -> None:
        """Return when it is this job's turn to be alone with the actor. `again`: before others, for it has been found
        out before, or is to end."""
        loop = asyncio.get_running_loop()
        turn = self._held[again, job] = loop.create_future()
        loop.call_later(GATHERING, self._next)
        await turn

    def pause(self, job: str) -> None:
        """The actor may have died under this job: its turn goes on until it is known."""
        if self._tried == job and self._timer is not None:
            self._timer.cancel()

    def survived(self, job: str) -> None:
        """The actor lives, and the job's turn is over, or it has ended."""
        if self._tried == job:
            self._close()
            if not self._held:  # whoever it is takes longer
                self._probation = min(self._probation * 2, LONGEST_PROBATION)
            self._next()

    def died(self, job: str) -> bool:
        """The actor has died under this job: True if it was alone."""
        if self._tried != job:
            return False
        self.disperse()
        return True

    def hurry(self, job: str) -> None:
        """Somebody wants this job's end: it goes on before others."""
        if (turn := self._held.pop((False, job), None)) is not None:
            self._held[True, job] = turn

    def disperse(self) -> None:
        """Nobody is held any more: the one who has done it is found, or the host is lost."""
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
