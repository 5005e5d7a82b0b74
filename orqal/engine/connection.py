"""The connection to a Docker daemon: the SDK's client, with what a daemon on another machine needs."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import docker
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

_POOL = 64
"""Connections to the daemon that are kept open."""


class Api(docker.APIClient):
    """Makes the SDK's client for a Docker daemon, on this machine or another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_pool_size=_POOL, **options)
        if self.base_url.startswith(("http://", "https://")):
            self.mount(self.base_url, _Tcp(pool_maxsize=_POOL))

    def send(self, request: Any, **options: Any) -> requests.Response:
        """Send a request. The method of `requests` would prefer REQUESTS_CA_BUNDLE to the daemon's ca.pem."""
        return super().send(request, **options | ({"verify": self.verify} if isinstance(self.verify, str) else {}))


class _Tcp(HTTPAdapter):
    """Connections to another machine. If that machine is gone, a connection that waits for data fails within 30 s."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        alive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        with suppress(AttributeError):  # not on every system
            for option, value in (socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3):
                alive.append((socket.IPPROTO_TCP, option, value))
        options["socket_options"] = [*HTTPConnection.default_socket_options, *alive]
        super().init_poolmanager(*args, **options)
