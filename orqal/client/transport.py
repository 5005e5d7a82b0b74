"""HTTP to one server: the connection, requests, streamed answers, and failures as this package's errors."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from orqal.client.errors import NotFound, OrqalError, RequestFailed, ServerUnreachable, Unauthorized
from orqal.client.retry import GIVE_UP_AFTER, Backoff, is_busy

if TYPE_CHECKING:
    import httpx

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
"""Hosts that are never reached through a proxy."""
CONNECT_TIMEOUT = 5.0
"""Seconds that it may take to connect."""


class Transport:
    """Requests to one server over a persistent connection. Thread-safe.

    Paths are relative to the base URL. All methods raise ServerUnreachable or RequestFailed if the request fails.
    """

    def __init__(self, base_url: str, token: str | None, timeout: float) -> None:
        """`timeout`: seconds that the server may take to begin an answer, and between two parts of it.

        `base_url` may contain a user and a password, which are sent instead of the token.
        """
        self.base_url, self._credentials = split_credentials(base_url)
        """Without the password, because messages show it."""
        self.timeout = timeout
        self._token = token
        self._reached = False
        """True once the server has accepted a connection."""
        self._answered = False
        """True once the server has answered as Orqal does."""

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and return the whole answer. `options`: see httpx.Client.request."""
        with self.stream(method, path, **options) as response:
            response.read()
            return response

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the JSON of the answer."""
        return parse_json(self.request(method, path, **options).content)

    def ndjson(self, method: str, path: str, **options: Any) -> Iterator[Any]:
        """Send a request and yield the JSON of each line of the answer as it comes. Empty lines are left out."""
        with self.stream(method, path, **options) as response:
            for line in split_lines(response.iter_bytes()):
                if line.strip():
                    yield parse_json(line)

    def text(self, method: str, path: str, **options: Any) -> Iterator[str]:
        """Send a request and yield the text of the answer, piece by piece as it comes."""
        with self.stream(method, path, **options) as response:
            yield from response.iter_text()

    @contextmanager
    def stream(
        self, method: str, path: str, *, wait_if_busy: bool = True, **options: Any
    ) -> Generator[httpx.Response, None, None]:
        """Send a request and yield the answer with its body still unread.

        Errors of the connection while the block reads the body are raised as ServerUnreachable too. `wait_if_busy`: if
        the server is too busy, send the request again, for a while.
        """
        import httpx

        if "timeout" in options:
            options["timeout"] = self._timeout(options["timeout"])
        backoff: Backoff | None = None
        while True:
            try:
                with self._http.stream(method, f"{self.base_url}/{path}", **options) as response:
                    self._reached = True
                    if response.is_success:
                        self._answered = True
                        yield response
                        return
                    response.read()
                    if response.status_code == 404 and self._answered and not _detail(response):
                        # Not from Orqal itself, but from something before it that does not find it now.
                        raise self._unreachable(f"{response.url} is not there now")
                    failure = self._failure(response)
                    if not (wait_if_busy and is_busy(failure)):
                        raise failure
            except (
                httpx.ConnectError,
                httpx.ConnectTimeout,
                httpx.InvalidURL,
                httpx.ProxyError,
                httpx.UnsupportedProtocol,
            ) as error:
                raise self._unreachable(str(error)) from error
            except httpx.TransportError as error:
                self._reached = True
                what = str(error) or type(error).__name__
                raise ServerUnreachable(f"The connection to the server at {self.base_url} broke: {what}.") from error
            backoff = backoff or Backoff()
            backoff.pause(failure)

    def _unreachable(self, why: str) -> ServerUnreachable:
        return ServerUnreachable(
            f"No Orqal server at {self.base_url} ({why}). Is it up? Start it with `orqal up`, or set ORQAL_API_URL."
            + self._proxy_hint(),
            reached_before=self._reached,
        )

    def _proxy_hint(self) -> str:
        """Return a sentence about the proxy of the environment that requests go through; empty if there is none."""
        from urllib.request import getproxies, proxy_bypass

        try:
            url = urlsplit(self.base_url)
            proxies = getproxies()
            proxy = urlsplit(proxies.get(url.scheme) or proxies.get("all") or "").hostname
        except ValueError:  # the address is none
            return ""
        host = url.hostname or ""
        if host in THIS_MACHINE or not proxy or proxy_bypass(host):
            return ""
        variable = f"{url.scheme.upper()}_PROXY"
        return f" Requests go through the proxy {proxy} ({variable}). To go there directly, add {host} to NO_PROXY."

    def ended_early(self) -> ServerUnreachable:
        """Return the error for an answer that ended before it was complete."""
        return ServerUnreachable(f"The server at {self.base_url} ended its answer early.")

    @functools.cached_property
    def _http(self) -> httpx.Client:
        import httpx

        headers = {}
        if self._token:
            if not (self._token.isascii() and self._token.isprintable()):
                raise OrqalError("The token (ORQAL_TOKEN) contains characters that a token cannot have.")
            headers["authorization"] = f"Bearer {self._token}"
        url = httpx.URL(self.base_url)
        return httpx.Client(
            # The credentials replace the header with the token.
            auth=self._credentials,
            headers=headers,
            timeout=self._timeout(self.timeout),
            # Any number of threads may wait for jobs, each on a connection of its own.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # A proxy from the environment cannot be the way to this machine itself.
            trust_env=url.host not in THIS_MACHINE,
            # Loading the certificates takes a while, and plain HTTP does not need them.
            verify=url.scheme != "http",
        )

    def _timeout(self, seconds: float | None) -> httpx.Timeout:
        import httpx

        return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT, self.timeout))

    def _failure(self, response: httpx.Response) -> RequestFailed:
        status = response.status_code
        detail = _detail(response)
        if status == 401:
            if self._credentials:
                message = f"The server at {self.base_url} wants its token as the password in ORQAL_API_URL."
            elif self._token:
                message = f"The server at {self.base_url} does not accept this token: set ORQAL_TOKEN to its own."
            else:
                message = f"The server at {self.base_url} wants a token: set ORQAL_TOKEN."
            return Unauthorized(f"{message} `orqal up` wrote it to the file ~/.orqal/token of its machine.", status)
        if status == 404:
            unknown = f"{response.url} does not exist: is this an Orqal server?{self._proxy_hint()}"
            return NotFound(detail or unknown, status)
        wait = response.headers.get("retry-after", "")
        retry_after = min(float(wait), GIVE_UP_AFTER) if wait.isdecimal() else 0.0
        if status >= 500:
            message = f"The server failed ({status}): {detail or response.reason_phrase}"
        else:
            message = detail or f"The server refused ({status} {response.reason_phrase})."
        return RequestFailed(message if detail else message + self._proxy_hint(), status, retry_after)


@contextmanager
def connection_limit(response: httpx.Response, seconds: float | None) -> Generator[None, None, None]:
    """Break the connection of this answer after `seconds`, if the block has not ended. None is no limit.

    A read timeout would not do, because it starts again with each heartbeat.
    """
    if seconds is None:
        yield
        return
    socket = response.extensions["network_stream"].get_extra_info("socket")

    def shut_down() -> None:
        with suppress(OSError):
            socket.shutdown(2)

    timer = threading.Timer(seconds, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return the URL without user and password, and a pair of these two if there is a password."""
    scheme, colon, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, _, host = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    return f"{scheme}{colon}{host}{slash}{path}", (unquote(user), unquote(password)) if password else None


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream of bytes. Only "\\n" ends a line: JSON may contain U+2028, for example."""
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        pieces.append(first)
        for piece in rest:
            yield b"".join(pieces)
            pieces = [piece]
    if last := b"".join(pieces):
        yield last


def parse_json(text: bytes) -> Any:
    """Return the value of JSON that the server sent.

    Raises:
        OrqalError: it is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise OrqalError("The server's answer is not JSON. Is this an Orqal server?") from None


def _detail(response: httpx.Response) -> str:
    """Return the message of a FastAPI error: its text, or for a validation error each place and what is wrong there."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    if isinstance(detail, list):
        problems = [item for item in detail if isinstance(item, dict)]
        return "; ".join(f"{'.'.join(map(str, item.get('loc', ())))}: {item.get('msg', '')}" for item in problems)
    return str(detail)
