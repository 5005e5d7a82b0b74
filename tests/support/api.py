"""The API of an Orqal under test, wherever it runs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import httpx


class Api(ABC):
    """Submits jobs, and waits until they run or have ended."""

    @property
    @abstractmethod
    def token(self) -> str:
        """The API's token."""

    @property
    @abstractmethod
    def root(self) -> str:
        """The address, without /api."""

    def http(self, **options: Any) -> httpx.Client:
        """A client of the API, with the token."""
        return httpx.Client(
            base_url=f"{self.root}/api",
            headers={"Authorization": f"Bearer {self.token}"},
            **{"timeout": 60, **options},
        )

    def submit(self, app: str, input: Any = None, **more: Any) -> str:
        """Submit a job, and return its id. No earlier job is reused, unless `use_cache` is given."""
        with self.http() as http:
            job = {"app": app, "input": input, "use_cache": False, **more}
            return http.post("/job", json=job).raise_for_status().text

    def run(self, app: str, input: Any = None, **more: Any) -> dict[str, Any]:
        """Submit a job, wait for its end, and return its record."""
        return self.ended(self.submit(app, input, **more))

    def command(self, *cmd: str, **more: Any) -> dict[str, Any]:
        """Run a command in the test image, and return the job's record."""
        return self.run("Run", params={"image": "orqal/demo", "cmd": list(cmd), "network": "none"}, **more)

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end, and return its record."""
        with self.http() as http:
            with http.stream("POST", "/jobs/wait", json={"ids": [job_id]}) as response:
                assert [json.loads(line)["_id"] for line in response.iter_lines() if line] == [job_id]
            return self.job(job_id)

    def tried(self, job_id: str) -> dict[str, Any]:
        """Wait until an attempt at a job is over and another one will follow, and return the job's record."""
        with self.http() as http, http.stream("GET", "/events") as events:
            lines = events.iter_lines()
            next(lines)  # from now on no change is missed
            while not (job := self.job(job_id))["attempts"]:
                assert job["current_status"] not in ("exited", "error"), job["error"]
                next(lines)
        return job

    def running(self, job_id: str) -> None:
        """Wait until a job runs."""
        with self.http() as http, http.stream("GET", "/events") as events:
            lines = events.iter_lines()
            next(lines)  # from now on no change is missed
            while (status := self.job(job_id)["current_status"]) != "running":
                assert status in ("todo", "init"), status
                # A line without an id means that changes were missed, so the job must be looked at again.
                while not (line := next(lines)) or json.loads(line).get("_id", job_id) != job_id:
                    pass

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job's record."""
        with self.http() as http:
            record: dict[str, Any] = http.get(f"/job/{job_id}").raise_for_status().json()
        return record

    def logs_until(self, job_id: str, word: bytes) -> None:
        """Wait until a job has printed a word. The job continues."""
        with self.http() as http, http.stream("GET", f"/job/{job_id}/logs", params={"follow": "1"}) as response:
            seen = b""
            for chunk in response.iter_raw():
                seen = seen[-1000:] + chunk
                if word in seen:
                    return
        raise AssertionError(f"the job ended without {word!r}: {seen!r}")
