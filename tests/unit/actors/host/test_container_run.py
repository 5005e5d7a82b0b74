"""An attempt in front of a scripted daemon: what its outcome says, whatever comes at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from orqal.actors.host import container_run, disk_use, engine_watch
from orqal.actors.host.container_run import ContainerRun, HostParts
from orqal.actors.host.engine_watch import EngineWatch
from orqal.actors.host.image_pulls import ImagePulls
from orqal.actors.messages import Order
from orqal.actors.metrics import Metrics
from orqal.engine.client import ContainerKey
from orqal.engine.errors import EngineError, Unreachable
from orqal.models import ContainerStart, ErrorType, Outcome
from orqal.scheduling.lifecycle import Wish
from orqal.settings import Settings
from orqal.wrappers.loading import WrapperRef
from tests.support.metrics import value
from tests.support.scripted_engine import CONTAINER, LIMIT, CallsHere, ScriptedEngine, an_order
from tests.support.wrappers import ref_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
T = TypeVar("T")

PLAIN = replace(ref_of("def get_cmd(self, params): return 'x'"), makes_result=False)
READS = ref_of("""
    def get_cmd(self, params): return 'x'
    def set_result(self, job): job.set_result(job.stdout)
""")
IGNORES = ref_of("""
    def get_cmd(self, params): return 'x'
    def set_result(self, job): job.set_result(job.exit_code)
""")
SMALL = replace(ref_of("disk_in_gb = 0.001\ndef get_cmd(self, params): return 'x'"), makes_result=False)
FAILS = ref_of("""
    def get_cmd(self, params): return 'x'
    def set_result(self, job): raise ValueError("nothing to read")
""")
STRICT = replace(ref_of("fail_on_oom = True\ndef get_cmd(self, params): return 'x'"), makes_result=False)


class Lab:
    """Attempts on one host with a scripted daemon."""

    def __init__(self, engine: ScriptedEngine, settings: Settings) -> None:
        self.engine = engine
        self.watch = EngineWatch("cluster", None, self._on_connect, lambda: None)
        self.started = asyncio.Event()
        self.disk_is_full = False
        self._samplers = ThreadPoolExecutor(1)
        self.parts = HostParts(
            settings=settings,
            engine=self.watch,
            wrappers=CallsHere(),
            pulls=ImagePulls(1, lambda: None),
            metrics=Metrics("host"),
            samplers=self._samplers,
            file_opener=self._samplers,
            on_start=self._on_start,
            on_change=lambda: None,
            end_earlier=self._nothing,
            measure_disks=self._measure_disks,
            have_bundle=self._itself,
            remove_late=lambda key, creating: None,
        )

    def _on_connect(self, seen: engine_watch.Seen) -> None:
        self.parts.found = {key: container for key, container, _ in seen.containers}

    def _on_start(self, key: ContainerKey, start: ContainerStart) -> None:
        self.started.set()

    async def _nothing(self, key: ContainerKey) -> None:
        return

    async def _itself(self, ref: WrapperRef) -> WrapperRef:
        return ref

    async def _measure_disks(self) -> None:
        if self.disk_is_full:
            self.watch.logs_are_lost()

    async def begin(self, ref: WrapperRef = PLAIN, timeout: float | None = None) -> ContainerRun:
        """Start an attempt, and return it when its container runs."""
        run = ContainerRun(an_order(ref, timeout=timeout), self.parts)
        await within(self.started.wait())
        return run

    def again(self, order: Order) -> ContainerRun:
        """The attempt in another process of the actor, which knows the container from the daemon."""
        self.parts.found[ContainerKey(order.job.id, 1)] = CONTAINER
        return ContainerRun(order, self.parts)

    def close(self) -> None:
        self.watch.close()
        self._samplers.shutdown(wait=False)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    engine = ScriptedEngine()
    monkeypatch.setattr(engine_watch, "Engine", lambda cluster, logins: engine)
    return engine


@pytest.fixture
async def lab(engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_LOG_CAP", "1000")
    lab = Lab(engine, Settings())
    yield lab
    lab.close()


async def within(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, LIMIT)


async def until(happened: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + LIMIT
    while not happened():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


def ended(outcome: Outcome) -> tuple[ErrorType | None, int | None]:
    return outcome.error.type if outcome.error else None, outcome.exit_code


async def collecting(lab: Lab, ref: WrapperRef, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> ContainerRun:
    """An attempt whose program has exited, and whose output does not come to its end."""
    monkeypatch.setattr(container_run, "_COLLECT_AFTER_CANCEL", 0.05)
    run = await lab.begin(ref)
    lab.engine.output.print("one\n")
    lab.engine.exit(code)
    await until(lambda: "logs" in lab.engine.calls and lab.engine.output.pieces.empty())
    return run


async def test_an_ordinary_job_asks_the_daemon_no_more_than_it_must(lab: Lab) -> None:
    run = await lab.begin(READS)
    lab.engine.output.print("one\n")
    lab.engine.output.end()
    lab.engine.exit(0)
    outcome = await within(run.task)
    assert (ended(outcome), outcome.output.result, outcome.output_cut) == ((None, 0), ["one", ""], None)
    assert lab.engine.calls == ["ended", "ended", "logs"]
    assert lab.engine.spec is not None and lab.engine.spec.log_cap == 1000


async def test_the_start_of_a_container_is_timed(lab: Lab) -> None:
    await lab.begin()
    assert value(lab.parts.metrics.collect(), "orqal_container_start_seconds_count") == 1


async def test_a_wrapper_may_say_how_much_output_is_kept(lab: Lab) -> None:
    ref = replace(ref_of("output_in_gb = 0.5\ndef get_cmd(self, params): return 'x'"), makes_result=False)
    run = await lab.begin(ref)
    lab.engine.output.end()
    lab.engine.exit(0)
    await within(run.task)
    assert lab.engine.spec is not None and lab.engine.spec.log_cap == 500_000_000


async def test_a_cancel_ends_the_collecting_of_an_output_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await collecting(lab, PLAIN, monkeypatch, code=3)
    run.stop(Wish.CANCEL)
    outcome = await within(run.task)
    assert ended(outcome) == (None, 3) and outcome.output.stdout == "one\n"
    assert "cancelled" in (outcome.output_cut or "") and "stop" not in lab.engine.calls
    assert lab.engine.output.closed.is_set()


async def test_what_was_cancelled_before_its_result_was_made_is_cancelled(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await collecting(lab, IGNORES, monkeypatch)
    run.stop(Wish.CANCEL)
    outcome = await within(run.task)
    assert ended(outcome) == (ErrorType.CANCELLED, 0) and outcome.output.result is None
    assert outcome.error is not None and "had exited with 0" in outcome.error.message


async def test_an_output_that_comes_soon_after_the_cancel_is_complete(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await collecting(lab, READS, monkeypatch)
    monkeypatch.setattr(container_run, "_COLLECT_AFTER_CANCEL", LIMIT)
    run.stop(Wish.CANCEL)
    lab.engine.output.end()
    outcome = await within(run.task)
    assert (ended(outcome), outcome.output.result, outcome.output_cut) == ((None, 0), ["one", ""], None)


async def test_a_drain_loses_no_output_of_a_program_that_has_exited(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await collecting(lab, READS, monkeypatch)
    run.stop(Wish.EVICT)
    await asyncio.wait({run.task}, timeout=0.3)
    assert not run.task.done()
    lab.engine.output.end()
    assert ended(await within(run.task)) == (None, 0)


async def test_a_cancel_while_files_are_copied_keeps_how_the_program_had_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_run, "_FETCH_AFTER_STOP", 0.05)
    lab.engine.fetched = "/wd"
    run = await lab.begin()
    lab.engine.output.print("one\n")
    lab.engine.output.end()
    lab.engine.exit(3)
    await until(lambda: "fetch" in lab.engine.calls)
    run.stop(Wish.CANCEL)
    outcome = await within(run.task)
    assert ended(outcome) == (ErrorType.CANCELLED, 3) and outcome.output.stdout == "one\n"
    assert outcome.error is not None and "had exited with 3" in outcome.error.message


async def test_a_cancel_of_a_program_that_runs_stops_it(lab: Lab) -> None:
    run = await lab.begin()
    lab.engine.output.end()
    run.stop(Wish.CANCEL)
    assert ended(await within(run.task)) == (ErrorType.CANCELLED, 143)


@pytest.mark.parametrize("timeout", [None, 0.2])
async def test_a_program_that_exited_before_it_could_be_stopped_is_recorded_with_its_exit(
    lab: Lab, timeout: float | None
) -> None:
    run = await lab.begin(timeout=timeout)
    lab.engine.output.end()
    await until(lambda: "ended" in lab.engine.calls)
    lab.engine.exit_unseen(3, ran=0.1)
    if timeout is None:
        run.stop(Wish.CANCEL)
    await until(lambda: lab.engine.calls.count("ended") == 2)
    lab.engine.tell_the_end()
    assert ended(await within(run.task)) == (None, 3)
    assert "stop" not in lab.engine.calls


async def test_a_cancel_while_the_daemon_is_away_does_not_change_how_the_program_had_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_watch, "_RECONNECT", 0.01)
    run = await lab.begin()
    lab.engine.exit(143)  # of its own accord
    await until(lambda: "logs" in lab.engine.calls)
    run.stop(Wish.CANCEL)
    broken, lab.engine.output = lab.engine.output, type(lab.engine.output)()
    lab.engine.output.end()
    broken.pieces.put(Unreachable("the daemon was restarted"))
    outcome = await within(run.task)
    assert (ended(outcome), outcome.passing) == ((None, 143), False)


@pytest.mark.parametrize(("code", "killed", "type"), [(0, False, None), (0, True, ErrorType.CANCELLED)])
async def test_another_process_of_the_actor_knows_whether_it_was_stopped(
    lab: Lab, code: int, killed: bool, type: ErrorType | None
) -> None:
    first = await lab.begin()
    first.task.cancel()
    lab.engine.output.end()
    lab.engine.exit_unseen(code)
    lab.watch.death(CONTAINER).killed = killed
    lab.engine.tell_the_end()
    order = an_order(PLAIN)
    again = lab.again(replace(order, wish=Wish.CANCEL))
    assert ended(await within(again.task)) == (type, code)


@pytest.mark.parametrize("why", ["a cancel", "its time limit"])
async def test_a_program_that_its_daemon_has_stopped_did_not_end_by_itself_though_that_is_told_late(
    lab: Lab, why: str
) -> None:
    """A daemon that restarts without `live-restore` stops all containers before it tells anything."""
    run = await lab.begin(READS, timeout=0.2 if why == "its time limit" else None)
    lab.engine.output.end()
    await until(lambda: "ended" in lab.engine.calls)
    lab.engine.exit_unseen(137, ran=0.1)
    if why == "a cancel":
        run.stop(Wish.CANCEL)
    await until(lambda: lab.engine.calls.count("ended") == 2)
    # It waits. If it did not, it would ask for the output next.
    await asyncio.wait({run.task}, timeout=0.2)
    assert lab.engine.calls == ["ended", "ended"]
    lab.engine.tell_the_end(killed=True)
    outcome = await within(run.task)
    assert (ended(outcome), outcome.passing) == ((ErrorType.DOCKER_ERROR, 137), True)


@pytest.mark.parametrize(
    ("ref", "type", "result"), [(READS, ErrorType.WRAPPER_ERROR, None), (IGNORES, None, 0), (PLAIN, None, None)]
)
async def test_an_output_beyond_the_cap_says_so_and_makes_no_false_result(
    lab: Lab, ref: WrapperRef, type: ErrorType | None, result: int | None
) -> None:
    run = await lab.begin(ref)
    lab.engine.output.print(*["y\n"] * 30)
    lab.engine.output.end()
    lab.engine.exit(0)
    outcome = await within(run.task)
    assert (ended(outcome), outcome.output.result) == ((type, 0), result)
    assert "ORQAL_LOG_CAP" in (outcome.output_cut or "") and outcome.output.stdout == "y\n" * 30
    assert outcome.error is None or "ORQAL_LOG_CAP" in outcome.error.message


@pytest.mark.parametrize(
    ("code", "first"),
    [(0, ""), (3, "its program exited with 3, and then "), (139, "its program exited with 139 (SIGSEGV)")],
)
async def test_a_wrapper_that_cannot_read_a_failed_program_s_output_says_first_that_the_program_failed(
    lab: Lab, code: int, first: str
) -> None:
    run = await lab.begin(FAILS)
    lab.engine.output.end()
    lab.engine.exit(code)
    outcome = await within(run.task)
    assert ended(outcome) == (ErrorType.WRAPPER_ERROR, code)
    assert outcome.error is not None and outcome.error.message.startswith(first or "W.set_result failed")
    assert "W.set_result failed: ValueError: nothing to read" in outcome.error.message


@pytest.mark.parametrize("noticed_by", ["the state", "an event"])
@pytest.mark.parametrize(
    ("ref", "code", "type"),
    [
        (PLAIN, 0, None),
        (PLAIN, 3, ErrorType.OUT_OF_MEMORY),
        (STRICT, 0, ErrorType.OUT_OF_MEMORY),
        (STRICT, 3, ErrorType.OUT_OF_MEMORY),
    ],
)
async def test_a_process_that_is_killed_for_memory_is_noticed_and_an_error_only_if_it_counts(
    lab: Lab, ref: WrapperRef, code: int, type: ErrorType | None, noticed_by: str
) -> None:
    run = await lab.begin(ref)
    lab.engine.output.end()
    if noticed_by == "an event":
        lab.engine.kill_a_process_for_memory()
    lab.engine.exit(code, out_of_memory=noticed_by == "the state")
    outcome = await within(run.task)
    assert (ended(outcome), outcome.oom_killed) == ((type, code), True)


async def test_without_a_killed_process_nothing_is_said_of_memory(lab: Lab) -> None:
    run = await lab.begin(STRICT)
    lab.engine.output.end()
    lab.engine.exit(0)
    outcome = await within(run.task)
    assert (ended(outcome), outcome.oom_killed) == ((None, 0), False)


async def test_a_job_that_bore_a_killed_process_is_cancelled_as_any_other(lab: Lab) -> None:
    run = await lab.begin()
    lab.engine.output.end()
    lab.engine.kill_a_process_for_memory()
    await until(lambda: lab.watch.death(CONTAINER).out_of_memory)
    run.stop(Wish.CANCEL)
    outcome = await within(run.task)
    assert (ended(outcome), outcome.oom_killed) == ((ErrorType.CANCELLED, 143), True)


@pytest.mark.parametrize("mount", ["{}", "{}/jobs", "{}/jobs/0123456789abcdef01234567/below", "{}/.."])
@pytest.mark.parametrize("mode", ["'mode': 'rw', ", "", "'mode': 'rw,Z', "])
async def test_no_wrapper_lets_a_job_write_to_the_folder_of_all_jobs(
    lab: Lab, engine: ScriptedEngine, tmp_path: Path, mount: str, mode: str
) -> None:
    path = mount.format(tmp_path)
    ref = ref_of(f"volumes = {{{path!r}: {{{mode}'bind': '/x'}}}}\ndef get_cmd(self, params): return 'x'")
    outcome = await within(ContainerRun(an_order(ref), lab.parts).task)
    assert outcome.error is not None and outcome.error.type is ErrorType.WRAPPER_ERROR
    assert "may not be mounted" in outcome.error.message and not outcome.passing
    assert engine.spec is None


async def test_a_wrapper_may_mount_that_read_only_and_other_folders_as_it_likes(
    lab: Lab, engine: ScriptedEngine, tmp_path: Path
) -> None:
    volumes = {
        str(tmp_path): {"bind": "/x", "mode": "ro"},
        str(tmp_path.parent / "other"): {"bind": "/y", "mode": "rw"},
        "named": {"bind": "/z", "mode": "rw"},
    }
    run = await lab.begin(ref_of(f"volumes = {volumes!r}\ndef get_cmd(self, params): return 'x'"))
    assert engine.spec is not None and engine.spec.volumes == volumes
    run.stop(Wish.CANCEL)
    await within(run.task)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What containers have written is measured very often."""
    monkeypatch.setattr(disk_use, "_PAUSE", 0.01)
    monkeypatch.setattr(disk_use, "_SHARE", 0)


@pytest.mark.parametrize("where", ["its own files", "the job's directory"])
async def test_a_container_that_writes_more_than_it_may_is_stopped(
    lab: Lab, tmp_path: Path, soon: None, where: str
) -> None:
    run = await lab.begin(SMALL)
    lab.engine.output.end()
    lab.engine.writes = 900_000
    await until(lambda: lab.engine.calls.count("written") > 3)
    assert not run.task.done()
    if where == "its own files":
        lab.engine.writes = 1_000_001
    else:
        folder = tmp_path / "jobs" / run._order.job.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_bytes(bytes(200_000))
    outcome = await within(run.task)
    assert (ended(outcome), outcome.passing) == ((ErrorType.OUT_OF_DISK, 143), False)
    assert outcome.error is not None and "0.001 GB" in outcome.error.message and "disk_in_gb" in outcome.error.message


async def test_what_cannot_be_measured_now_is_measured_again(lab: Lab, soon: None) -> None:
    run = await lab.begin(SMALL)
    lab.engine.output.end()
    lab.engine.unmeasured = EngineError(ErrorType.DOCKER_ERROR, "not now")
    await until(lambda: lab.engine.calls.count("written") > 3)
    assert not run.task.done()
    lab.engine.unmeasured, lab.engine.writes = None, 2_000_000
    assert ended(await within(run.task)) == (ErrorType.OUT_OF_DISK, 143)


async def test_without_a_cap_nothing_is_measured(lab: Lab, soon: None) -> None:
    run = await lab.begin()
    lab.engine.output.end()
    lab.engine.exit(0)
    await within(run.task)
    assert "written" not in lab.engine.calls


@pytest.mark.parametrize(("writes", "type"), [(2_000_000, ErrorType.OUT_OF_DISK), (2_000, ErrorType.DOCKER_ERROR)])
async def test_what_was_stopped_for_what_it_had_written_is_known_to_another_process_of_the_actor(
    lab: Lab, writes: int, type: ErrorType
) -> None:
    first = await lab.begin(SMALL)
    first.task.cancel()
    lab.engine.output.end()
    lab.engine.exit(143, killed=True)
    lab.engine.writes = writes
    await until(lambda: lab.watch.death(CONTAINER).killed)
    again = lab.again(first._order)
    assert ended(await within(again.task)) == (type, 143)


@pytest.mark.parametrize("code", [0, 3])
async def test_what_ends_on_a_full_disk_runs_again_whatever_its_exit_code(lab: Lab, code: int) -> None:
    run = await lab.begin(READS)
    lab.disk_is_full = True
    lab.engine.output.end()
    lab.engine.exit(code)
    outcome = await within(run.task)
    assert (ended(outcome), outcome.passing) == ((ErrorType.DOCKER_ERROR, code), True)
    assert outcome.output.result is None


async def test_what_is_stopped_on_a_full_disk_stays_stopped(lab: Lab) -> None:
    run = await lab.begin(timeout=0.05)
    lab.disk_is_full = True
    lab.engine.output.end()
    outcome = await within(run.task)
    assert (ended(outcome)[0], outcome.passing) == (ErrorType.TIMEOUT, False)


async def test_an_end_that_the_daemon_has_missed_is_noticed(
    engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_watch, "_LOOK_EVERY", 0.05)
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    lab = Lab(engine, Settings())
    try:
        run = await lab.begin()
        engine.output.end()
        engine.exit_unseen(3)
        assert ended(await within(run.task)) == (None, 3)
    finally:
        lab.close()
