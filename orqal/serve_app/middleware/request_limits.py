"""Bounds how many requests are under way, so that a crowd costs bounded memory and those who behave are served.

There are places for two kinds: for requests that are *held*, which wait for jobs, follow outputs or hear of changes;
and for all others, which are *quick*. A quick one that takes long (its sender sends slowly, its reader reads slowly or
nothing) becomes a held one; if there is no room for it, it is cut off. So however many clients wait or dawdle, the
places of the quick ones become free again. Who finds no place is told to come again, and when.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orqal.serve_app.middleware.auth import OPEN

QUICK = 1_000
"""Quick requests at a time."""
HELD = 2_000
"""Requests that are held, at a time."""
SLOW_AFTER = 10.0
"""Seconds after which a quick request takes the place of a held one."""
COME_AGAIN = {"quick": 1, "held": 5}
"""Seconds after which who found no place may try again."""

_WHY = {
    "quick": f"{QUICK:,} requests are being answered at this moment; try again in a second",
    "held": f"{HELD:,} requests wait for jobs or are slow, and there is no room for another; try again in a few "
    "seconds. One request can wait for many jobs (POST /api/jobs/wait), and needs only one place",
}
_LOGS = re.compile("/api/job/[^/]+/logs")


class Crowd:
    """ASGI middleware of Serve's proxy: gives each request a place, or answers it with 429."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.taken = {"quick": 0, "held": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        kind = "held" if is_held(scope) else "quick"
        if not self._has_room(kind):
            await _refusal(kind)(scope, receive, send)
            return
        self.taken[kind] += 1
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        work = asyncio.ensure_future(self._app(scope, receive, sending))
        try:
            if kind == "quick":
                await asyncio.wait([work], timeout=SLOW_AFTER)
                if not work.done() and self._has_room("held"):
                    self.taken[kind] -= 1
                    kind = "held"
                    self.taken[kind] += 1
                elif not work.done():
                    work.cancel()
                    await asyncio.wait([work])
                    if not began:
                        await _refusal("held")(scope, receive, send)
                    return  # else the connection is closed: the answer is not complete
            await work
        finally:
            work.cancel()
            self.taken[kind] -= 1

    def _has_room(self, kind: str) -> bool:
        return self.taken[kind] < (HELD if kind == "held" else QUICK)


def is_held(scope: Scope) -> bool:
    """Whether this request is made to last."""
    path: str = scope["path"]
    if _LOGS.fullmatch(path):
        follow = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("follow", [""])[-1].lower()
        return follow in ("1", "true", "on", "yes", "t", "y")  # as pydantic has it
    return path in ("/api/jobs/wait", "/api/events") or path.startswith("/api/stream/")


def _refusal(kind: str) -> JSONResponse:
    return JSONResponse({"detail": _WHY[kind]}, 429, headers={"Retry-After": str(COME_AGAIN[kind])})
