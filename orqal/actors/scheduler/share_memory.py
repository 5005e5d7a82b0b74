"""What users have had lately, over a restart of the Scheduler."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime
from pathlib import Path

from orqal.clock import Clock
from orqal.files import replacing
from orqal.scheduling import Planner

log = logging.getLogger("orqal.shares")

PERIOD = 60.0
"""Seconds between two times that it is written."""


class ShareMemory:
    """Writes it to a file every minute. What is lost of the last minute changes no one's share by much."""

    def __init__(self, path: Path, planner: Planner, clock: Clock) -> None:
        self._path, self._planner, self._clock = path, planner, clock

    def load(self) -> None:
        """Take over what an earlier Scheduler has written."""
        try:
            known = json.loads(self._path.read_text())
            past = {str(user): min(1.0, max(0.0, float(had))) for user, had in known["past"].items()}
            at = datetime.fromisoformat(known["at"])
            away = (self._clock.now() - at).total_seconds()
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s cannot be read, so all users are served as if they had had nothing: %s", self._path, error)
            return
        self._planner.shares.restore(past, away, self._clock.monotonic())

    async def forever(self) -> None:
        """Write it every minute."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                past = self._planner.shares.past(self._clock.monotonic())
                await asyncio.to_thread(self._write, {"at": self._clock.now().isoformat(), "past": past})
            except Exception as error:
                log.error("%s cannot be written (%s: %s)", self._path, type(error).__name__, error)

    def _write(self, known: dict[str, object]) -> None:
        with replacing(self._path, mode=0o600) as partial:
            partial.write_text(json.dumps(known))
