"""A connection to MongoDB that breaks at a chosen write."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import AutoReconnect


class Broken:
    """Makes pymongo's writes fail from the n-th one on, as if the connection were lost.

    `answered`: the server carries out the n-th write, and only its acknowledgement is lost.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, answered: bool) -> None:
        from pymongo.synchronous.mongo_client import MongoClient as Client

        self.left = at
        self.hit = False
        original = Client._retry_with_session

        def write(client: Any, *args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not answered):
                self.hit = True
                raise AutoReconnect("gone")
            result = original(client, *args, **kwargs)
            if self.left == 0:
                self.hit = True
                raise AutoReconnect("gone")
            return result

        monkeypatch.setattr(Client, "_retry_with_session", write)
