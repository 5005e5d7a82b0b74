"""The files of jobs, with names as Linux allows them, while a job runs and afterwards: listed, shown and downloaded."""

from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path

import httpx

from tests.support.orqal_process import Orqal

WRITER = r"""
class OddWriter(AbstractWrapper):
    docker_url, threads, memory_in_gb, create_dir = "orqal/demo", 0.5, 0.05, True

    def get_cmd(self, params):
        return ["sh", "-c", r'''
            mkdir -p "plots/day 1" empty
            echo one > "plots/day 1/a%2F?#.csv"
            echo two > "$(printf 'line\nbreak')"
            echo three > "$(printf 'plots/\377')"
            head -c 3000000 /dev/zero > large
            ln -s /etc/passwd link
            echo up
            while [ -e wait ]; do sleep 0.1; done
        ''']
"""
ODD = [b"large", b"line\nbreak", b"params.json", b"plots/\xff", b"plots/day 1/a%2F?#.csv"]


def below(folder: Path) -> dict[bytes, int]:
    """Return the sizes of all files below a folder, by name."""
    return {os.fsencode(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_all_files_come_through_while_the_job_runs_and_afterwards(orqal: Orqal, services: Path, tmp_path: Path) -> None:
    def get(path: str) -> httpx.Response:
        return httpx.get(f"{orqal.root}{path}", auth=("anyone", orqal.token), timeout=60)

    (services / "odd_writer.py").write_text(WRITER)
    try:
        job = orqal.submit("OddWriter", batch="odd files", params={"n": 1})
        orqal.logs_until(job, b"up")
        running = orqal.cli("files", job).stdout
        for shown in ("plots/day 1/a%2F?#.csv", "3 MB", "link"):
            assert shown in running
        assert orqal.ended(job)["ok"]

        listed = [json.loads(line) for line in orqal.cli("files", "odd files", "--json").stdout.splitlines()]
        kinds = {file["name"]: file["kind"] for file in listed}
        assert kinds["link"] == "link" and "empty" not in kinds and len(kinds) == len(ODD) + 1

        came = orqal.cli("download", "odd files", "-o", str(tmp_path / "batch"))
        assert came.stdout.startswith("5 files (3 MB)") and "1 link, pipe or closed folder was left out" in came.stderr
        found = below(tmp_path / "batch" / job)
        assert sorted(found) == sorted(ODD) and found[b"large"] == 3_000_000 and found[b"plots/\xff"] == 6
        again = orqal.cli("download", "odd files", "-o", str(tmp_path / "batch"), "--json").stdout
        assert json.loads(again)["kept"] == 5

        code = f"from orqal import Job; print(Job({job!r}).download_all({str(tmp_path / 'job')!r}, '*.csv').files)"
        assert orqal.python(code).stdout == "1\n"
        assert list(below(tmp_path / "job")) == [b"plots/day 1/a%2F?#.csv"]

        page = get(f"/job/{job}").text
        links = [unescape(link) for link in re.findall('href="([^"]*/download/[^"]*)"', page)]
        assert [len(get(link).content) for link in links] == [3_000_000, 4, len('{"n": 1}'), 4, 6]
    finally:
        (services / "odd_writer.py").unlink()
