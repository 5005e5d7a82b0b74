"""What the dashboard of Ray says, as this module reads it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from orqal.actors.ray_internals import TABLES, table_rows


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's: with one row of a table that has many."""

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == "Bearer right" and self.path.endswith("?limit=1")
        total = len(self.path)
        self.send_response(200 if allowed else 401)
        self.end_headers()
        # As many calls again have been dropped.
        counts = {"total": 2 * total if "/tasks?" in self.path else total, "num_after_truncation": total}
        answer = {"result": True, "msg": "", "data": {"result": {**counts, "num_filtered": 1, "result": [{}]}}}
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_the_rows_of_a_table_are_counted_without_reading_them(dashboard: str) -> None:
    assert table_rows(dashboard, "right") == {table: len(f"/api/v0/{table}?limit=1") for table in TABLES}


def test_a_dashboard_that_refuses_is_an_error(dashboard: str) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        table_rows(dashboard, "wrong")
