"""Many files at a time: what is listed, what is kept, what is continued, and what fails alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import orqal
from orqal.client import Client, Job, NotFound, ServerUnreachable
from orqal.client.downloads import Downloaded, matches
from tests.support.folders import content_of
from tests.support.stand_in_server import A, B, Reply, Request, StandInServer, files_listed, serve_files

pytestmark = pytest.mark.timeout(60)


def test_files_are_listed_page_by_page(server: StandInServer) -> None:
    server.answers[f"GET job/{A}/files"] = [files_listed("a", "b", cursor="b%20"), files_listed(b"c \xff\n")]
    found = list(Client().files(A))
    assert [file.name for file in found] == ["a", "b", "c \udcff\n"]
    assert found[2].path == f"job/{A}/download/c%20%FF%0A" and found[0].is_regular and found[0].size == 4
    assert [request.query for request in server.requests] == [{"limit": "1000"}, {"limit": "1000", "cursor": "b%20"}]
    assert list(Job(A).files.values()) == [f"{server.url}/job/{A}/download/c%20%FF%0A"]
    assert Job().files == {}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["a.csv", "x/b.csv", "x/y/c.txt"]),
        (["*.csv"], ["a.csv", "x/b.csv"]),
        (["x/*"], ["x/b.csv", "x/y/c.txt"]),
        (["?.txt", "a*"], ["a.csv", "x/y/c.txt"]),
        (["X/*"], []),
    ],
)
def test_patterns_are_those_of_a_shell(patterns: list[str], names: list[str]) -> None:
    assert [name for name in ("a.csv", "x/b.csv", "x/y/c.txt") if matches(name, patterns)] == names


def test_the_files_of_several_jobs_come_into_a_folder_for_each(server: StandInServer, tmp_path: Path) -> None:
    odd: list[str | bytes] = [b"sub/a b%2F?#", "é\n", b"\xff"]
    serve_files(server, A, odd)
    serve_files(server, B, [])
    came = orqal.download([Job(A), Job(B), Job(A)], tmp_path / "new")
    assert came == Downloaded(files=3, bytes=12, kept=0, left_out=0, failed={})
    assert content_of(tmp_path / "new") == {f"{A}/{os.fsdecode(name)}": b"data" for name in odd}
    assert (tmp_path / "new" / A / "é\n").stat().st_mtime_ns == 1767323045 * 10**9 + 6_000


def test_one_job_can_have_the_folder_for_itself(server: StandInServer, tmp_path: Path) -> None:
    serve_files(server, A, ["x/a.csv", "b"])
    assert Job(A).download_all(tmp_path, "*.csv").files == 1
    assert content_of(tmp_path) == {"x/a.csv": b"data"}


def test_what_is_here_is_kept_and_what_is_another_comes_again(server: StandInServer, tmp_path: Path) -> None:
    serve_files(server, A, ["f", "g"])
    Job(A).download_all(tmp_path)
    (tmp_path / "g").write_bytes(b"mine")  # of the same size, but younger
    came = Job(A).download_all(tmp_path)
    assert came == Downloaded(files=2, bytes=8, kept=1, left_out=0, failed={})
    assert content_of(tmp_path) == {"f": b"data", "g": b"data"}
    assert len(server.asked(f"GET job/{A}/download/f")) == 1


def test_a_part_that_was_left_is_continued_by_the_next_call(
    server: StandInServer, tmp_path: Path, pauses: list[float]
) -> None:
    server.answers[f"GET job/{A}/files"] = files_listed("f", size=8)
    server.answers[f"GET job/{A}/download/f"] = [
        Reply(b"half", breaks=True, headers={"etag": '"v1"'}),
        Reply({"detail": "gone"}, 404),
    ]
    came = Job(A).download_all(tmp_path)
    assert came.files == came.bytes == 0 and list(came.failed) == [f"{A} f"]
    (partial,) = tmp_path.iterdir()
    assert partial.read_bytes() == b"half" and partial.name.endswith(".part")

    def rest(request: Request) -> Reply:
        assert (request.headers["range"], request.headers["if-range"]) == ("bytes=4-", '"v1"')
        return Reply(b"rest", 206, headers={"etag": '"v1"'})

    server.answers[f"GET job/{A}/download/f"] = rest
    assert Job(A).download_all(tmp_path) == Downloaded(1, 8, 0, 0, {})
    assert content_of(tmp_path) == {"f": b"halfrest"}


def test_a_part_that_is_the_whole_file_only_gets_its_name(server: StandInServer, tmp_path: Path) -> None:
    serve_files(server, A, ["f"])
    Job(A).download_all(tmp_path)
    key = hashlib.sha256(f'job/{A}/download/f "v1"'.encode()).hexdigest()[:16]
    (tmp_path / "f").rename(tmp_path / f".orqal-{key}.part")
    server.answers[f"GET job/{A}/download/f"] = Reply({"detail": "no such part"}, 416)
    assert Job(A).download_all(tmp_path).files == 1
    assert content_of(tmp_path) == {"f": b"data"}


def test_a_file_that_has_changed_since_it_was_listed_comes_whole(server: StandInServer, tmp_path: Path) -> None:
    server.answers[f"GET job/{A}/files"] = files_listed("f", size=4)
    server.answers[f"GET job/{A}/download/f"] = Reply(b"longer now", headers={"etag": '"v2"'})
    came = Job(A).download_all(tmp_path)
    assert (came.files, came.bytes) == (1, 10) and content_of(tmp_path) == {"f": b"longer now"}


def test_what_cannot_be_had_keeps_nothing_else_waiting(
    server: StandInServer, tmp_path: Path, pauses: list[float], hurried: None
) -> None:
    serve_files(server, A, ["a", "gone", "../../etc/x", "y//z"])
    server.answers[f"GET job/{A}/download/gone"] = Reply({"detail": "no such file"}, 404)
    server.answers[f"GET job/{B}/files"] = Reply({"detail": "the host h is away"}, 503)
    came = Client().download_all([A, B, "c" * 24], tmp_path)
    assert content_of(tmp_path) == {f"{A}/a": b"data"} and came.files == 1
    assert came.failed.keys() == {B, "c" * 24, f"{A} gone", f"{A} ../../etc/x", f"{A} y//z"}
    assert "the host h is away" in came.failed[B] and "leads out" in came.failed[f"{A} ../../etc/x"]
    assert len(pauses) >= 4  # the host that was away was waited for, after all the others


def test_a_host_that_comes_back_is_no_failure(server: StandInServer, tmp_path: Path, pauses: list[float]) -> None:
    serve_files(server, A, ["f"])
    server.answers[f"GET job/{A}/files"] = [Reply({"detail": "away"}, 503), files_listed("f")]
    server.answers[f"GET job/{A}/download/f"] = [Reply({"detail": "away"}, 503), Reply(b"data")]
    serve_files(server, B, ["g"])
    assert Client().download_all([A, B], tmp_path) == Downloaded(2, 8, 0, 0, {})


def test_a_server_that_restarts_is_waited_for_and_one_that_stays_away_ends_all(
    server: StandInServer, tmp_path: Path, pauses: list[float], hurried: None
) -> None:
    serve_files(server, A, ["f"])
    server.answers[f"GET job/{A}/files"] = [Reply(drops=True), files_listed("f")]
    server.answers[f"GET job/{A}/download/f"] = [Reply(drops=True), Reply(b"data")]
    assert Job(A).download_all(tmp_path).files == 1
    server.stop()
    with pytest.raises(ServerUnreachable):
        Client(server.url).download_all([B], tmp_path)


def test_links_and_pipes_are_counted_not_downloaded(server: StandInServer, tmp_path: Path) -> None:
    serve_files(server, A, ["f"])
    files = [*files_listed("f")["files"], *files_listed("link", kind="link")["files"]]
    server.answers[f"GET job/{A}/files"] = {"files": files, "cursor": None}
    assert Job(A).download_all(tmp_path) == Downloaded(files=1, bytes=4, kept=0, left_out=1, failed={})


def test_a_place_that_cannot_be_written_fails_for_its_file_alone(server: StandInServer, tmp_path: Path) -> None:
    serve_files(server, A, ["a/b", "c"])
    (tmp_path / "a").write_text("a file")
    came = Job(A).download_all(tmp_path)
    assert came.files == 1 and list(came.failed) == [f"{A} a/b"]


def test_a_job_that_is_gone_is_an_error_of_its_listing(server: StandInServer) -> None:
    with pytest.raises(NotFound):
        list(Client().files(A))
