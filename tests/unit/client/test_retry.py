"""When a request that failed is sent again, and for how long."""

from __future__ import annotations

import pytest

from orqal.client import NotFound, OrqalError, RequestFailed, ServerUnreachable, Unauthorized
from orqal.client import retry as retry_module
from orqal.client.retry import GIVE_UP_AFTER, LONGEST_PAUSE, Backoff, is_busy

AWAY = ServerUnreachable("The connection broke.")
BUSY = RequestFailed("Too many requests.", 429, retry_after=3)


class Clock:
    """A clock on which time passes only in sleep."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all backoffs."""
    made = Clock()
    monkeypatch.setattr(retry_module, "monotonic", made.monotonic)
    monkeypatch.setattr(retry_module, "sleep", made.sleep)
    return made


def test_pauses_double_up_to_the_longest(clock: Clock) -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff.pause(AWAY)
    assert clock.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.reset()
    backoff.pause(AWAY)
    assert clock.pauses[-1] == 0.1


def test_a_server_that_stays_away_is_given_up_with_advice(clock: Clock) -> None:
    backoff = Backoff(advice="The jobs go on.")
    with pytest.raises(ServerUnreachable, match=r"Gave up after 300 seconds.*The connection broke\. The jobs go on\.$"):
        for _ in range(1_000):
            backoff.pause(AWAY)
    assert GIVE_UP_AFTER <= clock.now - 1_000 <= GIVE_UP_AFTER + LONGEST_PAUSE


def test_the_user_is_told_once_that_the_server_is_away(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    backoff = Backoff()
    for _ in range(3):
        backoff.pause(AWAY)
    assert not caplog.messages, "a moment is not worth a word"
    for _ in range(10):
        backoff.pause(AWAY)
    assert caplog.messages == ["The connection broke. Trying again for up to 5 minutes."]
    backoff.reset()
    for _ in range(10):
        backoff.pause(AWAY)
    assert len(caplog.messages) == 2, "another absence"


def test_a_server_that_comes_back_now_and_then_is_not_given_up(clock: Clock) -> None:
    backoff = Backoff()
    for _ in range(100):
        backoff.pause(AWAY)
        clock.now += GIVE_UP_AFTER / 2
        backoff.reset()


@pytest.mark.parametrize(
    "error",
    [
        OrqalError("The answer is not JSON."),
        ServerUnreachable("There was never a server.", reached_before=False),
        RequestFailed("Too long.", 413),
        NotFound("No such job.", 404),
        Unauthorized("No token.", 401),
    ],
)
def test_what_another_try_would_not_change_is_raised_at_once(clock: Clock, error: OrqalError) -> None:
    with pytest.raises(type(error)) as caught:
        Backoff().pause(error)
    assert caught.value is error
    assert clock.pauses == []


def test_a_failure_of_the_server_is_worth_another_try(clock: Clock) -> None:
    Backoff().pause(RequestFailed("A replica died.", 500))
    assert clock.pauses == [0.1]


def test_a_busy_server_is_given_the_time_that_it_wants_and_a_little_more(clock: Clock) -> None:
    for _ in range(20):
        Backoff().pause(BUSY)
    assert all(3 <= pause <= 4.5 for pause in clock.pauses)
    assert len(set(clock.pauses)) > 1  # Clients must not all come back at the same moment.
    assert is_busy(BUSY)
    assert not is_busy(AWAY)


def test_a_server_that_stays_busy_is_given_up_with_its_own_message(clock: Clock) -> None:
    backoff = Backoff()
    with pytest.raises(RequestFailed) as caught:
        for _ in range(1_000):
            backoff.pause(BUSY)
    assert caught.value is BUSY


def test_no_pause_is_longer_than_what_is_left_of_the_timeout(clock: Clock) -> None:
    backoff = Backoff(timeout=2)
    assert backoff.remaining() == 2
    assert backoff.at_most(30) == 2
    assert backoff.at_most(1) == 1
    backoff.pause(BUSY)
    assert clock.pauses == [2]
    assert backoff.remaining() == 0
    assert backoff.at_most(30) > 0  # In some libraries a timeout of 0 means no timeout.


def test_without_a_timeout_there_is_no_limit(clock: Clock) -> None:
    assert Backoff().remaining() is None
    assert Backoff().at_most(30) == 30
