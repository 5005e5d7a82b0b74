"""What the check from outside concludes from the lines that containers have written."""

from __future__ import annotations

import pytest

from tests.support.ledger import Life, Outage, lives, must_have_ended, together

H1 = """\
begin 7 job c1 10.0
begin 8 other c2 10.5
beat 7 job c1 10.5
beat 7 job c1 11.0
end 7 job c1 11.5
beat 8 oth"""
H2 = "begin 7 job c1 11.2\nbeat 7 job c1 half\n"


def test_the_lives_of_containers_are_read_from_the_files_of_all_hosts() -> None:
    first, second = Life("job", "h1", "c1", 10.0, 11.5, ended=True), Life("job", "h2", "c1", 11.2, 11.2)
    assert lives({"h2": H2, "h1": H1}) == {"job": [first, second], "other": [Life("other", "h1", "c2", 10.5, 10.5)]}
    assert together([first, second]) == [(first, second)]


@pytest.mark.parametrize(("begun", "count"), [(11.0, 1), (11.6, 0), (9.0, 1)])
def test_two_that_live_at_the_same_time_are_noticed_in_either_order(begun: float, count: int) -> None:
    first, second = Life("job", "h1", "c1", 10.0, 11.5), Life("job", "h2", "c2", begun, begun + 1.2)
    assert len(together([first, second])) == len(together([second, first])) == count


def test_an_end_may_be_late_only_by_what_did_not_work() -> None:
    assert must_have_ended(100, 10, []) == 110
    assert must_have_ended(100, 10, [Outage(20, 99), Outage(111, 150)]) == 110
    assert must_have_ended(100, 10, [Outage(105, 130)]) == 140
    assert must_have_ended(100, 10, [Outage(135, 160), Outage(90, 130), Outage(171, 180)]) == 170
