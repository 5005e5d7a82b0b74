"""What was decided about the jobs of batches that wait: held, a priority, how many may run. It outlives restarts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from orqal.files import replacing
from orqal.models import BatchPolicy
from orqal.scheduling import Planner

log = logging.getLogger("orqal.batches")

_FILE = TypeAdapter(dict[str, BatchPolicy])


class BatchPolicies:
    """Keeps them in a file, and tells the planner."""

    def __init__(self, path: Path, planner: Planner) -> None:
        self._path, self._planner = path, planner
        self._policies: dict[str, BatchPolicy] = {}
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
        for name, policy in self._policies.items():
            self._planner.set_rule(name, policy)

    def all(self) -> dict[str, BatchPolicy]:
        """The batches about which something was decided."""
        return dict(self._policies)

    async def change(self, batch: str, changes: Mapping[str, bool | int | None]) -> BatchPolicy:
        """Decide about a batch: set these fields. When this returns, it is on disk.

        Raises:
            OSError: the file cannot be written; nothing has changed.
        """
        async with self._writing:
            policy = self._policies.get(batch, BatchPolicy()).changed(changes)
            policies = {name: each for name, each in self._policies.items() if name != batch}
            if policy != BatchPolicy():
                policies[batch] = policy
            await asyncio.to_thread(self._write, policies)
            self._policies = policies
            self._planner.set_rule(batch, policy)
            return policy

    async def forget(self, exists: Callable[[str], bool]) -> None:
        """Forget the batches that do not exist any more: a later batch of the same name is another one."""
        for name in self.all():
            if not await asyncio.to_thread(exists, name):
                await self.change(name, dict(BatchPolicy()))

    def _write(self, policies: dict[str, BatchPolicy]) -> None:
        with replacing(self._path, mode=0o600) as partial:
            partial.write_text(json.dumps({name: policy.model_dump() for name, policy in policies.items()}))
