"""One attempt on its host, from the Scheduler's side: called to its end, however often the host's actor restarts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import Order
from orqal.actors.scheduler.hosts import Hosts
from orqal.clock import Clock
from orqal.models import ErrorType, JobError, Outcome
from orqal.scheduling.lifecycle import HostAway, Place, Wish

log = logging.getLogger("orqal.jobs")

ACTOR_CRASHES = 2
"""Crashes of its host's actor that make a job a suspect."""


class HostCalls:
    """Calls of hosts' actors that last as long as an attempt."""

    def __init__(self, hosts: Hosts, clock: Clock) -> None:
        self._hosts, self._clock = hosts, clock

    async def run(self, place: Place, order: Callable[[], Order]) -> Outcome | HostAway:
        """Have a host run an attempt, and return how it ended, or that the host is away.

        `order` makes the order anew for each try: what is wanted of the attempt may have changed meanwhile.
        """
        host = self._hosts.at(place)
        if host is None:
            return HostAway(self._clock.monotonic())
        self._hosts.wake_up(host)
        job = order().job
        guilty = any(attempt.crashed_actor for attempt in job.attempts)
        crashes = 0
        while True:
            if guilty or crashes >= ACTOR_CRASHES:
                await host.blame.turn(job.id, early=guilty or order().wish is not Wish.NONE)
            incarnation = host.incarnation
            try:
                outcome = await host.api.run(order())
            except ActorAway as error:
                log.warning("the actor of %s, which runs %s, does not answer: %s", host.name, job.id, error)
                host.blame.pause(job.id)
                if not await self._hosts.revived(host):
                    host.blame.disperse()  # the suspects learn that the host is lost
                    return HostAway(self._clock.monotonic())
                if incarnation == host.incarnation:  # it lives, and was out of reach for a while
                    host.blame.survived(job.id)
                    continue
                crashes += 1
                if host.blame.crashed(job.id):
                    message = f"the process that runs {host.name} crashed each time that it worked on this job"
                    return Outcome(error=JobError(type=ErrorType.HOST_LOST, message=message), crashed_actor=True)
                continue
            except Exception:
                host.blame.survived(job.id)
                raise
            host.blame.survived(job.id)
            return outcome
