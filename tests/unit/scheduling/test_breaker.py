"""A host that breaks jobs is told from apps that are bad."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orqal.models import Shape
from orqal.scheduling import LineKey
from orqal.scheduling.breaker import _APPS_KEPT, APPS, IN_A_ROW, INSTANT, Breaker, Images
from orqal.scheduling.probation import FIRST_PAUSE, Starts

HOSTS, NAMES = ("h1", "h2", "h3"), ("A", "B", "C", "D")
RUNS = st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(NAMES)), max_size=200)


@given(RUNS, st.sets(st.sampled_from(NAMES)))
def test_apps_that_are_bad_everywhere_never_make_a_host_suspect(runs: list[tuple[str, str]], bad: set[str]) -> None:
    breaker = Breaker()
    for now, (host, app) in enumerate(runs):
        if app in bad:
            assert not breaker.failed(host, app, f"job{now}", float(now))
        else:
            breaker.succeeded(host, app, float(now))


@given(RUNS)
def test_a_host_that_breaks_everything_is_found_and_no_other(runs: list[tuple[str, str]]) -> None:
    breaker, first, failures = Breaker(), None, list[tuple[int, str]]()
    good: dict[str, int] = {}
    for now, (host, app) in enumerate(runs):
        if host != "h1":
            breaker.succeeded(host, app, float(now))
            good[app] = now
            continue
        failures.append((now, app))
        failures = failures[-4 * IN_A_ROW :]
        first = failures[0][0]
        elsewhere = {name for _, name in failures if good.get(name, -1) >= first}
        expected = len(failures) >= IN_A_ROW and len(elsewhere) >= APPS
        assert breaker.failed("h1", app, f"job{now}", float(now)) == expected


def test_one_job_that_is_tried_again_and_again_counts_once_and_a_success_forgets() -> None:
    breaker = Breaker()
    for app in NAMES:
        breaker.succeeded("h2", app, 1_000.0)
    assert not any(breaker.failed("h1", "A", "the same", float(n)) for n in range(5 * IN_A_ROW))
    told = [breaker.failed("h1", NAMES[n % 4], f"job{n}", float(n)) for n in range(IN_A_ROW)]
    assert told[-2:] == [True, True]
    breaker.succeeded("h1", "A", 50.0)
    assert not breaker.failed("h1", "B", "next", 51.0)


def test_what_is_remembered_is_bounded() -> None:
    breaker = Breaker()
    for number in range(2 * _APPS_KEPT):
        for host in range(5):
            breaker.succeeded(f"h{host}", f"App{number}", 0.0)
    assert len(breaker._good) == _APPS_KEPT and all(len(hosts) == 2 for hosts in breaker._good.values())


def test_a_host_that_broke_jobs_is_well_once_one_has_run_for_longer() -> None:
    starts = Starts.breaking("exit code 1", 0.0)
    assert starts.on_probation and not starts.may_start(FIRST_PAUSE - 0.1) and starts.may_start(FIRST_PAUSE)
    assert "succeeded on other hosts" in str(starts) and "exit code 1" in str(starts)
    tried = starts.try_with("c", LineKey("u", Shape(1, 1)))
    assert tried.has_started("other", 10.0) == tried, "it was there before"
    running = tried.has_started("c", 10.0)
    assert not running.is_well(10.0 + INSTANT) and running.is_well(10.1 + INSTANT)
    again = running.after_failure("c", "exit code 2", 12.0)
    assert again.pause == 2 * FIRST_PAUSE and not again.may_start(12.0 + FIRST_PAUSE) and not again.is_well(1e9)
    assert Starts().has_started("c", 0.0) == Starts()


IMAGE_RUNS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(("v1", "v2")), st.booleans()), max_size=200)


@given(IMAGE_RUNS)
def test_an_image_is_to_blame_only_for_wrappers_that_have_succeeded_in_another_version(
    runs: list[tuple[str, str, bool]],
) -> None:
    images, last, in_a_row = Images(), dict[str, str](), {"v1": 0, "v2": 0}
    blamed = False
    for number, (app, version, ok) in enumerate(runs):
        if ok:
            images.succeeded(app, "w", "image", version)
            last[app], in_a_row[version], blamed = version, 0, False
        else:
            in_a_row[version] += last.get(app, version) != version
            now = not blamed and last.get(app, version) != version and in_a_row[version] >= IN_A_ROW
            assert images.failed(app, "w", "image", version, f"job{number}") == now
            blamed = blamed or now
        assert (images.to_blame("image") is not None) == blamed
    assert images.to_blame("other") is None


def test_a_wrapper_that_has_changed_too_is_not_told_from_its_image() -> None:
    images = Images()
    images.succeeded("A", "before", "image", "v1")
    assert not any(images.failed("A", "after", "image", "v2", f"job{n}") for n in range(3 * IN_A_ROW))
    assert not any(images.failed("A", "before", "image", "v2", "the same job") for _ in range(3 * IN_A_ROW))
    assert not any(images.failed("A", "before", "image", "v1", f"job{n}") for n in range(3 * IN_A_ROW))
    for n in range(2 * _APPS_KEPT):
        images.succeeded(f"App{n}", "w", "image", f"v{n}")
        images.failed(f"App{n}", "w", "image", "new", f"job{n}")
    assert len(images._good) == _APPS_KEPT and len(images._failures) <= _APPS_KEPT
