"""What was decided about the jobs of batches that wait: held, a priority, how many may run. It outlives restarts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from orqal.actors.background import Background
from orqal.files import replacing
from orqal.models import BatchPolicy
from orqal.scheduling import Planner

log = logging.getLogger("orqal.batches")

_FILE = TypeAdapter(dict[str, BatchPolicy])
_NOTHING = BatchPolicy()
WRITE_AGAIN = 5.0
"""Seconds after which a file that could not be written is written again."""


class BatchPolicies:
    """Keeps them in a file, and tells the planner."""

    def __init__(self, path: Path, planner: Planner) -> None:
        self._path, self._planner = path, planner
        self._policies: dict[str, BatchPolicy] = {}
        self._limits: dict[str, int] = {}
        """How many jobs of a batch may run at once while it is tried."""
        self._writing = asyncio.Lock()

    def load(self, exists: Callable[[str], bool]) -> None:
        """Take over what an earlier Scheduler has written, of batches that still exist."""
        try:
            known = _FILE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.error("%s cannot be read, so no batch is held or has a priority of its own: %s", self._path, error)
            return
        self._policies = {name: policy for name, policy in known.items() if exists(name)}
        for name in self._policies:
            self._tell(name)

    def all(self) -> dict[str, BatchPolicy]:
        """The batches about which something was decided."""
        return dict(self._policies)

    def of(self, batch: str) -> BatchPolicy:
        """What was decided about a batch."""
        return self._policies.get(batch, _NOTHING)

    def limit(self, batch: str, jobs: int | None) -> None:
        """How many jobs of a batch may run at once while it is tried, whatever else was decided; None: it is not."""
        if jobs is None:
            self._limits.pop(batch, None)
        else:
            self._limits[batch] = jobs
        self._tell(batch)

    def _tell(self, batch: str) -> None:
        policy, limit = self.of(batch), self._limits.get(batch)
        if limit is not None:
            policy = policy.changed({"max_running": min(limit, policy.max_running or limit)})
        self._planner.set_rule(batch, policy)

    def decide_soon(self, batch: str, changes: Mapping[str, bool | int | str | None], background: Background) -> None:
        """Decide about a batch at once, and write it down as soon as that is possible."""
        self._set(self._with(batch, changes), batch)
        background.spawn(self._write_at_last(batch))

    async def _write_at_last(self, batch: str) -> None:
        while True:
            try:
                await self.change(batch, {})  # as it is then: someone may have decided otherwise
            except OSError as error:
                log.error("%s cannot be written: %s", self._path, error)
                await asyncio.sleep(WRITE_AGAIN)
            else:
                return

    def _with(self, batch: str, changes: Mapping[str, bool | int | str | None]) -> dict[str, BatchPolicy]:
        policy = self.of(batch).changed(changes)
        policies = {name: each for name, each in self._policies.items() if name != batch}
        return policies if policy == _NOTHING else {**policies, batch: policy}

    def _set(self, policies: dict[str, BatchPolicy], batch: str) -> None:
        self._policies = policies
        self._tell(batch)

    async def change(self, batch: str, changes: Mapping[str, bool | int | str | None]) -> BatchPolicy:
        """Decide about a batch: set these fields. When this returns, it is on disk.

        Raises:
            OSError: the file cannot be written; nothing has changed.
        """
        async with self._writing:
            await asyncio.to_thread(self._write, self._with(batch, changes))
            self._set(self._with(batch, changes), batch)  # others may have been decided about meanwhile
            return self.of(batch)

    async def forget(self, exists: Callable[[str], bool]) -> None:
        """Forget the batches that do not exist any more: a later batch of the same name is another one."""
        for name in self.all():
            if not await asyncio.to_thread(exists, name):
                await self.change(name, dict(BatchPolicy()))

    def _write(self, policies: dict[str, BatchPolicy]) -> None:
        with replacing(self._path, mode=0o600) as partial:
            partial.write_text(json.dumps({name: policy.model_dump() for name, policy in policies.items()}))
