"""Calls between actors by the batch, because a call of an actor costs more than most of what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 500
"""Items in one batch, at most."""


class Batches(Generic[T]):
    """Sends items in batches. What comes while one is under way goes with the next."""

    def __init__(self, send: Callable[[list[T]], Awaitable[object]], *, linger: float | None = None) -> None:
        """`send` sends one batch. By default one is sent after the other, so that a lone item is sent at once.

        `linger`: seconds for which items are collected; then the batches do not wait for each other. This is for calls
        that may take long.
        """
        self._send, self._linger = send, linger
        self._items: list[tuple[T, asyncio.Future[None]]] = []
        self._working: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def add(self, item: T) -> None:
        """Return when the batch with this item has been sent, and `send` has returned.

        Raises:
            Exception: what `send` raised for that batch.
        """
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._items.append((item, sent))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        await sent

    async def _work(self) -> None:
        while self._items:
            if self._linger is not None:
                await asyncio.sleep(self._linger)
            batch, self._items = self._items[:MOST], self._items[MOST:]
            if self._linger is None:
                await self._send_one(batch)
            else:
                task = asyncio.create_task(self._send_one(batch))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _send_one(self, batch: list[tuple[T, asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            await self._send([item for item, _ in batch])
        except Exception as failed:
            error = failed
        for _, sent in batch:
            if sent.done():
                continue
            if error is None:
                sent.set_result(None)
            else:
                sent.set_exception(error)
