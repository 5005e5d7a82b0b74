"""Whether a batch goes on after its first jobs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orqal.models import ErrorType, JobError, JobRecord, Status, now
from orqal.scheduling.canary import CANARIES, LARGE, PATIENCE, Over, Trial, size_of_trial

ENDS = st.sampled_from(["ok", "127", "1", "timeout", "cancelled"])
APPS = st.sampled_from(["A", "B"])


def job(end: str, app: str = "A", number: int = 1) -> JobRecord:
    record = JobRecord(id=f"{number:024x}", app=app, ctime=now())
    if end in ("timeout", "cancelled"):
        return record.failed(ErrorType(end), "it did not end by itself")
    return record.model_copy(
        update={"current_status": Status.EXITED, "exit_code": 0 if end == "ok" else int(end), "etime": now()}
    )


def outcome(wanted: int, ends: list[tuple[str, str]]) -> Over | None:
    trial = Trial(wanted)
    for number, (end, app) in enumerate(ends):
        follows = trial.ended(job(end, app, number))
        if isinstance(follows, Over):
            return follows
        trial = follows
    return None


@given(st.integers(1, 5), st.lists(st.tuples(ENDS, APPS), max_size=12))
def test_a_batch_is_held_exactly_if_its_first_jobs_all_fail_alike(wanted: int, ends: list[tuple[str, str]]) -> None:
    telling = [each for each in ends if each[0] != "cancelled"]
    first = telling[:wanted]
    over = outcome(wanted, ends)
    alike = len(set(first)) == 1 and first[0][0] != "ok"
    if len(first) == wanted and alike:
        assert over is not None and over.why_held is not None
    elif any(end == "ok" for end, _ in first) or len(set(first)) > 1:
        assert over == Over()
    else:
        assert over is None, "too few have ended to tell"


def test_the_reason_names_how_they_failed_and_the_job() -> None:
    over = outcome(3, [("127", "A")] * 3)
    assert over is not None and over.why_held == (
        "its first 3 jobs all failed alike: exit code 127 of A, see 000000000000000000000002"
    )
    assert outcome(1, [("timeout", "B")]) == Over("its first job failed: timeout of B, see 000000000000000000000000")


def test_the_type_of_the_error_and_the_exit_code_make_the_cause() -> None:
    killed = job("137").model_copy(
        update={"current_status": Status.ERROR, "error": JobError(type=ErrorType.OUT_OF_MEMORY, message="m")}
    )
    [follows] = [each.ended(killed) for each in [Trial(2).ended(job("137"))] if isinstance(each, Trial)]
    assert follows == Over(), "an exit code is another cause than the same code with an error"
    one = Trial(1).ended(killed)
    assert isinstance(one, Over) and "out_of_memory, exit code 137 (SIGKILL) of A" in (one.why_held or "")


def test_large_batches_are_tried_unless_something_else_was_decided() -> None:
    assert [size_of_trial(None, jobs) for jobs in (1, LARGE, LARGE + 1)] == [0, 0, CANARIES]
    assert [size_of_trial(5, 1), size_of_trial(0, 10**6)] == [5, 0]


def test_a_trial_whose_jobs_take_long_is_over_unless_one_has_failed() -> None:
    trial = Trial(2)
    assert not trial.is_over(10**9), "no job has started"
    trial = trial.started(100.0).started(200.0)
    assert not trial.is_over(99.0 + PATIENCE) and trial.is_over(100.0 + PATIENCE)
    failed = trial.ended(job("1"))
    assert isinstance(failed, Trial) and not failed.is_over(10**9)
