"""What a wrapper file needs from beside it: found, copied, and imported from the copy."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orqal.wrappers import bundles, calls, catalog
from orqal.wrappers.bundles import beside
from orqal.wrappers.calls import Command
from orqal.wrappers.catalog import App
from orqal.wrappers.loading import WrapperRef, execute
from tests.support.wrappers import MEMORY, a_job

pytestmark = pytest.mark.timeout(30)

MAIN = """
from pathlib import Path
from helper import word
from pack.inner import more

class Mine(AbstractWrapper):
    docker_url = "i"

    def get_cmd(self, params):
        import late
        return [word, more, late.word, (Path(__file__).parent / "rules.txt").read_text(), open(data()).read()]

def data():
    return Path(__file__).parent / "data" / "deep" / "d.txt"
"""


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """Leave no trace of the modules that a test has loaded."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    execute("", "none")  # leaves the present folder
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """A folder with a wrapper file, all that it needs, and more."""
    folder = tmp_path / "services"
    files = {
        "mine.py": MAIN,
        "helper.py": "from other import word",
        "other.py": "word = 'helped'",
        "late.py": "word = 'late'",
        "pack/__init__.py": "",
        "pack/inner.py": "from . import sibling\nmore = sibling.more",
        "pack/sibling.py": "more = 'packed'",
        "pack/__pycache__/x.pyc": "",
        "rules.txt": "ruled",
        "data/deep/d.txt": "deep",
        "data/.hidden": "",
        "unrelated.py": "1/0",
        "large.bin": "x",
        ".secret": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


NEEDED = [
    "data/deep/d.txt",
    "helper.py",
    "late.py",
    "mine.py",
    "other.py",
    "pack/__init__.py",
    "pack/inner.py",
    "pack/sibling.py",
    "rules.txt",
]


def load(file: Path) -> App:
    """Load a wrapper file, and return its app."""
    (source,) = catalog.filed([file])
    (app,) = catalog.load(source, MEMORY, file.parent.parent / "bundles")
    return app


def on_a_host(app: App, host: Path, services: Path) -> WrapperRef:
    """Return the wrapper as a host has it that has got the bundle."""
    assert app.ref.bundle is not None
    files = bundles.read(services.parent / "bundles", app.ref.bundle)
    assert files is not None
    return replace(app.ref, folder=str(bundles.write(host, app.ref.bundle, files)))


def command(ref: WrapperRef) -> list[str] | str:
    made = calls.prepare(ref, a_job(), None)
    assert isinstance(made, Command), made
    return made.cmd


def test_what_it_imports_and_names_is_needed_and_nothing_else(services: Path) -> None:
    assert list(beside(services / "mine.py").names) == NEEDED
    assert beside(services / "unrelated.py").names == ("unrelated.py",)


@pytest.mark.parametrize(
    "text",
    [
        'open(f"{os.path.dirname(__file__)}/rules.txt")',
        'open(os.path.dirname(__file__) + "/rules.txt")',
        'open(HERE + "/rules.txt")',
        'open(HERE / "./rules.txt")',
    ],
)
def test_a_file_may_be_named_in_several_ways(services: Path, text: str) -> None:
    (services / "odd.py").write_text(text)
    assert beside(services / "odd.py").names == ("odd.py", "rules.txt")


def test_a_file_may_have_the_wrapper_file_s_name_and_another_suffix(services: Path) -> None:
    (services / "rules.py").write_text("open(Path(__file__).with_suffix('.txt'))")
    assert beside(services / "rules.py").names == ("rules.py", "rules.txt")


@pytest.mark.parametrize(
    "text", ['importlib.import_module("pack.inner")', 'import_module("pack")', '__import__("pack.sibling")']
)
def test_a_module_may_be_imported_by_a_text(services: Path, text: str) -> None:
    (services / "odd.py").write_text(text)
    assert list(beside(services / "odd.py").names) == ["odd.py", *NEEDED[5:8]]


def test_links_in_a_folder_are_followed_unless_they_lead_back(services: Path) -> None:
    (services / "data" / "latest").symlink_to("deep")
    (services / "data" / "deep" / "loop").symlink_to(services / "data")
    (services / "odd.py").write_text("x = 'data'")
    assert beside(services / "odd.py").names == ("data/deep/d.txt", "data/latest/d.txt", "odd.py")


def test_code_that_looks_beside_itself_finds_on_the_head_what_the_hosts_have(services: Path, tmp_path: Path) -> None:
    (services / "mine.py").write_text(
        "import glob, os\n"
        "class Mine(AbstractWrapper):\n    docker_url = 'i'\n"
        "    def get_cmd(self, params): return sorted(os.listdir(os.path.dirname(__file__)))"
    )
    app = load(services / "mine.py")
    assert command(on_a_host(app, tmp_path / "host", services)) == ["mine.py"]
    folder = str(tmp_path / "bundles" / str(app.ref.bundle))
    assert command(replace(app.ref, folder=folder)) == ["mine.py"]
    [warning] = app.info.warnings
    assert "uses __file__, but names no file or folder beside it" in warning


def test_packages_without_init_in_a_new_version(services: Path, tmp_path: Path) -> None:
    (services / "space" / "inner").mkdir(parents=True)
    (services / "mine.py").write_text(
        "import space.inner.word\n"
        "class Mine(AbstractWrapper):\n    docker_url = 'i'\n"
        "    def get_cmd(self, params): return space.inner.word.WORD"
    )
    for word in ("one", "two"):
        (services / "space" / "inner" / "word.py").write_text(f"WORD = {word!r}")
        assert command(on_a_host(load(services / "mine.py"), tmp_path / "host", services)) == word


@pytest.mark.parametrize("when", ["import mine", "", "from mine import WORD"])
def test_what_a_file_imports_may_import_the_file(services: Path, tmp_path: Path, when: str) -> None:
    (services / "helper.py").write_text(f"{when}\ndef word():\n    import mine\n    return mine.WORD")
    (services / "mine.py").write_text(
        "WORD = 'mine'\nimport helper\n"
        "class Mine(AbstractWrapper):\n    docker_url = 'i'\n    def get_cmd(self, params): return helper.word()"
    )
    app = load(services / "mine.py")
    assert command(on_a_host(app, tmp_path / "host", services)) == "mine", "it was executed again, as another module"
    execute("", "none")
    assert "mine" not in sys.modules


def test_it_works_on_a_host_that_has_only_the_bundle(services: Path, tmp_path: Path) -> None:
    app = load(services / "mine.py")
    assert app.info.error is None and app.info.warnings == []
    ref = on_a_host(app, tmp_path / "host", services)
    services.rename(tmp_path / "gone")
    (tmp_path / "bundles").rename(tmp_path / "gone too")
    assert command(ref) == ["helped", "packed", "late", "ruled", "deep"]
    assert ref.folder is not None and Path(ref.folder).name == app.ref.digest == app.ref.bundle


def test_a_change_beside_it_is_another_version_of_both(services: Path, tmp_path: Path) -> None:
    first = load(services / "mine.py")
    (services / "unrelated.py").write_text("x = 2")
    assert load(services / "mine.py").ref == first.ref
    (services / "other.py").write_text("word = 'changed'")
    second = load(services / "mine.py")
    assert second.ref.digest != first.ref.digest
    one, other = (on_a_host(app, tmp_path / "host", services) for app in (first, second))
    # Also in the same process, to and fro, and for what is imported late.
    for ref, word in ((one, "helped"), (other, "changed"), (one, "helped")):
        assert command(ref)[0] == word


def test_the_source_says_that_what_is_beside_it_has_changed(services: Path) -> None:
    app = load(services / "mine.py")
    names = {str(services / "mine.py"): tuple(version.name for version in app.beside)}
    (before,) = catalog.filed([services / "mine.py"], names)
    assert before.beside == app.beside and catalog.filed([services / "mine.py"], names) == [before]
    (services / "rules.txt").write_text("other rules")
    assert catalog.filed([services / "mine.py"], names) != [before]
    (services / "rules.txt").unlink()
    assert catalog.filed([services / "mine.py"], names) != [before]


def test_two_files_with_helpers_of_the_same_name(services: Path, tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.mkdir()
    (other / "mine.py").write_text(
        "from helper import word\n"
        "class Mine(AbstractWrapper):\n    docker_url = word\n    def get_cmd(self, params): return word"
    )
    (other / "helper.py").write_text("word = 'theirs'")
    first, second = load(services / "mine.py"), load(other / "mine.py")
    assert (second.info.docker_url, second.info.error) == ("theirs", None)
    assert command(on_a_host(first, tmp_path / "host", services))[0] == "helped"
    assert command(on_a_host(second, tmp_path / "host", services)) == "theirs"


def test_what_is_missing_is_missing_at_once(services: Path) -> None:
    (services / "mine.py").write_text("import not_there\nimport helper")
    (services / "helper.py").write_text("")
    assert "No module named 'not_there'" in str(load(services / "mine.py").info.error)


def test_what_is_too_large_is_said(services: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MOST_BYTES", 2_000)
    (services / "data" / "bulk").write_bytes(b"x" * 3_000)
    app = load(services / "mine.py")
    assert app.info.error is None and "the folder data beside" in app.info.warnings[0]
    (services / "rules.txt").write_bytes(b"x" * 3_000)
    assert "larger than 0 MiB" in str(load(services / "mine.py").info.error)
    monkeypatch.setattr(bundles, "MOST_FILES", 3)
    assert "more than 3 files" in str(load(services / "mine.py").info.error)


@pytest.mark.parametrize(
    "text",
    [
        "def f(:",
        "x = 1\0",
        "(" * 500,
        "x = '../secret'",
        "x = '/etc/passwd'",
        "x = '.env'",
        "x = f'{self.job.wd}/rules.txt'",
        "x = job.wd + '/rules.txt'",
        f"x = 'data/{'é' * 200}'",
    ],
)
def test_what_cannot_be_read_or_leads_elsewhere_needs_nothing(services: Path, text: str) -> None:
    (services / "odd.py").write_text(text)
    assert beside(services / "odd.py").names == ("odd.py",)


def test_a_bundle_that_is_not_used_for_long_is_removed(tmp_path: Path) -> None:
    old, new = (bundles.write(tmp_path / "b", name * 64, {"f": b""}) for name in "ab")
    long_ago = time.time() - bundles.UNUSED_FOR - 1
    os.utime(old, (long_ago, long_ago))
    bundles.remove_unused(tmp_path / "b")
    assert not old.exists() and new.exists()
    assert bundles.read(tmp_path / "b", "a" * 64) is None
    bundles.remove_unused(tmp_path / "none")
