"""A job's directory, which a container may have filled with traps."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from orqal.engine import job_directory
from orqal.engine.file_listing import top_level
from orqal.engine.job_directory import Removed, create, make_directory, read_piece
from orqal.removal import remove
from tests.support.folders import mounted, nest


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file outside that no link of a container may lead to."""
    file = tmp_path / "outside" / "secret"
    file.parent.mkdir()
    file.write_text("secret")
    return file


@pytest.fixture
def job(tmp_path: Path) -> Path:
    directory = tmp_path / "jobs" / "a"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize("trap", ["symlink", "dangling", "hard link", "fifo", "file"])
def test_a_created_file_is_always_a_new_one(job: Path, outside: Path, trap: str) -> None:
    planted = job / "orqal.stdout"
    match trap:
        case "symlink":
            planted.symlink_to(outside)
        case "dangling":
            planted.symlink_to(outside.with_name("new"))
        case "hard link":
            planted.hardlink_to(outside)
        case "fifo":
            os.mkfifo(planted)
        case "file":
            planted.write_text("planted, and longer")
    with create(planted) as file:
        file.write(b"ours")
    assert planted.read_bytes() == b"ours" and not planted.is_symlink()
    assert outside.read_text() == "secret"
    assert not outside.with_name("new").exists()


@pytest.mark.parametrize("trap", ["symlink", "hard link"])
def test_a_link_that_is_planted_at_the_last_moment_is_not_written_through(
    job: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    before = outside.read_bytes()
    unlink = os.unlink

    def plant_after(name: str, *, dir_fd: int) -> None:
        with suppress(FileNotFoundError):
            unlink(name, dir_fd=dir_fd)
        if trap == "symlink":
            os.symlink(outside, name, dir_fd=dir_fd)
        else:
            os.link(outside, name, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", plant_after)
    with pytest.raises(FileExistsError), create(job / "stdout") as file:
        file.write(b"ours")
    assert outside.read_bytes() == before


def test_a_directory_made_twice_replaces_what_was_planted(job: Path, outside: Path) -> None:
    make_directory(job, b"{}")
    assert job.stat().st_mode & 0o7777 == 0o777
    (job / "params.json").unlink()
    (job / "params.json").symlink_to(outside)
    make_directory(job, b'{"a": 1}')
    assert (job / "params.json").read_bytes() == b'{"a": 1}' and outside.read_text() == "secret"


def test_a_planted_link_in_place_of_a_directory_is_not_followed(tmp_path: Path, outside: Path) -> None:
    planted = tmp_path / "jobs" / "b"
    planted.parent.mkdir()
    planted.symlink_to(outside.parent)
    mode = outside.parent.stat().st_mode
    with pytest.raises(NotADirectoryError):
        make_directory(planted, b"{}")
    with pytest.raises(NotADirectoryError):
        create(planted / "orqal.stdout")
    assert outside.parent.stat().st_mode == mode
    assert [file.name for file in outside.parent.iterdir()] == ["secret"]
    assert top_level(planted) == []


def test_a_missing_folder_of_directories_is_made_private(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        make_directory(tmp_path / "jobs" / "a", b"{}")
        create(tmp_path / "more" / "a" / "orqal.stdout").close()
    finally:
        os.umask(mask)
    for folder in ("jobs", "more"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device")
def test_a_device_is_not_even_opened(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mknod(job / "null", 0o20666, os.makedev(1, 3))
    opened: list[int] = []
    really = os.open

    def noted(path: str, flags: int, *args: int, **options: int) -> int:
        opened.append(flags)
        return really(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", noted)
    with pytest.raises(FileNotFoundError):
        read_piece(job, "null", 0, 1)
    assert opened[-1] & os.O_PATH


# Reading


def test_a_file_is_read_in_pieces(job: Path) -> None:
    (job / "a" / "b").mkdir(parents=True)
    (job / "a" / "b" / "é f").write_bytes(b"0123456789")
    assert read_piece(job, "a/b/é f", 0, 4)[:2] == (b"0123", 10)
    assert read_piece(job, "a//b/./é f", 8, 4)[:2] == (b"89", 10)
    assert read_piece(job, "a/b/é f", 10, 4)[:2] == (b"", 10)


@pytest.fixture
def traps(job: Path, outside: Path) -> Path:
    (job / "link").symlink_to(outside)
    (job / "folder").symlink_to(outside.parent)
    (job / "inside").write_text("x")
    (job / "loop").symlink_to("inside")
    (job / "real").mkdir()
    (job / "real" / "folder").symlink_to(outside.parent)
    os.mkfifo(job / "fifo")
    (job.parent / "b").mkdir()
    (job.parent / "b" / "file").write_text("another job's")
    return job


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "//", "../b/file", "real/../inside", "real/../../b/file", "inside/..", "a\0", "\0"),
        *("link", "loop", "folder/secret", "real/folder/secret", "fifo", "real", "real/", "missing", "inside/x"),
        *("x" * 300, "a/" * 3000, "\ud800", "real/\ud800/x"),
        *("{outside}", "/{outside}", "//{outside}", "real/{outside}/../x"),
    ],
)
def test_nothing_but_files_below_the_directory_is_read(traps: Path, outside: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_piece(traps, name.replace("{outside}", str(outside)), 0, 100)


def test_a_directory_that_is_a_link_or_missing_is_not_read(job: Path, outside: Path) -> None:
    (job.parent / "linked").symlink_to(outside.parent)
    for directory in ("linked", "missing"):
        with pytest.raises(FileNotFoundError):
            read_piece(job.parent / directory, "secret", 0, 10)


def test_a_refused_read_leaves_nothing_open(traps: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("real/missing", "fifo", "real", "folder/secret"):
        with pytest.raises(FileNotFoundError):
            read_piece(traps, name, 0, 1)
    read_piece(traps, "inside", 0, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_planted_directory_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "orqal.stdout" / "kept").mkdir(parents=True)
    with job_directory.create(tmp_path / "orqal.stdout") as file:
        file.write(b"ours")
    assert (tmp_path / "orqal.stdout").read_bytes() == b"ours"
    assert len(list(tmp_path.glob("orqal.stdout.*/kept"))) == 1


def test_only_directories_of_jobs_are_listed_and_removed(tmp_path: Path) -> None:
    jobs_dir, outside = tmp_path / "jobs", tmp_path / "outside"
    ids = [f"{number:024x}" for number in range(4)]
    outside.mkdir()
    (outside / "kept").touch()
    for name in (ids[0], ids[1], "notes", "0" * 23):
        (jobs_dir / name / "sub").mkdir(parents=True)
    (jobs_dir / ids[0] / "link").symlink_to(outside)
    (jobs_dir / ids[2]).symlink_to(outside)  # planted
    assert job_directory.directories(jobs_dir) == ids[:3]
    assert job_directory.directories(tmp_path / "none") == []
    assert job_directory.remove_directories(jobs_dir, [*ids, "notes", "../outside"]) == Removed(ids, {})
    assert sorted(path.name for path in jobs_dir.iterdir()) == ["0" * 23, "notes"]
    assert (outside / "kept").exists()


@pytest.mark.timeout(60)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_what_cannot_be_removed_does_not_keep_the_others(tmp_path: Path) -> None:
    ids = [f"{number:024x}" for number in range(3)]
    for job in ids:
        (tmp_path / job / "sub").mkdir(parents=True)
    below = tmp_path / ids[1] / "sub"
    with mounted(below):
        (below / "kept").touch()
        removed = job_directory.remove_directories(tmp_path, ids)
        assert (below / "kept").exists()
    assert removed == Removed([ids[0], ids[2]], {ids[1]: f"another file system is mounted there: {below}"})
    assert [path.name for path in tmp_path.iterdir()] == [ids[1]]


def test_what_is_not_reached_in_time_is_neither_gone_nor_stuck(tmp_path: Path) -> None:
    job = tmp_path / f"{1:024x}"
    job.mkdir()
    assert job_directory.remove_directories(tmp_path, [job.name], within=0) == Removed([], {})
    assert job.exists()


def test_a_folder_belongs_to_the_cluster_that_was_there_first(tmp_path: Path) -> None:
    jobs = tmp_path / "new" / "jobs"
    assert [job_directory.claimed_before(jobs, "one") for _ in range(2)] == [None, None]
    why = job_directory.claimed_before(jobs, "other")
    assert why is not None and "its cluster is one" in why and f"remove the file {jobs}/.cluster" in why
    assert [path.name for path in jobs.iterdir()] == [".cluster"] and job_directory.directories(jobs) == []
    (jobs / ".cluster").unlink()
    assert job_directory.claimed_before(jobs, "other") is None


def test_of_many_clusters_that_claim_a_folder_at_the_same_time_one_gets_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        problems = list(pool.map(lambda number: job_directory.claimed_before(tmp_path, f"c{number}"), range(64)))
    assert problems.count(None) == 1


def test_the_size_of_a_directory_is_what_it_takes_on_the_disk(tmp_path: Path) -> None:
    job = tmp_path / f"{1:024x}"
    assert job_directory.size(job) == 0
    nest(job, 1500)
    empty = job_directory.size(job)
    (job / "file").write_bytes(bytes(1 << 20))
    os.link(job / "file", job / "same")
    (job / "link").symlink_to(tmp_path.parent)
    with (job / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert (1 << 20) <= job_directory.size(job) - empty < (1 << 20) + 50_000
    remove(job)
